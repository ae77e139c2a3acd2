"""Dense matrices of Hamiltonians and of NetKet's operators in the basis of nqs, for the tests.

The map between the local states of the two packages is written down again here (`in_netket`), on purpose. NetKet is
imported only where it is used: the checks that need none also run on GPU machines without it.
"""

import functools
import warnings
from typing import Any

import numpy as np
import torch

from nqs.hilbert import HilbertSpace
from nqs.protocols import Hamiltonian


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    """Equal to 1e-12 of the largest element."""
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max(initial=0.0)))


def rows(hamiltonian: Hamiltonian, n: torch.Tensor) -> np.ndarray:
    """<n|H|n'> for a batch of n and all n' of the sector, (B, dimension), from diagonal and connected."""
    k, elements, parents = hamiltonian.connected(n)
    matrix = torch.zeros(len(n), hamiltonian.hilbert.dimension, dtype=elements.dtype)
    rank = hamiltonian.hilbert.rank
    matrix.index_put_((parents, rank(k)), elements, accumulate=True)
    matrix.index_put_((torch.arange(len(n)), rank(n)), hamiltonian.diagonal(n).to(matrix.dtype), accumulate=True)
    return matrix.numpy()


def dense(hamiltonian: Hamiltonian) -> np.ndarray:
    """The whole matrix, configurations in lexicographic order."""
    return rows(hamiltonian, hamiltonian.hilbert.configurations())


def in_netket(space: Any, hilbert: HilbertSpace, n: torch.Tensor) -> np.ndarray:
    """Configurations of nqs as NetKet's quantum numbers: 2 S^z, occupations, or those of down, then of up."""
    import netket as nk

    x = n.numpy().astype(np.int8)
    if isinstance(space, nk.hilbert.Spin):
        return 2 * x - (space.local_size - 1)
    if isinstance(space, nk.hilbert.SpinOrbitalFermions) and hilbert.local_dim > 2:
        return np.concatenate([x >> bit & 1 for bit in reversed(range(_bits(hilbert)))], axis=1)
    return x


def from_netket(space: Any, hilbert: HilbertSpace, x: np.ndarray) -> torch.Tensor:
    """The inverse of `in_netket`."""
    import netket as nk

    x = np.asarray(x).astype(np.int8)
    if isinstance(space, nk.hilbert.Spin):
        x = (x + space.local_size - 1) // 2
    elif isinstance(space, nk.hilbert.SpinOrbitalFermions) and hilbert.local_dim > 2:
        blocks = np.split(x, _bits(hilbert), axis=1)
        x = functools.reduce(np.bitwise_or, [block << bit for bit, block in enumerate(reversed(blocks))])
    return torch.from_numpy(x.astype(np.uint8))


def _bits(hilbert: HilbertSpace) -> int:
    return (hilbert.local_dim - 1).bit_length()


def netket_rows(hilbert: HilbertSpace, operator: Any, n: torch.Tensor, *, projected: bool = False) -> np.ndarray:
    """NetKet's <n|H|n'> for a batch of n and all n' of the sector, (B, dimension).

    Args:
        projected: leave out what leads out of the sector, which is otherwise a mistake.
    """
    import netket as nk

    if isinstance(operator, nk.operator.Squared):
        operator = operator.collect()
    if not isinstance(operator, nk.operator.SumOperator) and hasattr(operator, "to_numba_operator"):
        operator = operator.to_numba_operator()  # JAX would compile for every operator anew
    x = in_netket(operator.hilbert, hilbert, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to use NetKet's other fermionic operators
        connected, elements = (np.asarray(part) for part in operator.get_conn_padded(x))
    parents = np.repeat(np.arange(len(n)), elements.shape[1])
    kept = elements.ravel() != 0  # padding, and products that vanish
    k = from_netket(operator.hilbert, hilbert, connected.reshape(-1, connected.shape[-1])[kept])
    parents, elements = parents[kept], elements.ravel()[kept]
    inside = (k < hilbert.local_dim).all(1)
    inside[inside.clone()] = hilbert.contains(k[inside])
    assert projected or inside.all(), "NetKet's operator leaves the sector"
    matrix = np.zeros((len(n), hilbert.dimension), dtype=complex)
    np.add.at(matrix, (parents[inside.numpy()], hilbert.rank(k[inside]).numpy()), elements[inside.numpy()])
    return matrix


def netket_matrix(hilbert: HilbertSpace, *operators: Any, projected: bool = False) -> np.ndarray:
    """The sum of NetKet's operators in the sector, configurations in our order."""
    n = hilbert.configurations()
    return sum(netket_rows(hilbert, operator, n, projected=projected) for operator in operators)
