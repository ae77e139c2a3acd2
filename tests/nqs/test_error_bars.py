"""Error bars of peaked states, against sums over the whole sector."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import exact
from nqs.error_bars import ErrorWeights, error_bar, student
from nqs.estimators.energy import energy_with_unseen
from nqs.estimators.unseen import with_unseen
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.lattice import chain
from nqs.models import OnOrbits, Symmetrised
from nqs.observables import (
    condensate_fraction,
    densities,
    expectation,
    momentum_distribution,
    one_body_density_matrix,
    renyi2_entropy,
    spin_correlations,
)
from nqs.observables.state_vector import StateVector, exact_samples
from nqs.protocols import Hamiltonian
from nqs.samplers import GumbelSampler, TreeSampler
from nqs.samples import Samples
from nqs.scripts.interval_coverage import SAMPLERS, STATES, AutoregressiveTable, coverage
from nqs.symmetry import space_group

pytestmark = pytest.mark.usefixtures("unchecked")  # for speed


def peaked(U: float) -> tuple[BoseHubbard, AutoregressiveTable]:
    hamiltonian = BoseHubbard(chain(6), 6, U=U)
    return hamiltonian, AutoregressiveTable(hamiltonian.hilbert, exact.ground_state(hamiltonian).state)


# ------------------------------------------------------------------------------------------------------ coverage


@pytest.mark.parametrize("name", ["flat-spins", "bose-hubbard-U40", "bose-hubbard-U400"])
@pytest.mark.parametrize("sampler", ["tree, 300", "Gumbel, 30"])
def test_intervals_hold_the_exact_value(name: str, sampler: str) -> None:
    row = coverage(STATES[name], SAMPLERS[sampler], draws=60, seed=1)
    assert min(row.covered) > 0.87  # three standard deviations of 60 draws below 0.95
    assert not any(row.undetermined)


def test_one_configuration_of_a_peaked_state_does_not_claim_an_error_of_zero() -> None:
    """The Mott state is all that 300 draws find; its neighbours are known, and so is the true standard deviation."""
    hamiltonian, psi = peaked(400.0)
    noisy = psi.log_modulus + 0.2 * torch.randn(len(psi.log_modulus), generator=torch.Generator().manual_seed(0))
    psi = AutoregressiveTable(hamiltonian.hilbert, noisy.exp().numpy())
    sampling, generator = TreeSampler(n_samples=300).build(psi), torch.Generator().manual_seed(0)
    samples = next(s for s in iter(lambda: sampling.sample(generator), None) if s.n_distinct == 1)
    estimate = energy_with_unseen(hamiltonian, psi, samples, energy_infinity=0.0)
    state, matrix = psi.log_modulus.exp().numpy(), dense(hamiltonian)
    energy = state @ matrix @ state
    sigma = np.linalg.norm(matrix @ state - energy * state)
    assert estimate.error == pytest.approx(sigma / 300**0.5, rel=0.2)
    assert estimate.variance == pytest.approx(sigma**2, rel=0.4)
    assert abs(estimate.energy - energy) < 1.96 * estimate.error


def dense(hamiltonian: Hamiltonian) -> np.ndarray:
    n = hamiltonian.hilbert.configurations()
    matrix = torch.diag(hamiltonian.diagonal(n))
    m, elements, parents = hamiltonian.connected(n)
    matrix.index_put_((parents, hamiltonian.hilbert.rank(m)), elements, accumulate=True)
    return matrix.numpy()


def test_gumbel_with_one_certain_configuration_is_no_exhaustive_sum() -> None:
    hamiltonian, psi = peaked(400.0)
    samples = GumbelSampler(n_distinct=1).build(psi).sample(torch.Generator().manual_seed(0))
    assert samples.inclusion_probability is not None
    assert samples.inclusion_probability.item() == 1.0
    assert not samples.is_exhaustive
    assert energy_with_unseen(hamiltonian, psi, samples, energy_infinity=0.0).error > 0
    every = GumbelSampler(n_distinct=hamiltonian.hilbert.dimension).build(psi).sample(torch.Generator())
    assert every.is_exhaustive
    assert energy_with_unseen(hamiltonian, psi, every, energy_infinity=0.0).error == 0


# ------------------------------------------------------------------------------------------------ what is not drawn


@pytest.mark.parametrize("sampler", [TreeSampler(n_samples=200), GumbelSampler(n_distinct=10)], ids=["tree", "gumbel"])
def test_connected_configurations_are_added_with_weight_zero(sampler: TreeSampler | GumbelSampler) -> None:
    hamiltonian, psi = peaked(40.0)
    samples = sampler.build(psi).sample(torch.Generator().manual_seed(0))
    complete, U = with_unseen(hamiltonian, psi, samples), samples.n_distinct
    assert complete.configurations[:U].equal(samples.configurations)
    added = complete.configurations[U:]
    drawn, matrix = hamiltonian.hilbert.rank(samples.configurations), dense(hamiltonian)
    neighbours = set(np.flatnonzero(matrix[drawn].any(0))) - set(drawn.tolist())
    assert set(hamiltonian.hilbert.rank(added).tolist()) == neighbours
    assert not complete.weights[U:].any()
    x = torch.rand(len(complete.weights), generator=torch.Generator().manual_seed(1)).double()
    assert complete.mean(x).item() == pytest.approx(samples.mean(x[:U]).item(), rel=1e-14)
    weights = ErrorWeights(complete)
    seen = psi.log_psi(complete.configurations).log_modulus.mul(2).exp().sum().item()
    assert weights.unseen == pytest.approx(1 - seen, abs=1e-12)


def test_flat_states_are_left_as_they_are() -> None:
    hamiltonian = Heisenberg(chain(10))
    psi = AutoregressiveTable(hamiltonian.hilbert, np.ones(hamiltonian.hilbert.dimension))
    samples = TreeSampler(n_samples=100).build(psi).sample(torch.Generator().manual_seed(0))
    assert with_unseen(hamiltonian, psi, samples) is samples


@pytest.mark.parametrize("kind", [OnOrbits, Symmetrised])
def test_probabilities_of_orbits(kind: type[OnOrbits] | type[Symmetrised]) -> None:
    """Against |psi|^2 summed over all configurations that fold to the sample."""
    hamiltonian = BoseHubbard(chain(5), 5, U=10.0)
    hilbert = hamiltonian.hilbert
    config = kind(base=small_transformer(), symmetry=space_group(chain(5), hilbert))
    psi = config.build(hilbert)
    samples = TreeSampler(n_samples=30).build(psi).sample(torch.Generator().manual_seed(0))
    n = hilbert.configurations()
    with torch.no_grad():
        p = (2 * psi.log_psi(n).log_modulus).exp()
    total = torch.zeros(hilbert.dimension, dtype=torch.float64).index_add_(0, hilbert.rank(psi.fold(n)[0]), p)
    complete = with_unseen(hamiltonian, psi, samples)
    assert complete.probability is not None
    torch.testing.assert_close(complete.probability, total[hilbert.rank(complete.configurations)])


# ------------------------------------------------------------------------------------------------- second moments


def moments_of(name: str, monkeypatch: pytest.MonkeyPatch, permuted: bool) -> None:
    """The mean of `second` over the whole sector is that of |x|^2."""
    lattice = chain(4)
    electrons = name == "electrons"
    spins = name == "spin correlations"
    hamiltonian = FermiHubbard(lattice, 2, 2, U=1.0) if electrons else BoseHubbard(lattice, 4, U=1.0)
    if spins:
        hamiltonian = Heisenberg(chain(6))
    hilbert = hamiltonian.hilbert
    rng = np.random.default_rng(0)
    state = rng.standard_normal(hilbert.dimension) + (0 if permuted else 1j * rng.standard_normal(hilbert.dimension))
    permutations = None
    if permuted:
        group = space_group(hamiltonian.lattice, hilbert)
        permutations = group.site_permutations()
        images = hilbert.rank(group.images(hilbert.configurations()).flatten(0, 1)).view(hilbert.dimension, -1)
        state = np.abs(state)[images.numpy()].sum(1)
    state = state / np.linalg.norm(state)
    samples, psi = exact_samples(hilbert, state), StateVector(hilbert, state)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    add = expectation.Moments.add

    def spy(self: expectation.Moments, rows: torch.Tensor, x: torch.Tensor, second: torch.Tensor) -> None:
        w = self.of.samples.weights[rows]
        seen.append((torch.tensordot(w, x.abs().square(), 1), torch.tensordot(w, second, 1)))
        add(self, rows, x, second)

    monkeypatch.setattr(expectation.Moments, "add", spy)
    if spins:
        spin_correlations(samples, psi, permutations=permutations)
    else:
        one_body_density_matrix(samples, psi, permutations=permutations)
        momentum_distribution(samples, psi, lattice, permutations=permutations)
        if not electrons:
            condensate_fraction(samples, psi, permutations=permutations)
    for squares, second in seen:
        torch.testing.assert_close(second, squares, rtol=1e-9, atol=1e-9)
    assert len(seen) == (1 if spins else 2 if electrons else 4)  # the fraction takes its own matrix


@pytest.mark.parametrize("name", ["bosons", "electrons", "spin correlations"])
@pytest.mark.parametrize("permuted", [False, True])
def test_second_moments_of_moves(name: str, permuted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if permuted and name == "electrons":
        pytest.skip("fermions are not averaged over permutations")
    moments_of(name, monkeypatch, permuted)


# ------------------------------------------------------------------------------------------------ not determinable


def test_reach_bounds_what_was_not_drawn() -> None:
    hamiltonian, psi = peaked(400.0)
    samples = TreeSampler(n_samples=2).build(psi).sample(torch.Generator().manual_seed(0))
    assert samples.n_distinct == 1
    weights = ErrorWeights(samples)
    assert math.isnan(error_bar(samples, torch.ones(1).double()).error.item())
    bounded = error_bar(samples, torch.ones(1).double(), reach=3.0).error.item()
    assert bounded == pytest.approx(3.0 * (weights.unseen / 2) ** 0.5, rel=1e-9)
    density = densities(samples, hamiltonian.hilbert, "particles")
    assert ((density.error > 0) & (density.error < 0.2)).all()
    many = TreeSampler(n_samples=20).build(psi).sample(torch.Generator().manual_seed(0))
    assert many.n_distinct == 1
    assert renyi2_entropy(many, psi, [0, 1, 2]).error.isnan()


def test_student_of_rare_events() -> None:
    """K draws out of many that deviate: 2 K degrees of freedom, up to N - 1."""
    found = student(torch.tensor([4.0, 50.0]).double(), torch.tensor([4.0, 50.0]).double(), 100)
    factors = found / torch.tensor([4.0, 50.0])
    assert factors[0].item() == pytest.approx((2.2900 / 1.95996) ** 2, rel=1e-3)  # t(8.33)
    assert factors[1].item() == pytest.approx((1.9842 / 1.95996) ** 2, rel=1e-3)  # t(99), not 2 x 50 / (1 - 0.5)


def test_orbits_without_replacement_have_no_error_in_the_sector() -> None:
    """All images of an orbit enter together: errors of single configurations would be too small."""
    hilbert = BoseHubbard(chain(5), 5, U=10.0).hilbert
    config = OnOrbits(base=small_transformer(), symmetry=space_group(chain(5), hilbert))
    psi = config.build(hilbert)
    drawn: Samples = GumbelSampler(n_distinct=5).build(psi).sample(torch.Generator().manual_seed(0))
    every = psi.to_sector_samples(drawn, torch.Generator().manual_seed(0))
    assert not every.is_exhaustive
    assert densities(every, hilbert, "particles").error.isnan().all()


def weighted_draws(weights: torch.Tensor, **options: object) -> Samples:
    """Single draws with weights, of a state without a known norm."""
    n = torch.arange(len(weights))
    return Samples(
        configurations=torch.stack([n // 256, n % 256], 1).to(torch.uint8),
        weights=weights / weights.sum(),
        log_modulus=weights.log() / 2,
        phase=torch.zeros(len(weights), dtype=torch.float64),
        weighted_counts=torch.ones(len(weights), dtype=torch.float64),
        n_drawn=len(weights),
        normalised=False,
        **options,
    )


def test_draws_of_little_weight_do_not_stand_for_what_was_not_drawn() -> None:
    """Where psi is small local energies are far from the mean, and draws from |psi| are many there."""
    x = torch.randn(2_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = torch.ones_like(x)
    x[1_000:], weights[1_000:] = 1_000.0 * x[1_000:], 1e-9
    error = error_bar(weighted_draws(weights), x).error
    assert error.item() == pytest.approx(1_000**-0.5, rel=0.1)


def test_correlated_draws_with_weights_are_one() -> None:
    once = weighted_draws(torch.ones(50, dtype=torch.float64))
    chains = replace(once, weighted_counts=torch.full((50,), 3.0), n_drawn=150, autocorrelation_time=2.0)
    assert ErrorWeights(chains).rare.sum() == 50  # three draws of one walker in two autocorrelation times
    assert ErrorWeights(replace(chains, autocorrelation_time=0.5)).rare.sum() == 0
