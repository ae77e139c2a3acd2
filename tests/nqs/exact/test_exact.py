"""Exact diagonalisation against dense eigenvalues, NetKet's Lanczos and closed forms."""

import dataclasses
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import netket as nk
import numpy as np
import pytest
import torch

from nqs import exact
from nqs.exact import diagonalisation, lanczos, sector_matrix
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import chain, from_edges, square, triangular
from nqs.runtime import memory
from nqs.symmetry import symmetries_of, translations

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


# ---- symmetry sectors ------------------------------------------------------------------------------

SECTORS: dict[str, Any] = {
    "bosons": (BoseHubbard(chain(6), 6, U=4.0), {}),
    "spins": (Heisenberg(square(2, 4), total_sz=0), {}),
    "frustrated": (Heisenberg(chain(10), total_sz=0, J=(1.0, 0.6)), {}),
    "electrons": (FermiHubbard(chain(6), 2, 2, U=4.0), {"fermions": True}),
    "spinless": (TV(chain(8), 3, V=1.0), {"fermions": True}),
}
every_sector = pytest.mark.parametrize(("h", "options"), SECTORS.values(), ids=SECTORS)


@every_sector
def test_levels_of_all_real_characters_against_the_whole_space(h: Any, options: dict[str, Any]) -> None:
    """Each is a level of the whole matrix, its state an eigenstate; where the lowest level is single, one has it."""
    whole, H = exact.ground_state(h), exact.sparse_matrix(h)
    levels = np.linalg.eigvalsh(H.toarray())
    energies = []
    for sector in symmetries_of(h, **options).real_characters():
        if not sector.number_of_orbits(h.hilbert):
            continue
        found = exact.ground_state(h, symmetry=sector)
        assert found.dimension == sector.number_of_orbits(h.hilbert) < h.hilbert.dimension
        assert f"orbits of {sector.order} symmetries" in str(found)
        assert abs(levels - found.energy).min() < 1e-9
        state = found.full_state(h.hilbert)
        assert np.linalg.norm(state) == pytest.approx(1)
        assert np.linalg.norm(H @ state - found.energy * state) < 1e-8
        energies.append(found.energy)
    assert min(energies) >= whole.energy - 1e-9
    if whole.multiplicity == 1:
        assert min(energies) == pytest.approx(whole.energy, abs=1e-9)


@pytest.mark.parametrize("momentum", range(6))
def test_complex_characters_against_the_whole_space(momentum: int) -> None:
    """The spectra of all momenta together are that of the whole space."""
    h = BoseHubbard(chain(6), 4, U=3.0)
    sector = translations(h.lattice, h.hilbert, momentum=(momentum,))
    matrix = exact.SectorMatrix.of(h, sector)
    assert matrix.is_real == (momentum in (0, 3))
    levels = np.linalg.eigvalsh(matrix.to_scipy().toarray())
    n = h.hilbert.configurations()
    P = np.zeros((len(n), len(n)), dtype=complex)
    for g in range(6):
        element = torch.full((len(n),), g)
        c = np.exp(1j * sector.phases(n, element, h.hilbert).numpy())
        P[np.arange(len(n)), h.hilbert.rank(sector.image(n, element)).numpy()] += c.conj() / 6
    expected = np.linalg.eigvalsh(P @ exact.sparse_matrix(h).toarray() @ P + 1e3 * (np.eye(len(n)) - P))
    np.testing.assert_allclose(levels, expected[expected < 500], atol=1e-9)


def test_products_are_those_of_the_sparse_matrix() -> None:
    random = np.random.default_rng(3)
    for name in ("Lanczos", "Lanczos, flux"):
        matrix = exact.SectorMatrix.of(MODELS[name])
        x = random.standard_normal(len(matrix)) + 1j * random.standard_normal(len(matrix))
        for vector in (x, x.real.copy()):
            found = matrix.apply(torch.from_numpy(vector))
            np.testing.assert_allclose(found.numpy(), matrix.to_scipy() @ vector, atol=1e-12)


def test_a_symmetry_that_forbids_everything_is_refused() -> None:
    h = BoseHubbard(chain(2), 2, U=1.0, n_max=1)  # one configuration, which the swap leaves as it is
    odd = translations(h.lattice, h.hilbert, momentum=(1,))
    with pytest.raises(ValueError, match="forbids every configuration"):
        exact.ground_state(h, symmetry=odd)


