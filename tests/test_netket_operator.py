"""NetKet operators against NetKet's own matrices, against Kronecker products, and the way back.

The map between the local states of the two packages is written down again here (`in_netket`), on purpose.
"""

import functools
import itertools
import json
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import netket as nk
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from netket.operator import FermionOperator2nd, LocalOperator, PauliStrings, ProductOperator, SumOperator
from netket.operator.fermion import create, destroy, number
from netket.utils.group import Permutation

from nqs import VMC, Archive, exact
from nqs.hamiltonians import (
    TJ,
    TV,
    BoseHubbard,
    FermiHubbard,
    Heisenberg,
    Ising,
    LocalTerms,
    NetKetOperator,
    harmonic_trap,
    netket_operator,
    netket_terms,
    staggered_potential,
    to_netket,
)
from nqs.hilbert import Charge, HilbertSpace, bosons, fermions, spinful_fermions, spins
from nqs.lattice import Lattice, chain, honeycomb, kagome, square, triangular
from nqs.models import Transformer
from nqs.protocols import Connected, Hamiltonian
from nqs.samplers import ExhaustiveSampler
from nqs.serialise import from_plain, to_plain
from nqs.vmc import known_types

wrap = NetKetOperator.from_netket

# ---- operators -------------------------------------------------------------------------------------

SX, SY, SZ = np.array([[0, 1], [1, 0]]) / 2, np.array([[0, -1j], [1j, 0]]) / 2, np.diag([1, -1]) / 2
EXCHANGE = sum(np.kron(s, s) for s in (SX, SY, SZ)).real
ROTATED = 2 * np.diag(np.diag(EXCHANGE)) - EXCHANGE  # Marshall's rule
DZYALOSHINSKII_MORIYA = np.kron(SX, SY) - np.kron(SY, SX)
RING = [(i, (i + 1) % 6) for i in range(6)]


def spin_half(n_sites: int = 6, total_sz: float | None = None, **options: Any) -> Any:
    return nk.hilbert.Spin(0.5, n_sites, total_sz=total_sz, **options)


def electrons(n_orbitals: int, *per_spin: int, s: float = 0.5) -> Any:
    return nk.hilbert.SpinOrbitalFermions(n_orbitals, s=s, n_fermions_per_spin=per_spin or None)


def j1_j2(n_sites: int, j2: float) -> Any:
    graph = nk.graph.Chain(n_sites, max_neighbor_order=2)
    return nk.operator.GraphOperator(
        spin_half(n_sites, 0), graph, bond_ops=[ROTATED, j2 * EXCHANGE], bond_ops_colors=[0, 1]
    )


def strings(n_sites: int, *placed: tuple[float, str, int]) -> tuple[list[str], list[float]]:
    """Pauli strings from weights, letters and the site of the first letter, on a ring."""
    words = []
    for _, letters, first in placed:
        word = ["I"] * n_sites
        for k, letter in enumerate(letters):
            word[(first + k) % n_sites] = letter
        words.append("".join(word))
    return words, [weight for weight, *_ in placed]


def xyz(hilbert: Any) -> Any:
    couplings = [(-1.0, "XX"), (-0.7, "YY"), (0.2, "ZZ"), (0.3, "Z")]
    return PauliStrings(hilbert, *strings(6, *((w, s, i) for w, s in couplings for i in range(6))))


def hermitian(terms: Iterable[tuple[complex, Any]]) -> tuple[list[Any], list[complex]]:
    """Fermionic products and their Hermitian conjugates."""
    products, weights = [], []
    for weight, product in terms:
        products += [tuple(product), tuple((orbital, 1 - dagger) for orbital, dagger in reversed(product))]
        weights += [weight, np.conj(weight)]
    return products, weights


def t_v(hilbert: Any, theta: float = 0.0, impurity: float = 0.0) -> Any:
    bonds = [(i, (i + 1) % hilbert.size) for i in range(hilbert.size)]
    hops = [(-np.exp(1j * theta) if theta else -1.0, ((i, 1), (j, 0))) for i, j in bonds]
    repulsion = [(0.65, ((i, 1), (i, 0), (j, 1), (j, 0))) for i, j in bonds]
    return FermionOperator2nd(hilbert, *hermitian([*hops, *repulsion, (impurity, ((2, 1), (2, 0)))]), constant=0.4)


def extended_hubbard(hilbert: Any, mixing: float = 0.0) -> Any:
    """Spin-dependent complex hopping, interactions between sites, a field; `mixing` turns spins over."""
    L, operator = hilbert.n_orbitals, 0.3 * number(hilbert, 0, 1)
    for i, spin in itertools.product(range(L), (1, -1)):
        hop = -np.exp(0.2j * spin) * create(hilbert, i, spin, dtype=complex) @ destroy(hilbert, (i + 1) % L, spin)
        operator = operator + hop + hop.H.collect() + 2.0 * number(hilbert, i, 1) @ number(hilbert, i, -1)
        operator = operator + 0.5 * number(hilbert, i, spin) @ number(hilbert, (i + 1) % L, 1)
        operator = operator + mixing * create(hilbert, i, spin) @ destroy(hilbert, i, -spin)
    return operator


def two_body(hilbert: Any, seed: int = 0) -> Any:
    """c+_i,s c+_j,s' c_k,s' c_l,s with random weights, as in a molecule."""
    random, L = np.random.default_rng(seed), hilbert.n_orbitals
    terms = []
    for _ in range(14):
        (i, j, k, l), (s, t) = random.integers(0, L, 4), L * random.integers(0, hilbert.n_spin_subsectors, 2)
        terms.append((random.normal(), [(i + s, 1), (j + t, 1), (k + t, 0), (l + s, 0)]))
    terms.append((0.8, [(0, 1), (1, 0)]))
    return FermionOperator2nd(hilbert, *hermitian(terms), constant=0.7)


