"""The study of large systems at toy size, its references, and the reader of NetKet's runs."""

import dataclasses
import importlib
import json
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tyro
from scipy.optimize import root

from nqs import exact
from nqs.hamiltonians import TV
from nqs.lattice import square
from nqs.scripts import large, netket_recipes, studies

pytestmark = pytest.mark.usefixtures("unchecked")


def open_hubbard_chain(n_sites: int, U: float) -> float:
    """Half filling by the Bethe ansatz for open ends (Schulz, J. Phys. C 18, 581 (1985), in logarithmic form)."""
    u, pairs = U / 4, n_sites // 2
    i, j = np.arange(1, n_sites + 1), np.arange(1, pairs + 1)

    def angle(x: np.ndarray) -> np.ndarray:
        return 2 * np.arctan(x)

    def equations(z: np.ndarray) -> np.ndarray:
        s, rapidity = np.sin(z[:n_sites]), z[n_sites:]
        of_charge = (angle((s[:, None] - rapidity) / u) + angle((s[:, None] + rapidity) / u)).sum(1)
        each = angle((rapidity[:, None] - rapidity) / (2 * u)) + angle((rapidity[:, None] + rapidity) / (2 * u))
        np.fill_diagonal(each, 0)
        of_spin = (angle((rapidity[:, None] - s) / u) + angle((rapidity[:, None] + s) / u)).sum(1)
        return np.concatenate(
            [2 * (n_sites + 1) * z[:n_sites] - 2 * np.pi * i + of_charge, of_spin - 2 * np.pi * j - each.sum(1)]
        )

    guess = np.concatenate([0.97 * np.pi * i / (n_sites + 1), u * np.tan(np.pi * j / (n_sites + 2))])
    found = root(equations, guess, tol=1e-14)
    assert np.abs(equations(found.x)).max() < 1e-10
    return float(-2 * np.cos(found.x[:n_sites]).sum())


def test_references() -> None:
    assert open_hubbard_chain(10, 4.0) == pytest.approx(-5.380618820414507, abs=1e-10)  # exact diagonalisation
    assert open_hubbard_chain(32, 4.0) == pytest.approx(large.PROBLEMS["hubbard-32"].energy, abs=1e-9)
    h = TV(square(4, 4), 5, V=10.0)
    assert exact.ground_state(h).energy == pytest.approx(large.PROBLEMS["tv-4x4"].energy, rel=1e-10)


def test_commands_are_those_of_scripts() -> None:
    for problem in large.PROBLEMS.values():
        name, *options = shlex.split(problem.command)
        tyro.cli(importlib.import_module(f"nqs.scripts.{name}").Config, args=options)
    assert set(netket_recipes.RECIPES) <= set(large.PROBLEMS)


def test_table_figure_and_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], drawn_figures: None
) -> None:
    toy = large.Problem(command="tv --shape 6 --sampled --steps 20", energy=-3.236067977499789, target=1e-2)
    monkeypatch.setattr(large, "PROBLEMS", {"tv6": toy})
    config = large.Config(problems=("tv6",), seeds=(0,), minutes=2.0, device="cpu", folder=tmp_path)
    course = netket_recipes.Course(
        problem="tv6", recipe="rbm", seed=0, parameters=1234, energy=-3.2, error=0.01, variance=0.1,
        seconds=[1.0, 2.0], energies=[-3.0, -3.2], variances=[0.3, 0.1],
    )  # fmt: skip
    monkeypatch.setattr(large, "RECIPES", {"tv6": ("rbm",)})
    (tmp_path / "tv6-rbm-0.json").write_text(json.dumps(dataclasses.asdict(course)))  # a run that is there already
    assert large.main(dataclasses.replace(config, against="netket")) == 0
    printed = capsys.readouterr().out
    assert "| tv6 | 0 | -3.2" in printed
    assert "| -3.200(10) | rbm | 1,234 | 2 |" in printed
    assert (tmp_path / "large.png").stat().st_size > 10_000
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a finished run was repeated"))
    assert large.main(config) == 0
    with pytest.raises(SystemExit, match="no problem 'tv7': choose among tv6"):
        large.main(large.Config(problems=("tv7",)))
    with pytest.raises(SystemExit, match="per_gpu=0"):
        large.main(large.Config(problems=("tv6",), per_gpu=0))


def test_no_slot_is_used_twice_at_a_time() -> None:
    running: set[int | None] = set()
    lock = threading.Lock()

    def task(slot: int | None) -> int | None:
        with lock:
            assert slot not in running
            running.add(slot)
        time.sleep(0.01)
        with lock:
            running.remove(slot)
        return slot

    assert set(large.in_slots([task] * 8, [0, 1, 2])) == {0, 1, 2}


@pytest.mark.parametrize("arguments", [("heisenberg-10x10", "backflow"), ("nothing", "rbm")])
def test_recipes_that_do_not_exist(arguments: tuple[str, str], tmp_path: Path) -> None:
    config = netket_recipes.Config(problem=arguments[0], recipe=arguments[1], output=tmp_path / "x.json")
    with pytest.raises(SystemExit, match=f"no recipe '{arguments[1]}' for '{arguments[0]}'"):
        netket_recipes.main(config)


def test_a_recipe_of_netket_runs(tmp_path: Path) -> None:
    pytest.importorskip("netket")
    path = tmp_path / "x.json"
    command = [sys.executable, "-m", "nqs.scripts.netket_recipes", "--problem", "hubbard-4x4", "--recipe", "backflow"]
    command += ["--samples", "16", "--minutes", "0.01", "--output", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    course = netket_recipes.Course(**json.loads(path.read_text()))
    assert course.parameters == 32 * 10 + 32 * 33 + 32 * 10 * 33
    assert len(course.energies) == len(course.seconds) >= 1
    assert np.isfinite(course.energy)


def test_each_run_gets_a_gpu_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    # Counted among those that are visible: with CUDA_VISIBLE_DEVICES=3 the first one is 3, not 0.
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    found = [studies.seeing(gpu) for gpu in (0, 1)]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in found if environment] == ["3", "5"]
    assert studies.seeing(None) is None
