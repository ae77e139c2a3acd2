"""Decoding by definition, with which the cached decoder is compared in tests."""

# Shapes: B configurations, L sites, S sites chosen so far.
from typing import NamedTuple, Self

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from nqs.protocols import AutoregressiveWavefunction, Conditionals, LogPsi


class Chosen(NamedTuple):
    """Decoding state of `DenseDecoder`: the local states chosen so far."""

    n: UInt8[Tensor, "B S"]

    def select(self, indices: Int64[Tensor, " B2"]) -> Self:
        return self._replace(n=self.n[indices])

    def branch(self, indices: Int64[Tensor, " B2"]) -> Self:
        return self.select(indices)


class DenseDecoder:
    """Decoding by definition: every step evaluates whole configurations; the values of later sites are ignored."""

    bytes_per_shared_site = 0

    def __init__(self, transformer: AutoregressiveWavefunction) -> None:
        self.transformer = transformer

    def start(self, batch: int) -> Chosen:
        return Chosen(torch.empty((batch, 0), dtype=torch.uint8, device=next(self.transformer.parameters()).device))

    def step(self, tokens: UInt8[Tensor, " B"] | None, state: Chosen) -> tuple[Conditionals, Chosen]:
        n = state.n if tokens is None else torch.cat([state.n, tokens[:, None]], dim=1)
        site = n.shape[1]
        log_p, phase = self.transformer.conditionals(nn.functional.pad(n, (0, self.transformer.hilbert.n_sites - site)))
        return Conditionals(log_p[:, site], phase[:, site]), Chosen(n)

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        return self.transformer.log_psi(n)
