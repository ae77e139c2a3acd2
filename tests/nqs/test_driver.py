"""`nqs.ground_state`: the same method in Python, in a script and on the command line."""

import runpy
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from places import ROOT

import nqs
from nqs import Archive, driver, exact, recipes
from nqs.cli import main
from nqs.estimators.estimate import with_error
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.lattice import chain, square
from nqs.protocols import Hamiltonian

pytestmark = pytest.mark.usefixtures("unchecked")
RING = Heisenberg(chain(6), 0.0)


def lines_of(text: str) -> list[str]:
    """What a run prints, without times."""
    return [line.split(", optimised in")[0] for line in text.splitlines() if not line.startswith(("archive", "figure"))]


@pytest.mark.parametrize(
    ("script", "options", "hamiltonian", "choices"),
    [
        ("bose_hubbard", "--shape 6 --n-particles 6", BoseHubbard(chain(6), 6, U=4.0), {}),
        (
            "heisenberg",
            "--shape 8 --J 1 0.5 --distinct 40",
            Heisenberg(chain(8), 0.0, J=(1.0, 0.5)),
            {"distinct": 40},
        ),
        ("fermi_hubbard", "--shape 2 3 --n-up 2 --n-down 2", FermiHubbard(square(2, 3), 2, 2, U=4.0), {}),
    ],
    ids=["boson", "spin", "electron"],
)
def test_python_script_and_command_end_at_the_same_energy(
    script: str,
    options: str,
    hamiltonian: Hamiltonian,
    choices: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [*options.split(), "--steps", "6", "--seed", "3", "--model.width", "12", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    path = ROOT / "scripts" / f"{script}.py"
    monkeypatch.setattr(sys, "argv", [str(path), *given, "--archive", "script.h5"])
    runpy.run_path(str(path), run_name="__main__")
    outputs = [lines_of(capsys.readouterr().out)]
    main(["run", script.replace("_", "-"), *given, "--archive", "command.h5"])
    outputs.append(lines_of(capsys.readouterr().out))
    network = recipes.NetworkOptions(width=12)
    path = tmp_path / "python.h5"
    result = nqs.ground_state(hamiltonian, model=network, steps=6, seed=3, device="cpu", archive=path, **choices)
    print(result)
    assert lines_of(capsys.readouterr().out) == outputs[0] == outputs[1]
    estimate = result.estimate
    assert f"E = {with_error(estimate.energy, estimate.error)} {recipes.plan(hamiltonian).unit}" in outputs[0]
    archives = [Archive.open(tmp_path / f"{name}.h5") for name in ("python", "script", "command")]
    assert archives[0].config == archives[1].config == archives[2].config
    assert [f"{archive.result.energy:.10g}" for archive in archives] == [f"{estimate.energy:.10g}"] * 3
    for archive in archives[1:]:
        np.testing.assert_allclose(archive.history["energy"], archives[0].history["energy"], rtol=1e-9)


def test_without_options_the_ground_state_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Symmetry, signs and size are chosen: more than a model and VMC alone."""
    result = nqs.ground_state(RING, device="cpu", progress=False)
    assert capsys.readouterr().out == ""
    assert result.exact == exact.ground_state(RING).energy
    assert abs(result.relative_error) < 1e-10
    assert result.archive is None
    assert result.estimate.n_distinct < RING.hilbert.dimension  # orbits


def test_it_carries_out_its_plan(tmp_path: Path) -> None:
    plan = recipes.plan(RING, steps=3, device="cpu", seed=1)
    first = driver.carry_out(plan, archive=tmp_path / "plan.h5", progress=False)
    second = nqs.ground_state(RING, steps=3, device="cpu", seed=1, exact=None, progress=False)
    assert first.estimate == second.estimate
    np.testing.assert_array_equal(first.history["energy"], second.history["energy"])
    assert Archive.open(tmp_path / "plan.h5").config["run"]["steps"] == plan.steps


def test_a_warm_up_of_a_plan_is_made() -> None:
    plan = recipes.plan(BoseHubbard(chain(9), 9, U=4.0), steps=3, device="cpu", model=recipes.NetworkOptions(width=4))
    assert [stage.steps for stage in plan.stages] == [2, 1]
    history = driver.carry_out(plan, progress=False).history
    assert (history["error"] > 0).tolist() == [True, True, False]
    vmc = driver.built(plan, plan.model.build(plan.hamiltonian.hilbert))
    assert vmc.warm_up is not None
    assert vmc.warm_up.steps(plan.run.steps or 0) == 2


def test_a_repeated_call_continues_and_shows(tmp_path: Path) -> None:
    def call(**options: Any) -> nqs.Result:
        return nqs.ground_state(RING, steps=6, device="cpu", archive=tmp_path / "run.h5", progress=False, **options)

    class Stop:
        def step(self, row: dict[str, float]) -> None:
            if row["step"] == 2:
                raise KeyboardInterrupt

        def close(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        call(watch=[Stop()])
    assert Archive.open(tmp_path / "run.h5").step == 3
    continued, shown = call(), call()
    whole = nqs.ground_state(RING, steps=6, device="cpu", progress=False)
    assert continued.estimate == shown.estimate == whole.estimate


def test_the_exact_energy_may_be_given_or_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"steps": 1, "device": "cpu"}
    known = exact.ground_state(RING)
    for given, expected in (("auto", known.energy), (None, None), (-2.5, -2.5), (known, known.energy)):
        assert nqs.ground_state(RING, exact=given, **options).exact == expected
        assert ("exact E" in capsys.readouterr().out) == (given == "auto")
    assert nqs.ground_state(RING, exact_limit=5, **options).exact is None
    assert "no exact energy: the dimension is above exact_limit=5" in capsys.readouterr().out


def test_a_name_keeps_the_run_in_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"steps": 1, "device": "cpu", "name": "ring", "progress": False}
    paths = {nqs.ground_state(RING, **options | {"seed": seed}).archive for seed in (0, 0, 1)}
    assert len(paths) == 2
    assert all(path.exists() and path.match("results/ring-????????.h5") for path in paths if path is not None)


def test_the_time_limit_is_for_all() -> None:
    assert driver.minutes_left(None, time.monotonic()) is None
    assert driver.minutes_left(1.0, time.monotonic() - 1000) == 1e-9
    left = driver.minutes_left(1.0, time.monotonic() - 30, reserved=6.0)
    assert left == pytest.approx(0.4, abs=0.01)
    result = nqs.ground_state(RING, steps=5, minutes=1e-9, device="cpu", progress=False)
    assert result.steps_left == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": -1.0}, "minutes=-1.0: a time limit"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"archive": "run.png"}, "its name must end with .h5"),
        ({"temperature": -1.0}, "temperature=-1.0"),
        ({"pretrain": "exact", "exact": None}, "needs the exact ground state"),
        ({"pretrain": "mean-field"}, "to the determinant that gives the model its signs"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nqs.ground_state(RING, **{"device": "cpu", "progress": False, "steps": 1} | options)
