"""Fermionic families against dense Jordan-Wigner matrices, NetKet's operators, closed forms and the contract.

The dense matrices are Kronecker products of Pauli matrices over all orbitals: they share nothing with the signs from
cumulative parities but the order of the orbitals.
"""

import functools
import itertools
import json
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import netket as nk
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from nqs import VMC, exact
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, staggered_potential
from nqs.hilbert import HilbertSpace
from nqs.lattice import Lattice, chain, from_edges, honeycomb, kagome, square, triangular
from nqs.local_energy import local_energies
from nqs.models import Transformer
from nqs.protocols import Hamiltonian, LogPsi, Wavefunction
from nqs.samplers import ExhaustiveSampler
from nqs.samples import Samples
from nqs.serialise import from_plain, to_plain
from nqs.vmc import known_types

LARGEST = 300  # dimension of the sectors that are drawn: their matrices are dense

# ---- recipes ---------------------------------------------------------------------------------------

SMALL = [  # at most 4 sites: 8 orbitals, dense matrices of all 256 states
    *(chain(n, boundary=word) for n in range(1, 5) for word in ("periodic", "open", "antiperiodic")),
    square(2, 2),
    square(1, 3, "antiperiodic"),
    triangular(2, 2),
    honeycomb(1, 2),
    kagome(1, 1),
    from_edges([(2, 0), (1, 2), (3, 2)]),  # bonds against the order of the sites
]
LATTICES = [
    *SMALL,
    *(chain(n, boundary=word) for n in (5, 6) for word in ("periodic", "open", "antiperiodic")),
    square(2, 3),
    square(3, 2, ["open", "antiperiodic"]),
    triangular(3, 2, "open"),
    square(3, 3),
    honeycomb(2, 2, ["periodic", "open"]),
]
COUPLINGS = st.integers(-30, 30).map(lambda k: k / 10)
TWIST = 0.7  # any angle: whether a lattice is too small for a twist does not depend on it


@functools.cache
def accepts(lattice: Lattice, order: int, twisted: bool) -> bool:
    """Whether the lattice has bonds of that order, each with one definite sign and phase."""
    try:
        lattice.signs(order)
        lattice.twist_phases([TWIST * twisted] * len(lattice.shape), order)
    except ValueError:
        return False
    return True


@st.composite
def couplings(draw: st.DrawFn, lattice: Lattice, names: str, second: bool = False) -> dict[str, Any]:
    """Any couplings, potentials and twists that the lattice accepts; hoppings are +-1 half the time, to be compared."""
    values: dict[str, Any] = {name: draw(COUPLINGS) for name in names.split()}
    values["t"] = draw(st.sampled_from([1.0, 1.0, -1.0]) | COUPLINGS)
    energies = st.lists(COUPLINGS, min_size=lattice.n_sites, max_size=lattice.n_sites)
    values["potential"] = draw(st.none() | energies.map(tuple))
    angles = st.lists(st.integers(-60, 60).map(lambda k: k / 10), min_size=len(lattice.shape))
    twists = st.none() | angles.map(lambda a: tuple(a[: len(lattice.shape)]))
    values["twist"] = draw(twists) if accepts(lattice, 1, True) else None
    if second and accepts(lattice, 2, values["twist"] is not None):
        values["t2"] = draw(st.just(0.0) | COUPLINGS)
    return values


@functools.cache
def fillings(family: Callable[..., Any], lattice: Lattice, arguments: int) -> list[tuple[int | None, ...]]:
    """Numbers of particles, None too, with at most LARGEST configurations."""
    numbers = [None, *range(lattice.n_sites + 1)]
    found = []
    for filling in itertools.product(numbers, repeat=arguments):
        if family is TJ and None not in filling and sum(filling) > lattice.n_sites:
            continue
        interaction = {FermiHubbard: "U", TV: "V", TJ: "J"}[family]
        if family(lattice, *filling, **{interaction: 0.0}).hilbert.dimension <= LARGEST:
            found.append(filling)
    return found


@st.composite
def recipes(
    draw: st.DrawFn, family: Callable[..., Any], lattices: list[Lattice] = LATTICES
) -> Callable[[], FermiHubbard | TV | TJ]:
    """The tests call the recipe: run-time type checkers use `random`, which hypothesis forbids in strategies."""
    lattice = draw(st.sampled_from(lattices))
    names = {FermiHubbard: "U V mu h", TV: "V mu", TJ: "J"}[family]
    filling = draw(st.sampled_from(FILLINGS[family, lattice]))
    return functools.partial(family, lattice, *filling, **draw(couplings(lattice, names, family is FermiHubbard)))


