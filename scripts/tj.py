"""Ground state of the t-J model by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/tj.py                                            a ring of 8 sites with two holes, J/t = 0.4
    python scripts/tj.py --J 1.2 --n-up 2 --n-down 2                other physics
    python scripts/tj.py --shape 2 4 --boundary open                a ladder
    python scripts/tj.py --help                                     every option

Signs: none if all off-diagonal elements are negative (open chains, rings with odd numbers of each spin); else a
phase head learns them.

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

from dataclasses import dataclass, field
from typing import Literal

from nqs import Result
from nqs.cli.options import CommonOptions, Couplings, Options, brief, command_line
from nqs.hamiltonians import TJ, staggered_potential
from nqs.lattice import hypercubic


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -t sum_<ij>,s (c+_is c_js + h.c.) + J sum_<ij> (S_i . S_j - n_i n_j / 4), no doubly occupied sites."""

    shape: tuple[int, ...] = (8,)  # number of sites along each direction: 8, or 2 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    twist: tuple[float, ...] | None = None  # boundary phase of each direction, radians
    n_up: int = 3  # number of up electrons
    n_down: int = 3  # number of down electrons
    J: Couplings = 0.4  # exchange: one number, or one for each bond in the order of lattice.bonds()
    t: Couplings = 1.0  # hopping: one number, or one for each bond
    staggered: float = 0.0  # site energy +staggered on one sublattice, -staggered on the other

    options: CommonOptions = field(default_factory=Options)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = TJ(
        lattice,
        config.n_up,
        config.n_down,
        J=config.J,
        t=config.t,
        potential=staggered_potential(lattice, config.staggered) if config.staggered else None,
        twist=config.twist,
    )
    sites = "x".join(map(str, config.shape))
    name = f"tj-{sites}-N{config.n_up}+{config.n_down}-J{brief(config.J)}"
    return config.options.ground_state(hamiltonian, name=name)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
