"""Every Hamiltonian against NetKet's operators, and the contract that the rest of the package relies on.

A new Hamiltonian joins with one line in CONTRACT: a strategy of recipes, and a function that builds the same operator
in NetKet (None where NetKet has none).
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

from nqs import exact
from nqs.hamiltonians import BoseHubbard, harmonic_trap
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import Lattice, chain, from_edges, honeycomb, kagome, square, triangular
from nqs.local_energy import local_energies
from nqs.protocols import Hamiltonian, LogPsi, Wavefunction
from nqs.samples import Samples
from nqs.serialise import from_plain, to_plain
from nqs.vmc import known_types

LARGEST = 300  # dimension of the sectors that are drawn: their matrices are dense

# ---- recipes ---------------------------------------------------------------------------------------

LATTICES = [
    *(chain(n, boundary=word) for n in range(1, 7) for word in ("periodic", "open", "antiperiodic")),
    square(2, 3),
    square(3, 3),
    square(3, 3, ["open", "antiperiodic"]),
    triangular(2, 2),
    triangular(3, 2, "open"),
    triangular(3, 3),
    honeycomb(1, 2),
    honeycomb(2, 2),
    kagome(1, 1),
    kagome(1, 2, "open"),
    from_edges([(2, 0), (1, 2), (3, 2), (0, 3)], n_sites=5),
]


@functools.cache
def boson_sectors(n_sites: int) -> list[dict[str, int | None]]:
    """Canonical and grand-canonical sectors with and without a cutoff, up to LARGEST configurations."""
    sectors = []
    for n_particles, n_max in itertools.product([None, *range(7)], [None, 1, 2, 3, 5]):
        if None not in (n_particles, n_max):
            possible = n_particles <= n_max * n_sites
        else:
            possible = n_particles != n_max  # not both None
        if possible and bosons(n_sites, n_particles, n_max).dimension <= LARGEST:
            sectors.append({"n_particles": n_particles, "n_max": n_max})
    return sectors


SECTORS = {lattice.n_sites: boson_sectors(lattice.n_sites) for lattice in LATTICES}
COUPLINGS = st.integers(-30, 30).map(lambda k: k / 10)


@st.composite
def bose_hubbard(draw: st.DrawFn) -> Callable[[], BoseHubbard]:
    """Any couplings, site potentials and hopping phases. The tests call the recipe: run-time type checkers use
    `random`, which hypothesis forbids in strategies."""
    lattice = draw(st.sampled_from(LATTICES))

    def optional(length: int) -> tuple[float, ...] | None:
        return draw(st.none() | st.lists(COUPLINGS, min_size=length, max_size=length).map(tuple))

    return functools.partial(
        BoseHubbard,
        lattice,
        **draw(st.sampled_from(SECTORS[lattice.n_sites])),
        **{name: draw(COUPLINGS) for name in ("U", "J", "V", "mu")},
        potential=optional(lattice.n_sites),
        phases=optional(len(lattice.bonds())),
    )


def bose_hubbard_in_netket(h: BoseHubbard) -> list[Any]:
    """nk.operator.BoseHubbard for the uniform terms, create and destroy operators where it has none."""
    create, destroy, number = (getattr(nk.operator.boson, name) for name in ("create", "destroy", "number"))
    fock = nk.hilbert.Fock(h.hilbert.local_dim - 1, h.lattice.n_sites, n_particles=h.n_particles)
    bonds = h.lattice.bonds().tolist()
    uniform = h.phases is None and "antiperiodic" not in h.lattice.boundary
    operators = [
        nk.operator.BoseHubbardNumba(
            fock, np.reshape(bonds, (-1, 2)).astype(int), U=h.U, V=h.V, J=h.J if uniform else 0.0, mu=h.mu
        )
    ]
    rest = nk.operator.LocalOperatorNumba(fock, dtype=complex)
    for site, energy in enumerate(h.potential or ()):
        rest += energy * number(fock, site, dtype=complex)
    if not uniform:
        angles = np.array(h.phases or np.zeros(len(bonds))) + np.pi * (h.lattice.signs().numpy() < 0)
        for (i, j), angle in zip(bonds, angles, strict=True):
            hop = np.exp(1j * angle) * create(fock, j, dtype=complex) @ destroy(fock, i, dtype=complex)
            rest += -h.J * (hop + hop.H)
    return [*operators, rest]


class Entry(NamedTuple):
    """A family under contract.

    Attributes:
        recipes: strategy of functions that build small members of the family.
        netket: operators of NetKet whose sum is the same Hamiltonian.
        plain: one member for the checks that need only one.
    """

    recipes: st.SearchStrategy[Callable[[], Any]]
    netket: Callable[[Any], list[Any]] | None
    plain: Callable[[], Any]


CONTRACT = {
    "BoseHubbard": Entry(bose_hubbard(), bose_hubbard_in_netket, lambda: BoseHubbard(chain(4), 3, U=2.5)),
}

every_family = pytest.mark.parametrize("family", CONTRACT.values(), ids=CONTRACT)
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


def netket_matrix(hilbert: HilbertSpace, operators: list[Any]) -> np.ndarray:
    """The sum of NetKet's operators in our basis: its rows <n|H|n'>, n' placed at our rank."""
    n = hilbert.configurations()
    matrix = np.zeros((len(n), len(n)), dtype=complex)
    for operator in operators:
        ends = np.zeros(len(n), dtype=np.intp)
        connected, elements = operator.get_conn_flattened(n.numpy().astype(np.int8), ends)
        parents = np.repeat(np.arange(len(n)), np.diff(ends, prepend=0))
        kept = elements != 0  # padding, and products that vanish
        k = torch.from_numpy(connected[kept].astype(np.uint8))
        assert hilbert.contains(k).all()
        np.add.at(matrix, (parents[kept], hilbert.rank(k).numpy()), elements[kept])
    return matrix


