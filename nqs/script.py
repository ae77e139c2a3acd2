"""What every script does around its Hamiltonian: common options, exact comparison, run, archive, figure."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from nqs import exact, recipes
from nqs.archive import ArchiveError
from nqs.exact import ExactGroundState
from nqs.models import WithReference, hartree_fock, phase_agreement
from nqs.optimisation import StochasticReconfiguration
from nqs.protocols import Hamiltonian, WavefunctionConfig
from nqs.report import plot_run
from nqs.samplers import TreeSampler
from nqs.serialise import digest
from nqs.vmc import VMC, NonFiniteError, Result, RunConfig

Config = TypeVar("Config")

OPEN_SHELL = 1e-9  # gap of a mean field


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run, whatever the Hamiltonian; `options: CommonOptions = field(default_factory=Options)` in a script."""

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=lambda: RunConfig(steps=recipes.steps()))
    device: str = field(default_factory=recipes.default_device)
    distinct: int | None = None  # distinct configurations a step; None: chosen from the dimension
    optimiser: StochasticReconfiguration = field(default_factory=StochasticReconfiguration)
    exact_limit: int = 200_000  # diagonalise exactly up to this dimension
    archive: Path | None = None  # HDF5 file, the figure beside it; None: results/, named after the options


CommonOptions = Annotated[Options, tyro.conf.arg(name="")]  # flags without a prefix


def diagonalise(hamiltonian: Hamiltonian, options: Options) -> ExactGroundState | None:
    """Introduce the problem, and find its exact ground state if the sector is small enough."""
    recipes.checked_device(options.device)  # before hours of diagonalisation
    print(hamiltonian, hamiltonian.hilbert, sep="\n")
    if hamiltonian.hilbert.dimension > options.exact_limit:
        print(f"no exact energy: the dimension is over --exact-limit {options.exact_limit:,}")
        return None
    ground_state = exact.ground_state(hamiltonian)
    print(ground_state)
    return ground_state


def with_mean_field(
    model: WavefunctionConfig, hamiltonian: Hamiltonian, ground_state: ExactGroundState | None, *, unit: str
) -> WavefunctionConfig:
    """The model times the signs of the Hartree-Fock determinant, introduced on the screen; fermions."""
    try:
        found = hartree_fock(hamiltonian)
    except RuntimeError as error:
        print(f"{error}\nGoing on without it: a phase head learns all signs.")
        return model
    shell = "" if found.gap > OPEN_SHELL else ", an open shell: one of many determinants"
    print(f"Hartree-Fock E = {found.energy:.8f} {unit}, gap {found.gap:.4f} {unit}{shell}")
    if ground_state is not None:
        agreement = phase_agreement(found.determinant, hamiltonian.hilbert, ground_state.state)
        print(f"its signs are right on {agreement:.2%} of the weight of the exact ground state")
    return WithReference(base=model, reference=found.determinant)


def solve(
    hamiltonian: Hamiltonian,
    model: WavefunctionConfig,
    options: Options,
    *,
    name: str,
    ground_state: ExactGroundState | None,
    unit: str = "J",
) -> Result:
    """Run VMC (or continue the same run), print the result, leave archive and figure.

    Args:
        name: start of the archive's name in results/; a digest of all options follows it.
    """
    wavefunction = model.build(hamiltonian.hilbert, recipes.checked_device(options.device))
    sampler = TreeSampler(n_distinct=options.distinct) if options.distinct is not None else None
    vmc = VMC(hamiltonian, wavefunction, sampler, options.optimiser, unit=unit)
    archive = options.archive or Path("results") / f"{name}-{digest(vmc.config(options.run))}.h5"
    archive.parent.mkdir(parents=True, exist_ok=True)
    result = vmc.run(**asdict(options.run), archive=archive, exact=ground_state)
    print(result)
    figure = archive.with_suffix(".png")
    plot_run(archive, figure, hamiltonian.hilbert, ground_state)
    print(f"archive {archive}\nfigure  {figure}")
    return result


def command_line(main: Callable[[Config], object], config: type[Config], description: str | None) -> None:
    """Parse the command line into the config dataclass and run main; what users got wrong ends in one line."""
    try:
        main(tyro.cli(config, description=description))
    except (ValueError, OSError, ArchiveError, NonFiniteError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: every finished step is in the archive; repeat the command to go on.") from None
