r"""Energies of a determinant projected on the symmetry sectors of real characters, for sectors of any size.

    E_chi = sum_g chi(g) <D|H U_g|D> / sum_g chi(g) <D|U_g|D>,

where U_g |D> is a determinant of moved orbitals. For two determinants with orbitals Q and Q' (Loewdin; generalised Wick
theorem) the overlap is det Q^+ Q', and <D|H|D'> / <D|D'> is the energy of Hartree-Fock with the transition density
P = Q' (Q^+ Q')^-1 Q^+. Projected Hartree-Fock: Jimenez-Hoyos, Henderson, Tsuchimochi and Scuseria, J. Chem. Phys. 136,
164109 (2012), arXiv:1202.3148. Sums over the sector, for small ones and after a Lanczos step: nqs.exact.projection.
"""

# Shapes: G group elements, S spins, L sites, N particles of one spin, C characters.
import numpy as np
from jaxtyping import Float64

from nqs.models.references.determinant import SlaterDeterminant
from nqs.models.references.hartree_fock import mean_field_energies
from nqs.protocols import Hamiltonian
from nqs.symmetry.group import Symmetry

SINGULAR = 1e-8  # smallest singular value of Q^+ Q': products of overlaps and energies stay finite
ABSENT = 1e-6  # weight of a determinant in a sector below which it has no component there
TIE = 1e-9  # relative difference of energies that count as equal


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
    return _lowest(symmetry, *_elements(hamiltonian, symmetry, determinant))


def projected_on_few(
    hamiltonian: Hamiltonian, symmetry: Symmetry, determinant: SlaterDeterminant, most: int
) -> tuple[Symmetry, float] | None:
    """A subgroup of at most so many elements, and its sector, in which the projected determinant has a low energy.

    Generators are added one by one, each time that of the lowest energy, until a group would be larger or all raise it.
    Projections on subgroups of translations or of rotations alone have higher energies: the 4x4 Hubbard lattice
    with 5 + 5 electrons, U = 8 (Hartree-Fock: -13.583), has -14.233 with the 8 point symmetries that keep a site,
    -14.024 with the 8 translations by two sites and spin flips, and -14.646 with the 8 elements found here.

    Args:
        hamiltonian, symmetry, determinant: as for `projected_mean_field`.

    Returns:
        The sector and the energy; None where every subgroup raises that of the determinant, or there is none.
    """
    overlaps, energies = _elements(hamiltonian, symmetry, determinant)
    products = symmetry.products
    chosen: tuple[int, ...] = (0,)
    best, lowest = None, float(energies[0])
    while True:
        tried: dict[tuple[int, ...], tuple[Symmetry, float]] = {}
        for g in range(symmetry.order):
            elements = None if g in chosen else _generated(products, (*chosen, g), most)
            if elements is None or elements in tried:
                continue
            subgroup = symmetry.subgroup(np.isin(np.arange(symmetry.order), elements).tolist())
            found = _lowest(subgroup, overlaps[list(elements)], energies[list(elements)])
            if found is not None:
                tried[elements] = found
        if not tried:
            return best
        # The first of equal ones, whatever the rounding.
        least = min(energy for _, energy in tried.values())
        tie = TIE * abs(least)
        chosen, candidate = next((e, f) for e, f in tried.items() if f[1] <= least + tie)
        if candidate[1] > lowest + tie:
            return best
        best, lowest = candidate, candidate[1]


def _generated(products: np.ndarray, elements: tuple[int, ...], most: int) -> tuple[int, ...] | None:
    """The group that elements generate, sorted; None if it has more elements than `most`."""
    found = np.unique(elements)
    while True:
        larger = np.unique(products[np.ix_(found, found)])  # holds `found`: the identity is an element
        if len(larger) > most:
            return None
        if len(larger) == len(found):
            return tuple(found.tolist())
        found = larger


def _lowest(
    symmetry: Symmetry, overlaps: Float64[np.ndarray, " G"], energies: Float64[np.ndarray, " G"]
) -> tuple[Symmetry, float] | None:
    """The sector of lowest energy, and that energy, from the elements' overlaps and energies."""
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


def _elements(
    hamiltonian: Hamiltonian, symmetry: Symmetry, determinant: SlaterDeterminant
) -> tuple[Float64[np.ndarray, " G"], Float64[np.ndarray, " G"]]:
    """<D|U_g|D> and <D|H U_g|D> / <D|U_g|D> of every element."""
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
    return overlaps, mean_field_energies(hamiltonian, transitions)


def _moved(symmetry: Symmetry, g: int, orbitals: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Orbitals of U_g |D>, and the sign of their order: all up orbitals first."""
    permutation, relabelled = list(symmetry.permutations[g]), symmetry.maps[g]
    moved = [q[permutation] for q in orbitals]  # (g n)_s = map_g[n_{perm_g[s]}]
    if len(orbitals) == 1 or relabelled[1] == 1:
        return moved, 1.0
    return moved[::-1], (-1.0) ** (orbitals[0].shape[1] * orbitals[1].shape[1])
