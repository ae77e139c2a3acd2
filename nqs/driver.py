"""What every script does around its Hamiltonian: common options, exact comparison, run, archive, figure.

`python scripts/NAME.py` and `nqs run NAME` are the same call of `command_line`.
"""

import inspect
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from nqs import BEGIN, exact, recipes
from nqs.archive.archive import Archive, FlushPolicy
from nqs.archive.serialise import digest
from nqs.cli.errors import ExitCode, clear_errors
from nqs.cli.toml import command_line_flags, option_names, options_table, read_toml
from nqs.exact.diagonalisation import ExactGroundState
from nqs.exact.projection import weight_in_sector
from nqs.hilbert import HilbertSpace
from nqs.models import (
    OnOrbits,
    ProjectedDeterminant,
    SlaterDeterminant,
    Symmetrised,
    TransformerConfig,
    hartree_fock,
    phase_agreement,
)
from nqs.optimisation.exact_steps import exact_steps
from nqs.optimisation.stochastic_reconfiguration import StochasticReconfiguration
from nqs.pretraining import MeanField, Target, VectorTarget, fit
from nqs.protocols import Hamiltonian, WavefunctionConfig
from nqs.recipes.threads import use_threads_for
from nqs.report.figures import plot_run
from nqs.runtime.interruption import TimeLimit
from nqs.runtime.progress import TensorBoard
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.transfer import origin, transfer
from nqs.vmc.loop import VMC
from nqs.vmc.result import Result
from nqs.vmc.stages import RunConfig

Config = TypeVar("Config")
FIGURE_SECONDS = 5.0  # for the figure, after the run
OF_THIS_CALL = {"of this call": True}  # metadata of options that a repeated run does not inherit
ENDINGS = (".h5", ".hdf5")

OPEN_SHELL = 1e-9  # gap of a mean field
FIT_STEPS, FIT_FIDELITY = 50, 0.999  # of --pretrain: no more than that; the energy takes over


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, whatever the Hamiltonian; `options: CommonOptions = field(default_factory=Options)` in a script."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    device: str = field(default_factory=recipes.default_device)
    # of the CPU; None: one for small steps, else as PyTorch chooses (one a core)
    threads: int | None = field(default=None, metadata=OF_THIS_CALL)
    distinct: int | None = None  # distinct configurations a step; None: chosen from the dimension
    # work in the symmetry sector of the ground state, where that is known and pays off
    symmetry: Literal["auto", "none"] = "auto"
    optimiser: StochasticReconfiguration = field(default_factory=StochasticReconfiguration)
    # archive of another run whose parameters the model starts from: other couplings, or another lattice
    initial: Path | None = None
    # fit the model to a state before the first step: the determinant that gives its signs, or the exact ground state
    pretrain: Literal["none", "mean-field", "exact"] = "none"
    exact_limit: int = 200_000  # diagonalise exactly up to this dimension
    flush: FlushPolicy = field(default_factory=FlushPolicy)
    # HDF5 file, the figure beside it; None: results/, named after the options
    archive: Path | None = field(default=None, metadata=OF_THIS_CALL)
    # time for all: a shorter run or a narrower network is chosen if the usual one would take longer, by an estimate; it
    # stops early enough to evaluate the energy within that time; repeat the command to go on
    minutes: float | None = field(default=None, metadata=OF_THIS_CALL)
    # folder for TensorBoard
    tensorboard: Path | None = field(default=None, metadata=OF_THIS_CALL)
    # TOML file with any of these options; those given here as well win
    config: Path | None = field(default=None, metadata=OF_THIS_CALL)
    started_by: Annotated[tuple[str, Mapping[str, Any]], tyro.conf.Suppress, tyro.conf.Fixed] = field(
        default=("", {}), metadata=OF_THIS_CALL
    )


CommonOptions = Annotated[Options, tyro.conf.arg(name="")]  # flags without a prefix


def diagonalise(hamiltonian: Hamiltonian, options: Options) -> ExactGroundState | None:
    """Introduce the problem, and find its exact ground state if the sector is small enough."""
    recipes.checked_device(options.device)  # what is wrong is said before hours of diagonalisation
    TimeLimit(options.minutes)
    if options.archive is not None:
        checked_archive(options.archive)
    if options.initial is not None:
        Archive.open(options.initial).parameters()
    print(hamiltonian, hamiltonian.hilbert, sep="\n")
    if hamiltonian.hilbert.dimension > options.exact_limit:
        print(f"no exact energy: the dimension is over --exact-limit {options.exact_limit:,}")
        return None
    ground_state = exact.ground_state(hamiltonian)
    print(ground_state)
    return ground_state


