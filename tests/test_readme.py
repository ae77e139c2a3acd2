"""What README.md shows is what happens, and it stays short."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from readme import README, ROOT, assert_same_output, blocks, output_of

KILOBYTES = 8


def test_it_is_short() -> None:
    assert len(README.read_bytes()) <= KILOBYTES * 1000


def test_its_links_lead_to_files() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README.read_text())
    assert len(links) >= 10
    for link in links:
        assert (ROOT / link).is_file(), link


def test_make_run_prints_what_is_shown(tmp_path: Path) -> None:
    found = output_of("nqs run bose-hubbard --threads 1", tmp_path)
    assert_same_output(found, blocks(README, "text")[0])
    assert "\t$(BIN)/nqs run bose-hubbard " in (ROOT / "Makefile").read_text()


@pytest.mark.usefixtures("unchecked")
def test_the_example_in_python_prints_what_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = blocks(README, "python")
    assert len(program.splitlines()) <= 10
    file = tmp_path / "example.py"
    file.write_text(program)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runpy.run_path(str(file), run_name="__main__")
    assert_same_output(capsys.readouterr().out, blocks(README, "text")[1])