def correlated_bosons(hilbert: Any) -> Any:
    """Hopping that depends on the density of the third site, with a phase, and a source of single bosons."""
    b, b_dagger, n = (getattr(nk.operator.boson, name) for name in ("destroy", "create", "number"))
    operator = LocalOperator(hilbert, constant=1.7, dtype=complex)
    for i in range(3):
        hop = np.exp(0.3j * i) * b_dagger(hilbert, i, dtype=complex) @ b(hilbert, (i + 1) % 3, dtype=complex)
        hop = hop + 0.4 * hop @ n(hilbert, (i + 2) % 3, dtype=complex)
        operator = operator + hop + hop.H.collect()
    return operator + 0.2 * (b(hilbert, 0, dtype=complex) + b_dagger(hilbert, 0, dtype=complex))


def chiral(hilbert: Any) -> Any:
    return LocalOperator(hilbert, [EXCHANGE + 0.5 * DZYALOSHINSKII_MORIYA] * 6, RING)


def spin_one(n_sites: int) -> Any:
    """Bilinear-biquadratic with single-ion anisotropy, from NetKet's spin operators."""
    hilbert, spin = nk.hilbert.Spin(1, n_sites, total_sz=0), nk.operator.spin
    operator = LocalOperator(hilbert, dtype=float)
    for i in range(n_sites):
        j = (i + 1) % n_sites
        product = sum(
            (a(hilbert, i) @ b(hilbert, j)) / 2 for a, b in itertools.permutations((spin.sigmap, spin.sigmam))
        )
        product = product + spin.sigmaz(hilbert, i) @ spin.sigmaz(hilbert, j) / 4
        operator = (
            operator + product + 0.3 * product @ product + 0.1 * spin.sigmaz(hilbert, i) @ spin.sigmaz(hilbert, i)
        )
    return operator


def swap(hilbert: Any) -> Any:
    return nk.operator.permutation.PermutationOperator(hilbert, Permutation(permutation_array=[1, 0, 3, 2, 5, 4]))


def fock(n_max: int | None, n_sites: int, n_particles: int | None = None) -> Any:
    return nk.hilbert.Fock(n_max, n_sites, n_particles=n_particles)


OPERATORS: dict[str, Callable[[], Any]] = {
    "Ising chain": lambda: nk.operator.Ising(spin_half(), nk.graph.Chain(6), h=0.7, J=-1.1),
    "Ising square": lambda: nk.operator.IsingNumba(spin_half(), nk.graph.Grid([2, 3], pbc=False), h=-0.7),
    "Ising inverted": lambda: nk.operator.Ising(spin_half(5, inverted_ordering=True), nk.graph.Chain(5), h=0.7),
    "Heisenberg chain": lambda: nk.operator.Heisenberg(spin_half(6, 0), nk.graph.Chain(6)),
    "Heisenberg triangular": lambda: nk.operator.Heisenberg(spin_half(9, 2.5), nk.graph.Triangular([3, 3]), J=0.3),
    "Heisenberg inverted": lambda: nk.operator.Heisenberg(
        spin_half(6, 1, inverted_ordering=True), nk.graph.Chain(6, pbc=False), sign_rule=False
    ),
    "J1-J2": lambda: j1_j2(8, 0.4),
    "PauliStrings": lambda: xyz(spin_half()),
    "PauliStrings inverted": lambda: PauliStrings(
        spin_half(inverted_ordering=True),
        *strings(6, (0.3, "XYZ", 1), (0.2, "ZYX", 5), (1.1, "YZZY", 0), (0.7, "Y", 2)),
    ),
    "PauliStrings long": lambda: PauliStrings(
        nk.hilbert.Qubit(8),
        *strings(8, (0.3, "XXXXYXXZ", 0), (0.2, "YXXXYXXY", 0), (1.1, "XXXXYYXX", 3), (0.7, "Z", 2)),
    ),
    "PauliStrings sector": lambda: PauliStrings(
        spin_half(6, 0),
        *strings(6, (0.5, "XX", 0), (0.5, "YY", 0), (0.3, "XZX", 1), (0.3, "YZY", 1), (2, "ZIZ", 1), (0.2, "XZZX", 0),
                 (0.2, "YZZY", 0)),
    ),
    "BoseHubbard": lambda: nk.operator.BoseHubbard(fock(3, 4, 4), nk.graph.Chain(4), U=2.0, V=0.3, J=1.1, mu=0.2),
    "BoseHubbard without hopping": lambda: nk.operator.BoseHubbardNumba(
        fock(None, 4, 3), nk.graph.Chain(4), U=2.0, V=0.3, J=0.0, mu=0.2
    ),
    "BoseHubbard few": lambda: nk.operator.BoseHubbard(fock(6, 4, 3), nk.graph.Chain(4), U=2.0, V=0.3),
    "BoseHubbard grand-canonical": lambda: nk.operator.BoseHubbard(
        fock(2, 4), nk.graph.Graph([(0, 1), (2, 0), (3, 0)]), U=2.0, mu=0.4
    ),
    "LocalOperator complex": lambda: chiral(spin_half(6, 0)),
    "LocalOperator bosons": lambda: correlated_bosons(fock(3, 3)),
    "spin one": lambda: spin_one(4),
    "t-V": lambda: t_v(nk.hilbert.SpinOrbitalFermions(6, n_fermions=3), impurity=0.9),
    "t-V twisted": lambda: t_v(nk.hilbert.SpinOrbitalFermions(6, n_fermions=2), theta=0.2),
    "t-V grand-canonical": lambda: t_v(nk.hilbert.SpinOrbitalFermions(5), theta=0.2),
    "FermiHubbardJax": lambda: nk.operator.FermiHubbardJax(
        electrons(4, 1, 2), nk.graph.Chain(4, pbc=False), t=[1.0, 0.8, 1.0], U=4.0
    ),
    "extended Hubbard": lambda: extended_hubbard(electrons(3, 1, 2)),
    "spin-orbit": lambda: extended_hubbard(nk.hilbert.SpinOrbitalFermions(3, s=1 / 2, n_fermions=3), mixing=0.3),
    "spin-orbit grand-canonical": lambda: extended_hubbard(electrons(2), mixing=0.3),
    "two-body": lambda: two_body(electrons(3, 1, 2)),
    "two-body spin 3/2": lambda: two_body(electrons(2, 1, 0, 1, 1, s=1.5)),
    "sum": lambda: 0.5 * nk.operator.FermiHubbardJax(electrons(3, 1, 2), nk.graph.Chain(3), t=1.0, U=4.0),
    "sum of kinds": lambda: nk.operator.Ising(spin_half(), nk.graph.Chain(6), h=0.7) + xyz(spin_half()),
    "square": lambda: nk.operator.Squared(xyz(spin_half())),
    "LocalOperator product": lambda: j1_j2(6, 0.3) @ j1_j2(6, 0.3),
    "permutation": lambda: swap(spin_half(6, 0)),
    "permutation in a sum": lambda: SumOperator(swap(spin_half(6, 0)), j1_j2(6, 0.3), coefficients=[0.2, 1.0]),
}  # fmt: skip


