"""Heisenberg and Ising models against Kronecker products of spin matrices, NetKet's own graphs, and closed forms.

The contract of `test_hamiltonians.py` runs on them too.
"""

import functools
import importlib.util
import itertools
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
from networks import small_transformer
from places import SCRIPTS

from nqs import VMC, Archive, ArchiveError, exact, resume
from nqs.cli.options import Options
from nqs.hamiltonians import Heisenberg, Ising
from nqs.hilbert import HilbertSpace
from nqs.lattice import Lattice, chain, from_edges, honeycomb, kagome, square, triangular
from nqs.protocols import Hamiltonian
from nqs.recipes import NetworkOptions

from families import each, heisenberg, ising
from matrices import assert_same, dense, netket_matrix, netket_rows, rows

either = pytest.mark.parametrize("recipes", [heisenberg(), ising()], ids=["Heisenberg", "Ising"])
drawn = given(data=st.data())

# ---- dense matrices --------------------------------------------------------------------------------


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
    matrix = -sum(field * product(L, d, {i: S[2]}) for i, field in enumerate(each(h.h, L)))
    for order, (J, Delta) in enumerate(zip(h.J, h.Delta, strict=True), start=1):
        bonds, signs = h.lattice.bonds(order).tolist(), h.lattice.signs(order).tolist()
        one, other = (each(x[0] if isinstance(x, tuple) and len(x) == 1 else x, len(bonds)) for x in (J, Delta))
        for (i, j), sign, J_ij, Delta_ij in zip(bonds, signs, one, other, strict=True):
            for factor, s in zip((sign, sign, Delta_ij), S, strict=True):
                matrix = matrix + J_ij * factor * product(L, d, {i: s, j: s})
    return restricted(matrix, h.hilbert)


def ising_by_kronecker(h: Ising) -> np.ndarray:
    L = h.lattice.n_sites
    X, Z = np.array([[0, 1], [1, 0]]), np.array([[-1, 0], [0, 1]])
    fields = zip(each(h.h, L), each(h.g, L), strict=True)
    matrix = -sum(x * product(L, 2, {i: X}) + z * product(L, 2, {i: Z}) for i, (x, z) in enumerate(fields))
    bonds, signs = h.lattice.bonds().tolist(), h.lattice.signs().tolist()
    for (i, j), sign, J in zip(bonds, signs, each(h.J, len(bonds)), strict=True):
        matrix = matrix - J * sign * product(L, 2, {i: Z, j: Z})
    return matrix


@pytest.mark.parametrize("spin", [0.5, 1, 1.5, 2])
def test_the_spin_matrices_of_these_tests_are_spins(spin: float) -> None:
    x, y, z = spin_matrices(spin)
    assert_same(x @ y - y @ x, 1j * z)
    assert_same(x @ x + y @ y + z @ z, spin * (spin + 1) * np.eye(len(z)))
    if spin == 0.5:
        assert_same(2 * x, np.array([[0, 1], [1, 0]]))
        assert_same(2 * z, np.diag([-1, 1]))  # 0 is down


@settings(max_examples=30)
@given(heisenberg())
def test_heisenberg_equals_kronecker_products(recipe: Callable[[], Heisenberg]) -> None:
    h = recipe()
    assert_same(dense(h), heisenberg_by_kronecker(h))


@settings(max_examples=30)
@given(ising())
def test_ising_equals_kronecker_products(recipe: Callable[[], Ising]) -> None:
    h = recipe()
    assert_same(dense(h), ising_by_kronecker(h))


# ---- NetKet ----------------------------------------------------------------------------------------


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
    assert_same(dense(h), netket_matrix(h.hilbert, operator))


@netket_graphs
def test_ising_equals_netket_on_its_own_graphs(lattice: Lattice, graph: Callable[[], Any]) -> None:
    h = Ising(lattice, h=0.7, J=1.3)
    operator = nk.operator.IsingNumba(nk.hilbert.Spin(0.5, lattice.n_sites), graph(), h=0.7, J=-1.3)
    assert_same(dense(h), netket_matrix(h.hilbert, operator))


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
    assert_same(rows(h, n), netket_rows(h.hilbert, operator, n))


@pytest.mark.parametrize(("spin", "total_sz"), [(0.5, 0), (1, 1), (1.5, None)])
def test_netket_has_the_same_states(spin: float, total_sz: float | None) -> None:
    h = Heisenberg(chain(4), total_sz, spin=spin)
    states = np.asarray(nk.hilbert.Spin(spin, 4, total_sz=total_sz).all_states())
    n = torch.from_numpy(((states + 2 * spin) / 2).astype(np.uint8))
    assert len(n) == h.hilbert.dimension
    assert sorted(h.hilbert.rank(n).tolist()) == list(range(len(n)))


