"""The linear system of stochastic reconfiguration, in sample space or in parameter space."""

# Shapes: U distinct samples, P parameters, R rows of X.
import math
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.optimisation.cholesky import cholesky
from nqs.optimisation.kernel import CentredJacobian
from nqs.runtime.distributed import communicator

# "samples" (minSR) or "parameters"; "auto" takes the smaller matrix.
Space = Literal["auto", "samples", "parameters"]


def transposed_norm(X: CentredJacobian, y: Float64[Tensor, " R"], gram: Float64[Tensor, "R R"] | None) -> float:
    """|X^T y|. For streamed rows from the lower triangle of X X^T, if known, without a backward pass."""
    if gram is None or X.is_dense:
        return X.rmatvec(y).norm().item()
    square = 2 * y @ (gram.tril() @ y) - gram.diagonal() @ y.square()
    return square.clamp(min=0).sqrt().item()


def solve(
    X: CentredJacobian,
    e: Float64[Tensor, " R"],
    shift: float,
    space: Space = "auto",
    matrix: Float64[Tensor, "n n"] | None = None,
) -> Float64[Tensor, " P"]:
    """(X^T X + s)^-1 X^T e, in the smaller of sample and parameter space.

    Args:
        matrix: lower triangle of X X^T or X^T X in that space, overwritten in place; None: computed here.
    """
    in_samples = in_sample_space(X, space)
    if matrix is None:
        matrix = X.gram() if in_samples else X.metric()
    right = e if in_samples else X.rmatvec(e)
    solution = solve_shifted(matrix, right, shift, matrix.trace() / min(X.shape))  # by every rank
    communicator().from_first(solution)
    return X.rmatvec(solution) if in_samples else solution


def in_sample_space(X: CentredJacobian, space: Space = "auto") -> bool:
    return X.shape[0] <= X.shape[1] if space == "auto" else space == "samples"


def solve_shifted(
    matrix: Float64[Tensor, "n n"], right: Float64[Tensor, " n"], shift: float, mean: Float64[Tensor, ""]
) -> Float64[Tensor, " n"]:
    """(A + shift mean)^-1 b from the lower triangle of A, which is overwritten in place.

    If rounding errors make the matrix indefinite, the shift is raised up to 1000 times; then the slow pseudo-inverse.
    """
    added = 0.0
    for s in (shift, 10 * shift, 100 * shift, 1000 * shift):
        matrix.diagonal().add_((s - added) * mean)
        added = s
        factor, failed = cholesky(matrix)
        if not failed:
            return torch.cholesky_solve(right[:, None], factor)[:, 0]
    lower = matrix.tril(-1)
    try:
        return torch.linalg.pinv(lower + lower.T + torch.diag(matrix.diagonal()), hermitian=True) @ right
    except torch.linalg.LinAlgError:  # of a matrix that is not finite: the guard takes such an update back
        return torch.full_like(right, math.nan)
