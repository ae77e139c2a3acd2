"""Heisenberg and Ising models against Kronecker products of spin matrices, NetKet, and closed forms."""

import functools
import importlib.util
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import netket as nk
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nqs import VMC, Archive, ArchiveError, RunConfig, exact, resume
from nqs.hamiltonians import Heisenberg, Ising
from nqs.hilbert import HilbertSpace
from nqs.lattice import Lattice, chain, from_edges, honeycomb, hypercubic, kagome, square, triangular
from nqs.local_energy import local_energies
from nqs.models import Transformer, TransformerConfig
from nqs.protocols import Hamiltonian, LogPsi, Wavefunction
from nqs.samples import Samples
from nqs.script import Options
from nqs.serialise import from_plain, to_plain
from nqs.vmc import known_types

LARGEST = 260  # dimension of the full spaces that are drawn: their Kronecker products are dense
COUPLINGS = st.integers(-30, 30).map(lambda k: k / 10)

LATTICES = [
    *(chain(n, boundary=word) for n in (1, 2, 3, 4, 5, 6) for word in ("periodic", "open", "antiperiodic")),
    square(2, 2),
    square(2, 3),
    square(2, 4, "open"),
    square(2, 4, ["open", "antiperiodic"]),
    hypercubic((2, 2, 2), "open"),
    triangular(2, 2),
    triangular(3, 2, "open"),
    honeycomb(1, 2),
    kagome(1, 1),
    kagome(1, 2, "open"),
    from_edges([(2, 0), (1, 2), (3, 2), (0, 3)], n_sites=5),
]


@functools.cache
def shells(lattice: Lattice) -> int:
    """How many orders of bonds, up to 3, the lattice has without an ambiguous sign."""
    for order in (1, 2, 3):
        try:
            lattice.signs(order)
        except ValueError:
            return order - 1
    return 3


@st.composite
def heisenberg(draw: st.DrawFn, conserved: bool | None = None) -> Callable[[], Heisenberg]:
    """Any couplings, shells, spins and sectors. The tests call the recipe: run-time type checkers use `random`, which
    hypothesis forbids in strategies."""
    spin = draw(st.sampled_from([0.5, 1, 1.5]))
    lattice = draw(st.sampled_from([x for x in LATTICES if (2 * spin + 1) ** x.n_sites <= LARGEST]))
    orders = draw(st.integers(1, shells(lattice)))

    def per_shell() -> Any:
        one_each = st.lists(COUPLINGS, min_size=orders, max_size=orders).map(tuple)
        return draw(COUPLINGS | one_each if orders == 1 else one_each)

    total = round(2 * spin) * lattice.n_sites  # 2 Sz runs from -total to total in steps of 2
    sectors = st.integers(0, total).map(lambda k: (2 * k - total) / 2)
    sector = {None: st.none() | sectors, True: sectors, False: st.none()}[conserved]
    return functools.partial(
        Heisenberg, lattice, draw(sector), J=per_shell(), Delta=draw(COUPLINGS), h=draw(COUPLINGS), spin=spin
    )


@st.composite
def ising(draw: st.DrawFn) -> Callable[[], Ising]:
    lattice = draw(st.sampled_from([x for x in LATTICES if x.n_sites <= 8]))
    return functools.partial(Ising, lattice, **{name: draw(COUPLINGS) for name in ("h", "J", "g")})


either = pytest.mark.parametrize("recipes", [heisenberg(), ising()], ids=["Heisenberg", "Ising"])
drawn = given(data=st.data())


# ---- matrices --------------------------------------------------------------------------------------


def rows(hamiltonian: Hamiltonian, n: torch.Tensor) -> np.ndarray:
    """<n|H|n'> for a batch of n and all n' of the sector, (B, dimension), from diagonal and connected."""
    matrix = torch.zeros(len(n), hamiltonian.hilbert.dimension, dtype=torch.float64)
    k, elements, parents = hamiltonian.connected(n)
    rank = hamiltonian.hilbert.rank
    matrix.index_put_((parents, rank(k)), elements, accumulate=True)
    matrix.index_put_((torch.arange(len(n)), rank(n)), hamiltonian.diagonal(n), accumulate=True)
    return matrix.numpy()


def dense(hamiltonian: Hamiltonian) -> np.ndarray:
    return rows(hamiltonian, hamiltonian.hilbert.configurations())


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max(initial=0.0)))


def spin_matrices(spin: float) -> list[np.ndarray]:
    """S^x, S^y, S^z with m = -S .. S, <m+1|S+|m> = sqrt(S (S + 1) - m (m + 1))."""
    m = np.arange(-spin, spin + 1)
    plus = np.diag(np.sqrt(spin * (spin + 1) - m[:-1] * (m[:-1] + 1)), -1)  # row m + 1, column m
    return [(plus + plus.T) / 2, (plus - plus.T) / 2j, np.diag(m).astype(complex)]


