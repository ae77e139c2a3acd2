"""Signals in every phase of a run: it ends within ten seconds, its archive opens, resuming gives the same result."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nqs
from nqs import Archive, driver, exact
from nqs.archive import archive as archives
from nqs.hamiltonians import FermiHubbard
from nqs.lattice import chain
from nqs.observables import measure
from nqs.optimisation.stochastic_reconfiguration import NaturalGradient
from nqs.recipes import known_signs as recipe
from nqs.runtime import interruption
from nqs.runtime.interruption import Interrupted
from nqs.vmc import evaluation

HAMILTONIAN = FermiHubbard(chain(4), n_up=2, n_down=2, U=4.0)
WITHIN = 10.0  # seconds

# Where the signal comes: module or class, and the function that takes too long.
PHASES: dict[str, tuple[Any, str]] = {
    "mean field": (recipe, "hartree_fock"),
    "exact diagonalisation": (exact, "ground_state"),
    "step": (NaturalGradient, "step"),
    "flush": (archives, "replace_file"),
    "evaluation": (evaluation, "local_energies"),
    "observables": (measure, "renyi2_entropy"),
    "figure": (driver, "plot_run"),
}


def run(path: Path) -> nqs.Result:
    return nqs.ground_state(
        HAMILTONIAN, distinct=20, steps=4, archive=path, figure=True, device="cpu", progress=False,
        flush=nqs.FlushPolicy(longest=0),
    )  # fmt: skip


def signalled(patch: pytest.MonkeyPatch, owner: Any, name: str, number: int) -> None:
    """The first call of a function sends the signal and then takes a minute."""
    real: Callable[..., Any] = getattr(owner, name)
    calls = []

    def slow(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == 1:
            os.kill(os.getpid(), number)
            time.sleep(60)
        return real(*arguments, **options)

    patch.setattr(owner, name, slow)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> nqs.Result:
    return run(tmp_path_factory.mktemp("reference") / "run.h5")


CASES = [(phase, signal.SIGTERM) for phase in PHASES]
CASES += [(phase, number) for phase in ("step", "exact diagonalisation") for number in (signal.SIGINT, signal.SIGHUP)]


@pytest.mark.parametrize(("phase", "number"), CASES, ids=lambda case: getattr(case, "name", case))
@pytest.mark.usefixtures("unchecked")
def test_signal_ends_every_phase_soon(
    phase: str, number: int, reference: nqs.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    monkeypatch.setattr(interruption, "PATIENCE", 0.5)  # instead of eight seconds, for the time of the test
    begin = time.monotonic()
    with monkeypatch.context() as patch:
        signalled(patch, *PHASES[phase], number)
        with pytest.raises(Interrupted) as found:
            run(path)
    assert time.monotonic() - begin < WITHIN
    assert found.value.exit_code == 128 + number
    if path.exists():
        assert Archive.open(path).step <= 4
    assert run(path).estimate == reference.estimate