FILLINGS = {
    (family, lattice): fillings(family, lattice, arguments)
    for family, arguments in ((FermiHubbard, 2), (TV, 1), (TJ, 2))
    for lattice in LATTICES
}


class Entry(NamedTuple):
    family: Callable[..., Any]
    plain: Callable[[], Any]


FAMILIES = {
    "FermiHubbard": Entry(FermiHubbard, lambda: FermiHubbard(chain(3), 2, 1, U=2.5)),
    "TV": Entry(TV, lambda: TV(chain(4), 2, V=2.5)),
    "TJ": Entry(TJ, lambda: TJ(chain(4), 2, 1, J=0.4)),
}
every_family = pytest.mark.parametrize("entry", FAMILIES.values(), ids=FAMILIES)
drawn = given(data=st.data())


# ---- matrices --------------------------------------------------------------------------------------


def rows(hamiltonian: Hamiltonian, n: torch.Tensor) -> np.ndarray:
    """<n|H|n'> for a batch of n and all n' of the sector, (B, dimension), from diagonal and connected."""
    matrix = torch.zeros(len(n), hamiltonian.hilbert.dimension, dtype=torch.complex128)
    k, elements, parents = hamiltonian.connected(n)
    rank = hamiltonian.hilbert.rank
    matrix.index_put_((parents, rank(k)), elements.to(matrix.dtype), accumulate=True)
    matrix.index_put_((torch.arange(len(n)), rank(n)), hamiltonian.diagonal(n).to(matrix.dtype), accumulate=True)
    return matrix.numpy()


def dense(hamiltonian: Hamiltonian) -> np.ndarray:
    return rows(hamiltonian, hamiltonian.hilbert.configurations())


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max(initial=0.0)))


@functools.cache
def annihilators(n_orbitals: int) -> list[sparse.csr_array]:
    """c_k = Z x .. x Z x [[0, 1], [0, 0]] x 1 x .. x 1, orbital 0 the leftmost factor."""
    z, lower, one = np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [0.0, 0.0]]), np.eye(2)
    return [
        functools.reduce(sparse.kron, [z] * k + [lower] + [one] * (n_orbitals - k - 1), sparse.eye_array(1)).tocsr()
        for k in range(n_orbitals)
    ]


def hop_terms(h: Any) -> list[tuple[int, int, complex]]:
    """(i, j, x) for every x c+_j c_i + h.c. of the Hamiltonian."""
    terms = []
    for order, t in ((1, h.t), (2, getattr(h, "t2", 0.0))):
        if not t:
            continue
        angles = h.lattice.twist_phases(list(h.twist), order) if h.twist is not None else h.lattice.signs(order) * 0
        for (i, j), sign, angle in zip(h.lattice.bonds(order).tolist(), h.lattice.signs(order), angles, strict=True):
            terms.append((i, j, -t * sign.item() * np.exp(1j * angle.item())))
    return terms


def jordan_wigner(h: FermiHubbard | TV | TJ) -> np.ndarray:
    """The formulas of the docstrings, term by term, all up orbitals before all down orbitals, in our basis."""
    L = h.lattice.n_sites
    spins = 1 if isinstance(h, TV) else 2
    c = annihilators(spins * L)
    create = [x.T for x in c]
    number = [x.T @ x for x in c]
    n = [sum(number[s * L + i] for s in range(spins)) for i in range(L)]
    matrix = sparse.csr_array(c[0].shape, dtype=complex)
    for i, j, x in hop_terms(h):
        for s in range(spins):
            hop = x * create[s * L + j] @ c[s * L + i]
            matrix += hop + hop.conj().T
    for i, energy in enumerate(h.potential or ()):
        matrix += energy * n[i]
    for i in range(L):
        matrix -= getattr(h, "mu", 0.0) * n[i]
        if isinstance(h, FermiHubbard):
            matrix += h.U * number[i] @ number[L + i] - h.h * (number[i] - number[L + i]) / 2
    for i, j in h.lattice.bonds().tolist():
        if isinstance(h, TJ):
            plus = [create[k] @ c[L + k] for k in range(L)]
            sz = [(number[k] - number[L + k]) / 2 for k in range(L)]
            flip = plus[i] @ plus[j].T
            matrix += h.J * ((flip + flip.T) / 2 + sz[i] @ sz[j] - n[i] @ n[j] / 4)
        else:
            matrix += h.V * n[i] @ n[j]
    configurations = h.hilbert.configurations().long()
    bits = configurations if spins == 1 else torch.cat([configurations & 1, configurations >> 1], dim=1)
    index = (bits * 2 ** torch.arange(spins * L).flip(0)).sum(1).numpy()
    return matrix[index][:, index].toarray()


