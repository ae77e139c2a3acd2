"""Ground state of the t-V model of spinless fermions by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/tv.py                                            a ring of 10 sites at half filling, V/t = 1
    python scripts/tv.py --V 4 --n-particles 3                      other physics
    python scripts/tv.py --shape 4 4 --boundary open                a square lattice
    python scripts/tv.py --help                                     every option

Signs: none where all off-diagonal elements are negative (open chains, rings with an odd number of fermions); elsewhere
those of the determinant of free fermions, with a phase head that learns the rest.

Repeat a command to see its result again; interrupt it and repeat it to continue where it stopped.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from nqs import VMC, ArchiveError, NonFiniteError, RunConfig, exact, recipes
from nqs.hamiltonians import TV, staggered_potential
from nqs.lattice import hypercubic
from nqs.models import SlaterDeterminant, TransformerConfig, WithReference
from nqs.optimisation import StochasticReconfiguration
from nqs.protocols import WavefunctionConfig
from nqs.report import plot_run
from nqs.samplers import TreeSampler
from nqs.serialise import digest


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -t sum_<ij> (c+_i c_j + h.c.) + V sum_<ij> n_i n_j + sum_i epsilon_i n_i."""

    shape: tuple[int, ...] = (10,)  # sites along each direction: 10, or 4 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    twist: tuple[float, ...] | None = None  # boundary phase of each direction, radians
    n_particles: int | None = None  # number of fermions; None: half the sites
    V: float = 1.0  # nearest-neighbour interaction
    t: float = 1.0  # hopping
    staggered: float = 0.0  # site energy +staggered on one sublattice, -staggered on the other

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    device: str = field(default_factory=recipes.default_device)
    distinct: int | None = None  # distinct configurations a step; None: chosen from the dimension
    model: TransformerConfig = field(default_factory=recipes.transformer)
    reference: Literal["auto", "none"] = "auto"  # signs as above; none: a phase head learns all of them
    optimiser: StochasticReconfiguration = field(default_factory=StochasticReconfiguration)

    exact_limit: int = 200_000  # diagonalise exactly up to this dimension
    archive: Path | None = None  # HDF5 file, the figure beside it; None: results/, named after the options


def wavefunction(config: Config, hamiltonian: TV) -> WavefunctionConfig:
    """The network with what is known of the signs."""
    if config.model.phase == "zero" and not hamiltonian.is_stoquastic:
        raise ValueError("no rule gives the exact signs of this ground state: add --model.phase learned.")
    if config.reference == "none":
        return config.model
    if hamiltonian.is_stoquastic:
        return replace(config.model, phase="zero")
    one_fermion = exact.sparse_matrix(replace(hamiltonian, n_particles=1)).toarray()[::-1, ::-1]  # the last site first
    orbitals = np.linalg.eigh(one_fermion)[1][:, : hamiltonian.n_particles]
    return WithReference(base=config.model, reference=SlaterDeterminant.from_orbitals(orbitals))


def main(config: Config) -> None:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = TV(
        lattice,
        lattice.n_sites // 2 if config.n_particles is None else config.n_particles,
        V=config.V,
        t=config.t,
        potential=staggered_potential(lattice, config.staggered) if config.staggered else None,
        twist=config.twist,
    )
    print(hamiltonian, hamiltonian.hilbert, sep="\n")

    ground_state = None
    if hamiltonian.hilbert.dimension <= config.exact_limit:
        ground_state = exact.ground_state(hamiltonian)
        print(ground_state)

    model = wavefunction(config, hamiltonian).build(hamiltonian.hilbert, recipes.checked_device(config.device))
    sampler = TreeSampler(n_distinct=config.distinct) if config.distinct else None
    vmc = VMC(hamiltonian, model, sampler, config.optimiser, unit="t")
    sites = "x".join(map(str, config.shape))
    name = f"tv-{sites}-N{hamiltonian.n_particles}-V{config.V:g}-{digest(vmc.config(config.run))}.h5"
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
