"""Sums of products of local operators against Kronecker products and Jordan-Wigner matrices in numpy."""

import functools
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small_transformer
from operator_matrices import elements

import nqs
from nqs import VMC, exact
from nqs.hamiltonians import BoseHubbard, Heisenberg, LocalHamiltonian, Operator
from nqs.hamiltonians.operators import (
    b,
    b_dag,
    c,
    c_dag,
    diagonal,
    exchange,
    identity,
    matrix,
    number,
    product,
    sminus,
    splus,
    sx,
    sy,
    sz,
)
from nqs.hilbert import (
    Charge,
    HilbertSpace,
    Species,
    bosons,
    electrons,
    fermions,
    product_space,
    spinful_fermions,
    spins,
)
from nqs.lattice import chain

from matrices import assert_same


def kron(matrices: list[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.kron, matrices, np.eye(1))


def boson_matrix(d: int) -> np.ndarray:
    return np.diag(np.sqrt(np.arange(1.0, d)), 1)


def spin_matrices(S: float) -> dict[str, np.ndarray]:
    m = np.arange(-S, S + 1)
    raising = np.diag(np.sqrt(S * (S + 1) - m[:-1] * (m[:-1] + 1)), -1)  # from m to m + 1, the local states ascending
    return {"S+": raising, "S-": raising.T, "Sz": np.diag(m)}


# ---- spaces without conserved numbers, and what each factor is on one site -----------------------------------------


def on_sites(space: HilbertSpace, local: dict[tuple[str, int], np.ndarray]) -> dict[tuple[str, int], np.ndarray]:
    """Local matrices as matrices on the whole space."""
    return {
        (name, site): kron([M if s == site else np.eye(d) for s, d in enumerate(space.local_dims)])
        for (name, site), M in local.items()
    }


def jordan_wigner(L: int, spins: tuple[str, ...]) -> tuple[np.ndarray, dict[tuple[str, int], np.ndarray]]:
    """c and c+ of every orbital on the whole space, orbitals in blocks of spins; rows in the order of the space.

    Basis |n> = prod c+ |0> over the orbitals in that order, built up from the vacuum by the anticommutators.
    """
    orbitals = [(spin, site) for spin in spins for site in range(L)]
    Z, lower = np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [0.0, 0.0]])
    found = {}
    for k, (spin, site) in enumerate(orbitals):
        M = kron([Z] * k + [lower] + [np.eye(2)] * (len(orbitals) - k - 1))
        found |= {(f"c{spin}", site): M, (f"c+{spin}", site): M.T}
    states = 2 ** len(spins)
    order = []  # position of each configuration of sites among the bits of the orbitals
    for n in itertools.product(range(states), repeat=L):
        bits = [n[site] >> s & 1 for s in range(len(spins)) for site in range(L)]
        order.append(int("".join(map(str, bits)), 2))
    return np.array(order), {key: M[np.ix_(order, order)] for key, M in found.items()}


def factors(kind: str) -> tuple[HilbertSpace, dict[Any, tuple[Operator, np.ndarray]]]:
    """A space and its elementary operators with their matrices."""
    if kind == "bosons":
        space, d = bosons(3, None, 3), 4
        local = {(name, i): M for i in range(3) for name, M in (("b", boson_matrix(d)), ("b+", boson_matrix(d).T))}
        made = {"b": b, "b+": b_dag}
    elif kind == "spins":
        space = product_space(spins(1, None, 1.5), spins(2, None, 0.5), spins(1, None, 1))
        local = {(name, i): M for i, S in enumerate((1.5, 0.5, 0.5, 1)) for name, M in spin_matrices(S).items()}
        made = {"S+": splus, "S-": sminus, "Sz": sz}
    elif kind == "a spin beside bosons":
        space = product_space(spins(1, None, 1), bosons(2, None, 2))
        local = {(name, 0): M for name, M in spin_matrices(1).items()}
        local |= {(name, i): M for i in (1, 2) for name, M in (("b", boson_matrix(3)), ("b+", boson_matrix(3).T))}
        made = {"S+": splus, "S-": sminus, "Sz": sz, "b": b, "b+": b_dag}
    else:
        names = ("up", "down") if kind == "electrons" else ("",)
        space = spinful_fermions(3) if kind == "electrons" else fermions(4)
        matrices = jordan_wigner(space.n_sites, names)[1]
        calls = {f"{c_name}{spin}": (call, spin) for c_name, call in (("c", c), ("c+", c_dag)) for spin in names}
        return space, {
            (name, i): (calls[name][0](i, *filter(None, [calls[name][1]])), M) for (name, i), M in matrices.items()
        }
    return space, {(name, i): (made[name](i), M) for (name, i), M in on_sites(space, local).items()}