def assert_same(a: np.ndarray, b: np.ndarray) -> None:
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * max(1.0, np.abs(b).max()))


# ---- contract --------------------------------------------------------------------------------------


@every_family
@settings(max_examples=60)
@drawn
def test_matrix_is_hermitian_and_equals_netket(family: Entry, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    matrix = dense(h)
    assert_same(matrix, matrix.conj().T)
    assert_same(exact.sparse_matrix(h).toarray(), matrix)
    if family.netket is not None:
        assert_same(matrix, netket_matrix(h.hilbert, family.netket(h)))


@every_family
@settings(max_examples=60)
@drawn
def test_connected_is_flat_without_zeros_or_duplicates_inside_the_sector(family: Entry, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    n = h.hilbert.configurations()
    diagonal, (k, elements, parents) = h.diagonal(n), h.connected(n)
    assert diagonal.dtype == torch.float64
    assert diagonal.shape == (len(n),)
    assert k.dtype == torch.uint8
    assert k.shape == (len(parents), h.hilbert.n_sites)
    assert elements.dtype in (torch.float64, torch.complex128)
    assert elements.shape == parents.shape
    assert (elements != 0).all()
    assert (k != n[parents]).any(1).all()
    assert (k < h.hilbert.local_dim).all()
    for charge in h.hilbert.charges:
        if charge.target is not None:
            carried = torch.tensor(charge.values)[k.long()].sum(1) - charge.target
            assert ((carried % charge.modulus if charge.modulus else carried) == 0).all()
    listed = [(p, *row) for p, row in zip(parents.tolist(), k.tolist(), strict=True)]
    assert len(set(listed)) == len(listed)


@every_family
@settings(max_examples=60)
@drawn
def test_any_batch_gives_the_rows_of_the_matrix(family: Entry, data: st.DataObject) -> None:
    """In any order, with repetitions, alone, or empty; and the batch itself is left as it was."""
    h = data.draw(family.recipes)()
    index = data.draw(st.lists(st.integers(0, h.hilbert.dimension - 1), max_size=20))
    n = h.hilbert.configurations()[torch.tensor(index, dtype=torch.int64)]
    before = n.clone()
    assert_same(rows(h, n), dense(h)[index]) if index else rows(h, n)
    assert torch.equal(n, before)


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
@settings(max_examples=60)
@drawn
def test_local_energy_of_an_eigenstate_has_no_variance(family: Entry, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
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


@every_family
@settings(max_examples=80)
@drawn
def test_stoquastic_means_no_positive_off_diagonal_element(family: Entry, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    elements = h.connected(h.hilbert.configurations()).elements
    if h.is_stoquastic:
        assert elements.imag.abs().max() == 0 if elements.is_complex() else True
        assert (elements.real <= 0).all()


@every_family
@settings(max_examples=40)
@drawn
def test_serialisation_through_json(family: Entry, data: st.DataObject) -> None:
    h = data.draw(family.recipes)()
    again = from_plain(json.loads(json.dumps(to_plain(h))), known_types())
    assert type(again) is type(h)
    assert again == h
    assert again.hilbert == h.hilbert
    assert str(again) == str(h)
    assert np.array_equal(dense(again), dense(h))


@every_family
def test_hamiltonians_are_values(family: Entry) -> None:
    """Equal by content, hashable, frozen."""
    h = family.plain()
    assert h == family.plain()
    assert hash(h) == hash(family.plain())
    with pytest.raises(AttributeError):
        h.U = 1.0


# ---- Bose-Hubbard ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lattice", "graph"),
    [
        (chain(5), lambda: nk.graph.Chain(5)),
        (chain(4, periodic=False), lambda: nk.graph.Chain(4, pbc=False)),
        (square(3, 3), lambda: nk.graph.Square(3)),
        (square(2, 3, "open"), lambda: nk.graph.Grid([2, 3], pbc=False)),
        (triangular(3, 3), lambda: nk.graph.Triangular([3, 3])),
        (honeycomb(2, 2), lambda: nk.graph.Honeycomb([2, 2])),
        (kagome(2, 1, "open"), lambda: nk.graph.Kagome([2, 1], pbc=False)),
    ],
    ids=str,
)
def test_bose_hubbard_equals_netket_on_its_own_graphs(lattice: Lattice, graph: Callable[[], Any]) -> None:
    """Sites, bonds and signs at once, nothing of ours in between: the user's map between the packages."""
    h = BoseHubbard(lattice, 3, U=4.0, J=1.3, V=0.7, mu=0.4, n_max=2)
    fock = nk.hilbert.Fock(2, lattice.n_sites, n_particles=3)
    operator = nk.operator.BoseHubbardNumba(fock, graph(), U=4.0, J=1.3, V=0.7, mu=0.4)
    assert_same(dense(h), netket_matrix(h.hilbert, [operator]))


def test_netket_has_the_same_states_in_the_sector() -> None:
    h = BoseHubbard(chain(4), 3, U=3.0, n_max=2)
    fock = nk.hilbert.Fock(2, 4, n_particles=3)
    states = torch.from_numpy(np.asarray(fock.all_states()).astype(np.uint8))
    assert len(states) == h.hilbert.dimension
    assert sorted(h.hilbert.rank(states).tolist()) == list(range(len(states)))


def test_a_ring_of_two_sites_has_one_bond_and_of_one_none() -> None:
    """One boson on two sites: energies -J and J, not -2 J and 2 J."""
    np.testing.assert_allclose(np.linalg.eigvalsh(dense(BoseHubbard(chain(2), 1, U=1.0, J=0.5))), [-0.5, 0.5])
    assert dense(BoseHubbard(chain(1), 3, U=2.0, mu=0.5)) == pytest.approx(2.0 * 3 - 0.5 * 3)


@pytest.mark.parametrize("n_sites", [3, 4, 5, 6])
@pytest.mark.parametrize("boundary", ["periodic", "antiperiodic", "open"])
def test_one_boson_has_the_cosine_band(n_sites: int, boundary: str) -> None:
    energies = np.linalg.eigvalsh(dense(BoseHubbard(chain(n_sites, boundary=boundary), 1, U=7.0, J=0.8)))
    k = {
        "periodic": 2 * np.pi * np.arange(n_sites) / n_sites,
        "antiperiodic": 2 * np.pi * (np.arange(n_sites) + 0.5) / n_sites,
        "open": np.pi * np.arange(1, n_sites + 1) / (n_sites + 1),
    }[boundary]
    np.testing.assert_allclose(energies, np.sort(-2 * 0.8 * np.cos(k)), atol=1e-12)


def test_a_phase_turns_the_hop_along_its_bond() -> None:
    """<..n_i - 1, n_j + 1..|H|n> = -J e^(i theta) sqrt(n_i (n_j + 1)) for the bond (i, j) as the lattice lists it."""
    h = BoseHubbard(from_edges([(1, 0)]), 3, U=0.0, J=0.7, phases=(0.4,))
    n = torch.tensor([[1, 2]], dtype=torch.uint8)  # the bond leads from site 1 to site 0
    after = torch.tensor([[2, 1]], dtype=torch.uint8)
    element = dense(h)[h.hilbert.rank(after), h.hilbert.rank(n)].item()
    assert element == pytest.approx(-0.7 * np.exp(0.4j) * math.sqrt(2 * 2))


ANGLES = st.floats(-6.0, 6.0)


@settings(max_examples=25)
@given(ANGLES, st.integers(-3, 3), st.lists(ANGLES, min_size=4, max_size=4))
def test_flux_enters_only_modulo_two_pi_and_up_to_a_gauge(flux: float, turns: int, gauge: list[float]) -> None:
    ring = chain(4)
    i, j = ring.bonds().T
    chi = torch.tensor(gauge, dtype=torch.float64)

    def energies(phases: torch.Tensor) -> np.ndarray:
        return np.linalg.eigvalsh(dense(BoseHubbard(ring, 3, U=2.0, V=0.5, phases=tuple(phases.tolist()))))

    reference = energies(ring.twist_phases([flux]))
    assert_same(energies(ring.twist_phases([flux + 2 * math.pi * turns])), reference)
    assert_same(energies(torch.full((4,), flux / 4, dtype=torch.float64)), reference)  # spread over the ring
    assert_same(energies(ring.twist_phases([flux]) + chi[j] - chi[i]), reference)
    assert_same(energies(ring.twist_phases([-flux])), reference)  # time reversal


def test_flux_matters_and_pi_is_the_antiperiodic_boundary() -> None:
    def energies(lattice: Lattice, flux: float) -> np.ndarray:
        phases = tuple(lattice.twist_phases([flux]).tolist())
        return np.linalg.eigvalsh(dense(BoseHubbard(lattice, 3, U=2.0, phases=phases)))

    ring = chain(5)
    assert energies(ring, 1.0)[0] > energies(ring, 0.0)[0] + 0.01
    antiperiodic = BoseHubbard(chain(5, boundary="antiperiodic"), 3, U=2.0)
    assert_same(energies(ring, math.pi), np.linalg.eigvalsh(dense(antiperiodic)))
    assert_same(energies(ring, 0.7 + math.pi), energies(antiperiodic.lattice, 0.7))


def test_phases_may_come_straight_from_the_lattice() -> None:
    """As the docstring says: phases=lattice.twist_phases([0.3])."""
    ring = chain(4)
    h = BoseHubbard(ring, 2, U=1.0, phases=ring.twist_phases([0.3]))
    assert h == BoseHubbard(ring, 2, U=1.0, phases=(0.0, 0.0, 0.0, 0.3))
    assert h.phases == (0.0, 0.0, 0.0, 0.3)


# Ground-state energies of the periodic chain with L = N = 8, J = 1, no cutoff. Source: exact diagonalisation.
CHAIN_8 = {
    1.0: -13.11931637037791,
    2.0: -10.871999194116055,
    4.0: -7.45979062605314,
    8.0: -3.957243391933692,
    16.0: -1.992372798760071,
}


@pytest.mark.parametrize(("U", "energy"), CHAIN_8.items())
def test_known_energies_of_eight_bosons_on_eight_sites(U: float, energy: float) -> None:
    found = exact.ground_state(BoseHubbard(chain(8), 8, U=U))
    assert found.dimension == 6435
    assert found.energy == pytest.approx(energy, rel=1e-10)


def test_stoquastic_cases() -> None:
    assert BoseHubbard(chain(4), 2, U=1.0).is_stoquastic
    assert BoseHubbard(chain(4), 2, U=-1.0, V=1.0, mu=2.0, potential=(1.0, 0.0, 0.0, 0.0)).is_stoquastic
    assert not BoseHubbard(chain(4), 2, U=1.0, J=-1.0).is_stoquastic
    assert not BoseHubbard(chain(4), 2, U=1.0, phases=(0.0, 0.0, 0.0, 0.3)).is_stoquastic
    assert not BoseHubbard(chain(4, boundary="antiperiodic"), 2, U=1.0).is_stoquastic


def test_text_has_the_numbers() -> None:
    h = BoseHubbard(square(2, 3, "open"), 4, U=4.25, J=1.5, V=0.75, mu=0.125, n_max=3)
    for word in ("1.5", "4.25", "0.75", "0.125", "square(2 x 3, open)", "4 bosons", "at most 3"):
        assert word in str(h)
    assert "grand-canonical" in str(BoseHubbard(chain(3), U=1.0, n_max=2))


@settings(max_examples=30)
@given(bose_hubbard())
@example(lambda: BoseHubbard(chain(3), 2, U=-1.0, J=-1.5, mu=-0.5))
def test_text_has_no_double_signs(recipe: Callable[[], BoseHubbard]) -> None:
    h = recipe()
    text = str(h)
    assert "--" not in text
    assert f"{abs(h.J):g}" in text
    assert f"{abs(h.U):g}" in text


def test_harmonic_trap_by_hand() -> None:
    assert harmonic_trap(chain(5), 0.5) == pytest.approx((2.0, 0.5, 0.0, 0.5, 2.0))
    assert harmonic_trap(chain(4, periodic=False), 2.0) == pytest.approx((4.5, 0.5, 0.5, 4.5))
    assert harmonic_trap(square(2, 3), 1.0) == pytest.approx((1.25, 0.25, 1.25, 1.25, 0.25, 1.25))
    h = BoseHubbard(chain(3), 2, U=3.0, potential=harmonic_trap(chain(3), 0.5))
    n = torch.tensor([[2, 0, 0], [0, 2, 0], [1, 0, 1]], dtype=torch.uint8)
    assert h.diagonal(n).tolist() == pytest.approx([3.0 + 1.0, 3.0, 1.0])


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: BoseHubbard(chain(4), 2, U=1.0, potential=(1.0, 2.0)), ValueError, r"potential has 2 values.*4 sites"),
        (lambda: BoseHubbard(chain(4), 2, U=1.0, phases=(0.1,) * 3), ValueError, r"phases has 3 values.*4 bonds"),
        (lambda: BoseHubbard(chain(2), 2, U=1.0, phases=(0.1, 0.2)), ValueError, r"phases has 2 values.*1 bonds"),
        (lambda: BoseHubbard(chain(4), -1, U=1.0), ValueError, r"n_particles=-1.*0 or more"),
        (lambda: BoseHubbard(chain(4), 2, U=1.0, n_max=0), ValueError, r"n_max=0.*n_max >= 1"),
        (lambda: BoseHubbard(chain(4), 2, U=1.0, n_max=-3), ValueError, r"n_max=-3"),
        (lambda: BoseHubbard(chain(-4), 2, U=1.0), ValueError, r"size of the lattice is -4.*at least 1"),
        (lambda: BoseHubbard(chain(0), 2, U=1.0), ValueError, r"size of the lattice is 0"),
        (
            lambda: BoseHubbard(chain(4), 13, U=1.0, n_max=3),
            ValueError,
            r"n_max=3 on 4 sites holds at most 12 bosons, but n_particles=13: raise n_max to at least 4",
        ),
        (lambda: BoseHubbard(chain(4), U=1.0), ValueError, r"without a fixed n_particles need a cutoff.*n_max"),
        (lambda: BoseHubbard(chain(4), 300, U=1.0), ValueError, r"301 local states.*n_max <= 255"),
        (lambda: BoseHubbard(chain(4), 2), TypeError, r"'U'"),
    ],
)
def test_errors_say_what_was_found_and_what_is_allowed(
    build: Callable[[], BoseHubbard], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        build()
