r"""Two-body density matrix of electrons, summed over spins, in the convention of PySCF:

    Gamma_pqrs = sum_st <a+_ps a+_rt a_st a_qs>,      rho_pq = sum_s <a+_ps a_qs> = sum_r Gamma_pqrr / (N - 1),
    E = E_core + sum_pq h_pq rho_pq + 1/2 sum_pqrs (pq|rs) Gamma_pqrs

(PySCF keeps the transpose of rho, which is the same for real states). The local value of a sample n is
<n|a+_p a+_r a_s a_q|n'> psi(n') / psi(n), where n' has two electrons moved, p -> q and r -> s.
"""

# Shapes: b samples of a chunk, M orbitals, K moves.
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.observables.expectation import Expectation, means
from nqs.observables.moves import AmplitudeRatios
from nqs.observables.species import at_sites, electrons_of, values_of
from nqs.protocols import Wavefunction
from nqs.samples import Samples

UP, DOWN = 1, 2  # bits of a local state
CPU_BYTES = 2**27
MOVE_BYTES = 200  # of one move: indices, its configuration, amplitude
MOST_ORBITALS = 40  # M^4 numbers, and as many of each sample


@torch.no_grad()
def two_body_density_matrix(samples: Samples, wavefunction: Wavefunction) -> Expectation:
    """Gamma, (M, M, M, M), real and float64, with the symmetries of real orbitals; its trace is N (N - 1).

    The cost of a sample is that of the amplitudes of all its single and double excitations.

    Args:
        samples: of the wavefunction, or of an exact state together with its `StateVector`.
        wavefunction: amplitudes of configurations that were not sampled.

    Raises:
        ValueError: no space of spinful fermions, or more than 40 orbitals.
    """
    hilbert = wavefunction.hilbert
    tables = [values_of(hilbert, species.occupation) for species in electrons_of(hilbert, "the density matrix")]
    M = hilbert.n_sites
    if M > MOST_ORBITALS:
        raise ValueError(f"the two-body density matrix of {M} orbitals has {M**4:,} numbers: up to {MOST_ORBITALS}.")
    known = AmplitudeRatios(wavefunction, samples)

    def local(rows: Int64[Tensor, " b"]) -> Float64[Tensor, "b M M M M"]:
        n = samples.configurations[rows]
        occupied = [at_sites(table, n) > 0 for table in tables]
        x = torch.zeros(len(n) * M**4, dtype=torch.float64, device=n.device)

        def add(
            row: Tensor, moved: list[tuple[int, Tensor, Tensor]], odd: Tensor, places: Sequence[tuple[Tensor, ...]]
        ) -> None:
            """Moves from p to q of electrons with a bit; their element with every place p q r s (sign, p, q, r, s)."""
            k, found = torch.arange(len(row), device=n.device), n[row]
            for bit, p, q in moved:
                found[k, p] ^= bit
                found[k, q] ^= bit
            inside = hilbert.contains(found).nonzero()[:, 0]
            ratio = known.ratios(found[inside], rows[row[inside]]).real * (1 - 2 * (odd[inside] % 2))
            for sign, p, q, r, s in places:
                index = (((row * M + p) * M + q) * M + r) * M + s
                x.index_add_(0, index[inside], sign * ratio)

        for bit, o in zip((UP, DOWN), occupied, strict=True):
            row, p, q, r, s, odd = _pairs_of_one(o)
            one = torch.ones(1, dtype=torch.float64, device=n.device)
            exchanged = [(one, p, q, r, s), (one, r, s, p, q), (-one, p, s, r, q), (-one, r, q, p, s)]
            add(row, [(bit, p, q), (bit, r, s)], odd, exchanged)
        (row, p, q, odd), (_, r, s, odd_down) = (_moves_of_one(o) for o in occupied)
        up, down = (torch.arange(len(row), device=n.device).view(len(n), -1) for row in (row, r))
        up, down = (part.flatten() for part in torch.broadcast_tensors(up[:, :, None], down[:, None, :]))
        p, q, r, s = p[up], q[up], r[down], s[down]
        both = [(one, p, q, r, s), (one, r, s, p, q)]
        add(row[up], [(UP, p, q), (DOWN, r, s)], odd[up] + odd_down[down], both)
        x = x.view(-1, M, M, M, M)
        return (x + x.permute(0, 2, 1, 4, 3)) / 2  # real orbitals

    return means(samples, local, 8 * 4 * M**4 + MOVE_BYTES * moves_of_two(hilbert), CPU_BYTES)


def moves_of_two(hilbert: HilbertSpace) -> int:
    """Number of amplitudes that each sample needs, about.

    Raises:
        ValueError: no space of spinful fermions.
    """
    M = hilbert.n_sites
    N = [hilbert.number_of(species) or M for species in electrons_of(hilbert, "the density matrix")]
    singles = [number * (M - number + 1) for number in N]
    return max(1, singles[0] * singles[1] + sum(single**2 for single in singles) // 4)


def _moves_of_one(occupied: Bool[Tensor, "b M"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row, p and q of a+_p a_q with p occupied and q empty or p, and the parity of what is between them."""
    M = occupied.shape[1]
    same = torch.eye(M, dtype=torch.bool, device=occupied.device)
    row, p, q = (occupied[:, :, None] & (~occupied[:, None, :] | same)).nonzero().T
    below = occupied.cumsum(1) - occupied.long()
    return row, p, q, below[row, p] + below[row, q] - (p < q).long()


def _pairs_of_one(occupied: Bool[Tensor, "b M"]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row, p, q, r, s of a+_p a+_r a_s a_q with p < r occupied and q < s, which are empty or p or r; parity."""
    M, device = occupied.shape[1], occupied.device
    i, j = torch.triu_indices(M, M, offset=1, device=device)
    row, left = (occupied[:, i] & occupied[:, j]).nonzero().T  # (K,), p < r
    p, r = i[left], j[left]
    free = ~occupied[row]
    k = torch.arange(len(row), device=device)
    free[k, p] = True
    free[k, r] = True
    k, right = (free[:, i] & free[:, j]).nonzero().T
    row, p, r, q, s = row[k], p[k], r[k], i[right], j[right]
    below = occupied.cumsum(1) - occupied.long()
    odd = below[row, p] + below[row, r] + below[row, q] + below[row, s] + 1  # a_r after a_p: one less below r
    odd = odd + (p < s).long() + (r < s).long() + (p < q).long() + (r < q).long()
    return row, p, q, r, s, odd
