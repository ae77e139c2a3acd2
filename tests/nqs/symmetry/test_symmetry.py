"""Symmetry groups against brute force, permutation matrices of operators, and projectors on the whole space."""

import cmath
import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising, harmonic_trap, staggered_potential
from nqs.hilbert import HilbertSpace, bosons, fermions, spinful_fermions, spins
from nqs.lattice import chain, honeycomb, hypercubic, square, triangular
from nqs.protocols import Hamiltonian
from nqs.runtime import memory as chunks
from nqs.symmetry import Symmetry, commuting, particle_hole, space_group, spin_flip, symmetries_of, translations
from nqs.symmetry import orbits as orbit_listing

from matrices import dense

RING = chain(4)


def electrons(L: int, n_up: int, n_down: int, **options: Any) -> tuple[Hamiltonian, Symmetry]:
    h = FermiHubbard(chain(L), n_up, n_down, U=3.0, t2=0.2 if L > 4 else 0.0, **options)
    return h, symmetries_of(h, fermions=True)


def with_own(h: Hamiltonian, *, fermions: bool = False) -> tuple[Hamiltonian, Symmetry]:
    return h, symmetries_of(h, fermions=fermions)


# Hamiltonians with a group that commutes with them.
CASES: dict[str, tuple[Hamiltonian, Symmetry]] = {
    "bosons": with_own(BoseHubbard(RING, 4, U=2.0)),
    "hard-core bosons, half filling": with_own(BoseHubbard(chain(6), 3, U=0.0, V=0.7, n_max=1)),
    "spins 1/2": with_own(Heisenberg(chain(6), 0.0, J=(1.0, 0.3))),
    "spins 1": with_own(Heisenberg(chain(4), 0.0, spin=1.0, Delta=0.7)),
    "all magnetisations": with_own(Heisenberg(square(2, 2), None)),
    "triangles": with_own(Heisenberg(triangular(3, 2), 0.0)),
    "fermions around a ring": with_own(TV(chain(6), 2, V=1.5), fermions=True),
    "three fermions": with_own(TV(chain(7), 3, V=1.5), fermions=True),
    "fermions on a torus": with_own(TV(square(3, 2), 3, V=0.5), fermions=True),
    "fermions on a honeycomb": with_own(TV(honeycomb(2, 2), 3, V=0.5), fermions=True),
    "electrons, half filling": electrons(4, 2, 2),
    "electrons": electrons(5, 2, 1),
    "electrons on a ladder": with_own(FermiHubbard(square(2, 3, "open"), 2, 2, U=4.0), fermions=True),
    "t-J": with_own(TJ(chain(4), 1, 2, J=0.4), fermions=True),
}
every_case = pytest.mark.parametrize(("h", "group"), CASES.values(), ids=CASES)


# ---- written down again ------------------------------------------------------------------------------------------


def moved(group: Symmetry, g: int, n: tuple[int, ...]) -> tuple[int, ...]:
    """g n, site by site."""
    return tuple(group.maps[g][n[source]] for source in group.permutations[g])


def operators(group: Symmetry, hilbert: HilbertSpace) -> np.ndarray:
    """U_g |n> = (sign) |g n> for every g, (G, dimension, dimension).

    For fermions <n'|U_g|n> is the minor of the permutation of the orbitals whose rows n' occupies and columns n.
    """
    n = [tuple(row) for row in hilbert.configurations().tolist()]
    place = {row: i for i, row in enumerate(n)}
    species = [values for values in ((0, 1, 0, 1), (0, 0, 1, 1)) if hilbert.local_dim > 2]
    species = [values[: hilbert.local_dim] for values in species] or [(0, 1)]
    L = hilbert.n_sites
    found = np.zeros((group.order, len(n), len(n)))
    for g in range(group.order):
        orbitals = np.zeros((L * len(species),) * 2)
        if group.fermions:
            for k, site in itertools.product(range(len(species)), range(L)):
                one = moved(group, g, tuple((k + 1) * (s == site) for s in range(L)))  # local state k + 1: species k
                target = next(s for s in range(L) if one[s])
                orbitals[(one[target] - 1) * L + target, k * L + site] = 1
        for i, row in enumerate(n):
            image = moved(group, g, row)
            sign = 1.0
            if group.fermions:
                rows, columns = (
                    [k * L + s for k, values in enumerate(species) for s in range(L) if values[state[s]]]
                    for state in (image, row)
                )
                sign = np.linalg.det(orbitals[np.ix_(rows, columns)]) if rows else 1.0
            found[g, place[image], i] = sign
    return found


