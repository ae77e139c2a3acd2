"""The sector of a ground state from mean-field determinants and reference phases, against dense projectors."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from nqs.exact import lowest_sector, projected_energies, weight_in_sector
from nqs.exact import projection as sectors
from nqs.hamiltonians import TV, FermiHubbard, Heisenberg
from nqs.hilbert import spins
from nqs.lattice import chain, square
from nqs.models import (
    MarshallSign,
    ProjectedDeterminant,
    SlaterDeterminant,
    hartree_fock,
    sector_of,
)
from nqs.protocols import Hamiltonian
from nqs.symmetry import Symmetry, spin_flip, symmetries_of, translations

from matrices import dense

pytestmark = pytest.mark.usefixtures("unchecked")

CASES: dict[str, Any] = {
    "ring of electrons": FermiHubbard(chain(4), 2, 1, U=4.0),
    "half-filled ring": FermiHubbard(chain(4), 2, 2, U=4.0),
    "ladder": FermiHubbard(square(2, 3), 2, 2, U=8.0),
    "spinless": TV(chain(6), 3, V=2.0),
    "spinless, degenerate": TV(chain(6), 2, V=1.0),
}
every_case = pytest.mark.parametrize("h", CASES.values(), ids=CASES)


def vector(h: Hamiltonian, determinant: SlaterDeterminant) -> np.ndarray:
    """The determinant on the whole space, amplitudes from minors."""
    n = h.hilbert.configurations().numpy()
    psi = np.ones(len(n), dtype=complex)
    for real, imaginary, occupied in (
        (determinant.up, determinant.up_imaginary, n % 2 == 1),
        (determinant.down, determinant.down_imaginary, n >= 2),
    ):
        if real is not None:
            orbitals = np.array(real) + (0j if imaginary is None else 1j * np.array(imaginary))
            psi *= [np.linalg.det(orbitals[row]) for row in occupied]
    return psi


def projector(h: Hamiltonian, sector: Symmetry) -> np.ndarray:
    """P with (P psi)(n) = 1/G sum_g c_g(n)* psi(g n)."""
    n = h.hilbert.configurations()
    P = np.zeros((len(n),) * 2, dtype=complex)
    for g in range(sector.order):
        element = torch.full((len(n),), g)
        c = np.exp(1j * sector.phases(n, element, h.hilbert).numpy())
        P[np.arange(len(n)), h.hilbert.rank(sector.image(n, element)).numpy()] += c.conj() / sector.order
    np.testing.assert_allclose(P @ P, P, atol=1e-10)
    return P


def levels(h: Hamiltonian, sector: Symmetry) -> np.ndarray:
    P = projector(h, sector)
    energies = np.linalg.eigvalsh(P @ dense(h) @ P + 1e3 * (np.eye(len(P)) - P))
    return energies[energies < 500]


@every_case
def test_projected_energies_against_dense_projectors(h: Any) -> None:
    group, H = symmetries_of(h, fermions=True), dense(h)
    solutions = hartree_fock(h).solutions
    for determinant, found in zip(solutions, projected_energies(h, group, solutions).numpy(), strict=True):
        D = vector(h, determinant)
        total = 0.0
        for k, sector in enumerate(group.real_characters()):
            psi = projector(h, sector) @ D
            weight = np.vdot(psi, psi).real
            if weight < 1e-10:
                assert np.isinf(found[:, k]).all()
                continue
            total += weight
            assert found[0, k] == pytest.approx(np.vdot(psi, H @ psi).real / weight, abs=1e-9)
            basis = np.linalg.qr(np.stack([psi, H @ psi], 1))[0]
            if np.linalg.matrix_rank(np.stack([psi, H @ psi], 1), tol=1e-7) == 2:
                assert found[1, k] == pytest.approx(np.linalg.eigvalsh(basis.conj().T @ H @ basis)[0], abs=1e-9)
            else:
                assert found[1, k] == pytest.approx(found[0, k], abs=1e-9)
            assert levels(h, sector)[0] - 1e-9 <= found[1, k] <= found[0, k] + 1e-9
        assert total <= 1 + 1e-9  # the rest is in representations of higher dimension


def test_an_eigenstate_is_improved_by_nothing() -> None:
    """Free fermions: the next Lanczos vector is rounding."""
    h = TV(chain(5), 3, V=0.0)
    group = translations(chain(5), h.hilbert, fermions=True)
    energies = projected_energies(h, group, [hartree_fock(h).determinant])
    np.testing.assert_allclose(energies, np.linalg.eigvalsh(dense(h))[0], atol=1e-10)


@pytest.mark.parametrize(
    ("h", "order"),
    [
        (FermiHubbard(square(2, 3), 2, 2, U=8.0), 24),
        (FermiHubbard(square(2, 4), 2, 2, U=2.0), 32),  # two sectors have equal projected energies
        (FermiHubbard(square(2, 4), 2, 2, U=8.0), 32),
        (FermiHubbard(chain(6), 2, 2, U=4.0), 24),
        (FermiHubbard(chain(6), 2, 2, U=8.0), 24),  # the lowest determinant has nothing in the right sector
        (FermiHubbard(chain(6), 3, 3, U=4.0), 24),
        (FermiHubbard(chain(4), 2, 2, U=4.0), 16),
        # Degenerate: the ground state of two momenta is in a real sector of a subgroup.
        (FermiHubbard(chain(4), 2, 1, U=4.0), 4),
        (FermiHubbard(square(2, 3), 3, 2, U=4.0), 1),
        (TV(chain(8), 4, V=1.0), 8),
        (TV(chain(8), 2, V=1.0), 4),
        (TV(chain(6), 2, V=1.0), 1),
        (TV(square(3, 3), 3, V=1.0), 36),
    ],
    ids=str,
)
def test_lowest_sector_holds_a_ground_state(h: Any, order: int) -> None:
    determinant, sector, energy = lowest_sector(h, symmetries_of(h, fermions=True), hartree_fock(h).solutions)
    assert sector.order == order
    ground = np.linalg.eigvalsh(dense(h))[0]
    assert levels(h, sector)[0] == pytest.approx(ground, abs=1e-8)
    psi = projector(h, sector) @ vector(h, determinant)
    assert np.vdot(psi, dense(h) @ psi).real / np.vdot(psi, psi).real == pytest.approx(energy, abs=1e-8)
    assert ground - 1e-9 <= energy


@pytest.mark.parametrize("h", [FermiHubbard(chain(6), 2, 2, U=8.0), TV(chain(5), 2, V=1.0)], ids=str)
def test_weight_in_a_sector(h: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a ground state all of it in one sector; of any state that of a dense projection, in all sectors together 1."""
    monkeypatch.setattr(sectors, "ROWS", h.hilbert.dimension // 4 - 1)  # the last chunk is shorter
    group = symmetries_of(h, fermions=True)
    ground = np.linalg.eigh(dense(h))[1][:, 0]
    weights = [weight_in_sector(s, h.hilbert, ground) for s in group.real_characters()]
    if h.lattice.n_sites == 6:  # not degenerate
        np.testing.assert_allclose(sorted(weights)[-2:], [0.0, 1.0], atol=1e-12)
    state = np.random.default_rng(0).standard_normal((2, h.hilbert.dimension)).T @ [1, 1j]
    state /= np.linalg.norm(state)
    for sector in group.real_characters():
        wanted = np.linalg.norm(projector(h, sector) @ state) ** 2
        assert weight_in_sector(sector, h.hilbert, state) == pytest.approx(wanted, abs=1e-12)


def test_one_determinant_may_not_be_enough() -> None:
    """The reason why all mean-field solutions compete."""
    h = FermiHubbard(chain(6), 2, 2, U=8.0)
    found = hartree_fock(h)
    group = symmetries_of(h, fermions=True)
    _, alone, _ = lowest_sector(h, group, found.solutions[:1])
    ground = np.linalg.eigvalsh(dense(h))[0]
    assert levels(h, alone)[0] > ground + 0.3
    assert found.solutions[0] == found.determinant
    energies = [np.vdot(v, dense(h) @ v).real for v in (vector(h, d) for d in found.solutions)]
    assert len(energies) > 1
    np.testing.assert_allclose(energies[0], found.energy, atol=1e-9)
    assert (np.diff(energies) > 1e-8).all()


@every_case
def test_phases_of_a_projection(h: Any) -> None:
    determinant, group = hartree_fock(h).determinant, symmetries_of(h, fermions=True)
    n = h.hilbert.configurations()
    sectors = [*group.real_characters()]
    sectors += [translations(h.lattice, h.hilbert, momentum=(1,) * len(h.lattice.shape), fermions=True)]
    seen = 0
    for sector in sectors:
        psi = projector(h, sector) @ vector(h, determinant)
        phase = ProjectedDeterminant(determinant=determinant, symmetry=sector, hilbert=h.hilbert).phase(n).numpy()
        large = np.abs(psi) > 1e-8
        np.testing.assert_allclose(np.exp(1j * phase[large]), psi[large] / np.abs(psi[large]), atol=1e-6)
        assert not phase[np.abs(psi) < 1e-12].any()
        seen += large.sum()
    assert seen


def test_phases_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    h = CASES["ladder"]
    determinant, sector, _ = lowest_sector(h, symmetries_of(h, fermions=True), hartree_fock(h).solutions)
    projected = ProjectedDeterminant(determinant=determinant, symmetry=sector, hilbert=h.hilbert)
    n = h.hilbert.configurations()
    whole = projected.phase(n)
    monkeypatch.setattr("nqs.runtime.memory.CPU_BYTES", 1)
    assert projected.phase(n).equal(whole)
    assert projected.phase(n[:0]).shape == (0,)


# ---- reference phases that obey the symmetry ----------------------------------------------------------------------


def test_sector_of_the_marshall_sign() -> None:
    """A translation by one site exchanges the sublattices: (-1)^(number of up spins), 3 of 6."""
    h = Heisenberg(chain(6), 0.0)
    sector = sector_of(MarshallSign(sublattice=(0, 1) * 3), symmetries_of(h), h.hilbert)
    assert sector.order == 24
    for permutation, local, angle in zip(sector.permutations, sector.maps, sector.angles, strict=True):
        swaps = permutation[0] % 2 == 1  # odd translations, and reflections about bonds
        flips = local == (1, 0)  # 3 of the 3 spins of a sublattice change
        assert angle == 0.5 * ((swaps + flips) % 2)
    assert levels(h, sector)[0] == pytest.approx(np.linalg.eigvalsh(dense(h))[0])


@pytest.mark.parametrize("total_sz", [0.0, 1.0])
@pytest.mark.parametrize("L", [4, 6])
def test_marshall_sector_holds_the_ground_state(L: int, total_sz: float) -> None:
    h = Heisenberg(chain(L), total_sz)
    group = symmetries_of(h)
    sector = sector_of(MarshallSign(sublattice=(0, 1) * (L // 2)), group, h.hilbert)
    assert sector.order == group.order
    assert levels(h, sector)[0] == pytest.approx(np.linalg.eigvalsh(dense(h))[0])


def test_elements_that_change_a_reference_otherwise_are_dropped() -> None:
    """Signs of two sites only: what maps the pair onto itself is left."""
    hilbert = spins(6, 0)
    group = translations(chain(6), hilbert) @ spin_flip(hilbert)
    sector = sector_of(MarshallSign(sublattice=(1, 0, 0, 1, 0, 0)), group, hilbert)
    assert sorted(set(sector.permutations)) == [(0, 1, 2, 3, 4, 5), (3, 4, 5, 0, 1, 2)]
    assert sector.order == 4
    assert not any(sector.angles)


def test_momentum_of_a_complex_reference() -> None:
    """One particle in a plane wave of momentum 2 pi 2 / 5, as a determinant of one orbital."""
    h = TV(chain(5), 1, V=0.0)
    x = np.arange(5)
    wave = SlaterDeterminant.from_orbitals(np.exp(2j * math.pi * 2 * x / 5)[:, None])
    group = translations(chain(5), h.hilbert, fermions=True)
    expected = translations(chain(5), h.hilbert, momentum=(2,), fermions=True)
    found = sector_of(wave, group, h.hilbert)
    assert found.order == 5
    assert found.angles == pytest.approx(expected.angles, abs=1e-9)


def test_spaces_too_large_to_sum_over_are_refused() -> None:
    h = FermiHubbard(chain(14), 7, 7, U=4.0)
    group = translations(chain(14), h.hilbert, fermions=True)
    with pytest.raises(ValueError, match=r"over 4,000,000 configurations at most; the sector has 11,778,624: name the"):
        lowest_sector(h, group, [SlaterDeterminant(up=((1.0,),))])