def with_mean_field(
    model: TransformerConfig, hamiltonian: Hamiltonian, ground_state: ExactGroundState | None, *, unit: str
) -> TransformerConfig:
    """The model times the signs of the Hartree-Fock determinant, introduced on the screen; fermions."""
    try:
        found = hartree_fock(hamiltonian)
    except RuntimeError as error:
        print(f"{error}\nGoing on without it: a phase head learns all signs.")
        return model
    shell = "" if found.gap > OPEN_SHELL else ", an open shell: one of many determinants"
    unit = unit_of(hamiltonian)
    print(f"Hartree-Fock E = {found.energy:.8f} {unit}, gap {found.gap:.4f} {unit}{shell}")
    if ground_state is not None:
        agreement = phase_agreement(found.determinant, hamiltonian.hilbert, ground_state.state)
        print(f"its signs are right on {agreement:.2%} of the weight of the exact ground state")
    return replace(model, reference=found.determinant)


def solve(
    hamiltonian: Hamiltonian,
    model: WavefunctionConfig,
    options: Options,
    *,
    name: str,
    ground_state: ExactGroundState | None,
) -> Result:
    """Run VMC (or continue the same run), print the result, leave archive and figure.

    Args:
        name: start of the archive's name in results/; a digest of all options follows it.
    """
    device = recipes.checked_device(options.device)
    if options.symmetry == "auto" and options.distinct is None:
        model, why = recipes.symmetrised(model, hamiltonian, device)
        print(why)
        if isinstance(model, (OnOrbits, Symmetrised)) and ground_state is not None and ground_state.multiplicity == 1:
            share = weight_in_sector(model.symmetry, hamiltonian.hilbert, ground_state.state)
            if share < 0.5:
                print("but the exact ground state is not in this sector: the run will end above it (--symmetry none)")
    hilbert = hamiltonian.hilbert
    terms = model.symmetry.number_of_orbits(hilbert, device) if isinstance(model, OnOrbits) else hilbert.dimension
    lattice = lattice_of(hamiltonian)
    model = recipes.sized(model, terms, hilbert.n_sites, device, options.minutes, lattice=lattice)
    wavefunction = model.build(hamiltonian.hilbert, device)
    sampler = TreeSampler(n_distinct=options.distinct) if options.distinct is not None else None
    vmc = VMC(hamiltonian, wavefunction, sampler, unit=unit)
    exhaustive = isinstance(vmc.sampler, ExhaustiveSampler)
    optimiser = exact_steps(options.optimiser) if exhaustive else options.optimiser
    vmc = VMC(hamiltonian, wavefunction, sampler, optimiser, unit=unit)
    steps, wanted = recipes.steps_within(options.minutes, vmc.of_steps, vmc.sampler, device)
    if options.run.steps is None and steps < wanted:
        print(f"{steps} steps instead of {wanted}, as far as can be told what fits into --minutes {options.minutes:g}")
    run = replace(options.run, steps=options.run.steps or steps)
    initial: dict[str, Any] = {}
    if options.initial is not None:
        source = Archive.open(options.initial)
        print(transfer(wavefunction, hamiltonian, source))
        initial |= origin(source)
    if options.pretrain != "none":
        initial |= {"fit": options.pretrain, "steps": FIT_STEPS, "fidelity": FIT_FIDELITY}
    config = vmc.config(run, initial or None)
    threads = use_threads_for(options.threads, vmc.sampler, vmc.of_steps)
    print(plan(vmc, run, threads))
    archive = checked_archive(options.archive or Path("results") / f"{name}-{digest(config)}.h5")
    if options.pretrain != "none" and not (archive.exists() and Archive.open(archive).has_checkpoint):
        target = pretraining_target(options.pretrain, model, hamiltonian, ground_state)
        found = fit(wavefunction, target, steps=FIT_STEPS, fidelity=FIT_FIDELITY)
        print(f"fit to the {options.pretrain} state: {found}")
    archive.parent.mkdir(parents=True, exist_ok=True)
    result = vmc.run(
        **asdict(run),
        archive=archive,
        exact=ground_state,
        minutes=minutes_left(options.minutes),
        flush=options.flush,
        watch=[] if options.tensorboard is None else [TensorBoard(options.tensorboard)],
        started_by=options.started_by,
        initial=initial or None,
    )
    leave(result, archive, hamiltonian.hilbert, ground_state)
    return result


