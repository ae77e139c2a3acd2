"""Every configuration of the sector with its exact probability: expectation values without sampling noise."""

from dataclasses import dataclass

import torch

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.hilbert import HilbertSpace, count_text
from nqs.protocols import Wavefunction
from nqs.samplers.independent import Independent
from nqs.samples import Samples


@dataclass(frozen=True, kw_only=True)
class ExhaustiveSampler:
    """Enumerates the sector; for sectors small enough to evaluate in every step.

    Args:
        max_dimension: largest number of network evaluations: a limit, beyond which the sum is refused.
    """

    max_dimension: int = 2**22

    @property
    def summary(self) -> str:
        return "every configuration"

    def build(self, wavefunction: Wavefunction) -> "ExhaustiveSampling":
        return ExhaustiveSampling(self, wavefunction)


class ExhaustiveSampling(Independent):
    """Exhaustive sums of one wavefunction."""

    def __init__(self, config: ExhaustiveSampler, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction

    def sample(self, generator: torch.Generator) -> Samples:
        """All representatives in lexicographic order, weights |psi|^2; the generator only names the device.

        Raises:
            ValueError: the sector needs more than max_dimension evaluations.
        """
        wavefunction, device = self.wavefunction, generator.device
        hilbert, symmetry = wavefunction.hilbert, wavefunction.symmetry
        at_least = hilbert.dimension // (
            1 if symmetry is None else symmetry.order
        )  # lower bound, before orbits are enumerated
        self._check(wavefunction.n_images * at_least, hilbert)
        n, members = wavefunction.representatives(device)
        self._check(wavefunction.n_images * len(n), hilbert)
        log_modulus, phase = log_psi_by_all_ranks(wavefunction, n)
        largest = log_modulus.max().clamp(min=0)  # a state that is not normalised could overflow
        weights = members * (2 * (log_modulus - largest)).exp()
        return Samples(
            configurations=n,
            weights=weights / weights.sum(),
            log_modulus=log_modulus,
            phase=phase,
            inclusion_probability=torch.ones_like(weights),
            normalised=wavefunction.normalised,
        )

    def _check(self, evaluations: int, hilbert: HilbertSpace) -> None:
        if evaluations > self.config.max_dimension:
            raise ValueError(
                "the exhaustive sampler was asked for a sector of dimension "
                f"{count_text(hilbert.dimension)}, which needs {count_text(evaluations)} evaluations, but its limit is "
                f"max_dimension={self.config.max_dimension:,}: use TreeSampler, or raise the limit if memory allows."
            )
