"""A wavefunction with an exact symmetry, still normalised and sampled exactly.

    |psi(n)|^2 = 1/G sum_g p(g n),    arg psi(n) = arg sum_g c_g*(n) phi(g n),

with phi = sqrt(p) exp(i phase) an autoregressive base and c_g(n) = psi(g n) / psi(n) as in nqs.symmetry. The average of
the probabilities is normalised because each term is; a sample of the base moved by a random element of the group is a
sample of it. The phase is that of the projection of the base on the sector, which is in it.

Averaged probabilities: Reh, Schmitt, Gaerttner, Phys. Rev. B 107, 195115 (2023), arXiv:2206.00032 ("Gamma-p symmetry");
phases of sums over images: Hibat-Allah et al., Phys. Rev. Research 2, 023358 (2020), arXiv:2002.02973.

On forbidden orbits (nqs.symmetry) psi is zero, and the probability that the base puts there is missing from the norm;
without them, so for bosons and spins in the even sector, the norm is exactly 1.

An amplitude costs as many evaluations of the base as the group has elements, less what the images of all
configurations share as prefixes. Where the orbits of the sector can be listed, nqs.models.symmetric.on_orbits needs
one.

Optimisation steps may average over a subgroup (`trained`), with more samples for the same cost, and the whole group is
left to the evaluation: `for_steps` gives that second wavefunction, which shares the parameters. Where psi is positive
and no off-diagonal element of H is, also after the signs of a reference, the whole average has no higher energy:
<psi|H|psi> is a sum of p(n) H_nn, linear in p, and of H_nm sqrt(p(n) p(m)) with H_nm <= 0, convex in p since the
geometric mean is concave, and all terms of an average over a group have one energy.
"""

# Shapes: B configurations, G group elements, L sites.
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import folded_by_all_ranks, log_psi_by_all_ranks
from nqs.amplitudes.prefixes import log_psi_sharing_prefixes
from nqs.hilbert import HilbertSpace
from nqs.models.symmetric.wavefunction import SymmetricWavefunction
from nqs.protocols import AutoregressiveWavefunction, LogPsi, Wavefunction, WavefunctionConfig
from nqs.samples import Samples, distinct
from nqs.symmetry.group import Symmetry

IMAGE_BYTES = 128  # keys, the buffers of their sorting, and amplitudes


@dataclass(frozen=True, kw_only=True)
class Symmetrised:
    """A model in a symmetry sector: `Symmetrised(base=TransformerConfig(...), symmetry=space_group(lattice, hilbert))`.

    Attributes:
        base: what is averaged.
        symmetry: the group, and its character.
        trained: numbers of the elements, the identity (0) first, over which optimisation steps average: a subgroup.
            None for all.

    Raises:
        ValueError: those elements are no subgroup.
    """

    base: WavefunctionConfig
    symmetry: Symmetry
    trained: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _ = self.steps_over  # raises

    @cached_property
    def steps_over(self) -> Symmetry:
        """The group over which optimisation steps average."""
        return self.symmetry.trained(self.trained)

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "SymmetrisedWavefunction":
        base = self.base.build(hilbert, device)
        if not isinstance(base, AutoregressiveWavefunction):
            raise TypeError(f"a symmetry needs an autoregressive model; {type(base).__name__} is none.")
        return SymmetrisedWavefunction(self, base)


class FixedPhases(torch.autograd.Function):
    """A function of configurations alone, without gradients: batches of batches (vmap) are one batch."""

    @staticmethod
    def forward(n: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(n)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None]:
        return None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, n: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
        n = n.movedim(in_dims[0], 0)
        return FixedPhases.apply(n.flatten(0, 1), function).unflatten(0, n.shape[:2]), 0


