"""The code of README.md, for the tests that run it."""

import re
import sys
from pathlib import Path
from types import ModuleType

TEXT = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of one language in a section."""
    body = re.split(r"^## ", TEXT.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    return re.findall(rf"^```{language}\n(.*?)^```", body, flags=re.MULTILINE | re.DOTALL)


def example() -> ModuleType:
    """The Hamiltonian that README adds, as a module."""
    name = "readme_example"
    if name not in sys.modules:
        module = ModuleType(name)
        sys.modules[name] = module  # where dataclasses look
        exec(compile(blocks("Adding a Hamiltonian", "python")[0], "README.md", "exec"), module.__dict__)
    return sys.modules[name]
