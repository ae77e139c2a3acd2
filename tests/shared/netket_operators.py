"""Operators of NetKet of every kind that `NetKetOperator` takes, by name."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import netket as nk
import numpy as np
from netket.operator import FermionOperator2nd, LocalOperator, PauliStrings, SumOperator
from netket.operator.fermion import create, destroy, number
from netket.utils.group import Permutation

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
