"""What wavefunctions in a symmetry sector have in common, whatever their amplitudes are made from."""

# Shapes: B configurations, U samples, E group elements, L sites.
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, Wavefunction
from nqs.samples import Samples, distinct, split_counts
from nqs.symmetry.group import Symmetry


class SymmetricWavefunction(Wavefunction):
    """A state that is known on whole orbits of a symmetry group from one representative of each.

    Its samples are representatives, weighted with the probability of their orbit; `to_sector_samples` turns them into
    configurations of the sector. Local energies are the same on a whole orbit where the Hamiltonian has the symmetry.

    Attributes:
        base: what is sampled.
        symmetry: the group and its character.
    """

    symmetry: Symmetry

    def __init__(self, base: AutoregressiveWavefunction) -> None:
        super().__init__()
        self.base = base

    # What the layers of the network decide is asked of it.

    @property
    def has_phase(self) -> bool:  # type: ignore[override]
        return self.base.has_phase

    @property
    def rowwise_layers(self) -> bool:  # type: ignore[override]
        return self.base.rowwise_layers

    @property
    def gradient_dtype(self) -> torch.dtype | None:  # type: ignore[override]
        return self.base.gradient_dtype

    @property
    def sampled(self) -> AutoregressiveWavefunction:
        return self.base

    def orbit_sizes(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        return self.symmetry.orbit_sizes(n)

    def fold(self, n: UInt8[Tensor, "B L"]) -> tuple[UInt8[Tensor, "B L"], Float64[Tensor, " B"]]:
        element = self.symmetry.canonical(n)
        return self.symmetry.image(n, element), -self.symmetry.phases(n, element, self.hilbert)

    def representatives(self, device: torch.device | str) -> tuple[UInt8[Tensor, "B L"], Int64[Tensor, " B"]]:
        return self.symmetry.orbits(self.hilbert, device)

    def to_sector_samples(
        self, samples: Samples, generator: torch.Generator, elements: Int64[Tensor, " E"] | None = None
    ) -> Samples:
        """Every sample moved by a random element of the group; a sum over all orbits becomes one over their images."""
        n, device = samples.configurations, samples.configurations.device
        elements = torch.arange(self.symmetry.order) if elements is None else elements
        E, elements = len(elements), elements.to(device)
        if samples.counts is None:
            row = torch.arange(samples.n_distinct, device=device).repeat_interleave(E)
            number = torch.arange(E, device=device).repeat(len(n))
            split = None
        else:
            split = split_counts(samples.counts, torch.full((len(n), E), 1 / E, device=device).double(), generator)
            row, number = split.nonzero().T
        element = elements[number]
        moved = self.symmetry.image(n[row], element)
        first, classes = distinct(self.hilbert, moved)
        if split is None:
            fraction = samples.weights[row] / E
            counts, weights = None, fraction.new_zeros(len(first)).index_add_(0, classes, fraction)
        else:
            counts = torch.zeros_like(first).index_add_(0, classes, split[row, number])
            weights = counts.double() / counts.sum()
        draws = None
        if samples.weighted_counts is not None:
            draws = (
                (samples.weighted_counts / E)
                .new_zeros(len(first))
                .index_add_(0, classes, (samples.weighted_counts / E)[row])
            )
        row, element = row[first], element[first]
        inclusion = None
        if samples.inclusion_probability is not None:  # images of an orbit enter together: not independent
            inclusion = torch.full_like(weights, 1.0 if samples.is_exhaustive else torch.nan)
        return Samples(
            configurations=moved[first],
            weights=weights,
            log_modulus=samples.log_modulus[row],
            phase=samples.phase[row] + self.symmetry.phases(n[row], element, self.hilbert),
            counts=counts,
            inclusion_probability=inclusion,
            # With a part of the elements a sample stands for more than its own |psi|^2.
            probability=None if self.symmetry.order == E else torch.full_like(weights, torch.nan),
            threshold=samples.threshold,
            autocorrelation_time=samples.autocorrelation_time,
            normalised=samples.normalised,
            acceptance=samples.acceptance,
            # Images of one draw enter together: as independent ones they count as one.
            weighted_counts=draws,
            n_drawn=samples.n_drawn,
        )
