"""The stages of a run: a warm-up from samples before long sums, averages over a subgroup in steps, fits before a run.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

import math
from typing import NamedTuple

import torch

from nqs.lattice.lattice import Lattice
from nqs.optimisation.stages import Evaluation, WarmUp
from nqs.protocols import Hamiltonian, OptimiserConfig, SamplerConfig, Wavefunction, lattice_of
from nqs.recipes import peaked
from nqs.recipes.optimiser import OptimiserOptions, optimiser, warm_up_optimiser
from nqs.recipes.samplers import (
    EVALUATION_IMAGES,
    EXHAUSTIVE_ROWS,
    evaluations,
    final_evaluation,
    is_exhaustive,
    is_large,
    learns_phases_by_chains,
    training_sampler,
    tree,
)
from nqs.recipes.steps import LONG_SUM, steps
from nqs.symmetry.group import Symmetry

# Distinct configurations of a warm-up, as a fraction of the terms of a sum and at least, and its fraction of the steps:
# far from the ground state the noise of a few hundred samples does no harm, and such steps cost a small part of a sum.
# The Ising ring of 16 sites at h = 1, of 1,162 orbits, ended after 76 steps at 2.2e-9, 1.0e-8 and 8.7e-6 with fractions
# of 0.3, 0.65 and 0.85 in 94, 55 and 34 CPU s (`python scripts/recipe_study.py --number stages.WARM_UP_FRACTION
# --values 0.3 0.65 0.85 --problems ising-16 --steps 76`), at 1.2e-8, 1.0e-8 and 3.1e-9 with 100, 200 and 400
# configurations, a twelfth, a sixth and a third of the orbits, in 52, 55 and 67 CPU s (`--number stages.LEAST_DISTINCT
# --values 100 200 400`). That of a GPU was not compared.
WARM_UP_DISTINCT, LEAST_DISTINCT = 1 / 12, 200
WARM_UP_FRACTION = {"cpu": 0.65, "cuda": 0.35}
# Images of a configuration in steps, at most: a step then has more samples for the same cost, and the evaluation
# averages over the others as well, which cannot raise the energy of a positive state. The Ising ring of 20 sites,
# h = 1, was at 1.7e-3, 9.0e-4 and 1.6e-3 after 30 steps with 10, 20 and 40 images, in 49, 43 and 42 CPU s (one seed;
# `python scripts/recipe_study.py --number stages.IMAGES --values 10 20 40 --problems ising-20 --steps 30`).
IMAGES = {"cpu": 20, "cuda": 12}
# A fit before the first step ends at this number of steps or fidelity. Where the sector can be summed, fits to a mean
# field or the exact state take 10 to 14 steps, and runs after a fit to the exact state begin at relative errors of
# 3e-4 (docs/pretraining.md).
FIT_STEPS, FIT_FIDELITY = 50, 0.999


class Method(NamedTuple):
    """Resolved parts of a run for one wavefunction."""

    sampler: SamplerConfig
    optimiser: OptimiserConfig
    evaluation: SamplerConfig | Evaluation
    warm_up: WarmUp | None
    n_images: int  # over which an amplitude is averaged in steps
    steps: int


def method(
    wavefunction: Wavefunction,
    device: torch.device | str,
    *,
    sampler: SamplerConfig | None = None,
    given: OptimiserConfig | OptimiserOptions | None = None,
    evaluation: SamplerConfig | Evaluation | None = None,
    sampled: bool = False,
    lattice: Lattice | None = None,
) -> Method:
    """Samplers, optimiser, warm-up and number of steps; given parts are kept.

    Exhaustive steps are evaluated by the same sum; no warm-up if a sampler is given.

    Args:
        sampled: no exhaustive sums, neither in steps nor in the evaluation, whatever the dimension.
        lattice: of the sites, whose bonds Markov chains may move along.
    """
    of_steps = wavefunction.for_steps()  # may average over fewer images
    chosen = sampler or training_sampler(of_steps, device, sampled=sampled, lattice=lattice)
    exact, from_list = is_exhaustive(chosen), peaked.is_peaked(of_steps)
    if from_list and not exact:
        chosen = sampler or peaked.sampler(of_steps, device)
        given = peaked.optimiser(given)
    if evaluation is None:
        evaluation = chosen if exact else final_evaluation(wavefunction, device, chosen, sampled=sampled)
        if from_list and isinstance(evaluation, Evaluation):
            evaluation = peaked.evaluation(wavefunction, device)
    return Method(
        sampler=chosen,
        optimiser=optimiser(
            given,
            exact=exact,
            images=of_steps.n_images if of_steps.normalised else 1,
            large=is_large(of_steps, device),
            nodes=of_steps.is_real,
            phases=learns_phases_by_chains(of_steps),
        ),
        evaluation=evaluation,
        warm_up=warm_up(of_steps, device) if sampler is None and not sampled else None,
        n_images=of_steps.n_images,
        steps=steps(of_steps, device, exact=exact),
    )


def warm_up(wavefunction: Wavefunction, device: torch.device | str) -> WarmUp | None:
    """First steps from samples, where sums over the whole sector take long and no phase is learned.

    Samples teach rare configurations wrong signs, which take longer to turn than the warm-up saves: the 4x4 Hubbard
    lattice ended at 1.1e-3 with and at 4.1e-4 without it, in 202 and 300 steps.
    """
    kind, terms = torch.device(device).type, evaluations(wavefunction)
    if wavefunction.has_phase or not LONG_SUM[kind] <= terms <= EXHAUSTIVE_ROWS[kind]:
        return None
    distinct = max(LEAST_DISTINCT, round(WARM_UP_DISTINCT * terms))
    sampler = tree(max(1, distinct // wavefunction.n_images))
    return WarmUp(share=WARM_UP_FRACTION[kind], sampler=sampler, optimiser=warm_up_optimiser())


def subgroup_of_steps(group: Symmetry, hamiltonian: Hamiltonian, most: int) -> tuple[int, ...] | None:
    """Elements over which steps average: flips, and translations by every k-th cell; None for all.

    With fewer images a step has more samples for the same cost, and the average over the others comes after the steps.
    Flips are kept: without them an ordered state would have to hold both orders at once.

    Args:
        most: largest number of elements; exceeded if fewer than a third of it were left (lattices of prime length).
    """
    lattice = lattice_of(hamiltonian)
    if group.order <= most or not isinstance(lattice, Lattice) or not lattice.shape:
        return None
    choices = []
    strides = {tuple(math.gcd(k, size) for size in lattice.shape): k for k in range(max(lattice.shape), 0, -1)}
    for stride in sorted(strides.values()):
        moves = {tuple(permutation) for permutation in lattice.translations(stride).tolist()}
        choices.append(tuple(g for g, permutation in enumerate(group.permutations) if permutation in moves))
    few = [chosen for chosen in choices if most / 3 <= len(chosen) <= most]
    return max(few, key=len) if few else min((c for c in choices if len(c) > most), key=len, default=choices[0])


def point_group(group: Symmetry, most: int) -> Symmetry:
    """Elements that keep the first site where it is; without those that change local states, or none, if too many."""
    keeps_first = [bool(permutation[0] == 0) for permutation in group.permutations]
    unchanged = tuple(range(len(group.maps[0])))
    plain = [keeps and tuple(map_) == unchanged for keeps, map_ in zip(keeps_first, group.maps, strict=True)]
    few = next((chosen for chosen in (keeps_first, plain) if sum(chosen) <= most), None)
    return group.subgroup([g == 0 for g in range(group.order)] if few is None else few)


def subgroup_of_evaluation(group: Symmetry, hamiltonian: Hamiltonian) -> Symmetry:
    """Elements over which the evaluation of a large system averages: those that keep a site where it is, if few."""
    if group.order <= EVALUATION_IMAGES:
        return group
    if (kept := point_group(group, EVALUATION_IMAGES)).order > 1:
        return kept
    chosen = set(subgroup_of_steps(group, hamiltonian, EVALUATION_IMAGES) or (0,))
    return group.subgroup([g in chosen for g in range(group.order)])
