"""Amplitudes of the configurations that an off-diagonal observable connects with the samples."""

# Shapes: b samples of a chunk, L sites, K permutations, M moves or pairs.
import torch
from jaxtyping import Complex128, Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.amplitudes.cache import amplitudes_with_cache
from nqs.observables.expectation import LocalValues
from nqs.protocols import Wavefunction
from nqs.samples import Lookup, Samples, distinct

MOVES_CPU_BYTES = 2**28  # chunk of connected configurations on a CPU: in a larger one more of them coincide


class AmplitudeRatios:
    """Ratios psi(n) / psi(sample). Amplitudes of sampled configurations, or of their orbits, are looked up.

    Args:
        wavefunction: amplitudes of configurations that were not sampled.
        samples: of the wavefunction.
    """

    def __init__(self, wavefunction: Wavefunction, samples: Samples) -> None:
        self.wavefunction, self.parents = wavefunction, samples
        n, symmetry_phase = wavefunction.fold(samples.configurations)
        first, _ = distinct(wavefunction.hilbert, n)
        self.samples = Samples(
            configurations=n[first],
            weights=samples.weights[first],
            log_modulus=samples.log_modulus[first],
            phase=(samples.phase - symmetry_phase)[first],
        )
        self.lookup = Lookup(wavefunction.hilbert, self.samples.configurations)

    def ratios(self, n: UInt8[Tensor, "M L"], parents: Int64[Tensor, " M"]) -> Complex128[Tensor, " M"]:
        """psi(n) / psi(parent), 0 outside the sector; the parents are rows of the samples."""
        inside = self.wavefunction.hilbert.contains(n)
        if not bool(inside.all()):  # a parity of orbitals that a move changes
            found = torch.zeros(len(n), dtype=torch.complex128, device=n.device)
            return found.masked_scatter_(inside, self.ratios(n[inside], parents[inside]))
        n, symmetry_phase = self.wavefunction.fold(n)
        log_modulus, phase = amplitudes_with_cache(self.wavefunction, n, self.samples, self.lookup)[0]
        return torch.polar(
            (log_modulus - self.parents.log_modulus[parents]).exp(),
            phase + symmetry_phase - self.parents.phase[parents],
        )


class PairAverage:
    """Mean of a matrix of all pairs of sites over permutations of the sites, a group.

    Args:
        permutations: of the group; None for the identity alone.
    """

    def __init__(self, permutations: Int64[Tensor, "K L"] | None, device: torch.device) -> None:
        self.classes: Tensor | None = None
        if permutations is not None:
            L = permutations.shape[1]
            image = permutations[:, :, None] * L + permutations[:, None, :]  # (K, L, L): image of every pair
            classes, numbers = torch.unique(image.amin(0).flatten(), return_inverse=True, return_counts=True)[1:]
            self.classes, self.numbers = classes.to(device), numbers.to(device)

    def __call__(self, x: Num[Tensor, "b L L"]) -> Num[Tensor, "b L L"]:
        if self.classes is None:
            return x
        sums = x.new_zeros((len(x), len(self.numbers))).index_add_(1, self.classes, x.flatten(1))
        return (sums / self.numbers)[:, self.classes].view_as(x)

    def with_second(self, x: Num[Tensor, "b L L"], excess: Float64[Tensor, "b L L"]) -> LocalValues:
        """The average of local values, and numbers with the same mean as its square.

        A move n -> n' with the element e has the local value x = e psi(n') / psi(n), which is large where psi(n) is
        small. Summed over n with |psi(n)|^2, its square is sum e^2 |psi(n')|^2: the mean over n' of the squared element
        of the move back.

        Args:
            excess: that less |x|^2 of the move itself, of every pair of sites; its mean is 0.
        """
        values = self(x)
        if self.classes is not None:  # twice: (i, j) and (j, i) have the same moves
            of_class = (2 / self.numbers).clamp(max=1)[self.classes].view(x.shape[1:])
            excess = self(excess) * of_class
        return LocalValues(values, values.abs().square() + excess)


def bytes_of_moves(n_sites: int) -> int:
    """Memory in bytes of one configuration for every pair of sites, for each sample."""
    return n_sites**2 * (24 * n_sites + 256)