def projector(group: Symmetry, U: np.ndarray) -> np.ndarray:
    """1/G sum chi(g)* U_g+ onto psi(g n) = chi(g) sign psi(n), that is U_g+ psi = chi(g) psi."""
    chi = np.exp(2j * math.pi * np.array(group.angles))
    return np.einsum("g,gji->ij", chi.conj(), U) / group.order


def factors(group: Symmetry, hilbert: HilbertSpace) -> np.ndarray:
    """c_g(n) of the library, (G, dimension)."""
    n = hilbert.configurations()
    rows = [group.phases(n, torch.full((len(n),), g), hilbert).numpy() for g in range(group.order)]
    return np.exp(1j * np.array(rows))


def orbit_basis(group: Symmetry, hilbert: HilbertSpace) -> np.ndarray:
    """One normalised vector for each orbit of the library, (dimension, orbits)."""
    n, sizes = group.orbits(hilbert)
    basis = np.zeros((hilbert.dimension, len(n)), dtype=complex)
    for g in range(group.order):
        element = torch.full((len(n),), g)
        values = torch.polar(sizes.double().rsqrt(), group.phases(n, element, hilbert)).numpy()
        basis[hilbert.rank(group.image(n, element)), np.arange(len(n))] = values
    return basis


def momenta(h: Any, *, fermions: bool = False) -> list[Symmetry]:
    lattice = h.lattice
    all_of_them = itertools.product(*map(range, lattice.shape))
    return [translations(lattice, h.hilbert, momentum=m, fermions=fermions) for m in all_of_them]


# ---- groups ------------------------------------------------------------------------------------------------------


@every_case
def test_groups_are_closed_and_characters_multiply(h: Hamiltonian, group: Symmetry) -> None:
    elements = {(p, m): a for p, m, a in zip(group.permutations, group.maps, group.angles, strict=True)}
    assert len(elements) == group.order
    assert group.order > 1
    for character in group.real_characters():
        chi = dict(zip(elements, character.angles, strict=True))
        assert set(chi.values()) <= {0.0, 0.5}
        for (p, m), (q, o) in itertools.product(elements, repeat=2):
            product = tuple(q[s] for s in p), tuple(m[k] for k in o)  # first q, o
            assert (chi[p, m] + chi[q, o] - chi[product]) % 1 == 0
    assert group.real_characters()[0].is_trivial == (not group.fermions)
    assert not any(group.real_characters()[0].angles)
    assert len(set(group.real_characters())) == len(group.real_characters())


@pytest.mark.parametrize(
    ("group", "number"),
    [
        (translations(chain(5), bosons(5, 1)), 1),  # Z5
        (translations(chain(6), bosons(6, 1)), 2),
        (space_group(chain(5), bosons(5, 1)), 2),  # D5
        (space_group(chain(6), bosons(6, 1)), 4),  # D6
        (translations(square(2, 4), bosons(8, 1)), 4),  # Z2 x Z4
        (translations(hypercubic((2, 2, 2)), bosons(8, 1)), 8),
        (space_group(chain(6), spins(6, 0)) @ spin_flip(spins(6, 0)), 8),
    ],
)
def test_number_of_real_characters(group: Symmetry, number: int) -> None:
    """Of G modulo its squares and commutators, which the closed forms for these groups count."""
    assert len(group.real_characters()) == number