def to_netket(hilbert: HilbertSpace, n: torch.Tensor) -> np.ndarray:
    """Occupied orbitals as NetKet lists them: its first block are those with n_fermions_per_spin[0]."""
    return (n if hilbert.local_dim == 2 else torch.cat([n & 1, n >> 1], dim=1)).numpy().astype(np.int8)


def from_netket(hilbert: HilbertSpace, n: np.ndarray) -> torch.Tensor:
    n = torch.from_numpy(np.asarray(n).astype(np.uint8))
    return n if hilbert.local_dim == 2 else n[:, : hilbert.n_sites] | (n[:, hilbert.n_sites :] << 1)


def netket_matrix(hilbert: HilbertSpace, operator: Any) -> np.ndarray:
    n = hilbert.configurations()
    matrix = np.zeros((len(n), len(n)), dtype=complex)
    if hasattr(operator, "get_conn_flattened"):
        ends = np.zeros(len(n), dtype=np.intp)
        connected, elements = operator.get_conn_flattened(to_netket(hilbert, n), ends)
        parents = np.repeat(np.arange(len(n)), np.diff(ends, prepend=0))
    else:
        padded, elements = (np.asarray(x) for x in operator.get_conn_padded(to_netket(hilbert, n)))
        parents = np.repeat(np.arange(len(n)), elements.shape[1])
        connected, elements = padded.reshape(-1, padded.shape[-1]), elements.reshape(-1)
    kept = elements != 0
    k = from_netket(hilbert, connected[kept])
    assert hilbert.contains(k).all()
    np.add.at(matrix, (parents[kept], hilbert.rank(k).numpy()), elements[kept])
    return matrix


# ---- against other packages and dense matrices -----------------------------------------------------


@every_family
@settings(max_examples=60)
@drawn
def test_matrix_equals_dense_jordan_wigner(entry: Entry, data: st.DataObject) -> None:
    h = data.draw(recipes(entry.family, SMALL))()
    matrix = dense(h)
    assert_same(matrix, jordan_wigner(h))
    assert_same(matrix, matrix.conj().T)
    assert_same(exact.sparse_matrix(h).toarray(), matrix)


def test_matrix_of_eight_orbitals_in_the_grand_canonical_space() -> None:
    h = FermiHubbard(square(2, 2), None, None, U=4.0, t=0.9, t2=-0.3, V=0.5, mu=0.7, h=0.2, potential=(0.1, 0.5, -1, 2))
    assert h.hilbert.dimension == 256
    assert_same(dense(h), jordan_wigner(h))
    h = TV(chain(8, boundary="antiperiodic"), None, V=1.5, mu=0.3, twist=(0.4,))
    assert_same(dense(h), jordan_wigner(h))


# NetKet means its advice to use another class, also where the numbers are not fixed.
netket_advice = pytest.mark.filterwarnings("ignore:(?s).*Consider using .netket.experimental:UserWarning")


@netket_advice
@settings(max_examples=25)
@given(recipes(FermiHubbard, [lattice for lattice in LATTICES if lattice.n_sites <= 6]))
@example(lambda: FermiHubbard(square(2, 3), 2, 2, U=4.0, t2=0.3, V=0.5, potential=(1, 2, 3, 4, 5, 6), twist=(0.0, 0.5)))
@example(lambda: FermiHubbard(chain(5, boundary="antiperiodic"), 2, 3, U=4.0, t2=-0.3, mu=1.0, h=0.5, twist=(0.5,)))
def test_fermi_hubbard_equals_netket_operators(recipe: Callable[[], FermiHubbard]) -> None:
    h = recipe()
    space = nk.hilbert.SpinOrbitalFermions(h.lattice.n_sites, s=1 / 2)
    create, destroy, number = (getattr(nk.operator.fermion, name) for name in ("create", "destroy", "number"))
    # NetKet's first block, to which we map up, is sz = -1: a name only, as long as up stays up.
    spins, bonds, L = (-1, 1), h.lattice.bonds().tolist(), h.lattice.n_sites
    operator = nk.operator.FermionOperator2ndNumba(space, dtype=complex)
    for i, j, x in hop_terms(h):
        for s in spins:
            operator += x * create(space, j, s, dtype=complex) @ destroy(space, i, s, dtype=complex)
            operator += np.conj(x) * create(space, i, s, dtype=complex) @ destroy(space, j, s, dtype=complex)
    for i, energy in enumerate(np.zeros(L) if h.potential is None else h.potential):
        up, down = (number(space, i, s, dtype=complex) for s in spins)
        operator += h.U * up @ down + (energy - h.mu - h.h / 2) * up + (energy - h.mu + h.h / 2) * down
    for (i, j), s, r in itertools.product(bonds, spins, spins):
        operator += h.V * number(space, i, s, dtype=complex) @ number(space, j, r, dtype=complex)
    assert_same(dense(h), netket_matrix(h.hilbert, operator))


