"""Cholesky factor of a matrix that all ranks have, each of which computes some blocks of columns.

Right-looking, by blocks of columns that belong to the ranks in turn: the owner of a block factorises it and sends it to
all, and every rank subtracts its products from its own later blocks. The next block is updated and factorised first,
so that it travels while the others work on the rest. Golub and Van Loan, Matrix Computations, 4th ed., section 4.2.
"""

# Shapes: n rows, b of a block.
import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.runtime.distributed import Communicator, communicator

BLOCK = 512  # columns
LEAST_ROWS = 8192  # a smaller matrix is factorised by every rank


def cholesky(matrix: Float64[Tensor, "n n"], least_rows: int = LEAST_ROWS) -> tuple[Float64[Tensor, "n n"], bool]:
    """Lower triangle of the factor of a matrix, from its lower triangle; the upper one is undefined. True if it failed.

    Args:
        matrix: the same on all ranks.
    """
    ranks = communicator()
    if ranks.size == 1 or len(matrix) < least_rows:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        return factor, bool(failed)
    factor = split_factor(matrix.clone(), ranks)
    return factor, not bool(factor.diagonal().isfinite().all())


def split_factor(a: Float64[Tensor, "n n"], ranks: Communicator, block: int = BLOCK) -> Float64[Tensor, "n n"]:
    """The factor in place of the lower triangle; not finite where the matrix is not positive definite."""
    n = len(a)
    starts = range(0, n, block)

    def columns(k: int) -> slice:
        return slice(starts[k], min(n, starts[k] + block))

    def update(j: int, panel: Tensor, k: int) -> None:
        """Subtract the product of block k from block j."""
        first, last = starts[j] - starts[k], columns(j).stop - starts[k]
        a[starts[j] :, columns(j)].addmm_(panel[first:], panel[first:last].T, alpha=-1)

    def factorised(k: int) -> Tensor:
        """Block k from its diagonal downwards, on its owner; elsewhere room for it."""
        own = a[starts[k] :, columns(k)]
        if k % ranks.size != ranks.rank:
            return own.new_empty(own.shape)
        b = own.shape[1]
        top, failed = torch.linalg.cholesky_ex(own[:b])
        below = torch.linalg.solve_triangular(top.T, own[b:], upper=True, left=False)
        return torch.where(failed > 0, torch.nan, torch.cat([top, below]))

    panel = factorised(0)
    ranks.from_rank(0, panel)()
    for k in range(len(starts)):
        a[starts[k] :, columns(k)] = panel
        if k + 1 == len(starts):
            break
        if (k + 1) % ranks.size == ranks.rank:
            update(k + 1, panel, k)
        following = factorised(k + 1)
        arrived = ranks.from_rank((k + 1) % ranks.size, following)
        for j in range(k + 2, len(starts)):
            if j % ranks.size == ranks.rank:
                update(j, panel, k)
        arrived()
        panel = following
    return a
