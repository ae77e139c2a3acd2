"""Ground state of an operator written with NetKet by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/netket_operator.py                               a ring of 8 spins 1 at the AKLT point
    python scripts/netket_operator.py --theta 0 --D 0.5             Heisenberg chain with single-ion anisotropy
    python scripts/netket_operator.py --L 10 --boundary open        an open chain
    python scripts/netket_operator.py --help                        every option

`netket_operator` below is NetKet code, here the bilinear-biquadratic chain of spins 1. Replace it by any operator of
NetKet: the sector comes from its Hilbert space. At the AKLT point, tan(theta) = 1/3 and D = 0, the exact energy is
-2/3 cos(theta) for each bond (Affleck, Kennedy, Lieb, Tasaki, Phys. Rev. Lett. 59, 799 (1987)).

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

import math
import os
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nqs import Result
from nqs.cli.options import CommonOptions, Options, command_line
from nqs.hamiltonians import NetKetOperator
from nqs.models import MarshallSign


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = sum_<ij> [cos(theta) S_i.S_j + sin(theta) (S_i.S_j)^2] + D sum_i (S^z_i)^2, spins 1 on a chain."""

    L: int = 8  # number of spins
    boundary: Literal["periodic", "open"] = "periodic"
    theta: float = math.atan(1 / 3)  # radians; 0: Heisenberg, atan(1/3): AKLT
    D: float = 0.0  # single-ion anisotropy
    total_sz: int | None = 0  # conserved total S^z; None for all

    options: CommonOptions = field(default_factory=Options)


def netket_operator(config: Config) -> Any:
    """The operator in NetKet."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # NetKet only states the operator: the GPU is for nqs
    import netket as nk

    if 2 + (config.boundary == "periodic") > config.L:
        raise ValueError(f"L={config.L}: an open chain has 2 spins or more, a ring 3 or more.")
    graph = nk.graph.Chain(config.L, pbc=config.boundary == "periodic")
    hilbert = nk.hilbert.Spin(s=1, N=config.L, total_sz=config.total_sz)
    raising, sz = np.diag([2**0.5, 2**0.5], 1), np.diag([1.0, 0.0, -1.0])  # from spin up to spin down
    exchange = np.kron(raising, raising.T) / 2
    product = exchange + exchange.T + np.kron(sz, sz)  # S_i.S_j
    bond = math.cos(config.theta) * product + math.sin(config.theta) * product @ product
    return nk.operator.GraphOperator(hilbert, graph, site_ops=[config.D * sz @ sz], bond_ops=[bond])


def main(config: Config) -> Result:
    formula = f"bilinear-biquadratic chain, theta = {config.theta:.4g}, D = {config.D:g}"
    hamiltonian = NetKetOperator.from_netket(netket_operator(config), name=formula)
    marshall = MarshallSign(sublattice=tuple(site % 2 for site in range(config.L)))  # a phase head learns corrections
    name = f"netket_operator-{config.L}-theta{config.theta:.3g}"
    return config.options.ground_state(hamiltonian, name=name, reference=marshall)


if __name__ == "__main__":
    command_line(main, Config, __doc__)
