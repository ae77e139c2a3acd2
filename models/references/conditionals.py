"""Conditionals of a Slater determinant, p(n_s | n_1 .. n_{s-1}): the mean field as a start of autoregressive states.

The occupied sites of a determinant with orthonormal orbitals Q, n_sites x N, form a determinantal point process with
the kernel K = Q Q^+ (Macchi, Adv. Appl. Probab. 7, 83 (1975); sampling site by site: Launay, Galerne, Desolneux, J.
Appl. Probab. 57, 1198 (2020), arXiv:1802.08429; in a wavefunction: Humeniuk, Wan, Wang, SciPost Phys. 14, 171 (2023)).
A site is occupied with probability K_ss, and for the later sites, given its occupation, the kernel becomes

    K + f K_:s K_s:,      f = -1 / K_ss   (occupied)      or      f = 1 / (1 - K_ss)   (empty).

Only the rows K_s: at their own sites are needed: each is the row of the first kernel plus a sum over those before it.
"""

# Shapes: B configurations or prefixes, L sites, d local states, S kernels: one, or one for up and one for down.
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.protocols import ReferencePhase
from nqs.runtime.memory import in_chunks, max_chunk_rows

MIXED = 1e-3  # weight of the uniform distribution, so that nothing in the sector is out of reach
CPU_BYTES = 2**22  # of states at once: they stay in the cache
IMPOSSIBLE = 1e-6  # smaller probabilities are rounding errors of impossible occupations: the kernel is left as it is


class StartConditionals(Protocol):
    """|psi|^2 for zero logits, by its conditionals; the state of prefixes is a tensor with a row for each."""

    def to(self, device: torch.device) -> Self: ...

    def start(self, batch: int) -> Num[Tensor, "B ..."]:
        """State of empty prefixes."""

    def log_start_(
        self, state: Num[Tensor, "B ..."], site: int, log_uniform: Float64[Tensor, "B d"]
    ) -> Float64[Tensor, "B d"]:
        """Conditionals at a site, up to normalisation; -inf where those of the uniform distribution are."""

    def extend_(self, state: Num[Tensor, "B ..."], site: int, chosen: Int64[Tensor, " B"]) -> None:
        """Append the local states of that site."""

    def of(self, n: UInt8[Tensor, "B L"], log_uniform: Float64[Tensor, "B L d"]) -> Float64[Tensor, "B L d"]:
        """Conditionals at all sites of whole configurations."""


@runtime_checkable
class StartingState(ReferencePhase, Protocol):
    """A reference that also gives the |psi|^2 that a model starts from: a determinant, a list of configurations."""

    def conditionals(self, local_dim: int) -> StartConditionals: ...


class DeterminantConditionals:
    """Conditionals of the up and down electrons of a determinant, independent of each other.

    Args:
        orbitals: of the determinant, of up and of down electrons, (L, N) each; they need not be orthonormal.
        local_dim: d; bit 0 of a local state is the up electron, bit 1 the down electron, as in `SlaterDeterminant`.
    """

    def __init__(self, orbitals: Sequence[Num[Tensor, "L _"]], local_dim: int) -> None:
        kernels = []
        for matrix in orbitals:
            Q = torch.linalg.qr(matrix)[0]
            kernels.append(Q @ Q.mH)
        self.kernels: Num[Tensor, "S L L"] = torch.stack(kernels)
        states = torch.arange(local_dim)
        self.occupied = torch.stack([(states >> species) % 2 == 1 for species in range(len(kernels))], 1)  # (d, S)

    def to(self, device: torch.device) -> "DeterminantConditionals":
        self.kernels, self.occupied = self.kernels.to(device), self.occupied.to(device)
        return self

    def start(self, batch: int) -> Num[Tensor, "B S L L1"]:
        """State of empty prefixes: the rows K_s:, and in a last column the factors f."""
        S, L = self.kernels.shape[:2]
        return self.kernels.new_zeros((batch, S, L, L + 1))

    def log_p(self, p: Float64[Tensor, "*B S"], log_uniform: Float64[Tensor, "*B d"]) -> Float64[Tensor, "*B d"]:
        """Of every local state, up to normalisation, from the probabilities of the next site to be occupied."""
        p = p[..., None, :].clamp(0, 1)
        log_p = torch.where(self.occupied, p, 1 - p).prod(-1).log()
        return torch.logaddexp(log_p, log_uniform + torch.log(torch.tensor(MIXED))).masked_fill(
            log_uniform.isneginf(), -torch.inf
        )

    def log_start_(
        self, state: Num[Tensor, "B S L L1"], site: int, log_uniform: Float64[Tensor, "B d"]
    ) -> Float64[Tensor, "B d"]:
        return self.log_p(self.occupation_(state, site), log_uniform)

    def occupation_(self, state: Num[Tensor, "B S L L1"], site: int) -> Float64[Tensor, "B S"]:
        """Probability that a site is occupied; its row is added to the state."""
        earlier, L = state[:, :, :site], state.shape[2]
        weights = earlier[..., L] * earlier[..., site].conj()  # (B, S, s)
        row = self.kernels[:, site, site:] + (weights[..., None, :] @ earlier[..., site:L]).squeeze(-2)
        state[:, :, site, site:L] = row
        return row[..., 0].real

    def extend_(self, state: Num[Tensor, "B S L L1"], site: int, chosen: Int64[Tensor, " B"]) -> None:
        """Condition on the local states of a site whose row is in the state."""
        p = state[:, :, site, site].real
        weight = torch.where(self.occupied[chosen], -p, 1 - p)
        state[:, :, site, -1] = torch.where(weight.abs() > IMPOSSIBLE, 1 / weight, 0.0).to(state.dtype)

    def draw(self, hilbert: HilbertSpace, number: int, generator: torch.Generator) -> UInt8[Tensor, "B L"]:
        """Independent configurations of the sector, on the device of the generator."""
        tables, device = hilbert.tables(generator.device), generator.device
        n = torch.empty((number, hilbert.n_sites), dtype=torch.uint8, device=device)
        rows = max_chunk_rows(2 * self.start(1).nbytes, device)
        for part in n.split(rows):
            state = self.start(len(part))
            remainder = torch.full((len(part),), hilbert.start, device=device)
            for site in range(hilbert.n_sites):
                log_p = self.log_p(self.occupation_(state, site), tables.log_uniform[site, remainder])
                token = torch.multinomial(log_p.softmax(1), 1, generator=generator)[:, 0]
                self.extend_(state, site, token)
                part[:, site] = token
                remainder = tables.after(site, remainder, token)
        return n

    def of(self, n: UInt8[Tensor, "B L"], log_uniform: Float64[Tensor, "B L d"]) -> Float64[Tensor, "B L d"]:
        """`log_p` at all sites of whole configurations."""
        if not len(n):
            return log_uniform
        state_bytes = self.start(1).nbytes
        rows = max_chunk_rows(2 * state_bytes, n.device, CPU_BYTES)
        parts = in_chunks(lambda part: self._of(n[part].long()), torch.arange(len(n), device=n.device), rows)
        return self.log_p(torch.cat(parts), log_uniform)

    def _of(self, n: Int64[Tensor, "B L"]) -> Float64[Tensor, "B L S"]:
        """Probability of each site to be occupied, given those before it."""
        state, found = self.start(len(n)), []
        for site in range(n.shape[1]):
            found.append(self.occupation_(state, site))
            self.extend_(state, site, n[:, site])
        return torch.stack(found, 1)
