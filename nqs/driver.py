"""Find a ground state with one call: make the plan of `nqs.recipes` and carry it out.

The scripts and `nqs run` call `ground_state`, too: the same options and seed give the same energy.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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
from nqs.optimisation.stages import RunConfig, WarmUp
from nqs.pretraining import MeanField, Target, VectorTarget, fit
from nqs.protocols import Hamiltonian, OptimiserConfig, ReferencePhase, Wavefunction, WavefunctionConfig
from nqs.recipes.model import NetworkOptions, network_of
from nqs.recipes.optimiser import OptimiserOptions
from nqs.recipes.plan import Plan, Pretrain
from nqs.recipes.plan import plan as planned
from nqs.recipes.stages import FIT_FIDELITY, FIT_STEPS
from nqs.report.figures import plot_run
from nqs.report.files import figure_beside
from nqs.runtime.device import checked_device, default_device
from nqs.runtime.interruption import Interruption, TimeLimit
from nqs.runtime.options import check_options
from nqs.runtime.progress import Watcher
from nqs.runtime.threads import using_threads
from nqs.transfer import origin, transfer
from nqs.vmc.loop import VMC
from nqs.vmc.orthogonal import State, check_states, known_states, level_above
from nqs.vmc.result import Result

EXACT_LIMIT = 200_000  # largest dimension for which the exact ground state is computed first: seconds on a CPU
FIGURE_SECONDS, SLOWEST = 5.0, 6.0  # reserved for the figure after the run; times the slowdown of a loaded machine
ENDINGS = (".h5", ".hdf5")


def ground_state(
    hamiltonian: Hamiltonian,
    *,
    model: NetworkOptions | WavefunctionConfig | None = None,
    reference: Literal["auto", "none"] | ReferencePhase = "auto",
    symmetry: Literal["auto", "none"] = "auto",
    distinct: int | None = None,
    sampled: bool = False,
    optimiser: OptimiserOptions | OptimiserConfig | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    total_minutes: float | None = None,
    until: Callable[[Mapping[str, float]], bool] | None = None,
    seed: int = 0,
    temperature: float = 0.0,
    annealing: float = 0.5,
    initial: str | Path | None = None,
    pretrain: Pretrain = "none",
    device: torch.device | str | None = None,
    threads: int | None = None,
    exact: Literal["auto"] | ExactGroundState | float | None = "auto",
    exact_limit: int = EXACT_LIMIT,
    orthogonal_to: Sequence[State] = (),
    penalty: float | None = None,
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

    Unset options are chosen by `nqs.recipes.plan`, which also shows them without running. A repeated call with the same
    archive continues the run where it stopped, or returns its result.

    Args:
        hamiltonian: the problem, which states the sector.
        model, reference, symmetry, distinct, sampled, optimiser, steps: as in `nqs.recipes.plan`.
        minutes, total_minutes, seed, temperature, annealing, initial, pretrain, device, threads: as there; `minutes`
            includes exact diagonalisation and the figure.
        until: as in `VMC.run`: ends the run when it returns True for a row of the history.
        exact: exact ground state or its energy, for relative errors; "auto": computed first, up to the dimension
            `exact_limit`; None: unknown.
        exact_limit: see `exact`.
        orthogonal_to: known states of the sector: wavefunctions, archives of runs, or vectors. The run finds the lowest
            state that is orthogonal to them, by penalties on the overlaps (nqs.optimisation.known_states), with a phase
            head and without a symmetry, which that state need not share; `exact` is then the lowest level of H in their
            orthogonal complement: E_1 above the ground state, E_0 above any other eigenstate.
        penalty: weight of the penalties, in the unit of the energy; chosen by default. One that does not lift its state
            above the exact level is refused.
        archive: HDF5 file of the run.
        name: without `archive`, the run is kept in results/NAME-DIGEST.h5, with a digest of all choices.
        figure: draw the figure of the run beside its archive.
        flush: how often the archive is written.
        watch: observers of the run, such as `nqs.runtime.progress.TensorBoard`.
        progress: print the choices and show a progress bar.
        started_by: name of the script and its options, stored in the archive.
        begin: `time.monotonic()` at which the time limit begins; None: now.

    Raises:
        ValueError: an invalid option; a TypeError, too, if it is of a wrong type.
        ArchiveError: the archive belongs to another run, is damaged, cannot be written, or another process writes it.
        NonFiniteError: an energy or a parameter is not finite, even with small steps.
        Interrupted: SIGINT, SIGTERM or SIGHUP, with everything saved in the archive; it is a KeyboardInterrupt.

    >>> from nqs.hamiltonians import Heisenberg
    >>> from nqs.lattice import chain
    >>> result = ground_state(Heisenberg(chain(4), total_sz=0), steps=20, device="cpu", progress=False)
    >>> print(f"{result.estimate.energy:.6f}, exact {result.exact:.6f}")
    -2.000000, exact -2.000000
    """
    check_options(
        hamiltonian=hamiltonian, model=model, reference=reference, symmetry=symmetry, distinct=distinct,
        optimiser=optimiser, steps=steps, minutes=minutes, total_minutes=total_minutes, until=until, seed=seed,
        temperature=temperature, annealing=annealing, initial=initial, pretrain=pretrain, device=device,
        threads=threads, exact=exact, exact_limit=exact_limit, penalty=penalty, archive=archive, name=name,
        figure=figure, flush=flush, watch=watch, progress=progress, begin=begin,
    )  # fmt: skip
    begin = time.monotonic() if begin is None else begin
    say = print if progress else _silent
    with Interruption(patience=0):  # at once; the loop has a delayed one of its own
        # Validate options first: exact diagonalisation may take long.
        RunConfig(steps=steps, seed=seed, temperature=temperature, annealing=annealing)
        checked_device(str(default_device() if device is None else device))
        TimeLimit(minutes)
        if archive is not None:
            checked_archive(Path(archive))
        if initial is not None:
            Archive.open(initial).parameters()
        check_states(orthogonal_to)
        if orthogonal_to:
            symmetry = "none"
            if model is None or isinstance(model, NetworkOptions):
                model = model or NetworkOptions()
                model = replace(model, network=model.network or "transformer", phase="learned")
        plan = planned(
            hamiltonian,
            model=model,
            reference=reference,
            symmetry=symmetry,
            distinct=distinct,
            sampled=sampled,
            optimiser=optimiser,
            steps=steps,
            minutes=minutes,
            total_minutes=total_minutes,
            seed=seed,
            temperature=temperature,
            annealing=annealing,
            initial=initial,
            pretrain=pretrain,
            device=device,
            threads=threads,
        )
        known = known_states(hamiltonian, orthogonal_to, penalty)
        say(hamiltonian, hamiltonian.hilbert, sep="\n")
        if exact == "auto":
            exact = None
            if sampled:
                say("no exact energy: sampled=True")
            elif hamiltonian.hilbert.dimension > exact_limit:
                say(f"no exact energy: the dimension is above exact_limit={exact_limit:,}")
            elif known:
                level, notes = level_above(hamiltonian, known)
                exact = float(level.energies[0])
                say(f"above the {len(known)} known state{'s' * (len(known) > 1)}: {level}", *notes, sep="\n")
            else:
                exact = exact_diagonalisation.ground_state(hamiltonian)
                say(exact)
        return carry_out(
            plan,
            exact=exact,
            orthogonal_to=known,
            archive=archive,
            name=name,
            figure=figure,
            flush=flush,
            watch=watch,
            until=until,
            progress=progress,
            started_by=started_by,
            begin=begin,
        )