@functools.cache
def operator(kind: str) -> Any:
    return OPERATORS[kind]()


every_kind = pytest.mark.parametrize("kind", OPERATORS)


# ---- matrices --------------------------------------------------------------------------------------


def in_netket(space: Any, hilbert: HilbertSpace, n: torch.Tensor) -> np.ndarray:
    """Configurations of nqs as NetKet's quantum numbers."""
    x = n.numpy().astype(np.int8)
    if isinstance(space, nk.hilbert.Spin):
        return 2 * x - (space.local_size - 1)
    if isinstance(space, nk.hilbert.SpinOrbitalFermions) and hilbert.local_dim > 2:
        spins = hilbert.local_dim.bit_length() - 1
        return np.concatenate([x >> bit & 1 for bit in reversed(range(spins))], axis=1)
    return x


def netket_matrix(operator: Any, hilbert: HilbertSpace) -> np.ndarray:
    """NetKet's elements between the configurations of the sector, in our order."""
    x = in_netket(operator.hilbert, hilbert, hilbert.configurations())
    if isinstance(operator, nk.operator.Squared):
        operator = operator.collect()
    if not isinstance(operator, SumOperator) and hasattr(operator, "to_numba_operator"):
        operator = operator.to_numba_operator()  # JAX would compile for every operator anew
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice to use NetKet's other fermionic operators
        connected, elements = operator.get_conn_padded(x)
    place = {tuple(row): i for i, row in enumerate(x.tolist())}
    matrix = np.zeros((len(x), len(x)), dtype=complex)
    for i, (rows, values) in enumerate(zip(np.asarray(connected).tolist(), np.asarray(elements), strict=True)):
        for row, value in zip(rows, values, strict=True):
            if value:
                matrix[i, place[tuple(row)]] += value
    return matrix


def dense(hamiltonian: Hamiltonian) -> np.ndarray:
    """From diagonal and connected, with the promises of the protocol checked."""
    n = hamiltonian.hilbert.configurations()
    diagonal, (k, elements, parents) = hamiltonian.diagonal(n), hamiltonian.connected(n)
    assert diagonal.dtype == torch.float64
    assert elements.dtype in (torch.float64, torch.complex128)
    assert k.dtype == torch.uint8
    assert hamiltonian.hilbert.contains(k).all()
    assert (elements != 0).all()
    assert (k != n[parents]).any(1).all()
    matrix = torch.diag(diagonal.to(elements.dtype))
    listed = torch.zeros(matrix.shape)
    listed.index_put_((parents, hamiltonian.hilbert.rank(k)), torch.ones(len(k)), accumulate=True)
    assert listed.max() <= 1, "an n' is listed twice"
    matrix[parents, hamiltonian.hilbert.rank(k)] = elements
    return matrix.numpy()


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max(initial=0.0)))


@every_kind
def test_matrix_and_ground_energy_equal_netket(kind: str) -> None:
    h = wrap(operator(kind))
    expected = netket_matrix(operator(kind), h.hilbert)
    assert len(expected) == operator(kind).hilbert.n_states
    assert np.abs(expected).max() > 0
    assert_same(dense(h), expected)
    assert_same(expected, expected.conj().T)
    assert np.isrealobj(dense(h)) == (np.abs(expected.imag).max() == 0)
    assert h._compile(torch.device("cpu")).conserving, "proved term by term"
    energy = np.linalg.eigvalsh(expected)[0]
    assert exact.ground_state(h).energy == pytest.approx(energy, abs=1e-10 * max(1.0, abs(energy)))


@every_kind
def test_any_batch_and_any_chunks_give_the_same_rows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    h = wrap(operator(kind))
    n = h.hilbert.random(30, torch.Generator().manual_seed(1))
    before, expected = n.clone(), dense(h)[h.hilbert.rank(n)]
    monkeypatch.setattr(netket_operator, "ELEMENTS", 7 * sum(terms.n_elements for terms in h.terms))
    h = NetKetOperator(h.hilbert, h.terms, h.modes)
    k, elements, parents = h.connected(n)
    rows = np.zeros_like(expected)
    rows[parents.numpy(), h.hilbert.rank(k).numpy()] = elements.numpy()
    rows[np.arange(30), h.hilbert.rank(n).numpy()] = h.diagonal(n).numpy()
    assert_same(rows, expected)
    assert torch.equal(n, before)
    assert len(h.connected(n[:0]).parents) == 0
    assert h.diagonal(n[:0]).shape == (0,)


@every_kind
def test_serialisation_through_json(kind: str) -> None:
    h = wrap(operator(kind))
    again = from_plain(json.loads(json.dumps(to_plain(h))), known_types())
    assert again == h
    assert hash(again) == hash(h)
    assert str(again) == str(h) == repr(h)
    assert np.array_equal(dense(again), dense(h))