def product(n_sites: int, local_dim: int, factors: dict[int, np.ndarray]) -> np.ndarray:
    """Kronecker product over the sites, the identity where there is no factor."""
    return functools.reduce(np.kron, [factors.get(site, np.eye(local_dim)) for site in range(n_sites)])


def restricted(matrix: np.ndarray, hilbert: HilbertSpace) -> np.ndarray:
    """The block of a sector: the Kronecker basis is the lexicographic one of the whole space."""
    index = hilbert.configurations().numpy() @ hilbert.local_dim ** np.arange(hilbert.n_sites)[::-1]
    return matrix[np.ix_(index, index)]


def heisenberg_by_kronecker(h: Heisenberg) -> np.ndarray:
    L, d = h.lattice.n_sites, round(2 * h.spin + 1)
    S = spin_matrices(h.spin)
    matrix = -h.h * sum(product(L, d, {i: S[2]}) for i in range(L))
    for order, (J, Delta) in enumerate(zip(h.J, h.Delta, strict=True), start=1):
        for (i, j), sign in zip(h.lattice.bonds(order).tolist(), h.lattice.signs(order).tolist(), strict=True):
            for factor, s in zip((sign, sign, Delta), S, strict=True):
                matrix = matrix + J * factor * product(L, d, {i: s, j: s})
    return restricted(matrix, h.hilbert)


def ising_by_kronecker(h: Ising) -> np.ndarray:
    L = h.lattice.n_sites
    X, Z = np.array([[0, 1], [1, 0]]), np.array([[-1, 0], [0, 1]])
    matrix = -sum(h.h * product(L, 2, {i: X}) + h.g * product(L, 2, {i: Z}) for i in range(L))
    for (i, j), sign in zip(h.lattice.bonds().tolist(), h.lattice.signs().tolist(), strict=True):
        matrix = matrix - h.J * sign * product(L, 2, {i: Z, j: Z})
    return matrix


@pytest.mark.parametrize("spin", [0.5, 1, 1.5, 2])
def test_the_spin_matrices_of_these_tests_are_spins(spin: float) -> None:
    x, y, z = spin_matrices(spin)
    assert_same(x @ y - y @ x, 1j * z)
    assert_same(x @ x + y @ y + z @ z, spin * (spin + 1) * np.eye(len(z)))
    if spin == 0.5:
        assert_same(2 * x, np.array([[0, 1], [1, 0]]))
        assert_same(2 * z, np.diag([-1, 1]))  # 0 is down


@settings(max_examples=150)
@given(heisenberg())
def test_heisenberg_equals_kronecker_products(recipe: Callable[[], Heisenberg]) -> None:
    h = recipe()
    matrix = dense(h)
    assert_same(matrix, heisenberg_by_kronecker(h))
    assert_same(matrix, matrix.T)
    assert_same(exact.sparse_matrix(h).toarray(), matrix)


@settings(max_examples=60)
@given(ising())
def test_ising_equals_kronecker_products(recipe: Callable[[], Ising]) -> None:
    h = recipe()
    matrix = dense(h)
    assert_same(matrix, ising_by_kronecker(h))
    assert_same(matrix, matrix.T)


# ---- NetKet ----------------------------------------------------------------------------------------


