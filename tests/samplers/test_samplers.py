"""Every sampler against the enumerated |psi|^2: distributions, weights, amplitudes, reproducibility.

A new sampler is one more line in SAMPLERS.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from chains import importance, norm_constrained, sequential
from held import Held
from networks import small_transformer
from torch import Tensor, nn

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.hilbert import HilbertSpace, bosons, spins
from nqs.models import MarshallSign, Transformer
from nqs.protocols import (
    AutoregressiveWavefunction,
    Conditionals,
    LogPsi,
    Sampler,
    Wavefunction,
    distinct_of,
    max_distinct,
    with_distinct,
    with_times_as_many,
)
from nqs.samplers import (
    ExhaustiveSampler,
    GumbelSampler,
    IndependenceSampler,
    MetropolisSampler,
    Proposal,
    QuestSampler,
    Redraw,
    TreeSampler,
)
from nqs.samplers.gumbel import conditioned_on_maximum, gumbel
from nqs.samples import Samples, split_counts

from readme import one_by_one
from sectors import SPACES

P_VALUE = 1e-4  # smallest that a test of a distribution may find
SIGMAS = 4  # largest deviation of an average, in standard errors

SAMPLERS: dict[str, Sampler] = {
    "tree": TreeSampler(n_samples=300),
    "tree, one sample": TreeSampler(n_samples=1),
    "tree, a trillion samples": TreeSampler(n_samples=10**12),
    "tree, n_distinct": TreeSampler(n_distinct=8),
    "tree, small frontier": TreeSampler(n_samples=300, max_frontier=3),
    "tree, frontier of one": TreeSampler(n_samples=40, max_frontier=1),
    "gumbel": GumbelSampler(n_distinct=8),
    "gumbel, one configuration": GumbelSampler(n_distinct=1),
    "gumbel, whole sector": GumbelSampler(n_distinct=10**6),
    "exhaustive": ExhaustiveSampler(),
    "Metropolis": MetropolisSampler(n_samples=200, n_chains=50, n_discarded=4),
    "Metropolis, one round": MetropolisSampler(n_samples=200, n_chains=200, n_discarded=4),
    "Metropolis, redrawn ends": MetropolisSampler(n_samples=200, n_chains=50, n_discarded=4, moves=(Redraw(),)),
    "tempering": MetropolisSampler(n_samples=200, n_chains=50, n_discarded=4, powers=(1, 0.5)),
    "Metropolis, a smaller power": MetropolisSampler(n_samples=200, n_chains=50, n_discarded=4, powers=(0.5,)),
    "norm-constrained": norm_constrained(n_samples=200, n_chains=50, n_discarded=4, n_steps=4),
    "norm-constrained, several tries": norm_constrained(
        n_samples=200, n_chains=50, n_discarded=4, n_steps=4, p=1, n_tries=3
    ),
    "independence": IndependenceSampler(n_samples=200, n_chains=50, n_discarded=4, proposal=Proposal(power=0.8)),
    "QUEST": QuestSampler(n_samples=200, n_chains=50, n_discarded=4, n_steps=4),
    "importance": importance(n_samples=400, proposal=Proposal(power=0.8)),
    "sequential": sequential(n_samples=400, n_islands=10, proposal=Proposal(power=0.5), resample_below=0.9),
    "one by one": one_by_one().OneByOneSampler(n_samples=300),
}
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@functools.cache
def peaked(space: HilbertSpace, dtype: str = "float64", scale: float = 12.0) -> Transformer:
    """A transformer far from uniform, with probabilities over orders of magnitude."""
    model = small_transformer(dtype=dtype, seed=2).build(space)
    with torch.no_grad():
        model.head.weight.mul_(scale)
    return model.requires_grad_(False)


def probabilities(model: Wavefunction) -> Tensor:
    """|psi|^2 of the whole sector in lexicographic order."""
    return (2 * model.log_psi(model.hilbert.configurations()).log_modulus).exp()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    """p-value of counts drawn from p; the rarest outcomes are merged until at least 5 draws are expected of them."""
    order = np.argsort(p)
    counts, expected = counts[order], (p * counts.sum() / p.sum())[order]
    merged = int(np.searchsorted(np.cumsum(expected), 5)) + 1
    counts = np.append(counts[merged:], counts[:merged].sum())
    expected = np.append(expected[merged:], expected[:merged].sum())
    assert len(counts) > 1, "everything was merged: draw more"
    return scipy.stats.chisquare(counts, expected).pvalue


# ------------------------------------------------------------------------------------------- every sampler


@every_sampler
@every_space
def test_samples_keep_the_contract(sampler: Sampler, space: HilbertSpace) -> None:
    check_contract(sampler, peaked(space), 1e-12)


@every_sampler
def test_samples_keep_the_contract_in_single_precision(sampler: Sampler) -> None:
    check_contract(sampler, peaked(SPACES["electrons"], dtype="float32"), 2e-6)


@every_sampler
def test_samples_carry_the_reference_phase(sampler: Sampler) -> None:
    space = SPACES["spins 1/2"]
    config = replace(peaked(space).config, reference=MarshallSign(sublattice=(0, 1, 0, 1, 0, 1)))
    model = config.build(space)
    assert model.reference_phase(space.configurations()).std() > 1
    check_contract(sampler, model, 1e-12)


def check_contract(sampler: Sampler, model: Wavefunction, tolerance: float) -> None:
    space = model.hilbert
    samples = sampler.build(model).sample(seeded(0))
    n = samples.configurations
    assert n.dtype == torch.uint8
    assert space.contains(n).all()
    assert len(torch.unique(n, dim=0)) == len(n) == samples.n_distinct > 0
    assert samples.weights.shape == samples.log_modulus.shape == samples.phase.shape == (len(n),)
    assert (samples.weights > 0).all()
    assert samples.weights.sum().item() == pytest.approx(1, abs=1e-13)
    # The amplitudes are those of the wavefunction.
    expected = model.log_psi(n)
    torch.testing.assert_close(samples.log_modulus, expected.log_modulus, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(samples.phase, expected.phase, rtol=tolerance, atol=tolerance)
    # Independent draws and chains have counts, weighted ones their number, all others a probability of inclusion.
    kinds = (samples.counts, samples.inclusion_probability, samples.weighted_counts)
    assert sum(kind is not None for kind in kinds) == 1
    if samples.counts is not None:
        assert (samples.counts > 0).all()
        torch.testing.assert_close(samples.weights, samples.counts.double() / samples.n_samples, rtol=1e-15, atol=0)
    elif samples.weighted_counts is not None:
        assert (samples.weighted_counts > 0).all()
        assert samples.n_effective <= samples.n_samples * (1 + 1e-12)
    else:
        inclusion = samples.inclusion_probability
        assert (((inclusion > 0) & (inclusion <= 1)) | inclusion.isnan()).all()


@every_sampler
def test_numbers_of_distinct_configurations_mean_what_the_contract_says(sampler: Sampler) -> None:
    """A run asks for fewer where time is short, and for those of all batches at once."""
    model = peaked(SPACES["bosons"])
    drawn = sampler.build(model).sample(seeded(2))
    if (most := max_distinct(sampler)) is not None:
        assert drawn.n_distinct <= (1.5 * most if isinstance(sampler, TreeSampler) and sampler.n_distinct else most)
    more = with_times_as_many(sampler, 3)
    if distinct_of(sampler) is not None:
        assert with_distinct(sampler, 2).build(model).sample(seeded(2)).n_distinct <= 4
        assert distinct_of(more) == 3 * distinct_of(sampler)
    elif hasattr(sampler, "n_chains"):
        assert more.build(model).sample(seeded(2)).n_samples == 3 * drawn.n_samples
    else:
        assert more is sampler


@every_sampler
def test_samples_follow_the_generator_and_nothing_else(sampler: Sampler) -> None:
    model = peaked(SPACES["electrons"])
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, again = sampler.build(model).sample(seeded(3)), sampler.build(model).sample(seeded(3))
    assert torch.get_rng_state().equal(before)
    for name in ("configurations", "weights", "log_modulus", "phase"):
        assert getattr(first, name).equal(getattr(again, name))
    if first.n_distinct < model.hilbert.dimension:
        weights = (
            dict(zip(map(tuple, s.configurations.tolist()), s.weights.tolist(), strict=True))
            for s in itertools.chain([first], (sampler.build(model).sample(seeded(seed)) for seed in (4, 5, 6, 7)))
        )
        of_first = next(weights)
        assert any(other != of_first for other in weights)


@every_sampler
def test_samples_leave_no_gradients(sampler: Sampler) -> None:
    model = small_transformer(width=4, heads=1).build(SPACES["bosons"])
    samples = sampler.build(model).sample(seeded(0))
    assert not samples.weights.requires_grad
    assert not samples.log_modulus.requires_grad
    assert not samples.phase.requires_grad


@pytest.mark.usefixtures("unchecked")  # for speed
@every_sampler
def test_estimates_are_close_to_exact_averages(sampler: Sampler) -> None:
    """For every scheme; its own tests below are sharper. Normalised weights may be biased a little.

    Chains take little longer for 150 walkers than for 50: fewer draws of them, of as many samples in all.
    """
    model = peaked(SPACES["bosons"], scale=3.0)
    p, f = probabilities(model).numpy(), np.linspace(0, 1, 35)
    estimates, draws = [], 25
    if hasattr(sampler, "n_chains"):
        draws, sampler = 8, replace(sampler, n_samples=3 * sampler.n_samples, n_chains=3 * sampler.n_chains)
    for seed in range(draws):
        samples = sampler.build(model).sample(seeded(seed))
        estimates.append(samples.weights.numpy() @ f[model.hilbert.rank(samples.configurations).numpy()])
    assert np.mean(estimates) == pytest.approx(p @ f, abs=0.01 + SIGMAS * np.std(estimates) / draws**0.5)


class Flat(Wavefunction):
    """The uniform superposition, not autoregressive."""

    has_phase = False

    def __init__(self, hilbert: HilbertSpace) -> None:
        super().__init__()
        self.hilbert = hilbert

    def log_psi(self, n: Tensor) -> LogPsi:
        log_modulus = torch.full((len(n),), -math.log(self.hilbert.dimension) / 2, dtype=torch.float64)
        return LogPsi(log_modulus, torch.zeros_like(log_modulus))

    @property
    def bytes_per_configuration(self) -> int:
        return 8


@pytest.mark.parametrize(
    ("build", "error", "text"),
    [
        (lambda: TreeSampler(), ValueError, r"either n_samples or n_distinct .* not both or none"),
        (lambda: TreeSampler(n_samples=3, n_distinct=3), ValueError, r"not both or none"),
        (lambda: TreeSampler(n_samples=0), ValueError, r"n_samples=0: choose 1 to 1e\+18"),
        (lambda: TreeSampler(n_samples=10**18 + 1), ValueError, r"n_samples=1000000000000000001: choose 1 to 1e\+18"),
        (lambda: TreeSampler(n_distinct=0), ValueError, r"n_distinct=0: it must be at least 1"),
        (lambda: TreeSampler(n_samples=1, memory=0.0), ValueError, r"memory=0.0: it must be a positive"),
        (lambda: TreeSampler(n_samples=1, max_frontier=0), ValueError, r"max_frontier=0: it must be at least 1"),
        (lambda: GumbelSampler(n_distinct=0), ValueError, r"n_distinct=0: it must be at least 1"),
        (
            lambda: ExhaustiveSampler(max_dimension=34).build(peaked(SPACES["bosons"])).sample(seeded(0)),
            ValueError,
            r"35 evaluations, but its limit is max_dimension=34: use TreeSampler, or raise the limit",
        ),
        (
            lambda: ExhaustiveSampler().build(Flat(bosons(100, 100))).sample(seeded(0)),
            ValueError,
            r"max_dimension=4,194,304: use TreeSampler",
        ),
        (
            lambda: TreeSampler(n_samples=5).build(Flat(SPACES["bosons"])).sample(seeded(0)),
            TypeError,
            r"TreeSampler needs an autoregressive wavefunction; Flat is not",
        ),
        (
            lambda: GumbelSampler(n_distinct=5).build(Flat(SPACES["bosons"])).sample(seeded(0)),
            TypeError,
            r"GumbelSampler needs an autoregressive wavefunction; Flat is not",
        ),
    ],
)
def test_errors_say_what_to_do(build: Callable, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        build()


# ------------------------------------------------------------------------------------------ exhaustive


@every_space
def test_exhaustive_sum_is_the_state(space: HilbertSpace) -> None:
    model = peaked(space)
    samples = ExhaustiveSampler(max_dimension=space.dimension).build(model).sample(seeded(0))
    assert samples.configurations.equal(space.configurations())
    torch.testing.assert_close(samples.weights, probabilities(model), rtol=1e-12, atol=0)
    assert (samples.inclusion_probability == 1).all()
    assert samples.n_samples == space.dimension


def test_exhaustive_sum_needs_no_autoregressive_wavefunction() -> None:
    samples = ExhaustiveSampler().build(Flat(SPACES["bosons"])).sample(seeded(0))
    torch.testing.assert_close(samples.weights, torch.full((35,), 1 / 35, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------ tree


def counts_by_rank(samples: Samples, space: HilbertSpace) -> np.ndarray:
    counts = np.zeros(space.dimension, dtype=np.int64)
    counts[space.rank(samples.configurations)] = samples.counts
    return counts


@pytest.mark.parametrize("n_samples", [1000, 10**6])
@pytest.mark.parametrize("space", [SPACES[name] for name in SPACES if name != "one configuration"], ids=str)
@pytest.mark.parametrize("max_frontier", [2**17, 3])
def test_counts_are_drawn_from_psi_squared(space: HilbertSpace, n_samples: int, max_frontier: int) -> None:
    model = peaked(space)
    p = probabilities(model).numpy()
    for seed in (0, 1):
        sampler = TreeSampler(n_samples=n_samples, max_frontier=max_frontier)
        counts = counts_by_rank(sampler.build(model).sample(seeded(seed)), space)
        assert chi_square(counts, p) > P_VALUE


@pytest.mark.usefixtures("unchecked")  # for speed
def test_the_samples_of_a_run_are_independent() -> None:
    """Two samples are the unordered pair n <= n' with probability 2 p(n) p(n'), or p(n)^2 if equal."""
    model = peaked(bosons(3, 2), scale=30.0)
    p = probabilities(model).numpy()
    sampler, generator, pairs = TreeSampler(n_samples=2, max_frontier=1), seeded(0), np.zeros((6, 6))
    for _ in range(600):
        drawn = np.flatnonzero(counts_by_rank(sampler.build(model).sample(generator), model.hilbert))
        pairs[drawn[0], drawn[-1]] += 1
    upper = np.triu_indices(6)
    expected = (2 * np.outer(p, p) - np.diag(p**2))[upper]
    assert expected.sum() == pytest.approx(1)
    assert chi_square(pairs[upper], expected) > P_VALUE


@pytest.mark.parametrize("max_frontier", [2**17, 3])
@pytest.mark.parametrize("n_samples", [1, 7, 10**6, 10**12, 10**18])
def test_counts_sum_to_the_number_of_samples(n_samples: int, max_frontier: int) -> None:
    model = peaked(SPACES["grand-canonical bosons"])
    samples = TreeSampler(n_samples=n_samples, max_frontier=max_frontier).build(model).sample(seeded(1))
    assert samples.counts.sum().item() == samples.n_samples == n_samples
    assert samples.n_distinct <= n_samples


@pytest.mark.parametrize("n_samples", [10**12, 10**16, 10**18])
def test_many_samples_are_as_exact_as_their_number(n_samples: int) -> None:
    """Every count within 6 standard errors, over six orders of magnitude of probability."""
    model = peaked(SPACES["bosons"], scale=30.0)
    p = probabilities(model).numpy()
    counts = counts_by_rank(TreeSampler(n_samples=n_samples).build(model).sample(seeded(0)), model.hilbert)
    assert p.max() > 1e6 * p.min()
    # Probabilities are rounded, and counts above 2^53 as well.
    error = 6 * np.sqrt(n_samples * p * (1 - p)) + 1 + 1e-14 * n_samples * p
    assert (np.abs(counts - n_samples * p) < error).all()
    if n_samples <= 10**16:  # above it rounding errors of p are as large as the noise of the counts
        assert chi_square(counts, p) > P_VALUE


@pytest.mark.usefixtures("unchecked")
def test_states_of_all_prefixes_fit_into_the_memory() -> None:
    """Of 1,000 distinct configurations; without a limit they take several times as much. Draws stay as they were."""
    model, peaks, drawn = small_transformer(width=16).build(spins(20, 0)), {}, {}
    whole = 1_000 * 20 * model.bytes_per_shared_site
    for memory in (whole / 4, 16 * whole):
        sampling = TreeSampler(n_samples=1_000, memory=memory / 2**30).build(model)
        with Held() as held:
            drawn[memory] = sampling.sample(seeded(0)).n_distinct
        peaks[memory] = held.peak
        assert held.peak < memory
    limited, free = peaks.values()
    assert limited < free / 2
    assert min(drawn.values()) > 950


def test_bounded_frontier_has_the_distribution_of_the_unbounded_one() -> None:
    model = peaked(SPACES["spins 1"])
    counts = []
    for max_frontier, seed in ((2**17, 0), (3, 1), (1, 2)):
        sampler = TreeSampler(n_samples=20_000, max_frontier=max_frontier)
        counts.append(counts_by_rank(sampler.build(model).sample(seeded(seed)), model.hilbert))
    table = np.array(counts)
    table = np.column_stack([table[:, table.sum(0) >= 30], table[:, table.sum(0) < 30].sum(1)])
    assert scipy.stats.chi2_contingency(table[:, table.sum(0) > 0]).pvalue > P_VALUE


@pytest.mark.parametrize("max_frontier", [1, 3, 10])
def test_frontier_is_bounded(max_frontier: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_transformer(width=4, heads=1).build(SPACES["bosons"])
    batches, step = [], model.step

    def recorded(tokens: Tensor | None, state: Any) -> tuple[Conditionals, Any]:
        conditionals, state = step(tokens, state)
        batches.append(len(conditionals.log_p))
        return conditionals, state

    monkeypatch.setattr(model, "step", recorded)
    unbounded = TreeSampler(n_samples=10**6).build(model).sample(seeded(0))
    assert len(batches) == 4
    assert max(batches) > 10
    batches.clear()
    bounded = TreeSampler(n_samples=10**6, max_frontier=max_frontier).build(model).sample(seeded(0))
    assert max(batches) == max_frontier
    assert bounded.n_distinct == unbounded.n_distinct == 35
    # Depth first: the result is in lexicographic order, whatever was cut.
    ranks = model.hilbert.rank(bounded.configurations)
    assert ranks.equal(ranks.sort().values)


@pytest.mark.parametrize("target", [30, 300, 1500])
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_number_of_distinct_configurations_is_near_its_target(target: int, scale: float) -> None:
    model = peaked(bosons(8, 8), scale=scale)  # 6435 configurations
    for seed in range(3):
        samples = TreeSampler(n_distinct=target).build(model).sample(seeded(seed))
        assert samples.n_distinct == pytest.approx(target, rel=0.15 if target > 100 else 0.35)


@pytest.mark.usefixtures("unchecked")  # for speed
def test_samples_of_a_target_are_drawn_from_psi_squared() -> None:
    """The number of samples comes from pilot runs; the run itself must not know them."""
    model = peaked(SPACES["bosons"])
    p, generator = probabilities(model).numpy(), seeded(0)
    samples = [TreeSampler(n_distinct=10).build(model).sample(generator) for _ in range(150)]
    assert np.mean([s.n_distinct for s in samples]) == pytest.approx(10, rel=0.15)
    f = np.linspace(0, 1, 35)
    means = np.array([s.weights.numpy() @ f[model.hilbert.rank(s.configurations).numpy()] for s in samples])
    assert abs(means.mean() - p @ f) < SIGMAS * means.std() / len(means) ** 0.5


def test_a_target_beyond_the_sector_ends_with_all_of_it() -> None:
    model = small_transformer(width=4, layers=2, heads=1).build(SPACES["bosons"])
    samples = TreeSampler(n_distinct=10**4).build(model).sample(seeded(0))
    assert samples.n_distinct == 35


# ------------------------------------------------------------------------------------------ split_counts


def split(count: int, p: list[float], repetitions: int, seed: int = 0) -> np.ndarray:
    counts = torch.full((repetitions,), count)
    rows = torch.tensor(p, dtype=torch.float64).expand(repetitions, -1).clone()
    return split_counts(counts, rows, seeded(seed)).numpy()


SPLITS = [
    [0.3, 0.7],
    [0.2, 0.5, 0.3],
    [0.1, 0.2, 0.3, 0.4],
    [0.05, 0.3, 0.15, 0.4, 0.1],
    [0.0, 0.6, 0.0, 0.4],
    [0.0, 0.0, 0.25, 0.0, 0.5, 0.25],
    [0.4, 0.0, 0.0, 0.0, 0.0, 0.0, 0.6],
]


@pytest.mark.parametrize("p", SPLITS, ids=str)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_small_counts_split_like_a_multinomial(p: list[float], count: int) -> None:
    drawn = split(count, p, 20_000)
    assert (drawn >= 0).all()
    assert (drawn.sum(1) == count).all()
    assert not drawn[:, np.array(p) == 0].any()
    outcomes, counts = np.unique(drawn, axis=0, return_counts=True)
    expected = scipy.stats.multinomial(count, p).pmf(outcomes)
    assert (expected > 0).all()
    # Outcomes that were never drawn are one more bin.
    missing = max(1 - expected.sum(), 0.0)
    assert chi_square(np.append(counts, 0), np.append(expected, missing)) > P_VALUE


@pytest.mark.parametrize("p", SPLITS, ids=str)
@pytest.mark.parametrize("count", [1000, 10**6, 10**12, 10**16, 10**18])
def test_large_counts_have_the_moments_of_a_multinomial(p: list[float], count: int) -> None:
    repetitions = 20_000
    drawn = split(count, p, repetitions, seed=1)
    assert (drawn.sum(1) == count).all()
    q = np.array(p)
    assert not drawn[:, q == 0].any()
    covariance = count * (np.diag(q) - np.outer(q, q))
    scale = np.sqrt(np.diag(covariance)) + (q == 0)
    z = (drawn - count * q) / scale  # rounding, above 2^53, is far below the scale
    assert (np.abs(z.mean(0)) < SIGMAS / repetitions**0.5).all()
    # Products of two standard normal numbers of correlation r scatter by sqrt(1 + r^2) <= sqrt(2).
    deviation = z.T @ z / repetitions - covariance / np.outer(scale, scale)
    assert (np.abs(deviation) < SIGMAS * (2 / repetitions) ** 0.5).all()


@pytest.mark.parametrize("rare", [0, 1, 2])
@pytest.mark.parametrize("count", [10**12, 10**15, 10**18])
def test_rare_choices_of_large_counts_are_poisson(rare: int, count: int) -> None:
    p = [1 / 2, 1 / 2, 1 / 2]
    p[rare] = 3 / count
    drawn = split(count, [x / sum(p) for x in p], 20_000)[:, rare]
    expected = scipy.stats.poisson(3).pmf(np.arange(30))
    assert chi_square(np.bincount(drawn, minlength=30), expected) > P_VALUE


def test_one_choice_takes_all_and_rows_are_independent() -> None:
    counts = torch.tensor([5, 10**12, 1])
    assert split_counts(counts, torch.ones((3, 1), dtype=torch.float64), seeded(0)).tolist() == [[5], [10**12], [1]]
    p = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    expected = [[5, 0, 0], [0, 0, 10**12], [0, 1, 0]]
    assert split_counts(counts, p, seeded(0)).tolist() == expected
    halves = split_counts(torch.full((2,), 10**6), torch.full((2, 2), 0.5, dtype=torch.float64), seeded(0))
    assert halves[0].tolist() != halves[1].tolist()


def test_impossible_choices_stay_impossible_where_probabilities_sum_to_one_in_rounding_only() -> None:
    """Shares such as p / (p + 0) must be exactly 1, or one in a trillion samples leaves the sector."""
    generator = seeded(0)
    p = torch.rand((500, 7), dtype=torch.float64, generator=generator).pow(8)
    p[torch.rand((500, 7), generator=generator) < 0.6] = 0
    p[:, 3] += 1e-3
    p /= p.sum(1, keepdim=True)
    drawn = split_counts(torch.full((500,), 10**12), p, generator)
    assert not drawn[p == 0].any()
    assert (drawn.sum(1) == 10**12).all()


# ---------------------------------------------------------------------------------------------- gumbel


@pytest.mark.parametrize("n_distinct", [1, 2, 5, 20, 34])
def test_gumbel_draws_exactly_as_many_as_wanted(n_distinct: int) -> None:
    model = peaked(SPACES["bosons"])
    for seed in range(10):
        samples = GumbelSampler(n_distinct=n_distinct).build(model).sample(seeded(seed))
        assert samples.n_distinct == samples.n_samples == n_distinct


@pytest.mark.parametrize("n_distinct", [35, 36, 1000])
@every_space
def test_gumbel_takes_a_whole_sector_with_certainty(n_distinct: int, space: HilbertSpace) -> None:
    model = peaked(space)
    samples = GumbelSampler(n_distinct=max(n_distinct, space.dimension)).build(model).sample(seeded(0))
    assert samples.n_distinct == space.dimension
    assert (samples.inclusion_probability == 1).all()
    p = probabilities(model)[space.rank(samples.configurations)]
    torch.testing.assert_close(samples.weights, p, rtol=1e-12, atol=0)


def inclusion_by_brute_force(p: np.ndarray, n_distinct: int) -> np.ndarray:
    """Probability of each outcome to be among n_distinct successive draws without replacement, all orders summed.

    Gumbel top-k draws so (Yellott's theorem): the first outcome with p, the next with p among what is left, ...
    """
    included = np.zeros(len(p))

    def visit(left: list[int], chosen: list[int], weight: float) -> None:
        if len(chosen) == n_distinct:
            included[chosen] += weight
            return
        total = p[left].sum()
        for outcome in left:
            visit([other for other in left if other != outcome], [*chosen, outcome], weight * p[outcome] / total)

    visit(list(range(len(p))), [], 1.0)
    return included


def gumbel_draws(model: Transformer, n_distinct: int, repetitions: int, seed: int = 0) -> list[Samples]:
    generator, sampler = seeded(seed), GumbelSampler(n_distinct=n_distinct)
    return [sampler.build(model).sample(generator) for _ in range(repetitions)]


@pytest.mark.usefixtures("unchecked")  # for speed
@pytest.mark.parametrize("n_distinct", [1, 3, 5])
def test_gumbel_includes_configurations_as_successive_draws_without_replacement(n_distinct: int) -> None:
    model, repetitions = peaked(bosons(3, 2), scale=30.0), 700  # 6 configurations
    p = probabilities(model).numpy()
    assert p.max() > 5 * p.min()
    expected = inclusion_by_brute_force(p, n_distinct)
    assert expected.sum() == pytest.approx(n_distinct)
    included = np.zeros(6)
    for samples in gumbel_draws(model, n_distinct, repetitions):
        included[model.hilbert.rank(samples.configurations)] += 1
    error = np.sqrt(expected * (1 - expected) / repetitions)
    assert (np.abs(included / repetitions - expected) < SIGMAS * error + 1e-12).all()
    if n_distinct == 1:
        np.testing.assert_allclose(expected, p)
        assert chi_square(included, p) > P_VALUE


@pytest.mark.usefixtures("unchecked")  # for speed
@pytest.mark.parametrize(("n_distinct", "scale"), [(2, 3.0), (12, 12.0), (30, 3.0)])
def test_gumbel_estimates_are_unbiased(n_distinct: int, scale: float) -> None:
    """Before normalisation: the mean of sum p / q f is <f>, for every f, and 1 for f = 1 (arXiv:2002.06043)."""
    model, repetitions = peaked(SPACES["bosons"], scale=scale), 400
    p = probabilities(model).numpy()
    rows = np.arange(35)
    functions = {
        "1": np.ones(35),
        "rank": rows / 34,
        "likely": (p > np.median(p)).astype(float),
        "unlikely": (p <= np.median(p)).astype(float),
        "alternating": (-1.0) ** rows,
        "1/p": 1 / (35 * p),
    }
    estimates = {name: [] for name in functions}
    for samples in gumbel_draws(model, n_distinct, repetitions):
        ranks = model.hilbert.rank(samples.configurations).numpy()
        ratio = p[ranks] / samples.inclusion_probability.numpy()
        np.testing.assert_allclose(samples.weights, ratio / ratio.sum(), rtol=1e-9)
        for name, f in functions.items():
            estimates[name].append(ratio @ f[ranks])
    for name, f in functions.items():
        if name == "1/p" and n_distinct < 30:
            continue  # tails too heavy for a standard error of so few draws
        mean, error = np.mean(estimates[name]), np.std(estimates[name]) / repetitions**0.5
        assert abs(mean - p @ f) < SIGMAS * error, name


def test_gumbel_noise_has_the_distribution_of_gumbel() -> None:
    noise = gumbel(torch.zeros(20_000, dtype=torch.float64), seeded(0)).numpy()
    assert scipy.stats.kstest(noise, scipy.stats.gumbel_r.cdf).pvalue > P_VALUE


def test_keys_conditioned_on_their_maximum() -> None:
    """The largest key moves to its place, the order stays, impossible children stay at minus infinity."""
    generator = seeded(0)
    keys = torch.randn((400, 5), dtype=torch.float64, generator=generator)
    keys[torch.rand((400, 5), generator=generator) < 0.3] = -math.inf
    keys[:, 2] = keys[:, 2].clamp(min=-3)
    maximum = 3 * torch.randn(400, dtype=torch.float64, generator=generator)
    moved = conditioned_on_maximum(keys, maximum)
    torch.testing.assert_close(moved.max(1).values, maximum, rtol=1e-12, atol=1e-12)
    assert (moved.argmax(1) == keys.argmax(1)).all()
    assert (moved.isinf() == keys.isinf()).all()
    assert not moved.isnan().any()
    # The plain form of the same map, -log(exp(-maximum) - exp(-top) + exp(-key)), where nothing cancels.
    top = keys.max(1, keepdim=True).values
    plain = -torch.log((-maximum[:, None]).exp() - (-top).exp() + (-keys).exp())
    finite = keys.isfinite()
    torch.testing.assert_close(moved[finite], plain[finite], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sampler", [TreeSampler(n_samples=10**9), GumbelSampler(n_distinct=34)], ids=repr)
def test_tiny_probabilities_stay_finite(sampler: Sampler) -> None:
    """Conditionals down to exp(-700) and below, as late in an optimisation."""
    model = peaked(SPACES["bosons"], scale=4000.0)
    log_modulus = log_psi_in_chunks(model, model.hilbert.configurations()).log_modulus
    assert log_modulus.min() < -400
    samples = sampler.build(model).sample(seeded(0))
    assert samples.weights.isfinite().all()
    assert samples.log_modulus.isfinite().all()
    assert samples.weights.sum().item() == pytest.approx(1)
    assert model.hilbert.contains(samples.configurations).all()


def test_samplers_work_in_large_spaces() -> None:
    """Many words of keys, dimensions beyond 64 bits."""
    model = small_transformer(width=4, heads=1).build(spins(100, 0))
    for sampler in (TreeSampler(n_samples=20), TreeSampler(n_distinct=20), GumbelSampler(n_distinct=20)):
        samples = sampler.build(model).sample(seeded(0))
        model.hilbert.check(samples.configurations)
        assert samples.n_distinct == pytest.approx(20, abs=1)
        torch.testing.assert_close(samples.log_modulus, model.log_psi(samples.configurations).log_modulus)
        assert isinstance(model, AutoregressiveWavefunction)
        assert isinstance(model, nn.Module)
