"""Runs whose first steps are made from samples."""

from pathlib import Path

import numpy as np
import pytest

from nqs import VMC, Archive, recipes, resume
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import bosons
from nqs.lattice import chain
from nqs.models import Transformer, TransformerConfig
from nqs.optimisation import StochasticReconfiguration
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.vmc.warm_up import WarmUp

RING = BoseHubbard(chain(4), 4, U=4.0)
SMALL = TransformerConfig(width=8, layers=1, heads=2)
WARM = WarmUp(share=0.5, sampler=TreeSampler(n_distinct=10))


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
            WarmUp(share=share, sampler=TreeSampler(n_distinct=10))
    assert WARM.steps(7) == 4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_long_sums_are_warmed_up(device: str) -> None:
    def tiny(dimension: int) -> Transformer:
        return Transformer(bosons(dimension, 1), width=2, layers=1, heads=1, mlp_ratio=1, phase="zero")

    short, long = tiny(recipes.LONG_SUM[device] - 1), tiny(recipes.LONG_SUM[device])
    assert recipes.warm_up(short, device) is None
    chosen = recipes.warm_up(long, device)
    assert chosen is not None
    assert chosen.sampler.n_distinct is not None
    assert chosen.sampler.n_distinct < recipes.LONG_SUM[device] / 2
    assert chosen.optimiser.completed(exact=False) == chosen.optimiser  # nothing left open
    assert recipes.steps(short, device, exact=True) == recipes.EXACT_STEPS[device]
    assert recipes.steps(long, device, exact=True) == recipes.LONG_SUM_STEPS[device]
    long.has_phase = True
    assert recipes.warm_up(long, device) is None
    assert recipes.steps(long, device, exact=True) == 2 * recipes.LONG_SUM_STEPS[device]
    assert recipes.warm_up(tiny(recipes.EXHAUSTIVE_ROWS[device] + 1), device) is None  # all steps are sampled


def test_whoever_gives_a_sampler_gets_no_warm_up() -> None:
    h = BoseHubbard(chain(6), 6, U=4.0)  # 462 configurations
    assert VMC(h, SMALL.build(h.hilbert), ExhaustiveSampler()).warm_up is None
    given = VMC(h, SMALL.build(h.hilbert), warm_up=WARM)
    assert given.warm_up == WARM


def test_networks_are_wide_where_sums_have_many_rows() -> None:
    open_width = recipes.transformer()
    assert open_width.width is None
    assert recipes.sized(open_width, 100, 8, "cpu") == TransformerConfig(width=recipes.WIDTH, dtype="mixed")
    wide = recipes.sized(open_width, recipes.WIDE_ROWS, 16, "cuda")
    assert isinstance(wide, TransformerConfig)
    assert wide.width == recipes.WIDE
    chosen = TransformerConfig(width=12)
    assert recipes.sized(chosen, recipes.WIDE_ROWS, 16, "cuda", minutes=0.01) is chosen
    optimiser = StochasticReconfiguration()
    assert VMC(RING, Transformer(RING.hilbert, open_width), optimiser=optimiser).wavefunction.config.width == 32


def test_a_time_budget_makes_runs_shorter_and_networks_narrower() -> None:
    """By an estimate, so that a repeated command chooses the same run."""
    open_width, orbits = recipes.transformer(phase="zero"), 2_500
    widths = []
    for minutes in (None, 100.0, 0.5):
        model = recipes.sized(open_width, orbits, 20, "cpu", minutes)
        assert isinstance(model, TransformerConfig)
        widths.append(model.width)
    assert widths == [recipes.WIDTH, recipes.WIDTH, recipes.NARROW]
    psi = Transformer(bosons(orbits, 1), open_width)
    usual = recipes.steps(psi, "cpu", exact=True)
    assert recipes.steps_within(None, psi, ExhaustiveSampler(), "cpu") == (usual, usual)
    assert recipes.steps_within(1e3, psi, ExhaustiveSampler(), "cpu") == (usual, usual)
    fewer, wanted = recipes.steps_within(50.0, psi, ExhaustiveSampler(), "cpu")
    assert recipes.LEAST_STEPS < fewer < wanted == usual
    assert recipes.steps_within(1e-3, psi, ExhaustiveSampler(), "cpu") == (recipes.LEAST_STEPS, usual)
    assert recipes.steps_within(1e-3, psi, TreeSampler(n_distinct=9), "cpu")[0] >= recipes.LEAST_STEPS


def test_estimates_grow_with_what_a_step_is_made_from() -> None:
    first = recipes.seconds(1_000, 1_000, 18_000, 20, "cpu")
    assert recipes.seconds(2_000, 2_000, 18_000, 20, "cpu") > 2 * first
    assert recipes.seconds(1_000, 2_000, 18_000, 20, "cpu") > first > recipes.seconds(1_000, 1_000, 5_000, 20, "cpu")
    assert recipes.seconds(1_000, 1_000, 18_000, 20, "cuda") < first + recipes.OVERHEAD["cuda"]
