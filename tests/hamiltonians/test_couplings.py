"""Couplings by bond and by site of every family, against dense matrices made of Kronecker products."""

import functools
import itertools
import math
from typing import Any

import networkx as nx
import numpy as np
import pytest
import torch

from nqs import exact
from nqs.archive.serialise import from_plain, to_plain
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import Lattice, chain, edge_weights, from_edges, from_networkx, square
from nqs.models import hartree_fock
from nqs.symmetry.of_hamiltonian import symmetries_of
from nqs.vmc.continuation import known_types

from matrices import assert_same, dense

LATTICES = [chain(5), chain(4, boundary="antiperiodic"), square(2, 3, "open"), from_edges([(2, 0), (1, 2), (3, 2)])]
on_lattices = pytest.mark.parametrize("lattice", LATTICES, ids=str)


def random(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([n, seed]).normal(size=n)


def at(L: int, d: int, **placed: np.ndarray) -> np.ndarray:
    """Kronecker product with matrices at sites: at(4, 2, s1=A, s3=B)."""
    return functools.reduce(np.kron, [placed.get(f"s{site}", np.eye(d)) for site in range(L)])


def pair(L: int, i: int, a: np.ndarray, j: int, b: np.ndarray) -> np.ndarray:
    return at(L, len(a), **{f"s{i}": a, f"s{j}": b})


def in_sector(matrix: np.ndarray, h: Any) -> np.ndarray:
    """Rows and columns of the sector; configurations are digits in base d, the first site the most significant."""
    weights = h.hilbert.local_dim ** np.arange(h.lattice.n_sites)[::-1]
    kept = h.hilbert.configurations().numpy().astype(int) @ weights
    return matrix[np.ix_(kept, kept)]


def boson(d: int) -> tuple[np.ndarray, np.ndarray]:
    b = np.diag(np.sqrt(np.arange(1.0, d)), 1)
    return b, b.T @ b


def annihilators(orbitals: int) -> list[np.ndarray]:
    """Jordan-Wigner: (-1)^(number before) times the annihilator of one orbital, orbitals in order."""
    c, parity = np.array([[0.0, 1.0], [0.0, 0.0]]), np.diag([1.0, -1.0])
    return [functools.reduce(np.kron, [*[parity] * k, c, *[np.eye(2)] * (orbitals - k - 1)]) for k in range(orbitals)]


def electrons_in_sector(matrix: np.ndarray, h: Any) -> np.ndarray:
    """Rows and columns of the sector; all up orbitals first, then all down ones."""
    L, n = h.lattice.n_sites, h.hilbert.configurations().numpy().astype(int)
    kept = np.concatenate([n & 1, n >> 1], axis=1) @ 2 ** np.arange(2 * L)[::-1]
    return matrix[np.ix_(kept, kept)]


def bonds_of(lattice: Lattice, order: int = 1) -> list[tuple[int, int, float]]:
    return [(i, j, s) for (i, j), s in zip(lattice.bonds(order).tolist(), lattice.signs(order).tolist(), strict=True)]


@on_lattices
@pytest.mark.parametrize("spin", [0.5, 1])
def test_heisenberg(lattice: Lattice, spin: float) -> None:
    L, K, d = lattice.n_sites, len(lattice.bonds()), round(2 * spin) + 1
    J, Delta, h = random(K), random(K, 1), random(L, 2)
    model = Heisenberg(lattice, None if d == 2 else (L % 2) / 1, J=[J], Delta=[Delta], h=h, spin=spin)
    m = np.arange(d) - spin  # the local states in the order of nqs
    up = np.diag(np.sqrt(spin * (spin + 1) - m[:-1] * m[1:]), -1)
    sz = np.diag(m)
    matrix = -sum(h[i] * at(L, d, **{f"s{i}": sz}) for i in range(L))
    for (i, j, sign), J_ij, D in zip(bonds_of(lattice), J, Delta, strict=True):
        flips = pair(L, i, up, j, up.T) + pair(L, i, up.T, j, up)
        matrix = matrix + J_ij * (sign * flips / 2 + D * pair(L, i, sz, j, sz))
    assert_same(dense(model), in_sector(matrix, model))


def test_heisenberg_with_shells_by_bond_and_by_shell() -> None:
    """J1 by bond, one J2; the order of `bonds(k)`."""
    lattice = chain(6)
    J1 = random(6)
    model = Heisenberg(lattice, 0, J=[J1, 0.3], Delta=(0.5, [1.5] * 6))
    sx, sy, sz = np.array([[0, 1], [1, 0]]) / 2, np.array([[0, 1j], [-1j, 0]]) / 2, np.diag([-0.5, 0.5])
    matrix = sum(
        J * sum(f * pair(6, i, s, j, s) for f, s in ((1, sx), (1, sy), (Delta, sz)))
        for order, couplings, Delta in ((1, J1, 0.5), (2, [0.3] * 6, 1.5))
        for (i, j, _), J in zip(bonds_of(lattice, order), couplings, strict=True)
    )
    assert_same(dense(model), in_sector(matrix, model))


@on_lattices
def test_ising(lattice: Lattice) -> None:
    L, J, h, g = lattice.n_sites, random(len(lattice.bonds())), random(lattice.n_sites, 1), random(lattice.n_sites, 2)
    h[1] = 0.0  # a spin that nothing flips
    x, z = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([-1.0, 1.0])
    matrix = -sum(h[i] * at(L, 2, **{f"s{i}": x}) + g[i] * at(L, 2, **{f"s{i}": z}) for i in range(L))
    for (i, j, sign), J_ij in zip(bonds_of(lattice), J, strict=True):
        matrix = matrix - J_ij * sign * pair(L, i, z, j, z)
    model = Ising(lattice, J=J, h=h, g=torch.tensor(g))
    assert_same(dense(model), matrix)
    assert model.max_connected == L - 1
    assert not model.is_stoquastic
    assert Ising(lattice, J=J, h=abs(h)).is_stoquastic


@on_lattices
def test_bose_hubbard(lattice: Lattice) -> None:
    L, K = lattice.n_sites, len(lattice.bonds())
    J, V, phases = random(K), random(K, 1), random(K, 2)
    U, mu, potential = random(L, 3), random(L, 4), random(L, 5)
    J[0] = 0.0
    model = BoseHubbard(lattice, 3, U=U, J=J, V=V, mu=mu, potential=potential, phases=phases, n_max=2)
    b, n = boson(3)
    matrix: Any = sum(
        at(L, 3, **{f"s{i}": U[i] / 2 * n @ (n - np.eye(3)) + (potential[i] - mu[i]) * n}) for i in range(L)
    )
    for (i, j, sign), J_ij, V_ij, theta in zip(bonds_of(lattice), J, V, phases, strict=True):
        hop = np.exp(1j * theta) * pair(L, j, b.T, i, b)
        matrix = matrix - J_ij * sign * (hop + hop.conj().T) + V_ij * pair(L, i, n, j, n)
    assert_same(dense(model), in_sector(matrix, model))
    assert model.max_connected == 2 * (K - 1)
    assert not model.is_stoquastic
    signs = lattice.signs().numpy()
    assert BoseHubbard(lattice, 3, U=U, J=abs(J) * signs).is_stoquastic
    assert not BoseHubbard(lattice, 3, U=U, J=-abs(J) * signs).is_stoquastic


@on_lattices
def test_spinless_fermions(lattice: Lattice) -> None:
    L, K = lattice.n_sites, len(lattice.bonds())
    t, V, mu, potential = random(K), random(K, 1), random(L, 2), random(L, 3)
    c = annihilators(L)
    n = [a.T @ a for a in c]
    matrix = sum((potential[i] - mu[i]) * n[i] for i in range(L))
    for (i, j, sign), t_ij, V_ij in zip(bonds_of(lattice), t, V, strict=True):
        hop = c[j].T @ c[i]
        matrix = matrix - t_ij * sign * (hop + hop.T) + V_ij * n[i] @ n[j]
    for number in (None, 2):
        model = TV(lattice, number, V=V, t=t, mu=mu, potential=potential)
        assert_same(dense(model), in_sector(matrix, model))


def hubbard_matrix(lattice: Lattice, t: Any, t2: Any, U: Any, V: Any, site: Any, h: Any) -> np.ndarray:
    L = lattice.n_sites
    c = annihilators(2 * L)
    number = [a.T @ a for a in c]
    n = [number[i] + number[i + L] for i in range(L)]
    matrix = sum(
        U[i] * number[i] @ number[i + L] + site[i] * n[i] - h[i] / 2 * (number[i] - number[i + L]) for i in range(L)
    )
    for order, hopping in ((1, t), (2, t2)):
        for (i, j, sign), t_ij in zip(bonds_of(lattice, order), hopping, strict=True):
            for hop in (c[j].T @ c[i], c[j + L].T @ c[i + L]):
                matrix = matrix - t_ij * sign * (hop + hop.T)
    for (i, j, _), V_ij in zip(bonds_of(lattice), V, strict=True):
        matrix = matrix + V_ij * n[i] @ n[j]
    return matrix


@pytest.mark.parametrize("lattice", [chain(5, boundary="antiperiodic"), square(2, 2, "open")], ids=str)
def test_fermi_hubbard(lattice: Lattice) -> None:
    L, K, K2 = lattice.n_sites, len(lattice.bonds()), len(lattice.bonds(2))
    t, V, t2 = random(K), random(K, 1), random(K2, 2)
    U, mu, h, potential = random(L, 3), random(L, 4), random(L, 5), random(L, 6)
    model = FermiHubbard(lattice, 2, 1, U=U, t=t, t2=t2, V=V, mu=mu, h=h, potential=potential)
    matrix = hubbard_matrix(lattice, t, t2, U, V, potential - mu, h)
    assert_same(dense(model), electrons_in_sector(matrix, model))


@pytest.mark.parametrize("lattice", [chain(4), square(2, 2, "open"), from_edges([(2, 0), (1, 2), (3, 2)])], ids=str)
def test_tj(lattice: Lattice) -> None:
    """The exchange from spin operators made of fermions, on all states; then those without doubly occupied sites."""
    L, K = lattice.n_sites, len(lattice.bonds())
    t, J, potential = random(K), random(K, 1), random(L, 2)
    J[1] = 0.0
    c = annihilators(2 * L)
    number = [a.T @ a for a in c]
    up = [c[i].T @ c[i + L] for i in range(L)]
    sz, n = ([number[i] + sign * number[i + L] for i in range(L)] for sign in (-1, 1))
    matrix = sum(potential[i] * n[i] for i in range(L))
    for (i, j, sign), t_ij, J_ij in zip(bonds_of(lattice), t, J, strict=True):
        for hop in (c[j].T @ c[i], c[j + L].T @ c[i + L]):
            matrix = matrix - t_ij * sign * (hop + hop.T)
        spins = (up[i] @ up[j].T + up[i].T @ up[j]) / 2 + sz[i] @ sz[j] / 4
        matrix = matrix + J_ij * (spins - n[i] @ n[j] / 4)
    model = TJ(lattice, 2, 1, J=J, t=t, potential=potential)
    assert_same(dense(model), electrons_in_sector(matrix, model))


# ---- what follows from couplings -------------------------------------------------------------------


def test_dimerised_chain_of_strong_bonds_is_a_product_of_singlets() -> None:
    energy = exact.ground_state(Heisenberg(chain(8, periodic=False), 0, J=[[2.0, 0.0] * 3 + [2.0]])).energy
    assert energy == pytest.approx(4 * 2 * -0.75, abs=1e-12)


def test_ladder_of_strong_rungs() -> None:
    """Legs and rungs of a ladder by the direction of the bond; without legs a product of singlets."""
    lattice = square(2, 4, ["open", "periodic"])
    rung = lattice.bonds()[:, 1] - lattice.bonds()[:, 0] == 4
    J = torch.where(rung, 1.5, 0.0)
    assert int(rung.sum()) == 4
    assert exact.ground_state(Heisenberg(lattice, 0, J=[J])).energy == pytest.approx(4 * 1.5 * -0.75, abs=1e-12)


def test_weights_of_a_graph_reach_the_couplings() -> None:
    """Four spins with all pairs coupled, J' on two opposite pairs: E = J' / 2 - 2 J or -3 J' / 2."""
    graph = nx.complete_graph(4)
    nx.set_edge_attributes(graph, {(i, j): 1.17 if (i, j) in ((0, 1), (2, 3)) else 1.0 for i, j in graph.edges}, "J")
    model = Heisenberg(from_networkx(graph), 0, J=[edge_weights(graph, "J")])
    assert exact.ground_state(model).energy == pytest.approx(-1.5 * 1.17, abs=1e-12)


def test_ising_limit_without_exchange() -> None:
    model = Heisenberg(chain(4), 0, J=1.0, Delta=math.inf)
    assert exact.ground_state(model).energy == pytest.approx(-1.0, abs=1e-12)
    assert model.max_connected == 0
    assert "1 sum_<ij> S^z_i S^z_j, S" in str(model)
    mixed = Heisenberg(chain(4, periodic=False), None, J=[[1.0, 2.0, 1.0]], Delta=[[1.0, math.inf, 1.0]])
    assert mixed.max_connected == 2
    with pytest.raises(ValueError, match="Delta=inf and J=0"):
        Heisenberg(chain(4), 0, J=0.0, Delta=math.inf)


def test_marshalls_rule_follows_the_bonds() -> None:
    ring = chain(6)
    assert Heisenberg(ring, 0, J=[[1.0, 0.5] * 3]).marshall_exact
    assert not Heisenberg(ring, 0, J=[[1.0, 0.5] * 2 + [1.0, -0.5]]).marshall_exact
    assert Heisenberg(ring, 0, J=[[1.0] * 6, [-0.2] * 6]).marshall_exact
    assert not Heisenberg(ring, 0, J=[[1.0] * 6, [-0.2] * 5 + [0.1]]).marshall_exact
    assert Heisenberg(ring, 0, J=[[-1.0, -0.5] * 3]).is_stoquastic
    assert not Heisenberg(ring, 0, J=[[-1.0] * 5 + [0.1]]).is_stoquastic


def test_open_fermion_chain_is_stoquastic_where_every_hop_is() -> None:
    line = chain(4, periodic=False)
    assert TV(line, 2, V=1.0, t=[1.0, 0.5, 2.0]).is_stoquastic
    assert not TV(line, 2, V=1.0, t=[1.0, -0.5, 2.0]).is_stoquastic
    assert TV(line, 2, V=1.0, t=[1.0, 0.0, 2.0]).max_connected == 2


@pytest.mark.parametrize(
    ("model", "order"),
    [
        (Heisenberg(chain(6), 0, J=[[1.0, 0.5] * 3]), 3 * 2 * 2),  # every second translation, reflection, spin flip
        (Heisenberg(chain(6), 0, J=[[1.0] * 5 + [0.5]]), 2 * 2),  # the reflection about one bond
        (Heisenberg(chain(6), 0, h=[0.1, -0.1] * 3), 3 * 2 * 2),  # the spin flip with odd translations
        (Heisenberg(chain(6), 0, J=[random(6)], h=random(6)), 1),
        (Ising(chain(6), h=1.0, J=random(6)), 2),
        (Ising(chain(6), h=random(6), J=1.0), 2),
        (BoseHubbard(chain(6), 2, U=[4.0] * 5 + [3.0]), 2),
        (BoseHubbard(chain(6), 1, U=0.0, V=0.0, J=[1.0] * 5 + [1.1]), 2),
    ],
    ids=str,
)
def test_symmetries_are_those_of_the_couplings(model: Any, order: int) -> None:
    assert symmetries_of(model).order == order


def test_hartree_fock_of_free_fermions_in_disorder_is_exact() -> None:
    lattice = square(2, 3, "open")
    t, mu = random(len(lattice.bonds())), random(6, 1)
    one_body = -np.diag(mu)
    for (i, j, _), t_ij in zip(bonds_of(lattice), t, strict=True):
        one_body[i, j] = one_body[j, i] = -t_ij
    expected = np.linalg.eigvalsh(one_body)[:3].sum()
    assert hartree_fock(TV(lattice, 3, V=0.0, t=t, mu=mu)).energy == pytest.approx(expected, abs=1e-9)


# ---- as values -------------------------------------------------------------------------------------

LINE = chain(4, periodic=False)
BY_PLACE = {
    "Heisenberg": Heisenberg(LINE, 0, J=[np.array([1.0, 0.5, 1.0])], h=torch.tensor([0.1, 0.2, -0.3, 0.0])),
    "Ising": Ising(LINE, h=np.array([1, 2, 3, 4]), J=[1.0, 0.5, 1.0]),
    "BoseHubbard": BoseHubbard(LINE, 2, U=[1.0, 2.0, 3.0, 4.0], J=np.float32([1, 0.5, 1])),
    "FermiHubbard": FermiHubbard(LINE, 1, 1, U=[1.0, 2.0, 3.0, 4.0], t2=(0.1, -0.2)),
    "TV": TV(LINE, 2, V=[1.0, 2.0, 3.0]),
    "TJ": TJ(LINE, 2, 1, J=[1.0, 2.0, 3.0], t=[0.5, 0.5, 0.5]),
}


@pytest.mark.parametrize("model", BY_PLACE.values(), ids=BY_PLACE)
def test_hashable_plain_data_and_brief_in_text(model: Any) -> None:
    hash(model)
    assert from_plain(to_plain(model), known_types()) == model
    assert " with " in str(model)
    assert " from " in str(model)
    assert len(str(model)) < 250


def test_text_has_symbols_and_ranges() -> None:
    assert str(BY_PLACE["TJ"]).startswith(
        "t-J, H = -1 sum_<ij>,s t_ij (c+_js c_is + h.c.) + 1 sum_<ij> J_ij (S_i . S_j - n_i n_j / 4) with "
        "t_ij from 0.5 to 0.5, J_ij from 1 to 3, S = sigma/2"
    )
    assert "sum_<ij>_1 J1_ij S_i.S_j + 0.2 sum_<ij>_2 S_i.S_j with J1_ij from" in str(
        Heisenberg(LINE, 0, J=[[1, 2, 3], 0.2])
    )


WRONG = [math.nan, math.inf, -math.inf]
FAMILIES: list[tuple[Any, dict[str, Any], tuple[str, ...], tuple[str, ...]]] = [
    (functools.partial(Heisenberg, LINE, 0), {}, (), ("h",)),
    (functools.partial(Ising, LINE), {"h": 1.0}, ("J",), ("h", "g")),
    (functools.partial(BoseHubbard, LINE, 2), {"U": 1.0}, ("J", "V"), ("U", "mu")),
    (functools.partial(FermiHubbard, LINE, 1, 1), {"U": 1.0}, ("t", "V"), ("U", "mu", "h")),
    (functools.partial(TV, LINE, 2), {"V": 1.0}, ("V", "t"), ("mu",)),
    (functools.partial(TJ, LINE, 1, 1), {"J": 1.0}, ("J", "t"), ()),
]


@pytest.mark.parametrize(
    ("build", "name", "n"),
    [
        (functools.partial(build, **{k: v for k, v in given.items() if k != name}), name, n)
        for build, given, bonds, sites in FAMILIES
        for names, n in ((bonds, 3), (sites, 4))
        for name in names
    ],
)
def test_every_coupling_is_finite_and_fits(build: Any, name: str, n: int) -> None:
    build(**{name: [0.5] * n})
    for wrong in WRONG:
        with pytest.raises(ValueError, match=rf"^{name}="):
            build(**{name: wrong})
        with pytest.raises(ValueError, match=rf"^{name}\[1\]="):
            build(**{name: [0.5, wrong, *[0.5] * (n - 2)]})
    where = "bonds" if n == 3 else "sites"
    with pytest.raises(ValueError, match=rf"^{name} has 2 numbers, but chain\(4, open\) has {n} {where}: give one"):
        build(**{name: [0.5, 0.5]})
    with pytest.raises(TypeError, match=rf"^{name}=|violates type hint"):  # of run-time type checkers
        build(**{name: [[0.5] * n]})


@pytest.mark.parametrize("name", ["J", "Delta"])
@pytest.mark.parametrize("wrong", [math.nan, -math.inf, [[1.0, math.nan, 1.0]]])
def test_heisenberg_refuses_what_is_not_finite(name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name}=.*finite"):
        Heisenberg(LINE, 0, **{name: wrong})


def test_heisenberg_refuses_what_may_be_shells_or_bonds() -> None:
    """A flat list means shells; where there are as many bonds, it could mean both."""
    with pytest.raises(ValueError, match=r"^J has 3 numbers, and chain\(4, open\) has 3 bonds: write J=\[\[...\]\]"):
        Heisenberg(LINE, 0, J=[1.0, 0.5, 1.0])
    shells = dense(Heisenberg(LINE, 0, J=[[1.0], [0.5], [0.25]]))
    assert_same(shells, dense(Heisenberg(LINE, 0, J=[[1.0] * 3, [0.5] * 2, [0.25]])))
    with pytest.raises(ValueError, match=r"^J has 2 numbers for a shell of 3 bonds"):
        Heisenberg(LINE, 0, J=[[1.0, 0.5]])
    with pytest.raises(ValueError, match=r"^Delta has 3 values, but J couples 1 shell"):
        Heisenberg(LINE, 0, Delta=[1.0, 0.5, 1.0])
    with pytest.raises(TypeError, match=r"^J='strong'|violates type hint"):
        Heisenberg(LINE, 0, J="strong")


def test_random_couplings_differ_between_orders() -> None:
    """The order of bonds matters: another order is another model."""
    models = [Ising(LINE, h=0.0, J=list(J)) for J in itertools.permutations([1.0, 2.0, 3.0])]
    assert len({dense(model).tobytes() for model in models}) == 6
