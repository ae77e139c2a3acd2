"""Semistochastic local energies: unbiased, with the noise that they say, the same in any order and in any chunks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import small_transformer

import nqs
from nqs.estimators.energy import estimate_energy
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import Molecule
from nqs.models import Transformer
from nqs.samplers import TreeSampler
from nqs.samples import Samples

FILE = Path(__file__).parents[2] / "hamiltonians" / "data" / "h2o.fcidump.gz"
SEEDS = 80


@pytest.fixture(scope="module")
def drawn() -> tuple[Molecule, Transformer, Samples]:
    """A third of the sector of water, from a random state."""
    molecule = Molecule.from_fcidump(FILE)
    psi = small_transformer(phase="learned", seed=3).build(molecule.hilbert)
    samples = TreeSampler(n_distinct=40).build(psi).sample(torch.Generator().manual_seed(0))
    return molecule, psi, samples


def test_unbiased_with_the_noise_that_is_stated(drawn: tuple[Molecule, Transformer, Samples]) -> None:
    molecule, psi, samples = drawn
    exact = local_energies(molecule, psi, samples)
    few = replace(molecule, sampled_elements=5)
    found = [local_energies(few, psi, samples, seed=seed) for seed in range(SEEDS)]
    values = torch.stack([local.values for local in found])
    noise = torch.stack([local.noise for local in found if local.noise is not None])
    assert found[0].n_connected < 0.6 * exact.n_connected
    scatter = values.var(0)  # complex: of the real and the imaginary part together
    deviation = (values.mean(0) - exact.values).abs().square()
    some = scatter > 0
    assert some.sum() > samples.n_distinct / 2
    assert (deviation[some] / (scatter[some] / SEEDS)).max() < 20
    assert 0.5 < (deviation[some] / (scatter[some] / SEEDS)).mean() < 2
    torch.testing.assert_close(noise.mean(0).sum(), scatter.sum(), rtol=0.1, atol=0.0)
    torch.testing.assert_close(values[:, ~some], exact.values[~some].expand(SEEDS, -1), rtol=1e-10, atol=1e-10)


def test_error_bars_contain_the_noise(drawn: tuple[Molecule, Transformer, Samples]) -> None:
    """Samples without sampling noise: their error bar is that of the elements."""
    molecule, psi, _ = drawn
    samples = nqs.samplers.ExhaustiveSampler().build(psi).sample(torch.Generator().manual_seed(0))
    few = replace(molecule, sampled_elements=5)
    some = replace(
        samples,
        configurations=samples.configurations[::3],
        weights=samples.weights[::3] / samples.weights[::3].sum(),
        log_modulus=samples.log_modulus[::3],
        phase=samples.phase[::3],
        inclusion_probability=torch.ones(len(samples.weights[::3]), dtype=torch.float64),
    )
    exact = estimate_energy(some, local_energies(molecule, psi, some).values, energy_infinity=0.0)
    z = []
    for seed in range(SEEDS):
        local = local_energies(few, psi, some, seed=seed)
        found = estimate_energy(some, local.values, energy_infinity=0.0, noise=local.noise)
        z.append((found.energy - exact.energy) / found.error)
    assert torch.tensor(z).square().mean().sqrt() == pytest.approx(1.0, abs=0.2)


def test_order_and_chunks_change_nothing(
    drawn: tuple[Molecule, Transformer, Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nqs.estimators import local_energy

    molecule, psi, samples = drawn
    few = replace(molecule, sampled_elements=5)
    whole = local_energies(few, psi, samples)
    monkeypatch.setattr(local_energy, "CPU_BYTES", 1)
    chunked = local_energies(few, psi, samples)
    torch.testing.assert_close(chunked.values, whole.values, rtol=1e-10, atol=1e-10)
    assert chunked.n_connected == whole.n_connected


def test_all_elements_are_drawn_where_there_are_few(drawn: tuple[Molecule, Transformer, Samples]) -> None:
    molecule, psi, samples = drawn
    exact = local_energies(molecule, psi, samples)
    every = local_energies(replace(molecule, sampled_elements=10**9), psi, samples)
    torch.testing.assert_close(every.values, exact.values, rtol=1e-10, atol=1e-10)
    assert every.noise is not None
    assert not every.noise.any()


def test_a_run_quotes_an_energy_within_its_error_bar(tmp_path: Path) -> None:
    """Steps and evaluation from samples of elements, against the exact expectation value of the final state."""
    molecule = Molecule.from_fcidump(FILE, sampled_elements=20)
    found = nqs.ground_state(
        molecule, sampled=True, steps=5, device="cpu", archive=tmp_path / "h2o.h5", progress=False, threads=1
    )
    # The sum over the sector of 441 determinants (133 of the parities) has no noise of any kind.
    exact = nqs.expect(Molecule.from_fcidump(FILE), tmp_path / "h2o.h5", nqs.samplers.ExhaustiveSampler())
    assert abs(found.estimate.energy - float(exact.value.real)) < 5 * max(found.estimate.error, 1e-9)


def test_refused() -> None:
    with pytest.raises(ValueError, match="sampled_elements=0"):
        Molecule.from_fcidump(FILE, sampled_elements=0)
