"""Bose-Hubbard models: NetKet's own graphs, closed forms, fluxes, traps, texts and errors.

The contract of `test_hamiltonians.py` runs on them too.
"""

import math
from collections.abc import Callable
from typing import Any

import netket as nk
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nqs import exact
from nqs.hamiltonians import BoseHubbard, harmonic_trap
from nqs.lattice import Lattice, chain, from_edges, honeycomb, kagome, square, triangular

from matrices import assert_same, dense, netket_matrix

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
    ids=lambda value: str(value) if isinstance(value, Lattice) else "",
)
def test_bose_hubbard_equals_netket_on_its_own_graphs(lattice: Lattice, graph: Callable[[], Any]) -> None:
    """Sites, bonds and signs at once, nothing of ours in between: the user's map between the packages."""
    h = BoseHubbard(lattice, 3, U=4.0, J=1.3, V=0.7, mu=0.4, n_max=2)
    fock = nk.hilbert.Fock(2, lattice.n_sites, n_particles=3)
    operator = nk.operator.BoseHubbardNumba(fock, graph(), U=4.0, J=1.3, V=0.7, mu=0.4)
    assert_same(dense(h), netket_matrix(h.hilbert, operator))


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
        (
            lambda: BoseHubbard(chain(4), 2, U=1.0, potential=(1.0, 2.0)),
            ValueError,
            r"potential has 2 numbers.*4 sites",
        ),
        (lambda: BoseHubbard(chain(4), 2, U=1.0, phases=(0.1,) * 3), ValueError, r"phases has 3 numbers.*4 bonds"),
        (lambda: BoseHubbard(chain(2), 2, U=1.0, phases=(0.1, 0.2)), ValueError, r"phases has 2 numbers.*1 bonds"),
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