def test_products_join_groups_and_characters() -> None:
    space = spins(4, 0)
    group = translations(RING, space, momentum=(2,)) @ spin_flip(space, odd=True)
    assert group.order == 8
    angle = {(p, m): a for p, m, a in zip(group.permutations, group.maps, group.angles, strict=True)}
    one_step, flip = (1, 2, 3, 0), (1, 0)
    assert angle[one_step, (0, 1)] == angle[(0, 1, 2, 3), flip] == 0.5
    assert angle[one_step, flip] == 0.0
    # A group times itself is itself.
    assert set(group.permutations) == set((group @ group).permutations)
    assert (group @ group).order == 8


def test_subgroups_keep_their_characters() -> None:
    group = translations(chain(6), bosons(6, 2), momentum=(1,))
    half = group.subgroup([p[0] % 2 == 0 for p in group.permutations])
    assert half.order == 3
    assert sorted(half.angles) == pytest.approx([0, 1 / 3, 2 / 3])
    assert group.subgroup([True] + [False] * 5).order == 1


IDENTITY, SWAP = (0, 1), (1, 0)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda: Symmetry(permutations=(IDENTITY, SWAP), maps=(IDENTITY,), angles=(0.0, 0.0)),
            "one permutation, one map and one angle for each element; found 2, 1 and 2",
        ),
        (
            lambda: Symmetry(permutations=(IDENTITY, (0, 0)), maps=(IDENTITY,) * 2, angles=(0.0, 0.0)),
            r"permutations: \[0, 0\] is no permutation of 0 .. 1",
        ),
        (
            lambda: Symmetry(permutations=(IDENTITY,) * 2, maps=(IDENTITY, (1, 1)), angles=(0.0, 0.0)),
            r"maps: \[1, 1\] is no permutation of 0 .. 1",
        ),
        (
            lambda: Symmetry(permutations=(SWAP, IDENTITY), maps=(IDENTITY,) * 2, angles=(0.0, 0.0)),
            "first element of a symmetry must be the identity",
        ),
        (
            lambda: Symmetry(permutations=(IDENTITY,) * 2, maps=(IDENTITY,) * 2, angles=(0.0, 0.0)),
            "lists 2 elements, but only 1 are different",
        ),
        (
            lambda: Symmetry(permutations=((0, 1, 2), (1, 2, 0)), maps=(IDENTITY,) * 2, angles=(0.0, 0.0)),
            "form no group: the product of two of them is not among them",
        ),
        (
            lambda: Symmetry(permutations=(IDENTITY, SWAP), maps=(IDENTITY,) * 2, angles=(0.0, 0.25)),
            r"no character: chi\(g\) chi\(h\) differs from chi\(gh\) for the elements 1 and 1 \(0.25 \+ 0.25 is not 0",
        ),
        (
            lambda: translations(RING, spins(4, 0)) @ translations(RING, bosons(4, 4)),
            "4 sites with 2 local states and of 4 sites with 5 local states have no product",
        ),
        (
            lambda: translations(RING, spins(4, 0)) @ translations(RING, spins(4, 0), momentum=(1,)),
            "the groups share an element .* to which their characters give different phases",
        ),
        (
            lambda: translations(square(2, 2), spins(4, 0), momentum=(1,)),
            r"momentum=\(1,\): square.* has 2 directions; give one integer for each",
        ),
        (
            lambda: translations(RING, spins(4, 0)).check(spins(5, 0.5)),
            r"acts on 4 sites with 2 local states; the Hilbert space has 5 sites x 2",
        ),
        (
            lambda: spin_flip(spins(4, 1)).check(spins(4, 1)),
            r"element 1 of the symmetry \(map \(1, 0\)\) leaves the sector .*: use a group without it",
        ),
        (lambda: particle_hole(bosons(4, 1, n_max=1)).orbits(bosons(4, 1, n_max=1)), "leaves the sector"),
        (lambda: spin_flip(spinful_fermions(3, 2, 1)).orbits(spinful_fermions(3, 2, 1)), "leaves the sector"),
        (
            lambda: Symmetry(
                permutations=((0, 1),) * 2, maps=(IDENTITY, SWAP), angles=(0.0, 0.0), fermions=True
            ).forbidden(fermions(2, 1).configurations(), fermions(2, 1)),
            r"the map \(1, 0\) does not move fermions to fermions",
        ),
    ],
)
def test_errors_say_what_is_wrong(build: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


# ---- configurations ----------------------------------------------------------------------------------------------


@every_case
def test_images_orbits_and_representatives_by_brute_force(h: Hamiltonian, group: Symmetry) -> None:
    n = h.hilbert.configurations()
    images, canonical = group.images(n), group.canonical(n)
    representatives = group.image(n, canonical)
    orbits = set()
    for b, row in enumerate(map(tuple, n.tolist())):
        expected = [moved(group, g, row) for g in range(group.order)]
        assert [tuple(image) for image in images[b].tolist()] == expected
        assert tuple(representatives[b].tolist()) == min(expected)
        orbits.add((min(expected), len(set(expected))))
    even = group.with_angles([0.0] * group.order)
    if not group.fermions:
        found = even.orbits(h.hilbert)
        assert set(zip(map(tuple, found.representatives.tolist()), found.sizes.tolist(), strict=True)) == orbits
        assert found.sizes.sum() == h.hilbert.dimension
        assert not even.forbidden(n, h.hilbert).any()


@pytest.mark.parametrize("hilbert", [spins(60, 0), bosons(30, 12, n_max=4)], ids=["two words", "two words, bosons"])
def test_representatives_of_long_configurations(hilbert: HilbertSpace) -> None:
    """Keys of more bits than a float64 holds."""
    group = space_group(chain(hilbert.n_sites), hilbert)
    n = hilbert.random(20, torch.Generator().manual_seed(0))
    n[0] = torch.arange(hilbert.n_sites) < hilbert.n_sites // 2  # equal up to a late site, and its image
    representatives = group.image(n, group.canonical(n))
    for row, found in zip(n.tolist(), representatives.tolist(), strict=True):
        assert tuple(found) == min(moved(group, g, tuple(row)) for g in range(group.order))
    shifted = group.image(n, torch.full((20,), 7))
    assert group.image(shifted, group.canonical(shifted)).equal(representatives)


def test_orbits_come_in_chunks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    h, group = CASES["electrons, half filling"]
    whole = group.orbits(h.hilbert)
    monkeypatch.setattr("nqs.runtime.memory.CPU_BYTES", 1)
    pieces = group.with_angles(group.angles).orbits(h.hilbert)  # an equal group with nothing cached
    for one, other in zip(whole, pieces, strict=True):
        assert one.equal(other)
    assert group.orbits(h.hilbert) is whole


@pytest.mark.parametrize("digits", [2.0**53, 2.0**5], ids=["long words", "short words"])
def test_orbits_are_complete_without_enumerating_all_configurations(
    digits: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Different representatives, each the smallest of its orbit, whose members are the whole sector."""
    monkeypatch.setattr(orbit_listing, "EXACT_INTEGERS", digits)
    hardcore = BoseHubbard(chain(70), 3, U=0.0, n_max=1).hilbert  # of more sites than a word has bits
    ladder, ring, rungs = spins(16, 0), bosons(7, 7), spinful_fermions(6, 3, 3)
    for hilbert, group in (
        (hardcore, space_group(chain(70), hardcore)),
        (ladder, space_group(square(4), ladder) @ spin_flip(ladder)),
        (ring, space_group(chain(7), ring)),
        (rungs, space_group(square(2, 3), rungs) @ spin_flip(rungs)),
    ):
        perms, maps = np.array(group.permutations), np.array(group.maps)
        n, sizes = orbit_listing.smallest_of_orbits(perms, maps, hilbert, torch.device("cpu"))
        assert (hilbert.rank(n).diff() > 0).all()
        assert torch.equal(group.image(n, group.canonical(n)), n)
        assert sizes.sum() == hilbert.dimension


# ---- signs and sectors -------------------------------------------------------------------------------------------


def test_signs_of_more_orbitals_than_an_integer_has_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the parity of the permutation that sorts the moved orbitals; pieces of any size."""
    hilbert = spinful_fermions(35, 12, 9)
    group = space_group(chain(35), hilbert, fermions=True) @ spin_flip(spinful_fermions(35), fermions=True)
    n = hilbert.random(30, torch.Generator().manual_seed(0))
    element = torch.randint(group.order, (30,), generator=torch.Generator().manual_seed(1))
    expected = []
    for row, g in zip(n.tolist(), element.tolist(), strict=True):
        to = {site: target for target, site in enumerate(group.permutations[g])}
        exchanged = group.maps[g][1] == 2
        occupied = [(spin, s) for spin in (0, 1) for s, state in enumerate(row) if state >> spin & 1]
        moved = [(spin ^ exchanged, to[s]) for spin, s in occupied]
        expected.append(sum(a > b for a, b in itertools.combinations(moved, 2)) % 2 * math.pi)
    assert 5 < sum(x > 0 for x in expected) < 25
    for budget in (1, 2**25):
        monkeypatch.setattr(chunks, "CPU_BYTES", budget)
        assert group.phases(n, element, hilbert).tolist() == expected


@every_case
def test_phases_are_those_of_permuted_operators(h: Hamiltonian, group: Symmetry) -> None:
    U, c = operators(group, h.hilbert), factors(group, h.hilbert)
    n = np.arange(h.hilbert.dimension)
    for g in range(group.order):
        target = np.abs(U[g]).argmax(0)
        np.testing.assert_allclose(c[g], U[g][target, n] * cmath.exp(2j * math.pi * group.angles[g]), atol=1e-12)


@every_case
def test_kept_elements_commute_with_the_matrix(h: Hamiltonian, group: Symmetry) -> None:
    H = dense(h)
    for U in operators(group, h.hilbert):
        np.testing.assert_allclose(U @ H, H @ U, atol=1e-12)


@every_case
def test_spectrum_of_every_sector_of_real_characters(h: Hamiltonian, group: Symmetry) -> None:
    U, H = operators(group, h.hilbert), dense(h)
    for sector in group.real_characters():
        assert_sector(sector, h.hilbert, U, H)


@pytest.mark.parametrize(
    ("h", "signs"),
    [
        (BoseHubbard(RING, 3, U=2.0), False),
        (Heisenberg(chain(6), 0.0), False),
        (Heisenberg(square(2, 3), 0.0), False),
        (TV(chain(6), 2, V=1.0), True),
        (TV(chain(5), 3, V=1.0), True),
        (FermiHubbard(chain(4), 2, 1, U=3.0), True),
        (FermiHubbard(square(2, 2), 1, 1, U=3.0), True),
    ],
    ids=str,
)
def test_spectrum_of_every_momentum(h: Any, signs: bool) -> None:
    """The sectors of all momenta together are the whole space."""
    H, energies = dense(h), []
    for sector in momenta(h, fermions=signs):
        U = operators(sector, h.hilbert)
        energies += assert_sector(sector, h.hilbert, U, H).tolist()
    np.testing.assert_allclose(np.sort(energies), np.linalg.eigvalsh(H), atol=1e-10)


def assert_sector(sector: Symmetry, hilbert: HilbertSpace, U: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Basis and spectrum from the orbits are those of the dense projector; the spectrum."""
    P, basis = projector(sector, U), orbit_basis(sector, hilbert)
    np.testing.assert_allclose(basis.conj().T @ basis, np.eye(basis.shape[1]), atol=1e-10)
    np.testing.assert_allclose(basis @ basis.conj().T, P, atol=1e-10)  # also: what is forbidden is not in it
    forbidden = sector.forbidden(hilbert.configurations(), hilbert).numpy()
    np.testing.assert_array_equal(forbidden, np.diag(P).real < 1e-10)
    found = np.linalg.eigvalsh(basis.conj().T @ H @ basis)
    lifted = np.linalg.eigvalsh(P @ H @ P + 1e3 * (np.eye(len(P)) - P))
    np.testing.assert_allclose(found, lifted[: len(found)], atol=1e-9)
    assert (lifted[len(found) :] > 500).all()
    return found


@every_case
def test_eigenstates_obey_the_symmetry(h: Hamiltonian, group: Symmetry) -> None:
    """psi(g n) = chi(g) sign psi(n) with one chi(g) for every eigenstate that is not degenerate."""
    energies, states = np.linalg.eigh(dense(h))
    signs = factors(group.with_angles([0.0] * group.order), h.hilbert)
    rank = h.hilbert.rank(group.images(h.hilbert.configurations()).flatten(0, 1)).view(-1, group.order).numpy()
    alone = np.diff(energies, append=np.inf) > 1e-6
    alone[1:] &= np.diff(energies) > 1e-6
    characters = {tuple(character.angles) for character in group.real_characters()}
    assert alone.any()
    for psi in states.T[alone]:
        ratio = np.einsum("ng,gn->g", psi.conj()[:, None] * psi[rank], signs.conj())  # <psi| c* psi(g .)>
        np.testing.assert_allclose(np.abs(ratio), 1, atol=1e-9)
        assert tuple(np.round((np.angle(ratio) / (2 * math.pi)) % 1, 6) % 1) in characters


def test_momentum_of_a_plane_wave() -> None:
    """psi(x) = exp(i k x): moving the particle forwards by r multiplies by exp(i k r)."""
    h = BoseHubbard(hypercubic((4, 3)), 1, U=0.0)
    n = h.hilbert.configurations()
    site = n.argmax(1)
    position = torch.stack([site // 3, site % 3], 1).double()
    for m in itertools.product(range(4), range(3)):
        k = 2 * math.pi * torch.tensor(m).double() / torch.tensor([4, 3])
        psi = torch.polar(torch.ones(12).double(), position @ k)
        sector = translations(h.lattice, h.hilbert, momentum=m)
        images, c = sector.images(n), torch.from_numpy(factors(sector, h.hilbert))
        for g in range(12):
            torch.testing.assert_close(psi[h.hilbert.rank(images[:, g])], c[g] * psi)


# ---- symmetries of a Hamiltonian ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("h", "order"),
    [
        (BoseHubbard(chain(6), 6, U=1.0), 12),
        (BoseHubbard(chain(6, periodic=False), 6, U=1.0), 2),
        (BoseHubbard(chain(6), 6, U=1.0, potential=staggered_potential(chain(6), 0.5)), 6),
        (BoseHubbard(chain(5, periodic=False), 2, U=1.0, potential=harmonic_trap(chain(5, periodic=False), 0.5)), 2),
        (BoseHubbard(chain(5), 2, U=1.0, potential=(0.0, 0.0, 1.0, 0.0, 0.0)), 2),
        (BoseHubbard(chain(5), 2, U=1.0, potential=(0.0, 0.1, 0.3, 0.7, 2.0)), 1),
        (BoseHubbard(chain(99), 1, U=1.0, potential=(1.0,) + (0.0,) * 98), 2),  # few configurations feel it
        (BoseHubbard(chain(99), 1, U=1.0, phases=(0.3,) + (0.0,) * 98), 1),
        (BoseHubbard(chain(6), 3, U=1.0, n_max=1), 24),  # particles and holes
        (BoseHubbard(chain(6), 2, U=1.0, n_max=1), 12),
        (BoseHubbard(chain(6), 3, U=1.0, phases=(0.1,) * 6), 6),  # a flux turns one way round
        (Ising(chain(6), h=0.7), 24),
        (Ising(chain(6), h=0.7, g=0.2), 12),  # a longitudinal field
        (Heisenberg(chain(6), 0.0), 24),
        (Heisenberg(chain(6), 1.0), 12),
        (Heisenberg(chain(6), None, h=0.3), 12),
        (Heisenberg(square(4, 4), 0.0, J=(1.0, 0.5)), 256),  # translations, D4, flip; not all of those of the graph
        (TV(chain(6), 3, V=1.0), 24),
        (FermiHubbard(chain(6), 3, 1, U=1.0), 12),
        (BoseHubbard(chain(4), 2, U=1.0, J=0.0), 8),  # nothing is connected
    ],
    ids=str,
)
def test_largest_group(h: Any, order: int) -> None:
    group = symmetries_of(h)
    assert group.order == order
    assert not any(group.angles)


def test_signs_of_fermions_decide_what_commutes() -> None:
    """An even number of fermions around a ring: a translation moves one past the others."""
    even, odd = TV(chain(6), 2, V=1.0), TV(chain(6), 3, V=1.0)
    assert symmetries_of(even, fermions=True).order == symmetries_of(odd, fermions=True).order == 12
    assert symmetries_of(odd).order == 24  # no signs are needed, and holes count too
    assert symmetries_of(even).order < 12
    ladder = FermiHubbard(square(2, 3, "open"), 2, 2, U=4.0)
    assert symmetries_of(ladder, fermions=True).order == 8
    assert symmetries_of(FermiHubbard(chain(6), 2, 2, U=4.0, twist=(0.4,)), fermions=True).order < 24


def test_a_hamiltonian_without_a_lattice_has_its_reversal() -> None:
    class Bare:
        def __init__(self, h: Heisenberg) -> None:
            self.hilbert, self.diagonal, self.connected = h.hilbert, h.diagonal, h.connected

    group = symmetries_of(Bare(Heisenberg(RING, 0.0)))
    assert group.permutations == ((0, 1, 2, 3),) * 2
    assert set(group.maps) == {(0, 1), (1, 0)}


@given(
    potential=st.lists(st.sampled_from([0.0, 0.0, 0.5]), min_size=5, max_size=5),
    angles=st.none() | st.lists(st.sampled_from([0.0, 0.0, 0.4]), min_size=5, max_size=5),
    n_particles=st.integers(1, 3),
)
def test_commuting_keeps_what_commutes_with_the_matrix(
    potential: list[float], angles: list[float] | None, n_particles: int
) -> None:
    phases = None if angles is None else tuple(angles)
    h = BoseHubbard(chain(5), n_particles, U=1.0, potential=tuple(potential), phases=phases)
    group = space_group(h.lattice, h.hilbert)
    H, U = dense(h), operators(group, h.hilbert)
    expected = [p for p, u in zip(group.permutations, U, strict=True) if np.abs(u @ H - H @ u).max() < 1e-12]
    assert list(commuting(h, group).permutations) == expected


@given(
    potential=st.lists(st.sampled_from([0.0, 0.0, 0.5]), min_size=4, max_size=4),
    numbers=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    field=st.sampled_from([0.0, 0.2]),
    twist=st.sampled_from([None, (0.3,), (math.pi,)]),
)
def test_commuting_keeps_what_commutes_with_electrons(
    potential: list[float], numbers: tuple[int, int], field: float, twist: tuple[float] | None
) -> None:
    h = FermiHubbard(chain(4), *numbers, U=2.0, potential=tuple(potential), h=field, twist=twist)
    group = space_group(h.lattice, h.hilbert, fermions=True)
    if numbers[0] == numbers[1]:
        group = group @ spin_flip(h.hilbert, fermions=True)
    H, U = dense(h), operators(group, h.hilbert)
    expected = [
        e for e, u in zip(zip(group.permutations, group.maps, strict=True), U, strict=True)
        if np.abs(u @ H - H @ u).max() < 1e-12
    ]  # fmt: skip
    kept = commuting(h, group @ spin_flip(h.hilbert, fermions=True))
    assert list(zip(kept.permutations, kept.maps, strict=True)) == expected
    assert re.search("fermions=True", repr(kept))
