"""The matrix of a Hamiltonian on its sector."""

from collections.abc import Callable

import torch
from scipy import sparse
from torch import Tensor

from nqs.protocols import Hamiltonian

MAX_DIMENSION = 5_000_000
ROWS = 2**15  # matrix rows built at once


def sparse_matrix(hamiltonian: Hamiltonian, max_dimension: int = MAX_DIMENSION) -> sparse.csr_array:
    """<n|H|n'> in the lexicographic basis of the sector, real if all elements are.

    Raises:
        ValueError: the sector is larger than max_dimension.
    """
    hilbert = hamiltonian.hilbert
    if hilbert.dimension > max_dimension:
        raise ValueError(
            f"exact diagonalisation of a sector of dimension {hilbert.dimension:,} is over the limit "
            f"max_dimension={max_dimension:,}: choose a smaller system or sector, or raise the limit if memory allows."
        )
    rank = _rank(hamiltonian)
    rows, columns, elements = [], [], []
    for start in range(0, hilbert.dimension, ROWS):
        n = hilbert.configurations(start, min(start + ROWS, hilbert.dimension))
        diagonal, connected = hamiltonian.diagonal(n), hamiltonian.connected(n)
        index = torch.arange(start, start + len(n))
        rows += [index, index[connected.parents]]
        columns += [index, rank(connected.configurations)]
        elements += [diagonal.to(connected.elements.dtype), connected.elements]
    shape = (hilbert.dimension, hilbert.dimension)
    # Small indices make the products with vectors faster, which read little else than the matrix.
    index_dtype = torch.int32 if hilbert.dimension < 2**31 else torch.int64
    coordinates = (torch.cat(rows).to(index_dtype).numpy(), torch.cat(columns).to(index_dtype).numpy())
    return sparse.coo_array((torch.cat(elements).numpy(), coordinates), shape=shape).tocsr()


def _rank(hamiltonian: Hamiltonian) -> Callable[[Tensor], Tensor]:
    """Lexicographic positions: by a search among all keys where these are single integers, which is faster."""
    hilbert = hamiltonian.hilbert
    if hilbert.keys(hilbert.configurations(0, 1)).shape[1] > 1:
        return hilbert.rank
    starts = range(0, hilbert.dimension, ROWS)
    keys = torch.cat(
        [hilbert.keys(hilbert.configurations(start, min(start + ROWS, hilbert.dimension)))[:, 0] for start in starts]
    )
    return lambda n: torch.searchsorted(keys, hilbert.keys(n)[:, 0])
