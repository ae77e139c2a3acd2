"""Expectation values against sums over the enumerated sector."""

import numpy as np
import pytest
import torch

from nqs import exact
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import HilbertSpace, bosons, fermions, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.observables import local_state_probabilities
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.samples import Samples

SPACES = {
    "bosons": bosons(4, 3),
    "bosons with a cutoff": bosons(3, None, 2),
    "fermions": fermions(4, 2),
    "electrons": spinful_fermions(3, 2, 1),
    "spins 1": spins(3, 0, spin=1),
    "one site": bosons(1, 2),
}
every_space = pytest.mark.parametrize("hilbert", SPACES.values(), ids=SPACES)


def transformer(hilbert: HilbertSpace) -> Transformer:
    model = Transformer(hilbert, width=4, layers=1, heads=1, seed=2)
    with torch.no_grad():
        model.head.weight *= 20  # far from the uniform state
    return model


def weighted(n: torch.Tensor, weights: torch.Tensor) -> Samples:
    return Samples(configurations=n, weights=weights, log_modulus=weights.log() / 2, phase=torch.zeros_like(weights))


@every_space
def test_probabilities_are_sums_over_the_sector(hilbert: HilbertSpace) -> None:
    samples = ExhaustiveSampler().sample(transformer(hilbert), torch.Generator())
    found = local_state_probabilities(samples, hilbert)
    n, p = hilbert.configurations().numpy(), samples.weights.numpy()
    expected = [[p[n[:, site] == k].sum() for k in range(hilbert.local_dim)] for site in range(hilbert.n_sites)]
    assert found.shape == (hilbert.n_sites, hilbert.local_dim)
    np.testing.assert_allclose(found, expected, atol=1e-15)
    torch.testing.assert_close(found.sum(1), torch.ones(hilbert.n_sites, dtype=torch.float64))


@every_space
def test_charges_of_the_sector_follow_from_them(hilbert: HilbertSpace) -> None:
    samples = TreeSampler(n_samples=50).sample(transformer(hilbert), torch.Generator().manual_seed(1))
    probabilities = local_state_probabilities(samples, hilbert)
    for charge in hilbert.charges:
        if charge.target is not None:
            mean = (probabilities @ torch.tensor(charge.values, dtype=torch.float64)).sum()
            assert mean.item() == pytest.approx(charge.target)


def test_uniform_state_has_closed_form_probabilities() -> None:
    hilbert = bosons(2, 3)
    samples = weighted(hilbert.configurations(), torch.full((4,), 0.25, dtype=torch.float64))
    assert local_state_probabilities(samples, hilbert).tolist() == [[0.25] * 4] * 2


def test_single_configuration_gives_certainty() -> None:
    samples = weighted(torch.tensor([[0, 2, 1]], dtype=torch.uint8), torch.ones(1, dtype=torch.float64))
    expected = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert local_state_probabilities(samples, bosons(3, 3)).tolist() == expected


@pytest.mark.parametrize("sampler", [TreeSampler(n_samples=20_000), GumbelSampler(n_distinct=18)], ids=repr)
def test_samples_estimate_the_exhaustive_values(sampler: TreeSampler | GumbelSampler) -> None:
    hilbert = SPACES["bosons"]
    model = transformer(hilbert)
    expected = local_state_probabilities(ExhaustiveSampler().sample(model, torch.Generator()), hilbert)
    found = local_state_probabilities(sampler.sample(model, torch.Generator().manual_seed(3)), hilbert)
    assert (found - expected).abs().max() < 5 * (0.25 / 20_000) ** 0.5  # five standard errors of the worst case


def test_exact_state_has_the_potential_energy_of_its_occupations() -> None:
    """d E_0 / d epsilon_i = <n_i> (Hellmann and Feynman)."""
    epsilon, step = np.array([0.3, -0.2, 0.0, 0.5]), 1e-4

    def hamiltonian(shift: float) -> BoseHubbard:
        return BoseHubbard(chain(4), 3, U=2.0, potential=tuple(epsilon + shift * np.eye(4)[1]))

    state = exact.ground_state(hamiltonian(0.0)).state
    hilbert = hamiltonian(0.0).hilbert
    samples = weighted(hilbert.configurations(), torch.from_numpy(np.abs(state) ** 2))
    occupation = local_state_probabilities(samples, hilbert)[1] @ torch.arange(4, dtype=torch.float64)
    up, down = (exact.ground_state(hamiltonian(sign * step)).energy for sign in (1, -1))
    assert occupation.item() == pytest.approx((up - down) / (2 * step), abs=1e-6)
