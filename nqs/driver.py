"""Find a ground state with one call: the plan of `nqs.recipes`, carried out.

`nqs.ground_state` in Python, the scripts and `nqs run` are this call: with the same options and the same seed they end
at the same energy.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from nqs import exact as exact_diagonalisation
from nqs.archive.archive import Archive, FlushPolicy
from nqs.archive.serialise import digest
from nqs.exact.diagonalisation import ExactGroundState
from nqs.exact.projection import weight_in_sector
from nqs.hilbert import HilbertSpace
from nqs.models import phase_agreement
from nqs.pretraining import MeanField, Target, VectorTarget, fit
from nqs.protocols import Hamiltonian, OptimiserConfig, ReferencePhase, Wavefunction, WavefunctionConfig
from nqs.recipes.model import NetworkOptions, network_of
from nqs.recipes.optimiser import OptimiserOptions
from nqs.recipes.plan import Plan, Pretrain
from nqs.recipes.plan import plan as planned
from nqs.recipes.stages import FIT_FIDELITY, FIT_STEPS
from nqs.report.figures import plot_run
from nqs.runtime.device import checked_device, default_device
from nqs.runtime.interruption import TimeLimit
from nqs.runtime.progress import Watcher
from nqs.runtime.threads import using_threads
from nqs.transfer import origin, transfer
from nqs.vmc.loop import VMC
from nqs.vmc.result import Result
from nqs.vmc.stages import RunConfig
from nqs.vmc.warm_up import WarmUp

EXACT_LIMIT = 200_000  # dimension up to which the exact ground state is found first: seconds on a CPU
FIGURE_SECONDS = 5.0  # for the figure, after the run
DEGENERATE = 1e-8  # gap below which the exact ground state is one of many
ENDINGS = (".h5", ".hdf5")


def ground_state(
    hamiltonian: Hamiltonian,
    *,
    model: NetworkOptions | WavefunctionConfig | None = None,
    reference: Literal["auto", "none"] | ReferencePhase = "auto",
    symmetry: Literal["auto", "none"] = "auto",
    distinct: int | None = None,
    optimiser: OptimiserOptions | OptimiserConfig | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    annealing: float = 0.5,
    initial: str | Path | None = None,
    pretrain: Pretrain = "none",
    device: torch.device | str | None = None,
    threads: int | None = None,
    exact: Literal["auto"] | ExactGroundState | float | None = "auto",
    exact_limit: int = EXACT_LIMIT,
    archive: str | Path | None = None,
    name: str | None = None,
    figure: bool = False,
    flush: FlushPolicy | None = None,
    watch: Iterable[Watcher] = (),
    progress: bool = True,
    started_by: tuple[str, Mapping[str, Any]] = ("", {}),
    begin: float | None = None,
) -> Result:
    """Find the ground state of a Hamiltonian by variational Monte Carlo with an autoregressive transformer.

    What is left open is chosen by `nqs.recipes.plan`, which also shows it without running it. A repeated call with the
    same archive continues the run where it stopped, or shows its result.

    Args:
        hamiltonian: the problem, which states the sector.
        model, reference, symmetry, distinct, optimiser, steps, seed, temperature, annealing, initial, pretrain, device,
            threads: as in `nqs.recipes.plan`.
        minutes: time for all: exact diagonalisation, steps, evaluation and figure. A shorter run or a narrower network
            is chosen if the usual one would take longer, by an estimate, and the steps end early enough.
        exact: exact ground state or its energy, to show relative errors against; "auto": found first, up to the
            dimension `exact_limit`; None: unknown.
        exact_limit: see `exact`.
        archive: HDF5 file of the run.
        name: without an archive, keep the run in results/, in a file with this name and a digest of all choices.
        figure: draw the figure of the run beside its archive.
        flush: how often the archive is written.
        watch: objects that follow the run, such as `nqs.runtime.progress.TensorBoard`.
        progress: print what is done, and show a progress bar.
        started_by: name of the script and its options, to keep in the archive.
        begin: `time.monotonic()` from which the minutes count; None: now.

    Raises:
        ValueError: an impossible choice.
        ArchiveError: the archive belongs to another run, is damaged, cannot be written, or another process writes it.
        NonFiniteError: an energy or a parameter is not finite, even with small steps.
        Interrupted: SIGINT or SIGTERM, with everything saved in the archive; it is a KeyboardInterrupt.

    >>> from nqs.hamiltonians import Heisenberg
    >>> from nqs.lattice import chain
    >>> result = ground_state(Heisenberg(chain(4), total_sz=0), steps=20, device="cpu", progress=False)
    >>> print(f"{result.estimate.energy:.6f}, exact {result.exact:.6f}")
    -2.000000, exact -2.000000
    """
    begin = time.monotonic() if begin is None else begin
    run = RunConfig(steps=steps, seed=seed, temperature=temperature, annealing=annealing)  # refuses impossible values
    say = print if progress else _silent
    checked_device(str(default_device() if device is None else device))  # before hours of exact diagonalisation
    TimeLimit(minutes)
    if archive is not None:
        checked_archive(Path(archive))
    if initial is not None:
        Archive.open(initial).parameters()
    say(hamiltonian, hamiltonian.hilbert, sep="\n")
    if exact == "auto":
        exact = None
        if hamiltonian.hilbert.dimension <= exact_limit:
            exact = exact_diagonalisation.ground_state(hamiltonian)
            say(exact)
        else:
            say(f"no exact energy: the dimension is over --exact-limit {exact_limit:,}")
    plan = planned(
        hamiltonian,
        model=model,
        reference=reference,
        symmetry=symmetry,
        distinct=distinct,
        optimiser=optimiser,
        steps=run.steps,
        minutes=minutes,
        seed=seed,
        temperature=temperature,
        annealing=annealing,
        initial=initial,
        pretrain=pretrain,
        device=device,
        threads=threads,
    )
    return carry_out(
        plan,
        exact=exact,
        archive=archive,
        name=name,
        figure=figure,
        flush=flush,
        watch=watch,
        progress=progress,
        started_by=started_by,
        begin=begin,
    )


def carry_out(
    plan: Plan,
    *,
    exact: ExactGroundState | float | None = None,
    archive: str | Path | None = None,
    name: str | None = None,
    figure: bool = False,
    flush: FlushPolicy | None = None,
    watch: Iterable[Watcher] = (),
    progress: bool = True,
    started_by: tuple[str, Mapping[str, Any]] = ("", {}),
    begin: float | None = None,
) -> Result:
    """Run a plan, or go on with it; arguments as in `ground_state`.

    Raises:
        ValueError, ArchiveError, NonFiniteError, Interrupted: as `ground_state`.
    """
    begin = time.monotonic() if begin is None else begin
    hilbert, say = plan.hamiltonian.hilbert, print if progress else _silent
    known_state = exact if isinstance(exact, ExactGroundState) else None
    for line in _introduction(plan, known_state):
        say(line)
    wavefunction = plan.model.build(hilbert, plan.device)
    source = None if plan.initial is None else Archive.open(plan.initial)
    start = _start(plan, source)
    if source is not None:
        say(transfer(wavefunction, plan.hamiltonian, source))
    vmc, run = built(plan, wavefunction)
    say(plan.summary)
    path = None if archive is None else checked_archive(Path(archive))
    if path is None and name is not None:
        path = Path("results") / f"{name}-{digest(vmc.config(run, start or None))}.h5"
    with using_threads(plan.threads):
        if plan.pretrain != "none" and not (path is not None and path.exists() and Archive.open(path).has_checkpoint):
            target = pretraining_target(plan, known_state)
            found = fit(wavefunction, target, steps=FIT_STEPS, fidelity=FIT_FIDELITY, progress=progress)
            say(f"fit to the {plan.pretrain} state: {found}")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        result = vmc.run(
            **asdict(run),
            archive=path,
            exact=exact,
            progress=progress,
            minutes=minutes_left(plan.minutes, begin, FIGURE_SECONDS if figure else 0.0),
            flush=flush,
            watch=watch,
            started_by=started_by,
            initial=start or None,
        )
    if figure and path is not None:
        plot_run(path, path.with_suffix(".png"), hilbert, known_state)
    return result


def built(plan: Plan, wavefunction: Wavefunction) -> tuple[VMC, RunConfig]:
    """The loop that carries out a plan on its wavefunction, and the length and seed of its run."""
    *before, main = plan.stages
    warm_up = None
    if before:
        (first,) = before
        share = first.steps / plan.steps
        warm_up = WarmUp(share=share, sampler=first.sampler, optimiser=first.optimiser)  # type: ignore[arg-type]
    vmc = VMC(
        plan.hamiltonian,
        wavefunction,
        main.sampler,
        main.optimiser,
        plan.evaluation,
        warm_up=warm_up,
        unit=plan.unit,
    )
    run = RunConfig(steps=plan.steps, seed=plan.seed, temperature=plan.temperature, annealing=plan.annealing)
    return vmc, run


def _introduction(plan: Plan, exact: ExactGroundState | None) -> list[str]:
    """What is known of the problem: signs and symmetry sector, compared with the exact ground state."""
    hilbert, lines = plan.hamiltonian.hilbert, []
    if "Hartree-Fock" in plan.reason("signs"):
        lines.append(plan.reason("signs"))
    if plan.mean_field is not None and exact is not None:
        agreement = phase_agreement(plan.mean_field, hilbert, exact.state)
        lines.append(f"its signs are right on {agreement:.2%} of the weight of the exact ground state")
    if plan.reason("symmetry"):
        lines.append(plan.reason("symmetry"))
    symmetry = getattr(plan.model, "symmetry", None)
    unique = exact if exact is not None and exact.multiplicity == 1 else None
    if unique is not None and symmetry is not None and weight_in_sector(symmetry, hilbert, unique.state) < 0.5:
        lines.append("but the exact ground state is not in this sector: the run will end above it (--symmetry none)")
    if "instead of" in plan.reason("steps"):
        lines.append(plan.reason("steps"))
    return lines


def _start(plan: Plan, source: Archive | None) -> dict[str, Any]:
    """What the parameters come from, if not from the model's seed: a part of what the run is."""
    start: dict[str, Any] = {} if source is None else origin(source)
    if plan.pretrain != "none":
        start |= {"fit": plan.pretrain, "steps": FIT_STEPS, "fidelity": FIT_FIDELITY}
    return start


