"""Sphinx configuration: pages in Markdown, the tutorial as a notebook, and the API from the docstrings.

`make docs` builds the site in build/docs with warnings as errors.
"""

import re
import shutil
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "nqs"
copyright = "the authors of nqs, Apache-2.0"
version = release = installed_version("nqs")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_nb"]
html_theme = "furo"
html_title = f"nqs {version}"
html_static_path = ["static"]
html_css_files = ["wide.css"]
highlight_language = "none"  # formulas are no code
nb_execution_mode = "off"  # tests/project/test_tutorial.py runs it; it is shown as committed
myst_heading_anchors = 3

default_role = "code"  # docstrings mark code with single backticks
autodoc_default_options = {"members": True, "ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of torch are not for these pages
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 90
napoleon_use_ivar = True
napoleon_numpy_docstring = False

# --------------------------------------------------------------------------------------------------- pages of the API

FOLDERS = {"nqs": "nqs", "hamiltonians": "nqs.hamiltonians", "models": "nqs.models", "samplers": "nqs.samplers"}
SECTIONS = {"nqs": "Core", "hamiltonians": "Hamiltonians", "models": "Wavefunctions", "samplers": "Samplers"}


def write_api_pages(folder: Path) -> None:
    """One page a module, in the four folders of the package; a new module needs no line anywhere."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    index = ["# API\n\nOne page a module.\n"]
    for source, package in FOLDERS.items():
        files = [path.relative_to(ROOT / source).with_suffix("") for path in (ROOT / source).rglob("*.py")]
        names = sorted(".".join((package, *file.parts)) for file in files if not file.stem.startswith("__"))
        index.append(f"```{{toctree}}\n:caption: {SECTIONS[source]}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```\n")
        for name in names:
            page = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
            (folder / f"{name}.md").write_text(page)
    (folder / "index.md").write_text("\n".join(index))


# ------------------------------------------------------------------------------------------------ docstrings as text

SECTION = re.compile(r"(Args|Attributes|Raises|Returns):$")
CODE = re.compile(r"(``.*?``|`[^`]*`)")
MARKUP = re.compile(r"[\\*|]|(?<=\w)_(?!\w)")  # what would be markup in reStructuredText
COLUMNS = re.compile(r"\S {2,}\S")


def plain_text(lines: list[str]) -> list[str]:
    """A docstring, which is plain text with code in backticks, as reStructuredText.

    Formulas such as |psi|^2 or b+_i b_j stay as they are; indented blocks and tables become literal blocks, outside of
    sections (Args, ...) and lists.
    """
    out: list[str] = []
    section = False
    for paragraph in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        rows = paragraph.split("\n")
        section = SECTION.match(rows[0]) is not None or (section and rows[0].startswith(" "))
        if section or rows[0].lstrip().startswith(("- ", ">>>")):
            start = len(rows)
        elif COLUMNS.search(rows[0]) and any(row.startswith(" ") for row in rows):
            start = 0
        else:
            start = next((i for i, row in enumerate(rows) if row.startswith(" ")), len(rows))
        if rows[0].lstrip().startswith(">>>"):
            out += [*rows, ""]
            continue
        out += [escaped(row) for row in rows[:start]]
        if start < len(rows):
            out += ["", "::", "", *("    " + row for row in rows[start:])]
        out.append("")
    return out


def escaped(line: str) -> str:
    parts = CODE.split(line)
    return "".join(MARKUP.sub(r"\\\g<0>", part) if i % 2 == 0 else part for i, part in enumerate(parts))


NAMES = re.compile(r"(    )(\w+(?:, \w+)+)(: .*)")


def one_name_each(lines: list[str]) -> list[str]:
    """Attributes that share a description ("    a, b: text") one by one; napoleon splits only those of Args."""
    out: list[str] = []
    section, i = False, 0
    while i < len(lines):
        line, i = lines[i], i + 1
        section = line == "Attributes:" or (section and (not line or line.startswith(" ")))
        if section and (match := NAMES.fullmatch(line)):
            begin = i
            while i < len(lines) and lines[i].startswith("     "):
                i += 1
            for name in match[2].split(", "):
                out += [match[1] + name + match[3], *lines[begin:i]]
        else:
            out.append(line)
    return out


def process_docstring(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    lines[:] = one_name_each(plain_text(lines))
    if what in ("property", "attribute", "data") and lines:
        lines[0] = ": " + lines[0]  # no type: napoleon would take what stands before a later colon for one


def setup(app: Sphinx) -> None:
    write_api_pages(HERE / "api")
    app.connect("autodoc-process-docstring", process_docstring, priority=100)  # before napoleon
