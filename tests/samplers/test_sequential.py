"""Sequential Monte Carlo: unbiased island by island, resampling, error bars of particles with common ancestors."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from chains import importance, sequential, trained_alongside
from networks import small_transformer
from torch import Tensor

from nqs.error_bars import error_bar
from nqs.hilbert import Exclusion, HilbertSpace, bosons, spinful_fermions, spins
from nqs.islands import Islands
from nqs.models import Transformer
from nqs.protocols import LogPsi, Wavefunction
from nqs.samplers import Proposal, SequentialSampler
from nqs.samplers.sequential import SequentialSampling, systematic
from nqs.samples import Samples

P_VALUE = 1e-4
NETWORK = small_transformer()
FLAT = trained_alongside(model=NETWORK, n_first=0, power=0.4)
SPACES: dict[str, HilbertSpace] = {
    "bosons": bosons(4, 3),
    "electrons": spinful_fermions(3, 2, 1),
    "spins 1/2": spins(6, 0),
    "grand-canonical bosons": bosons(3, None, n_max=2),
    "blockade": HilbertSpace(6, ("0", "1"), (), (), (Exclusion([[i, i + 1] for i in range(5)]),)),
    "one site": bosons(1, None, n_max=4),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Given(Wavefunction):
    """Random amplitudes, not normalised and not autoregressive; every fifth one is 0."""

    has_phase = True
    normalised = False
    bytes_per_configuration = 8

    def __init__(self, hilbert: HilbertSpace, scale: float = 0.6) -> None:
        super().__init__()
        self.hilbert = hilbert
        values = scale * torch.randn(hilbert.dimension, dtype=torch.float64, generator=seeded(4)) + 1
        self.values = torch.where(torch.arange(hilbert.dimension) % 5 == 3, -torch.inf, values)

    def log_psi(self, n: Tensor) -> LogPsi:
        return LogPsi(self.values[self.hilbert.rank(n)], n.double().sum(1))


def autoregressive(hilbert: HilbertSpace, scale: float = 16.0) -> Transformer:
    """Probabilities over orders of magnitude."""
    psi = small_transformer(seed=2).build(hilbert)
    with torch.no_grad():
        psi.head.weight.mul_(scale)
    return psi


def squares(psi: Wavefunction) -> np.ndarray:
    """|psi|^2 of the whole sector, which need not sum to 1."""
    with torch.no_grad():
        return (2 * psi.log_psi(psi.hilbert.configurations()).log_modulus).exp().numpy()


def island_sums(psi: Wavefunction, samples: Samples) -> np.ndarray:
    """The estimate of |psi|^2 on every configuration by each island, (G, dimension)."""
    islands = samples.islands
    assert islands is not None
    G, dimension = len(islands.rows), psi.hilbert.dimension
    ranks = psi.hilbert.rank(samples.configurations)[islands.rows] + dimension * torch.arange(G)[:, None]
    sums = torch.bincount(ranks.flatten(), islands.weights.flatten(), minlength=G * dimension).view(G, dimension)
    return np.exp(samples.log_norm) * G * sums.numpy()


def chi_square(sums: np.ndarray, expected: np.ndarray) -> float:
    """p-value of the mean of independent vectors (Hotelling); coordinates that hardly occur are merged."""
    rare = (sums > 0).sum(0) < 50
    if rare.any():
        sums = np.column_stack([sums[:, ~rare], sums[:, rare].sum(1)])
        expected = np.append(expected[~rare], expected[rare].sum())
    seen = sums.std(0) > 0
    assert seen.sum() > 1
    np.testing.assert_allclose(sums[:, ~seen].mean(0), expected[~seen], atol=1e-12)
    difference, covariance = (sums.mean(0) - expected)[seen], np.cov(sums[:, seen].T) / len(sums)
    # Sums of normalised estimates may be constant: those combinations have no noise.
    values, vectors = np.linalg.eigh(covariance)
    noisy = values > 1e-9 * values.max()
    assert np.abs(difference @ vectors[:, ~noisy]).max(initial=0) < 1e-3 * expected.sum()
    return scipy.stats.chi2(noisy.sum()).sf(((difference @ vectors[:, noisy]) ** 2 / values[noisy]).sum())


KINDS: dict[str, tuple[Callable[[HilbertSpace], Wavefunction], Proposal]] = {
    "any state, tempered": (Given, FLAT),
    "autoregressive, itself tempered": (autoregressive, Proposal(power=0.4)),
    "autoregressive, another network": (autoregressive, replace(FLAT, power=1.0)),
}


@pytest.mark.usefixtures("unchecked")  # for speed
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resample_below", [0.8, 1.0])
def test_weights_and_the_norm_are_unbiased(kind: str, space: HilbertSpace, resample_below: float) -> None:
    """The mean over islands of five particles each, however biased their ratios are, is |psi|^2."""
    build, proposal = KINDS[kind]
    psi, G = build(space), 1_500
    sampler = SequentialSampler(
        n_samples=5 * G, n_islands=G, n_effective=1, n_batches=1, resample_below=resample_below, proposal=proposal
    )
    sampling = sampler.build(psi)
    if proposal.power < 1 and proposal.model is not None:  # its targets, far from uniform
        sampling.proposal.model.load_state_dict(autoregressive(space).state_dict())
    samples = sampling.sample(seeded(1))
    assert (sampling.resampled > 0.05) == (space.n_sites > 1)
    assert bool(space.contains(samples.configurations).all())
    assert chi_square(island_sums(psi, samples), squares(psi)) > P_VALUE


def test_ancestors_are_chosen_in_proportion_to_their_weights() -> None:
    w = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64)
    total, generator = torch.zeros(2, 4), seeded(0)
    for _ in range(2_000):
        ancestors = systematic(w, generator)
        counts = torch.stack([torch.bincount(row, minlength=4) for row in ancestors])
        assert ((counts - 4 * w).abs() < 1).all()
        total += counts
    torch.testing.assert_close(total.double() / 2_000, 4 * w, rtol=0, atol=4 * 0.5 / 2_000**0.5)


def test_without_resampling_it_is_importance_sampling() -> None:
    psi = Given(spins(8, 0))
    drawn = sequential(n_samples=320, resample_below=0.0, proposal=FLAT).build(psi).sample(seeded(3))
    expected = importance(n_samples=320, proposal=FLAT).build(psi).sample(seeded(3))
    assert drawn.configurations.equal(expected.configurations)
    torch.testing.assert_close(drawn.weights, expected.weights, rtol=1e-10, atol=1e-14)
    assert drawn.log_norm == pytest.approx(expected.log_norm)
    assert drawn.islands.correlation(drawn.log_modulus[:, None]) < 2.5


@pytest.mark.usefixtures("unchecked")
def test_resampling_keeps_tempered_particles_effective_on_many_sites() -> None:
    """Weights of tempered conditionals lose most particles on the way; resampled ones are kept where they count."""
    psi, found = autoregressive(spins(20), 40.0), []
    for resample_below in (0.0, 0.5):
        sampler = sequential(
            n_samples=3_200, n_effective=1, n_batches=1, resample_below=resample_below, proposal=Proposal(power=0.3)
        )
        found.append(sampler.build(psi).sample(seeded(0)).n_effective)
    assert found[1] > 2 * found[0]


@pytest.mark.usefixtures("unchecked")
def test_error_bars_count_common_ancestors() -> None:
    """95 % intervals hold the exact mean; those of as many independent particles are too small."""
    psi = autoregressive(spins(10))
    sampling = sequential(
        n_samples=640, n_effective=1, n_batches=1, resample_below=1.0, proposal=Proposal(power=0.3)
    ).build(psi)
    p, f = squares(psi), torch.randn(1024, dtype=torch.float64, generator=seeded(9))
    f = f + 2 * psi.hilbert.configurations()[:, 0]  # of the first site, whose ancestors are fewest
    hits, alone, generator = [], [], seeded(0)
    for _ in range(200):
        samples = sampling.sample(generator)
        x = f[psi.hilbert.rank(samples.configurations)]
        for counted, of in ((hits, samples), (alone, replace(samples, islands=None, autocorrelation_time=None))):
            mean, error = error_bar(of, x)
            counted.append(abs(mean.item() - p @ f.numpy()) < 1.96 * error.item())
    assert np.mean(hits) > 0.91
    assert np.mean(alone) < np.mean(hits) - 0.05


def test_few_islands_with_weight_have_no_error_bar() -> None:
    rows = torch.arange(40).view(20, 2)
    weights = torch.full((20, 2), 1e-6, dtype=torch.float64)
    weights[:5] = (1 - 30e-6) / 10
    islands = Islands(rows, weights)
    assert islands.number == pytest.approx(5, rel=1e-4)
    assert np.isnan(islands.correlation(torch.randn(40, 1, dtype=torch.float64)))


def test_independent_particles_count_as_such() -> None:
    """About one, widened by Student's t; copies of one particle count as one."""
    generator, found = seeded(0), []
    weights = torch.full((40, 50), 1 / 2000, dtype=torch.float64)
    independent = Islands(torch.arange(2000).view(40, 50), weights)
    for _ in range(50):
        found.append(independent.correlation(torch.randn(2000, 1, dtype=torch.float64, generator=generator)))
    assert min(found) >= 1
    assert np.mean(found) == pytest.approx(1.13, abs=0.1)
    copies = Islands(torch.arange(40)[:, None].expand(40, 50), weights)
    assert copies.correlation(torch.randn(40, 1, dtype=torch.float64)) == pytest.approx(50 * 1.07, rel=0.05)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"n_islands": 7}, r"n_islands=7 of n_samples=100: choose at least 8, .* two particles or more in each"),
        ({"n_islands": 51}, r"n_islands=51 of n_samples=100"),
        ({"resample_below": 1.5}, r"resample_below=1.5: give a fraction from 0 to 1"),
        ({"resample_below": -0.1}, r"resample_below=-0.1: give a fraction"),
    ],
)
def test_errors_say_what_to_do(options: dict[str, float], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        sequential(n_samples=100, **options)


def test_a_state_without_conditionals_needs_a_model() -> None:
    with pytest.raises(TypeError, match="Given is not: give the proposal a `model`"):
        sequential(n_samples=100).build(Given(bosons(4, 3)))
    assert isinstance(sequential(n_samples=100, proposal=FLAT).build(Given(bosons(4, 3))), SequentialSampling)
