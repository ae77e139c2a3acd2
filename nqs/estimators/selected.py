r"""The lowest state on a few configurations, selected one after the other by their first-order amplitudes.

From the lowest eigenvector c of H between the configurations that are selected so far, with the energy E, every other
configuration has the amplitude and the second-order energy of Epstein and Nesbet

    c_k = sum_i <k|H|i> c_i / (E - <k|H|k>),        E_2 = sum_k (sum_i <k|H|i> c_i)^2 / (E - <k|H|k>);

those with the largest amplitudes are added, and so on (CIPSI: Huron, Malrieu, Rancurel, J. Chem. Phys. 58, 5745
(1973)). For states that few configurations carry, such as those of molecules, this gives signs and amplitudes of most
of the weight within seconds, whatever the dimension of the sector: a start for a wavefunction, and a way to compare
sectors.
"""

# Shapes: D selected configurations, L sites, K connected configurations.
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.protocols import Hamiltonian, max_connected
from nqs.samples import Lookup, distinct

GROWTH = 4.0  # of the number of selected configurations in one round, at most
DENSE = 256  # dimension up to which the matrix is diagonalised as a whole
CONNECTED = 2**22  # connected configurations whose amplitudes are computed at once
NEAR = 1e-6  # E - <k|H|k> of first-order amplitudes at least, in units of |E|
TOLERANCE = 1e-8  # of the eigenvalue, relative


@dataclass(frozen=True, kw_only=True)
class SelectedState:
    """A state on few configurations.

    Attributes:
        configurations: distinct, (D, L).
        amplitudes: real and normalised.
        energy: <H> of this state, above the ground-state energy of the sector.
        second_order: E_2, an estimate of what all other configurations would change; not a bound.
        outside: the other configurations with the largest first-order amplitudes, (K, L).
        first_order: these amplitudes, in units of those above.
        rest: weight of the first-order amplitudes that are left out.
    """

    configurations: UInt8[Tensor, "D L"]
    amplitudes: Float64[Tensor, " D"]
    energy: float
    second_order: float
    outside: UInt8[Tensor, "K L"]
    first_order: Float64[Tensor, " K"]
    rest: float


@torch.no_grad()
def selected_state(
    hamiltonian: Hamiltonian, start: UInt8[Tensor, "S L"], size: int, *, outside: int = 0, rounds: int = 12
) -> SelectedState:
    """The lowest state of a real Hamiltonian on up to `size` configurations.

    Args:
        start: distinct configurations to begin with, such as the Hartree-Fock determinant.
        outside: number of first-order amplitudes that are returned, at most.
        rounds: of selection, at most.

    Raises:
        ValueError: the Hamiltonian has complex elements.
    """
    n, matrix = start, SelectedMatrix(hamiltonian)
    for remaining in reversed(range(rounds)):
        matrix.extend(n)
        energy, c = matrix.lowest(n)
        found, coupling, denominator = first_order_space(hamiltonian, n, c, energy)
        amplitudes = coupling / denominator
        if len(n) >= size or not len(found) or not remaining:
            break
        wanted = min(size, int(GROWTH * len(n)) + 16)
        n = torch.cat([n, found[amplitudes.abs().topk(min(wanted - len(n), len(found))).indices]])
    return _with_first_order(n, c, energy, found, coupling, denominator, outside)


@torch.no_grad()
def given_state(
    hamiltonian: Hamiltonian, n: UInt8[Tensor, "D L"], c: Float64[Tensor, " D"], *, outside: int = 0
) -> SelectedState:
    """A normalised state on distinct configurations that others found, with its energy and first-order amplitudes.

    Raises:
        ValueError: the Hamiltonian has complex elements.
    """
    matrix = SelectedMatrix(hamiltonian)
    matrix.extend(n)
    energy = matrix.expectation(c.cpu().numpy())
    return _with_first_order(n, c, energy, *first_order_space(hamiltonian, n, c, energy), outside)


def _with_first_order(
    n: UInt8[Tensor, "D L"],
    c: Float64[Tensor, " D"],
    energy: float,
    found: UInt8[Tensor, "K L"],
    coupling: Float64[Tensor, " K"],
    denominator: Float64[Tensor, " K"],
    outside: int,
) -> SelectedState:
    amplitudes = coupling / denominator
    largest = amplitudes.abs().topk(min(outside, len(found))).indices
    return SelectedState(
        configurations=n,
        amplitudes=c,
        energy=energy,
        second_order=(coupling.square() / denominator).sum().item(),
        outside=found[largest],
        first_order=amplitudes[largest],
        rest=(amplitudes.square().sum() - amplitudes[largest].square().sum()).clamp(min=0).item(),
    )