def netket_rows(hilbert: HilbertSpace, operators: list[Any], n: torch.Tensor) -> np.ndarray:
    """Rows of the sum of NetKet's operators in our basis; its local states are 2 S^z = 2 n - 2 S."""
    two_s = hilbert.local_dim - 1
    matrix = np.zeros((len(n), hilbert.dimension), dtype=complex)
    for operator in operators:
        ends = np.zeros(len(n), dtype=np.intp)
        states = (2 * n.numpy().astype(np.int8) - two_s).astype(np.int8)
        connected, elements = operator.get_conn_flattened(states, ends)
        parents = np.repeat(np.arange(len(n)), np.diff(ends, prepend=0))
        kept = elements != 0
        k = torch.from_numpy(((connected[kept] + two_s) // 2).astype(np.uint8))
        assert hilbert.contains(k).all()
        np.add.at(matrix, (parents[kept], hilbert.rank(k).numpy()), elements[kept])
    return matrix


GRAPHS = [
    (chain(6), lambda: nk.graph.Chain(6)),
    (chain(3), lambda: nk.graph.Chain(3)),
    (chain(5, periodic=False), lambda: nk.graph.Chain(5, pbc=False)),
    (square(3, 3), lambda: nk.graph.Square(3)),
    (square(2, 4, "open"), lambda: nk.graph.Grid([2, 4], pbc=False)),
    (triangular(3, 3), lambda: nk.graph.Triangular([3, 3])),
    (honeycomb(2, 2), lambda: nk.graph.Honeycomb([2, 2])),
    (kagome(2, 1, "open"), lambda: nk.graph.Kagome([2, 1], pbc=False)),
]
netket_graphs = pytest.mark.parametrize(("lattice", "graph"), GRAPHS, ids=[str(lattice) for lattice, _ in GRAPHS])


@netket_graphs
def test_heisenberg_equals_netket_on_its_own_graphs(lattice: Lattice, graph: Callable[[], Any]) -> None:
    """Sites, bonds and signs at once, nothing of ours in between: J sigma.sigma there is 4 J S.S here."""
    h = Heisenberg(lattice, (lattice.n_sites % 2) / 2, J=1.3)
    space = nk.hilbert.Spin(0.5, lattice.n_sites, total_sz=h.total_sz)
    operator = nk.operator.Heisenberg(space, graph(), J=1.3 / 4, sign_rule=False, cls=nk.operator.LocalOperatorNumba)
    assert_same(dense(h), netket_rows(h.hilbert, [operator], h.hilbert.configurations()))


@netket_graphs
def test_ising_equals_netket_on_its_own_graphs(lattice: Lattice, graph: Callable[[], Any]) -> None:
    h = Ising(lattice, h=0.7, J=1.3)
    operator = nk.operator.IsingNumba(nk.hilbert.Spin(0.5, lattice.n_sites), graph(), h=0.7, J=-1.3)
    n = h.hilbert.configurations()
    assert_same(dense(h), netket_rows(h.hilbert, [operator], n))


@pytest.mark.parametrize("size", [3, 4])
def test_j1_j2_equals_netket_with_coloured_edges(size: int) -> None:
    h = Heisenberg(square(size), (size % 2) / 2, J=(1.0, 0.5))
    space = nk.hilbert.Spin(0.5, size**2, total_sz=h.total_sz)
    operator = nk.operator.Heisenberg(
        space,
        nk.graph.Square(size, max_neighbor_order=2),
        J=[0.25, 0.125],
        sign_rule=[False, False],
        cls=nk.operator.LocalOperatorNumba,
    )
    n = h.hilbert.random(30, torch.Generator().manual_seed(0))
    assert_same(rows(h, n), netket_rows(h.hilbert, [operator], n))


def spins_in_netket(h: Heisenberg) -> Any:
    """From NetKet's own spin operators, which are 2 S^x, 2 S^y and 2 S^z for any spin."""
    space = nk.hilbert.Spin(h.spin, h.lattice.n_sites, total_sz=h.total_sz)
    sigma = [getattr(nk.operator.spin, name) for name in ("sigmax", "sigmay", "sigmaz")]
    cls = nk.operator.LocalOperatorNumba
    operator = cls(space, dtype=complex)
    for order, (J, Delta) in enumerate(zip(h.J, h.Delta, strict=True), start=1):
        for i, j in h.lattice.bonds(order).tolist():
            for factor, s in zip((1, 1, Delta), sigma, strict=True):
                operator += J * factor / 4 * s(space, i, dtype=complex, cls=cls) @ s(space, j, dtype=complex, cls=cls)
    for i in range(h.lattice.n_sites):
        operator += -h.h / 2 * sigma[2](space, i, dtype=complex, cls=cls)
    return operator


@pytest.mark.parametrize(
    "h",
    [
        Heisenberg(chain(4), 0, Delta=0.4, h=0.7, spin=1),
        Heisenberg(chain(4), J=(1.0, -0.3), Delta=(0.4, 2.0), h=0.7, spin=1),
        Heisenberg(chain(4, periodic=False), 1, J=-0.8, h=-0.2, spin=1.5),
        Heisenberg(triangular(2, 2), J=0.9, Delta=-1.2, spin=1.5),
        Heisenberg(kagome(1, 2, "open"), 1, J=(1.0, 0.5), Delta=0.0, h=0.3),
        Heisenberg(square(2, 3), J=(0.0, 0.5), Delta=0.5, h=0.3),
        Heisenberg(chain(2), J=0.5, h=0.3),
        Heisenberg(chain(1), h=0.3, spin=1.5),
    ],
    ids=str,
)
def test_any_spin_equals_netket_spin_operators(h: Heisenberg) -> None:
    n = h.hilbert.configurations()
    assert_same(dense(h), netket_rows(h.hilbert, [spins_in_netket(h)], n))


@pytest.mark.parametrize("lattice", [chain(5), triangular(3, 2, "open"), chain(2)], ids=str)
def test_longitudinal_field_equals_netket(lattice: Lattice) -> None:
    h = Ising(lattice, h=0.7, J=-1.3, g=0.4)
    space, cls = nk.hilbert.Spin(0.5, lattice.n_sites), nk.operator.LocalOperatorNumba
    field = cls(space, dtype=complex)
    for i in range(lattice.n_sites):
        field += -0.4 * nk.operator.spin.sigmaz(space, i, dtype=complex, cls=cls)
    ising = nk.operator.IsingNumba(space, np.array(lattice.bonds().tolist()), h=0.7, J=1.3)
    assert_same(dense(h), netket_rows(h.hilbert, [ising, field], h.hilbert.configurations()))


@pytest.mark.parametrize(("spin", "total_sz"), [(0.5, 0), (1, 1), (1.5, None)])
def test_netket_has_the_same_states(spin: float, total_sz: float | None) -> None:
    h = Heisenberg(chain(4), total_sz, spin=spin)
    states = np.asarray(nk.hilbert.Spin(spin, 4, total_sz=total_sz).all_states())
    n = torch.from_numpy(((states + 2 * spin) / 2).astype(np.uint8))
    assert len(n) == h.hilbert.dimension
    assert sorted(h.hilbert.rank(n).tolist()) == list(range(len(n)))


# ---- contract --------------------------------------------------------------------------------------


@either
@settings(max_examples=80)
@drawn
def test_connected_is_flat_without_zeros_or_duplicates_inside_the_sector(recipes: Any, data: st.DataObject) -> None:
    h = data.draw(recipes)()
    n = h.hilbert.configurations()
    before = n.clone()
    diagonal, (k, elements, parents) = h.diagonal(n), h.connected(n)
    assert torch.equal(n, before)
    assert diagonal.dtype == elements.dtype == torch.float64
    assert diagonal.shape == (len(n),)
    assert k.dtype == torch.uint8
    assert k.shape == (len(parents), h.hilbert.n_sites)
    assert elements.shape == parents.shape
    assert (elements != 0).all()
    assert (k != n[parents]).any(1).all()
    assert h.hilbert.contains(k).all()
    if isinstance(h, Heisenberg):  # conserved in the whole space too
        assert torch.equal(k.long().sum(1), n[parents].long().sum(1))
    listed = [(p, *row) for p, row in zip(parents.tolist(), k.tolist(), strict=True)]
    assert len(set(listed)) == len(listed)


@either
@settings(max_examples=40)
@drawn
def test_any_batch_gives_the_rows_of_the_matrix(recipes: Any, data: st.DataObject) -> None:
    """In any order, with repetitions, alone, or empty."""
    h = data.draw(recipes)()
    index = data.draw(st.lists(st.integers(0, h.hilbert.dimension - 1), max_size=20))
    n = h.hilbert.configurations()[torch.tensor(index, dtype=torch.int64)]
    found = rows(h, n)
    assert_same(found, dense(h)[index].reshape(found.shape))


class TableState(Wavefunction):
    """psi looked up by rank: any vector as a wavefunction."""

    has_phase = True

    def __init__(self, hilbert: HilbertSpace, psi: np.ndarray) -> None:
        super().__init__()
        self.hilbert = hilbert
        self.psi = torch.from_numpy(psi.astype(np.complex128))

    def log_psi(self, n: torch.Tensor) -> LogPsi:
        psi = self.psi[self.hilbert.rank(n)]
        return LogPsi(psi.abs().log(), psi.angle())

    @property
    def bytes_per_configuration(self) -> int:
        return 1024


@either
@settings(max_examples=40)
@drawn
def test_local_energy_of_an_eigenstate_has_no_variance(recipes: Any, data: st.DataObject) -> None:
    h = data.draw(recipes)()
    matrix = dense(h)
    energies, states = np.linalg.eigh(matrix)
    which = data.draw(st.integers(0, len(energies) - 1))
    state = TableState(h.hilbert, states[:, which])
    support = torch.from_numpy(np.abs(states[:, which]) > 1e-6)  # where it is zero, the local energy is not defined
    n = h.hilbert.configurations()[support]
    log_modulus, phase = state.log_psi(n)
    weights = (2 * log_modulus).exp()
    samples = Samples(configurations=n, weights=weights / weights.sum(), log_modulus=log_modulus, phase=phase)
    e_loc = local_energies(h, state, samples).values
    deviation = (e_loc - energies[which]).abs() * log_modulus.exp()
    assert deviation.max() < 1e-12 * max(1.0, np.abs(matrix).sum(1).max())


@either
@settings(max_examples=40)
@drawn
def test_stoquastic_means_no_positive_off_diagonal_element(recipes: Any, data: st.DataObject) -> None:
    """And nothing else in the whole space, where every bond and every spin can flip."""
    h = data.draw(recipes)()
    nowhere_positive = bool((h.connected(h.hilbert.configurations()).elements <= 0).all())
    if h.is_stoquastic or getattr(h, "total_sz", None) is None:
        assert h.is_stoquastic == nowhere_positive


@either
@settings(max_examples=30)
@drawn
def test_serialisation_through_json(recipes: Any, data: st.DataObject) -> None:
    h = data.draw(recipes)()
    again = from_plain(json.loads(json.dumps(to_plain(h))), known_types())
    assert type(again) is type(h)
    assert again == h
    assert hash(again) == hash(h)
    assert again.hilbert == h.hilbert
    assert str(again) == str(h)
    assert np.array_equal(dense(again), dense(h))


@pytest.mark.gpu
@pytest.mark.parametrize(
    "h", [Heisenberg(square(3), 0.5, J=(1.0, 0.5), Delta=0.7, h=0.2), Ising(square(3), h=0.7, g=0.2)], ids=str
)
def test_gpu_agrees_with_cpu(h: Hamiltonian) -> None:
    n = h.hilbert.configurations()
    diagonal, (k, elements, parents) = h.diagonal(n.cuda()), h.connected(n.cuda())
    assert torch.equal(k.cpu(), h.connected(n).configurations)
    assert torch.equal(parents.cpu(), h.connected(n).parents)
    torch.testing.assert_close(elements.cpu(), h.connected(n).elements, rtol=0, atol=1e-14)
    torch.testing.assert_close(diagonal.cpu(), h.diagonal(n), rtol=0, atol=1e-13)


# ---- known energies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("h", "energy", "tolerance"),
    [
        (Heisenberg(chain(16), 0), -7.142296360616786, 1e-12),
        (Heisenberg(square(4), 0), -11.2284832, 1e-8),  # as printed
        (Heisenberg(square(4), 0, J=(1.0, 0.5)), -8.457923351394845, 1e-12),
        (Ising(chain(10, periodic=False), h=1.0), -12.381489999654734, 1e-12),
        (Ising(chain(10), h=1.0), -12.7849064, 1e-8),
    ],
    ids=str,
)
def test_known_ground_state_energies(h: Hamiltonian, energy: float, tolerance: float) -> None:
    assert exact.ground_state(h).energy == pytest.approx(energy, rel=tolerance)


@pytest.mark.parametrize("spin", [0.5, 1, 1.5, 127.5])
def test_two_spins_form_multiplets(spin: float) -> None:
    """J/2 (s (s + 1) - 2 S (S + 1)) for total spin s; a ring of two sites has one bond; bytes do not overflow."""
    h = Heisenberg(chain(2), 0, J=0.7, spin=spin)
    s = np.arange(2 * spin + 1)
    expected = 0.35 * (s * (s + 1) - 2 * spin * (spin + 1))
    assert_same(np.linalg.eigvalsh(dense(h)), expected)


@pytest.mark.parametrize(("n_sites", "spin"), [(3, 0.5), (6, 0.5), (4, 1), (3, 1.5)])
def test_the_complete_graph_knows_only_the_total_spin(n_sites: int, spin: float) -> None:
    edges = itertools.combinations(range(n_sites), 2)
    energies = np.linalg.eigvalsh(dense(Heisenberg(from_edges(edges), J=0.7, spin=spin)))
    total = np.arange((n_sites * spin) % 1, n_sites * spin + 1)
    allowed = 0.35 * (total * (total + 1) - n_sites * spin * (spin + 1))
    assert np.abs(energies[:, None] - allowed).min(1).max() < 1e-12
    assert (energies[-1], energies[0]) == (pytest.approx(allowed[-1]), pytest.approx(allowed[0]))


@pytest.mark.parametrize("n_sites", [3, 4, 5, 6])
@pytest.mark.parametrize("boundary", ["periodic", "antiperiodic"])
@pytest.mark.parametrize("spin", [0.5, 1])
def test_one_magnon_has_the_cosine_band(n_sites: int, boundary: str, spin: float) -> None:
    """E = J Delta L S^2 - h (L S - 1) + 2 J S (cos k - Delta); a twist by pi about z shifts k by pi / L."""
    J, Delta, field = 0.8, 0.6, 0.3
    h = Heisenberg(chain(n_sites, boundary=boundary), n_sites * spin - 1, J=J, Delta=Delta, h=field, spin=spin)
    k = 2 * np.pi * (np.arange(n_sites) + (0.5 if boundary == "antiperiodic" else 0.0)) / n_sites
    expected = J * Delta * n_sites * spin**2 - field * (n_sites * spin - 1) + 2 * J * spin * (np.cos(k) - Delta)
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(h)), np.sort(expected), atol=1e-12)


