"""A wavefunction with an exact symmetry, still normalised and sampled exactly.

    |psi(n)|^2 = 1/G sum_g p(g n),    arg psi(n) = phase(r) - arg c_g*(n),

with p and phase of an autoregressive base, r = g* n the representative of the orbit of n, and c_g as in nqs.symmetry.
The average of the probabilities is normalised because each term is; a sample of the base moved by a random element of
the group is a sample of it. The phase at the representative is enough: the group fixes it on the whole orbit.

Averaged probabilities: Reh, Schmitt, Gaerttner, Phys. Rev. B 107, 195115 (2023), arXiv:2206.00032 ("Gamma-p symmetry").

On forbidden orbits (nqs.symmetry) psi is zero, and the probability that the base puts there is missing from the norm;
without them, so for bosons and spins in the even sector, the norm is exactly 1.
"""

# Shapes: B configurations, G group elements, L sites.
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.chunks import log_psi_in_chunks
from nqs.hilbert import HilbertSpace
from nqs.protocols import AutoregressiveWavefunction, LogPsi, SymmetricWavefunction, WavefunctionConfig
from nqs.samples import Samples, distinct, split_counts
from nqs.symmetry import Symmetry


@dataclass(frozen=True, kw_only=True)
class Symmetrised:
    """A model in a symmetry sector: `Symmetrised(base=TransformerConfig(), symmetry=space_group(lattice, hilbert))`."""

    base: WavefunctionConfig
    symmetry: Symmetry

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "SymmetrisedWavefunction":
        base = self.base.build(hilbert, device)
        if not isinstance(base, AutoregressiveWavefunction):
            raise TypeError(f"a symmetry needs an autoregressive model; {type(base).__name__} is none.")
        return SymmetrisedWavefunction(self, base)


class SymmetrisedWavefunction(SymmetricWavefunction):
    """Group average of an autoregressive wavefunction."""

    config: Symmetrised

    def __init__(self, config: Symmetrised, base: AutoregressiveWavefunction) -> None:
        super().__init__()
        config.symmetry.check(base.hilbert)
        self.config = config
        self.symmetry = config.symmetry
        self.base = base
        self.hilbert = base.hilbert
        self.has_phase = base.has_phase
        self.rowwise_layers = base.rowwise_layers
        self.gradient_dtype = base.gradient_dtype

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Log modulus, and the base's learned phase at the representative."""
        images = self.symmetry.images(n)  # (B, G, L)
        log_modulus, phase = self.base(images.flatten(0, 1))
        G = self.symmetry.order
        modulus = (2 * log_modulus.view(len(n), G)).logsumexp(1) / 2 - math.log(G) / 2
        return LogPsi(modulus, phase.view(len(n), G).gather(1, self.symmetry.canonical(n)[:, None])[:, 0])

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_modulus, phase = self(n)
        representatives, turn = self.fold(n)
        forbidden = self.symmetry.forbidden(representatives, self.hilbert)
        return LogPsi(
            log_modulus.masked_fill(forbidden, -math.inf), phase + self.base.reference_phase(representatives) + turn
        )

    def fold(self, n: UInt8[Tensor, "B L"]) -> tuple[UInt8[Tensor, "B L"], Float64[Tensor, " B"]]:
        element = self.symmetry.canonical(n)
        return self.symmetry.image(n, element), -self.symmetry.phases(n, element, self.hilbert)

    def folded(self, samples: Samples) -> Samples:
        representatives, _ = self.fold(samples.configurations)
        first, classes = distinct(self.hilbert, representatives)
        representatives = representatives[first]
        log_modulus, phase = log_psi_in_chunks(self, representatives)
        possible = log_modulus > -math.inf
        assert samples.counts is not None
        counts = torch.zeros_like(first).index_add_(0, classes, samples.counts)[possible]
        return Samples(
            configurations=representatives[possible],
            weights=counts.double() / counts.sum(),
            log_modulus=log_modulus[possible],
            phase=phase[possible],
            counts=counts,
        )

    def unfolded(self, samples: Samples, generator: torch.Generator) -> Samples:
        n, device = samples.configurations, samples.configurations.device
        G, rows = self.symmetry.order, torch.arange(samples.n_distinct, device=device)
        if samples.counts is None:  # all members of all orbits
            row, element = rows.repeat_interleave(G), torch.arange(G, device=device).repeat(len(n))
            shares = None
        else:
            shares = split_counts(samples.counts, torch.full((len(n), G), 1 / G, device=device).double(), generator)
            row, element = shares.nonzero().T
        moved = self.symmetry.image(n[row], element)
        first, classes = distinct(self.hilbert, moved)
        row, element = row[first], element[first]
        if shares is None:
            weights = (2 * samples.log_modulus[row]).exp()
            counts, weights = None, weights / weights.sum()
        else:
            counts = torch.zeros_like(first).index_add_(0, classes, shares[shares > 0])
            weights = counts.double() / counts.sum()
        return Samples(
            configurations=moved[first],
            weights=weights,
            log_modulus=samples.log_modulus[row],
            phase=samples.phase[row] + self.symmetry.phases(n[row], element, self.hilbert),
            counts=counts,
            inclusion=None if samples.inclusion is None else torch.ones_like(weights),
        )

    @property
    def bytes_per_configuration(self) -> int:
        return self.symmetry.order * self.base.bytes_per_configuration