@netket_advice
@settings(max_examples=25)
@given(recipes(TV))
def test_tv_equals_netket_operators(recipe: Callable[[], TV]) -> None:
    h = recipe()
    space = nk.hilbert.SpinOrbitalFermions(h.lattice.n_sites)
    create, destroy, number = (getattr(nk.operator.fermion, name) for name in ("create", "destroy", "number"))
    operator = nk.operator.FermionOperator2ndNumba(space, dtype=complex)
    for i, j, x in hop_terms(h):
        operator += x * create(space, j, dtype=complex) @ destroy(space, i, dtype=complex)
        operator += np.conj(x) * create(space, i, dtype=complex) @ destroy(space, j, dtype=complex)
    for i in range(h.lattice.n_sites):
        energy = (h.potential[i] if h.potential else 0.0) - h.mu
        operator += energy * number(space, i, dtype=complex)
    for i, j in h.lattice.bonds().tolist():
        operator += h.V * number(space, i, dtype=complex) @ number(space, j, dtype=complex)
    assert_same(dense(h), netket_matrix(h.hilbert, operator))


def test_fermi_hubbard_equals_netket_on_its_own_graph() -> None:
    """Sites, bonds and signs at once, nothing of ours in between: the user's map between the packages."""
    h = FermiHubbard(triangular(3, 3), 2, 1, U=4.0, t=1.3)
    space = nk.hilbert.SpinOrbitalFermions(9, s=1 / 2, n_fermions_per_spin=(2, 1))
    operator = nk.operator.FermiHubbardJax(space, t=1.3, U=4.0, graph=nk.graph.Triangular([3, 3]))
    assert_same(dense(h), netket_matrix(h.hilbert, operator))


# ---- contract --------------------------------------------------------------------------------------


@every_family
@settings(max_examples=60)
@drawn
def test_connected_is_flat_without_zeros_or_duplicates_inside_the_sector(entry: Entry, data: st.DataObject) -> None:
    h = data.draw(recipes(entry.family))()
    n = h.hilbert.configurations()
    before = n.clone()
    diagonal, (k, elements, parents) = h.diagonal(n), h.connected(n)
    assert torch.equal(n, before)
    assert diagonal.dtype == torch.float64
    assert diagonal.shape == (len(n),)
    assert k.dtype == torch.uint8
    assert k.shape == (len(parents), h.hilbert.n_sites)
    assert elements.dtype in (torch.float64, torch.complex128)
    assert h.twist is not None or elements.dtype == torch.float64
    assert elements.shape == parents.shape
    assert (elements != 0).all()
    assert (k != n[parents]).any(1).all()
    assert h.hilbert.contains(k).all()
    for charge in h.hilbert.charges:  # also where it is free
        values = torch.tensor(charge.values)
        assert torch.equal(values[k.long()].sum(1), values[n[parents].long()].sum(1))
    listed = [(p, *row) for p, row in zip(parents.tolist(), k.tolist(), strict=True)]
    assert len(set(listed)) == len(listed)


@every_family
@settings(max_examples=30)
@drawn
def test_any_batch_gives_the_rows_of_the_matrix(entry: Entry, data: st.DataObject) -> None:
    """In any order, with repetitions, alone, or empty."""
    h = data.draw(recipes(entry.family))()
    index = data.draw(st.lists(st.integers(0, h.hilbert.dimension - 1), max_size=20))
    n = h.hilbert.configurations()[torch.tensor(index, dtype=torch.int64)]
    assert_same(rows(h, n), dense(h)[index])


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


