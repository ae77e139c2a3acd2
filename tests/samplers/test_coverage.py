"""Beam search, branches and restrictions against enumeration; samples given a prefix."""

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from networks import small_transformer

from nqs.estimators.diagnostics import diagnostics
from nqs.hilbert import HilbertSpace, bosons, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import Symmetrised, Transformer
from nqs.samplers import CoverageSampler, TreeSampler
from nqs.samples import Samples
from nqs.symmetry import translations

SPACES = {"bosons": bosons(4, 4), "electrons": spinful_fermions(3, 2, 1), "free spins": spins(5)}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def peaked(space: HilbertSpace) -> Transformer:
    model = small_transformer(seed=2).build(space)
    with torch.no_grad():
        model.head.weight.mul_(8)
    return model.requires_grad_(False)


def probabilities(model: Transformer) -> np.ndarray:
    return (2 * model.log_psi(model.hilbert.configurations()).log_modulus).exp().numpy()


def rows(space: HilbertSpace, samples: Samples) -> list[int]:
    return space.rank(samples.configurations).tolist()


@every_space
def test_a_wide_beam_is_the_whole_sector(space: HilbertSpace) -> None:
    model = peaked(space)
    samples = CoverageSampler(n_distinct=space.dimension).build(model).sample(seeded(0))
    assert samples.is_exhaustive
    np.testing.assert_allclose(samples.weights, probabilities(model)[rows(space, samples)], rtol=1e-10)


@every_space
@pytest.mark.parametrize("k", [1, 3, 8])
def test_beams_keep_the_most_probable_prefixes(space: HilbertSpace, k: int) -> None:
    """Against a beam search by sums over the enumerated distribution."""
    model = peaked(space)
    p, n = probabilities(model), space.configurations().numpy()
    beam = [()]
    for site in range(space.n_sites):
        children = [(*prefix, token) for prefix in beam for token in range(space.local_dim)]
        weight = {c: p[(n[:, : site + 1] == c).all(1)].sum() for c in children}
        beam = sorted((c for c in children if weight[c] > 0), key=lambda c: -weight[c])[:k]
    samples = CoverageSampler(n_distinct=k).build(model).sample(seeded(0))
    assert samples.configurations.tolist() == [list(c) for c in beam]
    assert samples.weights.sum().item() == pytest.approx(1)
    amplitudes = model.log_psi(samples.configurations)
    torch.testing.assert_close(samples.log_modulus, amplitudes.log_modulus)
    torch.testing.assert_close(samples.phase, amplitudes.phase)
    assert diagnostics(samples, model)["weight"] == pytest.approx(
        p[space.rank(torch.tensor(beam).byte()).numpy()].sum()
    )
    assert samples.inclusion_probability.isnan().all()
    assert samples.standard_error(samples.log_modulus).isnan()


def test_one_branch_is_the_greedy_configuration() -> None:
    model = peaked(SPACES["bosons"])
    greedy, state, tokens = [], model.start(1), None
    for _ in range(4):
        conditionals, state = model.step(tokens, state)
        tokens = conditionals.log_p.argmax(1).to(torch.uint8)
        greedy.append(int(tokens))
    samples = CoverageSampler(n_distinct=35, branches=1).build(model).sample(seeded(0))
    assert samples.configurations.tolist() == [greedy]
    two = CoverageSampler(n_distinct=35, branches=2).build(model).sample(seeded(0))
    assert greedy in two.configurations.tolist()
    assert 2 <= two.n_distinct <= 8  # the last site is determined


@every_space
def test_given_states_restrict_the_search(space: HilbertSpace) -> None:
    model, given = peaked(space), {1: 1, 2: 0}
    samples = CoverageSampler(n_distinct=space.dimension, given=given).build(model).sample(seeded(0))
    n = space.configurations()
    expected = ((n[:, 1] == 1) & (n[:, 2] == 0)).nonzero()[:, 0]
    assert sorted(rows(space, samples)) == expected.tolist()
    p = probabilities(model)[rows(space, samples)]
    np.testing.assert_allclose(samples.weights, p / p.sum(), rtol=1e-10)


@every_space
@pytest.mark.parametrize("length", [1, 2])
def test_samples_given_a_prefix_have_the_conditional_distribution(space: HilbertSpace, length: int) -> None:
    model, prefix = peaked(space), (1, 0)[:length]
    samples = TreeSampler(n_samples=10**5, prefix=prefix).build(model).sample(seeded(0))
    n, p = space.configurations(), probabilities(model)
    p = np.where((n[:, :length] == torch.tensor(prefix)).all(1), p, 0)
    p /= p.sum()
    counts = np.zeros_like(p)
    counts[rows(space, samples)] = samples.counts
    kept = p * 1e5 > 5
    assert counts[p == 0].sum() == 0
    if kept.sum() > 1:
        assert scipy.stats.chisquare(counts[kept], p[kept] * counts[kept].sum() / p[kept].sum()).pvalue > 1e-4
    np.testing.assert_allclose(samples.probability, p[rows(space, samples)], rtol=1e-10)
    torch.testing.assert_close(samples.log_modulus, model.log_psi(samples.configurations).log_modulus)


def test_a_whole_configuration_as_prefix() -> None:
    samples = TreeSampler(n_samples=7, prefix=(4, 0, 0, 0)).build(peaked(SPACES["bosons"])).sample(seeded(0))
    assert samples.configurations.tolist() == [[4, 0, 0, 0]]
    assert samples.counts.tolist() == [7]
    assert samples.probability.tolist() == [1.0]


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: CoverageSampler(n_distinct=0), "n_distinct=0: it must be at least 1"),
        (lambda: CoverageSampler(n_distinct=1, branches=0), "branches=0: it must be at least 1"),
        (lambda: CoverageSampler(n_distinct=36).build(peaked(SPACES["bosons"])), "n_distinct=36 of 35 configurations"),
        (
            lambda: CoverageSampler(n_distinct=5, given={0: 3, 3: 2}).build(peaked(SPACES["bosons"])),
            r"no configuration has the given local states \{0: 3, 3: 2\}",
        ),
        (lambda: CoverageSampler(n_distinct=5, given={4: 0}).build(peaked(SPACES["bosons"])), "site 4 of 4"),
        (lambda: CoverageSampler(n_distinct=5, given={0: 5}).build(peaked(SPACES["bosons"])), "states 0 to 4"),
        (lambda: TreeSampler(n_samples=5, prefix=(3, 3)).build(peaked(SPACES["bosons"])), "no configuration has"),
        (lambda: TreeSampler(n_samples=5, prefix=(0,) * 5).build(peaked(SPACES["bosons"])), "site 4 of 4"),
        (
            lambda: CoverageSampler(n_distinct=1, given={3: 4}).build(peaked(SPACES["bosons"])).sample(seeded(0)),
            "no prefix on the beam reaches the given states at site",
        ),
        (
            lambda: TreeSampler(n_samples=5, prefix=(1,)).build(
                Symmetrised(base=small_transformer(), symmetry=translations(chain(4), SPACES["bosons"])).build(
                    SPACES["bosons"]
                )
            ),
            "the orbits of a symmetric state have no prefix",
        ),
    ],
)
def test_errors_say_what_to_do(build: Callable, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()
