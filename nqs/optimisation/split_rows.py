"""The centred Jacobian X with its rows split among ranks (nqs.runtime.distributed), and its products.

Each rank computes the rows of its share of the samples, dense or streamed. For X X^T blocks of their columns are
exchanged for all rows of fewer columns, which each rank multiplies, and the products are summed: every element of X
travels once. X^T X and products with vectors are sums of what the rows give.

Shares are filled up to equal numbers of rows by copies of the last sample with a factor of zero, so that all messages
are of equal length and every rank has work.
"""

# Shapes: U samples, u rows of a share, P parameters, R = parts U rows of X, C columns of a block.
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nqs.optimisation.jacobian import n_parts
from nqs.optimisation.kernel import BLOCKS, CentredJacobian, Precision, Rows, add_columns, centred_jacobian
from nqs.optimisation.solver import SOLVER, Solver
from nqs.protocols import Wavefunction
from nqs.runtime.distributed import Communicator, communicator
from nqs.samples import Samples

ONE_MESSAGE = 512  # rows of a matrix that is summed whole: its upper triangle takes less time than more messages


def jacobian_of_all_ranks(
    wavefunction: Wavefunction,
    samples: Samples,
    factor: Float64[Tensor, " U"],
    memory: int | None = None,
    precision: Precision = "float64",
    columns: Float64[Tensor, " P"] | None = None,
    solver: Solver = SOLVER,
) -> CentredJacobian:
    """X as `nqs.optimisation.kernel.centred_jacobian`; its rows are split if there are several ranks.

    Args:
        memory: bytes for the rows of a rank.
    """
    ranks = communicator()
    if ranks.size == 1:
        return centred_jacobian(wavefunction, samples, factor, memory, precision, columns=columns, solver=solver)
    return SplitJacobian(wavefunction, samples, factor, memory, precision, ranks, columns, solver)


class SplitJacobian:
    """X of all samples, of which each rank has some rows."""

    def __init__(
        self,
        wavefunction: Wavefunction,
        samples: Samples,
        factor: Float64[Tensor, " U"],
        memory: int | None,
        precision: Precision,
        ranks: Communicator,
        columns: Float64[Tensor, " P"] | None = None,
        solver: Solver = SOLVER,
    ) -> None:
        self.ranks, self.precision = ranks, precision
        self.parts, self.U = n_parts(wavefunction), samples.n_distinct
        self.u = ranks.rows_of_share(self.U)
        rows = torch.arange(ranks.rank * self.u, (ranks.rank + 1) * self.u, device=factor.device)
        self.is_filling = rows >= self.U
        self.rows = rows.clamp(max=self.U - 1)
        own = Rows(samples.configurations[self.rows], self._of_share(samples.weights))
        own_factor = self._of_share(factor)
        self.own = centred_jacobian(wavefunction, own, own_factor, memory, precision, ranks, columns, solver)
        self.shape = (self.parts * self.U, self.own.shape[1])

    @property
    def is_dense(self) -> bool:
        return self.own.is_dense

    def gram(self) -> Float64[Tensor, "R R"]:
        R = self.shape[0]
        gram = torch.zeros((R, R), dtype=torch.float64, device=self.rows.device)
        for block in self.own.column_blocks():
            add_columns(gram, self._exchanged(block), self.precision)
            del block  # before the next one is allocated
        for rows in torch.arange(R).chunk(BLOCKS if R > ONE_MESSAGE else 1):  # the lower triangle alone, about
            first, last = int(rows[0]), int(rows[-1]) + 1
            gram[first:last, :last] = self.ranks.sum(gram[first:last, :last].contiguous())
        return gram

    def metric(self) -> Float64[Tensor, "P P"]:
        return self.ranks.sum(self.own.metric())

    def squared_norm(self) -> Float64[Tensor, ""]:
        return self.ranks.sum(self.own.squared_norm())

    def matvec(self, v: Float64[Tensor, " P"]) -> Float64[Tensor, " R"]:
        own = self.own.matvec(v).view(self.parts, self.u).T  # (u, parts)
        (found,) = self.ranks.gather_padded(own, rows=self.u)
        return found[: self.U].T.flatten()

    def rmatvec(self, y: Float64[Tensor, " R"]) -> Float64[Tensor, " P"]:
        own = torch.stack([self._of_share(part) for part in y.view(self.parts, self.U)])
        return self.ranks.sum(self.own.rmatvec(own.flatten()))

    def _of_share(self, x: Float64[Tensor, " U"]) -> Float64[Tensor, " u"]:
        return x[self.rows].masked_fill(self.is_filling, 0.0)

    def _exchanged(self, block: Float[Tensor, "rows C"]) -> Float[Tensor, "R c"]:
        """All rows of the columns of this rank, from all columns of its own rows."""
        missing = -block.shape[1] % self.ranks.size
        columns = self.ranks.to_columns(torch.nn.functional.pad(block, (0, missing)) if missing else block)
        whole = columns.view(self.ranks.size, self.parts, self.u, -1).transpose(0, 1).flatten(1, 2)
        return whole[:, : self.U].flatten(0, 1)
