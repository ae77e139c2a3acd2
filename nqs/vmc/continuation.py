"""Resume runs from archives."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from nqs.archive.archive import Archive, ArchiveError, FlushPolicy
from nqs.archive.memory import MemoryArchive
from nqs.estimators.energy import infinite_temperature_energy
from nqs.estimators.estimate import EnergyEstimate
from nqs.exact.diagonalisation import ExactGroundState
from nqs.optimisation.stages import UNKNOWN, RunConfig
from nqs.runtime.interruption import Interruption
from nqs.runtime.options import check_options
from nqs.runtime.progress import Watcher
from nqs.runtime.ranks import start
from nqs.runtime.text import printable
from nqs.runtime.together import CommonInterruption, CommonTimeLimit
from nqs.vmc.evaluation import evaluate_best
from nqs.vmc.execution import Execution
from nqs.vmc.guard import Guard
from nqs.vmc.loop import VMC
from nqs.vmc.one_writer import with_one_writer
from nqs.vmc.rebuilding import known_types, rebuild
from nqs.vmc.result import Result
from nqs.vmc.stored import check_history, check_parameters, check_shapes, one_line

__all__ = ["evaluate", "known_types", "rebuild", "resume"]


def resume(
    archive: str | Path,
    *,
    types: Mapping[str, type] | None = None,
    device: torch.device | str = "cpu",
    exact: ExactGroundState | float | None = None,
    progress: bool = True,
    minutes: float | None = None,
    flush: FlushPolicy | None = None,
    watch: Iterable[Watcher] = (),
) -> Result:
    """Continue a run from its archive alone.

    Args:
        archive: HDF5 file that `VMC.run` wrote.
        types: classes of your own that the run was built from, by name.
        device: where to continue.
        exact, progress, minutes, flush, watch: as in `VMC.run`.

    Raises:
        ArchiveError: no readable archive, or no run in it.
        ValueError: the run was built from classes that nqs does not know; pass them in `types`.
    """
    check_options(exact=exact, types=types, minutes=minutes)
    execution = Execution(archive=archive, progress=progress, flush=flush, watch=watch)
    start(device)
    file = Archive.open(archive)
    if "initial" in file.config and not file.has_checkpoint:
        raise ArchiveError(f"{archive} was stopped before its initial parameters were kept: repeat the command.")
    vmc, run = _rebuilt(file, types, device)
    # The stored configuration itself: those of older versions lack later options.
    return vmc.carry_out(run, file.config, execution, minutes=minutes, exact=exact)


def evaluate(
    archive: str | Path,
    *,
    error: float | None = None,
    minutes: float | None = None,
    types: Mapping[str, type] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    progress: bool = True,
) -> EnergyEstimate:
    """Evaluate the stored state of a run anew, without a step: energy and observables replace those in the archive.

    Args:
        archive: HDF5 file that `VMC.run` wrote.
        error: error bar of the energy, in its unit, at which the evaluation ends; None: as the run itself would.
        minutes: time for the energy and the observables; None: no limit.
        types, device: as in `resume`.
        seed: of the samples, others than those of the run.
        progress: show a progress bar.

    Raises:
        ArchiveError: no readable archive, or no state in it.
        ValueError: an error that is not positive, or classes that nqs does not know; pass them in `types`.
    """
    check_options(error=error, minutes=minutes, types=types, seed=seed, progress=progress)
    if error is not None and not error > 0:
        raise ValueError(f"error={error}: give a positive error bar.")
    ranks = start(device)
    limit, progress = CommonTimeLimit(minutes), progress and ranks.is_first
    with (
        with_one_writer(lambda: Archive.open(archive, "a")) as record,
        Interruption(quiet=not ranks.is_first) as interruption,
    ):
        stored = record.result
        if stored is not None and record.result_step == record.step and error is not None and stored.error <= error:
            return stored  # small enough already
        parameters = {name: torch.from_numpy(values) for name, values in record.parameters().items()}
        vmc, _ = _rebuilt(record, types, device)
        with one_line(archive):
            vmc.wavefunction.load_state_dict(parameters)
        energy_infinity = infinite_temperature_energy(vmc.hamiltonian)
        if error is not None:
            vmc.evaluation = replace(vmc.evaluation, batches=UNKNOWN)
        generator = torch.Generator(vmc.device).manual_seed(record.step + seed + 1)
        evaluate_best(
            vmc, generator, record, Guard(vmc.wavefunction.parameters()), energy_infinity=energy_infinity, limit=limit,
            interruption=CommonInterruption(interruption), progress=progress, exact=None, target=error,
            state=record.checkpoint().sampler,
        )  # fmt: skip
        assert record.result is not None
        return record.result


def _rebuilt(
    file: MemoryArchive, types: Mapping[str, type] | None, device: torch.device | str
) -> tuple[VMC, RunConfig]:
    """The run of an archive: its parts, checked, and its length."""
    config, archive = file.config, file.place
    built = rebuild(config, types, finished=file.finished)
    with one_line(archive):
        hilbert = built["hamiltonian"].hilbert
        check_history(file)
        check_parameters(built["model"], hilbert, file)
        for state in built.get("orthogonal_to", ()):
            if state.model is not None:
                check_shapes(state.model, hilbert, state.parameters, file.place)
        wavefunction = built["model"].build(hilbert, device)
        with torch.no_grad():  # parts of the model may be of a wrong kind
            wavefunction.log_psi(hilbert.random(1, torch.Generator().manual_seed(0)).to(device))
        vmc = VMC(
            built["hamiltonian"],
            wavefunction,
            built["sampler"],
            built["optimiser"],
            built["evaluation"],
            warm_up=built.get("warm_up"),
            orthogonal_to=built.get("orthogonal_to", ()),
            unit=printable(config["unit"]),
        )
    return vmc, built["run"]
