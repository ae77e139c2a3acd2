"""Every configuration of the sector with its exact probability: expectation values without sampling noise."""

from dataclasses import dataclass

import torch

from nqs.chunks import log_psi_in_chunks
from nqs.protocols import SymmetricWavefunction, Wavefunction
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class ExhaustiveSampler:
    """Enumerates the sector; for spaces small enough to evaluate at every step.

    Args:
        max_dimension: refuse larger sectors.
    """

    max_dimension: int = 2**22

    def sample(self, wavefunction: Wavefunction, generator: torch.Generator) -> Samples:
        """All configurations in lexicographic order, weights |psi|^2; the generator only names the device.

        Of a symmetric wavefunction one representative of every orbit.

        Raises:
            ValueError: the sector is larger than max_dimension.
        """
        hilbert = wavefunction.hilbert
        if hilbert.dimension > self.max_dimension:
            raise ValueError(
                f"the exhaustive sampler was asked for a sector of dimension {hilbert.dimension:,}, but its limit is "
                f"max_dimension={self.max_dimension:,}: use TreeSampler, or raise the limit if memory allows."
            )
        if isinstance(wavefunction, SymmetricWavefunction):
            n, members = wavefunction.symmetry.orbits(hilbert, generator.device)
        else:
            n = hilbert.configurations(device=generator.device)
            members = torch.ones(len(n), dtype=torch.int64, device=n.device)
        log_modulus, phase = log_psi_in_chunks(wavefunction, n)
        weights = members * (2 * log_modulus).exp()
        return Samples(
            configurations=n,
            weights=weights / weights.sum(),
            log_modulus=log_modulus,
            phase=phase,
            inclusion=torch.ones_like(weights),
        )