KINDS = ("bosons", "spins", "a spin beside bosons", "fermions", "electrons")
BUILT = {kind: factors(kind) for kind in KINDS}
NUMBERS = st.complex_numbers(max_magnitude=3, allow_nan=False, allow_infinity=False).map(lambda z: np.round(z, 2))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_sum_of_products_is_the_sum_of_products_of_matrices(kind: str, data: st.DataObject) -> None:
    space, known = BUILT[kind]
    operator, expected = Operator(), np.zeros((space.dimension,) * 2, dtype=complex)
    for _ in range(data.draw(st.integers(1, 3))):
        chosen = data.draw(st.lists(st.sampled_from(list(known.values())), max_size=4))
        x = complex(data.draw(NUMBERS))
        operator = operator + x * product(part for part, _ in chosen)
        expected += x * functools.reduce(np.matmul, [M for _, M in chosen], np.eye(space.dimension))
    assert_same(elements(operator, space), expected)
    assert_same(elements(operator.dagger(), space), expected.conj().T)
    if operator.on(space).is_hermitian:
        assert_same(expected, expected.conj().T)
    assert operator.dagger().dagger() == operator
    assert (operator + operator.dagger()).on(space).is_hermitian


@pytest.mark.parametrize("kind", ["bosons", "electrons"])
def test_elements_between_two_sectors_are_a_block_of_the_whole_matrix(kind: str) -> None:
    if kind == "bosons":
        whole, bra, ket = bosons(3, None, 4), bosons(3, 3), bosons(3, 4)  # 4 and 5 local states
        operator = b(0) + 2.0 * number(1) * b(2) + b_dag(0) * b(1) * b(1)
    else:
        whole, bra, ket = spinful_fermions(3), spinful_fermions(3, 1, 2), spinful_fermions(3, 2, 2)
        operator = c(1, "up") + 0.5j * number(0, "down") * c(2, "up") + c_dag(0, "down") * c(1, "down") * c(2, "up")
    full = elements(operator, whole)
    rows, columns = (whole.rank(space.configurations()).numpy() for space in (bra, ket))
    assert_same(elements(operator, bra, ket), full[np.ix_(rows, columns)])
    assert_same(elements(operator.dagger(), ket, bra), full[np.ix_(rows, columns)].conj().T)
    assert np.abs(full[np.ix_(rows, columns)]).sum() > 1


def test_cutoffs() -> None:
    """[b, b+] = 1 where the largest occupation follows from the number of particles, 1 - 2 n for hard-core bosons."""
    commutator = b(0) * b_dag(0) - b_dag(0) * b(0)
    assert_same(elements(commutator, bosons(3, 2)), np.eye(6))
    hard = bosons(3, 2, 1)
    assert_same(elements(commutator, hard), np.diag(1.0 - 2 * hard.configurations()[:, 0].numpy()))
    hard_core = b(0) * b_dag(0)
    assert_same(elements(hard_core, bosons(2, None, 1)), np.diag([1.0, 1.0, 0.0, 0.0]))


def test_the_projected_operators_of_the_t_j_model() -> None:
    """c_up c+_up = 1 - n_up - n_down where no site is doubly occupied."""
    space = electrons(2, ("empty", "up", "down"))
    found = elements(c(0, "up") * c_dag(0, "up"), space)
    assert_same(found, elements(1 - number(0), space))


def test_matrices_between_local_states() -> None:
    space, rng = spins(2, None, 1), np.random.default_rng(0)
    M = rng.standard_normal((3, 3)) + 1j * rng.standard_normal((3, 3))
    assert_same(elements(matrix(1, M), space), np.kron(np.eye(3), M))
    assert_same(elements(matrix(0, M) * matrix(1, M), space), np.kron(M, M))
    assert_same(elements(matrix(0, M).dagger(), space), np.kron(M.conj().T, np.eye(3)))
    assert_same(elements(diagonal(0, [-1, 1, -1]), space), np.kron(np.diag([-1, 1, -1]), np.eye(3)))
    clock = HilbertSpace(2, ("a", "b", "c"))  # states no species
    shift = np.roll(np.eye(3), 1, axis=0)
    assert_same(elements(matrix(0, shift) * matrix(1, shift.T), clock), np.kron(shift, shift.T))


def test_spins() -> None:
    space = spins(2, None, 1.5)
    x, y, z = (elements(s(0), space) for s in (sx, sy, sz))
    assert_same(x @ y - y @ x, 1j * z)
    assert_same(elements(exchange(0, 0), space), 3.75 * np.eye(16))
    assert exchange(0, 1).on(space).is_hermitian
    assert not (splus(0) * sminus(1)).on(space).is_hermitian


def test_algebra() -> None:
    space = bosons(2, None, 2)
    n = elements(number(0), space)
    assert_same(elements(2 - number(0) / 2 + 3j, space), (2 + 3j) * np.eye(9) - n / 2)
    assert_same(elements(number(0) ** 3, space), n @ n @ n)
    assert_same(elements(number(0) - number(0), space), np.zeros((9, 9)))
    assert (number(0) - number(0)).on(space).entries == []
    assert str(b_dag(0) * b(1) - 0.5 * c(2, "up") + 0 * number(0)) == "1 b+_0 b_1 - 0.5 c_2,up"
    assert sum([identity(), number(1)]) == identity() + number(1)


