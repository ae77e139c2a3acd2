"""What README.md shows is what happens, and it stays short."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from readme import README, ROOT, assert_same_output, assert_same_words, blocks, output_of

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


# ---------------------------------------------------------------------------------------- comparison of two outputs

SAME = [
    ("E = -7.45979063 J", "E = -7.45979064 J"),
    ("E = -7.4597(12) J", "E = -7.4629(15) J"),
    ("variance 1.59e-10, optimised in 94 s", "variance 3.2e-11,  optimised in 7 s"),
    ("relative error -3.4e-16 (+8.9e-16 = +0.1 error bars)", "relative error 0.0e+00 (+0.00e+00 = -0.0 error bars)"),
    ("on cpu, 2 threads", "on cpu, 1 thread"),
    ("results/bh-8-N8-e518885f.h5", "results/bh-8-N8-873d0c88.h5"),
]
DIFFERENT = [
    ("E = -7.45979063 J", "E = -7.45978063 J"),
    ("E = -7.4597(12) J", "E = -7.4697(12) J"),
    ("variance 1.59e-02", "variance 1.7e-01"),
    ("dimension 6,435", "dimension 6,436"),
    ("441 samples", "440 samples"),
    ("on cpu, 2 threads", "on cuda, 2 threads"),
    ("one line", "one line\nanother"),
]


@pytest.mark.parametrize(("found", "shown"), SAME)
def test_outputs_are_the_same_but_for_times_and_last_digits(found: str, shown: str) -> None:
    assert_same_output(found, shown)
    assert_same_output(shown, found)


@pytest.mark.parametrize(("found", "shown"), DIFFERENT)
def test_stale_outputs_are_found(found: str, shown: str) -> None:
    with pytest.raises(AssertionError):
        assert_same_output(found, shown)
    if shown.count("\n") == found.count("\n") and "cuda" not in shown:
        assert_same_words(found, shown)
