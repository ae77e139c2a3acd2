"""Decoding state of models that evaluate their prefixes anew at every site."""

# Shapes: B prefixes, S sites chosen so far.
from typing import NamedTuple, Self

from jaxtyping import Int64, Num, UInt8
from torch import Tensor


class Prefix(NamedTuple):
    """The local states chosen so far."""

    n: UInt8[Tensor, "B S"]
    remainder: Int64[Tensor, " B"]  # before the last of them
    begun: Num[Tensor, "B ..."] | None = None  # state of `StartConditionals`

    def select(self, indices: Int64[Tensor, " B2"]) -> Self:
        begun = None if self.begun is None else self.begun[indices]
        return self._replace(n=self.n[indices], remainder=self.remainder[indices], begun=begun)

    def branch(self, indices: Int64[Tensor, " B2"]) -> Self:
        return self.select(indices)