class SelectedMatrix:
    """H between the selected configurations, whose number grows."""

    def __init__(self, hamiltonian: Hamiltonian) -> None:
        self.hamiltonian, self.size = hamiltonian, 0
        self.diagonal = np.zeros(0)
        self.triplets: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # rows, columns, elements

    def extend(self, n: UInt8[Tensor, "D L"]) -> None:
        """Rows and columns of the configurations after those that are known."""
        new, known = n[self.size :], Lookup(self.hamiltonian.hilbert, n)
        for start, part in _parts(self.hamiltonian, new):
            connected = self.hamiltonian.connected(part)
            if connected.elements.is_complex():
                raise ValueError("selected configurations need a real Hamiltonian.")
            column = known.rows(connected.configurations)
            inside = (column >= 0).nonzero()[:, 0]
            parents = self.size + start + connected.parents[inside]
            i, j, x = (part.cpu().numpy() for part in (parents, column[inside], connected.elements[inside]))
            before = j < self.size
            self.triplets += [(i, j, x), (j[before], i[before], x[before])]
        self.diagonal = np.concatenate([self.diagonal, self.hamiltonian.diagonal(new).double().cpu().numpy()])
        self.size = len(n)

    def _sparse(self) -> Any:
        from scipy.sparse import csr_array, diags_array  # here, because it takes long to import

        rows, columns, elements = (np.concatenate(part) for part in zip(*self.triplets, strict=True))
        return csr_array((elements, (rows, columns)), shape=(self.size, self.size)) + diags_array(self.diagonal)

    def expectation(self, c: np.ndarray) -> float:
        """<c|H|c> of a normalised state."""
        return float(c @ (self._sparse() @ c))

    def lowest(self, n: UInt8[Tensor, "D L"]) -> tuple[float, Float64[Tensor, " D"]]:
        """Lowest eigenvalue and eigenvector."""
        from scipy.sparse.linalg import eigsh

        D, diagonal, matrix = self.size, self.diagonal, self._sparse()
        if D <= DENSE:
            energies, states = np.linalg.eigh(matrix.toarray())
        else:
            first = np.zeros(D)
            first[diagonal.argmin()] = 1.0
            first += 1e-3 * np.random.default_rng(0).standard_normal(D)
            energies, states = eigsh(matrix, k=1, which="SA", v0=first, tol=TOLERANCE)
        c = states[:, 0] * np.sign(states[np.abs(states[:, 0]).argmax(), 0])
        return float(energies[0]), torch.from_numpy(np.ascontiguousarray(c)).to(n.device)


def first_order_space(
    hamiltonian: Hamiltonian, n: UInt8[Tensor, "D L"], c: Float64[Tensor, " D"], energy: float
) -> tuple[UInt8[Tensor, "K L"], Float64[Tensor, " K"], Float64[Tensor, " K"]]:
    """All other connected configurations k, sum_i <k|H|i> c_i, and E - <k|H|k>, which is negative."""
    known, hilbert = Lookup(hamiltonian.hilbert, n), hamiltonian.hilbert
    parts: list[tuple[Tensor, Tensor]] = []
    waiting = 0
    for start, part in _parts(hamiltonian, n):
        connected = hamiltonian.connected(part)
        outside = (known.rows(connected.configurations) < 0).nonzero()[:, 0]
        terms = connected.elements[outside] * c[start + connected.parents[outside]]
        parts.append(_summed(hilbert, connected.configurations[outside], terms))
        waiting += len(parts[-1][0])
        if waiting > CONNECTED:  # bounds memory by the number of distinct ones
            parts = [_summed(hilbert, *(torch.cat(several) for several in zip(*parts, strict=True)))]
            waiting = 0
    found, coupling = _summed(hilbert, *(torch.cat(several) for several in zip(*parts, strict=True)))
    denominator = energy - hamiltonian.diagonal(found).double()
    return found, coupling, denominator.clamp(max=-NEAR * max(1.0, abs(energy)))


def _summed(
    hilbert: HilbertSpace, n: UInt8[Tensor, "K L"], terms: Float64[Tensor, " K"]
) -> tuple[UInt8[Tensor, "k L"], Float64[Tensor, " k"]]:
    """Distinct configurations, and the sum of the terms of each."""
    first, classes = distinct(hilbert, n)
    total = torch.zeros(len(first), dtype=torch.float64, device=n.device)
    return n[first], total.index_add_(0, classes, terms)


def _parts(hamiltonian: Hamiltonian, n: UInt8[Tensor, "D L"]) -> list[tuple[int, Tensor]]:
    rows = max(1, CONNECTED // max_connected(hamiltonian))
    return [(start, n[start : start + rows]) for start in range(0, len(n), rows)]
