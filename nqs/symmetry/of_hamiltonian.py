"""Detection of the symmetries of a Hamiltonian."""

# Shapes: B configurations, G group elements, L sites, K connected configurations.
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.samples import distinct
from nqs.symmetry.constructors import of_sites, particle_hole, spin_flip
from nqs.symmetry.group import Symmetry

PROBES = 32  # random configurations on which a symmetry is tested


class MatrixElements(Protocol):
    """The members of nqs.protocols.Hamiltonian that are read here; that contract itself imports nqs.symmetry."""

    @property
    def hilbert(self) -> HilbertSpace: ...

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]: ...

    def connected(self, n: UInt8[Tensor, "B L"]) -> tuple[Tensor, Tensor, Tensor]:
        """Configurations (K, L), elements (K,) and parents (K,)."""


def symmetries_of(hamiltonian: MatrixElements, *, fermions: bool = False) -> Symmetry:
    """The largest known group that commutes with a Hamiltonian on a lattice, with the trivial character.

    Candidates are the space group of `hamiltonian.lattice`, the spin flip, and, without fermionic signs, the reversal
    of all local states (spin flip, particle-hole).

    Args:
        fermions: reordering fermions changes the sign of an amplitude, see `Symmetry`.
    """
    hilbert = hamiltonian.hilbert
    try:
        sites = hamiltonian.lattice.space_group().numpy()  # type: ignore[attr-defined]
    except (AttributeError, ValueError):  # no lattice, or one without a geometry
        sites = np.arange(hilbert.n_sites)[None]
    group = of_sites(sites, hilbert.local_dim, fermions)
    electrons = [species for species in hilbert.of_kind("fermion") if species.twice_sz is not None]
    if electrons and hilbert.local_dim == 2 ** len(electrons):  # without a constraint such as that of the t-J model
        group = group @ spin_flip(hilbert, fermions=fermions)
    if not fermions:
        group = group @ particle_hole(hilbert)
    return commuting(hamiltonian, group)


def commuting(hamiltonian: MatrixElements, symmetry: Symmetry) -> Symmetry:
    """The elements of a group that keep the sector and commute with a Hamiltonian.

    g commutes if R_gh(n, m) = R_h(n, m) for every h, n and m, with R_h(n, m) = <h n|H|h m> c_h(m) / c_h(n). Sums over m
    with random factors are compared, for random n and all h. A violation on few configurations is found only if one of
    them is on the orbit of one of these n.
    """
    hilbert, generator = hamiltonian.hilbert, torch.Generator().manual_seed(0)
    n = hilbert.random(PROBES, generator)
    inside = hilbert.contains(symmetry.images(n).flatten(0, 1)).view(len(n), -1).all(0)
    symmetry = symmetry.subgroup((inside & symmetry.keeps_sites(hilbert)).tolist())
    G, products = symmetry.order, torch.from_numpy(symmetry.products)
    images = symmetry.images(n).flatten(0, 1)  # row b G + h
    configurations, elements, parents = hamiltonian.connected(images)
    row, element = parents // G, parents % G
    inverse = (products == 0).long().argmax(1)
    m = symmetry.image(configurations, inverse[element])
    angle = symmetry.phases(m, element, hilbert) - symmetry.phases(n[row], element, hilbert)
    first, classes = distinct(hilbert, m)
    factor = torch.randn(len(first), generator=generator, dtype=torch.float64)[classes]
    terms = elements * torch.polar(factor.abs(), angle) * factor.sign()
    rows = torch.zeros(len(images), dtype=torch.complex128).index_add_(0, parents, terms).view(-1, G)
    diagonal = hamiltonian.diagonal(images).view(-1, G)
    mismatch = torch.stack(
        [torch.maximum((rows[:, gh] - rows).abs(), (diagonal[:, gh] - diagonal).abs()).max() for gh in products]
    )
    scale = 1 + max(diagonal.abs().max().item(), rows.abs().max().item())
    return symmetry.subgroup((mismatch < 1e-9 * scale).tolist())


def refuse_lower_symmetry(hamiltonian: MatrixElements, symmetry: Symmetry) -> None:
    """Refuse a wavefunction with a symmetry that its Hamiltonian does not have.

    Raises:
        ValueError: some element does not commute with the Hamiltonian.
    """
    common = commuting(hamiltonian, symmetry)
    if common.order < symmetry.order:
        kept = set(zip(common.permutations, common.maps, strict=True))
        lost = next(g for g in zip(symmetry.permutations, symmetry.maps, strict=True) if g not in kept)
        raise ValueError(
            f"the wavefunction has {symmetry.order} symmetries, the Hamiltonian only {common.order} of them; not, for "
            f"example, the permutation {lost[0]} with the map {lost[1]}: use commuting(hamiltonian, symmetry) of "
            "nqs.symmetry."
        )
