"""How the linear systems of natural-gradient steps are solved, and the memory that this takes."""

# Shapes: n rows of the matrix.
from dataclasses import dataclass

MATRIX_COPIES = 3  # the matrix, its lower triangle and its factor


@dataclass(frozen=True, kw_only=True)
class Solver:
    """Limits of the two ways to solve a system.

    Properties of the algorithm, the same for all problems: they bound memory and time, and move the solution within the
    tolerance.

    Attributes:
        dense_rows: the matrix is stored and factorised up to so many rows; larger systems are solved by conjugate
            gradients, without it.
        tolerance: of conjugate gradients: residual relative to the right-hand side.
        iterations: of conjugate gradients, at most.
    """

    dense_rows: int = 60_000
    tolerance: float = 1e-8
    iterations: int = 1000

    def is_dense(self, n: int) -> bool:
        return n <= self.dense_rows

    def bytes_needed(self, n: int) -> int:
        """Memory besides X: copies of the matrix, or the residuals of all iterations."""
        return 8 * n * (MATRIX_COPIES * n if self.is_dense(n) else min(n, self.iterations))


SOLVER = Solver()
