"""Ground state of an operator written with NetKet by variational Monte Carlo, compared with exact diagonalisation.

    python scripts/netket_operator.py                               a ring of 8 spins 1 at the AKLT point
    python scripts/netket_operator.py --theta 0 --D 0.5             Heisenberg chain with single-ion anisotropy
    python scripts/netket_operator.py --L 10 --boundary open        an open chain
    python scripts/netket_operator.py --help                        every option

`netket_operator` below is NetKet code, here the bilinear-biquadratic chain of spins 1. Replace it by any operator of
NetKet: the sector comes from its Hilbert space. At the AKLT point, tan(theta) = 1/3 and D = 0, the exact energy is
-2/3 cos(theta) for each bond (Affleck, Kennedy, Lieb, Tasaki, Phys. Rev. Lett. 59, 799 (1987)).

Repeat a command to see its result again; interrupt it and repeat it to continue where it stopped.
"""

import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from nqs import VMC, ArchiveError, NonFiniteError, RunConfig, exact, recipes
from nqs.hamiltonians import NetKetOperator
from nqs.models import MarshallSign, TransformerConfig, WithReference
from nqs.optimisation import StochasticReconfiguration
from nqs.report import plot_run
from nqs.samplers import TreeSampler
from nqs.serialise import digest


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = sum_<ij> [cos(theta) S_i.S_j + sin(theta) (S_i.S_j)^2] + D sum_i (S^z_i)^2, spins 1 on a chain."""

    L: int = 8  # number of spins
    boundary: Literal["periodic", "open"] = "periodic"
    theta: float = math.atan(1 / 3)  # radians; 0: Heisenberg, atan(1/3): AKLT
    D: float = 0.0  # single-ion anisotropy
    total_sz: int | None = 0  # conserved total S^z; None for all

    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    device: str = field(default_factory=recipes.default_device)
    distinct: int | None = None  # distinct configurations a step; None: chosen from the dimension
    model: TransformerConfig = field(default_factory=recipes.transformer)
    reference: Literal["marshall", "none"] = "marshall"  # the phase head starts from Marshall's signs, or from none
    optimiser: StochasticReconfiguration = field(default_factory=StochasticReconfiguration)

    exact_limit: int = 200_000  # diagonalise exactly up to this dimension
    archive: Path | None = None  # HDF5 file, the figure beside it; None: results/, named after the options


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


def main(config: Config) -> None:
    name = f"bilinear-biquadratic chain, theta = {config.theta:.4g}, D = {config.D:g}"
    hamiltonian = NetKetOperator.from_netket(netket_operator(config), name=name)
    print(hamiltonian)

    ground_state = None
    if hamiltonian.hilbert.dimension <= config.exact_limit:
        ground_state = exact.ground_state(hamiltonian)
        print(ground_state)

    model_config: Any = config.model
    if config.reference == "marshall":
        sublattice = tuple(site % 2 for site in range(config.L))
        model_config = WithReference(base=config.model, reference=MarshallSign(sublattice=sublattice))
    model = model_config.build(hamiltonian.hilbert, recipes.checked_device(config.device))
    sampler = TreeSampler(n_distinct=config.distinct) if config.distinct else None
    vmc = VMC(hamiltonian, model, sampler, config.optimiser)
    file = f"netket_operator-{config.L}-theta{config.theta:.3g}-{digest(vmc.config(config.run))}.h5"
    archive = config.archive or Path("results") / file
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
