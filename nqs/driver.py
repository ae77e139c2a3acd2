"""Find a ground state with one call: make the plan of `nqs.recipes` and carry it out.

The scripts and `nqs run` call `ground_state`, too: the same options and seed give the same energy.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nqs import exact as exact_diagonalisation
from nqs.archive.archive import Archive
from nqs.archive.serialise import digest
from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.exact.diagonalisation import ExactGroundState
from nqs.exact.projection import weight_in_sector
from nqs.hilbert import HilbertSpace
from nqs.models import phase_agreement
from nqs.optimisation.known_states import KnownState
from nqs.optimisation.stages import WarmUp
from nqs.pretraining import MeanField, Target, VectorTarget, fit
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.recipes.choices import Choices
from nqs.recipes.model import NetworkOptions, network_of
from nqs.recipes.plan import Plan, resolved
from nqs.recipes.samplers import EXACT_LIMIT
from nqs.recipes.stages import FIT_FIDELITY, FIT_STEPS
from nqs.report.figures import plot_run
from nqs.report.files import figure_beside
from nqs.runtime.distributed import communicator
from nqs.runtime.interruption import Interruption
from nqs.runtime.keywords import takes
from nqs.runtime.memory import checked_gpu_memory, using_gpu_memory
from nqs.runtime.options import check_options
from nqs.runtime.ranks import start
from nqs.runtime.threads import using_threads
from nqs.transfer import origin, transfer
from nqs.vmc.execution import Execution
from nqs.vmc.loop import VMC
from nqs.vmc.orthogonal import State, check_states, known_states, level_above
from nqs.vmc.result import Result

FIGURE_SECONDS, SLOWEST = 5.0, 6.0  # reserved for the figure after the run; times the slowdown of a loaded machine
ENDINGS = (".h5", ".hdf5")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Execution):
    """Options of `carry_out`: how a plan becomes a run.

    Attributes:
        exact: exact ground state or its energy, for relative errors; "auto": computed first, up to the dimension
            `exact_limit`; None: unknown.
        exact_limit: see `exact`.
        orthogonal_to: known states of the sector: wavefunctions, archives of runs, or vectors. The run finds the lowest
            state that is orthogonal to them, by penalties on the overlaps (nqs.optimisation.known_states), with a phase
            head and without a symmetry, which that state need not share; `exact` is then the lowest level of H in their
            orthogonal complement: E_1 above the ground state, E_0 above any other eigenstate.
        penalty: weight of the penalties, in the unit of the energy; chosen by default. One that does not lift its state
            above the exact level is refused.
        name: without `archive`, the run is kept in results/NAME-DIGEST.h5, with a digest of all choices.
        figure: draw the figure of the run beside its archive.
        progress: print the choices and show a progress bar.
        begin: `time.monotonic()` at which the time limit begins; None: now.
        gpu_memory: GiB of a GPU that this process allocates, at most; None: what is free.
    """

    exact: Literal["auto"] | ExactGroundState | float | None = "auto"
    exact_limit: int = EXACT_LIMIT
    orthogonal_to: Sequence[State] = ()
    penalty: float | None = None
    name: str | None = None
    figure: bool = False
    begin: float | None = None
    gpu_memory: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.archive is not None:
            checked_archive(Path(self.archive))


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions, Choices):
    """Options of `ground_state`: those of `nqs.recipes.plan` and of `carry_out`."""

    def __post_init__(self) -> None:
        RunOptions.__post_init__(self)
        Choices.__post_init__(self)


@takes(Options)
def ground_state(hamiltonian: Hamiltonian, options: Options) -> Result:
    """Find the ground state of a Hamiltonian by variational Monte Carlo with a neural quantum state.

    Unset options are chosen by `nqs.recipes.plan`, which also shows them without running. A repeated call with the same
    archive continues the run where it stopped, or returns its result.

    Args:
        hamiltonian: the problem, which states the sector.
        {options}

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
    check_options(hamiltonian=hamiltonian)
    checked_gpu_memory(options.gpu_memory, options.on_device())
    begin = time.monotonic() if options.begin is None else options.begin
    start(options.on_device())
    options = replace(options, begin=begin).on_this_rank()
    with Interruption(patience=0):  # at once; the loop has a delayed one of its own
        # Validate options first: planning and exact diagonalisation may take long.
        if options.initial is not None:
            Archive.open(options.initial).parameters()
        check_states(options.orthogonal_to)
        if options.orthogonal_to:
            model = NetworkOptions() if options.model is None else options.model
            if isinstance(model, NetworkOptions):
                model = replace(model, network=model.network or "transformer", phase="learned")
            options = replace(options, symmetry="none", model=model)
        return _carried_out(resolved(hamiltonian, options), options)


