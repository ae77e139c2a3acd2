"""What README.md shows is what happens."""

import runpy
from pathlib import Path

import pytest

from readme import blocks


@pytest.mark.usefixtures("unchecked")
def test_the_added_hamiltonian_runs_as_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks("Adding a Hamiltonian", "python")[0]
    assert len(code.splitlines()) <= 50
    file = tmp_path / "dipolar_bosons.py"
    file.write_text(code)
    runpy.run_path(str(file), run_name="__main__")
    found = capsys.readouterr().out.splitlines()
    shown = blocks("Adding a Hamiltonian", "text")[0].splitlines()
    assert [line.split()[0] for line in found] == [line.split()[0] for line in shown]
    for line, expected in zip(found, shown, strict=True):
        if line.startswith("exact"):
            assert line.split(":")[0] == expected.split(":")[0]
            errors = [float(text.split("relative error ")[1].split()[0]) for text in (line, expected)]
            assert max(errors) < 1e-5


def test_the_line_of_the_contract_is_the_one_shown() -> None:
    line = blocks("Adding a Hamiltonian", "python")[1].split("  #")[0]
    contract = Path(__file__).with_name("test_hamiltonians.py").read_text().split("CONTRACT = {")[1].split("\n}")[0]
    assert line in contract