@every_kind
def test_stoquastic_means_no_positive_off_diagonal_element(kind: str) -> None:
    h = wrap(operator(kind))
    off_diagonal = dense(h) - np.diag(np.diag(dense(h)))
    assert not h.is_stoquastic or (np.isrealobj(off_diagonal) and off_diagonal.max() <= 0)


def test_stoquastic_operators_are_recognised() -> None:
    """NetKet applies Marshall's rule to the Heisenberg model on a bipartite graph."""
    kinds = {"Ising chain", "Heisenberg chain", "BoseHubbard", "BoseHubbard without hopping"}
    assert all(wrap(operator(kind)).is_stoquastic for kind in kinds)
    assert not wrap(operator("Heisenberg inverted")).is_stoquastic
    assert not wrap(operator("Ising square")).is_stoquastic


def test_products_equal_the_product_of_the_matrices() -> None:
    """The matrices of the factors multiplied here: NetKet's matrix of a product comes from the same factors."""

    def check(a: Any, b: Any, factor: float = 1.0) -> None:
        both = SumOperator(ProductOperator(a, b, coefficient=factor), ProductOperator(b, a, coefficient=factor))
        h = wrap(both)
        A, B = netket_matrix(a, h.hilbert), netket_matrix(b, h.hilbert)
        assert_same(dense(h), factor * (A @ B + B @ A))

    check(operator("Ising chain"), operator("PauliStrings"))
    long = operator("PauliStrings long")
    check(long, PauliStrings(long.hilbert, *strings(8, (0.5, "ZZYXZ", 2), (0.3, "XXXXXXX", 1))), 1.5)
    check(operator("FermiHubbardJax"), operator("FermiHubbardJax"))
    check(operator("permutation"), operator("Heisenberg chain"))  # of unknown structure


def test_products_may_leave_the_sector_between_their_factors() -> None:
    """b b+ = n + 1 passes through occupations that the sector does not have, as hopping with more bosons does."""
    space, sector = fock(3, 3), bosons(3, 2)
    product = ProductOperator(nk.operator.boson.destroy(space, 0), nk.operator.boson.create(space, 0))
    assert_same(dense(wrap(product, sector)), np.diag(sector.configurations()[:, 0].numpy() + 1.0))
    hubbard = nk.operator.BoseHubbard(space, nk.graph.Chain(3, pbc=False), U=1.3, V=0.2)
    sandwich = ProductOperator(nk.operator.boson.destroy(space, 1), hubbard, nk.operator.boson.create(space, 1))
    b = np.kron(np.eye(4), np.kron(np.diag(np.sqrt([1.0, 2.0, 3.0]), 1), np.eye(4)))
    everywhere = dense(wrap(hubbard))
    inside = wrap(hubbard).hilbert.rank(sector.configurations()).numpy()
    assert_same(dense(wrap(sandwich, sector)), (b @ everywhere @ b.T)[np.ix_(inside, inside)])


def test_particle_number_conserving_operators() -> None:
    """Converted by NetKet from operators whose matrices are known; few terms, because the conversion is slow."""
    kinds = nk.experimental.operator
    free = FermionOperator2nd(
        nk.hilbert.SpinOrbitalFermions(4, n_fermions=2),
        *hermitian([(0.5 + 0.2j, ((0, 1), (2, 0))), (0.3, ((3, 1), (1, 0))), (0.7, ((1, 1), (1, 0)))]),
        constant=0.4,
    )
    for original, kind in (
        (free, kinds.ParticleNumberConservingFermioperator2nd),
        (operator("two-body"), kinds.ParticleNumberAndSpinConservingFermioperator2nd),
    ):
        converted = wrap(kind.from_fermionoperator2nd(original))
        assert converted.name == f"NetKet {kind.__name__}"
        assert_same(dense(converted), dense(wrap(original)))


def test_matrix_equals_to_dense() -> None:
    """NetKet's whole way to a matrix; in this sector it lists the configurations as we do."""
    chain_ = operator("LocalOperator complex")
    h = wrap(chain_)
    assert (in_netket(chain_.hilbert, h.hilbert, h.hilbert.configurations()) == chain_.hilbert.all_states()).all()
    assert_same(dense(h), np.asarray(chain_.to_dense()))


# ---- random operators against Kronecker products ---------------------------------------------------


def embedded(matrix: np.ndarray, sites: list[int], n_sites: int, d: int) -> np.ndarray:
    """A local matrix on the whole space, by moving axes."""
    k = len(sites)
    whole = np.kron(matrix, np.eye(d ** (n_sites - k))).reshape((d,) * (2 * n_sites))
    order = [*sites, *(i for i in range(n_sites) if i not in sites)]
    places = np.argsort(order)
    return whole.transpose([*places, *(places + n_sites)]).reshape(d**n_sites, d**n_sites)


def random_hermitian(seed: int, size: int, complex_: bool) -> np.ndarray:
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(size, size)) * (random.random((size, size)) < 0.4)
    if complex_:
        matrix = matrix + 1j * random.normal(size=(size, size)) * (matrix != 0)
    return matrix + matrix.conj().T


@st.composite
def local_operators(draw: st.DrawFn) -> tuple[int, int, list[tuple[list[int], np.ndarray]]]:
    d, n_sites = draw(st.sampled_from([(2, 4), (2, 5), (3, 3), (4, 3)]))
    complex_, terms = draw(st.booleans()), []
    for _ in range(draw(st.integers(0, 4))):
        sites = draw(st.lists(st.integers(0, n_sites - 1), min_size=1, max_size=3, unique=True))
        terms.append((sites, random_hermitian(draw(st.integers(0, 2**20)), d ** len(sites), complex_)))
    return d, n_sites, terms