def carry_out(
    plan: Plan,
    *,
    exact: ExactGroundState | float | None = None,
    orthogonal_to: Sequence[State] = (),
    penalty: float | None = None,
    archive: str | Path | None = None,
    name: str | None = None,
    figure: bool = False,
    flush: FlushPolicy | None = None,
    watch: Iterable[Watcher] = (),
    until: Callable[[Mapping[str, float]], bool] | None = None,
    progress: bool = True,
    started_by: tuple[str, Mapping[str, Any]] = ("", {}),
    begin: float | None = None,
) -> Result:
    """Run a plan, or continue its run; arguments as in `ground_state`.

    Raises:
        ValueError, ArchiveError, NonFiniteError, Interrupted: as `ground_state`.
    """
    check_options(
        exact=exact, penalty=penalty, archive=archive, name=name, figure=figure, flush=flush, watch=watch, until=until,
        progress=progress, begin=begin,
    )  # fmt: skip
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
    vmc = built(plan, wavefunction, orthogonal_to, penalty)
    say(plan.summary)
    path = None if archive is None else checked_archive(Path(archive))
    if path is None and name is not None:
        path = Path("results") / f"{name}-{digest(vmc.config(plan.run, start or None))}.h5"
    with using_threads(plan.threads):
        if plan.pretrain != "none" and not (path is not None and path.exists() and Archive.open(path).has_checkpoint):
            target = pretraining_target(plan, known_state)
            found = fit(wavefunction, target, steps=FIT_STEPS, fidelity=FIT_FIDELITY, progress=progress)
            say(f"fit to the {plan.pretrain} state: {found}")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        result = vmc.carry_out(
            plan.run,
            vmc.config(plan.run, start or None),
            archive=path,
            exact=exact,
            progress=progress,
            minutes=minutes_left(plan.minutes, begin, FIGURE_SECONDS * _slowdown(begin) if figure else 0.0),
            flush=flush,
            watch=watch,
            until=until,
            started_by=started_by,
        )
    if figure and path is not None:
        plot_run(path, figure_beside(path), hilbert, known_state)
    return result


