"""scripts/frustrated_study.py at toy size."""

import pytest

from nqs.scripts.frustrated_study import Config, main


@pytest.mark.usefixtures("unchecked")  # for speed
def test_every_power_has_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(shape=(4, 4), powers=(0.5, 1.0), seeds=(3,), samples=32, width=2, layers=1, steps=4, device="cpu")
    assert main(config) == 0
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["0.5", "3"], ["1", "3"]]
    assert all(0 < float(row[6]) < 1 for row in rows)
    assert int(rows[0][7]) < int(rows[1][7]) <= 32
