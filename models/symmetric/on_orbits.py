"""A wavefunction with an exact symmetry, which gives one amplitude to every orbit.

    |psi(n)|^2 = p(r) / |orbit of n|,    arg psi(n) = phase(r) - arg c_g(n),

with r = g n the representative of the orbit of n, c_g as in nqs.symmetry, and p and phase of an autoregressive base on
the space of representatives (nqs.symmetry.orbit_space). It is normalised because the base is, and one evaluation of the
base is all that an amplitude costs, whatever the order of the group: where the orbits can be listed this is much faster
than the average of nqs.models.symmetric.average. A sample of the base, moved by a random element of the group, is a
sample of it.
"""

# Shapes: B configurations, L sites.
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.models.symmetric.wavefunction import SymmetricWavefunction
from nqs.protocols import AutoregressiveWavefunction, LogPsi, WavefunctionConfig
from nqs.samples import Samples
from nqs.symmetry.group import Symmetry
from nqs.symmetry.orbit_space import OrbitSpace


@dataclass(frozen=True, kw_only=True)
class OnOrbits:
    """A model in a symmetry sector: `OnOrbits(base=TransformerConfig(...), symmetry=space_group(lattice, hilbert))`."""

    base: WavefunctionConfig
    symmetry: Symmetry

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "OrbitWavefunction":
        base = self.base.build(OrbitSpace.of(hilbert, self.symmetry, device), device)
        if not isinstance(base, AutoregressiveWavefunction):
            raise TypeError(f"a symmetry needs an autoregressive model; {type(base).__name__} is none.")
        return OrbitWavefunction(self, base, hilbert)


class OrbitWavefunction(SymmetricWavefunction):
    """An autoregressive wavefunction of the representatives, spread over their orbits."""

    config: OnOrbits

    def __init__(self, config: OnOrbits, base: AutoregressiveWavefunction, hilbert: HilbertSpace) -> None:
        super().__init__(base)
        self.config = config
        self.symmetry = config.symmetry
        self.hilbert = hilbert

    @property
    def shares_prefixes(self) -> bool:  # type: ignore[override]
        return self.base.shares_prefixes

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Of representatives."""
        log_modulus, phase = self.base(n)
        return LogPsi(log_modulus - self._log_members(n) / 2, phase)

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        representatives, symmetry_phase = self.fold(n)
        log_modulus, phase = self(representatives)
        return LogPsi(log_modulus, phase + self.base.reference_phase(representatives) + symmetry_phase)

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        log_modulus, phase = self.base.log_psi_in_order(n, shared)
        return LogPsi(log_modulus - self._log_members(n) / 2, phase)

    def from_base_samples(self, samples: Samples) -> Samples:
        shift = self._log_members(samples.configurations) / 2
        probability = (2 * samples.log_modulus).exp()
        return replace(samples, log_modulus=samples.log_modulus - shift, probability=probability)

    def _log_members(self, n: UInt8[Tensor, "B L"]) -> Tensor:
        return self.orbit_sizes(n).double().log()

    def orbit_sizes(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """Of representatives; those of any orbit where it is forbidden."""
        sizes = self.symmetry.orbits(self.hilbert, n.device).sizes
        return sizes[self.base.hilbert.rank(n).clamp(max=len(sizes) - 1)]

    @property
    def bytes_per_configuration(self) -> int:
        return self.base.bytes_per_configuration

    @property
    def bytes_per_shared_site(self) -> int:
        return self.base.bytes_per_shared_site