def test_rings_of_one_and_two_sites() -> None:
    assert dense(Heisenberg(chain(1), h=0.3)).tolist() == [[0.15, 0.0], [0.0, -0.15]]
    assert np.linalg.eigvalsh(dense(Heisenberg(chain(2)))) == pytest.approx([-0.75, 0.25, 0.25, 0.25])
    assert dense(Ising(chain(1), h=0.5, g=0.3)).tolist() == [[0.3, -0.5], [-0.5, -0.3]]
    assert np.linalg.eigvalsh(dense(Ising(chain(2), h=0.0))) == pytest.approx([-1, -1, 1, 1])


@pytest.mark.parametrize("n_sites", [3, 6, 7])
@pytest.mark.parametrize("field", [0.5, 1.0, 2.0])
def test_ising_rings_are_free_fermions(n_sites: int, field: float) -> None:
    """Pfeuty: E_0 = -sum_k sqrt(1 + h^2 - 2 h cos k), k = pi (2 m + 1) / L, in the even sector."""
    k = np.pi * (2 * np.arange(n_sites) + 1) / n_sites
    energy = -np.sqrt(1 + field**2 - 2 * field * np.cos(k)).sum()
    assert np.linalg.eigvalsh(dense(Ising(chain(n_sites), h=field)))[0] == pytest.approx(energy, abs=1e-12)


