"""The line of energies against variances of a run."""

import numpy as np
import pytest

from nqs.estimators.extrapolation import zero_variance


def course(n_steps: int, seed: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """States |0> + eps |1> of a two-level system with energies -3 and -1, eps^2 from 0.2 to 0.01, with noise."""
    rng = np.random.default_rng(seed)
    weight = np.geomspace(0.2, 0.01, n_steps)
    p = weight / (1 + weight)  # of the excited level
    energy, variance = -3 + 2 * p, 4 * p * (1 - p)
    return energy + noise * rng.normal(size=n_steps), variance * (1 + 0.1 * rng.normal(size=n_steps))


def test_two_levels() -> None:
    energy, variance = course(400, 0, 0.0)
    found = zero_variance(energy, variance)
    assert found is not None
    assert found.energy == pytest.approx(-3, abs=3e-3)
    assert found.slope == pytest.approx(0.5, rel=0.1)  # dE / d sigma^2 = 1 / gap
    assert found.variances[0] < found.variances[1]


def test_errors_cover_the_limit_of_repeated_runs() -> None:
    """On a straight line with noise nearly all lie within two quoted errors, and these are no larger than the way."""
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        variance = np.linspace(1.0, 0.2, 300)
        found = zero_variance(-5 + 0.3 * variance + 0.02 * rng.normal(size=300), variance)
        assert found is not None
        assert 0.02 < found.error < 0.1  # the way is 0.06
        covered += abs(found.energy + 5) < 2 * found.error
    assert covered >= 194


@pytest.mark.parametrize("steps", [0, 5, 40])
def test_short_runs_have_none(steps: int) -> None:
    assert zero_variance(*course(steps, 0, 0.0)) is None


def test_no_line() -> None:
    rng = np.random.default_rng(0)
    assert zero_variance(np.full(300, -2.0), np.ones(300)) is None
    assert zero_variance(-2 + 0.01 * rng.normal(size=300), np.linspace(1, 0.5, 300) * 0 + 1) is None
    variance = np.linspace(1, 0.1, 300)
    assert zero_variance(-2 - 0.1 * variance, variance) is None  # energies that rise as the variance falls
    energy, variance = course(400, 0, 0.0)
    energy[5] = np.nan
    assert zero_variance(energy, variance) is not None