@takes(RunOptions)
def carry_out(plan: Plan, options: RunOptions) -> Result:
    """Run a plan, or continue its run.

    Args:
        plan: from `nqs.recipes.plan`.
        {options}

    Raises:
        ValueError, ArchiveError, NonFiniteError, Interrupted: as `ground_state`.
    """
    checked_gpu_memory(options.gpu_memory, plan.device)
    check_hamiltonian(plan.hamiltonian)  # which `dataclasses.replace` may have brought into the plan
    start(plan.device)
    return _carried_out(plan, options.on_this_rank())


def _carried_out(plan: Plan, options: RunOptions) -> Result:
    """The same for a Hamiltonian that was checked."""
    hilbert, say = plan.hamiltonian.hilbert, print if options.progress else _silent
    begin = time.monotonic() if options.begin is None else options.begin
    ranks = communicator()
    if ranks.size > 1:
        say(f"{ranks.size} ranks")
    known = known_states(plan.hamiltonian, options.orthogonal_to, options.penalty)
    say(plan.hamiltonian, hilbert, sep="\n")
    exact, lines = ranks.of_first(lambda: _exact(plan, options, known))
    for line in lines:
        say(line)
    known_state = exact if isinstance(exact, ExactGroundState) else None
    for line in _introduction(plan, known_state):
        say(line)
    wavefunction = plan.model.build(hilbert, plan.device)
    source = None if plan.initial is None else Archive.open(plan.initial)
    origin_of_parameters = _start(plan, source)
    if source is not None:
        say(transfer(wavefunction, plan.hamiltonian, source))
    vmc = built(plan, wavefunction, known)
    say(plan.summary)
    config = vmc.config(plan.run, origin_of_parameters or None)
    path = None if options.archive is None else Path(options.archive)
    if path is None and options.name is not None:
        path = Path("results") / f"{options.name}-{digest(config)}.h5"
    with using_threads(plan.threads), using_gpu_memory(options.gpu_memory, plan.device):
        if plan.pretrain != "none" and not ranks.of_first(lambda: _has_begun(path)):
            target = pretraining_target(plan, known_state)
            found = fit(wavefunction, target, steps=FIT_STEPS, fidelity=FIT_FIDELITY, progress=options.progress)
            say(f"fit to the {plan.pretrain} state: {found}")
        if path is not None and ranks.is_first:
            path.parent.mkdir(parents=True, exist_ok=True)
        minutes = minutes_left(plan.minutes, begin, FIGURE_SECONDS * _slowdown(begin) if options.figure else 0.0)
        result = vmc.carry_out(plan.run, config, replace(options, archive=path), minutes=minutes, exact=exact)
    if options.figure and path is not None and ranks.is_first:
        plot_run(path, figure_beside(path), hilbert, known_state)
    return result


def _has_begun(path: Path | None) -> bool:
    return path is not None and path.exists() and Archive.open(path).has_checkpoint


def _exact(
    plan: Plan, options: RunOptions, known: Sequence[KnownState]
) -> tuple[ExactGroundState | float | None, list[str]]:
    """The exact ground state or energy that relative errors refer to, computed for "auto"; lines about it."""
    if options.exact != "auto":
        return options.exact, []
    if plan.sampled:
        return None, ["no exact energy: sampled=True"]
    if plan.hamiltonian.hilbert.dimension > options.exact_limit:
        return None, [f"no exact energy: the dimension is above exact_limit={options.exact_limit:,}"]
    if known:
        level, notes = level_above(plan.hamiltonian, known)
        return float(level.energies[0]), [
            f"above the {len(known)} known state{'s' * (len(known) > 1)}: {level}",
            *notes,
        ]
    exact = exact_diagonalisation.ground_state(plan.hamiltonian, check=False)
    return exact, [str(exact)]


def built(plan: Plan, wavefunction: Wavefunction, orthogonal_to: Sequence[State] = ()) -> VMC:
    """The loop that carries out a plan, whose Hamiltonian was checked."""
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
        unit=plan.unit,
        check=False,
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
    """Print a result and the paths of archive and figure; draw the figure if `hilbert` is given. On rank 0 alone."""
    if not communicator().is_first:
        return
    print(result)
    figure = figure_beside(archive)
    if hilbert is not None:
        plot_run(archive, figure, hilbert)
    other = archive.with_suffix(".png")
    note = "" if figure == other else f" ({other.name} is not of nqs and stays as it is)"
    print(f"archive {archive}\nfigure  {figure}{note}")


def _silent(*_: object, sep: str = "") -> None:
    """Replaces `print` if nothing is to be printed."""