def test_unclear_operators_are_refused() -> None:
    boson, electron = bosons(2, 1), spinful_fermions(2, 1, 1)
    with pytest.raises(ValueError, match=r"needs one fermion .* 'particles' \(boson\)"):
        c(0).on(boson)
    with pytest.raises(ValueError, match="name one of them, for electrons 'up' or 'down'"):
        c(0).on(electron)
    with pytest.raises(ValueError, match="site 2: the space has the sites 0 to 1"):
        b(2).on(boson)
    with pytest.raises(ValueError, match="is about 3 local states; the site has 2"):
        diagonal(0, [1, 2, 3]).on(boson)
    with pytest.raises(ValueError, match="write it with c and c_dag"):
        matrix(0, np.ones((4, 4))).on(electron)
    with pytest.raises(ValueError, match="must be a finite number"):
        float("nan") * b(0)
    with pytest.raises(ValueError, match="sites are numbered"):
        b(-1)
    with pytest.raises(ValueError, match="both need the same sites and particles"):
        b(0).on(boson, spins(2))
    with pytest.raises(ValueError, match=r"1 b_0 changes 'particles', which the sector fixes"):
        LocalHamiltonian(boson, b(0) + b_dag(0))
    with pytest.raises(ValueError, match="another number of sites"):
        LocalHamiltonian(boson, number(0), lattice=chain(3))
    with pytest.raises(ValueError, match="is not Hermitian"):
        exact.ground_state(LocalHamiltonian(boson, b_dag(0) * b(1)))
    with pytest.raises(ValueError, match="diagonal must return a real number"):
        exact.ground_state(LocalHamiltonian(boson, 1j * number(0)))


def test_a_term_that_leaves_the_sector_only_in_places_is_found() -> None:
    """One occupied site: a hop from a site with two bosons occupies another one."""
    occupied, number_of = Charge("occupied sites", (0, 1, 1), 1), Species("bosons", "boson", (0, 1, 2))
    space = HilbertSpace(2, ("0", "1", "2"), (occupied,), (number_of,))
    with pytest.raises(ValueError, match=r"leaves the sector: it leads from \[.*\] to \[1, 1\]"):
        exact.ground_state(LocalHamiltonian(space, b_dag(0) * b(1) + b_dag(1) * b(0)))


def ring(L: int, U: float) -> Operator:
    hop = sum(b_dag(i) * b((i + 1) % L) for i in range(L))
    return -1.0 * (hop + hop.dagger()) + sum(U / 2 * number(i) * (number(i) - 1) for i in range(L))


@pytest.mark.usefixtures("unchecked")
def test_a_written_hamiltonian_runs_is_archived_and_resumed(tmp_path: Any) -> None:
    written = LocalHamiltonian(bosons(4, 4), ring(4, 4.0), lattice=chain(4), name="ring")
    family = BoseHubbard(chain(4), 4, U=4.0)
    assert written.is_stoquastic
    path = tmp_path / "run.h5"
    result = nqs.ground_state(written, steps=40, device="cpu", progress=False, archive=path)
    expected = nqs.ground_state(family, steps=40, device="cpu", progress=False)
    assert result.estimate.energy == pytest.approx(expected.estimate.energy, abs=1e-9)
    assert result.relative_error < 1e-9
    assert nqs.resume(path, progress=False).estimate == result.estimate
    model = small_transformer(heads=1).build(written.hilbert)
    VMC(written, model).run(1, progress=False)


def test_large_sums_are_compiled_and_evaluated() -> None:
    """Every pair of 24 spins: 276 bonds."""
    pairs = list(itertools.combinations(range(24), 2))
    h = LocalHamiltonian(spins(24, 0), sum(exchange(i, j) / abs(i - j) for i, j in pairs))
    n = h.hilbert.random(20, torch.Generator().manual_seed(0))
    z = n.double() - 0.5
    expected = sum(z[:, i] * z[:, j] / abs(i - j) for i, j in pairs)
    torch.testing.assert_close(h.diagonal(n), expected)
    k, values, parents = h.connected(n)
    assert len(parents) == int((n.sum(1) * (24 - n.sum(1).long())).sum())
    moved = (k != n[parents]).nonzero()[:, 1].view(-1, 2)
    torch.testing.assert_close(values, 0.5 / (moved[:, 1] - moved[:, 0]).double())
    near = LocalHamiltonian(spins(24, 0), sum(exchange(i, i + 1) for i in range(23)))
    family = Heisenberg(chain(24, periodic=False), 0)
    torch.testing.assert_close(near.diagonal(n), family.diagonal(n))
