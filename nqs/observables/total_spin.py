"""Total spin of electrons, and the natural orbitals of their one-body density matrix."""

# Shapes: B samples of a chunk, L sites or orbitals.
import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.hilbert.fermion_signs import fermions_between
from nqs.observables.expectation import Expectation, LocalValues, means
from nqs.observables.moves import MOVES_CPU_BYTES, AmplitudeRatios, bytes_of_moves
from nqs.observables.species import at_sites, electrons_of, values_of
from nqs.protocols import Wavefunction
from nqs.samples import Samples

UP, DOWN = 1, 2  # bits of a local state


@torch.no_grad()
def total_spin_squared(samples: Samples, wavefunction: Wavefunction) -> Expectation:
    """<S^2> of electrons whose up and down orbitals are the same, a scalar; S (S + 1) for a state of total spin S.

        S^2 = S^z (S^z + 1) + sum_p n_pd (1 - n_pu) - sum_{p != q} a+_qu a_pu a+_pd a_qd

    For unrestricted orbitals of molecules this is not the total spin.

    Args:
        samples: of the wavefunction, or of an exact state together with its `StateVector`.
        wavefunction: amplitudes of configurations that were not sampled.

    Raises:
        ValueError: no space of spinful fermions.
    """
    hilbert = wavefunction.hilbert
    electrons = electrons_of(hilbert, "the total spin")
    tables = [values_of(hilbert, species.occupation) for species in electrons]
    known = AmplitudeRatios(wavefunction, samples)

    def local(rows: Tensor) -> LocalValues:
        n = samples.configurations[rows]
        up, down = (at_sites(table, n) > 0 for table in tables)  # (B, L)
        sz = (up.double() - down.double()).sum(1) / 2
        x = sz * (sz + 1) + (down & ~up).double().sum(1)
        row, p, q = ((up & ~down)[:, :, None] & (down & ~up)[:, None, :]).nonzero().T  # p up and q down exchange
        k = torch.arange(len(row), device=n.device)
        exchanged = n[row]
        exchanged[k, p] ^= UP | DOWN
        exchanged[k, q] ^= UP | DOWN
        passed = fermions_between(up, row, p, q) + fermions_between(down, row, p, q)
        ratio = known.ratios(exchanged, rows[row]).real
        x = x.index_add(0, row, -ratio * (1 - 2 * (passed % 2)).double())
        return LocalValues(x, x.square())

    return means(samples, local, bytes_of_moves(hilbert.n_sites), MOVES_CPU_BYTES)


def natural_orbitals(
    matrix: Complex128[Tensor, "L L"],
) -> tuple[Float64[Tensor, " L"], Complex128[Tensor, "L L"]]:
    """Natural occupation numbers, largest first, and orbitals (columns) of a one-body density matrix."""
    occupations, orbitals = torch.linalg.eigh(matrix)
    return occupations.flip(0), orbitals.flip(1)
