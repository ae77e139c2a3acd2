"""Exact diagonalisation against dense eigenvalues, NetKet's Lanczos and closed forms."""

import dataclasses
import math
from typing import Any

import netket as nk
import numpy as np
import pytest
import torch

from nqs import exact
from nqs.exact import diagonalisation, lanczos, sector_matrix
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import chain, from_edges, square, triangular

RING = chain(6)
MODELS = {
    "one configuration": BoseHubbard(chain(3), 6, U=2.0, n_max=2),
    "no boson": BoseHubbard(chain(3), 0, U=2.0),
    "one site": BoseHubbard(chain(1), 4, U=2.0),
    "two configurations": BoseHubbard(chain(2), 1, U=2.0),
    "dense": BoseHubbard(chain(4), 3, U=4.0),
    "dense, flux": BoseHubbard(chain(4), 3, U=4.0, phases=(0.3, -0.2, 0.9, 0.1)),
    "dense, the largest": BoseHubbard(chain(6), U=1.0, mu=0.3, n_max=1),  # 64 configurations
    "Lanczos, the smallest": BoseHubbard(from_edges([(0, 1)], n_sites=2), 64, U=0.1, V=0.05),  # 65 configurations
    "Lanczos": BoseHubbard(RING, 4, U=3.0, V=0.4, potential=(0.3, 0.0, -0.2, 0.0, 0.1, 0.0)),
    "Lanczos, flux": BoseHubbard(RING, 4, U=3.0, phases=(0.35,) * 6),
    "Lanczos, grand-canonical": BoseHubbard(square(2, 3), U=5.0, mu=1.0, n_max=2),
    "Lanczos, no hopping": BoseHubbard(RING, 5, U=5.0, J=0.0, potential=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
    "Lanczos, frustrated": BoseHubbard(triangular(3, 2, "open"), 4, U=6.0, J=-1.0),
}
every_model = pytest.mark.parametrize("h", MODELS.values(), ids=MODELS)


def residual(h: BoseHubbard, found: exact.ExactGroundState) -> float:
    return float(np.linalg.norm(exact.sparse_matrix(h) @ found.state - found.energy * found.state))


@every_model
def test_ground_state_against_dense_eigenvalues(h: BoseHubbard) -> None:
    matrix = exact.sparse_matrix(h).toarray()
    energies = np.linalg.eigvalsh(matrix)
    found = exact.ground_state(h)
    scale = max(1.0, np.abs(matrix).max())
    assert found.dimension == len(matrix) == h.hilbert.dimension
    assert found.energy == pytest.approx(energies[0], abs=1e-11 * scale)
    if len(energies) > 1:
        assert found.gap == pytest.approx(energies[1] - energies[0], abs=1e-11 * scale)
    else:
        assert math.isnan(found.gap)
    assert found.state.shape == (len(matrix),)
    assert np.linalg.norm(found.state) == pytest.approx(1.0, abs=1e-12)
    assert residual(h, found) < 1e-9 * scale
    assert np.iscomplexobj(found.state) == (h.phases is not None)
    assert found.method == ("dense" if len(matrix) <= diagonalisation.DENSE_DIMENSION else "Lanczos")
    assert found.seconds >= 0


@every_model
def test_sparse_matrix_holds_each_element_once(h: BoseHubbard) -> None:
    matrix = exact.sparse_matrix(h)
    n = h.hilbert.configurations()
    assert matrix.shape == (len(n), len(n))
    assert matrix.dtype == (np.complex128 if h.phases is not None else np.float64)
    np.testing.assert_allclose(matrix.diagonal(), h.diagonal(n).numpy(), rtol=1e-14)
    assert matrix.nnz <= len(n) + len(h.connected(n).parents)


def test_sparse_matrix_does_not_depend_on_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    h = MODELS["Lanczos, flux"]
    whole = exact.sparse_matrix(h)
    monkeypatch.setattr(sector_matrix, "ROWS", 37)
    assert (exact.sparse_matrix(h) != whole).nnz == 0


def test_ground_state_is_that_of_netket_lanczos() -> None:
    h = BoseHubbard(chain(5), 5, U=4.0, J=1.2, V=0.3, n_max=3)
    fock = nk.hilbert.Fock(3, 5, n_particles=5)
    theirs = nk.exact.lanczos_ed(nk.operator.BoseHubbard(fock, nk.graph.Chain(5), U=4.0, J=1.2, V=0.3), k=2)
    found = exact.ground_state(h)
    assert found.energy == pytest.approx(theirs[0], abs=1e-10)
    assert found.gap == pytest.approx(theirs[1] - theirs[0], abs=1e-10)


@pytest.mark.parametrize("n_sites", [5, 80])  # dense and Lanczos
@pytest.mark.parametrize("flux", [0.0, 0.4, 2.5, -7.0])
def test_one_boson_on_a_ring_with_flux(n_sites: int, flux: float) -> None:
    """E_k = -2 J cos((2 pi k + flux) / L)."""
    ring = chain(n_sites)
    found = exact.ground_state(BoseHubbard(ring, 1, U=0.0, J=1.5, phases=tuple(ring.twist_phases([flux]).tolist())))
    band = np.sort(-3 * np.cos((2 * np.pi * np.arange(n_sites) + flux) / n_sites))
    assert found.energy == pytest.approx(band[0], abs=1e-11)
    assert found.gap == pytest.approx(band[1] - band[0], abs=1e-10)


@pytest.mark.parametrize("n_sites", [4, 9, 70, 101])
def test_degenerate_ground_state_has_no_gap(n_sites: int) -> None:
    """Half a flux quantum: momenta pi / L and -pi / L have equal energies."""
    h = BoseHubbard(chain(n_sites, boundary="antiperiodic"), 1, U=0.0)
    found = exact.ground_state(h)
    assert found.energy == pytest.approx(-2 * math.cos(math.pi / n_sites), abs=1e-11)
    assert found.gap == pytest.approx(0.0, abs=1e-11)
    assert found.gap >= 0.0
    assert residual(h, found) < 1e-9


@pytest.mark.parametrize(
    ("n_particles", "gap"), [(2, 0.0), (5, 0.0), (6, 3.0)], ids=["dense", "Lanczos", "Lanczos, one per site"]
)
def test_atoms_without_hopping(n_particles: int, gap: float) -> None:
    """J = 0: energies by hand. Lanczos meets a singular matrix of few distinct eigenvalues, the lowest one 0."""
    h = BoseHubbard(chain(6), n_particles, U=3.0, J=0.0)
    found = exact.ground_state(h)
    assert found.energy == pytest.approx(0.0, abs=1e-11)
    assert found.gap == pytest.approx(gap, abs=1e-11)
    assert residual(h, found) < 1e-9


@pytest.mark.parametrize("n_particles", [2, 5])
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_a_constant_hamiltonian(n_particles: int, mu: float) -> None:
    """H = -mu N alone: every state is a ground state."""
    h = BoseHubbard(chain(6), n_particles, U=0.0, J=0.0, mu=mu)
    found = exact.ground_state(h)
    assert found.energy == pytest.approx(-mu * n_particles, abs=1e-11)
    assert found.gap == pytest.approx(0.0, abs=1e-11)
    assert np.linalg.norm(found.state) == pytest.approx(1.0)
    assert residual(h, found) < 1e-9


@dataclasses.dataclass(frozen=True)
class Untouchable:
    """A Hamiltonian of which only the Hilbert space may be asked."""

    hilbert: HilbertSpace

    def diagonal(self, n: Any) -> Any:
        raise AssertionError("something was built before the dimension was checked")

    connected = diagonal


@pytest.mark.parametrize("search", [exact.ground_state, exact.sparse_matrix])
def test_refuses_large_sectors_before_building_anything(search: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hilbert = bosons(16, 16)
    assert hilbert.dimension == math.comb(31, 15)
    monkeypatch.setattr(HilbertSpace, "configurations", Untouchable.diagonal)
    with pytest.raises(ValueError, match=r"dimension 300,540,195 is over the limit max_dimension=5,000,000.*smaller"):
        search(Untouchable(hilbert))
    with pytest.raises(ValueError, match=r"dimension 10 is over the limit max_dimension=9:"):
        search(Untouchable(bosons(3, 3)), max_dimension=9)
    with pytest.raises(ValueError, match="limit max_dimension=5,000,000"):
        search(BoseHubbard(chain(100), 100, U=1.0))  # 4.5e58 configurations


def test_the_limit_itself_is_allowed() -> None:
    assert exact.ground_state(BoseHubbard(chain(3), 3, U=1.0), max_dimension=10).dimension == 10


@pytest.mark.parametrize("name", ["dense, flux", "Lanczos", "Lanczos, flux"])
def test_reproducible_to_the_bit(name: str) -> None:
    first = exact.ground_state(MODELS[name])
    np.random.seed(3)  # noqa: NPY002 - the global state that ARPACK's default start vector would come from
    torch.manual_seed(3)
    second = exact.ground_state(MODELS[name])
    assert (first.energy, first.gap) == (second.energy, second.gap)
    assert np.array_equal(first.state, second.state)


def test_stoquastic_ground_states_have_one_sign() -> None:
    """Perron and Frobenius: with negative off-diagonal elements on a connected lattice no amplitude changes sign."""
    state = exact.ground_state(MODELS["Lanczos"]).state
    assert MODELS["Lanczos"].is_stoquastic
    assert (state * np.sign(state[0]) > 0).all()


def test_text() -> None:
    text = str(exact.ground_state(MODELS["Lanczos"]))
    assert text.startswith("exact E = -")
    assert "dimension 126 (Lanczos)" in text


@pytest.mark.parametrize("dtype", [float, complex])
@pytest.mark.parametrize("degenerate", [False, True])
def test_lanczos_against_dense_diagonalisation(dtype: type, degenerate: bool) -> None:
    random = np.random.default_rng(1)
    basis = np.linalg.qr(random.standard_normal((300, 300)) + 1j * random.standard_normal((300, 300)))[0]
    if dtype is float:
        basis = np.linalg.qr(basis.real)[0]
    levels = np.sort(random.uniform(-5, 20, 300))
    levels[1] = levels[0] if degenerate else levels[0] + 0.1
    matrix = (basis * levels) @ basis.conj().T
    energy, state = lanczos.lanczos(matrix.__matmul__, random.standard_normal(300).astype(matrix.dtype), 1e-11)
    assert energy == pytest.approx(levels[0], abs=1e-12)
    assert np.linalg.norm(matrix @ state - energy * state) < 1e-9
    assert np.linalg.norm(state) == pytest.approx(1)


def test_lanczos_ends_in_an_invariant_subspace() -> None:
    matrix = np.diag(np.arange(10.0))
    energy, state = lanczos.lanczos(matrix.__matmul__, np.eye(10)[3] + np.eye(10)[7], 1e-12)
    assert energy == pytest.approx(3.0)
    np.testing.assert_allclose(np.abs(state), np.eye(10)[3], atol=1e-12)


def test_lanczos_without_convergence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanczos, "MAX_LANCZOS", 10)
    matrix = np.diag(np.linspace(0, 1, 200))
    with pytest.raises(RuntimeError, match=r"did not converge in 10 products.*Hermitian"):
        lanczos.lanczos(matrix.__matmul__, np.ones(200), 1e-12)


def test_keys_of_several_words_are_ranked_another_way() -> None:
    """More sites than one integer key holds: a single particle on an open chain of 70 sites, E = -2 cos(pi / 71)."""
    h = BoseHubbard(chain(70, boundary="open"), 1, U=0.0)
    assert h.hilbert.keys(h.hilbert.configurations(0, 1)).shape[1] > 1
    assert exact.ground_state(h).energy == pytest.approx(-2 * np.cos(np.pi / 71), abs=1e-12)