def pretraining_target(plan: Plan, exact: ExactGroundState | None) -> Target:
    """What the model is fitted to before the first step.

    Raises:
        ValueError: there is no such state.
    """
    hilbert = plan.hamiltonian.hilbert
    if plan.pretrain == "exact":
        if exact is None:
            raise ValueError("--pretrain exact needs the exact ground state: raise --exact-limit, or leave it out.")
        return VectorTarget(hilbert, exact.state)
    return MeanField(hilbert, network_of(plan.model).reference)


def checked_archive(path: Path) -> Path:
    """The path of an archive.

    Raises:
        ValueError: an ending that is not that of an HDF5 file; the figure beside it could overwrite it.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"archive {path}: its name must end with {' or '.join(ENDINGS)}, because the figure is written to "
            f"{path.with_suffix('.png')} beside it. Try {path.with_suffix(ENDINGS[0])}."
        )
    return path


def minutes_left(minutes: float | None, begin: float, reserved: float = 0.0) -> float | None:
    """What is left of a time limit.

    Args:
        begin: `time.monotonic()` from which it counts.
        reserved: seconds for what comes after the run.
    """
    if minutes is None or not (minutes > 0 and math.isfinite(minutes)):
        return minutes
    return max(minutes - (time.monotonic() - begin + reserved) / 60, 1e-9)


def report_result(result: Result, archive: Path, hilbert: HilbertSpace | None = None) -> None:
    """Print a result, and where archive and figure are; draw the figure where a space is given."""
    print(result)
    figure = archive.with_suffix(".png")
    if hilbert is not None:
        plot_run(archive, figure, hilbert)
    print(f"archive {archive}\nfigure  {figure}")


def _silent(*_: object, sep: str = "") -> None:
    """Nothing is printed."""
