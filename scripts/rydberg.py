"""Ground state of Rydberg atoms by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/rydberg.py                                       the PXP model on a ring of 16 atoms
    python scripts/rydberg.py --shape 21 --boundary open --Delta 1.2 --V 30 --blockade 0
                                                                    van der Waals interactions, no blockade
    python scripts/rydberg.py --shape 4 4 --Delta 1 --V 5           a square lattice, nearest neighbours excluded
    python scripts/rydberg.py --help                                every option

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

from dataclasses import dataclass, field
from typing import Literal

from nqs import Result
from nqs.cli.options import CommonOptions, Options, command_line
from nqs.hamiltonians import Rydberg
from nqs.lattice import hypercubic


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = Omega/2 sum_i X_i - Delta sum_i n_i + V sum_i<j n_i n_j / r_ij^6."""

    shape: tuple[int, ...] = (16,)  # atoms along each direction: 16, or 4 4
    boundary: Literal["periodic", "open"] = "periodic"
    Omega: float = 2.0  # Rabi frequency
    Delta: float = 0.0  # detuning; positive: favours excited atoms
    V: float = 0.0  # interaction of nearest neighbours
    blockade: float = 1.0  # largest distance of atoms that are never excited together; 0: none
    reach: float | None = None  # largest distance of atoms that interact; None: all

    options: CommonOptions = field(default_factory=Options)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    hamiltonian = Rydberg(
        lattice,
        Omega=config.Omega,
        Delta=config.Delta,
        V=config.V,
        blockade=config.blockade,
        reach=config.reach,
    )
    sites = "x".join(map(str, config.shape))
    name = f"rydberg-{sites}-Delta{config.Delta:g}-V{config.V:g}"
    return config.options.ground_state(hamiltonian, name=name)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
