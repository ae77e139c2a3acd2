"""Storage of a run: open its archive, rows of the history, checkpoints, progress line."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nqs.archive.archive import Archive
from nqs.archive.errors import ArchiveError
from nqs.archive.memory import MemoryArchive
from nqs.archive.record import Checkpoint
from nqs.archive.serialise import differences, to_plain
from nqs.archive.upgrade import upgraded
from nqs.estimators.estimate import EnergyEstimate, error_text, with_error
from nqs.exact.diagonalisation import ExactGroundState
from nqs.observables.expectation import Expectation
from nqs.protocols import Hamiltonian, StepInfo, Wavefunction
from nqs.samples import Samples
from nqs.vmc.execution import Execution
from nqs.vmc.guard import Guard
from nqs.vmc.one_writer import with_one_writer
from nqs.vmc.pace import Pace
from nqs.vmc.provenance import digest_of, session, steps_differ
from nqs.vmc.result import Result
from nqs.vmc.steps import RunningStage, Step
from nqs.vmc.stored import one_line

OTHERS = ("guard.", "pace.")  # beginnings of the names of what is kept beside the state of the optimiser


def open_archive(execution: Execution, config: Mapping[str, Any], hamiltonian: str, unit: str) -> MemoryArchive:
    """The archive of this run, for writing: on disk, or in memory without a path.

    An archive without a step, of a run that failed early, is started over.

    Raises:
        ArchiveError: the file holds another run, is damaged, not writable, or locked by another process.
    """
    script, options = execution.started_by
    if execution.archive is None:
        plain = to_plain(config, strict=False)
        return MemoryArchive.create(config=plain, hamiltonian=hamiltonian, unit=unit, script=script, options=options)
    path, plain = Path(execution.archive), to_plain(config)
    header = {"hamiltonian": hamiltonian, "unit": unit, "script": script, "options": options}
    return with_one_writer(lambda: _on_disk(path, plain, header))


def _on_disk(path: Path, plain: dict[str, Any], header: Mapping[str, Any]) -> Archive:
    """The archive of this run, new or opened for writing."""
    if not path.exists():
        return Archive.create(path, config=plain, **header)
    archive = Archive.open(path, "a")
    try:
        if not archive.step and archive.config != plain:
            archive.start_over(config=plain, **header)
            return archive
        if is_present_state(archive, plain.get("initial")):
            plain["initial"] = archive.config.get("initial")
        # The scale follows from the Hamiltonian; where an archive lacks it, its run goes on with absolute rates.
        stored = {"energy_scale": plain.get("energy_scale")} | archive.config
        old, new = (upgraded(one, finished=archive.finished) for one in (stored, plain))
        if lines := differences(old, new):
            raise ArchiveError(
                f"{archive.path} holds another run; in the archive / now:\n  " + "\n  ".join(lines) + "\n"
                "Choose another archive, move this file away, or use the options it was started with."
            )
    except BaseException:
        archive.close()
        raise
    return archive


def is_present_state(archive: MemoryArchive, initial: Any) -> bool:
    """Whether parameters that were given are those that the archive holds after its last step.

    Archives of earlier versions do not say which parameters they started from: any will do.
    """
    if not isinstance(initial, Mapping) or set(initial) != {"parameters"}:
        return False
    return not archive.sessions or initial["parameters"] == digest_of(archive.parameters())


def keep_session(archive: MemoryArchive, wavefunction: Wavefunction, device: torch.device, progress: bool) -> None:
    """Store the digest of the initial parameters, and with what the steps to come are made.

    With `progress` a line is printed if their numbers may differ from those of an uninterrupted run in their last bits.
    """
    before, now = archive.sessions, session(device, archive.step)
    if not archive.step:
        archive.write_provenance(digest_of(wavefunction.state_dict()), [now])
    elif not before or before[-1] | {"step": archive.step} != now:
        archive.write_provenance(archive.initial_parameters or "", [*before, now])
    note = steps_differ(before[-1], now) if before and archive.step else None
    if note is not None and progress:
        print(note, file=sys.stderr)


def keep_step(
    archive: MemoryArchive,
    row: Mapping[str, float],
    wavefunction: Wavefunction,
    running: RunningStage,
    guard: Guard,
    pace: Pace,
    generator: torch.Generator,
) -> None:
    """Row of the history and checkpoint after a step."""
    checkpoint = Checkpoint(
        model=wavefunction.state_dict(),
        optimiser=running.optimiser.state_dict() | guard.state_dict() | pace.state_dict(),
        generator=generator.get_state(),
        sampler=running.sampler.state_dict(),
        damping=guard.factor,
        last_good=guard.before,
    )
    archive.record(row, int(row["step"]) + 1, checkpoint)


def restore(
    archive: MemoryArchive,
    wavefunction: Wavefunction,
    running: RunningStage,
    guard: Guard,
    pace: Pace,
    generator: torch.Generator,
) -> None:
    """Restore the state after the last recorded step; store an initial state that the configuration does not fix."""
    if not archive.has_checkpoint:
        if "initial" in archive.config:  # else a resumed run could not know the parameters
            archive.start(Checkpoint(wavefunction.state_dict(), running.optimiser.state_dict(), generator.get_state()))
            archive.save()
        return
    with one_line(archive.place):
        found = archive.checkpoint()
        wavefunction.load_state_dict(found.model)
        of_optimiser = {name: tensor for name, tensor in found.optimiser.items() if not name.startswith(OTHERS)}
        running.optimiser.load_state_dict(of_optimiser)
        running.sampler.load_state_dict(found.sampler)
        before = None if found.last_good is None else found.last_good.to(guard.parameters[0].device)
        guard.load_state_dict(found.optimiser, before, found.damping)
        pace.load_state_dict(found.optimiser)
        if len(found.generator) == len(generator.get_state()):
            generator.set_state(found.generator)
        else:  # written on another kind of device: go on with fresh random numbers
            generator.manual_seed(generator.initial_seed() + archive.step)


def keep_exact(archive: MemoryArchive, exact: ExactGroundState | float | None) -> float | None:
    """The exact energy, if known; stored if new."""
    known = archive.exact["energy"] if archive.exact is not None else None
    if not isinstance(exact, ExactGroundState):
        return known if exact is None else exact
    if exact.energy != known:
        archive.write_exact(exact)
        archive.save()
    return exact.energy


def keep_overlaps(archive: MemoryArchive, found: Expectation) -> None:
    """Overlaps with known states, beside the observables."""
    for name, values in (("overlaps", found.value), ("overlaps_error", found.error)):
        archive.write_observable(name, values.cpu().numpy())


def overlaps_of(archive: MemoryArchive) -> tuple[tuple[float, float], ...]:
    """The overlaps with known states and their errors."""
    found = archive.observables()
    if "overlaps" not in found:
        return ()
    return tuple(zip(found["overlaps"].tolist(), found["overlaps_error"].tolist(), strict=True))


def row_of(step: int, made: Step, estimate: EnergyEstimate, **more: float) -> dict[str, float]:
    """One row of the history: the energy before the update, and what the update did."""
    return {
        "step": step,
        "energy": estimate.energy,
        "error": estimate.error,
        "variance": estimate.variance,
        "v_score": estimate.v_score,
        "samples": estimate.n_samples,
        "distinct": estimate.n_distinct,
        "perplexity": made.samples.perplexity,
        "share_saved": made.local.fraction_saved,
        "learning_rate": made.info.learning_rate,
        "update_norm": made.info.update_norm,
        "gradient_norm": made.info.gradient_norm,
        "retries": made.retries,
        **conjugate_gradient_of(made.info),
        **chains_of(made.samples),
        **{f"overlap_{k}": value for k, value in enumerate(made.local.overlaps)},
        **more,
    }


def result_of(
    archive: MemoryArchive, hamiltonian: Hamiltonian, unit: str, exact: float | None, steps: int | None
) -> Result:
    """The result of an evaluated run; `steps`: their number in all, None if it is not yet known."""
    assert archive.result is not None
    return Result(
        estimate=archive.result,
        n_sites=hamiltonian.hilbert.n_sites,
        unit=unit,
        history=archive.history,
        seconds=float(archive.history["seconds"].sum()),
        exact=exact,
        overlaps=overlaps_of(archive),
        archive=getattr(archive, "path", None),
        steps_left=0 if steps is None else steps - archive.step,
    )


def conjugate_gradient_of(info: StepInfo) -> dict[str, float]:
    """Columns of the history of a linear system without its matrix; {} for other steps."""
    if info.cg_iterations is None or info.cg_residual is None:
        return {}
    return {
        "cg_iterations": info.cg_iterations,
        "cg_residual": info.cg_residual,
        "cg_unconverged": float(not info.cg_converged),
    }


def chains_of(samples: Samples) -> dict[str, float]:
    """Columns of the history of Markov chains and weighted draws; {} for other samples."""
    dependent = samples.chains is not None or samples.weighted_counts is not None
    numbers = {
        "effective": samples.n_effective if dependent else None,
        "acceptance": samples.acceptance,
        "autocorrelation_time": samples.autocorrelation_time if samples.islands is None else None,
        "r_hat": samples.r_hat,
    }
    return {name: number for name, number in numbers.items() if number is not None}


def status(estimate: EnergyEstimate, exact: float | None) -> str:
    """Text of the progress bar."""
    parts = [
        f"E = {with_error(estimate.energy, estimate.error)}",
        f"var {estimate.variance:.1e}",
        f"V {estimate.v_score:.1e}",
        f"{estimate.n_distinct:,} distinct",
    ]
    if exact is not None:
        parts.append(error_text(estimate.energy, exact).replace("relative", "rel."))
    return ", ".join(parts)
