"""Classes of a user's own, which an archive names and does not hold."""

import importlib
import importlib.util
import sys
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType


def classes_in(module: str) -> dict[str, type]:
    """The dataclasses in a file (NAME.py) or an importable module, by name. Its code runs: the user names it.

    Raises:
        ValueError: it cannot be loaded, or holds no dataclass.
    """
    file = Path(module) if module.endswith(".py") else None
    folder = Path() if file is None else file.parent
    sys.path.insert(0, str(folder.resolve()))  # as for a program there
    try:
        loaded = importlib.import_module(module) if file is None else _loaded(file)
    except SystemExit:
        raise ValueError(
            f'--module {module} ends the program when it is loaded: put what it runs under if __name__ == "__main__".'
        ) from None
    except Exception as error:  # of any kind: it is the user's code
        raise ValueError(f"--module {module} cannot be loaded: {type(error).__name__}: {error}") from error
    found = {name: item for name, item in vars(loaded).items() if isinstance(item, type) and is_dataclass(item)}
    if not found:
        raise ValueError(f"--module {module} holds no dataclass: name the file that defines the classes of the run.")
    return found


def _loaded(file: Path) -> ModuleType:
    name = f"nqs_own_{file.stem}"  # hides no other module
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module