def built(
    plan: Plan, wavefunction: Wavefunction, orthogonal_to: Sequence[State] = (), penalty: float | None = None
) -> VMC:
    """The loop that carries out a plan."""
    *before, main = plan.stages
    warm_up = None
    if before:
        (first,) = before
        assert plan.steps is not None
        warm_up = WarmUp(share=first.steps / plan.steps, sampler=first.sampler, optimiser=first.optimiser)
    return VMC(
        plan.hamiltonian,
        wavefunction,
        main.sampler,
        main.optimiser,
        plan.evaluation,
        warm_up=warm_up,
        orthogonal_to=orthogonal_to,
        penalty=penalty,
        unit=plan.unit,
    )


def _slowdown(begin: float) -> float:
    """Wall time of the process so far in units of its CPU time, between 1 and SLOWEST."""
    return min(SLOWEST, max(1.0, (time.monotonic() - begin) / max(1.0, time.process_time())))


def _introduction(plan: Plan, exact: ExactGroundState | None) -> list[str]:
    """Choice of signs and symmetry sector, compared with the exact ground state if that is known."""
    hilbert, lines = plan.hamiltonian.hilbert, [reason.text for reason in plan.why if reason.announced]
    if plan.mean_field is not None and exact is not None and exact.multiplicity == 1:
        agreement = phase_agreement(plan.mean_field, hilbert, exact.state)
        lines.insert(1, f"its signs are right on {agreement:.2%} of the weight of the exact ground state")
    symmetry = getattr(plan.model, "symmetry", None)
    unique = exact if exact is not None and exact.multiplicity == 1 else None
    if unique is not None and symmetry is not None and weight_in_sector(symmetry, hilbert, unique.state) < 0.5:
        lines.append('but the exact ground state is not in this sector: the run will end above it (symmetry="none")')
    return lines


def _start(plan: Plan, source: Archive | None) -> dict[str, Any]:
    """Origin of the initial parameters, {} if they follow from the model's seed; part of the run's configuration."""
    start: dict[str, Any] = {} if source is None else origin(source)
    if plan.pretrain != "none":
        start |= {"fit": plan.pretrain, "steps": FIT_STEPS, "fidelity": FIT_FIDELITY}
    return start


def pretraining_target(plan: Plan, exact: ExactGroundState | None) -> Target:
    """State that the model is fitted to before the first step.

    Raises:
        ValueError: the exact ground state is not known.
    """
    hilbert = plan.hamiltonian.hilbert
    if plan.pretrain == "exact":
        if exact is None:
            raise ValueError('pretrain="exact" needs the exact ground state: raise exact_limit, or leave it out.')
        return VectorTarget(hilbert, exact.state)
    return MeanField(hilbert, network_of(plan.model).reference)


def checked_archive(path: Path) -> Path:
    """The path, if it ends as that of an HDF5 file; else the figure beside it could overwrite it.

    Raises:
        ValueError: another ending.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(
            f"archive {path}: its name must end with {' or '.join(ENDINGS)}, because the figure is written to "
            f"{path.with_suffix('.png')} beside it. Try {path.with_suffix(ENDINGS[0])}."
        )
    return path


def minutes_left(minutes: float | None, begin: float, reserved: float = 0.0) -> float | None:
    """Remaining minutes of a time limit that began at `time.monotonic() == begin`; `reserved` seconds are kept back."""
    if minutes is None or not (minutes > 0 and math.isfinite(minutes)):
        return minutes
    return max(minutes - (time.monotonic() - begin + reserved) / 60, 1e-9)


def report_result(result: Result, archive: Path, hilbert: HilbertSpace | None = None) -> None:
    """Print a result and the paths of archive and figure; draw the figure if `hilbert` is given."""
    print(result)
    figure = figure_beside(archive)
    if hilbert is not None:
        plot_run(archive, figure, hilbert)
    other = archive.with_suffix(".png")
    note = "" if figure == other else f" ({other.name} is not of nqs and stays as it is)"
    print(f"archive {archive}\nfigure  {figure}{note}")


def _silent(*_: object, sep: str = "") -> None:
    """Replaces `print` if nothing is to be printed."""
