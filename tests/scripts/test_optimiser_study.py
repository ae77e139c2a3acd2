"""scripts/optimiser_study.py at toy size."""

import pytest

from nqs.scripts.optimiser_study import Config, main


@pytest.mark.usefixtures("unchecked")  # for speed
def test_every_variant_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(Config(problems=("hubbard-2x2",), decays=(0.0, 0.9), seeds=(3,), seconds=0.1)) == 0
    rows = [row.split("|")[1:-1] for row in capsys.readouterr().out.splitlines()[2:]]
    assert [[cell.strip() for cell in row[:4]] for row in rows] == [
        ["hubbard-2x2", "0", "1", "3"],
        ["hubbard-2x2", "0.9", "1", "3"],
    ]
    assert all(float(row[7]) > -1e-9 for row in rows)


def test_unknown_problems_are_named() -> None:
    with pytest.raises(SystemExit, match="no problem 'hubbard': choose among bose-hubbard-4x4"):
        main(Config(problems=("hubbard",)))