@every_family
@settings(max_examples=30)
@drawn
def test_local_energy_of_an_eigenstate_has_no_variance(entry: Entry, data: st.DataObject) -> None:
    h = data.draw(recipes(entry.family))()
    matrix = dense(h)
    energies, states = np.linalg.eigh(matrix)
    which = data.draw(st.integers(0, len(energies) - 1))
    state = TableState(h.hilbert, states[:, which])
    support = torch.from_numpy(np.abs(states[:, which]) > 1e-6)  # where it is zero, the local energy is not defined
    n = h.hilbert.configurations()[support]
    log_modulus, phase = state.log_psi(n)
    weights = (2 * log_modulus).exp()
    samples = Samples(configurations=n, weights=weights / weights.sum(), log_modulus=log_modulus, phase=phase)
    deviation = (local_energies(h, state, samples).values - energies[which]).abs() * log_modulus.exp()
    assert deviation.max() < 1e-12 * max(1.0, np.abs(matrix).sum(1).max())


@every_family
@settings(max_examples=150)
@drawn
def test_stoquastic_exactly_where_no_off_diagonal_element_is_positive(entry: Entry, data: st.DataObject) -> None:
    """Never true where one is; false without need only for complex numbers and, in the t-J model, free charges."""
    h = data.draw(recipes(entry.family))()
    elements = h.connected(h.hilbert.configurations()).elements
    if elements.is_complex() or (entry.family is TJ and None in (h.n_up, h.n_down)):
        assert not h.is_stoquastic or bool((elements.imag == 0).all() if elements.is_complex() else True)
        assert not h.is_stoquastic or bool((elements.real <= 0).all())
    else:
        assert h.is_stoquastic == bool((elements <= 0).all())


@every_family
@settings(max_examples=30)
@drawn
def test_serialisation_through_json(entry: Entry, data: st.DataObject) -> None:
    h = data.draw(recipes(entry.family))()
    again = from_plain(json.loads(json.dumps(to_plain(h))), known_types())
    assert type(again) is type(h)
    assert again == h
    assert again.hilbert == h.hilbert
    assert str(again) == str(h)
    assert np.array_equal(dense(again), dense(h))


@every_family
def test_hamiltonians_are_values(entry: Entry) -> None:
    """Equal by content, hashable, frozen."""
    h = entry.plain()
    assert h == entry.plain()
    assert hash(h) == hash(entry.plain())
    with pytest.raises(AttributeError):
        h.t = 2.0


# ---- physics ---------------------------------------------------------------------------------------

OPEN_8 = chain(8, periodic=False)


@pytest.mark.parametrize(
    ("lattice", "filling", "U", "energy"),
    [
        (OPEN_8, 4, 4.0, -4.235806999129673),
        (OPEN_8, 4, 8.0, -2.4208314000375037),
        (square(2, 4), 4, 4.0, -5.954236681057315),  # one bond across the two sites
        (square(2, 4), 4, 8.0, -3.467173437213945),
        (square(3, 2, "open"), 3, 4.0, -3.6193213239575552),
        (square(3, 2, "open"), 3, 8.0, -2.177793552490422),
    ],
    ids=str,
)
def test_known_energies_at_half_filling(lattice: Lattice, filling: int, U: float, energy: float) -> None:
    found = exact.ground_state(FermiHubbard(lattice, filling, filling, U=U))
    assert found.energy == pytest.approx(energy, abs=1e-11)


def test_two_sites_by_hand() -> None:
    """One bond: E0 = U/2 - sqrt(U^2/4 + 4 t^2) for two electrons, E0 = -t for one; one site: its diagonal."""
    h = FermiHubbard(chain(2), 1, 1, U=4.0, t=0.7)
    assert np.linalg.eigvalsh(dense(h))[0] == pytest.approx(2.0 - math.sqrt(4.0 + 4 * 0.49))
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(TV(chain(2), 1, V=3.0, t=0.7))), [-0.7, 0.7])
    one = FermiHubbard(chain(1), None, None, U=4.0, mu=1.5, h=0.4, potential=(0.25,))
    assert one.diagonal(torch.arange(4, dtype=torch.uint8)[:, None]).tolist() == pytest.approx([0, -1.45, -1.05, 1.5])


