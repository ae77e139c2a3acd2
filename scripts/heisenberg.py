"""Ground state of Heisenberg models by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/heisenberg.py                                    a ring of 12 spins 1/2
    python scripts/heisenberg.py --shape 4 4 --J 1 0.5              J1-J2 on a square lattice
    python scripts/heisenberg.py --Delta 0.5 --spin 1               XXZ, spin 1
    python scripts/heisenberg.py --shape 6 --J-by-bond 1 0.5 1 0.5 1 0.5   a dimerised ring
    python scripts/heisenberg.py --help                             every option

Signs: none if all off-diagonal elements are negative; for antiferromagnets on bipartite lattices Marshall's rule,
alone if it is exact, else with a phase head that learns corrections; otherwise a phase head alone.

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

from dataclasses import dataclass, field
from typing import Literal

from nqs import Result
from nqs.cli.options import CommonOptions, Couplings, Options, command_line
from nqs.hamiltonians import Heisenberg
from nqs.lattice import hypercubic


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = sum_k J_k sum_<ij>_k [S^x_i S^x_j + S^y_i S^y_j + Delta_k S^z_i S^z_j] - h sum_i S^z_i, S = sigma/2."""

    shape: tuple[int, ...] = (12,)  # sites along each direction: 12, or 4 4
    boundary: Literal["periodic", "open", "antiperiodic"] = "periodic"
    total_sz: float | None = 0.0  # conserved total S^z; None for all
    J: tuple[float, ...] = (1.0,)  # exchange with first, second, ... neighbours; positive: antiferromagnetic
    Delta: tuple[float, ...] = (1.0,)  # anisotropy of S^z S^z, one for all neighbours or one for each
    J_by_bond: tuple[float, ...] | None = (
        None  # exchange of each nearest-neighbour bond, in the order of lattice.bonds()
    )
    h: Couplings = 0.0  # field along z: one number, or one for each site
    spin: tuple[float, ...] = (0.5,)  # length of the spins; several are repeated along the sites: 0.5 1 alternate

    options: CommonOptions = field(default_factory=Options)


def main(config: Config) -> Result:
    lattice = hypercubic(config.shape, config.boundary)
    first, *further = config.J
    J = (first if config.J_by_bond is None else config.J_by_bond, *further)
    cells, rest = divmod(lattice.n_sites, len(config.spin))
    if rest:
        raise ValueError(f"spin={config.spin}: the {lattice.n_sites} sites are no multiple of {len(config.spin)}.")
    spin = config.spin[0] if len(config.spin) == 1 else config.spin * cells
    hamiltonian = Heisenberg(lattice, config.total_sz, J=J, Delta=config.Delta, h=config.h, spin=spin)
    sites = "x".join(map(str, config.shape))
    name = f"heisenberg-{sites}-J{'-'.join(f'{J:g}' for J in config.J)}"
    return config.options.ground_state(hamiltonian, name=name)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
