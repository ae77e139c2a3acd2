"""Detection of the symmetries of a Hamiltonian.

Whether H commutes with a symmetry is decided completely: from all matrix elements where the sector is small, else from
the terms of a Hamiltonian that states its `interacting_pairs` (nqs.symmetry.interactions). Of other Hamiltonians no
symmetry is used unless they declare one as their `symmetry`, which is then checked on random configurations, and in
every run on samples.
"""

# Shapes: B configurations, G group elements, L sites, K connected configurations.
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.samples import distinct
from nqs.symmetry.constructors import of_sites, particle_hole, spin_flip
from nqs.symmetry.group import Symmetry
from nqs.symmetry.interactions import EQUAL, ROUNDING, interactions_of, keeps_the_sector

MAX_ENTRIES = 2**18  # permutations times sites: an average over more images costs too much
WHOLE = 2**12  # dimension up to which all matrix elements are compared
ELEMENTS = 2**22  # the same where the terms are not known, in elements
ROWS = 2**14  # configurations in a chunk
PROBES = 256  # random configurations on which a declared symmetry is tested
PROBE_TOLERANCE = 1e-9  # difference of two rows, in units of their largest element without a constant in H


class MatrixElements(Protocol):
    """The members of nqs.protocols.Hamiltonian that are read here; that contract itself imports nqs.symmetry."""

    @property
    def hilbert(self) -> HilbertSpace: ...

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]: ...

    def connected(self, n: UInt8[Tensor, "B L"]) -> tuple[Tensor, Tensor, Tensor]:
        """Configurations (K, L), elements (K,) and parents (K,)."""


def symmetries_of(hamiltonian: MatrixElements, *, fermions: bool = False) -> Symmetry:
    """The largest known group that commutes with a Hamiltonian, with the trivial character; or the one it declares.

    Candidates are the space group of `hamiltonian.lattice` (translations alone if it has more than MAX_ENTRIES
    entries), the spin flip, and, without fermionic signs, the reversal of all local states (spin flip, particle-hole).

    Args:
        fermions: reordering fermions changes the sign of an amplitude, see `Symmetry`.

    Raises:
        ValueError: the Hamiltonian does not have the symmetry that it declares.
    """
    hilbert = hamiltonian.hilbert
    declared: Symmetry | None = getattr(hamiltonian, "symmetry", None)
    if declared is not None and declared.fermions == fermions:
        refuse_lower_symmetry(hamiltonian, declared, "the Hamiltonian declares")
        return declared
    try:
        sites = hamiltonian.lattice.space_group(MAX_ENTRIES).numpy()  # type: ignore[attr-defined]
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
    """The elements of a group that keep the sector and are known to commute with a Hamiltonian."""
    commutes = _decision(hamiltonian, symmetry)
    if commutes is None:
        return symmetry.subgroup([True] + [False] * (symmetry.order - 1))
    return symmetry.subgroup(subgroup_of(symmetry.products, commutes))


def _decision(hamiltonian: MatrixElements, symmetry: Symmetry) -> Callable[[int], bool] | None:
    """Decides whether an element commutes with the Hamiltonian; None if that cannot be decided."""
    hilbert = hamiltonian.hilbert
    if hilbert.dimension <= WHOLE:
        return _on_whole_sector(hamiltonian, symmetry)
    keeps = symmetry.keeps_sites(hilbert)
    terms = interactions_of(hamiltonian)
    if terms is not None:
        permutations, maps = np.array(symmetry.permutations), np.array(symmetry.maps)

        def commutes(g: int) -> bool:
            return (
                bool(keeps[g])
                and keeps_the_sector(hilbert, permutations[g], maps[g])
                and terms.invariant(permutations[g], maps[g], fermions=symmetry.fermions)
            )

        return commutes
    if hilbert.dimension * int(getattr(hamiltonian, "max_connected", 4 * hilbert.n_sites)) <= ELEMENTS:
        return _on_whole_sector(hamiltonian, symmetry)
    return None


def _on_whole_sector(hamiltonian: MatrixElements, symmetry: Symmetry) -> Callable[[int], bool]:
    """Whether H U_g x = U_g H x for a random vector x on the whole sector."""
    hilbert = hamiltonian.hilbert
    n = hilbert.configurations()
    diagonal = torch.cat([hamiltonian.diagonal(part) for part in n.split(ROWS)]).double()
    origin = diagonal.mean()  # a constant in H would hide small terms
    rows, columns, elements = [], [], []
    for start in range(0, len(n), ROWS):
        m, values, parents = hamiltonian.connected(n[start : start + ROWS])
        inside = hilbert.contains(m)  # others are refused by nqs.estimators.hamiltonian_check
        rows.append(start + parents[inside])
        columns.append(hilbert.rank(m[inside]))
        elements.append(values[inside].to(torch.complex128))
    row, column, element = map(torch.cat, (rows, columns, elements))

    def product(x: Tensor) -> Tensor:
        return ((diagonal - origin) * x).index_add_(0, row, element * x[column])

    x = torch.randn(len(n), generator=torch.Generator().manual_seed(0), dtype=torch.complex128)
    H_x = product(x)
    tolerance = EQUAL * H_x.abs().max().item() + ROUNDING * origin.abs().item()

    def commutes(g: int) -> bool:
        which = torch.full((len(n),), g)
        images = symmetry.image(n, which)
        if not hilbert.contains(images).all():
            return False
        rank, angle = hilbert.rank(images), symmetry.phases(n, which, hilbert)
        factor = torch.polar(torch.ones_like(angle), angle)
        moved, moved_H_x = (torch.empty_like(v).index_copy_(0, rank, factor * v) for v in (x, H_x))
        return (product(moved) - moved_H_x).abs().max().item() <= tolerance

    return commutes


