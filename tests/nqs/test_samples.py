"""Bookkeeping of equal configurations, and error bars against the scatter of repeated samplings."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from networks import small_transformer
from torch import Tensor

from nqs.estimators import energy as statistics
from nqs.estimators.energy import estimate_energy, infinite_temperature_energy, v_score
from nqs.estimators.estimate import with_error
from nqs.estimators.local_energy import local_energies
from nqs.estimators.unseen import with_unseen
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import HilbertSpace, bosons, fermions, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.protocols import Sampler
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.samples import Lookup, Samples, distinct


def samples_of(
    weights: list[float], *, counts: list[int] | None = None, inclusion_probability: list[float] | None = None
) -> Samples:
    """Samples with log moduli that agree with their weights."""
    p = torch.tensor(weights, dtype=torch.float64)
    return Samples(
        configurations=torch.arange(3 * len(weights)).view(-1, 3).to(torch.uint8),
        weights=p,
        log_modulus=p.log() / 2,
        phase=torch.zeros_like(p),
        counts=None if counts is None else torch.tensor(counts),
        inclusion_probability=None
        if inclusion_probability is None
        else torch.tensor(inclusion_probability, dtype=torch.float64),
    )


# ---------------------------------------------------------------------------------------------------- distinct


def check_distinct(space: HilbertSpace, n: Tensor) -> None:
    """Against numpy, which sorts whole rows and knows nothing of keys; its order of classes is not promised."""
    first, classes = distinct(space, n)
    rows, expected_first, inverse = np.unique(n.numpy(), axis=0, return_index=True, return_inverse=True)
    assert len(first) == len(rows)
    assert sorted(first.tolist()) == sorted(expected_first.tolist())  # the first row of every class
    assert first[classes].tolist() == expected_first[inverse.ravel()].tolist()
    assert n[first[classes]].equal(n)


@given(n_sites=st.integers(1, 6), n_rows=st.integers(1, 60), local_dim=st.integers(1, 4), seed=st.integers(0, 10**6))
@example(n_sites=5, n_rows=1, local_dim=2, seed=0)
def test_distinct_agrees_with_numpy(n_sites: int, n_rows: int, local_dim: int, seed: int) -> None:
    space = HilbertSpace(n_sites, tuple("abcd"[:local_dim]))
    check_distinct(space, space.random(n_rows, torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("space", [fermions(150, 75), spins(90, spin=1), bosons(40, 40)], ids=str)
def test_distinct_agrees_with_numpy_where_keys_have_many_words(space: HilbertSpace) -> None:
    """Rows that share all words but one, in every word."""
    generator = torch.Generator().manual_seed(0)
    n = space.random(6, generator)
    assert space.keys(n).shape[1] > 2
    n = torch.cat([n, *(space.random(6, generator) for _ in range(2))])
    mixed = n[torch.randint(len(n), (400,), generator=generator)].clone()
    sites = torch.randint(space.n_sites, (400,), generator=generator)
    changed = torch.rand(400, generator=generator) < 0.5
    rows = torch.arange(400)[changed]
    mixed[rows, sites[changed]] = (mixed[rows, sites[changed]] + 1) % space.local_dim
    check_distinct(space, torch.cat([mixed, mixed[:200]]))
    # Two words in all four combinations.
    left, right = n[:2, : space.n_sites // 2], n[:2, space.n_sites // 2 :]
    pairs = torch.stack([torch.cat([a, b]) for a in left for b in right])
    check_distinct(space, pairs[torch.randint(4, (50,), generator=generator)])


def test_distinct_of_nothing_is_nothing() -> None:
    for space in (fermions(3, 1), fermions(150, 75)):
        first, classes = distinct(space, torch.empty((0, space.n_sites), dtype=torch.uint8))
        assert first.shape == classes.shape == (0,)


# ----------------------------------------------------------------------------------- numbers of configurations


def test_perplexity_of_simple_distributions() -> None:
    uniform = samples_of([1 / 8] * 8)
    assert uniform.perplexity == pytest.approx(8, rel=1e-14)
    one = samples_of([1.0])
    assert one.perplexity == 1
    halves = samples_of([1 / 2, 1 / 4, 1 / 4])
    assert halves.perplexity == pytest.approx(2**1.5, rel=1e-14)  # entropy of 3/2 bits
    # What carries no weight does not count, also where log |psi| is -inf.
    with_zero = samples_of([1 / 2, 1 / 4, 0, 1 / 4])
    assert with_zero.perplexity == pytest.approx(2**1.5, rel=1e-14)


def test_perplexity_of_sampled_weights_estimates_that_of_the_state() -> None:
    model = small_transformer().build(bosons(5, 5))
    generator = torch.Generator().manual_seed(0)
    exact = ExhaustiveSampler().build(model).sample(generator)
    p = exact.weights
    assert exact.perplexity == pytest.approx(math.exp(-(p * p.log()).sum().item()), rel=1e-12)
    estimate = TreeSampler(n_samples=100_000).build(model).sample(generator)
    assert estimate.perplexity == pytest.approx(exact.perplexity, rel=0.02)


def test_number_of_samples() -> None:
    assert samples_of([0.5, 0.5], counts=[3 * 10**11, 7 * 10**11]).n_samples == 10**12
    assert samples_of([0.2, 0.3, 0.5]).n_samples == 3
    assert samples_of([0.2, 0.3, 0.5], counts=[2, 3, 5]).n_distinct == 3


# ------------------------------------------------------------------------------------------- energy and error


def test_energy_of_counts_is_that_of_the_repeated_samples() -> None:
    counts, local = [1, 4, 7, 2], torch.tensor([1.5 + 2j, -0.5 - 1j, 0.25 + 0j, 3.0 + 0.5j], dtype=torch.complex128)
    samples = samples_of([c / 14 for c in counts], counts=counts)
    estimate = estimate_energy(samples, local, energy_infinity=5.0)
    repeated = np.repeat(local.numpy(), counts)
    assert estimate.energy == pytest.approx(repeated.real.mean(), rel=1e-14)
    # Student's t with the degrees of freedom 2 N / (kurtosis - 1), N - 1 at most
    freedom = min(13, 2 * 14 / (scipy.stats.kurtosis(repeated.real, fisher=False) - 1))
    widened = scipy.stats.t.ppf(0.975, freedom) / scipy.stats.norm.ppf(0.975)
    assert estimate.error == pytest.approx(widened * repeated.real.std(ddof=1) / 14**0.5, rel=1e-6)
    # |E_loc - E|^2 with E real: imaginary parts of local energies are part of the variance of H.
    assert estimate.variance == pytest.approx((np.abs(repeated - repeated.real.mean()) ** 2).mean(), rel=1e-14)
    assert estimate.v_score == pytest.approx(3 * estimate.variance / (estimate.energy - 5) ** 2, rel=1e-14)
    assert (estimate.n_samples, estimate.n_distinct) == (14, 4)


def test_exhaustive_sum_has_no_error_but_a_variance() -> None:
    samples = samples_of([0.5, 0.25, 0.25], inclusion_probability=[1.0, 1.0, 1.0])
    local = torch.tensor([1.0, 2.0, 4.0], dtype=torch.complex128)
    estimate = estimate_energy(samples, local, energy_infinity=0.0)
    assert (estimate.energy, estimate.error, estimate.variance) == (2.0, 0.0, 1.5)


def test_inclusion_enters_the_error() -> None:
    """Poisson sampling: every configuration with inclusion q adds w^2 (1 - q) (E_loc - E)^2 to the estimate from the
    draw, and p^2 (1 - q) / q (E_loc - E)^2 to the exact variance; here all of them are known.
    """
    p, threshold = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64), 0.2
    inclusion = 1 - (-p / threshold).exp()
    samples = replace(samples_of(p.tolist(), inclusion_probability=inclusion.tolist()), threshold=threshold)
    local = torch.tensor([1.0, 2.0, 4.0], dtype=torch.complex128)
    estimate = estimate_energy(samples, local, energy_infinity=0.0)
    deviations = (local.real - 2).square()
    terms = samples.weights.square() * (1 - inclusion) * deviations
    freedom = 2 * (terms.sum() ** 2 / terms.square().sum()).item()
    drawn = terms.sum().item() * (scipy.stats.t.ppf(0.975, freedom) / scipy.stats.norm.ppf(0.975)) ** 2
    known = (p.square() * (1 - inclusion) / inclusion * deviations).sum().item()
    assert estimate.error == pytest.approx(max(drawn, known) ** 0.5, rel=1e-6)
    assert estimate.n_samples == 3


@pytest.mark.parametrize("count", [1, 300])
def test_one_configuration_has_an_energy_but_no_error_bar(count: int) -> None:
    samples = replace(samples_of([1.0], counts=[count]), log_modulus=torch.full((1,), math.log(0.999) / 2).double())
    estimate = estimate_energy(samples, torch.ones(1).to(torch.complex128), energy_infinity=0.0)
    assert (estimate.energy, estimate.n_samples) == (1.0, count)
    assert math.isnan(estimate.error)
    assert math.isnan(estimate.variance)
    assert math.isnan(estimate.v_score)
    assert "not determinable" in estimate.remark
    assert with_error(estimate.energy, estimate.error) == "1.00000000(?)"


def test_v_score_of_simple_cases() -> None:
    assert v_score(-3.0, 0.5, 8, 1.0) == 8 * 0.5 / 16
    assert v_score(-3.0, 0.0, 8, 1.0) == 0.0  # an eigenstate
    assert v_score(1.0, 0.5, 8, 1.0) == math.inf
    assert v_score(1.0, 0.0, 8, 1.0) == 0.0


HAMILTONIAN = BoseHubbard(chain(4), 4, U=4.0)  # 35 configurations


def peaked_model(seed: int = 1) -> Transformer:
    """A state on HAMILTONIAN.hilbert far from uniform: its two largest weights hold 40 %."""
    model = small_transformer(seed=seed).build(HAMILTONIAN.hilbert)
    with torch.no_grad():
        model.head.weight.mul_(8)
    return model


@pytest.mark.usefixtures("unchecked")  # for speed
@pytest.mark.parametrize(
    "sampler",
    [
        TreeSampler(n_samples=50),
        TreeSampler(n_samples=2_000),
        GumbelSampler(n_distinct=12),
        GumbelSampler(n_distinct=25),
    ],
    ids=repr,
)
def test_quoted_error_is_the_scatter_of_repeated_samplings(sampler: Sampler) -> None:
    model, generator, repetitions = peaked_model(), torch.Generator().manual_seed(0), 250
    exact = ExhaustiveSampler().build(model).sample(generator)
    local = local_energies(HAMILTONIAN, model, exact).values
    estimates = []
    for _ in range(repetitions):
        samples = sampler.build(model).sample(generator)
        known = with_unseen(HAMILTONIAN, model, samples)
        values, more = (local[HAMILTONIAN.hilbert.rank(s.configurations)] for s in (samples, known))
        estimates.append(estimate_energy(samples, values, energy_infinity=0.0, complete=(known, more)))
    scatter = np.std([estimate.energy for estimate in estimates], ddof=1)
    quoted = np.mean([estimate.error**2 for estimate in estimates]) ** 0.5
    # The relative error of a standard deviation of n values is 1 / sqrt(2 n): 4.5 % here. Few draws are widened.
    assert -0.15 < quoted / scatter - 1 < 0.3
    energy = (exact.weights @ local.real).item()
    assert np.mean([estimate.energy for estimate in estimates]) == pytest.approx(
        energy, abs=4 * scatter / repetitions**0.5
    )


# ---------------------------------------------------------------------------------------- infinite temperature


def test_infinite_temperature_energy_of_bosons() -> None:
    """All configurations equally likely, N bosons on L sites: <n (n - 1)> = 2 N (N - 1) / (L (L + 1))."""
    for n_sites, n_particles in ((4, 4), (5, 3)):
        hamiltonian = BoseHubbard(chain(n_sites), n_particles, U=4.0)
        expected = 4.0 * n_particles * (n_particles - 1) / (n_sites + 1)
        assert infinite_temperature_energy(hamiltonian) == pytest.approx(expected, rel=1e-12)
    # V <n_i n_j> = V N (N - 1) / (L (L + 1)) on each of L - 1 bonds of an open chain.
    hamiltonian = BoseHubbard(chain(4, periodic=False), 4, U=0.0, V=1.0)
    assert infinite_temperature_energy(hamiltonian) == pytest.approx(3 * 12 / 20, rel=1e-12)


def test_infinite_temperature_energy_is_sampled_in_large_sectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "TRACE_SITES", 14 * 20_000)
    hamiltonian = BoseHubbard(chain(14), 14, U=4.0)
    assert hamiltonian.hilbert.dimension > statistics.EXHAUSTIVE_LIMIT
    energy = infinite_temperature_energy(hamiltonian, seed=3)
    diagonal = hamiltonian.diagonal(hamiltonian.hilbert.random(20_000, torch.Generator().manual_seed(4)))
    error = diagonal.std().item() / 20_000**0.5
    assert energy == pytest.approx(4.0 * 14 * 13 / 15, abs=4 * error)
    assert energy == infinite_temperature_energy(hamiltonian, seed=3)
    assert energy != infinite_temperature_energy(hamiltonian, seed=4)


@pytest.mark.parametrize(
    "space", [bosons(5, 3), spins(130, 0), spinful_fermions(40, 3, 2)], ids=["one word", "three words", "two words"]
)
def test_lookup_finds_the_row_of_each_known_configuration(space: HilbertSpace) -> None:
    n = torch.unique(space.random(60, torch.Generator().manual_seed(0)), dim=0)
    known, asked = n[::2], n[torch.randint(len(n), (200,), generator=torch.Generator().manual_seed(1))]
    place = {tuple(row): b for b, row in enumerate(known.tolist())}
    expected = [place.get(tuple(row), -1) for row in asked.tolist()]
    assert Lookup(space, known).rows(asked).tolist() == expected
    assert Lookup(space, known).rows(asked[:0]).shape == (0,)
    assert Lookup(space, known[:0]).rows(asked[:3]).tolist() == [-1, -1, -1]