@settings(max_examples=40)
@given(drawn=local_operators(), spin=st.booleans())
def test_random_local_operators_equal_kronecker_products(drawn: Any, spin: bool) -> None:
    d, n_sites, terms = drawn
    space = nk.hilbert.Spin((d - 1) / 2, n_sites) if spin else fock(d - 1, n_sites)
    h = wrap(LocalOperator(space, [m for _, m in terms], [s for s, _ in terms], constant=0.5, dtype=complex))
    expected = 0.5 * np.eye(d**n_sites) + sum(embedded(m, s, n_sites, d) for s, m in terms)
    if spin:  # NetKet counts from spin up, nqs from spin down: every local index is reversed
        expected = expected[::-1, ::-1]
    assert_same(dense(h), expected)


PAULI = {"I": np.eye(2), "X": 2 * SX, "Y": 2 * SY, "Z": 2 * SZ}


@settings(max_examples=40)
@given(
    drawn=st.lists(st.tuples(st.text("IXYZ", min_size=5, max_size=5), st.integers(-9, 9)), min_size=1, max_size=8),
    most_flips=st.sampled_from([0, 2, 6]),
)
def test_random_pauli_strings_equal_kronecker_products(drawn: list[tuple[str, int]], most_flips: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netket_terms, "FLIPS", most_flips)
        h = wrap(PauliStrings(nk.hilbert.Qubit(5), [s for s, _ in drawn], [float(w) for _, w in drawn]))
    expected = sum(w * functools.reduce(np.kron, [PAULI[letter] for letter in s]) for s, w in drawn)
    assert_same(dense(h), expected)


@settings(max_examples=40)
@given(data=st.data(), paired=st.booleans())
def test_random_fermion_operators_equal_jordan_wigner_matrices(data: st.DataObject, paired: bool) -> None:
    """Products of up to five operators, with repetitions; not all conserve the number."""
    z, lower = np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [0.0, 0.0]])
    c = [functools.reduce(np.kron, [z] * i + [lower] + [np.eye(2)] * (3 - i)) for i in range(4)]
    ladders = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=5)
    drawn = data.draw(st.lists(st.tuples(ladders, st.integers(1, 9), st.integers(-3, 3)), min_size=1, max_size=4))
    terms, weights = hermitian((re + 0.5j * im, ladder) for ladder, re, im in drawn)
    space = electrons(2) if paired else nk.hilbert.SpinOrbitalFermions(4)
    h = wrap(FermionOperator2nd(space, terms, weights))
    expected = np.zeros((16, 16), dtype=complex)
    for ladder, weight in zip(terms, weights, strict=True):
        expected += weight * functools.reduce(
            np.matmul, [c[i].T if dagger else c[i] for i, dagger in ladder], np.eye(16)
        )
    order = in_netket(space, h.hilbert, h.hilbert.configurations()) @ [8, 4, 2, 1]
    assert_same(dense(h), expected[np.ix_(order, order)])


# ---- sectors ---------------------------------------------------------------------------------------


def custom_constraint() -> Any:
    class Even(nk.hilbert.constraint.DiscreteHilbertConstraint):
        """An even number of particles."""

        def __call__(self, x: Any) -> Any:
            return x.sum(-1) % 2 == 0

        def __hash__(self) -> int:
            return 7

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Even)

        def __repr__(self) -> str:
            return "Even()"

    return Even()


@pytest.mark.parametrize(
    ("space", "sector"),
    [
        (spin_half(6, 1), spins(6, 1)),
        (nk.hilbert.Spin(1.5, 3), spins(3, spin=1.5)),
        (fock(3, 4, 5), bosons(4, 5, 3)),
        (fock(None, 4, 0), bosons(4, 0)),
        (fock(3, 4), bosons(4, n_max=3)),
        (nk.hilbert.Fock(2, 4, constraint=nk.hilbert.constraint.SumConstraint(3)), bosons(4, 3, 2)),
        (nk.hilbert.Qubit(3), HilbertSpace(3, ("0", "1"))),
        (nk.hilbert.SpinOrbitalFermions(5, n_fermions=2), fermions(5, 2)),
        (nk.hilbert.SpinOrbitalFermions(5), fermions(5)),
        (electrons(4, 1, 3), spinful_fermions(4, n_up=3, n_down=1)),
        (electrons(4), spinful_fermions(4)),
        (
            nk.hilbert.SpinOrbitalFermions(4, s=1 / 2, n_fermions=3),
            HilbertSpace(4, ("empty", "up", "down", "both"), (Charge("electrons", (0, 1, 1, 2), 3),)),
        ),
    ],
    ids=str,
)
def test_sector_is_that_of_the_space(space: Any, sector: HilbertSpace) -> None:
    h = wrap(LocalOperator(space, [np.eye(space.local_size)], [[0]]))
    assert h.hilbert == sector
    assert sector.dimension == space.n_states
    assert_same(dense(h), np.eye(sector.dimension))


def test_sector_as_an_argument() -> None:
    """The same operator on the whole space, on sectors of nqs and of NetKet, and with one orbital per site."""
    whole = extended_hubbard(electrons(3))
    matrix = netket_matrix(whole, spinful_fermions(3))
    up_two = wrap(whole, spinful_fermions(3, 2, 1))
    assert_same(dense(up_two), netket_matrix(extended_hubbard(electrons(3, 1, 2)), spinful_fermions(3, 2, 1)))
    assert up_two == wrap(whole, electrons(3, 1, 2))
    inside = spinful_fermions(3).rank(up_two.hilbert.configurations()).numpy()
    assert_same(dense(up_two), matrix[np.ix_(inside, inside)])
    orbitals = wrap(whole, fermions(6, 3))
    assert_same(dense(orbitals), netket_matrix(whole, fermions(6, 3)))
    parity = HilbertSpace(6, ("-1/2", "1/2"), (Charge("up spins", (0, 1), 0, modulus=2),))
    xx = xyz(spin_half())
    assert_same(dense(wrap(xx, parity)), netket_matrix(xx, parity))


