"""Every configuration of the sector with its exact probability: expectation values without sampling noise."""

from dataclasses import dataclass

import torch

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.hilbert import HilbertSpace
from nqs.protocols import SymmetricWavefunction, Wavefunction
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class ExhaustiveSampler:
    """Enumerates the sector; for spaces small enough to evaluate at every step.

    Args:
        max_dimension: network evaluations; refuse larger sectors.
    """

    max_dimension: int = 2**22

    def sample(self, wavefunction: Wavefunction, generator: torch.Generator) -> Samples:
        """All configurations in lexicographic order, weights |psi|^2; the generator only names the device.

        Of a symmetric wavefunction one representative of every orbit.

        Raises:
            ValueError: the sector needs more than max_dimension evaluations.
        """
        hilbert, device = wavefunction.hilbert, generator.device
        if isinstance(wavefunction, SymmetricWavefunction):
            images = wavefunction.images
            self._check(images * (hilbert.dimension // wavefunction.symmetry.order), hilbert)  # before any is listed
            n, members = wavefunction.symmetry.orbits(hilbert, device)
            self._check(images * len(n), hilbert)
        else:
            self._check(hilbert.dimension, hilbert)
            n = hilbert.configurations(device=device)
            members = torch.ones(len(n), dtype=torch.int64, device=device)
        log_modulus, phase = log_psi_in_chunks(wavefunction, n)
        weights = members * (2 * log_modulus).exp()
        return Samples(
            configurations=n,
            weights=weights / weights.sum(),
            log_modulus=log_modulus,
            phase=phase,
            inclusion=torch.ones_like(weights),
        )

    def _check(self, evaluations: int, hilbert: HilbertSpace) -> None:
        if evaluations > self.max_dimension:
            raise ValueError(
                f"the exhaustive sampler was asked for a sector of dimension {hilbert.dimension:,}, which needs "
                f"{evaluations:,} evaluations, but its limit is max_dimension={self.max_dimension:,}: use TreeSampler, "
                "or raise the limit if memory allows."
            )
