"""scripts/recipe_study.py at toy size."""

from dataclasses import replace

import pytest

from nqs.recipes import plan, warm_up_optimiser
from nqs.recipes.stages import FIT_FIDELITY
from nqs.scripts.recipe_study import PROBLEMS, Config, main, measured, replaced


def test_lines_of_a_number_differ_in_its_values(capsys: pytest.CaptureFixture[str]) -> None:
    main(Config(number="model.WIDTH", values=("8", "2**4"), problems=("heisenberg-8",), steps=4))
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:5] for row in rows] == [["model.WIDTH", width, "heisenberg-8", "0", "4"] for width in ("8", "2**4")]
    errors = [float(row[5].split()[0]) for row in rows]
    assert 0 < errors[0] < 1
    assert 0 < errors[1] < 1
    assert errors[0] != errors[1]
    assert all(float(row[6]) > 0 for row in rows)


def test_runs_of_equal_time() -> None:
    timed = Config(problems=("heisenberg-8",), sampled=True, minutes=0.03)
    out, _, _ = measured(timed, "heisenberg-8", "", 0)
    _, steps = out.removesuffix(" steps").split(", ")
    assert int(steps) > 0  # few on a busy machine
    both = measured(replace(timed, steps=3, minutes=1.0), "heisenberg-8", "", 0)[0]
    assert both.endswith(", 3 steps")


def test_a_number_is_replaced_in_plans_for_a_while() -> None:
    hamiltonian = PROBLEMS["heisenberg-8"]()
    default = plan(hamiltonian, sampled=True, device="cpu").stages[-1].sampler
    with replaced("samplers.DISTINCT", "37"):
        assert plan(hamiltonian, sampled=True, device="cpu").stages[-1].sampler.max_distinct == 37
    assert plan(hamiltonian, sampled=True, device="cpu").stages[-1].sampler == default


def test_an_option_of_an_optimiser_is_replaced() -> None:
    with replaced("optimiser.WARM_UP.final_learning_rate", "0.25"):
        assert warm_up_optimiser().final_learning_rate == 0.25
    assert warm_up_optimiser().final_learning_rate != 0.25


def test_fits_are_measured() -> None:
    out, _, _ = measured(Config(measure="fit", problems=("heisenberg-8",)), "heisenberg-8", "", 0)
    assert float(out.split(",")[0].removeprefix("fidelity ")) > FIT_FIDELITY


def test_draws_and_sums_are_measured() -> None:
    drawn = Config(measure="draw", problems=("heisenberg-8",), steps=2, distinct=20)
    assert ", 20 distinct in" in measured(drawn, "heisenberg-8", "", 0)[0]
    summed = Config(measure="sum", problems=("heisenberg-8",))
    assert measured(summed, "heisenberg-8", "", 0)[0] == "7 of 70 configurations"
