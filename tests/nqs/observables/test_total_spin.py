"""Total spin and natural orbitals against matrices built from S+ and S-."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import exact
from nqs.hamiltonians import FermiHubbard, Molecule
from nqs.hilbert import bosons
from nqs.lattice import chain
from nqs.observables import (
    StateVector,
    exact_samples,
    natural_orbitals,
    one_body_density_matrix,
    total_spin_squared,
)
from nqs.samplers import TreeSampler

WATER = Path(__file__).parents[2] / "hamiltonians" / "data" / "h2o.fcidump.gz"


def matrix_of_s_squared(n_up: int, n_down: int, L: int) -> np.ndarray:
    """S- S+ + S^z (S^z + 1) on all states of the sector, from matrices of a+ and a on 2 L orbitals."""
    lower, sign, one = np.array([[0.0, 1.0], [0.0, 0.0]]), np.diag([1.0, -1.0]), np.eye(2)

    def annihilate(k: int) -> np.ndarray:
        found = np.eye(1)
        for orbital in range(2 * L):
            found = np.kron(found, sign if orbital < k else lower if orbital == k else one)
        return found

    a = [annihilate(k) for k in range(2 * L)]  # all up orbitals, then all down ones
    plus = sum(a[p].T @ a[L + p] for p in range(L))
    sz = sum((a[p].T @ a[p] - a[L + p].T @ a[L + p]) / 2 for p in range(L))
    n = FermiHubbard(chain(L, boundary="open"), n_up, n_down, U=1.0).hilbert.configurations().long()
    bits = torch.cat([n & 1, n >> 1], 1)
    places = (bits * 2 ** torch.arange(2 * L - 1, -1, -1)).sum(1).numpy()
    return (plus.T @ plus + sz @ sz + sz)[np.ix_(places, places)]


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1), (2, 2), (3, 1)])
def test_total_spin_of_any_state(numbers: tuple[int, int]) -> None:
    hubbard = FermiHubbard(chain(4, boundary="open"), *numbers, U=3.0)
    psi = np.random.default_rng(0).normal(size=hubbard.hilbert.dimension)
    psi /= np.linalg.norm(psi)
    expected = psi @ matrix_of_s_squared(*numbers, 4) @ psi
    found = total_spin_squared(exact_samples(hubbard.hilbert, psi), StateVector(hubbard.hilbert, psi))
    assert found.value.item() == pytest.approx(expected, abs=1e-12)


def test_total_spin_of_ground_states() -> None:
    for numbers, expected in (((2, 2), 0.0), ((2, 1), 0.75), ((3, 1), 2.0)):
        hubbard = FermiHubbard(chain(5, boundary="open"), *numbers, U=4.0)
        psi = exact.ground_state(hubbard).state
        found = total_spin_squared(exact_samples(hubbard.hilbert, psi), StateVector(hubbard.hilbert, psi))
        assert found.value.item() == pytest.approx(expected, abs=1e-9)


def test_total_spin_from_samples_within_its_error() -> None:
    hilbert = Molecule.from_fcidump(WATER).hilbert
    model = small_transformer(seed=3).build(hilbert)
    psi = torch.polar(
        *(
            x.detach()
            for x in (model.log_psi(hilbert.configurations())[0].exp(), model.log_psi(hilbert.configurations())[1])
        )
    ).numpy()
    every = total_spin_squared(exact_samples(hilbert, psi), StateVector(hilbert, psi)).value.item()
    samples = TreeSampler(n_samples=2000).build(model).sample(torch.Generator().manual_seed(0))
    value, error = (x.item() for x in total_spin_squared(samples, model))
    assert 0 < error < 0.2
    assert abs(value - every) < 5 * error


def test_natural_occupations_of_a_determinant_and_of_water() -> None:
    free = FermiHubbard(chain(5, boundary="open"), 2, 2, U=0.0)
    psi = exact.ground_state(free).state
    matrix = one_body_density_matrix(exact_samples(free.hilbert, psi), StateVector(free.hilbert, psi)).value
    occupations, orbitals = natural_orbitals(matrix)
    torch.testing.assert_close(occupations, torch.tensor([2.0, 2, 0, 0, 0], dtype=torch.float64), atol=1e-9, rtol=0)
    torch.testing.assert_close((orbitals * occupations) @ orbitals.mH, matrix, atol=1e-12, rtol=0)
    water = Molecule.from_fcidump(WATER)
    psi = exact.ground_state(water).state
    samples, state = exact_samples(water.hilbert, psi), StateVector(water.hilbert, psi)
    occupations = natural_orbitals(one_body_density_matrix(samples, state).value)[0]
    assert occupations.sum().item() == pytest.approx(10, abs=1e-9)
    assert occupations[4].item() > 1.9
    assert 0 < occupations[-1].item() < 0.05


def test_total_spin_needs_electrons() -> None:
    hilbert = bosons(2, 2)
    psi = np.ones(hilbert.dimension) / hilbert.dimension**0.5
    with pytest.raises(ValueError, match="the total spin needs electrons"):
        total_spin_squared(exact_samples(hilbert, psi), StateVector(hilbert, psi))
