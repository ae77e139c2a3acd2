"""Samplers: exhaustive sums if a step then takes a few seconds at most, else a number of distinct configurations.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

import math
from dataclasses import replace

import torch

from nqs.lattice.lattice import Lattice
from nqs.models import GroupConvolutional
from nqs.optimisation.stages import Evaluation
from nqs.protocols import (
    AutoregressiveWavefunction,
    Hamiltonian,
    SamplerConfig,
    Wavefunction,
    max_connected,
    max_distinct,
)
from nqs.runtime.memory import require_memory
from nqs.samplers import ExhaustiveSampler, MetropolisSampler, TreeSampler
from nqs.samplers.moves import near_moves

# Largest number of configurations (or orbits) in an exhaustive step. With a network of width 32 a step of a sum took
# 0.2, 0.8 and 3.2 CPU s for the 440, 1,162 and 2,518 orbits of eight bosons, the Ising ring of 16 and the Heisenberg
# ring of 20 sites (differences of 3 and 13 steps; `python scripts/recipe_study.py --number stages.WARM_UP_FRACTION
# --values 0.01 --problems bose-hubbard-8 ising-16 heisenberg-20 --steps 3`). Sums reach machine precision (the 440
# orbits, after 80 steps). Of the 4,752 orbits of ten bosons they are too few in the same time: 30 steps, a third of
# which are sums, ended at 8.3e-4 (111 CPU s), 100 sampled steps at 7.0e-5 (44 s; `--number samplers.EXHAUSTIVE_ROWS
# --values 6000 --problems bose-hubbard-10 --steps 30`; `--number samplers.DISTINCT --values 750 --steps 100`).
EXHAUSTIVE_ROWS = {"cpu": 3_000, "cuda": 32_000}
# Largest dimension for which the exact ground state is computed before a run: 2.4 CPU s for the 184,756 configurations
# of the Heisenberg ring of 20 sites (`nqs.exact.ground_state(Heisenberg(chain(20), total_sz=0))`, one thread).
EXACT_LIMIT = 200_000
# Distinct configurations of a sampled step, where they carry much of the weight of the sector; and where the sector is
# larger than MANY: many small steps with momentum. The t-V ring of 32 sites ended at 9e-4 after 860 steps of 1,024
# samples (150 s of an H200 shared by four runs), where 213 steps of 8,000 had been at 1.5e-2. On a CPU steps of 1,024
# configurations ended five times higher than those of 256 in equal time for bosons and twice for spins, steps of 64 one
# and a half times for spins (docs/design_questions.md, question 13). Without its symmetries the Heisenberg ring of 20
# sites, 184,756 configurations, ended at 6.2e-4 after 60 small steps (16.5 CPU s), at 3.6e-2 after 12 of the other kind
# (60 s; `python scripts/recipe_study.py --problems heisenberg-20 --sampled --distinct 256 --steps 60`; `--number
# samplers.MANY --values 10**6 --distinct 1500 --steps 12`). In small sectors more are better: the ring of 14 sites,
# 3,432 configurations, ended at 2.4e-4 after 100 steps of 200 (28 s), at 3.4e-5 after 55 of 400 (30 s, error 4e-5;
# `--problems heisenberg-14 --sampled --distinct 400 --steps 55`). Ten bosons on a ring, 4,752 orbits, ended at 7.0e-5,
# 3.6e-3 and 9.2e-2 with 750, 1,500 and 3,000 and 100, 40 and 18 steps (44, 49 and 70 CPU s; `--number samplers.DISTINCT
# --values 750 --problems bose-hubbard-10 --steps 100`), the Heisenberg ring of 20 sites, 2,518 orbits, at 2.0e-4 and
# 1.2e-2 with 750 and 1,500 and 50 and 20 steps (27 and 28 s; `--problems heisenberg-20 --sampled`). Longer runs do not
# differ: at 9.6e-6 and 1.6e-6 after 160 and 70 (84 and 93 s, errors of 8e-6 and 5e-6).
DISTINCT = {"cpu": 1_500, "cuda": 8_000}
MANY = {"cpu": 10**5, "cuda": 10**6}
DISTINCT_OF_MANY = {"cpu": 256, "cuda": 1_024}
# Largest number of orbits, dimension / order of the group, for which states with a phase head live on orbits. Above,
# frustrated spins in several dimensions are group convolutions, and most other states on a CPU have no symmetry
# (nqs.recipes.sector). Where orbits are too many for a sum (EXHAUSTIVE_ROWS), runs of about three minutes have no
# single answer, and longer ones are better on orbits: the open J1-J2 chain of 16 sites, J2 = 0.4, 3,299 orbits, ended
# at 3.9e-3 on orbits and at 1.6e-2 without symmetry, both after 40 steps of 1,500 configurations (159 and 163 CPU s,
# one seed); the ring of 22 sites, 8,359 orbits, at 7.6e-3 and 3.1e-3 on orbits after 40 steps (seeds 0 and 1, 164 to
# 167 s), at 4.0e-4 and 2.9e-4 (errors of 1e-4) without symmetry after 1,200 steps of 256 configurations (125 to 127 s).
# The 4x6 J1-J2 lattice, J2 = 0.5, 15,578 orbits, was at -9.19 on orbits after 20 steps (96 s), without symmetry at
# -12.072(7) after 100 steps of 256 configurations (24 s), with group convolutions at -12.529(2) after 140 (75 s).
# `python scripts/recipe_study.py --number samplers.LISTED --values 1000 20000 --problems j1j2-open-16 --steps 40`,
# `--values 20000 --problems j1j2-22 --seeds 0 1 --steps 40`, `--values 1000 --problems j1j2-22 --seeds 0 1 --steps
# 1200`; `--problems j1j2-4x6 --steps 20`, `--distinct 256 --steps 100`, `--number group_convolutions.LISTED --values
# 10000 --steps 140`. The 200 steps of their recipe, a quarter of an hour, left orbits of the open chain at 3.8e-6 and
# of the ring at 1.3e-5 (807 and 858 CPU s; `--values 20000 --problems j1j2-22 j1j2-open-16 --steps 200`), which is why
# the limit is where it is. That of a GPU was not compared.
LISTED = {"cpu": 2 * 10**4, "cuda": 10**5}
# Evaluations of the network in one sum of the evaluation, at most. Sums of averages on one core of a CPU took 2.9 CPU s
# and 0.27 GiB for 2^20 configurations (Ising ring of 20 sites), 11.1 s and 0.41 GiB for 2.7 million (4x6 Heisenberg
# lattice), two to three times as long on a busy machine: 2^22 are of the order of half a minute, half a GiB and no
# error bar (`python scripts/recipe_study.py --measure sum --problems ising-20 heisenberg-4x6`).
LARGEST_SUM = 2**22
# Prefixes that a tree decodes together: bounds memory, and does not change the distribution. Draws of 200,000 distinct
# configurations of the Heisenberg ring of 40 sites took 40, 43, 47 and 46 CPU s and 0.85, 0.87, 0.89 and 0.96 GiB with
# 2^13, 2^15, 2^17 and 2^19 (`python scripts/recipe_study.py --number samplers.FRONTIER --values 2**13 2**15 2**17 2**19
# --problems heisenberg-40 --measure draw --distinct 200000`); 100,000 of 16 bosons on 4x4 sites 12.5, 9.1 and 9.2 s and
# 0.29, 0.36 and 0.53 GiB with 2^11, 2^14 and 2^17 (`--problems bose-hubbard-4x4 --network transformer --distinct
# 100000`). Flat on a CPU; on a GPU larger ones are fewer calls.
FRONTIER = 2**17
# Samples of a step of Markov chains, each of which gives one: at most, and times sites. Local energies take most of the
# time of a step, and their cost grows with the square of the number of sites. Only very short runs end lower with
# fewer: the 3x4 Hubbard lattice was at 8.9e-2 after 20 steps of 1,000 and at 3.3e-2 after 80 steps of 250 (errors of
# 2e-3; 25 and 28 CPU s; `python scripts/recipe_study.py --number samplers.WALKERS --values 250 --problems hubbard-3x4
# --steps 80 --batches 16`), but after 2.5 minutes of one core at 4.8e-3 and 6.8e-3 with 250 (seeds 0 and 1, 1,400
# steps), at 3.5e-3 and 2.5e-3 with 500 (710), at 2.8e-3 and 2.5e-3 with 1,000 (340; errors of 4e-4 to 6e-4; `--values
# 250 500 1000 --problems hubbard-3x4 --minutes 2.5 --seeds 0 1`).
WALKERS = {"cpu": 1_000, "cuda": 4_096}
# Of 16 sites 750: short runs end lower with fewer there as well. Determinants of the 4x4 t-V lattice ended at 2.9e-4
# after 600 steps of 187 samples and at 2.7e-3 after 200 of 750 (30 and 31 CPU s; `python scripts/recipe_study.py
# --number samplers.WALKERS_TIMES_SITES --values 3000 --problems tv-4x4 --network determinant --steps 600`), group
# convolutions of the 4x4 J1-J2 lattice at 3.4e-4 after 80 and at 3.6e-3 after 20 (16 and 15 s; `--problems j1j2-4x4
# --network group-convolutional --steps 80`). After 1.5 minutes of one core 500 and 750 samples of the t-V lattice do
# not differ: 8e-5 and 2.1e-4 (seed 0), 9e-5 and 6e-5 (seed 1), with errors of 2e-4 and 3e-4, 2e-4 and 3e-5 (`--number
# samplers.WALKERS --values 500 1000 --problems tv-4x4 --network determinant --sampled --minutes 1.5 --seeds 0 1`).
WALKERS_TIMES_SITES = {"cpu": 12_000, "cuda": 2**16}
# The same for positive states, which are cheaper. With 64, 128 and 256 chains and 80, 40 and 20 steps 16 bosons on 4x4
# sites, U = 8, ended at 2e-4, 2e-4 and 5.5e-3 (errors of 3e-4 to 1e-3) in 15, 16 and 14 CPU s, the 6x6 Heisenberg
# lattice at 9.5e-3, 9.1e-3 and 1.3e-2 (1e-3) in 32, 29 and 22 (`python scripts/recipe_study.py --number
# samplers.POSITIVE_WALKERS --values 64 --problems heisenberg-6x6 bose-hubbard-4x4 --steps 80 --batches 32`, 128 with 40
# and 16, 256 with 20 and 8). That of a GPU is the one of docs/accuracy.md, and was not compared.
POSITIVE_WALKERS = {"cpu": 128, "cuda": 2_048}
# Complex group convolutions are sampled from |psi|^(2 a) in steps, a = 1 - OVERDISPERSION / sqrt(sites), at least
# LEAST_POWER: the variance of log|psi| grows with the number of sites, and the effective fraction of the samples, about
# exp(-4 (1 - a)^2 var log|psi|), stays as it is. The 6x6 J1-J2 lattice, J2 = 0.5, ended at 2.1e-4 with a = 1/2 and
# 1,820 samples on a GPU, at 3.7e-4 with a = 2/3; with 256 samples on a CPU a = 1/2 leaves about 40 effective ones, and
# a = 3/4 ended lower (docs/choosing.md).
OVERDISPERSION, LEAST_POWER = {"cpu": 2.0, "cuda": 3.0}, 0.5
# Rounds of the first block that walkers forget their start in; blocks of doubled length follow until log|psi| does not
# drift (nqs.samplers.markov_chains), so that the first one changes the time of the first draw more than its samples.
# Determinants of the 3x4 Hubbard lattice took 9.1, 7.6, 4.4 and 17.8 CPU s with 2, 4, 16 and 64, those of the 4x4 t-V
# lattice 3.8, 3.1 and 3.6 s with 2, 4 and 16, with means of log|psi|^2 that agree within their error bars, 0.09 and
# 0.07 (`python scripts/recipe_study.py --number samplers.FORGETTING --values 2 4 16 64 --problems hubbard-3x4 tv-4x4
# --network determinant --measure draw`). Positive states on lattices begin nearly uniform: the 6x6 Heisenberg lattice
# took 2.3, 0.9, 1.1 and 4.8 s with 1, 2, 8 and 32 (seed 0), 0.6, 1.0 and 1.2 with 1, 2 and 8 (seeds 1 and 2), bosons on
# 4x4 sites 0.7, 0.7, 1.9 and 7.1 s (`--number samplers.FORGETTING_UNIFORM --values 1 2 8 32 --problems heisenberg-6x6
# bose-hubbard-4x4 --measure draw`); seed 0 of the spins had a mean of -6.52 +- 0.03 with 2, and of -6.40 to -6.38 with
# the others; all other means agree within 2.3 error bars of their difference.
FORGETTING, FORGETTING_UNIFORM = 16, 2
# Averages over a symmetry: images of all samples of a step, which take most of its time. In equal time the 6x6
# Heisenberg lattice ended with a V-score of 1.7e-4 (8,000 samples and 640 steps, width 48), and with 4.0e-4 at width 32
# (12,000 samples and 600 steps, or 6,000 and 1,150).
# On a CPU, runs of the default length: with 6,000 images and 120 steps, and with 3,000 and 210 in about equal time (42
# to 49 CPU s), the Ising ring of 20 sites, h = 1, ended at 1.3e-6 and 1.4e-6 (seeds 0 and 1), and at 2.6e-7 and 1.4e-7;
# 12 bosons on 3x4 sites, U = 8, at -20.4341 and -20.4331, and at -20.4309 and -20.4279 (sums without error bars): lower
# for the spins with 3,000, for the bosons with 6,000. `python scripts/recipe_study.py --number samplers.ALL_IMAGES
# --values 6000 --problems ising-20 bose-hubbard-3x4 --seeds 0 1 --steps 120`, `--values 3000 --steps 210`. In runs of
# 18 to 22 s fewer images are better for both: with 3,000, 6,000 and 12,000 and 80, 40 and 20 steps the ring ended at
# 5.1e-5, 3.2e-4 and 3.9e-3, the bosons at -20.4311, -20.4252 and -20.4185 (seed 0).
ALL_IMAGES = {"cpu": 6_000, "cuda": 64_000}
# Images x sites x connected configurations of such a step, at most: the 6x6 Heisenberg lattice on a GPU has 1.7e8, the
# 4x6 one on a CPU 6.9e6. Larger systems average in the evaluation only, and make many small steps: the 10x10 Heisenberg
# lattice made one step in four minutes with averages, and ended at 3.4e-3 after 565 steps of 1,024 samples in 150 s
# without, of which the evaluation with 8 images took away a third.
LARGEST_AVERAGE = {"cpu": 10**7, "cuda": 2 * 10**8}
# Images in the evaluation of such systems. More project better, and leave fewer samples for the same time. The 6x6
# Heisenberg lattice ended 40 steps of a transformer at 1.79e-2 +- 0.04e-2, 1.35e-2 +- 0.07e-2, 1.31e-2 +- 0.10e-2 and
# 1.26e-2 +- 0.36e-2 with 2, 8, 16 and all 576 images, in 21, 22, 20 and 36 CPU s (`python scripts/recipe_study.py
# --number stages.EVALUATION_IMAGES --values 1 8 16 576 --problems heisenberg-6x6 --network transformer --steps 40
# --batches 100`; a group is not cut below the spin flip). 16 are the point group of a square lattice with the flip.
EVALUATION_IMAGES = 16
# Images of all samples x sites^2 (sites of a configuration x moves from it, about) where a phase is learned, at most:
# the 6x6 J1-J2 lattice has 8.3e7, 2.3 s for a step of 8,000 samples on a quarter of an H200; on a CPU 400 samples of
# the 4x4 Hubbard lattice were compared (IMAGES_OF_NODES in nqs.recipes.sector).
LARGEST_AVERAGE_OF_PHASES = {"cpu": 4 * 10**5, "cuda": 10**8}
# Distinct configurations of the final energy: drawn once and without gradients, many more than in a step
# take the time of a few steps. In batches, of which each takes about as long, so that the time limit holds.
# The Heisenberg ring of 20 sites had error bars of 4.2e-3, 2.1e-3 and 1.0e-3 with 2^12, 2^14 and 2^16, in 10, 13 and 18
# CPU s with 20 steps (`python scripts/recipe_study.py --number samplers.EVALUATION_DISTINCT --values 2**12 2**14 2**16
# --problems heisenberg-20 --distinct 300 --sampled --steps 20`): they fall with the root of the number.
EVALUATION_DISTINCT = {"cpu": 2**14, "cuda": 2**19}
# Without images. A batch is the unit in which the time limit is kept, and costs a little of its own: 16, 64 and 256
# batches took 7.9, 13.2 and 27.9 CPU s there, with the same error bar (`--number samplers.BATCHES --values 16 64 256`),
# 16 and 64 of the 3x4 Hubbard lattice 11.7 and 14.6 (`--problems hubbard-3x4 --network transformer --distinct 300
# --steps 5`).
BATCHES = 64
# Error bar, in units of |E - E_inf|, at which the evaluation ends: about the smallest ones of large systems in
# docs/accuracy.md, 1.3e-6 (12x12 Ising lattice) and 1.0e-6 (open Hubbard chain of 32 sites, |E - E_inf| about 50). Time
# ends most others at 1e-5 to 3e-4. Smaller ones are those of first batches with nearly all of the weight of a sector,
# such as 2e-9 (4x4 t-V lattice, `--sampled`).
EVALUATION_ERROR = 1e-6
# Of a sample, besides its configuration: weight, amplitude, remainder, bookkeeping of the tree. A lower bound, so that
# only what cannot fit is refused: the draws of 200,000 configurations above (FRONTIER) took 4.6 kB for each.
SAMPLE_BYTES = 64
# Images that an evaluation of averages has at most, in units of the distinct configurations above. The Ising ring of
# 24 sites, 96 images, ended after 120 steps at 2.9e-5 +- 2e-5 with 4 and at 8e-6 +- 8e-6 with 16, in 89 and 105 CPU s
# (`python scripts/recipe_study.py --number samplers.AVERAGED_EVALUATION --values 4 16 --problems ising-24 --steps
# 120`). That of a GPU was not compared.
AVERAGED_EVALUATION = 16
# Images of a batch of averages, in units of those of a step, at least those of the batches above: a batch then takes
# about as long as a step, and its images share prefixes. With 0, batches of 2 configurations of 88 and 128 images, runs
# of 45 s ended with error bars of 1.4e-2 (energy of the Ising ring of 22 sites, h = 1) and 3e-3 (relative, 32 sites,
# h = 0.8); with 1, batches of 68 and 46, with 1.1e-2 and 2e-3, the first with all 2,924 configurations after 29 CPU s
# (`python scripts/recipe_study.py --number samplers.BATCH_OF_AVERAGES --values 0 1 --problems ising-22 ising-32 --steps
# 15 --minutes 0.75`). Batches of a single configuration have no error bar. That of a GPU was not compared.
BATCH_OF_AVERAGES = 1.0


def is_exhaustive(sampler: SamplerConfig) -> bool:
    """Every draw sums over the whole sector, without sampling noise."""
    return isinstance(sampler, ExhaustiveSampler)


def evaluations(wavefunction: Wavefunction) -> int:
    """Number of network evaluations of a sum over the whole sector."""
    return wavefunction.sampled.hilbert.dimension


def is_autoregressive(wavefunction: Wavefunction) -> bool:
    """Whether independent samples can be drawn; Markov chains are needed otherwise."""
    return isinstance(wavefunction.sampled, AutoregressiveWavefunction)


def learns_phases_by_chains(wavefunction: Wavefunction) -> bool:
    """Whether phases begin anywhere, and Markov chains have to see configurations of small amplitude.

    Group convolutions, for which that was measured; the restricted Boltzmann machine of tests/samplers/test_metropolis
    ends higher with such samples and rates.
    """
    return isinstance(wavefunction, GroupConvolutional) and wavefunction.has_phase and not wavefunction.is_real


def is_large(wavefunction: Wavefunction, device: torch.device | str) -> bool:
    """Whether the steps of a run draw a vanishing part of the sector, one amplitude at a time; or by Markov chains."""
    kind, terms = torch.device(device).type, evaluations(wavefunction)
    most = MANY[kind] if is_autoregressive(wavefunction) else EXHAUSTIVE_ROWS[kind]
    return (wavefunction.n_images == 1 or not wavefunction.normalised) and terms > most


def averages_phases(wavefunction: Wavefunction) -> bool:
    """Whether amplitudes are averages over images whose phases are learned."""
    return wavefunction.normalised and wavefunction.n_images > 1 and wavefunction.has_phase


def training_sampler(
    wavefunction: Wavefunction,
    device: torch.device | str,
    *,
    sampled: bool = False,
    lattice: Lattice | None = None,
) -> SamplerConfig:
    """Exhaustive sums for small sectors, unless steps are to be `sampled`; else a tree, or Markov chains."""
    kind = torch.device(device).type
    if not sampled and evaluations(wavefunction) <= EXHAUSTIVE_ROWS[kind]:
        return every_configuration()
    if not is_autoregressive(wavefunction):
        walkers = max(1, min(WALKERS[kind], WALKERS_TIMES_SITES[kind] // wavefunction.hilbert.n_sites))
        return chains(wavefunction, walkers if wavefunction.has_phase else POSITIVE_WALKERS[kind], lattice, device)
    if wavefunction.n_images == 1:
        return tree((DISTINCT_OF_MANY if is_large(wavefunction, device) else DISTINCT)[kind])
    distinct = averaged_distinct(wavefunction.n_images, kind)
    if wavefunction.has_phase:
        per_sample = wavefunction.n_images * wavefunction.hilbert.n_sites**2
        distinct = min(distinct, max(DISTINCT_OF_MANY[kind], LARGEST_AVERAGE_OF_PHASES[kind] // per_sample))
    return tree(distinct)


def every_configuration() -> ExhaustiveSampler:
    """Sums over the whole sector."""
    return ExhaustiveSampler(max_dimension=LARGEST_SUM)


def tree(n_distinct: int) -> TreeSampler:
    """Independent samples with about so many distinct configurations."""
    return TreeSampler(n_distinct=n_distinct, max_frontier=FRONTIER)


def chains(
    wavefunction: Wavefunction, walkers: int, lattice: Lattice | None = None, device: torch.device | str = "cpu"
) -> MetropolisSampler:
    """Markov chains that give one sample each.

    Those of complex group convolutions are weighted (`OVERDISPERSION`).

    Of these and of positive states on a lattice with moves of neighbouring sites; of sites with two states one move for
    every two sites between two samples: on the 6x6 Heisenberg lattice error bars of 512 samples of 128 chains were then
    1.1 times those of independent ones. Of bosons fewer moves are accepted (4x4 sites with U = 16.8: 9 %; the spins:
    38 %).
    """
    powers, far = (1.0,), wavefunction.has_phase
    if learns_phases_by_chains(wavefunction):
        overdispersion = OVERDISPERSION[torch.device(device).type]
        powers, far = (max(LEAST_POWER, 1 - overdispersion / math.sqrt(wavefunction.hilbert.n_sites)),), False
    if far or lattice is None:
        return MetropolisSampler(n_samples=walkers, n_chains=walkers, n_discarded=FORGETTING, powers=powers)
    moves = near_moves(wavefunction.hilbert, lattice.bonds().tolist())
    n_steps = max(len(moves), wavefunction.hilbert.n_sites // (2 if wavefunction.hilbert.local_dim == 2 else 1))
    return MetropolisSampler(
        n_samples=walkers,
        n_chains=walkers,
        n_steps=n_steps,
        n_discarded=FORGETTING_UNIFORM,
        moves=moves,
        powers=powers,
    )


def sampler_of(
    wavefunction: Wavefunction, distinct: int, device: torch.device, lattice: Lattice | None = None
) -> SamplerConfig:
    """A sampler of so many distinct configurations, or Markov chains.

    Raises:
        ValueError: they do not fit into memory.
    """
    hilbert = wavefunction.hilbert
    samples = min(distinct, hilbert.dimension) * (hilbert.n_sites + SAMPLE_BYTES)
    require_memory(samples, f"distinct={distinct:,}", "choose fewer distinct configurations", device)
    if is_autoregressive(wavefunction):
        return tree(distinct)
    return chains(wavefunction, distinct, lattice, device)


def averaged_distinct(images: int, kind: str) -> int:
    """Distinct configurations of a step with an average over so many images, on "cpu" or "cuda"."""
    return max(1, min(2 * DISTINCT[kind], ALL_IMAGES[kind] // images))


def averages_in_steps(hamiltonian: Hamiltonian, images: int, device: torch.device | str) -> bool:
    """Whether steps can afford an average over so many images."""
    kind = torch.device(device).type
    connected = max_connected(hamiltonian)
    work = images * averaged_distinct(images, kind) * hamiltonian.hilbert.n_sites * connected
    return work <= LARGEST_AVERAGE[kind]


def final_evaluation(
    wavefunction: Wavefunction,
    device: torch.device | str,
    sampler: SamplerConfig | None = None,
    *,
    sampled: bool = False,
) -> SamplerConfig | Evaluation:
    """Of the final energy: the whole sector if one sum is affordable, else batches of more samples than in a step.

    Args:
        sampler: of the steps, which also evaluates a state that is not autoregressive; None: that of
            `training_sampler`.
        sampled: no sum over the whole sector.
    """
    limit, each = EVALUATION_DISTINCT[torch.device(device).type], wavefunction.n_images
    if not sampled and _evaluations_of_sum(wavefunction, device) <= (limit if each == 1 else LARGEST_SUM):
        return every_configuration()
    if not is_autoregressive(wavefunction):
        of_steps = sampler or training_sampler(wavefunction, device, sampled=sampled)
        if isinstance(of_steps, MetropolisSampler) and of_steps.powers[0] < 1:
            # An energy from |psi|^2 has smaller error bars.
            of_steps = replace(of_steps, powers=(1.0, *of_steps.powers[1:]))
        batches = max(1, limit // (each * (max_distinct(of_steps) or limit)))
        return Evaluation(sampler=of_steps, batches=batches, error=EVALUATION_ERROR)
    every, batch = limit, limit // BATCHES
    if each > 1:
        trained = wavefunction.for_steps()
        step = sampler or training_sampler(trained, device, sampled=sampled)
        images = round(BATCH_OF_AVERAGES * (max_distinct(step) or 0) * trained.n_images)
        every = min(limit, AVERAGED_EVALUATION * limit // each)
        batch = max(1, max(batch, images) // each)
    return Evaluation(sampler=tree(batch), batches=max(1, every // batch), error=EVALUATION_ERROR)


def _evaluations_of_sum(wavefunction: Wavefunction, device: torch.device | str) -> int:
    """Network evaluations of the sum of an evaluation, images included, or their number without these if too many.

    All images of all orbits are somewhat more than all configurations, because some images are equal.
    """
    each, terms = wavefunction.n_images, evaluations(wavefunction)
    if each == 1 or terms > LARGEST_SUM:
        return terms
    symmetry, hilbert = wavefunction.symmetry, wavefunction.hilbert
    return each * (terms if symmetry is None else symmetry.number_of_orbits(hilbert, device))
