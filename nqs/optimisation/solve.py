"""The linear system of stochastic reconfiguration, in sample space or in parameter space."""

# Shapes: U distinct samples, P parameters, R rows of X.
import math
from typing import Literal, NamedTuple, Protocol

import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.optimisation.cholesky import cholesky
from nqs.optimisation.conjugate_gradient import conjugate_gradient
from nqs.optimisation.kernel import CentredJacobian
from nqs.optimisation.solver import SOLVER, Solver
from nqs.runtime.distributed import communicator

# "samples" (minSR) or "parameters"; "auto" takes the smaller matrix.
Space = Literal["auto", "samples", "parameters"]


class Solution(NamedTuple):
    """Solution of a system; the fields besides the update are those of conjugate gradients, else None.

    Attributes:
        update: (X^T X + s)^-1 X^T e.
        iterations: products with the matrix.
        residual: relative to the right-hand side.
        converged: the residual is within the tolerance.
    """

    update: Float64[Tensor, " P"]
    iterations: int | None = None
    residual: float | None = None
    converged: bool | None = None


class LinearSystem(Protocol):
    """(X^T X + s) delta = X^T e, to be solved once."""

    def transposed_norm(self, y: Float64[Tensor, " R"]) -> float:
        """|X^T y|."""

    def solve(self, e: Float64[Tensor, " R"], shift: float) -> Solution:
        """(X^T X + s)^-1 X^T e, with the shift in units of the mean eigenvalue of the smaller matrix."""


def linear_system(X: CentredJacobian, space: Space = "auto", solver: Solver = SOLVER) -> LinearSystem:
    """The system in the smaller of sample and parameter space, or in a given one."""
    in_samples = in_sample_space(X, space)
    if solver.is_dense(X.shape[0] if in_samples else X.shape[1]):
        return DenseSystem(X, in_samples)
    return IterativeSystem(X, in_samples, solver)


def in_sample_space(X: CentredJacobian, space: Space = "auto") -> bool:
    return X.shape[0] <= X.shape[1] if space == "auto" else space == "samples"


class DenseSystem:
    """With its matrix, X X^T or X^T X, factorised by every rank."""

    def __init__(self, X: CentredJacobian, in_samples: bool) -> None:
        self.X, self.in_samples = X, in_samples
        self.matrix = X.gram() if in_samples else X.metric()  # lower triangle; overwritten by `solve`

    def transposed_norm(self, y: Float64[Tensor, " R"]) -> float:
        """|X^T y|; for streamed rows from X X^T, without a backward pass."""
        if not self.in_samples or self.X.is_dense:
            return self.X.rmatvec(y).norm().item()
        square = 2 * y @ (self.matrix.tril() @ y) - self.matrix.diagonal() @ y.square()
        return square.clamp(min=0).sqrt().item()

    def solve(self, e: Float64[Tensor, " R"], shift: float) -> Solution:
        right = e if self.in_samples else self.X.rmatvec(e)
        solution = solve_shifted(self.matrix, right, shift, self.matrix.trace() / min(self.X.shape))
        communicator().from_first(solution)
        return Solution(self.X.rmatvec(solution) if self.in_samples else solution)


class IterativeSystem:
    """Without its matrix, by products with X. The mean eigenvalue is that of |X|^2, the sum of all squares of X."""

    def __init__(self, X: CentredJacobian, in_samples: bool, solver: Solver) -> None:
        self.X, self.in_samples, self.solver = X, in_samples, solver

    def transposed_norm(self, y: Float64[Tensor, " R"]) -> float:
        return self.X.rmatvec(y).norm().item()

    def solve(self, e: Float64[Tensor, " R"], shift: float) -> Solution:
        right = e if self.in_samples else self.X.rmatvec(e)
        found = conjugate_gradient(
            self.X,
            right,
            shift * self.X.squared_norm() / min(self.X.shape),
            in_samples=self.in_samples,
            tolerance=self.solver.tolerance,
            iterations=self.solver.iterations,
        )
        update = self.X.rmatvec(found.x) if self.in_samples else found.x
        return Solution(update, found.iterations, found.residual, found.residual <= self.solver.tolerance)


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
