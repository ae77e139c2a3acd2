"""A state on a small sector whose energies and gradients are sums, to measure estimators on."""

# Shapes: D configurations of the sector, P parameters.
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs import exact, recipes
from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.hamiltonians import BoseHubbard, Heisenberg
from nqs.lattice import chain
from nqs.models import TransformerConfig
from nqs.optimisation.jacobian import jacobian
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.recipes.known_signs import signs
from nqs.samplers import TreeSampler
from nqs.vmc.loop import VMC

STEPS, DISTINCT, FEWEST = 8, 200, 4  # of the optimisation; distinct configurations of a step at most, and a fraction


def hamiltonian_of(problem: str) -> Any:
    """Rings whose sectors have 6,435 (bosons) and 12,870 (spins) configurations; smaller ones with the size in the
    name."""
    name, size = problem.rsplit("-", 1)
    if name == "bose-hubbard":
        return BoseHubbard(chain(int(size)), int(size), U=4.0)
    return Heisenberg(chain(int(size)), total_sz=0)


def early_state(problem: str, seed: int, *, steps: int = STEPS, width: int = 8, model: Any = None) -> Wavefunction:
    """A network after few steps: local energies scatter, and no estimate is trivially right.

    Args:
        model: its configuration; None: a transformer of the width.
    """
    h = hamiltonian_of(problem)
    if model is None:
        model = TransformerConfig(
            width=width, layers=1, heads=2, mlp_ratio=2, phase="zero", reference=signs(h).reference, seed=seed
        )  # fmt: skip
    psi = model.build(h.hilbert)
    sampler = TreeSampler(n_distinct=min(DISTINCT, max(1, h.hilbert.dimension // FEWEST)))
    VMC(h, psi, sampler, recipes.optimiser(exact=False), sampler).run(steps, seed=seed, progress=False)
    return psi


class Sector(NamedTuple):
    """A state with everything known.

    Attributes:
        p: |psi|^2.
        local: local energies, real.
        O: gradients of log|psi|.
        energy: <H>.
        gradient: of the energy, 2 <(E_loc - E) O>.
    """

    n: UInt8[Tensor, "D L"]
    p: Float64[Tensor, " D"]
    local: Float64[Tensor, " D"]
    O: Float64[Tensor, "D P"]
    energy: float
    gradient: Float64[Tensor, " P"]


@torch.no_grad()
def sector(h: Hamiltonian, psi: Wavefunction, *, gradients: bool = True) -> Sector:
    """All of a real positive state, up to the signs of its reference."""
    n = h.hilbert.configurations()
    log_modulus, phase = log_psi_in_chunks(psi, n)
    amplitudes = log_modulus.exp() * phase.cos()
    p = amplitudes.square() / amplitudes.square().sum()
    local = torch.from_numpy(exact.sparse_matrix(h) @ amplitudes.numpy()) / amplitudes
    energy = (p @ local).item()
    rows = jacobian(psi, n)[0].double() if gradients else local.new_zeros((len(n), 0))
    return Sector(n, p, local, rows, energy, 2 * (p * (local - energy)) @ rows)
