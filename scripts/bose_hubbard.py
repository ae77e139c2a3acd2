"""Ground state of the Bose-Hubbard model by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/bose_hubbard.py                                  a ring of 8 sites, 8 bosons, U/J = 4
    python scripts/bose_hubbard.py --U 16 --n-particles 5           other physics
    python scripts/bose_hubbard.py --shape 3 3 --n-particles 9      a square lattice
    python scripts/bose_hubbard.py --help                           every option

Repeat a command to see its result again; interrupt it and repeat it to continue where it stopped.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from nqs import VMC, ArchiveError, NonFiniteError, RunConfig, exact, recipes
from nqs.hamiltonians import BoseHubbard, harmonic_trap
from nqs.lattice import hypercubic
from nqs.models import TransformerConfig
from nqs.optimisation import StochasticReconfiguration
from nqs.report import plot_run
from nqs.samplers import TreeSampler
from nqs.serialise import digest


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -J sum_<ij> (b+_i b_j + h.c.) + U/2 sum_i n_i (n_i - 1) + V sum_<ij> n_i n_j + sum_i epsilon_i n_i."""

    shape: tuple[int, ...] = (8,)  # sites along each direction: 8, or 3 3
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    n_particles: int = 8
    U: float = 4.0  # on-site interaction
    J: float = 1.0  # hopping
    V: float = 0.0  # nearest-neighbour interaction
    trap: float = 0.0  # epsilon_i = trap * (distance from the centre)^2
    n_max: int | None = None  # largest occupation of a site; None for no cutoff

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    device: str = field(default_factory=recipes.default_device)
    distinct: int | None = None  # distinct configurations a step; None: chosen from the dimension
    # Positive wavefunction: exact for J > 0 without flux.
    model: TransformerConfig = field(default_factory=lambda: recipes.transformer(phase="zero"))
    optimiser: StochasticReconfiguration = field(default_factory=StochasticReconfiguration)

    exact_limit: int = 200_000  # diagonalise exactly up to this dimension
    archive: Path | None = None  # HDF5 file, the figure beside it; None: results/, named after the options


def main(config: Config) -> None:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = BoseHubbard(
        lattice,
        config.n_particles,
        U=config.U,
        J=config.J,
        V=config.V,
        potential=harmonic_trap(lattice, config.trap) if config.trap else None,
        n_max=config.n_max,
    )
    if config.model.phase == "zero" and not hamiltonian.is_stoquastic:
        raise ValueError(
            "this Hamiltonian has positive hopping elements, so its ground state has signs: add --model.phase learned."
        )
    print(hamiltonian, hamiltonian.hilbert, sep="\n")

    ground_state = None
    if hamiltonian.hilbert.dimension <= config.exact_limit:
        ground_state = exact.ground_state(hamiltonian)
        print(ground_state)

    model = config.model.build(hamiltonian.hilbert, recipes.checked_device(config.device))
    sampler = TreeSampler(n_distinct=config.distinct) if config.distinct else None
    vmc = VMC(hamiltonian, model, sampler, config.optimiser)
    sites = "x".join(map(str, config.shape))
    name = f"bose_hubbard-{sites}-N{config.n_particles}-U{config.U:g}-{digest(vmc.config(config.run))}.h5"
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