@pytest.mark.parametrize("n_sites", [2, 5, 8])
def test_the_open_critical_ising_chain(n_sites: int) -> None:
    energy = 1 - 1 / math.sin(math.pi / (2 * (2 * n_sites + 1)))
    lattice = chain(n_sites, periodic=False)
    assert np.linalg.eigvalsh(dense(Ising(lattice, h=1.0)))[0] == pytest.approx(energy, abs=1e-12)


def test_an_antiperiodic_ising_ring_is_frustrated() -> None:
    """One of L bonds must be broken: E = -J (L - 2) without fields."""
    assert dense(Ising(chain(5, boundary="antiperiodic"), h=0.0)).min() == pytest.approx(-3.0)
    assert dense(Ising(chain(5), h=0.0)).min() == pytest.approx(-5.0)
    assert dense(Ising(chain(5), h=0.0, J=-1.0)).min() == pytest.approx(-3.0)


# ---- Marshall's rule -------------------------------------------------------------------------------


def marshall_signs(h: Heisenberg) -> np.ndarray | None:
    """(-1)^(sum of n over one colour) of every configuration; None where networkx finds no two colours."""
    graph = nx.Graph(h.lattice.bonds().tolist())
    graph.add_nodes_from(range(h.lattice.n_sites))
    if not nx.is_bipartite(graph):
        return None
    colour = nx.bipartite.color(graph)
    return 1.0 - 2.0 * (h.hilbert.configurations().numpy() @ [colour[i] for i in range(h.lattice.n_sites)] % 2)


