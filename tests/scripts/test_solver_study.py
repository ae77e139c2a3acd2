"""scripts/solver_study.py at toy size."""

import pytest

from nqs.scripts.solver_study import Config, main


def test_orthogonal_residuals_take_fewest_iterations(capsys: pytest.CaptureFixture[str]) -> None:
    main(Config(problems=("heisenberg-6x6",), distinct=60, steps=1, shifts=(1e-3,)))
    line = capsys.readouterr().out.splitlines()[-1].split()
    name, rows, _, shift, orthogonal, *others = line
    assert (name, rows, shift) == ("heisenberg-6x6", "60", "1e-03")
    assert 1 < int(orthogonal) <= min(61, *(int(x.replace(",", "")) for x in others[:3]))
    assert float(others[3]) < 1e-6
