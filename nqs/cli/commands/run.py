"""nqs run NAME: the scripts in `nqs.scripts`."""

import ast
import gc
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import make_dataclass
from importlib.resources import files
from typing import Annotated, Any, Union

import tyro


def script_names() -> dict[str, str]:
    """Modules of all scripts by their names on the command line, found without importing them."""
    sources = [item for item in files("nqs.scripts").iterdir() if item.name.endswith(".py")]
    return {
        item.name.removesuffix(".py").replace("_", "-"): item.name.removesuffix(".py")
        for item in sorted(sources, key=lambda item: item.name)
        if "command_line(main, Config" in item.read_text()
    }


def choices(*, real: bool = False) -> Any:
    """The names after `nqs run` as a union for tyro; `real`: with their options, for completion."""
    alternatives: list[Any] = []
    for name, module in script_names().items():
        if real:
            kind = importlib.import_module(f"nqs.scripts.{module}").Config
        else:
            kind = make_dataclass(module, [])
        source = (files("nqs.scripts") / f"{module}.py").read_text()
        first = (ast.get_docstring(ast.parse(source)) or name).splitlines()[0]
        alternatives.append(Annotated[kind, tyro.conf.subcommand(name, description=first)])
    chosen: Any = Union[tuple(alternatives)]  # noqa: UP007
    return make_dataclass("Run", [("script", Annotated[chosen, tyro.conf.arg(name="")])])


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage collection during imports, which make no garbage: it takes a sixth of the CPU time of a start."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def run(arguments: Sequence[str]) -> bool:
    """Run the script named by the first argument; False if there is no such script."""
    module = script_names().get(arguments[0]) if arguments else None
    if module is None:
        return False
    with without_collections():
        from nqs.cli.options import command_line

        script = importlib.import_module(f"nqs.scripts.{module}")
    name = arguments[0]
    description = (script.__doc__ or "").replace(f"python scripts/{module}.py", f"nqs run {name}")
    command_line(script.main, script.Config, description, args=arguments[1:], prog=f"nqs run {name}")
    return True
