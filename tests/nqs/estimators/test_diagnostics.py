"""Diagnostics of samples against enumeration; in archives, nqs show and the page."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from chains import metropolis
from networks import small_transformer
from torch import Tensor

from nqs import VMC
from nqs.archive import Archive
from nqs.cli.commands.show import plain_data, text
from nqs.estimators.diagnostics import diagnostics
from nqs.hamiltonians import Heisenberg
from nqs.hilbert import HilbertSpace, bosons, spins
from nqs.lattice import chain
from nqs.models import OnOrbits, Transformer
from nqs.protocols import LogPsi, Wavefunction
from nqs.report.compare import compared
from nqs.report.page import html_report
from nqs.samplers import ExhaustiveSampler, MetropolisSampler, TreeSampler
from nqs.samples import Samples
from nqs.symmetry import translations


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def model(hilbert: HilbertSpace, scale: float = 8.0) -> Transformer:
    found = small_transformer(seed=2).build(hilbert)
    with torch.no_grad():
        found.head.weight.mul_(scale)
    return found


def test_numbers_of_a_sum_over_the_sector() -> None:
    psi = model(bosons(4, 4))
    samples = ExhaustiveSampler().build(psi).sample(seeded(0))
    found, p = diagnostics(samples, psi), samples.weights.numpy()
    assert found["space"] == found["distinct"] == 1
    assert found["weight"] == pytest.approx(1)
    assert found["entropy"] == pytest.approx(-(p * np.log(p)).sum())
    assert found["perplexity"] == pytest.approx(math.exp(found["entropy"]))
    assert found["renyi_efficiency"] == pytest.approx(-math.log((p**2).sum()) / math.log(35))
    assert found["total_variation"] == pytest.approx(0, abs=1e-12)
    assert "effective" not in found


def test_numbers_of_samples() -> None:
    psi = model(bosons(4, 4))
    p = (2 * psi.log_psi(psi.hilbert.configurations()).log_modulus).exp().detach().numpy()
    samples = TreeSampler(n_samples=200).build(psi).sample(seeded(0))
    found, w = diagnostics(samples, psi), np.zeros(35)
    w[psi.hilbert.rank(samples.configurations)] = samples.weights
    assert found["distinct"] == samples.n_distinct / 200
    assert found["effective"] == 1
    assert found["space"] == samples.n_distinct / 35
    assert found["weight"] == pytest.approx(p[w > 0].sum())
    assert found["total_variation"] == pytest.approx(abs(w - p).sum() / 2)
    assert "total_variation" not in diagnostics(samples, psi, limit=34)


def test_the_expected_variation_is_that_of_independent_samples() -> None:
    psi, found = model(bosons(4, 4), 3.0), []
    for seed in range(40):
        samples = TreeSampler(n_samples=500).build(psi).sample(seeded(seed))
        found.append(diagnostics(samples, psi))
    mean = np.mean([one["total_variation"] for one in found])
    assert mean == pytest.approx(found[0]["expected_variation"], rel=0.1)


def test_symmetric_states_count_configurations_of_the_space_and_orbits() -> None:
    hamiltonian = Heisenberg(chain(6), total_sz=0)
    symmetry = translations(hamiltonian.lattice, hamiltonian.hilbert)
    psi = OnOrbits(base=small_transformer(), symmetry=symmetry).build(hamiltonian.hilbert)
    samples = ExhaustiveSampler().build(psi).sample(seeded(0))
    found, p = diagnostics(samples, psi), samples.weights.numpy()
    assert found["space"] == 1
    assert found["weight"] == pytest.approx(1)
    assert found["entropy"] == pytest.approx(-(p * np.log(p)).sum())
    assert found["total_variation"] == pytest.approx(0, abs=1e-12)


class Unnormalised(Wavefunction):
    has_phase = False
    normalised = False

    def __init__(self, hilbert: HilbertSpace) -> None:
        super().__init__()
        self.hilbert = hilbert

    def log_psi(self, n: Tensor) -> LogPsi:
        return LogPsi(300 + 0.1 * n.double().cumsum(1).sum(1), torch.zeros(len(n), dtype=torch.float64))

    @property
    def bytes_per_configuration(self) -> int:
        return 8


def test_states_that_are_not_normalised_and_chains() -> None:
    psi = Unnormalised(spins(6))
    every = diagnostics(ExhaustiveSampler().build(psi).sample(seeded(0)), psi)
    samples: Samples = metropolis(n_samples=20_000, n_chains=100).build(psi).sample(seeded(0))
    found = diagnostics(samples, psi)
    assert "weight" not in found
    assert found["entropy"] == pytest.approx(every["entropy"], abs=0.02)
    assert found["effective"] == samples.n_effective / 20_000
    assert 0 < found["acceptance"] < 1
    assert found["r_hat"] == pytest.approx(1, abs=0.05)
    assert found["total_variation"] < 2 * found["expected_variation"]


@pytest.mark.parametrize("sampler", [TreeSampler(n_samples=100), metropolis(n_samples=100, n_chains=50)], ids=repr)
def test_diagnostics_are_kept_and_shown(sampler: object, tmp_path: Path) -> None:
    hamiltonian = Heisenberg(chain(6), total_sz=0)
    VMC(hamiltonian, model(hamiltonian.hilbert), sampler, evaluation=sampler).run(
        steps=2, progress=False, archive=tmp_path / "run.h5"
    )
    archive = Archive.open(tmp_path / "run.h5")
    assert {"distinct", "effective", "space", "weight", "entropy", "total_variation"} <= set(archive.diagnostics)
    shown, page = text(archive), html_report([archive], compared([archive], 0))
    for words in ("of the samples", "Rényi efficiency", "total variation distance"):
        assert words in shown
        assert words in page
    assert plain_data(archive)["diagnostics"]["space"] == archive.diagnostics["space"]
    if isinstance(sampler, MetropolisSampler):
        assert "R-hat" in shown
        assert "acceptance" in page
