"""Matrix elements of any operator in sampled states.

    <phi|O|psi> = sum_n |phi(n)|^2 o(n),    o(n) = sum_n' <n|O|n'> psi(n') / phi(n),

the mean of o over samples of phi. With normalised states it is unbiased, and the variance of o is at most <O+ O> of
psi. Expectation values are the case phi = psi, whose norm cancels.
"""

# Shapes: b samples of a chunk, K connected configurations.
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Num, UInt8
from torch import Tensor

from nqs.amplitudes.prefixes import log_psi_sharing_prefixes
from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.hilbert import HilbertSpace
from nqs.observables.expectation import Expectation, means
from nqs.observables.moves import MOVES_CPU_BYTES, AmplitudeRatios
from nqs.protocols import Connected, LogPsi, Wavefunction, max_connected
from nqs.samples import Samples, distinct


@runtime_checkable
class Elements(Protocol):
    """What is asked of an operator: the contract of a Hamiltonian, but for Hermiticity.

    `is_hermitian` is optional: False if it is not; True by default, which is checked.
    """

    @property
    def hilbert(self) -> HilbertSpace: ...

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]: ...

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected: ...


@torch.no_grad()
def matrix_element(
    operator: Any, samples: Samples, wavefunction: Wavefunction, ket: Wavefunction | None = None
) -> Expectation:
    """<psi|O|psi>, or <phi|O|psi> between two normalised states, with its standard error; a scalar.

    The value is real where the operator is Hermitian, complex elsewhere; the error is that of the complex number.

    Args:
        operator: a sum of products (nqs.hamiltonians.operators), or anything with `diagonal` and `connected`, such as a
            Hamiltonian. What leads out of the sector of the ket does not contribute.
        samples: of `wavefunction`, on its sector (`Wavefunction.to_sector_samples` of symmetric states).
        wavefunction: psi, or phi where a ket is given.
        ket: psi, in the same or another sector of the same particles.

    Raises:
        ValueError: another space, an operator that is not Hermitian and does not say so, or states that are not
            normalised.
    """
    state = wavefunction if ket is None else ket
    elements, hermitian = _elements(operator, wavefunction.hilbert, state.hilbert)
    amplitudes = _OfKet(samples, ket) if ket is not None else AmplitudeRatios(wavefunction, samples)
    if ket is not None and not (wavefunction.normalised and ket.normalised):
        raise ValueError("an element between two states needs both normalised: log psi of one of them is not.")
    square, weights = wavefunction.hilbert == state.hilbert, samples.weights

    def local(rows: Tensor) -> Tensor:
        n = samples.configurations[rows]
        m, x, parents = elements.connected(n)
        inside = state.hilbert.contains(m)
        m, x, parents = m[inside], x[inside].to(torch.complex128), rows[parents[inside]]
        values = torch.zeros(len(weights), dtype=torch.complex128, device=n.device)
        values.index_add_(0, parents, x * amplitudes.ratios(m, parents))
        if square:
            diagonal = elements.diagonal(n).to(torch.complex128)
            values[rows] += diagonal if ket is None else diagonal * amplitudes.ratios(n, rows)
        return torch.where(weights > 0, values, 0)[rows]

    bytes_per_sample = max_connected(elements) * (2 * wavefunction.hilbert.n_sites + 256)
    found = means(samples, local, bytes_per_sample, MOVES_CPU_BYTES)
    return Expectation(found.value.real.clone(), found.error) if hermitian and ket is None else found


def _elements(operator: Any, bra: HilbertSpace, ket: HilbertSpace) -> tuple[Any, bool]:
    """The operator with `diagonal` and `connected`, and whether it is Hermitian."""
    if hasattr(operator, "on"):
        elements = operator.on(bra, ket)
        return elements, elements.is_hermitian
    if not isinstance(operator, Elements):
        raise TypeError(
            f"{type(operator).__name__} is no operator: give a sum of products (nqs.hamiltonians.operators), or an "
            "object with hilbert, diagonal and connected."
        )
    if operator.hilbert not in (bra, ket) or bra != ket:
        raise ValueError(
            f"the operator acts on {operator.hilbert}, the states live on {bra} and {ket}: give an operator of that "
            "space, or write it as a sum of products (nqs.hamiltonians.operators), which fits any."
        )
    if not getattr(operator, "is_hermitian", True):
        return operator, False
    try:
        check_hamiltonian(operator)
    except ValueError as error:
        raise ValueError(f"{error} An operator that is not Hermitian says so: is_hermitian = False.") from error
    return operator, True


class _OfKet:
    """Ratios psi(n) / phi(sample) of a ket psi and samples of the bra phi."""

    def __init__(self, samples: Samples, ket: Wavefunction) -> None:
        self.samples, self.ket = samples, ket

    def ratios(self, n: Tensor, parents: Tensor) -> Tensor:
        n, symmetry_phase = self.ket.fold(n)
        first, classes = distinct(self.ket.hilbert, n)
        log_modulus, phase = LogPsi(*(part[classes] for part in log_psi_sharing_prefixes(self.ket, n[first])))
        return torch.polar(
            (log_modulus - self.samples.log_modulus[parents]).exp(),
            phase + symmetry_phase - self.samples.phase[parents],
        )
