"""The second-order correction against dense matrices."""

from pathlib import Path

import numpy as np
import pytest
import torch

from nqs import exact
from nqs.estimators.second_order import second_order
from nqs.hamiltonians import Molecule

FILE = Path(__file__).parents[2] / "hamiltonians" / "data" / "h2o.fcidump.gz"


def test_second_order_against_the_dense_matrix() -> None:
    molecule = Molecule.from_fcidump(FILE)
    n, H = molecule.hilbert.configurations(), exact.sparse_matrix(molecule).toarray()
    random = np.random.default_rng(0)
    rows = random.choice(len(n), 30, replace=False)
    c = random.standard_normal(30)
    found = second_order(molecule, n[torch.from_numpy(rows)], torch.from_numpy(c) * torch.tensor(0.6 - 0.8j))
    c /= np.linalg.norm(c)
    energy = c @ H[np.ix_(rows, rows)] @ c
    others = np.setdiff1d(np.arange(len(n)), rows)
    coupling = H[np.ix_(others, rows)] @ c
    gap = np.minimum(energy - np.diag(H)[others], -1e-6 * abs(energy))
    assert found.energy == pytest.approx(energy, rel=1e-12)
    assert found.correction == pytest.approx((coupling**2 / gap).sum(), rel=1e-10)
    assert found.n_configurations == 30


def test_the_correction_brings_a_truncated_ground_state_closer() -> None:
    molecule = Molecule.from_fcidump(FILE)
    ground = exact.ground_state(molecule)
    largest = np.argsort(-np.abs(ground.state))[:40]
    n = molecule.hilbert.configurations()[torch.from_numpy(largest)]
    found = second_order(molecule, n, torch.from_numpy(ground.state[largest]))
    assert found.energy > ground.energy
    assert abs(found.energy + found.correction - ground.energy) < 0.2 * (found.energy - ground.energy)


def test_no_amplitudes_are_refused() -> None:
    molecule = Molecule.from_fcidump(FILE)
    with pytest.raises(ValueError, match="all 0"):
        second_order(molecule, molecule.hilbert.configurations()[:2], torch.zeros(2, dtype=torch.float64))
