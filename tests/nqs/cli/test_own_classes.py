"""Runs of classes of a user's own on the command line: plot, report, resume, verify; arrays among their fields."""

import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import VMC, Archive, exact, resume
from nqs.cli import main
from nqs.cli.own_classes import classes_in
from nqs.lattice import chain
from nqs.samplers import ExhaustiveSampler, TreeSampler

SOURCE = '''
"""A spin chain with a field and an exchange matrix, arrays both."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

import units  # a file beside this one
from nqs.hilbert import spins
from nqs.lattice import Lattice
from nqs.protocols import Connected


@dataclass(frozen=True, eq=False)
class Disordered:
    lattice: Lattice
    field: np.ndarray
    exchange: torch.Tensor

    unit = units.NAME

    @cached_property
    def hilbert(self):
        return spins(self.lattice.n_sites, 0)

    def diagonal(self, n):
        i, j = self.lattice.bonds().T
        z = n.double() - 0.5
        return ((z[:, i] * z[:, j]) @ self.exchange[i, j]) + z @ torch.from_numpy(self.field)

    def connected(self, n):
        i, j = self.lattice.bonds().T
        parents, bond = (n[:, i] != n[:, j]).nonzero().T
        m, k = n[parents], torch.arange(len(parents))
        m[k, i[bond]] ^= 1
        m[k, j[bond]] ^= 1
        return Connected(m, self.exchange[i, j][bond] / 2, parents)
'''
L = 6


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[[str], Outcome]


@pytest.fixture
def nqs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], unchecked: None) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def call(line: str) -> Outcome:
        capfd.readouterr()
        code: Any = 0
        try:
            main(shlex.split(line))
        except SystemExit as end:
            code = end.code or 0
        message = f"{code}\n" if isinstance(code, str) else ""
        out, err = capfd.readouterr()
        return Outcome(1 if message else code, out, err + message)

    return call


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("own")
    (folder / "disordered.py").write_text(SOURCE)
    (folder / "units.py").write_text('NAME = "K"\n')
    return folder / "disordered.py"


def couplings() -> tuple[np.ndarray, torch.Tensor]:
    random = np.random.default_rng(4)
    exchange = random.uniform(0.5, 1.5, (L, L))
    return random.uniform(-2, 2, L), torch.from_numpy(exchange + exchange.T)


def run(source: Path, path: Path, steps: int, minutes: float | None = None) -> Any:
    field, exchange = couplings()
    hamiltonian = classes_in(str(source))["Disordered"](chain(L), field, exchange)
    model = small_transformer().build(hamiltonian.hilbert)
    vmc = VMC(hamiltonian, model, TreeSampler(n_samples=300), evaluation=ExhaustiveSampler())
    return vmc.run(steps, archive=path, progress=False, minutes=minutes)


@pytest.fixture
def stopped(source: Path, tmp_path: Path, unchecked: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive run.h5 of a run that was stopped after its first step."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    run(source, tmp_path / "run.h5", 5, minutes=1e-9)
    return tmp_path / "run.h5"


def test_arrays_are_data_with_an_archive(stopped: Path, source: Path) -> None:
    field, exchange = couplings()
    stored = Archive.open(stopped).config["hamiltonian"]
    assert stored["field"] == {"type": "array", "dtype": "float64", "shape": [L], "data": field.tolist()}
    assert stored["exchange"]["tensor"] is True
    assert stored["exchange"]["shape"] == [L, L]
    # H by Kronecker products of spin matrices, in the sector of S^z = 0
    up = np.array([[0.0, 0.0], [1.0, 0.0]])
    z = np.diag([-0.5, 0.5])

    def at(matrix: np.ndarray, site: int) -> np.ndarray:
        return np.kron(np.kron(np.eye(2**site), matrix), np.eye(2 ** (L - site - 1)))

    h = sum(field[i] * at(z, i) for i in range(L))
    for i, j in chain(L).bonds().tolist():
        flip = at(up, i) @ at(up.T, j)
        h = h + float(exchange[i, j]) * (at(z, i) @ at(z, j) + (flip + flip.T) / 2)
    sector = [k for k in range(2**L) if k.bit_count() == L // 2]
    right = np.linalg.eigvalsh(h[np.ix_(sector, sector)])[0]
    own = classes_in(str(source))["Disordered"](chain(L), field, exchange)
    assert exact.ground_state(own).energy == pytest.approx(right, abs=1e-12)


def test_resume_takes_the_file_that_holds_the_class(stopped: Path, source: Path, nqs: Command, tmp_path: Path) -> None:
    reference = run(source, tmp_path / "reference.h5", 5)
    in_python = shutil.copy(stopped, tmp_path / "python.h5")
    outcome = nqs(f"resume run.h5 --module {source}")
    assert outcome.code == 0, outcome.err
    assert " K\n" in outcome.out  # the unit of the class
    assert Archive.open("run.h5").result == reference.estimate
    types = {"Disordered": classes_in(str(source))["Disordered"]}
    assert resume(in_python, types=types, progress=False).estimate == reference.estimate


def test_resume_takes_a_module_that_can_be_imported(stopped: Path, source: Path, nqs: Command, tmp_path: Path) -> None:
    for file in source.parent.glob("*.py"):
        shutil.copy(file, tmp_path / file.name.replace("disordered", "disordered_of_this_test"))
    assert nqs("resume run.h5 --module disordered_of_this_test").code == 0
    assert Archive.open("run.h5").finished


def test_resume_without_it_says_what_to_do(stopped: Path, nqs: Command) -> None:
    before = stopped.read_bytes()
    outcome = nqs("resume run.h5")
    assert outcome.code == 2
    assert outcome.err.startswith("error: 'Disordered' is none of the classes that an archive may name")
    assert "nqs resume FILE --module file.py" in outcome.err
    assert "nqs.resume(FILE, types={name: class})" in outcome.err
    assert outcome.err.count("\n") == 1
    assert stopped.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--module own.py cannot be loaded: FileNotFoundError: "),
        ("x = 1", "--module own.py holds no dataclass: name the file that defines the classes of the run."),
        (
            "import sys\nsys.exit(3)",
            "--module own.py ends the program when it is loaded: put what it runs under if __na",
        ),
        ("1 / 0", "--module own.py cannot be loaded: ZeroDivisionError: division by zero"),
        ("from dataclasses import dataclass\n@dataclass\nclass Other: ...", "'Disordered' is none of the classes"),
    ],
    ids=lambda value: str(value)[:10],
)
def test_wrong_files_of_classes_give_one_line(
    text: str | None, message: str, stopped: Path, nqs: Command, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "own.py").write_text(text)
    outcome = nqs("resume run.h5 --module own.py")
    assert outcome.code == 2
    assert outcome.err.startswith(f"error: {message}")
    assert outcome.err.count("\n") == 1


def test_plot_report_and_verify_need_no_class(stopped: Path, nqs: Command, tmp_path: Path) -> None:
    """No code of the user runs, and the names of the local states are in the archive."""
    assert list(Archive.open(stopped).state_names or ()) == ["-1/2", "1/2"]
    for line in (
        "plot run.h5 -o run.png",
        "report run.h5 -o run.html",
        "verify run.h5",
        "show run.h5",
        "compare run.h5",
    ):
        outcome = nqs(line)
        assert outcome.code == 0, (line, outcome.err)
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
