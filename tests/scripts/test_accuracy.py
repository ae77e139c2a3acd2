"""The study of accuracies at toy size: what it prints, what it keeps, and what it says of failures."""

import dataclasses
import importlib.util
import json
import math
import re
import shlex
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import tyro
from places import SCRIPTS

from nqs import exact
from nqs.archive import Archive
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.scripts.studies import Outcome, table

pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, its toy problems made with few steps."""
    path = SCRIPTS / "accuracy.py"
    spec = importlib.util.spec_from_file_location("accuracy", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "accuracy", module)
    spec.loader.exec_module(module)
    for name in module.TOY:
        problem = module.PROBLEMS[name]
        few = dataclasses.replace(problem, command=f"{problem.command} --steps 4")
        monkeypatch.setitem(module.PROBLEMS, name, few)
    return module


def test_runs_are_made_printed_and_not_repeated(
    study: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = study.Config(problems=study.TOY, seeds=(0,), parallel=2, minutes=5.0, device="cpu", folder=tmp_path)
    assert study.main(config) == 0
    printed = capsys.readouterr().out.splitlines()
    assert sorted(re.sub(r"error .* s$", "", line) for line in printed[:2]) == [
        "bh4 seed 0: relative ",
        "tv6 seed 0: relative ",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{name}-0.{ending}" for name in study.TOY for ending in ("h5", "png", "txt")
    ]
    assert len({line.count("|") for line in printed[2:6]}) == 1
    found = json.loads(printed[6])
    for name, row in zip(study.TOY, found, strict=True):
        archive = Archive.open(tmp_path / f"{name}-0.h5")
        energy = study.PROBLEMS[name].energy
        assert archive.result is not None
        assert row["problem"] == name
        assert row["relative_error"] == (archive.result.energy - energy) / abs(energy)
        assert row["relative_error"] > 0
        assert row["fidelity"] == float(archive.observables()["fidelity"])
        assert row["steps"] == 4
        assert archive.config["model"]["type"] == "OnOrbits"  # the default recipe

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("a finished run was repeated"))
    assert study.main(config) == 0
    assert capsys.readouterr().out.splitlines() == printed[2:]


def test_failures_are_named_and_the_others_go_on(
    study: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = dataclasses.replace(study.PROBLEMS["tv6"], command="tv --shape 6 --nonsense 3")
    monkeypatch.setitem(study.PROBLEMS, "tv6", wrong)
    assert study.main(study.Config(problems=("tv6",), seeds=(0,), device="cpu", folder=tmp_path)) == 1
    printed = capsys.readouterr().out
    assert f"tv6 seed 0 failed with exit code 2: see {tmp_path / 'tv6-0.txt'}" in printed
    assert "nonsense" in (tmp_path / "tv6-0.txt").read_text()


def test_table_has_median_and_worst(study: ModuleType) -> None:
    def outcome(error: float, fidelity: float | None) -> object:
        return Outcome(
            problem="bh4",
            seed=0,
            energy=-3.9,
            error=1e-6,
            relative_error=error,
            v_score=1e-3,
            fidelity=fidelity,
            seconds=10.0,
            steps=7,
        )

    rows = [outcome(e, f) for e, f in ((1e-6, 0.999), (-4e-5, 0.99), (2e-6, 0.9))]
    row = table(rows, study.PROBLEMS).splitlines()[2]
    assert row == "| bh4 | 3 | 2.0e-06 | 4.0e-05 | 1e-06 | 1.0e-03 | 1 - 1e-02 | 7 | 10 |"
    assert "|  |" in table([outcome(1e-6, None)], study.PROBLEMS)


def test_list_and_unknown_problems(study: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert study.main(tyro.cli(study.Config, args=["--list"])) == 0
    assert "hubbard-2x4      fermi_hubbard --boundary open --shape" not in (out := capsys.readouterr().out)
    assert "hubbard-2x4      fermi_hubbard --shape 2 4 --U 8" in out
    assert all(name in out for name in study.PROBLEMS)
    with pytest.raises(SystemExit, match="error: no problem 'bh5': choose among bh4, tv6, "):
        study.main(study.Config(problems=("bh5",)))


def test_exact_energies_of_the_table(study: ModuleType) -> None:
    """Those of a few thousand configurations by diagonalisation, the Ising chain in closed form."""
    same = {
        "bh4": BoseHubbard(chain(4), 4, U=4.0),
        "tv6": TV(chain(6), 3, V=1.0),
        "bh8-U1": BoseHubbard(chain(8), 8, U=1.0),
        "bh8-U4": BoseHubbard(chain(8), 8, U=4.0),
        "bh8-U16": BoseHubbard(chain(8), 8, U=16.0),
        "j1j2-4x4": Heisenberg(square(4, 4), 0.0, J=(1.0, 0.5)),
        "hubbard-2x4": FermiHubbard(square(2, 4), 4, 4, U=8.0),
    }
    for name, h in same.items():
        assert exact.ground_state(h).energy == pytest.approx(study.PROBLEMS[name].energy, rel=1e-10)
    h = Ising(chain(6), h=1.0)
    assert exact.ground_state(h).energy == pytest.approx(-2 / math.sin(math.pi / 12))
    assert study.PROBLEMS["tfim20"].energy == pytest.approx(-2 / math.sin(math.pi / 40))


def test_commands_are_those_of_scripts(study: ModuleType) -> None:
    """Every option of the table is parsed."""
    for problem in study.PROBLEMS.values():
        name, *options = shlex.split(problem.command)
        module = importlib.import_module(f"nqs.scripts.{name}")
        tyro.cli(module.Config, args=options)
