r"""Parities that a Hamiltonian of electrons conserves, from the integrals that vanish.

If the orbitals can be labelled with signs +-1 such that h_pq = 0 where the signs of p and q differ, and (pq|rs) = 0
where the product of four signs is -1, the number of electrons in the orbitals with sign -1 is even, or odd, in every
eigenstate. Orbitals that belong to irreducible representations of D2h or a subgroup have up to three such labels (their
characters); products of parities, such as those of up and of down electrons, are found in the same way.

Conditions on the bits s_p of the labels are linear equations modulo 2, s_p + s_q = 0 and s_p + s_q + s_r + s_s = 0, one
for each integral that does not vanish; the labels are a basis of their solutions.
"""

# Shapes: M orbitals, 2 M spin orbitals (all up before all down), R parities.
import numpy as np

from nqs.hamiltonians.integrals import Integrals, pairs

MOST = 4  # parities that are used; more would make the tables of the sector large

Labels = tuple[tuple[int, ...], ...]  # of each parity, 0 or 1 of every spin orbital


def orbital_parities(integrals: Integrals, cutoff: float = 0.0, *, exchanges: bool = False) -> Labels:
    """Independent labels of the spin orbitals that all integrals above `cutoff` conserve, besides particle numbers.

    Args:
        exchanges: the Hamiltonian also exchanges the spins of two orbitals, as S^2 does.
    """
    M = integrals.n_orbitals
    bit = [1 << k for k in range(2 * M)]
    equations = {bit[0], bit[M]}  # the parities of all up and of all down electrons are no news
    p, q = pairs(M)
    masks = [np.array([bit[a + s * M] ^ bit[b + s * M] for a, b in zip(p, q, strict=True)], object) for s in (0, 1)]
    for spin in (0, 1):
        h = integrals.h(spin)[p, q]
        equations |= set(masks[spin][np.abs(h) > cutoff])
        for other in (0, 1):
            rows, columns = np.nonzero(np.abs(integrals.v(spin, other)) > cutoff)
            equations |= set(masks[spin][rows] ^ masks[other][columns])
    if exchanges:
        equations |= set(masks[0] ^ masks[1])
    pivots = _reduced(equations)
    free = [k for k in range(2 * M) if k not in pivots]
    solutions = []
    for chosen in free[:MOST]:
        label = [0] * (2 * M)
        label[chosen] = 1
        for k, equation in pivots.items():
            label[k] = equation >> chosen & 1
        solutions.append(tuple(label))
    return tuple(solutions)


def _reduced(equations: set[int]) -> dict[int, int]:
    """Reduced echelon form of equations modulo 2: by the unknown that each determines."""
    pivots: dict[int, int] = {}
    for equation in equations:
        for k, row in pivots.items():
            if equation >> k & 1:
                equation ^= row
        if not equation:
            continue
        new = equation.bit_length() - 1
        for k, row in pivots.items():
            if row >> new & 1:
                pivots[k] = row ^ equation
        pivots[new] = equation
    return pivots
