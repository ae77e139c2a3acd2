"""Decoding state of a batch of prefixes that branch."""

# Shapes: B prefixes, C rows of storage, L sites, H heads, E numbers of a head.
from typing import NamedTuple, Self

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor

from nqs.models.inference.first_attention import FirstAttention
from nqs.models.inference.first_factored import FirstFactored

FirstTables = FirstAttention | FirstFactored

# Storage of all children up to which it is gathered anew, in bytes. Draws of 256 and 1,024 configurations of 20 sites
# (one layer of width 24, float32, one thread) took 14.1 and 17.7 ms so, and 19.1 and 21.8 ms with copies for further
# children alone.
GATHERED = 2**19


class Prefixes(NamedTuple):
    """Decoding state of prefixes with copy-on-branch storage.

    Keys and values stay where they were written while prefixes branch: every prefix owns a row of the storage, the
    first child takes over the row of its parent, and only further children need a copy.
    """

    site: int  # the last one decoded, -1 before the first
    remainder: Int64[Tensor, " B"]  # charge still missing, see HilbertSpace
    rows: Int64[Tensor, " B"] | None  # of the prefixes in the storage, a permutation of 0 .. B - 1; None: in order
    # Keys and values, one entry per block, with C >= B rows.
    storage: tuple[Float[Tensor, "parts C heads L E"], ...]
    first: FirstTables | None  # tables; the storage of the first block then holds local states only
    begun: Num[Tensor, "B ..."] | None = None  # state of `StartConditionals`

    def _begun(self, indices: Int64[Tensor, " B2"]) -> Num[Tensor, "B2 ..."] | None:
        return None if self.begun is None else self.begun[indices]

    def select(self, indices: Int64[Tensor, " B2"]) -> Self:
        of_parents = indices if self.rows is None else self.rows[indices]
        storage = tuple(block.index_select(1, of_parents) for block in self.storage)
        return self._replace(
            remainder=self.remainder.index_select(0, indices), rows=None, storage=storage, begun=self._begun(indices)
        )

    def branch(self, indices: Int64[Tensor, " B2"]) -> Self:
        if len(indices) * sum(block[:, :1].nbytes for block in self.storage) <= GATHERED:
            return self.select(indices)
        children = torch.arange(len(indices), device=indices.device)
        own_rows = torch.arange(len(self.remainder), device=indices.device) if self.rows is None else self.rows
        first = torch.full_like(own_rows, len(indices)).scatter_reduce_(0, indices, children, "amin")  # of each parent
        rows = own_rows[indices]
        stays = (first[indices] == children) & (rows < len(indices))
        free = torch.ones_like(children, dtype=torch.bool).index_fill_(0, rows[stays], False).nonzero()[:, 0]
        moved = (~stays).nonzero()[:, 0]
        storage = self.storage
        if storage[0].shape[1] < len(indices):
            storage = tuple(grown(block, len(indices)) for block in storage)
        if len(moved):
            for block in storage:
                copy_rows(block, rows[moved], free, self.site + 1)
            rows[moved] = free
        return self._replace(
            remainder=self.remainder.index_select(0, indices), rows=rows, storage=storage, begun=self._begun(indices)
        )


def grown(storage: Float[Tensor, "parts B heads L E"], rows: int) -> Float[Tensor, "parts C heads L E"]:
    """Storage enlarged to at least `rows`, and at least twice its size; contents at the front."""
    parts, C, *rest = storage.shape
    bigger = storage.new_empty((parts, max(rows, 2 * C), *rest))
    bigger[:, :C] = storage
    return bigger


def copy_rows(
    storage: Float[Tensor, "parts C heads L E"], source: Int64[Tensor, " M"], target: Int64[Tensor, " M"], sites: int
) -> None:
    """Copy the first `sites` sites in place; source and target rows are disjoint."""
    storage[:, target, :, :sites] = storage[:, source, :, :sites]
