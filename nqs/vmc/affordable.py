"""Fewer distinct configurations where a single draw of the wanted number would take longer than the time that is left.

The time of a draw with its local energies is measured, first with few configurations, then with four times as many as
long as that is quick, so that the time limit bounds runs whose first step alone would exceed it.
"""

import math
import sys
import time
from collections.abc import Mapping

import numpy as np
import torch

from nqs.protocols import Objective, SamplerConfig, Wavefunction, distinct_of, with_distinct
from nqs.runtime.distributed import communicator
from nqs.runtime.interruption import TimeLimit
from nqs.vmc.steps import RunningStage

FIRST, GROWTH = 1, 4  # distinct configurations of the first measurement, and factor to the next one
TRIALS = 0.25  # fraction of the time that measurements may take, besides the first draw and its repetition
SHORT = 2.0  # seconds of a draw that is never made smaller
OF_STEP = 0.2  # fraction of the time that is left for one step; an update takes up to as long as the draw
OF_BATCH = 0.4  # the same for a batch of the evaluation, which may take all that is left but for the observables


def affordable(
    sampler: SamplerConfig,
    wavefunction: Wavefunction,
    objective: Objective,
    limit: TimeLimit,
    device: torch.device,
    fraction: float,
    known: tuple[float, float] | None = None,
) -> SamplerConfig:
    """The sampler, or one of fewer distinct configurations, so that a draw takes at most a fraction of the time left.

    Samplers without a number of distinct configurations are returned as they are, and so are all without a limit.

    Args:
        known: seconds and distinct configurations of a draw that was measured.
    """
    wanted = distinct_of(sampler)
    if wanted is None or limit.seconds == math.inf:
        return sampler
    allowed = max(SHORT, fraction * limit.left)
    begin, generator = time.monotonic(), torch.Generator(device).manual_seed(0)  # the run's random numbers stay
    if known is not None:
        seconds, distinct = known
    else:
        number, repeated = min(FIRST, wanted), False
        while True:
            before = time.monotonic()
            samples = with_distinct(sampler, number).build(wavefunction).sample(generator)
            objective.local(wavefunction, samples)
            seconds, spent = communicator().numbers(time.monotonic() - before, time.monotonic() - begin)
            distinct = number
            if seconds * wanted / distinct <= allowed:
                break
            if GROWTH * number < wanted and spent + GROWTH * seconds <= TRIALS * allowed:
                number *= GROWTH
            elif number == FIRST and not repeated and spent + seconds <= allowed:  # the first draw also fills caches
                repeated, begin = True, before + seconds
            else:
                break
    if seconds * wanted / distinct <= allowed:
        return sampler
    return with_distinct(sampler, max(1, math.floor(distinct * allowed / seconds)))


def last_draw(history: Mapping[str, np.ndarray], images: float = 1.0) -> tuple[float, float] | None:
    """Seconds and distinct configurations of the last step; None before the first.

    Args:
        images: by how many more images than in a step amplitudes are averaged: a draw takes so many times as long.
    """
    if not len(history.get("seconds", ())):
        return None
    return float(history["seconds"][-1]) * images, float(history["distinct"][-1])


def fit_step_into(
    limit: TimeLimit, running: RunningStage, sampler: SamplerConfig, history: Mapping[str, np.ndarray], progress: bool
) -> None:
    """Give a stage a smaller sampler where a single step would take longer than the time that is left.

    Args:
        sampler: configuration of the sampler of the stage.
        history: whose last step is the measurement, if there is one.
        progress: print what was changed.
    """
    device = next(running.wavefunction.parameters()).device
    chosen = affordable(sampler, running.wavefunction, running.objective, limit, device, OF_STEP, last_draw(history))
    if chosen == sampler:
        return
    running.sampler = chosen.build(running.wavefunction)
    left = limit.left
    if progress:
        print(
            f"{distinct_of(chosen)} instead of {distinct_of(sampler)} distinct configurations in each step: "
            f"{left:.0f} s are left",
            file=sys.stderr,
        )