# ---- signs -----------------------------------------------------------------------------------------


@either
@settings(max_examples=40)
@drawn
def test_stoquastic_means_no_positive_off_diagonal_element(recipes: Any, data: st.DataObject) -> None:
    """And nothing else in the whole space, where every bond and every spin can flip."""
    h = data.draw(recipes)()
    nowhere_positive = bool((h.connected(h.hilbert.configurations()).elements <= 0).all())
    if h.is_stoquastic or getattr(h, "total_sz", None) is None:
        assert h.is_stoquastic == nowhere_positive


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


@settings(max_examples=80)
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
        (
            lambda: Heisenberg(chain(4), 0.5),
            ValueError,
            r"total_sz=1/2 is impossible for 4 spins.*-2 to 2 in steps",
        ),
        (lambda: Heisenberg(chain(4), 3), ValueError, r"total_sz=3 is impossible for 4 spins"),
        (lambda: Heisenberg(chain(5), 0), ValueError, r"total_sz=0 is impossible for 5 spins"),
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
    model = small_transformer(layers=2, phase="zero").build(h.hilbert)
    ground_state = exact.ground_state(h)
    result = VMC(h, model).run(steps=100, archive=tmp_path / "ising.h5", exact=ground_state, progress=False)
    assert abs(result.relative_error) < 1e-5
    again = resume(tmp_path / "ising.h5", progress=False)
    assert again.estimate == result.estimate
    with pytest.raises(ArchiveError, match=r"hamiltonian\.h"):
        VMC(Ising(chain(4), h=2.0), model).run(steps=100, archive=tmp_path / "ising.h5", progress=False)


def script(name: str) -> ModuleType:
    path = SCRIPTS / f"{name}.py"
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
        ("heisenberg", {"shape": (4,)}, ("MarshallSign", "zero")),
        ("heisenberg", {"shape": (2, 3), "boundary": "open", "J": (1.0, 0.5)}, ("MarshallSign", "learned")),
        ("heisenberg", {"shape": (3,), "spin": (1.0,), "Delta": (0.5,)}, (None, "learned")),
        ("heisenberg", {"shape": (3,), "total_sz": None, "J": (-1.0,)}, (None, "zero")),
        ("heisenberg", {"shape": (6,), "J": (-1.0, 0.5), "h": 0.1}, (None, "learned")),
        ("heisenberg", {"shape": (4,), "options": {"reference": "none"}}, (None, "learned")),
        ("ising", {"shape": (2, 3), "J": -1.0, "h": 0.5, "g": 0.1}, (None, "zero")),
        ("ising", {"shape": (4,), "h": -1.0}, (None, "learned")),
    ],
)
def test_scripts_run_with_what_is_known_of_the_signs(
    name: str,
    options: dict[str, Any],
    signs: tuple[str | None, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = script(name)
    archive = tmp_path / "new" / "run.h5"
    common = {"steps": 2, "archive": archive, "device": "cpu", "symmetry": "none"} | options.get("options", {})
    module.main(module.Config(**options | {"options": Options(**common)}))
    text = capsys.readouterr().out
    assert all(word in text for word in ("exact E", "E / site", str(archive)))
    assert archive.with_suffix(".png").exists()
    model = Archive.open(archive).config["model"]
    assert ((model["reference"] or {}).get("type"), model["phase"]) == signs


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("heisenberg", {"shape": (5,)}, r"total_sz=0 is impossible for 5 spins"),
        (
            "heisenberg",
            {"shape": (4,), "J": (1.0, 0.5), "options": {"model": NetworkOptions(phase="zero")}},
            r"no rule gives.*learned",
        ),
        (
            "heisenberg",
            {"shape": (4,), "options": {"reference": "none", "model": NetworkOptions(phase="zero")}},
            r"no rule gives",
        ),
        ("ising", {"shape": (4,), "h": -1.0, "options": {"model": NetworkOptions(phase="zero")}}, r"no rule gives"),
    ],
)
def test_scripts_refuse_what_cannot_work(name: str, options: dict[str, Any], text: str, tmp_path: Path) -> None:
    module = script(name)
    common = {"archive": tmp_path / "run.h5", "device": "cpu"} | options.get("options", {})
    config = module.Config(**options | {"options": Options(**common)})
    with pytest.raises(ValueError, match=text):
        module.main(config)
