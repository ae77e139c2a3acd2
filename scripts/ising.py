"""Ground state of the transverse-field Ising model by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/ising.py                                         a critical ring of 12 spins
    python scripts/ising.py --h 0.5 --g 0.1                         other physics
    python scripts/ising.py --shape 4 4 --h 3                       a square lattice
    python scripts/ising.py --help                                  every option

Repeat a command to see its result again; interrupt it and repeat it to continue where it stopped.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nqs import VMC, ArchiveError, NonFiniteError, RunConfig, exact, recipes
from nqs.hamiltonians import Ising
from nqs.lattice import hypercubic
from nqs.models import TransformerConfig
from nqs.optimisation import StochasticReconfiguration
from nqs.report import plot_run
from nqs.samplers import TreeSampler
from nqs.serialise import digest


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -J sum_<ij> Z_i Z_j - h sum_i X_i - g sum_i Z_i with Pauli matrices."""

    shape: tuple[int, ...] = (12,)  # sites along each direction: 12, or 4 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    h: float = 1.0  # transverse field
    J: float = 1.0  # coupling; positive: ferromagnetic
    g: float = 0.0  # longitudinal field

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    device: str = field(default_factory=recipes.default_device)
    distinct: int | None = None  # distinct configurations a step; None: chosen from the dimension
    # Positive wavefunction: exact for h >= 0.
    model: TransformerConfig = field(default_factory=lambda: recipes.transformer(phase="zero"))
    optimiser: StochasticReconfiguration = field(default_factory=StochasticReconfiguration)

    exact_limit: int = 200_000  # diagonalise exactly up to this dimension
    archive: Path | None = None  # HDF5 file, the figure beside it; None: results/, named after the options


def main(config: Config) -> None:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = Ising(lattice, h=config.h, J=config.J, g=config.g)
    if config.model.phase == "zero" and not hamiltonian.is_stoquastic:
        raise ValueError(f"h={config.h:g}: the ground state has signs; -h has the same energies without, take that.")
    print(hamiltonian, hamiltonian.hilbert, sep="\n")

    ground_state = None
    if hamiltonian.hilbert.dimension <= config.exact_limit:
        ground_state = exact.ground_state(hamiltonian)
        print(ground_state)

    model = config.model.build(hamiltonian.hilbert, recipes.checked_device(config.device))
    sampler = TreeSampler(n_distinct=config.distinct) if config.distinct else None
    vmc = VMC(hamiltonian, model, sampler, config.optimiser)
    sites = "x".join(map(str, config.shape))
    name = f"ising-{sites}-h{config.h:g}-{digest(vmc.config(config.run))}.h5"
    archive = config.archive or Path("results") / name
    archive.parent.mkdir(parents=True, exist_ok=True)
    result = vmc.run(**asdict(config.run), archive=archive, exact=ground_state)
    print(result)

    figure = archive.with_suffix(".png")
    plot_run(archive, figure, hamiltonian.hilbert, ground_state)
    print(f"archive {archive}\nfigure  {figure}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Config, description=__doc__))
    except (ValueError, ArchiveError, NonFiniteError) as error:
        raise SystemExit(f"error: {error}") from None