@settings(max_examples=150)
@given(heisenberg(conserved=False))
@example(lambda: Heisenberg(chain(6), J=1.0))
@example(lambda: Heisenberg(chain(6), J=(1.0, 0.5)))
@example(lambda: Heisenberg(chain(6), J=(1.0, -0.5, 0.2), spin=0.5))
@example(lambda: Heisenberg(chain(4), J=(1.0, -0.5), Delta=-2.0, h=1.0, spin=1))
@example(lambda: Heisenberg(square(2, 4, "open"), J=(1.0, 0.0, -0.1)))
def test_marshall_is_exact_where_it_makes_all_off_diagonal_elements_negative(recipe: Callable[[], Heisenberg]) -> None:
    h = recipe()
    signs = marshall_signs(h)
    if signs is None:
        assert not h.marshall_exact
        return
    rotated = signs[:, None] * dense(h) * signs
    np.fill_diagonal(rotated, 0.0)
    assert h.marshall_exact == bool((rotated <= 0).all())


@settings(max_examples=60)
@given(heisenberg(conserved=True))
@example(lambda: Heisenberg(square(4, 2), 0, J=(1.0, -0.3)))
@example(lambda: Heisenberg(honeycomb(2, 2), 0, Delta=0.3))
@example(lambda: Heisenberg(chain(4), 0, spin=1.5))
def test_the_ground_state_has_the_signs_of_an_exact_rule(recipe: Callable[[], Heisenberg]) -> None:
    h = recipe()
    signs = marshall_signs(h) if h.marshall_exact else np.ones(h.hilbert.dimension)
    assume(h.marshall_exact or h.is_stoquastic)
    energies, states = np.linalg.eigh(dense(h))
    assume(len(energies) == 1 or energies[1] - energies[0] > 1e-6)  # a degenerate space has many states
    psi = signs * states[:, 0]
    assert (psi * np.sign(psi[np.abs(psi).argmax()])).min() > -1e-12