@pytest.mark.parametrize("boundary", ["periodic", "antiperiodic", "open"])
@pytest.mark.parametrize("twist", [None, (0.9,), (-2.5,)])
@pytest.mark.parametrize(("n_sites", "n_up", "n_down"), [(5, 2, 1), (5, 3, 3), (6, 2, 2)])
def test_free_electrons_on_a_chain_fill_the_band(
    boundary: str, twist: tuple[float] | None, n_sites: int, n_up: int, n_down: int
) -> None:
    """-2 t cos k - 2 t2 cos 2k with k = (2 pi m + angle) / L; closed and open shells."""
    t, t2 = 0.8, 0.0 if boundary == "open" else -0.35
    angle = (twist[0] if twist else 0.0) + math.pi * (boundary == "antiperiodic")
    k = (2 * np.pi * np.arange(n_sites) + angle) / n_sites
    if boundary == "open":
        k = np.pi * np.arange(1, n_sites + 1) / (n_sites + 1)
    levels = np.sort(-2 * t * np.cos(k) - 2 * t2 * np.cos(2 * k))
    lattice = chain(n_sites, boundary=boundary)
    h = FermiHubbard(lattice, n_up, n_down, U=0.0, t=t, t2=t2, twist=twist)
    assert exact.ground_state(h).energy == pytest.approx(levels[:n_up].sum() + levels[:n_down].sum(), abs=1e-11)
    if not t2:
        spinless = TV(lattice, n_up, V=0.0, t=t, twist=twist)
        assert exact.ground_state(spinless).energy == pytest.approx(levels[:n_up].sum(), abs=1e-11)


@pytest.mark.parametrize("boundary", ["periodic", "antiperiodic", ["periodic", "antiperiodic"]])
@pytest.mark.parametrize("twist", [None, (0.9, -1.7)])
def test_free_electrons_on_a_square_lattice_fill_the_band(
    boundary: str | list[str], twist: tuple[float, float] | None
) -> None:
    """-2 t (cos kx + cos ky) - 4 t2 cos kx cos ky: the diagonals carry the twist of both directions."""
    lattice = square(3, 3, boundary)
    angles = np.array(twist or (0.0, 0.0)) + np.pi * np.array([word == "antiperiodic" for word in lattice.boundary])
    kx, ky = ((2 * np.pi * np.arange(3) + angle) / 3 for angle in angles)
    x, y = np.cos(kx)[:, None], np.cos(ky)
    levels = np.sort((-2 * (x + y) + 4 * 0.3 * x * y).ravel())
    h = FermiHubbard(lattice, 3, 2, U=0.0, t2=-0.3, twist=twist)
    assert exact.ground_state(h).energy == pytest.approx(levels[:3].sum() + levels[:2].sum(), abs=1e-10)


def test_a_twist_turns_the_hop_across_the_boundary() -> None:
    """The bond (2, 0) of a ring of three leaves by the far edge: <1 0 0|H|0 0 1> = -t e^(i angle)."""
    h = TV(chain(3), 1, V=0.0, t=0.7, twist=(0.4,))
    here, there = torch.tensor([[0, 0, 1], [1, 0, 0]], dtype=torch.uint8)
    rank = h.hilbert.rank(torch.stack([here, there]))
    assert dense(h)[rank[1], rank[0]] == pytest.approx(-0.7 * np.exp(0.4j))


def test_a_hop_passes_the_electrons_of_its_own_spin_only() -> None:
    """From site 3 to site 0 of a ring of four, over one up and two down electrons."""
    h = FermiHubbard(chain(4), 2, 3, U=0.0)
    n = torch.tensor([[2, 2, 3, 1]], dtype=torch.uint8)
    k, elements, _ = h.connected(n)
    found = dict(zip(map(tuple, k.tolist()), elements.tolist(), strict=True))
    assert found == {
        (3, 2, 3, 0): 1.0,  # up around the ring: one up electron between
        (2, 3, 2, 1): -1.0,  # up to a neighbour
        (0, 2, 3, 3): -1.0,  # down around the ring: two down electrons between
        (2, 2, 1, 3): -1.0,  # down to a neighbour
    }


@settings(max_examples=25)
@given(st.floats(-6.0, 6.0), st.integers(-3, 3))
def test_flux_enters_only_modulo_two_pi_and_pi_is_antiperiodic(flux: float, turns: int) -> None:
    def energies(boundary: str, angle: float) -> np.ndarray:
        lattice = chain(5, boundary=boundary)
        return np.linalg.eigvalsh(dense(FermiHubbard(lattice, 2, 1, U=3.0, t2=0.3, twist=(angle,))))

    reference = energies("periodic", flux)
    assert_same(energies("periodic", flux + 2 * math.pi * turns), reference)
    assert_same(energies("antiperiodic", flux + math.pi), reference)
    assert_same(energies("periodic", -flux), reference)  # time reversal