def pretraining_target(
    kind: str, model: WavefunctionConfig, hamiltonian: Hamiltonian, ground_state: ExactGroundState | None
) -> Target:
    """What --pretrain fits to.

    Raises:
        ValueError: there is no such state.
    """
    if kind == "exact":
        if ground_state is None:
            raise ValueError("--pretrain exact needs the exact ground state: raise --exact-limit, or leave it out.")
        return VectorTarget(hamiltonian.hilbert, ground_state.state)
    reference = getattr(getattr(model, "base", model), "reference", None)
    if not isinstance(reference, (SlaterDeterminant, ProjectedDeterminant)):
        found = "no reference" if reference is None else f"the reference {type(reference).__name__}"
        raise ValueError(
            f"--pretrain mean-field fits to the determinant that gives the model its signs, but this one has {found}: "
            "only fermions with signs have a determinant; choose exact or none."
        )
    return MeanField(hamiltonian.hilbert, reference)


def plan(vmc: VMC, run: RunConfig, threads: int) -> str:
    """One line: what a run is going to do."""
    sampler, parameters = vmc.sampler, vmc.wavefunction.n_parameters
    if isinstance(sampler, ExhaustiveSampler):
        samples = "every configuration in each"
    elif isinstance(sampler, TreeSampler) and sampler.n_distinct is not None:
        samples = f"about {sampler.n_distinct:,} distinct configurations in each"
    else:
        samples = str(sampler)
    threads_text = f", {threads} thread{'s' * (threads > 1)}" if vmc.device.type == "cpu" else ""
    return f"{run.steps:,} steps, {samples}, {parameters:,} parameters, on {vmc.device}{threads_text}"


def leave(result: Result, archive: Path, hilbert: HilbertSpace, ground_state: ExactGroundState | None = None) -> None:
    """Print the result, draw the figure beside the archive, and say where both are."""
    print(result)
    figure = archive.with_suffix(".png")
    plot_run(archive, figure, hilbert, ground_state)
    print(f"archive {archive}\nfigure  {figure}")


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


def minutes_left(minutes: float | None) -> float | None:
    """Of a time limit for the whole process, exact diagonalisation and figure included."""
    if minutes is None or minutes <= 0:
        return minutes
    return max(minutes - (time.monotonic() - BEGIN + FIGURE_SECONDS) / 60, 1e-9)


def command_line(
    main: Callable[[Config], object],
    config: type[Config],
    description: str | None,
    *,
    args: Sequence[str] | None = None,
    prog: str | None = None,
) -> None:
    """Parse the command line into the config dataclass and run main; what users got wrong ends in one line.

    Raises:
        SystemExit: with an `ExitCode` other than FINISHED; 2 for wrong options.
    """
    script = Path(inspect.getfile(config)).stem.replace("_", "-")
    with clear_errors():
        arguments = list(sys.argv[1:] if args is None else args)
        arguments = _with_toml(arguments, config, script)
        parsed: Any = tyro.cli(
            config, description=description, args=arguments, prog=prog, config=(tyro.conf.SuppressFixed,)
        )
        if isinstance(getattr(parsed, "options", None), Options):
            started_by = (script, options_table(parsed))
            parsed = replace(parsed, options=replace(parsed.options, started_by=started_by))
        result = main(parsed)
        if isinstance(result, Result) and result.steps_left:
            raise SystemExit(int(ExitCode.TIME_LIMIT))


def _with_toml(arguments: list[str], config: type, script: str) -> list[str]:
    """The arguments with those of the file after --config in front of them."""
    place = next((i for i, argument in enumerate(arguments) if argument.split("=")[0] == "--config"), None)
    if place is None:
        return arguments
    _, equals, path = arguments[place].partition("=")
    if not equals:
        path = "".join(arguments[place + 1 : place + 2])
    if not path:
        return arguments  # tyro says what is missing
    file = Path(path)
    needs_values = any(f.default is MISSING and f.default_factory is MISSING for f in fields(config))
    known = None if needs_values else option_names(config())
    return [*command_line_flags(read_toml(file, script), known, file), *arguments]