def test_marshall_cases() -> None:
    assert Heisenberg(chain(4)).marshall_exact
    assert Heisenberg(chain(4), 0, Delta=-3.0, h=2.0, spin=2).marshall_exact
    assert Heisenberg(square(4), 0, J=(1.0, -0.5)).marshall_exact
    assert Heisenberg(chain(6), J=(1.0, 0.0, 0.4)).marshall_exact  # third neighbours on a chain join A and B
    assert not Heisenberg(square(4), 0, J=(1.0, 0.5)).marshall_exact
    assert not Heisenberg(chain(4), J=-1.0).marshall_exact
    assert not Heisenberg(chain(5)).marshall_exact
    assert not Heisenberg(triangular(3, 3)).marshall_exact
    assert not Heisenberg(chain(4, boundary="antiperiodic")).marshall_exact
    assert not Heisenberg(chain(4)).is_stoquastic
    assert Heisenberg(triangular(3, 3), J=(-1.0, 0.0)).is_stoquastic
    assert not Ising(chain(4), h=-0.5).is_stoquastic


# ---- text and errors -------------------------------------------------------------------------------


def test_text_has_the_formula_with_its_numbers_and_the_normalisation() -> None:
    assert str(Heisenberg(chain(4), 0)) == (
        "Heisenberg, H = 1 sum_<ij> S_i.S_j, S = sigma/2, chain(4, periodic), total Sz = 0"
    )
    assert repr(Heisenberg(square(3), 1.5, J=(-0.25, 0.5), Delta=(1.0, -2.0), h=0.75, spin=1.5)) == (
        "Heisenberg, H = -0.25 sum_<ij>_1 S_i.S_j + 0.5 sum_<ij>_2 (S^x_i S^x_j + S^y_i S^y_j - 2 S^z_i S^z_j) "
        "- 0.75 sum_i S^z_i, spin operators of S = 3/2, square(3 x 3, periodic), total Sz = 3/2"
    )
    assert "all total Sz" in str(Heisenberg(chain(3)))
    assert repr(Ising(chain(4), h=0.5, J=-2, g=0.25)) == (
        "Ising, H = 2 sum_<ij> Z_i Z_j - 0.5 sum_i X_i - 0.25 sum_i Z_i, Pauli matrices, chain(4, periodic)"
    )
    assert "H = 0, " in str(Ising(chain(2), h=0.0, J=0.0))


@either
@settings(max_examples=30)
@drawn
def test_text_has_no_double_signs(recipes: Any, data: st.DataObject) -> None:
    text = str(data.draw(recipes)())
    assert "--" not in text
    assert "+ -" not in text
    assert "-0 " not in text