def test_a_custom_constraint_can_be_replaced_by_a_sector() -> None:
    space = nk.hilbert.Fock(1, 4, constraint=custom_constraint())
    even = HilbertSpace(4, ("0", "1"), (Charge("particles", (0, 1), 0, modulus=2),))
    pairs = PauliStrings(space, *strings(4, (0.5, "XX", 0), (0.3, "YY", 1), (0.2, "Z", 2)))
    assert_same(dense(wrap(pairs, even)), netket_matrix(pairs, even))


# ---- errors ----------------------------------------------------------------------------------------


def unbalanced() -> Any:
    return nk.operator.spin.sigmap(spin_half(), 0) + nk.operator.spin.sigmaz(spin_half(), 1)


ERRORS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "leaves by one flip": (
        lambda: wrap(nk.operator.Ising(spin_half(4, 0), nk.graph.Chain(4), h=1.5)),
        ValueError,
        r"NetKet Ising leaves the sector: it takes the configuration \[0, 0, 1, 1\] to \[1, 0, 1, 1\] with the element "
        r"-1\.5, which changes 2 Sz from 0 to 2\. The sector is 4 sites",
    ),
    "leaves in a large sector": (
        lambda: wrap(nk.operator.Ising(spin_half(40, 0), nk.graph.Chain(40), h=1.0)),
        ValueError,
        r"leaves the sector.*changes 2 Sz from 0 to -?2",
    ),
    "leaves by a sign that does not cancel": (
        lambda: wrap(PauliStrings(spin_half(4, 0), ["XXII", "YYII", "XXZI"], [1.0, 1.0, 0.5])),
        ValueError,
        r"PauliStrings leaves the sector.*changes 2 Sz from 0 to",
    ),
    "turns a spin over": (
        lambda: wrap(extended_hubbard(electrons(2), mixing=0.1), spinful_fermions(2, 1, 1)),
        ValueError,
        r"FermionOperator2nd leaves the sector.*up electrons from 1 to [02], down electrons from 1 to [02]",
    ),
    "above the cutoff": (
        lambda: wrap(nk.operator.BoseHubbard(fock(5, 3, 3), nk.graph.Chain(3), U=1.0), bosons(3, 3, 2)),
        ValueError,
        r"leaves the sector.*to \[.*3.*\].*a site to a state beyond the largest one, '2'",
    ),
    "not Hermitian": (
        lambda: wrap(unbalanced()),
        ValueError,
        r"NetKet LocalOperator is not Hermitian: <n\|H\|n'> = 1, but <n'\|H\|n> = 0 for n = \[.*\], n' = \[.*\]\. Add",
    ),
    "not Hermitian in a large sector": (
        lambda: wrap(LocalOperator(spin_half(40), [np.array([[0.0, 1.0], [2.0, 0.0]])], [[7]])),
        ValueError,
        r"not Hermitian: <n\|H\|n'> = [12], but <n'\|H\|n> = [12] for n = ",
    ),
    "complex on the diagonal": (
        lambda: wrap(PauliStrings(spin_half(4), ["ZZII"], [0.5j])),
        ValueError,
        r"not Hermitian: <n\|H\|n> = 0\+0\.5j is not real for n = \[0, 0, 0, 0\]",
    ),
    "permutation": (
        lambda: wrap(
            nk.operator.permutation.PermutationOperator(spin_half(3), Permutation(permutation_array=[1, 2, 0]))
        ),
        ValueError,
        r"PermutationOperator is not Hermitian",
    ),
    "wrong size": (
        lambda: wrap(operator("BoseHubbard"), bosons(5, 3)),
        ValueError,
        r"acts on Fock\(n_max=3, n_particles=4, N=4\), 4 degrees of freedom of 4 states each, which does not fit the "
        r"sector: 5 sites x 4 local states",
    ),
    "wrong local states": (
        lambda: wrap(operator("BoseHubbard"), bosons(4, 5)),
        ValueError,
        r"does not fit the sector: 4 sites x 6 local states",
    ),
    "wrong space": (
        lambda: wrap(operator("J1-J2"), spinful_fermions(4, 2, 2)),
        ValueError,
        r"acts on Spin.*does not fit the sector: 4 sites x 4 local states",
    ),
    "wrong spin": (
        lambda: wrap(operator("spin one"), spins(4, 0)),
        ValueError,
        r"acts on Spin\(s=1, N=4.*does not fit the sector: 4 sites x 2 local states",
    ),
    "impossible filling": (lambda: wrap(operator("Ising chain"), spins(6, 7)), ValueError, r"2 Sz = 14 is impossible"),
    "no cutoff": (
        lambda: wrap(nk.operator.BoseHubbard(nk.hilbert.Fock(None, 3), nk.graph.Chain(3), U=1.0)),
        ValueError,
        r"no cutoff: give it n_max, at most 255, or n_particles",
    ),
    "custom constraint": (
        lambda: wrap(PauliStrings(nk.hilbert.Fock(1, 4, constraint=custom_constraint()), ["XXII"])),
        ValueError,
        r"the constraint Even\(\) of Fock.*give the sector as `hilbert`",
    ),
    "extra constraint": (
        lambda: wrap(t_v(nk.hilbert.SpinOrbitalFermions(4, n_fermions=2, constraint=custom_constraint()))),
        ValueError,
        r"ExtraConstraint\(SumConstraint\(2\), Even\(\)\).*give the sector",
    ),
    "different spaces": (
        lambda: wrap(
            nk.operator.EmbedOperator(spin_half(2) * fock(2, 2), nk.operator.spin.sigmaz(spin_half(2), 0), 0)
        ),
        ValueError,
        r"only spaces with the same local states on every site",
    ),
    "superoperator": (
        lambda: wrap(nk.operator.LocalLiouvillian(operator("Ising chain"), [])),
        TypeError,
        r"LocalLiouvillian is no operator of NetKet on discrete states",
    ),
    "continuous": (
        lambda: wrap(nk.operator.KineticEnergy(particle(), mass=1.0)),
        TypeError,
        r"KineticEnergy is no operator of NetKet on discrete states",
    ),
    "no operator": (lambda: wrap("Ising"), TypeError, r"str is no operator of NetKet"),
    "no sector": (lambda: wrap(operator("Ising chain"), 3), TypeError, r"hilbert is a int: give a HilbertSpace of nqs"),
    "unknown structure": (
        lambda: wrap(
            nk.operator.permutation.PermutationOperator(
                spin_half(20), Permutation(permutation_array=np.arange(20)[::-1])
            )
        ),
        TypeError,
        r"PermutationOperator cannot be taken apart into local terms \(known are LocalOperator, Ising.*20 sites.*limit "
        r"is 4096",
    ),
    "product without cutoff": (
        lambda: wrap(
            ProductOperator(*[nk.operator.BoseHubbard(nk.hilbert.Fock(None, 3), nk.graph.Chain(3), U=1.0)] * 2),
            bosons(3, 2),
        ),
        ValueError,
        r"too many for a product of operators, set n_max",
    ),
    "modes": (
        lambda: NetKetOperator(spins(4), (), ((0,), (1,), (2,))),
        ValueError,
        r"modes lists 3 sites with \[1\] modes",
    ),
    "huge matrix": (lambda: huge().diagonal(spins(30).configurations(0, 1)), ValueError, r"1 different matrices on 30 "
        r"modes of 2 states: too many rows"),
    "no NetKet space for t-J": (
        lambda: to_netket(TJ(chain(4), 1, 1, J=0.4)),
        ValueError,
        r"NetKet has no space for the sector 4 sites x 3 local states.*\('empty', 'up', 'down'\)",
    ),
    "no NetKet space for half a sector": (
        lambda: to_netket(FermiHubbard(chain(4), 2, None, U=4.0)),
        ValueError,
        r"NetKet has no space for the sector 4 sites x 4 local states, up electrons = 2",
    ),
}  # fmt: skip


