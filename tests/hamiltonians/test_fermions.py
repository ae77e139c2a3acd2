"""Fermionic families against dense Jordan-Wigner matrices and closed forms; texts and errors.

The contract of `test_hamiltonians.py` runs on them too. The dense matrices are Kronecker products of Pauli matrices
over all orbitals: they share nothing with the signs from cumulative parities but the order of the orbitals.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import netket as nk
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import small_transformer
from scipy import sparse

from nqs import VMC, exact
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, staggered_potential
from nqs.lattice import Lattice, chain, from_edges, kagome, square, triangular
from nqs.samplers import ExhaustiveSampler

from families import TINY, each, fermions, hop_terms
from matrices import assert_same, dense, netket_matrix

FAMILIES = (FermiHubbard, TV, TJ)
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
drawn = given(data=st.data())

# ---- dense matrices --------------------------------------------------------------------------------


@functools.cache
def annihilators(n_orbitals: int) -> list[sparse.csr_array]:
    """c_k = Z x .. x Z x [[0, 1], [0, 0]] x 1 x .. x 1, orbital 0 the leftmost factor."""
    z, lower, one = np.diag([1.0, -1.0]), np.array([[0.0, 1.0], [0.0, 0.0]]), np.eye(2)
    return [
        functools.reduce(sparse.kron, [z] * k + [lower] + [one] * (n_orbitals - k - 1), sparse.eye_array(1)).tocsr()
        for k in range(n_orbitals)
    ]


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
        mu, U, field = (each(getattr(h, name, 0.0), L)[i] for name in ("mu", "U", "h"))
        matrix -= mu * n[i]
        if isinstance(h, FermiHubbard):
            matrix += U * number[i] @ number[L + i] - field * (number[i] - number[L + i]) / 2
    bonds = h.lattice.bonds().tolist()
    for (i, j), x in zip(bonds, each(h.J if isinstance(h, TJ) else h.V, len(bonds)), strict=True):
        if isinstance(h, TJ):
            plus = [create[k] @ c[L + k] for k in range(L)]
            sz = [(number[k] - number[L + k]) / 2 for k in range(L)]
            flip = plus[i] @ plus[j].T
            matrix += x * ((flip + flip.T) / 2 + sz[i] @ sz[j] - n[i] @ n[j] / 4)
        else:
            matrix += x * n[i] @ n[j]
    configurations = h.hilbert.configurations().long()
    bits = configurations if spins == 1 else torch.cat([configurations & 1, configurations >> 1], dim=1)
    index = (bits * 2 ** torch.arange(spins * L).flip(0)).sum(1).numpy()
    return matrix[index][:, index].toarray()


# ---- against other packages and dense matrices -----------------------------------------------------


@every_family
@settings(max_examples=25)
@drawn
def test_matrix_equals_dense_jordan_wigner(family: Any, data: st.DataObject) -> None:
    h = data.draw(fermions(family, TINY))()
    assert_same(dense(h), jordan_wigner(h))


def test_matrix_of_eight_orbitals_in_the_grand_canonical_space() -> None:
    h = FermiHubbard(square(2, 2), None, None, U=4.0, t=0.9, t2=-0.3, V=0.5, mu=0.7, h=0.2, potential=(0.1, 0.5, -1, 2))
    assert h.hilbert.dimension == 256
    assert_same(dense(h), jordan_wigner(h))
    h = TV(chain(8, boundary="antiperiodic"), None, V=1.5, mu=0.3, twist=(0.4,))
    assert_same(dense(h), jordan_wigner(h))


def test_fermi_hubbard_equals_netket_on_its_own_graph() -> None:
    """Sites, bonds and signs at once, nothing of ours in between: the user's map between the packages."""
    h = FermiHubbard(triangular(3, 3), 2, 1, U=4.0, t=1.3)
    space = nk.hilbert.SpinOrbitalFermions(9, s=1 / 2, n_fermions_per_spin=(1, 2))  # down first
    operator = nk.operator.FermiHubbardJax(space, t=1.3, U=4.0, graph=nk.graph.Triangular([3, 3]))
    assert_same(dense(h), netket_matrix(h.hilbert, operator))


# ---- signs -----------------------------------------------------------------------------------------


@every_family
@settings(max_examples=80)
@drawn
def test_stoquastic_exactly_where_no_off_diagonal_element_is_positive(family: Any, data: st.DataObject) -> None:
    """Never true where one is; false without need only for complex numbers and, in the t-J model, free charges."""
    h = data.draw(fermions(family))()
    elements = h.connected(h.hilbert.configurations()).elements
    assert h.twist is not None or not elements.is_complex()
    if elements.is_complex() or (family is TJ and None in (h.n_up, h.n_down)):
        assert not h.is_stoquastic or bool((elements.imag == 0).all() if elements.is_complex() else True)
        assert not h.is_stoquastic or bool((elements.real <= 0).all())
    else:
        assert h.is_stoquastic == bool((elements <= 0).all())


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
        spinless = TV(chain(5, boundary=ends), n_particles, V=1.7, t=0.8, mu=0.3)
        assert np.array_equal(dense(spinless), dense(bosons))


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
    model = small_transformer(phase="zero").build(h.hilbert)
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
        (lambda: FermiHubbard(chain(4), 2, 2, U=1.0, potential=(1.0,)), r"potential has 1 numbers.*4 sites"),
        (lambda: TV(chain(4), 2, V=1.0, potential=(0.0,) * 5), r"potential has 5 numbers.*4 sites"),
        (lambda: TJ(chain(4), 2, 1, J=1.0, potential=()), r"potential has 0 numbers.*4 sites"),
        (lambda: FermiHubbard(square(3, 3), 2, 2, U=1.0, twist=(0.1,)), r"twist has 1 numbers.*2 directions"),
        (lambda: TV(chain(4), 2, V=math.nan), r"V=nan.*finite"),
        (lambda: FermiHubbard(chain(4), 2, 2, U=1.0, h=math.inf), r"h=inf.*finite"),
        (lambda: TJ(chain(4), 2, 1, J=1.0, twist=(math.nan,)), r"twist\[0\]=nan.*finite"),
        (lambda: TV(from_edges([(0, 1)]), 1, V=1.0, twist=(0.1,)), r"twist has 1 numbers.*0 directions"),
        (lambda: FermiHubbard(chain(3), 1, 1, U=1.0, twist=(0.1, 0.2)), r"twist has 2 numbers.*1 directions"),
        (lambda: TV(square(3, 2, ["open", "periodic"]), 1, V=1.0, twist=()), r"twist has 0 numbers.*2 directions"),
        (lambda: FermiHubbard(chain(2), 1, 1, U=1.0, t2=0.3), r"hopping between neighbours of order 2.*1 shells"),
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
