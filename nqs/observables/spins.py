"""Correlations of spins 1/2."""

# Shapes: L sites, K permutations.
import torch
from jaxtyping import Int64
from torch import Tensor

from nqs.observables.expectation import Expectation, LocalValues, means
from nqs.observables.moves import MOVES_CPU_BYTES, AmplitudeRatios, PairAverage, bytes_of_moves
from nqs.observables.species import species_hint, spins_half
from nqs.protocols import Wavefunction
from nqs.samples import Samples


@torch.no_grad()
def spin_correlations(
    samples: Samples, wavefunction: Wavefunction, *, permutations: Int64[Tensor, "K L"] | None = None
) -> Expectation:
    """<S_i . S_j> of spins 1/2, S = sigma / 2, (L, L), 3/4 on the diagonal.

    S_i . S_j = S^z_i S^z_j + (S+_i S-_j + S-_i S+_j) / 2 exchanges the spins i and j where they differ.

    Args:
        samples, wavefunction, permutations: as in `one_body_density_matrix`.

    Raises:
        ValueError: no space of spins 1/2.
    """
    hilbert = wavefunction.hilbert
    if not spins_half(hilbert):
        raise ValueError(f"spin correlations need spins of length 1/2; the space is {hilbert}{species_hint(hilbert)}.")

    known, average = AmplitudeRatios(wavefunction, samples), PairAverage(permutations, samples.weights.device)

    def local(rows: Tensor) -> LocalValues:
        n = samples.configurations[rows]
        sz = n.double() - 0.5
        x = sz[:, :, None] * sz[:, None, :]
        row, i, j = (n[:, :, None] != n[:, None, :]).triu(1).nonzero().T
        k = torch.arange(len(row), device=n.device)
        n_prime = n[row]
        n_prime[k, i] ^= 1
        n_prime[k, j] ^= 1
        ratio, excess = known.ratios(n_prime, rows[row]), torch.zeros_like(x)
        flip, element = ratio.real / 2, ratio.angle().cos() / 2
        x[row, i, j] += flip
        x[row, j, i] += flip
        excess[row, i, j] = excess[row, j, i] = element.square() - flip.square()  # see PairAverage.second
        x.diagonal(dim1=1, dim2=2).fill_(0.75)
        return average.with_second(x, excess)

    return means(samples, local, bytes_of_moves(hilbert.n_sites), MOVES_CPU_BYTES)
