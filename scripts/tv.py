"""Ground state of the t-V model of spinless fermions by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/tv.py                                            a ring of 10 sites at half filling, V/t = 1
    python scripts/tv.py --V 4 --n-particles 3                      other physics
    python scripts/tv.py --shape 4 4 --boundary open                a square lattice
    python scripts/tv.py --help                                     every option

Signs: none if all off-diagonal elements are negative (open chains, rings with an odd number of fermions); else
those of the Hartree-Fock determinant: a phase head learns corrections, or, where the sector is too large for a sum, its
orbitals are those that backflow determinants start from (--model determinant or transformer).

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

from dataclasses import dataclass, field
from typing import Literal

from nqs import Result
from nqs.cli.options import CommonOptions, Couplings, Options, brief, command_line
from nqs.hamiltonians import TV, staggered_potential
from nqs.lattice import hypercubic


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -t sum_<ij> (c+_i c_j + h.c.) + V sum_<ij> n_i n_j + sum_i epsilon_i n_i."""

    shape: tuple[int, ...] = (10,)  # sites along each direction: 10, or 4 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    twist: tuple[float, ...] | None = None  # boundary phase of each direction, radians
    n_particles: int | None = None  # number of fermions; None: half the sites
    V: Couplings = (
        1.0  # nearest-neighbour interaction: one number, or one for each bond in the order of lattice.bonds()
    )
    t: Couplings = 1.0  # hopping: one number, or one for each bond
    mu: Couplings = 0.0  # chemical potential: one number, or one for each site
    staggered: float = 0.0  # site energy +staggered on one sublattice, -staggered on the other

    options: CommonOptions = field(default_factory=Options)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = TV(
        lattice,
        lattice.n_sites // 2 if config.n_particles is None else config.n_particles,
        V=config.V,
        t=config.t,
        mu=config.mu,
        potential=staggered_potential(lattice, config.staggered) if config.staggered else None,
        twist=config.twist,
    )
    sites = "x".join(map(str, config.shape))
    name = f"tv-{sites}-N{hamiltonian.n_particles}-V{brief(config.V)}"
    return config.options.ground_state(hamiltonian, name=name)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
