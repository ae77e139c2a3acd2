"""Decoding by definition: of mixtures and families, and in tests, which compare the cached decoder with it."""

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


class DenselyDecoded(AutoregressiveWavefunction[Chosen]):
    """A wavefunction of which only `conditionals` are stated."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = DenseDecoder(self)

    @torch.no_grad()
    def start(self, batch: int) -> Chosen:
        return self.decoder.start(batch)

    @torch.no_grad()
    def step(self, tokens: UInt8[Tensor, " B"] | None, state: Chosen) -> tuple[Conditionals, Chosen]:
        return self.decoder.step(tokens, state)

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        return self.decoder.log_psi_in_order(n, shared)
