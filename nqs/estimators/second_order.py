r"""Second-order perturbation theory (Epstein-Nesbet) for what a variational energy lacks; no upper bound.

From a state c normalised on a list of configurations i, over all others k:

    E(c) = sum_ij c_i^* H_ij c_j,      E_2 = sum_k |sum_i H_ki c_i|^2 / (E(c) - H_kk).
"""

# Shapes: D configurations, L sites.
from dataclasses import dataclass

import torch
from jaxtyping import Num, UInt8
from torch import Tensor

from nqs.estimators.selected import given_state
from nqs.protocols import Hamiltonian


@dataclass(frozen=True, kw_only=True)
class SecondOrder:
    """
    Attributes:
        energy: E(c), an upper bound of the ground-state energy.
        correction: E_2, negative for a ground state; energy + correction is no bound.
        n_configurations: D.
    """

    energy: float
    correction: float
    n_configurations: int


@torch.no_grad()
def second_order(
    hamiltonian: Hamiltonian, configurations: UInt8[Tensor, "D L"], amplitudes: Num[Tensor, " D"]
) -> SecondOrder:
    """E(c) and E_2 of a real Hamiltonian, from the amplitudes of distinct configurations, which need no norm.

    A state that is real up to one phase is taken to be real.

    Raises:
        ValueError: the Hamiltonian has complex elements, or all amplitudes are 0.
    """
    norm = amplitudes.abs().square().sum().sqrt()
    if not len(amplitudes) or not norm > 0:
        raise ValueError("the amplitudes are all 0.")
    largest = amplitudes[amplitudes.abs().argmax()]
    c = (amplitudes * (largest.conj() / largest.abs()) / norm).real.double()
    c = c / c.norm()
    found = given_state(hamiltonian, configurations, c)
    return SecondOrder(energy=found.energy, correction=found.second_order, n_configurations=len(configurations))