def test_equal_by_content_and_frozen() -> None:
    assert Heisenberg(chain(4), J=1.0) == Heisenberg(chain(4), J=(1.0,)) == Heisenberg(chain(4), Delta=(1.0,))
    assert Heisenberg(chain(4), J=(1.0, 0.5), Delta=2.0).Delta == (2.0, 2.0)
    assert hash(Ising(chain(4), h=1.0)) == hash(Ising(chain(4), h=1.0))
    for h in (Heisenberg(chain(4)), Ising(chain(4), h=1.0)):
        with pytest.raises(AttributeError):
            h.J = 2.0


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: Heisenberg(chain(4), J=()), ValueError, r"J is empty.*nearest neighbours"),
        (lambda: Heisenberg(chain(4), Delta=(1.0, 0.5)), ValueError, r"Delta has 2 values, but J couples 1 shell of"),
        (
            lambda: Heisenberg(square(4), J=(1.0, 0.5), Delta=(1.0, 0.5, 0.2)),
            ValueError,
            r"Delta has 3 values, but J couples 2 shells.*one for each",
        ),
        (lambda: Heisenberg(chain(4), J=(1.0, 0.5, 0.2)), ValueError, r"chain\(4, periodic\) has 2 shells.*order 3"),
        (
            lambda: Heisenberg(chain(4, boundary="antiperiodic"), J=(1.0, 0.5)),
            ValueError,
            r"equally short paths.*sites 0 and 2 \(order 2\)",
        ),
        (lambda: Heisenberg(chain(4), 0.5), ValueError, r"2 Sz = 1 is impossible on 4 sites.*-4, -2, 0, 2, 4"),
        (lambda: Heisenberg(chain(4), 3), ValueError, r"2 Sz = 6 is impossible on 4 sites"),
        (lambda: Heisenberg(chain(5), 0), ValueError, r"2 Sz = 0 is impossible on 5 sites"),
        (lambda: Heisenberg(chain(4), 0.3), ValueError, r"total_sz=0.3.*multiple of 1/2"),
        (lambda: Heisenberg(chain(4), spin=0.7), ValueError, r"spin=0.7.*multiple of 1/2"),
        (lambda: Heisenberg(chain(4), spin=0), ValueError, r"spin=0.*1/2, 1, 3/2"),
        (lambda: Heisenberg(chain(4), spin=128), ValueError, r"257 local states.*1 to 256"),
        (lambda: Heisenberg(chain(0)), ValueError, r"size of the lattice is 0"),
        (lambda: Heisenberg(from_edges([(0, 1), (3, 4)], n_sites=4)), ValueError, r"\(3, 4\).*4 sites"),
        (lambda: Ising(chain(4)), TypeError, r"'h'"),
        (lambda: Ising(chain(4), 1.0), TypeError, r"positional"),
        (lambda: Ising(from_edges([(0, 4)], n_sites=4), h=1.0), ValueError, r"\(0, 4\).*4 sites"),
        (
            lambda: Ising(triangular(2, 2, "antiperiodic"), h=1.0),
            ValueError,
            r"equally short paths.*plain 'periodic' or 'open'",
        ),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(
    build: Callable[[], Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        build()


# ---- runs ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
def test_a_short_run_finds_the_ising_ground_state_and_its_archive_resumes(tmp_path: Path) -> None:
    h = Ising(chain(4), h=1.0)
    model = Transformer(h.hilbert, width=8, heads=2, phase="zero")
    ground_state = exact.ground_state(h)
    result = VMC(h, model).run(steps=100, archive=tmp_path / "ising.h5", exact=ground_state, progress=False)
    assert abs(result.relative_error) < 1e-5
    again = resume(tmp_path / "ising.h5", progress=False)
    assert again.estimate == result.estimate
    with pytest.raises(ArchiveError, match=r"hamiltonian\.h"):
        VMC(Ising(chain(4), h=2.0), model).run(steps=100, archive=tmp_path / "ising.h5", progress=False)


def script(name: str) -> ModuleType:
    path = Path(__file__).parent.parent / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "options", "signs"),
    [
        ("heisenberg", {"shape": (4,)}, ("WithReference", "zero")),
        ("heisenberg", {"shape": (2, 3), "boundary": "open", "J": (1.0, 0.5)}, ("WithReference", "learned")),
        ("heisenberg", {"shape": (3,), "spin": 1.0, "Delta": (0.5,)}, ("TransformerConfig", "learned")),
        ("heisenberg", {"shape": (3,), "total_sz": None, "J": (-1.0,)}, ("TransformerConfig", "zero")),
        ("heisenberg", {"shape": (6,), "J": (-1.0, 0.5), "h": 0.1}, ("TransformerConfig", "learned")),
        ("heisenberg", {"shape": (4,), "reference": "none"}, ("TransformerConfig", "learned")),
        ("ising", {"shape": (2, 3), "J": -1.0, "h": 0.5, "g": 0.1}, ("TransformerConfig", "zero")),
    ],
)
def test_scripts_run_with_what_is_known_of_the_signs(
    name: str, options: dict[str, Any], signs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script(name)
    archive = tmp_path / "new" / "run.h5"
    module.main(module.Config(**options, options=Options(run=RunConfig(steps=2), archive=archive, device="cpu")))
    text = capsys.readouterr().out
    assert all(word in text for word in ("exact E", "E / site", str(archive)))
    assert archive.with_suffix(".png").exists()
    model = Archive.open(archive).config["model"]
    assert (model["type"], model.get("base", model)["phase"]) == signs


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("heisenberg", {"shape": (5,)}, r"2 Sz = 0 is impossible on 5 sites"),
        (
            "heisenberg",
            {"shape": (4,), "J": (1.0, 0.5), "model": TransformerConfig(phase="zero")},
            r"no rule gives.*learned",
        ),
        (
            "heisenberg",
            {"shape": (4,), "reference": "none", "model": TransformerConfig(phase="zero")},
            r"no rule gives",
        ),
        ("ising", {"shape": (4,), "h": -1.0}, r"h=-1.*-h has the same energies"),
    ],
)
def test_scripts_refuse_what_cannot_work(name: str, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    module = script(name)
    with pytest.raises(ValueError, match=text):
        module.main(module.Config(**options, options=Options(archive=tmp_path / "run.h5", device="cpu")))