class SymmetrisedWavefunction(SymmetricWavefunction):
    """Average of an autoregressive wavefunction over a group: that of the configuration, or a subgroup of it."""

    config: Symmetrised

    def __init__(self, config: Symmetrised, base: AutoregressiveWavefunction, symmetry: Symmetry | None = None) -> None:
        super().__init__(base)
        config.symmetry.check(base.hilbert)
        self.symmetry = symmetry or config.symmetry
        self.n_images = self.symmetry.order
        self.config = config
        self.hilbert = base.hilbert

    def for_steps(self) -> Wavefunction:
        """The average over `config.trained`, with the same parameters; the base where that is the identity alone."""
        if self.config.steps_over.order == 1:
            return self.base
        return SymmetrisedWavefunction(self.config, self.base, self.config.steps_over)

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """log psi, without the reference phase where no phase is learned."""
        images = self.symmetry.images(n).flatten(0, 1)
        log_modulus, phase = self.base(images)
        if self.has_phase:
            phase = phase + FixedPhases.apply(n, self._references).flatten()
        return self._averaged(n, log_modulus, phase)

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_modulus, phase = self(n) if torch.is_grad_enabled() else self._without_gradients(n)
        if not self.has_phase:
            representatives, symmetry_phase = self.fold(n)
            phase = phase + self.base.reference_phase(representatives) + symmetry_phase
        return LogPsi(log_modulus.masked_fill(self.symmetry.forbidden(n, self.hilbert), -math.inf), phase)

    def _without_gradients(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """`forward`; the images of all configurations share prefixes."""
        images = self.symmetry.images(n).flatten(0, 1)
        first, classes = distinct(self.hilbert, images)
        log_modulus, phase = log_psi_sharing_prefixes(self.base, images[first])
        return self._averaged(n, log_modulus[classes], phase[classes])

    def _averaged(
        self, n: UInt8[Tensor, "B L"], log_modulus: Float64[Tensor, " BG"], phase: Float64[Tensor, " BG"]
    ) -> LogPsi:
        """Mean of the probabilities, and the phase of the projection; 0 where no phase is learned."""
        G = self.symmetry.order
        log_modulus = log_modulus.view(len(n), G)
        modulus = (2 * log_modulus).logsumexp(1) / 2 - math.log(G) / 2
        if not self.has_phase:
            return LogPsi(modulus, torch.zeros_like(modulus))
        phase = phase.view(len(n), G)
        if not self.symmetry.is_trivial:
            phase = phase - FixedPhases.apply(n, self._characters)
        relative = (log_modulus - modulus[:, None]).exp()  # no modulus outside the sector: nan
        return LogPsi(modulus, torch.atan2((relative * phase.sin()).sum(1), (relative * phase.cos()).sum(1)))

    def _references(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, "B G"]:
        """Reference phase of every image; 0 outside the sector, where it is not defined."""
        inside = self.hilbert.contains(n)
        phases = torch.zeros((len(n), self.symmetry.order), dtype=torch.float64, device=n.device)
        images = self.symmetry.images(n[inside]).flatten(0, 1)
        phases[inside] = self.base.reference_phase(images).view(-1, self.symmetry.order)
        return phases

    def _characters(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, "B G"]:
        """arg c_g(n) of every element."""
        G = self.symmetry.order
        element = torch.arange(G, device=n.device).repeat(len(n))
        return self.symmetry.phases(n.repeat_interleave(G, 0), element, self.hilbert).view(-1, G)

    def from_base_samples(self, samples: Samples) -> Samples:
        if samples.counts is None:
            raise ValueError(
                "averages over a symmetry are sampled by independent draws of their base, which have counts; draws "
                "without replacement are weighted with the probabilities of the base: use TreeSampler."
            )
        representatives, _ = folded_by_all_ranks(self, samples.configurations)
        first, classes = distinct(self.hilbert, representatives)
        representatives = representatives[first]
        log_modulus, phase = log_psi_by_all_ranks(self, representatives)
        possible = log_modulus > -math.inf
        counts = torch.zeros_like(first).index_add_(0, classes, samples.counts)[possible]
        return Samples(
            configurations=representatives[possible],
            weights=counts.double() / counts.sum(),
            log_modulus=log_modulus[possible],
            phase=phase[possible],
            counts=counts,
            probability=(2 * log_modulus[possible]).exp() * self.orbit_sizes(representatives[possible]),
        )

    @property
    def bytes_per_configuration(self) -> int:
        return self.n_images * self.base.bytes_per_configuration

    @property
    def bytes_per_amplitude(self) -> int:
        # What the base needs is bounded by its own chunks of images.
        return self.n_images * (self.hilbert.n_sites + IMAGE_BYTES)
