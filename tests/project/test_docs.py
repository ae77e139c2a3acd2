"""The documentation: examples in docstrings and pages do what they show, and the site builds without a warning."""

import ast
import doctest
import importlib
import importlib.util
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import tyro

from nqs.cli.commands.run import script_names

from readme import (
    PAGES,
    README,
    ROOT,
    assert_same_output,
    assert_same_words,
    blocks,
    commands,
    output_of,
    page_blocks,
)

FOLDERS = {"nqs": "nqs", "hamiltonians": "nqs.hamiltonians", "models": "nqs.models", "samplers": "nqs.samplers"}


def doctests() -> dict[str, tuple[str, str]]:
    """Module and docstring of everything whose docstring has examples, by its name; nothing is imported for that."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            module = ".".join((package, *parts)).removesuffix(".__init__")
            source = path.read_text()
            for node in ast.walk(ast.parse(source if ">>>" in source else "")):
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


PROGRAMS = {  # a page with its first program, or every one, and the output; relative digits of its energies
    "adding_hamiltonian.md": 5e-7,
    "adding_model.md": 5e-7,
    "adding_sampler.md": 2e-3,  # sampled steps: rounding changes which samples are drawn
    "choosing.md": 5e-7,
    "couplings.md": 5e-7,
    "excited.md": 5e-7,
    "operators.md": 5e-6,  # six digits
    "pretraining.md": 5e-7,
    "spaces.md": 5e-7,
}
EVERY = ("spaces.md",)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("page", PROGRAMS)
def test_program_of_a_page_prints_what_is_shown(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where archives go
    file = tmp_path / "program.py"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shown = list(zip(page_blocks(page, "python"), page_blocks(page, "text"), strict=page in EVERY))
    for program, output in shown if page in EVERY else shown[:1]:
        file.write_text(program)
        runpy.run_path(str(file), run_name="__main__")
        assert_same_output(capsys.readouterr().out, output, digits=PROGRAMS[page])


def test_commands_print_what_is_shown(tmp_path: Path) -> None:
    """In their order; runs that a time limit stops print other numbers on every machine, and stop earlier here."""
    shown = commands(PAGES / "cli.md")
    assert len(shown) >= 6
    for line, output in shown:
        compare = assert_same_words if "--minutes" in line else assert_same_output
        compare(output_of(line.replace("--minutes 0.2", "--minutes 0.03"), tmp_path), output)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "file", [README, *(PAGES / f"{name}.md" for name in ("accuracy", "cli", "pretraining", "speed"))]
)
def test_options_of_documented_commands_exist(file: Path) -> None:
    """Of every line of a shell, and of every table with commands, as far as they are runs of a script."""
    names = script_names()
    lines = [line for block in blocks(file, "sh") for line in block.splitlines()]
    for row in re.findall(r"^\| .*$", file.read_text(), re.MULTILINE):
        lines += re.findall(r"`([^`]+)`", row)
    found = 0
    for line in lines:
        words = shlex.split(line.removeprefix("nqs run ").removeprefix("python scripts/").replace(".py", "", 1))
        script = words[0].replace("_", "-") if words else ""
        if file.stem == "speed" and script.startswith("--"):
            script, words = "benchmark", ["benchmark", *words]
        if script in names and "…" not in line:
            module = importlib.import_module(f"nqs.scripts.{names[script]}")
            tyro.cli(module.Config, args=[word for word in words[1:] if word not in ("--config", "run.toml")])
            found += 1
    assert found >= 4


def test_an_added_hamiltonian_is_short() -> None:
    assert len(page_blocks("adding_hamiltonian.md", "python")[0].splitlines()) <= 50


def test_every_added_part_has_optional_members_that_exist() -> None:
    """Those of a Hamiltonian, by the names in the table of its page."""
    table = (PAGES / "adding_hamiltonian.md").read_text().split("## Optional members")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    read = [
        name
        for file in (ROOT / "nqs").rglob("*.py")
        for name in re.findall(r'getattr\(hamiltonian, "(\w+)"', file.read_text())
    ]
    assert named == {*read, "marshall_exact"}


@pytest.mark.parametrize(
    ("page", "contract"),
    [
        ("adding_hamiltonian.md", "hamiltonians/test_hamiltonians.py"),
        ("adding_model.md", "models/test_models.py"),
        ("adding_sampler.md", "samplers/test_samplers.py"),
    ],
)
def test_line_of_the_contract_is_the_one_shown(page: str, contract: str) -> None:
    line = page_blocks(page, "python")[1].split("  #")[0].strip()
    assert line in (ROOT / "tests" / contract).read_text()


def test_every_page_is_listed_and_links_lead_to_pages() -> None:
    """Without the generator."""
    listed = re.findall(r"^(\w+)$", (PAGES / "index.md").read_text(), re.MULTILINE)
    pages = {path.stem for path in PAGES.iterdir() if path.suffix in (".md", ".ipynb")} - {"index"}
    assert sorted(listed) == sorted(pages)
    for page in PAGES.glob("*.md"):
        text = page.read_text()
        for link in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text):
            assert link.startswith("api/") or (PAGES / link).is_file(), (page.name, link)
        for link in re.findall(r"\{doc\}`(?:[^`<]*<)?([\w./]+)>?`", text):
            if link.startswith("api/nqs"):  # a page for every module, none for a package
                module = importlib.util.find_spec(link.removeprefix("api/"))
                assert module is not None, (page.name, link)
                assert module.submodule_search_locations is None, (page.name, link)
            else:
                assert (PAGES / f"{link}.md").is_file(), (page.name, link)


def test_pages_include_sections_that_exist() -> None:
    """Without the generator: every marker of an included section is in the file once as a heading."""
    for page in PAGES.glob("*.md"):
        for file, options in re.findall(
            r"^```\{include\} (\S+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            text = (page.parent / file).read_text()
            for marker in re.findall(r'^:(?:start-after|end-before): "(.*)"$', options, re.MULTILINE):
                assert len(re.findall(rf"^{re.escape(marker)}$", text, re.MULTILINE)) == 1, (page.name, marker)


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
    assert "H = - sum_<ij> J_ij (e^{i theta_ij} b+_j b_i + h.c.)" in page  # as it is in the file
    assert "class DipolarBosons" in (tmp_path / "adding_hamiltonian.txt").read_text()