# ---- degenerate levels, memory ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "multiplicity"), [(6, 5), (8, 14), (10, 42), (12, 132), (14, diagonalisation.MAX_COUNTED)]
)
def test_singlets_of_spins_that_are_all_coupled(n: int, multiplicity: int) -> None:
    """H = (S_total^2 - 3 n / 4) / 2: Catalan many singlets."""
    h = Heisenberg(from_edges(itertools.combinations(range(n), 2)), total_sz=0)
    found = exact.ground_state(h)
    assert found.energy == pytest.approx(-3 * n / 8, abs=1e-10)
    assert (found.gap, found.multiplicity) == (0.0, multiplicity)
    more = " or more" if n == 14 else ""
    assert (found.level is None) == (n == 14)
    if found.level is not None:
        H = exact.sparse_matrix(h)
        np.testing.assert_allclose(found.level.conj() @ found.level.T, np.eye(multiplicity), atol=1e-8)
        np.testing.assert_allclose(H @ found.level.T, found.energy * found.level.T, atol=1e-8)
    assert f"gap 0.000000 ({multiplicity}{more} degenerate states)" in str(found)
    assert "degenerate states" in found._repr_html_()


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_what_counts_as_degenerate_does_not_depend_on_the_unit(unit: float) -> None:
    found = exact.ground_state(BoseHubbard(chain(6), 5, U=4.0 * unit, J=unit))
    assert found.multiplicity == 1
    assert found.gap == pytest.approx(unit * exact.ground_state(BoseHubbard(chain(6), 5, U=4.0)).gap, rel=1e-6)


def test_a_matrix_that_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    h = BoseHubbard(chain(10), 10, U=4.0)
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    monkeypatch.setattr(HilbertSpace, "configurations", Untouchable.diagonal)
    for attempt in (exact.ground_state, exact.sparse_matrix):
        with pytest.raises(
            ValueError, match=r"92,378, with about 1\d elements.*needs 0\.\d+ GiB.* 0\.00 GiB are avail"
        ):
            attempt(h)


def test_orbits_that_do_not_fit_into_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    space = bosons(11, 10)
    monkeypatch.setattr(memory, "available_memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"orbits of 11 symmetries in a sector of dimension 184,756.* GiB are avail"):
        translations(chain(11), space).orbits(space)


@pytest.mark.skipif(sys.platform != "linux", reason="the size of a process is read from /proc")
def test_a_process_with_little_memory_is_refused_or_ends(tmp_path: Path) -> None:
    """Under ulimit -v a sector is refused in one line until it fits: never a MemoryError, nor a killed process."""
    program = tmp_path / "limited.py"
    program.write_text(
        """
import resource
import scipy.sparse.linalg
from nqs import exact
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain

h = BoseHubbard(chain(9), 9, U=4.0)
print(exact.ground_state(BoseHubbard(chain(5), 5, U=4.0)))
size = 1024 * int(open("/proc/self/status").read().split("VmSize:")[1].split()[0])
for megabytes in (40, 80, 120, 160, 200, 300, 400):
    resource.setrlimit(resource.RLIMIT_AS, (size + megabytes * 2**20, resource.RLIM_INFINITY))
    try:
        print("found", exact.ground_state(h))
        break
    except ValueError as error:
        print("refused", error)
"""
    )
    run = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, check=False, timeout=200,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    *refused, found = run.stdout.splitlines()[1:]
    assert refused
    assert all(line.startswith("refused the matrix of dimension 24,310, with about") for line in refused)
    assert found.startswith("found exact E = ")


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.complex64])
def test_double_precision_whatever_the_elements_are(dtype: torch.dtype) -> None:
    h = BoseHubbard(chain(5), 5, U=4.1)

    class Rounded:
        hilbert = h.hilbert
        diagonal = h.diagonal

        def connected(self, n: Any) -> Any:
            found = h.connected(n)
            return found._replace(elements=found.elements.round().to(dtype))

    rounded: Any = Rounded()
    matrix = exact.sparse_matrix(rounded)
    assert matrix.dtype == (np.complex128 if dtype.is_complex else np.float64)
    assert exact.ground_state(rounded).energy == pytest.approx(np.linalg.eigvalsh(matrix.toarray())[0], abs=1e-10)
    np.testing.assert_array_equal(matrix.diagonal(), h.diagonal(h.hilbert.configurations()).numpy())
