"""Detection of the symmetries of a Hamiltonian."""

# Shapes: B configurations, G group elements, L sites, d local states, O = L x species orbitals.

import numpy as np
import torch

from nqs.protocols import Hamiltonian, lattice_of
from nqs.samples import distinct
from nqs.symmetry.constructors import _of_sites, particle_hole, spin_flip
from nqs.symmetry.group import Symmetry

PROBES = 32  # random configurations on which a symmetry is tested


# ---- symmetries of a Hamiltonian ---------------------------------------------------------------------------------


def symmetries_of(hamiltonian: Hamiltonian, *, fermions: bool = False) -> Symmetry:
    """The largest known group that commutes with a Hamiltonian on a lattice, with the trivial character.

    Candidates are the space group of `hamiltonian.lattice`, the spin flip, and, without fermionic signs, the reversal
    of all local states (spin flip, particle-hole).
    """
    hilbert, lattice = hamiltonian.hilbert, lattice_of(hamiltonian)
    try:
        sites = lattice.space_group().numpy()  # type: ignore[union-attr]
    except (AttributeError, ValueError):  # no lattice, or one without a geometry
        sites = np.arange(hilbert.n_sites)[None]
    group = _of_sites(sites, hilbert.local_dim, fermions)
    electrons = [species for species in hilbert.of_kind("fermion") if species.twice_sz is not None]
    if electrons and hilbert.local_dim == 2 ** len(electrons):  # without a constraint such as that of the t-J model
        group = group @ spin_flip(hilbert, fermions=fermions)
    if not fermions:
        group = group @ particle_hole(hilbert)
    return commuting(hamiltonian, group)


def commuting(hamiltonian: Hamiltonian, symmetry: Symmetry) -> Symmetry:
    """The elements of a group that keep the sector and commute with a Hamiltonian.

    g commutes if R_gh(n, m) = R_h(n, m) = <h n|H|h m> c_h(m) / c_h(n) for every h, n and m. That is compared for random
    n and all h, the sum over m with random factors: elements that differ on few configurations only are noticed if
    these are on the orbit of any of the n.
    """
    hilbert, generator = hamiltonian.hilbert, torch.Generator().manual_seed(0)
    n = hilbert.random(PROBES, generator)
    inside = hilbert.contains(symmetry.images(n).flatten(0, 1)).view(len(n), -1).all(0)
    symmetry = symmetry.subgroup(inside.tolist())
    G, products = symmetry.order, torch.from_numpy(symmetry._products)
    images = symmetry.images(n).flatten(0, 1)  # row b G + h
    connected = hamiltonian.connected(images)
    row, element = connected.parents // G, connected.parents % G
    inverse = (products == 0).long().argmax(1)
    m = symmetry.image(connected.configurations, inverse[element])
    turn = symmetry.phases(m, element, hilbert) - symmetry.phases(n[row], element, hilbert)
    first, classes = distinct(hilbert, m)
    factor = torch.randn(len(first), generator=generator, dtype=torch.float64)[classes]
    terms = connected.elements * torch.polar(factor.abs(), turn) * factor.sign()
    rows = torch.zeros(len(images), dtype=torch.complex128).index_add_(0, connected.parents, terms).view(-1, G)
    diagonal = hamiltonian.diagonal(images).view(-1, G)
    mismatch = torch.stack(
        [torch.maximum((rows[:, gh] - rows).abs(), (diagonal[:, gh] - diagonal).abs()).max() for gh in products]
    )
    scale = 1 + max(diagonal.abs().max().item(), rows.abs().max().item())
    return symmetry.subgroup((mismatch < 1e-9 * scale).tolist())


def refuse_lower_symmetry(hamiltonian: Hamiltonian, symmetry: Symmetry) -> None:
    """Raises ValueError where a symmetry of a wavefunction is none of the Hamiltonian."""
    common = commuting(hamiltonian, symmetry)
    if common.order < symmetry.order:
        kept = set(zip(common.permutations, common.maps, strict=True))
        lost = next(g for g in zip(symmetry.permutations, symmetry.maps, strict=True) if g not in kept)
        raise ValueError(
            f"the wavefunction has {symmetry.order} symmetries, the Hamiltonian only {common.order} of them; not, for "
            f"example, the permutation {lost[0]} with the map {lost[1]}: use commuting(hamiltonian, symmetry) of "
            "nqs.symmetry."
        )
