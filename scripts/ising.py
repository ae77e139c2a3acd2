"""Ground state of the transverse-field Ising model by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/ising.py                                         a critical ring of 12 spins
    python scripts/ising.py --h 0.5 --g 0.1                         other physics
    python scripts/ising.py --shape 4 4 --h 3                       a square lattice
    python scripts/ising.py --help                                  every option

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

from dataclasses import dataclass, field
from typing import Literal

from nqs import Result
from nqs.cli.options import CommonOptions, Couplings, Options, brief, command_line
from nqs.hamiltonians import Ising
from nqs.lattice import hypercubic


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = -J sum_<ij> Z_i Z_j - h sum_i X_i - g sum_i Z_i with Pauli matrices."""

    shape: tuple[int, ...] = (12,)  # sites along each direction: 12, or 4 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    h: Couplings = 1.0  # transverse field: one number, or one for each site
    J: Couplings = 1.0  # positive: ferromagnetic; one number, or one for each bond in the order of lattice.bonds()
    g: Couplings = 0.0  # longitudinal field: one number, or one for each site

    options: CommonOptions = field(default_factory=Options)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = Ising(lattice, h=config.h, J=config.J, g=config.g)
    sites = "x".join(map(str, config.shape))
    name = f"ising-{sites}-h{brief(config.h)}"
    return config.options.ground_state(hamiltonian, name=name)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
