"""Ground state of the Fermi-Hubbard model by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/fermi_hubbard.py                                 a ring of 6 sites at half filling, U/t = 4
    python scripts/fermi_hubbard.py --boundary open --U 8           other physics
    python scripts/fermi_hubbard.py --shape 2 4 --U 8               a square lattice
    python scripts/fermi_hubbard.py --n-up 2 --n-down 2 --t2 -0.3   away from half filling, with t'
    python scripts/fermi_hubbard.py --help                          every option

Signs: none if all off-diagonal elements are negative (open chains, rings with odd numbers of each spin); else
those of the unrestricted Hartree-Fock determinant: a phase head learns corrections, or, where the sector is too large
for a sum, its orbitals are those that backflow determinants start from (--model determinant or transformer).

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

from dataclasses import dataclass, field
from typing import Literal

from nqs import Result
from nqs.cli.options import CommonOptions, Couplings, Options, brief, command_line
from nqs.hamiltonians import FermiHubbard, staggered_potential
from nqs.lattice import hypercubic


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -t sum_<ij>,s (c+_is c_js + h.c.) - t2 sum_<<ij>>,s (...) + U sum_i n_iu n_id + V sum_<ij> n_i n_j."""

    shape: tuple[int, ...] = (6,)  # sites along each direction: 6, or 2 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    twist: tuple[float, ...] | None = None  # boundary phase of each direction, radians
    n_up: int | None = None  # number of up electrons; None: half the sites
    n_down: int | None = None  # number of down electrons; None: half the sites
    U: Couplings = 4.0  # on-site interaction: one number, or one for each site
    t: Couplings = 1.0  # hopping: one number, or one for each bond in the order of lattice.bonds()
    t2: Couplings = 0.0  # hopping between second neighbours: one number, or one for each bond of lattice.bonds(2)
    V: Couplings = 0.0  # nearest-neighbour interaction: one number, or one for each bond
    mu: Couplings = 0.0  # chemical potential: one number, or one for each site
    h: Couplings = 0.0  # Zeeman field: one number, or one for each site
    staggered: float = 0.0  # site energy +staggered on one sublattice, -staggered on the other

    options: CommonOptions = field(default_factory=Options)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = FermiHubbard(
        lattice,
        lattice.n_sites // 2 if config.n_up is None else config.n_up,
        lattice.n_sites // 2 if config.n_down is None else config.n_down,
        U=config.U,
        t=config.t,
        t2=config.t2,
        V=config.V,
        mu=config.mu,
        h=config.h,
        potential=staggered_potential(lattice, config.staggered) if config.staggered else None,
        twist=config.twist,
    )
    sites = "x".join(map(str, config.shape))
    electrons = f"{hamiltonian.n_up}+{hamiltonian.n_down}"
    name = f"fermi_hubbard-{sites}-N{electrons}-U{brief(config.U)}"
    return config.options.ground_state(hamiltonian, name=name)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