def huge() -> NetKetOperator:
    """One matrix on 30 sites."""
    sites = tuple(range(30))
    identity = LocalTerms(entries=(((0,) * 30, (0,) * 30, 1.0, 0.0),), modes=(sites,), coefficients=(1.0,))
    return NetKetOperator(spins(30), (identity,), tuple((i,) for i in sites))


def particle() -> Any:
    return nk.experimental.hilbert.Particle(N=1, geometry=nk.experimental.geometry.Cell(d=1, L=1.0))


@pytest.mark.parametrize("case", ERRORS)
def test_errors_say_what_was_found(case: str, unchecked: None) -> None:
    build, error, text = ERRORS[case]
    with pytest.raises(error, match=text):
        build()


def test_what_holds_only_for_the_sum_of_terms_is_accepted() -> None:
    """X on one site, half of it with an identity beside it; XX and YY conserve S^z only together."""
    half = np.array([[0.0, 1.0], [0.0, 0.0]])
    pieces = LocalOperator(spin_half(3), [half, np.kron(half.T, np.eye(2))], [[0], [0, 1]])
    assert_same(dense(wrap(pieces)), embedded(2 * SX, [0], 3, 2))
    apart = LocalOperator(spin_half(4, 0), [np.kron(SX, SX), np.kron(np.kron(SY, SY), np.eye(2))], [[0, 1], [0, 1, 2]])
    together = LocalOperator(spin_half(4, 0), [np.kron(SX, SX) + np.kron(SY, SY)], [[0, 1]])
    assert not wrap(apart)._compile(torch.device("cpu")).conserving
    assert_same(dense(wrap(apart)), dense(wrap(together)))


# ---- runs ------------------------------------------------------------------------------------------

RUNS = {
    "Ising chain": 60,
    "J1-J2": 60,
    "PauliStrings": 120,
    "BoseHubbard": 40,
    "LocalOperator complex": 100,
    "t-V twisted": 60,
    "FermiHubbardJax": 60,
}


def short_run(h: NetKetOperator, seed: int = 1) -> VMC:
    model = Transformer(h.hilbert, width=8, heads=2, layers=1, seed=seed)
    return VMC(h, model, ExhaustiveSampler(), evaluation=ExhaustiveSampler())


@pytest.mark.parametrize("kind", RUNS)
def test_a_short_run_converges(kind: str, unchecked: None) -> None:
    h = wrap(operator(kind))
    result = short_run(h).run(RUNS[kind], exact=exact.ground_state(h), progress=False)
    assert -1e-10 < result.relative_error < 1e-3


WITHOUT_NETKET = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("netket", "jax", "jaxlib"):
            raise ImportError(name + " was imported")
