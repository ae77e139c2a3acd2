"""scripts/bose_hubbard.py at toy size: what it prints, that repeating continues, and one clear line for bad input."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from places import SCRIPTS

from nqs import Archive, exact, recipes
from nqs.cli.options import Options
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.samplers.exhaustive import ExhaustiveSampling

SCRIPT = SCRIPTS / "bose_hubbard.py"
TOY = ("--shape", "3", "--n-particles", "3", "--steps", "5", "--model.width", "4")
EXACT = exact.ground_state(BoseHubbard(chain(3), 3, U=4.0)).energy


class Outcome(NamedTuple):
    """What a call of the script left behind."""

    code: int
    out: str
    err: str

    @property
    def paths(self) -> tuple[Path, Path]:
        """Archive and figure, as printed in the last two lines."""
        archive, figure = self.out.splitlines()[-2:]
        assert archive.startswith("archive ")
        assert figure.startswith("figure  ")
        return Path(archive.split()[1]), Path(figure.split()[1])


Script = Callable[..., Outcome]


@pytest.fixture
def script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], unchecked: None
) -> Script:
    """Runs the file as Python would, in an empty folder, without the seconds of a new process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*options: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
        capfd.readouterr()  # what an interrupted call printed
        code: Any = 0
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            code = end.code or 0
        if isinstance(code, str):  # the interpreter prints it and returns 1
            print(code, file=sys.stderr)
            code = 1
        return Outcome(code, *capfd.readouterr())

    return call


def in_subprocess(folder: Path, *options: str) -> Outcome:
    command = [sys.executable, str(SCRIPT), *options]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return Outcome(done.returncode, done.stdout, done.stderr)


# ------------------------------------------------------------------------------------------------ a normal call


def test_script_prints_the_physics_and_its_files_and_repeats_without_new_steps(tmp_path: Path) -> None:
    first = in_subprocess(tmp_path, *TOY)
    assert first.code == 0, first.err
    lines = first.out.splitlines()
    assert lines[0].startswith("Bose-Hubbard, H = ")
    assert "chain(3, periodic), 3 bosons" in lines[0]
    assert lines[1] == "3 sites x 4 local states, particles = 3, dimension 10"
    assert lines[2].startswith(f"exact E = {EXACT:.10f}, gap ")
    assert lines[3] == "6 symmetries, all even (positive ground state)"
    assert re.fullmatch(r"5 steps, every configuration in each, [\d,]+ parameters, on cpu, 1 thread", lines[4])
    assert lines[5].startswith("E = -")
    assert lines[6].startswith("E / site = -")
    assert lines[7].startswith("variance ")
    assert lines[8].startswith(f"exact {EXACT:.8f} J: relative error ")
    archive, figure = (tmp_path / path for path in first.paths)
    assert archive.parent == tmp_path / "results"
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert Archive.open(archive).step == 5
    assert "5/5" in first.err

    before = archive.read_bytes()
    second = in_subprocess(tmp_path, *TOY)
    assert second.code == 0
    assert second.out == first.out
    assert archive.read_bytes() == before
    assert len(list((tmp_path / "results").iterdir())) == 2


