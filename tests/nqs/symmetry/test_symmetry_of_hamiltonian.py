"""Symmetries are decided from all elements or all terms of a Hamiltonian, whatever its couplings and its size."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising, staggered_potential
from nqs.hilbert import Charge, HilbertSpace, bosons
from nqs.lattice import chain, from_edges, square
from nqs.symmetry import Symmetry, commuting, of_hamiltonian, space_group, symmetries_of, translations
from nqs.symmetry.interactions import interactions_of, keeps_the_sector

from matrices import dense

RING = chain(6)
PARTLY = (0.0, 0.3, 0.0, 0.3, 0.0, 0.3)
FAMILIES: list[Any] = [
    BoseHubbard(RING, 6, U=1.0),
    BoseHubbard(RING, 6, U=1.0, V=0.4, potential=PARTLY),
    BoseHubbard(RING, 3, U=0.0, V=0.7, n_max=1),  # particles and holes
    BoseHubbard(RING, 2, U=0.0, V=0.7, n_max=1),
    BoseHubbard(RING, 3, U=1.0, phases=(0.1,) * 6),
    BoseHubbard(RING, 3, U=1.0, phases=(0.1, 0.0) * 3),
    BoseHubbard(chain(4), 9, U=1.0, V=0.2),  # more local states than are compared on pairs
    BoseHubbard(chain(5), None, U=1.0, n_max=2, mu=0.3),
    Ising(RING, h=0.7),
    Ising(RING, h=0.7, g=0.2),
    Heisenberg(RING, 0.0),
    Heisenberg(RING, 1.0),
    Heisenberg(RING, None, h=0.3),
    Heisenberg(square(4, 2), 0.0, J=(1.0, 0.5)),
    Heisenberg(chain(4), 0.0, spin=1.0, Delta=0.7),
    Heisenberg(from_edges([(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]), 0.0),
    TV(RING, 3, V=1.0),
    TV(RING, 2, V=1.0, potential=PARTLY),
    TV(square(3, 2), 3, V=0.5, mu=0.2),
    FermiHubbard(RING, 3, 1, U=1.0, V=0.3),
    FermiHubbard(RING, 2, 2, U=4.0, t2=0.3),
    FermiHubbard(RING, 2, 2, U=4.0, twist=(0.4,)),
    FermiHubbard(square(2, 3, "open"), 2, 2, U=4.0, potential=staggered_potential(square(2, 3, "open"), 0.5)),
    FermiHubbard(chain(4), None, None, U=2.0, h=0.1),
    TJ(chain(4), 1, 2, J=0.4),
    TJ(chain(4), 2, 2, J=0.4),
    TJ(square(3, 2), 2, 2, J=0.4),
]


def of_matrix(h: Any, group: Symmetry) -> np.ndarray:
    """Which elements commute with the dense matrix."""
    H, n = dense(h), h.hilbert.configurations()
    found = []
    for g in range(group.order):
        element = torch.full((len(n),), g)
        U = np.zeros_like(H, dtype=complex)
        images = group.image(n, element)
        inside = h.hilbert.contains(images)
        if inside.all():
            U[h.hilbert.rank(images), np.arange(len(n))] = np.exp(1j * group.phases(n, element, h.hilbert).numpy())
        found.append(bool(inside.all()) and abs(U @ H - H @ U).max() < 1e-12)
    return np.array(found)


def candidates(monkeypatch: pytest.MonkeyPatch, h: Any, *, fermions: bool) -> Symmetry:
    """All elements that detection looks at."""
    with monkeypatch.context() as patch:
        patch.setattr(of_hamiltonian, "commuting", lambda hamiltonian, group: group)
        return symmetries_of(h, fermions=fermions)


@pytest.mark.parametrize("h", FAMILIES, ids=str)
def test_matrix_and_terms_decide_alike(h: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fermions = bool(h.hilbert.of_kind("fermion"))
    for signs in (False, True) if fermions else (False,):
        group = candidates(monkeypatch, h, fermions=signs)
        expected = group.subgroup(of_matrix(h, group))
        assert commuting(h, group) == expected
        if signs or not fermions or h.is_stoquastic:
            with monkeypatch.context() as patch:
                patch.setattr(of_hamiltonian, "WHOLE", 0)
                patch.setattr(of_hamiltonian, "ELEMENTS", 0)
                assert commuting(h, group) == expected


def test_one_site_among_hundreds_is_seen() -> None:
    """19,503 configurations, of which one in 98 feels the site: its stabiliser is left, C4v."""
    lattice = square(14, 14)
    defect = tuple(float(i == 137) for i in range(196))
    assert symmetries_of(BoseHubbard(lattice, 2, U=1.0, potential=defect, n_max=2)).order == 8
    phases = tuple(0.3 * (k == 11) for k in range(len(lattice.bonds())))  # the reflection about the bond's line is left
    assert symmetries_of(BoseHubbard(lattice, 2, U=1.0, phases=phases, n_max=2)).order == 2


@dataclass
class ThreeBody:
    """Hopping on a ring with an attraction of three bosons on the sites 0, 1, 2: rare, and no term on pairs."""

    L: int = 24
    N: int = 4
    strength: float = -40.0
    symmetry: Symmetry | None = None

    def __post_init__(self) -> None:
        self.right = BoseHubbard(chain(self.L), self.N, U=1.0, n_max=1)
        self.hilbert, self.lattice, self.connected = self.right.hilbert, self.right.lattice, self.right.connected

    def diagonal(self, n: Tensor) -> Tensor:
        return self.right.diagonal(n) + self.strength * (n[:, :3] == 1).all(1)


def test_a_rare_term_of_ones_own() -> None:
    """A reflection about site 1 is left; in 10,626 configurations 21 have the term."""
    assert symmetries_of(ThreeBody()).order == 2
    assert symmetries_of(ThreeBody(strength=0.0)).order == 48


def test_large_sectors_of_unknown_terms_have_no_symmetry_unless_they_declare_one() -> None:
    h = ThreeBody(L=40, N=8)
    assert interactions_of(h) is None
    assert symmetries_of(h).order == 1
    even = ThreeBody(L=40, N=8, strength=0.0)
    even.symmetry = translations(even.lattice, even.hilbert)
    assert symmetries_of(even) == even.symmetry


def test_a_declared_symmetry_is_checked() -> None:
    lattice = chain(40)
    wrong: Any = ThreeBody(L=40, N=8)
    wrong.diagonal = BoseHubbard(lattice, 8, U=1.0, n_max=1, potential=staggered_potential(lattice, 0.2)).diagonal
    wrong.symmetry = translations(lattice, wrong.hilbert)
    with pytest.raises(ValueError, match=r"the Hamiltonian declares 40 symmetries.*permutation.*n = \["):
        symmetries_of(wrong)


def test_pairs_that_do_not_hold_are_not_believed() -> None:
    h: Any = ThreeBody(L=40, N=20)
    h.interacting_pairs = h.lattice.bonds()
    assert interactions_of(h) is None
    h.diagonal, h.interacting_pairs = h.right.diagonal, h.lattice.bonds()[1:]
    assert interactions_of(h) is None


def test_charges_that_differ_by_site_restrict_the_group() -> None:
    """The bosons of one sublattice of a ring are conserved: translations by one site exchange the two."""
    ring = chain(60)
    values = tuple((0, 1) if site % 2 == 0 else (0, 0) for site in range(60))
    space = HilbertSpace(60, ("0", "1"), (Charge("on A", values, 7), Charge("particles", (0, 1), 15)))
    group = space_group(ring, bosons(60, 15, 1))
    kept = [keeps_the_sector(space, np.array(p), np.arange(2)) for p in group.permutations]
    assert kept == [p[0] % 2 == 0 for p in group.permutations]


def test_spins_of_a_thousand_sites_are_read_once() -> None:
    h = Heisenberg(chain(1000), 0.0)
    terms = interactions_of(h)
    assert terms is not None
    identity, shift, flip = np.arange(1000), np.roll(np.arange(1000), 1), np.array([1, 0])
    assert terms.invariant(shift, np.arange(2), fermions=False)
    assert terms.invariant(identity, flip, fermions=False)
    assert not terms.invariant(
        np.roll(np.arange(1000).reshape(2, 500), 1, axis=1).ravel(), np.arange(2), fermions=False
    )
