"""Correlations of localised spins of any length."""

# Shapes: L sites, K permutations.
import torch
from jaxtyping import Int64
from torch import Tensor

from nqs.observables.expectation import Expectation, LocalValues, means
from nqs.observables.moves import MOVES_CPU_BYTES, AmplitudeRatios, PairAverage, bytes_of_moves
from nqs.observables.species import at_sites, spin_ladder
from nqs.protocols import Wavefunction
from nqs.samples import Samples


@torch.no_grad()
def spin_correlations(
    samples: Samples, wavefunction: Wavefunction, *, permutations: Int64[Tensor, "K L"] | None = None
) -> Expectation:
    """<S_i . S_j> of localised spins, S = sigma / 2 for spin 1/2, (L, L), S (S + 1) on the diagonal.

    S_i . S_j = S^z_i S^z_j + (S+_i S-_j + S-_i S+_j) / 2, with S+ |m> = sqrt(S (S + 1) - m (m + 1)) |m + 1>. Sites
    without a spin have zeros.

    Args:
        samples, wavefunction, permutations: as in `one_body_density_matrix`.

    Raises:
        ValueError: no space with one species of localised spins.
    """
    hilbert = wavefunction.hilbert
    spin = spin_ladder(hilbert)
    known, average = AmplitudeRatios(wavefunction, samples), PairAverage(permutations, samples.weights.device)

    def local(rows: Tensor) -> LocalValues:
        n = samples.configurations[rows]
        sz = at_sites(spin.sz, n)
        x = sz[:, :, None] * sz[:, None, :]
        raised, lowered = (at_sites(table, n) for table in (spin.raised, spin.lowered))  # (b, L), -1 for none
        up, down = (at_sites(table, n) for table in (spin.raising, spin.lowering))
        # S+_i S-_j and S-_i S+_j for i < j, the first and second of the last axis.
        first = (raised[:, :, None] >= 0) & (lowered[:, None, :] >= 0)
        second = (lowered[:, :, None] >= 0) & (raised[:, None, :] >= 0)
        pairs = torch.ones(n.shape[1], n.shape[1], dtype=torch.bool, device=n.device).triu(1)
        row, i, j, second_one = (torch.stack([first, second], dim=-1) & pairs[:, :, None]).nonzero().T
        i_up, j_up = torch.where(second_one == 1, j, i), torch.where(second_one == 1, i, j)
        k = torch.arange(len(row), device=n.device)
        n_prime = n[row]
        n_prime[k, i_up] = raised[row, i_up].to(n.dtype)
        n_prime[k, j_up] = lowered[row, j_up].to(n.dtype)
        ratio, factor = known.ratios(n_prime, rows[row]), up[row, i_up] * down[row, j_up] / 2
        flip, element, excess = factor * ratio.real, factor * ratio.angle().cos(), torch.zeros_like(x)
        for first, second in ((i, j), (j, i)):
            x.index_put_((row, first, second), flip, accumulate=True)
            # See PairAverage.with_second.
            excess.index_put_((row, first, second), element.square() - flip.square(), accumulate=True)
        x.diagonal(dim1=1, dim2=2).copy_(at_sites(spin.square, n))
        return average.with_second(x, excess)

    moves = 1 if hilbert.local_dim == 2 else 2  # spins 1/2 are exchanged in one direction only
    return means(samples, local, moves * bytes_of_moves(hilbert.n_sites), MOVES_CPU_BYTES)
