"""The code of README.md and of the pages in docs/, for the tests that run it."""

import re
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of one language in a section of the README."""
    return code(re.split(r"^## ", TEXT.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0], language)


def page_blocks(page: str, language: str) -> list[str]:
    """The code blocks of one language in a page of docs/."""
    return code((ROOT / "docs" / page).read_text(), language)


def code(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def example() -> ModuleType:
    """The Hamiltonian that README adds, as a module."""
    return module("readme_example", blocks("Adding a Hamiltonian", "python")[0])


def recurrent() -> ModuleType:
    """The model that docs/adding_model.md adds, as a module."""
    return module("docs_recurrent", page_blocks("adding_model.md", "python")[0])


def one_by_one() -> ModuleType:
    """The sampler that docs/adding_sampler.md adds, as a module."""
    return module("docs_one_by_one", page_blocks("adding_sampler.md", "python")[0])


def module(name: str, source: str) -> ModuleType:
    if name not in sys.modules:
        made = ModuleType(name)
        sys.modules[name] = made  # where dataclasses look
        exec(compile(source, name, "exec"), made.__dict__)
    return sys.modules[name]
