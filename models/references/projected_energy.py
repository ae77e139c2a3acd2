r"""Energies of a determinant projected on the symmetry sectors of real characters, for sectors of any size.

    E_chi = sum_g chi(g) <D|H U_g|D> / sum_g chi(g) <D|U_g|D>,

where U_g |D> is a determinant of moved orbitals. For two determinants with orbitals Q and Q' (Loewdin; generalised Wick
theorem) the overlap is det Q^+ Q', and <D|H|D'> / <D|D'> is the energy of Hartree-Fock with the transition density
P = Q' (Q^+ Q')^-1 Q^+. Projected Hartree-Fock: Jimenez-Hoyos, Henderson, Tsuchimochi and Scuseria, J. Chem. Phys. 136,
164109 (2012), arXiv:1202.3148. Sums over the sector, for small ones and after a Lanczos step: nqs.exact.projection.
"""

# Shapes: G group elements, S spins, L sites, N particles of one spin, C characters.
import numpy as np

from nqs.models.references.determinant import SlaterDeterminant
from nqs.models.references.hartree_fock import mean_field_energies
from nqs.protocols import Hamiltonian
from nqs.symmetry.group import Symmetry

SINGULAR = 1e-8  # smallest singular value of Q^+ Q': products of overlaps and energies stay finite
ABSENT = 1e-6  # weight of a determinant in a sector below which it has no component there


def projected_mean_field(
    hamiltonian: Hamiltonian, symmetry: Symmetry, determinant: SlaterDeterminant
) -> tuple[Symmetry, float] | None:
    """The sector of real characters in which the projected determinant has the lowest energy, and that energy.

    None where it has no component in any of them, but in representations of higher dimension alone.

    Args:
        hamiltonian: lattice fermions as for `hartree_fock`, with real elements.
        symmetry: a group that commutes with it, with fermionic signs and any character.
        determinant: real orbitals.
    """
    orbitals = [q.numpy() for q in determinant.orbitals()]
    overlaps, transitions = np.empty(symmetry.order), []
    for g in range(symmetry.order):
        moved, sign = _moved(symmetry, g, orbitals)
        overlap, densities = sign, []
        for q, other in zip(orbitals, moved, strict=True):
            u, s, v = np.linalg.svd(q.T @ other)
            s = np.maximum(s, SINGULAR)
            overlap *= np.linalg.det(u) * np.linalg.det(v) * s.prod()
            densities.append(other @ (v.T / s) @ u.T @ q.T)
        overlaps[g] = overlap
        transitions.append(densities)
    energies = mean_field_energies(hamiltonian, transitions)
    found = []
    for sector in symmetry.real_characters():
        chi = np.cos(2 * np.pi * np.array(sector.angles))
        weight = chi @ overlaps
        if weight > ABSENT * symmetry.order * abs(overlaps[0]):
            found.append((float(chi @ (overlaps * energies) / weight), sector))
    if not found:
        return None
    energy, best = min(found, key=lambda pair: pair[0])
    return best, energy


def _moved(symmetry: Symmetry, g: int, orbitals: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Orbitals of U_g |D>, and the sign of their order: all up orbitals first."""
    permutation, relabelled = list(symmetry.permutations[g]), symmetry.maps[g]
    moved = [q[permutation] for q in orbitals]  # (g n)_s = map_g[n_{perm_g[s]}]
    if len(orbitals) == 1 or relabelled[1] == 1:
        return moved, 1.0
    return moved[::-1], (-1.0) ** (orbitals[0].shape[1] * orbitals[1].shape[1])