@pytest.mark.parametrize("n_particles", range(6))
def test_spinless_fermions_on_a_chain_are_hard_core_bosons(n_particles: int) -> None:
    """Element by element, on a ring if its boundary makes up for the others that a fermion passes."""
    for ends in ("open", "antiperiodic" if n_particles % 2 == 0 else "periodic"):
        bosons = BoseHubbard(chain(5, periodic=ends != "open"), n_particles, U=0.0, J=0.8, V=1.7, mu=0.3, n_max=1)
        fermions = TV(chain(5, boundary=ends), n_particles, V=1.7, t=0.8, mu=0.3)
        assert np.array_equal(dense(fermions), dense(bosons))


def test_half_filled_tj_is_the_heisenberg_model() -> None:
    """-2 J for the ring of four spins 1/2, less J/4 a bond; a single hole on two sites: -t and t."""
    assert np.linalg.eigvalsh(dense(TJ(chain(4), 2, 2, J=0.6)))[0] == pytest.approx(-3 * 0.6)
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(TJ(chain(2), 1, 0, J=0.6, t=0.9))), [-0.9, 0.9])


def test_tj_is_the_strong_repulsion_of_hubbard_at_half_filling() -> None:
    """E = -4 t^2 / U sum (1/4 - S.S) + O(t^4 / U^3)."""
    ring = chain(6)
    hubbard = exact.ground_state(FermiHubbard(ring, 3, 3, U=200.0)).energy
    assert exact.ground_state(TJ(ring, 3, 3, J=4 / 200.0)).energy == pytest.approx(hubbard, rel=1e-3)


def test_stoquastic_cases() -> None:
    open_chain, ring, antiperiodic = (chain(6, boundary=word) for word in ("open", "periodic", "antiperiodic"))
    assert all(FermiHubbard(open_chain, a, b, U=4.0).is_stoquastic for a in (None, 0, 1, 2, 6) for b in (None, 3, 4))
    assert FermiHubbard(open_chain, 3, 3, U=-4.0, V=1.0, mu=1.0, h=0.5, potential=(1.0,) * 6).is_stoquastic
    assert not FermiHubbard(open_chain, 3, 3, U=4.0, t=-1.0).is_stoquastic
    assert not FermiHubbard(open_chain, 3, 3, U=4.0, t2=0.1).is_stoquastic
    assert FermiHubbard(ring, 3, 3, U=4.0).is_stoquastic
    assert not FermiHubbard(ring, 3, 2, U=4.0).is_stoquastic
    assert not FermiHubbard(ring, None, 3, U=4.0).is_stoquastic
    assert FermiHubbard(antiperiodic, 2, 4, U=4.0).is_stoquastic
    assert not FermiHubbard(antiperiodic, 3, 3, U=4.0).is_stoquastic
    assert not FermiHubbard(ring, 3, 3, U=4.0, twist=(0.3,)).is_stoquastic
    assert FermiHubbard(open_chain, 3, 3, U=4.0, twist=(0.3,)).is_stoquastic  # no bond feels it
    assert not FermiHubbard(square(2, 3, "open"), 3, 3, U=4.0).is_stoquastic
    assert TV(ring, 3, V=1.0).is_stoquastic
    assert not TV(ring, 2, V=1.0).is_stoquastic
    assert TJ(open_chain, 2, 2, J=0.4).is_stoquastic
    assert not TJ(open_chain, 2, 2, J=-0.4).is_stoquastic


@pytest.mark.parametrize(
    "h",
    [TV(chain(4, periodic=False), 2, V=1.5), FermiHubbard(chain(3), 1, 1, U=4.0)],
    ids=["TV", "FermiHubbard"],
)
def test_a_positive_wavefunction_converges(h: TV | FermiHubbard) -> None:
    assert h.is_stoquastic
    model = Transformer(h.hilbert, width=8, heads=2, layers=1, phase="zero")
    vmc = VMC(h, model, ExhaustiveSampler(), evaluation=ExhaustiveSampler())
    result = vmc.run(60, exact=exact.ground_state(h), progress=False)
    assert abs(result.relative_error) < 1e-6
    assert result.estimate.variance < 1e-4


# ---- texts -----------------------------------------------------------------------------------------


def test_text_has_the_numbers() -> None:
    h = FermiHubbard(
        square(3, 3), 4, 3, U=4.25, t=1.5, t2=-0.625, V=0.75, mu=0.125, h=0.375, potential=(0.5,) * 9, twist=(0.1, 0.2)
    )
    for word in ("-1.5 sum", "+ 0.625", "+ 4.25", "+ 0.75", "- 0.125", "- 0.1875", "epsilon_i", "theta", "(0.1, 0.2)"):
        assert word in str(h)
    assert "square(3 x 3, periodic)" in str(h)
    assert "4 up and 3 down" in str(h)
    assert "any number of up and 2 down" in str(FermiHubbard(chain(3), None, 2, U=1.0))
    assert str(TV(chain(4), 2, V=-1.5)) == (
        "t-V, H = -1 sum_<ij> (c+_j c_i + h.c.) - 1.5 sum_<ij> n_i n_j, chain(4, periodic), 2 spinless fermions"
    )
    assert "S = sigma/2" in str(TJ(chain(4), 2, 1, J=0.25))