sys.meta_path.insert(0, Refuse())
import torch
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
from nqs import resume
print(repr(resume(sys.argv[1], progress=False).estimate.energy))
"""


def test_archive_resumes_without_netket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h = wrap(operator("two-body"), name="a long way")
    reference = short_run(h).run(6, archive=tmp_path / "whole.h5", progress=False)
    record = Archive.record

    def interrupted(self: Archive, quantities: Any, step: int, *rest: Any) -> None:
        if step == 4:
            raise KeyboardInterrupt
        record(self, quantities, step, *rest)

    monkeypatch.setattr(Archive, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        short_run(h).run(6, archive=tmp_path / "run.h5", progress=False)
    assert Archive.open(tmp_path / "run.h5").step == 3
    assert "a long way" in Archive.open(tmp_path / "run.h5").attributes["hamiltonian"]
    command = [sys.executable, "-c", WITHOUT_NETKET, str(tmp_path / "run.h5")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == reference.estimate.energy
    assert Archive.open(tmp_path / "run.h5").step == 6


# ---- to NetKet -------------------------------------------------------------------------------------


def phases(lattice: Lattice) -> tuple[float, ...]:
    return tuple(0.1 * k for k in range(len(lattice.bonds())))


FAMILIES: dict[str, Callable[[], Any]] = {
    "BoseHubbard": lambda: BoseHubbard(chain(4), 3, U=2.5, V=0.3, mu=0.2),
    "BoseHubbard trap, flux": lambda: BoseHubbard(
        square(2, 2), 3, U=2.5, n_max=2, potential=harmonic_trap(square(2, 2), 0.3), phases=phases(square(2, 2))
    ),
    "BoseHubbard grand-canonical": lambda: BoseHubbard(chain(3, boundary="antiperiodic"), U=2.5, J=0.7, n_max=2),
    "BoseHubbard without hopping": lambda: BoseHubbard(chain(3), 2, U=2.5, J=0.0, V=0.7),
    "Heisenberg": lambda: Heisenberg(chain(6), 0, J=(1.0, 0.4), h=0.3),
    "Heisenberg XXZ": lambda: Heisenberg(kagome(1, 2, "open"), 1, J=0.7, Delta=0.3),
    "Heisenberg spin one": lambda: Heisenberg(chain(3, boundary="antiperiodic"), None, Delta=0.3, h=0.2, spin=1),
    "Ising": lambda: Ising(triangular(3, 2, "open"), h=0.7, J=-1.2),
    "Ising tilted": lambda: Ising(chain(5, boundary="antiperiodic"), h=0.7, g=0.3),
    "TV": lambda: TV(chain(6), 2, V=1.5, mu=0.2, potential=staggered_potential(chain(6), 0.3)),
    "TV twisted": lambda: TV(square(3, 3), 2, V=1.5, t=0.8, twist=(0.3, 0.2)),
    "TV one site": lambda: TV(chain(1), 1, V=1.5),
    "TV grand-canonical": lambda: TV(honeycomb(1, 2), None, V=1.5),
    "FermiHubbard": lambda: FermiHubbard(chain(4), 2, 1, U=4.0, V=0.7, mu=0.3, h=0.4),
    "FermiHubbard twisted": lambda: FermiHubbard(
        chain(5), 1, 2, U=4.0, t2=0.3, twist=(0.3,), potential=(0.1, 0.2, 0.3, 0.4, 0.5)
    ),
    "FermiHubbard grand-canonical": lambda: FermiHubbard(chain(3, boundary="antiperiodic"), None, None, U=4.0),
    "NetKetOperator": lambda: wrap(operator("two-body")),
    "one of your own": lambda: Wheel(),
}


class Wheel:
    """Particle on a ring of states: a Hamiltonian that only speaks the protocol."""

    hilbert = bosons(1, n_max=4)

    def diagonal(self, n: torch.Tensor) -> torch.Tensor:
        return n[:, 0].double() ** 2

    def connected(self, n: torch.Tensor) -> Connected:
        parents = torch.arange(len(n)).repeat_interleave(2)
        steps = torch.tensor([1, 4], dtype=torch.uint8).repeat(len(n))[:, None]
        hop = torch.polar(torch.ones(2, dtype=torch.float64), torch.tensor([0.3, -0.3], dtype=torch.float64))
        return Connected((n[parents] + steps) % 5, hop.repeat(len(n)), parents)


@pytest.mark.parametrize("family", FAMILIES)
def test_to_netket_and_back(family: str) -> None:
    h = FAMILIES[family]()
    there = to_netket(h)
    assert isinstance(there, nk.operator.DiscreteOperator)
    assert there.hilbert.n_states == h.hilbert.dimension
    again = wrap(there)
    assert again.hilbert == h.hilbert
    assert_same(dense(again), dense(h))


@pytest.mark.parametrize("family", ["BoseHubbard trap, flux", "Heisenberg spin one", "FermiHubbard", "NetKetOperator"])
def test_to_netket_has_the_same_matrix_in_netket(family: str) -> None:
    h = FAMILIES[family]()
    assert_same(netket_matrix(to_netket(h), h.hilbert), dense(h))


def test_operators_of_any_hamiltonian_speak_netkets_interface() -> None:
    h = Wheel()
    there = to_netket(h)
    matrix = netket_matrix(there, h.hilbert)
    assert_same(matrix, dense(h))
    assert there.is_hermitian
    assert there.dtype == np.complex128
    assert "Wheel" in str(there)
    x, elements = there.get_conn_padded(there.hilbert.all_states())
    assert x.shape == (5, 3, 1)
    assert elements.shape == (5, 3)
    assert list(there.n_conn(there.hilbert.all_states())) == [3] * 5
    # Rows of different lengths, padded with elements 0 of the configuration itself.
    chain_ = to_netket(wrap(operator("BoseHubbard few")))
    x, elements = chain_.get_conn_padded(chain_.hilbert.all_states())
    flat, _ = chain_.get_conn_flattened(chain_.hilbert.all_states(), np.zeros(len(x), dtype=int))
    assert (elements != 0).sum() <= len(flat) < elements.size
    assert (x[elements == 0] == np.broadcast_to(x[:, :1], x.shape)[elements == 0]).all()
    energy = np.linalg.eigvalsh(matrix)[0]
    assert nk.exact.lanczos_ed(there)[0] == pytest.approx(energy)


# ---- the script ------------------------------------------------------------------------------------

SCRIPT = Path(__file__).parents[1] / "scripts" / "netket_operator.py"


def script(monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *options])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_script_at_toy_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], unchecked: None
) -> None:
    """At the AKLT point the energy of every bond is -2/3 cos(theta), tan(theta) = 1/3."""
    script(monkeypatch, tmp_path, "--L", "4", "--steps", "3", "--model.width", "4")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bilinear-biquadratic chain, theta = 0.3218, D = 0, 1 local matrix at 4 places, 4 sites")
    assert f"exact E = {-8 / 10**0.5:.10f}" in lines[2]
    archive = Archive.open(tmp_path / lines[-2].removeprefix("archive "))
    assert archive.step == 3
    assert (tmp_path / lines[-1].removeprefix("figure  ")).read_bytes().startswith(b"\x89PNG")


def test_script_refuses_a_ring_of_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unchecked: None) -> None:
    with pytest.raises(SystemExit, match=r"error: L=2: an open chain has 2 spins or more, a ring 3 or more"):
        script(monkeypatch, tmp_path, "--L", "2")