def test_interrupted_call_is_continued_by_repeating_it(
    script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = script(*TOY, "--archive", "reference.h5")
    sample, calls = ExhaustiveSampling.sample, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sample(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ExhaustiveSampling, "sample", interrupted)
        stopped = script(*TOY)
    assert stopped.code == 130
    assert "interrupted: recorded steps are in the archive; repeat the command to continue." in stopped.err
    (archive,) = (tmp_path / "results").iterdir()
    assert Archive.open(archive).step == 3
    continued = script(*TOY)
    assert continued.paths[0].resolve() == archive
    assert continued.out.splitlines()[:5] == reference.out.splitlines()[:5]
    assert Archive.open(archive).result == Archive.open("reference.h5").result


def test_other_options_use_another_archive(script: Script) -> None:
    changes: list[tuple[str, ...]] = [
        (),
        ("--U", "8"),
        ("--steps", "2"),
        ("--seed", "1"),
        ("--boundary", "open"),
        ("--trap", "0.1"),
        ("--n-max", "2"),
        ("--temperature", "0.5"),
        ("--distinct", "7"),
        ("--model.layers", "1"),
        ("--optimiser.max-step", "0.05"),
    ]
    outcomes = [script(*TOY, "--steps", "1", *options) for options in changes]
    assert {outcome.code for outcome in outcomes} == {0}
    assert len({outcome.paths[0] for outcome in outcomes}) == len(changes)


def test_a_sweep_starts_from_the_run_before_and_continues_as_itself(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = script(*TOY, "--archive", "U4.h5")
    assert first.code == 0
    sweep = (*TOY, "--U", "5", "--initial", "U4.h5")
    reference = script(*sweep, "--archive", "reference.h5")
    assert reference.code == 0, reference.err
    assert "parameters of U4.h5 after 5 steps" in reference.out.splitlines()
    found, alone = Archive.open("reference.h5"), script(*TOY, "--U", "5", "--archive", "alone.h5")
    assert alone.code == 0
    assert found.history["energy"][0] < Archive.open("alone.h5").history["energy"][0]
    assert found.options["initial"] == "U4.h5"
    assert found.config["initial"]["step"] == 5
    sample, calls = ExhaustiveSampling.sample, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sample(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ExhaustiveSampling, "sample", interrupted)
        assert script(*sweep).code == 130
    continued = script(*sweep)
    archive = Archive.open(continued.paths[0])
    assert archive.result == found.result
    assert archive.history["step"].tolist() == [0, 1, 2, 3, 4]
    assert len(list(Path("results").glob("*.h5"))) == 1


def test_a_fit_comes_before_the_first_step_once(script: Script) -> None:
    options = (*TOY, "--pretrain", "exact", "--model.width", "8")
    first = script(*options)
    assert first.code == 0, first.err
    line = next(line for line in first.out.splitlines() if line.startswith("fit to the exact state: fidelity 0.99"))
    assert "Kullback-Leibler divergence" in line
    archive = Archive.open(first.paths[0])
    assert abs(archive.history["energy"][0] / EXACT - 1) < 0.01
    assert archive.config["initial"] == {"fit": "exact", "steps": 50, "fidelity": 0.999}
    again = script(*options)
    assert again.paths == first.paths
    assert "fit to the exact state" not in again.out


def test_fermions_are_fitted_to_their_determinant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unchecked: None
) -> None:
    from nqs.scripts import fermi_hubbard

    model = recipes.NetworkOptions(width=8, heads=2)
    options = Options(model=model, steps=1, device="cpu", archive=tmp_path / "run.h5", pretrain="mean-field")
    config = fermi_hubbard.Config(shape=(2, 2), boundary="open", n_up=2, n_down=2, options=options)
    fermi_hubbard.main(config)
    assert "fit to the mean-field state: fidelity 0.99" in capsys.readouterr().out


def test_options_that_change_no_number_use_the_same_archive(script: Script) -> None:
    first, other = script(*TOY), script(*TOY, "--exact-limit", "0")
    assert first.paths == other.paths
    assert "no exact energy: the dimension is above exact_limit=0\n" in other.out
    assert f"exact {EXACT:.8f}" in other.out  # the archive remembers it
    assert other.out.splitlines()[3:6] == first.out.splitlines()[3:6]


def test_archive_and_figure_lie_where_they_are_wanted(script: Script, tmp_path: Path) -> None:
    outcome = script(*TOY, "--archive", "deep/folder/mine.h5")
    assert outcome.paths == (Path("deep/folder/mine.h5"), Path("deep/folder/mine.png"))
    assert all(path.is_file() for path in outcome.paths)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@pytest.mark.parametrize(
    "options",
    [
        ("--shape", "2", "2", "--boundary", "open", "--U", "2"),
        ("--J", "-1"),
        ("--J", "-1", "--model.phase", "learned"),
        ("--boundary", "antiperiodic"),
        ("--reference", "none"),
        ("--n-max", "1", "--V", "1", "--trap", "0.5"),
        ("--model.dtype", "float32"),
        ("--distinct", "7", "--device", "cpu", "--optimiser.momentum", "0.9", "--optimiser.memory", "1"),
    ],
    ids=" ".join,
)
def test_other_physics_and_options_run(options: tuple[str, ...], script: Script) -> None:
    outcome = script(*TOY, *options)
    assert outcome.code == 0, outcome.err
    assert "E = " in outcome.out


def test_insulator_with_energy_zero_runs(script: Script) -> None:
    assert script(*TOY, "--J", "0").code == 0


# --------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--n-particles", "-1"), "n_particles=-1: a number of particles is 0 or more."),
        (("--n-particles", "9", "--n-max", "2"), "n_max=2 on 3 sites holds at most 6 bosons, but n_particles=9"),
        (("--n-max", "0"), "n_max=0: at least one boson must fit on a site"),
        (("--shape", "0"), "a size of the lattice is 0; it must be at least 1"),
        (("--shape", "3", "-2"), "a size of the lattice is -2; it must be at least 1"),
        (
            ("--J", "-1", "--model.phase", "zero"),
            "no rule gives the exact signs of this ground state: add ",
        ),
        (("--boundary", "antiperiodic", "--model.phase", "zero"), "no rule gives the exact signs"),
        (("--device", "nonsense"), "device 'nonsense' is unknown: choose 'cpu' or 'cuda'"),
        (("--distinct", "-3"), "n_distinct=-3: it must be at least 1"),
        (
            ("--archive", "run.png"),
            "archive run.png: its name must end with .h5 or .hdf5, because the figure is written",
        ),
        (("--archive", "run"), "archive run: its name must end with .h5 or .hdf5"),
        (("--initial", "none.h5"), "none.h5: no such archive."),
        (("--pretrain", "exact", "--exact-limit", "0"), 'pretrain="exact" needs the exact ground state: raise'),
        (("--optimiser.momentum", "0.9"), "momentum=0.9: sums over the whole sector have no use for it"),
        (("--pretrain", "mean-field"), "to the determinant that gives the model its signs, but this one has no ref"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_physics_gives_one_clear_line(
    options: tuple[str, ...], message: str, script: Script, tmp_path: Path
) -> None:
    outcome = script(*TOY, *options)
    assert outcome.code == (1 if "no such archive" in message else 2)
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert outcome.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_missing_gpu_gives_one_clear_line(script: Script) -> None:
    outcome = script(*TOY, "--device", "cuda")
    assert outcome.code == 2
    assert outcome.err.startswith("error: device 'cuda' was asked for, but PyTorch finds 0 GPUs here: use 'cpu'")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lattice", "3"), ["--lattice"]),
        (("--U", "strong"), ["--U", "strong"]),
        (("--n-particles", "2.5"), ["--n-particles", "2.5"]),
        (("--boundary", "twisted"), ["--boundary", "periodic", "open", "antiperiodic"]),
        (("--steps", "0"), ["steps=0: at least one step"]),
        (("--annealing", "2"), ["annealing=2.0: give the fraction"]),
        (("--model.heads", "3"), ["is not divisible by heads=3"]),
        (("--optimiser.precision", "half"), ["--optimiser.precision", "float64", "float32", "tf32"]),
        (("--optimiser.max-step", "-1"), ["max_step=-1.0: it must be a positive number"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_options_are_named(options: tuple[str, ...], words: list[str], script: Script, tmp_path: Path) -> None:
    outcome = script(*TOY, *options)
    assert outcome.code != 0
    text = " ".join((outcome.err + outcome.out).replace("│", " ").split())
    assert all(word in text for word in words)
    assert "Traceback" not in text
    assert list(tmp_path.iterdir()) == []


def test_archive_of_another_run_is_refused_with_the_difference(script: Script) -> None:
    script(*TOY, "--archive", "run.h5")
    before = Path("run.h5").read_bytes()
    outcome = script(*TOY, "--archive", "run.h5", "--U", "8")
    assert outcome.code == 1
    assert outcome.err.startswith(
        "error: run.h5 holds another run; in the archive / now:\n  hamiltonian.U: 4.0 / 8.0\n"
    )
    assert Path("run.h5").read_bytes() == before


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_damaged_archive_gives_one_clear_line(damage: str, script: Script) -> None:
    path = Path("run.h5")
    script(*TOY, "--archive", "run.h5")
    path.write_bytes({"text": b"notes", "truncated": path.read_bytes()[:5000], "empty": b""}[damage])
    before = path.read_bytes()
    outcome = script(*TOY, "--archive", "run.h5")
    assert outcome.code == 1
    assert outcome.err.startswith("error: run.h5 is no readable archive: ")
    assert outcome.err.count("\n") == 1
    assert path.read_bytes() == before


def test_folder_that_cannot_be_made_gives_one_clear_line(script: Script) -> None:
    Path("file").write_text("not a folder")
    outcome = script(*TOY, "--archive", "file/run.h5")
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1


def test_shape_without_a_size_gives_one_clear_line(script: Script) -> None:
    outcome = script("--shape")
    assert outcome.code != 0
    assert "shape" in outcome.err


def test_exact_diagonalisation_of_too_large_a_space_is_refused() -> None:
    large = BoseHubbard(chain(20), 20, U=4.0)
    with pytest.raises(ValueError, match=r"dimension 68,923,264,410 is over the limit .*choose a smaller system"):
        exact.ground_state(large)


def test_bad_input_of_a_real_process(tmp_path: Path) -> None:
    outcome = in_subprocess(tmp_path, "--n-particles", "-1")
    assert outcome == (2, "", "error: n_particles=-1: a number of particles is 0 or more.\n")


# -------------------------------------------------------------------------------------------------------- help


def flags(config: Any, prefix: str = "--") -> list[str]:
    found = []
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            found += flags(value, prefix if field.name == "options" else f"{prefix}{field.name}.")
        elif field.name not in ("started_by", "begin"):
            found.append(prefix + field.name.replace("_", "-"))
    return found


def test_help_names_every_field(script: Script) -> None:
    outcome = script("--help")
    assert outcome.code == 0
    expected = flags(runpy.run_path(str(SCRIPT))["Config"]())
    assert {"--shape", "--steps", "--model.width", "--optimiser.learning-rate"} <= set(expected)
    missing = [flag for flag in expected if f"{flag} " not in outcome.out and f"{flag}," not in outcome.out]
    assert missing == []
    assert "python scripts/bose_hubbard.py --U 16 --n-particles 5" in outcome.out


def test_a_sector_without_the_exact_ground_state_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unchecked: None
) -> None:
    """The lowest determinant alone leads to a wrong sector here (test_sectors.py)."""
    from nqs.scripts import fermi_hubbard

    warning = 'but the exact ground state is not in this sector: the run will end above it (symmetry="none")'
    every_solution = recipes.sector._other_solutions
    for others, said in ((lambda *_: (), True), (every_solution, False)):
        monkeypatch.setattr(recipes.sector, "_other_solutions", others)
        options = Options(steps=1, device="cpu", archive=tmp_path / f"{said}.h5")
        fermi_hubbard.main(fermi_hubbard.Config(n_up=2, n_down=2, U=8.0, options=options))
        assert (warning in capsys.readouterr().out.splitlines()) == said
