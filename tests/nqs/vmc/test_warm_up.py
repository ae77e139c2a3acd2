"""Runs whose first steps are made from samples."""

from pathlib import Path

import numpy as np
import pytest
from networks import small_transformer

from nqs import VMC, Archive, recipes, resume
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import bosons
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.recipes.samplers import EXHAUSTIVE_ROWS
from nqs.recipes.steps import LONG_SUM
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.vmc import WarmUp

RING = BoseHubbard(chain(4), 4, U=4.0)
SMALL = small_transformer()


def warm(share: float) -> WarmUp:
    return WarmUp(share=share, sampler=TreeSampler(n_distinct=10), optimiser=recipes.warm_up_optimiser())


WARM = warm(0.5)


def vmc(warm_up: WarmUp | None = WARM) -> VMC:
    return VMC(RING, SMALL.build(RING.hilbert), ExhaustiveSampler(), warm_up=warm_up)


def test_first_steps_are_sampled_and_the_others_are_sums() -> None:
    history = vmc().run(6, progress=False).history
    assert (history["error"][:3] > 0).all()
    assert (history["distinct"][:3] < 30).all()
    assert (history["error"][3:] == 0).all()
    assert (history["distinct"][3:] == 35).all()
    assert (history["learning_rate"][:3] <= 0.3).all()


@pytest.mark.parametrize("stopped", [2, 4, 6])
@pytest.mark.usefixtures("unchecked")
def test_an_interrupted_run_goes_on_bit_for_bit(stopped: int, tmp_path: Path) -> None:
    """Within the warm-up, between the two, and after it."""
    whole, parts = tmp_path / "whole.h5", tmp_path / "parts.h5"
    vmc().run(8, archive=whole, progress=False)

    class Stop:
        def step(self, row: dict[str, float]) -> None:
            if row["step"] == stopped - 1:
                raise KeyboardInterrupt

        def close(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        vmc().run(8, archive=parts, progress=False, watch=[Stop()])
    assert Archive.open(parts).step == stopped
    resume(parts, progress=False)
    first, second = Archive.open(whole), Archive.open(parts)
    np.testing.assert_array_equal(first.history["energy"], second.history["energy"])
    assert first.result == second.result
    assert first.config == second.config


def test_a_share_is_part_of_a_run() -> None:
    for share in (0.0, 1.0, -0.5):
        with pytest.raises(ValueError, match=r"share=.*above 0 and below 1"):
            warm(share)
    assert WARM.steps(7) == 4


def test_the_last_step_is_never_one_of_the_warm_up() -> None:
    for steps, expected in ((1, 0), (2, 1), (100, 99)):
        assert warm(0.999).steps(steps) == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_long_sums_are_warmed_up(device: str) -> None:
    def tiny(dimension: int) -> Transformer:
        return small_transformer(width=2, heads=1, mlp_ratio=1, phase="zero").build(bosons(dimension, 1))

    short, long = tiny(LONG_SUM[device] - 1), tiny(LONG_SUM[device])
    assert recipes.warm_up(short, device) is None
    chosen = recipes.warm_up(long, device)
    assert chosen is not None
    assert chosen.sampler.n_distinct is not None
    assert chosen.sampler.n_distinct < LONG_SUM[device] / 2
    assert recipes.optimiser(chosen.optimiser, exact=False) == chosen.optimiser  # nothing left open
    positive = recipes.steps(long, device, exact=True)
    assert 0 < chosen.steps(positive) < positive
    long.has_phase = True  # samples would teach wrong signs: more steps instead
    assert recipes.warm_up(long, device) is None
    assert recipes.steps(long, device, exact=True) == 2 * positive
    sampled = tiny(EXHAUSTIVE_ROWS[device] + 1)
    assert recipes.training_sampler(sampled, device) != ExhaustiveSampler()
    assert recipes.warm_up(sampled, device) is None


def test_whoever_gives_a_sampler_gets_no_warm_up() -> None:
    h = BoseHubbard(chain(6), 6, U=4.0)  # 462 configurations
    assert VMC(h, SMALL.build(h.hilbert), ExhaustiveSampler()).warm_up is None
    given = VMC(h, SMALL.build(h.hilbert), warm_up=WARM)
    assert given.warm_up == WARM


def test_networks_have_more_parameters_than_the_rows_of_a_sum() -> None:
    wide = recipes.network(recipes.NetworkOptions(), "learned", 16_000, bosons(16, 2), "cuda")
    small = recipes.network(recipes.NetworkOptions(), "learned", 100, bosons(16, 2), "cuda")
    assert wide.width > small.width
    assert wide.build(bosons(16, 2)).n_parameters > 2 * 16_000
    chosen = recipes.NetworkOptions(width=12)
    for minutes in (None, 0.01):
        assert recipes.network(chosen, "learned", 16_000, bosons(16, 2), "cuda", minutes).width == 12


def test_a_time_budget_makes_runs_shorter_and_networks_narrower() -> None:
    """By an estimate, so that a repeated command chooses the same run."""
    wishes, orbits = recipes.NetworkOptions(), 2_500
    networks = [
        recipes.network(wishes, "zero", orbits, bosons(20, 1), "cpu", minutes) for minutes in (None, 100.0, 0.5)
    ]
    assert networks[0] == networks[1]
    assert networks[2].width < networks[0].width
    psi = networks[0].build(bosons(orbits, 1))
    usual = recipes.steps(psi, "cpu", exact=True)
    assert recipes.steps_within(None, psi, ExhaustiveSampler(), "cpu") == (usual, usual)
    assert recipes.steps_within(1e3, psi, ExhaustiveSampler(), "cpu") == (usual, usual)
    fewer, wanted = recipes.steps_within(50.0, psi, ExhaustiveSampler(), "cpu")
    least, _ = recipes.steps_within(1e-3, psi, ExhaustiveSampler(), "cpu")
    assert 1 < least < fewer < wanted == usual
    assert recipes.steps_within(1e-3, psi, TreeSampler(n_distinct=9), "cpu")[0] >= least


def test_estimates_grow_with_what_a_step_is_made_from() -> None:
    first = recipes.seconds(1_000, 1_000, 18_000, 20, "cpu")
    assert recipes.seconds(2_000, 2_000, 18_000, 20, "cpu") > 2 * first
    assert recipes.seconds(1_000, 2_000, 18_000, 20, "cpu") > first > recipes.seconds(1_000, 1_000, 5_000, 20, "cpu")
    assert recipes.seconds(1_000, 1_000, 18_000, 20, "cuda") < first + 1.0
