"""Number of steps and estimates of their time, to fit a run into a time limit.

Times are estimated and not measured, so that a repeated command chooses the same run and continues it. Dictionaries
hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

import torch

from nqs.protocols import SamplerConfig, Wavefunction, distinct_of, max_distinct
from nqs.recipes.samplers import (
    DISTINCT,
    evaluations,
    is_exhaustive,
    is_large,
)

# Sampled, of about a second each (DISTINCT in nqs.recipes.samplers). The Heisenberg ring of 14 sites, 200 samples,
# ended at 4.5e-4 and 2.4e-4 after 50 and 100 (`python scripts/recipe_study.py --problems heisenberg-14 --distinct 200
# --sampled --steps 50`): more end lower, and time bounds them.
STEPS = {"cpu": 200, "cuda": 400}
# Large systems (nqs.recipes.samplers.is_large): time for a run, in minutes, of which the evaluation has a fraction; and
# steps where a run is not sized by its time (`VMC.run`). More time ends lower: five and ten minutes are about those of
# docs/accuracy.md. There evaluations left error bars of 0.9e-3 at an error of 6.7e-3 (6x6 Heisenberg lattice) and
# 0.3e-3 at 2.1e-3 (3x4 Hubbard lattice) on a CPU, 3.3e-5 at 2.0e-4 on a GPU (10x10 Heisenberg lattice), a sixth and
# less; half of them would take four times the fraction. In five minutes of a CPU these two lattices made 618 and 482
# steps.
MINUTES, EVALUATION_FRACTION = {"cpu": 5.0, "cuda": 10.0}, 0.12
STEPS_OF_MANY = {"cpu": 600, "cuda": 4_000}
# Sums over the whole sector converge geometrically: eight bosons on a ring end at machine precision after 80 steps, the
# 2x4 Hubbard lattice (U = 8) at 3.4e-9 on a CPU and 2.0e-9 on a GPU. More slowly where there are fewer parameters than
# amplitudes and phases to find: N2 in STO-3G, 1,824 determinants and 452 parameters, was at 4.7e-7, 3.2e-7, 3.0e-7 and
# 2.8e-7 after 50, 100, 200 and 400 steps, in 10, 19, 38 and 72 CPU s (`python scripts/recipe_study.py --number
# peaked.WIDTH --values 4 --problems n2 --steps 50`, and so on). On a CPU those are small networks, because sums have at
# most 3,000 terms.
EXACT_STEPS, SLOW_STEPS = {"cpu": 80, "cuda": 150}, 400
# Sums of at least so many terms begin with a warm-up (nqs.recipes.stages) and have a number of steps of their own,
# because each takes long; twice as many where a phase is learned, without a warm-up: the 4x4 Hubbard lattice with 4 + 4
# electrons ended at 1.1e-3 after 202 steps with, and at 4.1e-4 after 300 steps without one. Eight bosons on a ring, 440
# orbits, ended after 40 steps at 4.5e-13 without a warm-up (16 CPU s), and at 2.9e-6 with one (10 s; without, 20 steps
# of 8 s are at 3.6e-10). The Ising ring of 16 sites, 1,162 orbits, ended at 1.8e-8 after 25 sums alone (46 s), and at
# 1.0e-8 after 76 steps, of which 27 are sums (55 s; WARM_UP_FRACTION in nqs.recipes.stages): fewer steps of longer sums
# are enough, and a warm-up costs little from about there on. `python scripts/recipe_study.py --number steps.LONG_SUM
# --values 400 600 --problems bose-hubbard-8 --steps 40`; `--values 2000 --problems ising-16 --steps 25`. That ring
# ended at 2.4e-4 and 2.8e-8 after 38 and 76 steps (16 and 30 CPU s; `--problems ising-16 --steps 38`). Where a phase is
# learned N2 in STO-3G was at 2.1e-7 after 38 (72 s; `--problems n2 --steps 38`); longer runs were compared on the
# Hubbard lattice alone.
LONG_SUM = {"cpu": 600, "cuda": 4_000}
LONG_SUM_STEPS = {"cpu": 76, "cuda": 150}
# Averages over a symmetry: the Ising ring of 20 sites ends at 1.7e-6 after 120 steps (105 s on a CPU), the 6x6
# Heisenberg lattice at 2.6e-5 after 600 steps (330 s on a GPU).
AVERAGED_STEPS = {"cpu": 120, "cuda": 600}

# Operations in a second, and seconds of a step besides them, of small networks. On a CPU `nqs.recipes.plan` estimates
# 18, 17, 14, 111, 80 and 76 s for the steps of runs that took 12, 29, 14, 105, 92 and 60 s (eight bosons on a ring in
# README.md; Hubbard 2x4 with U = 8, J1-J2 4x4, the Ising and the Heisenberg ring of 20 sites, twelve bosons on a ring
# in docs/accuracy.md; `print(plan(hamiltonian, device="cpu", threads=1))`).
RATE, OVERHEAD = {"cpu": 5e10, "cuda": 4e13}, {"cpu": 0.15, "cuda": 0.2}
# Cost of a step of an average, with all connected configurations, in units of one that evaluates the images of the
# samples alone. On a CPU compared in the Ising ring and the twelve bosons above.
AVERAGED_COST = {"cpu": 12, "cuda": 40}
# Time of an image of a step, with its connected configurations and its gradient, in units of that of an image in the
# sum of an evaluation, where nearly all prefixes are shared. On a CPU the Ising ring of 20 sites and the 4x6 Heisenberg
# lattice took 0.38 and 1.0 CPU s for a step of 5,200 and 5,900 images, 2.9 and 11.1 s in all for sums of 1.1 and 3.0
# million: 27 and 46. With 16 these sums are estimated at 5 and 32 s: the estimate is an upper one (`python
# scripts/recipe_study.py --problems ising-20 heisenberg-4x6 --measure sum`; `--steps 10` and `--steps 30`, of which the
# difference is that of 20 steps). On a GPU it was not measured.
SUMMED_IMAGES = 16
# Fraction of a time limit for the steps, by the estimate above, which was up to 1.7 times too low; the rest is for
# exact diagonalisation, evaluation, and that error. A run ends in time anyway, with fewer steps. Least number of
# steps: eight bosons on a ring are at 4.2e-2 after 10 and at 3.6e-10 after 20 (`python scripts/recipe_study.py
# --problems bose-hubbard-8 --steps 10`).
FRACTION_OF_TIME, LEAST_STEPS = 0.8, 20


def steps(wavefunction: Wavefunction, device: torch.device | str, *, exact: bool) -> int:
    """Optimisation steps of a run, warm-up included; `exact`: exhaustive sums."""
    kind = torch.device(device).type
    if not exact:
        if is_large(wavefunction, device):
            return STEPS_OF_MANY[kind]
        return (STEPS if wavefunction.n_images == 1 else AVERAGED_STEPS)[kind]
    terms = evaluations(wavefunction)
    if wavefunction.has_phase and wavefunction.n_parameters < 2 * terms:
        return SLOW_STEPS
    if terms < LONG_SUM[kind]:
        return EXACT_STEPS[kind]
    return LONG_SUM_STEPS[kind] * (2 if wavefunction.has_phase else 1)


def seconds(terms: int, rows: int, parameters: int, n_sites: int, device: torch.device | str) -> float:
    """Estimate for one step: the matrix of the natural gradient and its factor, and the rows they are made from.

    Args:
        terms: distinct configurations, or orbits.
        rows: of the Jacobian, twice as many where a phase is learned.
    """
    kind, small = torch.device(device).type, min(rows, parameters)
    operations = rows * parameters * small + small**3 / 3 + 6 * terms * n_sites * parameters
    return OVERHEAD[kind] + operations / RATE[kind]


def seconds_of_step(wavefunction: Wavefunction, sampler: SamplerConfig, device: torch.device | str) -> float:
    """Estimate for one step with a sampler."""
    exact = is_exhaustive(sampler)
    terms = evaluations(wavefunction) if exact else distinct_of(sampler) or DISTINCT["cpu"]
    rows = (2 if wavefunction.has_phase else 1) * terms
    if wavefunction.n_images > 1 and not exact:
        terms *= AVERAGED_COST[torch.device(device).type] * wavefunction.n_images
    return seconds(terms, rows, wavefunction.n_parameters, wavefunction.hilbert.n_sites, device)


def steps_within(
    minutes: float | None, wavefunction: Wavefunction, sampler: SamplerConfig, device: torch.device | str
) -> tuple[int, int]:
    """Number of steps that fit into the time, and number without a limit."""
    wanted = steps(wavefunction, device, exact=is_exhaustive(sampler))
    if minutes is None:
        return wanted, wanted
    fitting = int(FRACTION_OF_TIME * 60 * minutes / seconds_of_step(wavefunction, sampler, device))
    return max(min(wanted, LEAST_STEPS), min(wanted, fitting)), wanted


def evaluation_seconds(
    wavefunction: Wavefunction, of_steps: Wavefunction, evaluation: SamplerConfig, distinct: float, seconds: float
) -> float:
    """Upper estimate of the time for the final evaluation, from a sampled step: without gradients it costs less.

    Args:
        wavefunction, of_steps: what is evaluated, and its average over fewer images that steps are made with.
        distinct, seconds: distinct configurations and wall time of a step.
    """
    n_images = wavefunction.n_images
    orbits, most = evaluations(wavefunction) / n_images, max_distinct(evaluation)
    wanted = (orbits if most is None else min(orbits, most)) * n_images / of_steps.n_images
    if n_images > 1 and is_exhaustive(evaluation):
        wanted /= SUMMED_IMAGES
    return seconds * max(1.0, wanted / distinct)