@every_family
@settings(max_examples=30)
@drawn
def test_text_has_no_double_signs(entry: Entry, data: st.DataObject) -> None:
    text = str(data.draw(recipes(entry.family))()).split(", twist")[0]
    assert not any(pair in text for pair in ("--", "+ -", "- -"))


def test_staggered_potential_by_hand() -> None:
    assert staggered_potential(chain(4), 0.5) == (0.5, -0.5, 0.5, -0.5)
    assert staggered_potential(square(2, 3, "open"), -1.0) == (-1.0, 1.0, -1.0, 1.0, -1.0, 1.0)
    h = FermiHubbard(chain(2), 1, 1, U=0.0, potential=staggered_potential(chain(2), 0.5))
    assert h.diagonal(torch.tensor([[3, 0], [1, 2], [0, 3]], dtype=torch.uint8)).tolist() == [1.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: FermiHubbard(chain(4), 5, 2, U=1.0), r"up electrons = 5 is impossible on 4 sites.* 0 to 4"),
        (lambda: FermiHubbard(chain(4), 2, -1, U=1.0), r"down electrons = -1 is impossible on 4 sites"),
        (lambda: TV(chain(4), 5, V=1.0), r"particles = 5 is impossible on 4 sites"),
        (lambda: TJ(chain(4), 3, 2, J=1.0), r"no configuration of 4 sites has up electrons = 3, down electrons = 2"),
        (lambda: FermiHubbard(chain(4), 2, 2, U=1.0, potential=(1.0,)), r"potential has 1 energies.*4 sites"),
        (lambda: TV(chain(4), 2, V=1.0, potential=(0.0,) * 5), r"potential has 5 energies.*4 sites"),
        (lambda: TJ(chain(4), 2, 1, J=1.0, potential=()), r"potential has 0 energies.*4 sites"),
        (lambda: FermiHubbard(square(3, 3), 2, 2, U=1.0, twist=(0.1,)), r"twist has 1 angles.*2 directions"),
        (lambda: TV(chain(4), 2, V=math.nan), r"V=nan.*finite"),
        (lambda: FermiHubbard(chain(4), 2, 2, U=1.0, h=math.inf), r"h=inf.*finite"),
        (lambda: TJ(chain(4), 2, 1, J=1.0, twist=(math.nan,)), r"twist=\(nan,\).*finite"),
        (lambda: TV(from_edges([(0, 1)]), 1, V=1.0, twist=(0.1,)), r"twist has 1 angles.*0 directions"),
        (lambda: FermiHubbard(chain(3), 1, 1, U=1.0, twist=(0.1, 0.2)), r"twist has 2 angles.*1 directions"),
        (lambda: TV(square(3, 2, ["open", "periodic"]), 1, V=1.0, twist=()), r"twist has 0 angles.*2 directions"),
        (lambda: FermiHubbard(chain(2), 1, 1, U=1.0, t2=0.3), r"hopping 0.3 between neighbours of order 2.*1 shells"),
        (lambda: FermiHubbard(kagome(1, 1), 1, 1, U=1.0, t2=1.0), r"order 2 does not exist"),
        (lambda: FermiHubbard(chain(4), 1, 1, U=1.0, t2=0.3, twist=(0.2,)), r"order 2: .*equally short paths"),
        (lambda: FermiHubbard(chain(4, boundary="antiperiodic"), 1, 1, U=1.0, t2=0.3), r"equally short paths"),
        (lambda: staggered_potential(chain(5), 1.0), r"not bipartite"),
        (lambda: FermiHubbard(chain(-4), 2, 2, U=1.0), r"size of the lattice is -4.*at least 1"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(build: Callable[[], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


def test_sector_and_interaction_are_never_guessed() -> None:
    with pytest.raises(TypeError, match=r"'n_up'"):
        FermiHubbard(chain(4), U=1.0)
    with pytest.raises(TypeError, match=r"'U'"):
        FermiHubbard(chain(4), 2, 2)
    with pytest.raises(TypeError, match=r"'n_particles'"):
        TV(chain(4), V=1.0)
