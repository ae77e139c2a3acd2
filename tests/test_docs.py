"""The documentation: examples in docstrings and pages do what they show, and the site builds without a warning."""

import ast
import doctest
import importlib
import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from readme import page_blocks

ROOT = Path(__file__).parents[1]
FOLDERS = {"nqs": "nqs", "hamiltonians": "nqs.hamiltonians", "models": "nqs.models", "samplers": "nqs.samplers"}


def doctests() -> dict[str, tuple[str, str]]:
    """Module and docstring of everything whose docstring has examples, by its name; nothing is imported for that."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            module = ".".join((package, *parts)).removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                    text = ast.get_docstring(node) or ""
                    if ">>>" in text:
                        found[f"{module}.{getattr(node, 'name', 'module')}"] = (module, text)
    return found


DOCTESTS = doctests()


def test_docstrings_have_examples() -> None:
    assert len(DOCTESTS) >= 8


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", DOCTESTS)
def test_example_of_a_docstring(name: str) -> None:
    module, text = DOCTESTS[name]
    names = dict(vars(importlib.import_module(module)))
    test = doctest.DocTestParser().get_doctest(text, names, name, None, 0)
    printed: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=printed.append)
    assert result.attempted > 0
    assert result.failed == 0, "".join(printed)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("page", ["adding_model.md", "adding_sampler.md"])
def test_program_of_a_page_runs_as_shown(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "program.py"
    file.write_text(page_blocks(page, "python")[0])
    runpy.run_path(str(file), run_name="__main__")
    found, shown = capsys.readouterr().out.splitlines(), page_blocks(page, "text")[0].splitlines()
    assert [line.split()[0] for line in found] == [line.split()[0] for line in shown]
    assert found[-1].split(":")[0] == shown[-1].split(":")[0]  # the exact energy
    errors = [float(lines[-1].split("relative error ")[1].split()[0]) for lines in (found, shown)]
    assert max(errors) < 2e-3


@pytest.mark.parametrize(
    ("page", "contract"),
    [("adding_model.md", "test_models.py"), ("adding_sampler.md", "test_samplers.py")],
)
def test_line_of_the_contract_is_the_one_shown(page: str, contract: str) -> None:
    assert page_blocks(page, "python")[1].strip() in (ROOT / "tests" / contract).read_text()


def test_pages_include_sections_that_exist() -> None:
    """Without the generator: every marker of an included section is in the file once as a heading."""
    included = 0
    for page in (ROOT / "docs").glob("*.md"):
        for file, options in re.findall(
            r"^```\{include\} (\S+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            text = (page.parent / file).read_text()
            for marker in re.findall(r'^:(?:start-after|end-before): "(.*)"$', options, re.MULTILINE):
                assert len(re.findall(rf"^{re.escape(marker)}$", text, re.MULTILINE)) == 1, (page.name, marker)
            included += 1
    assert included >= 6


@pytest.mark.skipif(
    importlib.util.find_spec("furo") is None or importlib.util.find_spec("myst_nb") is None,
    reason="needs the extra docs: `make docs` installs it and builds the site",
)
def test_site_builds_without_a_warning(tmp_path: Path) -> None:
    """As text, which takes half the time of the pages that `make docs` builds, and finds the same mistakes."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "text", str(ROOT / "docs")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    page = (tmp_path / "api" / "nqs.hamiltonians.bose_hubbard.txt").read_text()
    assert "class nqs.hamiltonians.bose_hubbard.BoseHubbard" in page
    assert "H = - J sum_<ij> (e^{i theta_ij} b+_j b_i + h.c.)" in page  # as it is in the file
    assert "class DipolarBosons" in (tmp_path / "adding_hamiltonian.txt").read_text()
