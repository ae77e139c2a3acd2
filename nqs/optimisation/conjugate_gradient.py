"""The linear system of a step by conjugate gradients: products with the rows of X alone, no matrix of its dimension.

    (X X^T + s) x = e  or  (X^T X + s) x = X^T e

Each rank multiplies with its own rows, in memory or streamed, and the products are summed or gathered
(nqs.optimisation.split_rows). Hestenes and Stiefel, J. Res. Nat. Bur. Stand. 49, 409 (1952).

Every residual is made orthogonal to all residuals before, which it would be without rounding. The eigenvalues of these
matrices span many orders of magnitude, and rounding alone multiplies the iterations: `python scripts/solver_study.py`,
800 configurations of the 6x6 Heisenberg lattice after 30 steps, residuals of 1e-8 at shifts of 1e-2, 1e-3 and 1e-4,
found 108, 177 and 260 iterations with it and 327, 953 and 2,250 without. It also keeps the errors of sums in another
order, as of another number of ranks, from growing. The diagonal as a preconditioner takes more iterations: 138, 206
and 288; on Bose-Hubbard and Hubbard lattices more, too.
"""

# Shapes: n rows of the matrix, R rows of X, P parameters, k iterations.
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.optimisation.kernel import CentredJacobian
from nqs.runtime.distributed import communicator

BLOCK = 64  # residuals in one tensor
REPEATS = 2  # one projection leaves what rounding has lost of it (Giraud et al., Numer. Math. 101, 87 (2005))


class Iterated(NamedTuple):
    """An approximate solution.

    Attributes:
        x: all of it nan where the right-hand side, or a product, is not finite.
        iterations: number of products with the matrix.
        residual: |b - A x| / |b|.
    """

    x: Float64[Tensor, " n"]
    iterations: int
    residual: float


def conjugate_gradient(
    X: CentredJacobian,
    b: Float64[Tensor, " n"],
    added: Float64[Tensor, ""],
    *,
    in_samples: bool,
    tolerance: float,
    iterations: int,
) -> Iterated:
    """(X X^T + added)^-1 b, or with X^T X in parameter space; the same on all ranks.

    Args:
        tolerance: of the residual relative to b.
        iterations: at most; the last x is then returned as it is.
    """
    ranks = communicator()
    first, second = (X.rmatvec, X.matvec) if in_samples else (X.matvec, X.rmatvec)
    x, r, basis = torch.zeros_like(b), b.clone(), _Residuals(b)
    square, start = r @ r, (b @ b).item()
    p, k, reached = r.clone(), 0, 1.0 if start else 0.0
    while k < iterations and reached > tolerance:
        basis.add(r / square.sqrt())
        half = first(p)
        curvature = half @ half + added * (p @ p)  # positive, whatever is rounded
        step = square / curvature
        x += step * p
        r -= step * (second(half) + added * p)
        basis.remove_from(r)
        before, square = square, r @ r
        p = r + square / before * p
        k += 1
        (reached,) = ranks.numbers((square / start).sqrt().item())  # nan ends the loop
    if not bool(square.isfinite()):
        x.fill_(torch.nan)
    ranks.from_first(x)
    return Iterated(x, k, reached)


class _Residuals:
    """Orthonormal vectors, k n numbers."""

    def __init__(self, like: Float64[Tensor, " n"]) -> None:
        self._like, self._number = like, 0
        self._blocks: list[Float64[Tensor, "BLOCK n"]] = []

    def add(self, v: Float64[Tensor, " n"]) -> None:
        block, row = divmod(self._number, BLOCK)
        if not row:
            self._blocks.append(self._like.new_zeros((BLOCK, len(v))))
        self._blocks[block][row] = v
        self._number += 1

    def remove_from(self, r: Float64[Tensor, " n"]) -> None:
        """Make r orthogonal to all of them, in place."""
        for _ in range(REPEATS):
            for block in self._blocks:
                r.addmv_(block.T, block @ r, alpha=-1)