def subgroup_of(products: np.ndarray, belongs: Callable[[int], bool]) -> np.ndarray:
    """Mask of the elements of a group that belong to a subgroup; asked only for what others do not imply.

    Args:
        products: index of g h, (G, G).
        belongs: whether an element belongs to the subgroup.
    """
    inside, outside = np.arange(len(products)) == 0, np.zeros(len(products), dtype=bool)
    generators: list[int] = []
    for g in range(len(products)):
        if inside[g] or outside[g]:
            continue
        if not belongs(g):
            outside[products[g, inside]] = True  # the whole coset
            continue
        generators.append(g)
        frontier = np.flatnonzero(inside)
        while len(frontier):
            reached = np.unique(products[frontier][:, generators])
            frontier = reached[~inside[reached]]
            inside[frontier] = True
    return inside


class Violation(NamedTuple):
    """An element that does not commute with H, and a configuration that shows it."""

    element: int
    configuration: list[int]
    what: str


def violation(
    hamiltonian: MatrixElements, symmetry: Symmetry, n: UInt8[Tensor, "B L"], element: Int64[Tensor, " B"]
) -> Violation | None:
    """The first of the configurations n whose row of H differs from that of its image under its own element."""
    hilbert, B = hamiltonian.hilbert, len(n)
    images = symmetry.image(n, element)

    def found(wrong: Tensor, what: str) -> Violation | None:
        rows = wrong.nonzero()[:, 0].tolist()
        return Violation(int(element[rows[0]]), n[rows[0]].tolist(), what) if rows else None

    if outside := found(~hilbert.contains(images), "its image is outside the sector"):
        return outside
    diagonal = hamiltonian.diagonal(torch.cat([n, images])).double()
    m, elements, parents = hamiltonian.connected(torch.cat([n, images]))
    of_n = parents < B
    g = element[parents[of_n]]
    angle = symmetry.phases(m[of_n], g, hilbert) - symmetry.phases(n[parents[of_n]], g, hilbert)
    moved = torch.cat([symmetry.image(m[of_n], g), m[~of_n]])
    values = elements.to(torch.complex128)
    # c_g(n) <n|H|m> c_g(m)* = <g n|H|g m>: the sum of both sides, with a minus, vanishes for every g m.
    terms = torch.cat([values[of_n] * torch.polar(torch.ones_like(angle), -angle), -values[~of_n]])
    rows = torch.cat([parents[of_n], parents[~of_n] - B])
    first, classes = distinct(hilbert, moved)
    pair, place = torch.unique(rows * max(1, len(first)) + classes, return_inverse=True)
    left = torch.zeros(len(pair), dtype=torch.complex128, device=n.device).index_add_(0, place, terms)
    scale = max((diagonal - diagonal.mean()).abs().max().item(), values.abs().max().item() if len(values) else 0.0)
    tolerance = PROBE_TOLERANCE * scale + ROUNDING * diagonal.abs().max().item()
    difference = (diagonal[:B] - diagonal[B:]).abs()
    difference.scatter_reduce_(0, pair // max(1, len(first)), left.abs(), "amax")
    return found(~(difference <= tolerance), "its row differs from that of its image")


def refuse_lower_symmetry(hamiltonian: MatrixElements, symmetry: Symmetry, whose: str = "the wavefunction has") -> None:
    """Refuse a symmetry that a Hamiltonian does not have.

    Raises:
        ValueError: some element does not commute with the Hamiltonian.
    """
    commutes = _decision(hamiltonian, symmetry)
    if commutes is None:
        generator = torch.Generator().manual_seed(0)
        n = hamiltonian.hilbert.random(PROBES, generator)
        element = torch.arange(PROBES) % symmetry.order
        if wrong := violation(hamiltonian, symmetry, n, element):
            raise ValueError(
                f"{whose} {symmetry.order} symmetries, the Hamiltonian not all of them; not, for example, "
                f"{named(symmetry, wrong.element)}: {wrong.what}, for n = {wrong.configuration}."
            )
        return
    common = subgroup_of(symmetry.products, commutes)
    if not common.all():
        lost = int((~common).nonzero()[0][0])
        raise ValueError(
            f"{whose} {symmetry.order} symmetries, the Hamiltonian only {common.sum()} of them; not, for example, "
            f"{named(symmetry, lost)}: use commuting(hamiltonian, symmetry) of nqs.symmetry."
        )


def named(symmetry: Symmetry, g: int) -> str:
    """An element in messages."""
    return f"the permutation {symmetry.permutations[g]} with the map {symmetry.maps[g]}"
