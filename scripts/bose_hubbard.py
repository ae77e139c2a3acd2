"""Ground state of the Bose-Hubbard model by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/bose_hubbard.py                                  a ring of 8 sites, 8 bosons, U/J = 4
    python scripts/bose_hubbard.py --U 16 --n-particles 5           other physics
    python scripts/bose_hubbard.py --shape 3 3 --n-particles 9      a square lattice
    python scripts/bose_hubbard.py --mu 0.3 -1.1 0.7 0.2 0 0 1 -0.5 a disordered chemical potential
    python scripts/bose_hubbard.py --help                           every option

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

from dataclasses import dataclass, field
from typing import Literal

from nqs import Result
from nqs.cli.options import CommonOptions, Couplings, Options, brief, command_line
from nqs.hamiltonians import BoseHubbard, harmonic_trap
from nqs.lattice import hypercubic


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -J sum_<ij> (b+_i b_j + h.c.) + U/2 sum_i n_i (n_i - 1) + V sum_<ij> n_i n_j + sum_i epsilon_i n_i."""

    shape: tuple[int, ...] = (8,)  # number of sites along each direction: 8, or 3 3
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    n_particles: int = 8
    U: Couplings = 4.0  # on-site interaction: one number, or one for each site
    J: Couplings = 1.0  # hopping: one number, or one for each bond in the order of lattice.bonds()
    V: Couplings = 0.0  # nearest-neighbour interaction: one number, or one for each bond
    mu: Couplings = 0.0  # chemical potential: one number, or one for each site
    trap: float = 0.0  # epsilon_i = trap * (distance from the centre)^2
    n_max: int | None = None  # largest occupation of a site; None for no cutoff

    options: CommonOptions = field(default_factory=Options)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = BoseHubbard(
        lattice,
        config.n_particles,
        U=config.U,
        J=config.J,
        V=config.V,
        mu=config.mu,
        potential=harmonic_trap(lattice, config.trap) if config.trap else None,
        n_max=config.n_max,
    )
    sites = "x".join(map(str, config.shape))
    name = f"bose_hubbard-{sites}-N{config.n_particles}-U{brief(config.U)}"
    return config.options.ground_state(hamiltonian, name=name)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
