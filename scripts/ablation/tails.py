"""The tail of the local energies: what configurations of high occupation carry of the variance of a trained state.

The baseline, after steps of samples on a sector that can be summed, without a cutoff of the occupation and with one.
Configurations that the steps hardly ever draw keep amplitudes that are too small by orders of magnitude beside those of
configurations that H connects them to, so that their local energies are far below the mean.
"""

from dataclasses import replace
from statistics import median

import torch

from nqs.error_bars import NORMAL, error_bar
from nqs.samplers import TreeSampler
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.small import sector
from nqs.scripts.ablation.training import baseline
from nqs.vmc.loop import VMC

STEPS = 80  # about those of a run of a minute on a core
HIGH = 4  # bosons on a site
CUTOFFS = {"no cutoff": None, f"n_max={HIGH - 1}": HIGH - 1}
EVALUATION, EVALUATIONS = 2_500, 200  # samples of an evaluation, about those of a run of a minute; repetitions
COLUMNS = (
    Column("variance", "variance", ".2f"),
    Column("sampled", "variance of an evaluation: median", ".2f"),
    Column("largest", "largest", ".1f"),
    Column("coverage", "within 1.96 error bars", ".1%"),
    Column("weight", f"weight of {HIGH} and more on a site", ".1e"),
    Column("of_variance", "their part of the variance", ".2f"),
    Column("of_energy", "of the energy", ".1e"),
)


def run(job: Job) -> Row:
    base = baseline(job)
    h = replace(base.hamiltonian, n_max=CUTOFFS[job.variant])  # type: ignore[type-var]
    psi = base.model.build(h.hilbert)
    VMC(h, psi, base.sampler, base.optimiser, base.sampler).run(STEPS, seed=job.seed, progress=False)
    of = sector(h, psi, gradients=False)
    deviation = of.local - of.energy
    high = (of.n >= HIGH).any(1)
    variance = (of.p @ deviation.square()).item()

    draw = TreeSampler(n_samples=EVALUATION, use_cuda_graph=False).build(psi)
    generator = torch.Generator().manual_seed(job.seed)
    found, covered = [], 0
    for _ in range(EVALUATIONS):
        samples = draw.sample(generator)
        values = of.local[h.hilbert.rank(samples.configurations)]
        mean, error = error_bar(samples, values)
        found.append(samples.mean((values - mean).square()).item())
        covered += abs(mean.item() - of.energy) < NORMAL * error.item()
    return {
        "energy_of_state": of.energy,
        "variance": variance,
        "sampled": median(found),
        "largest": max(found),
        "coverage": covered / EVALUATIONS,
        "weight": of.p[high].sum().item(),
        "of_variance": (of.p[high] @ deviation[high].square()).item() / variance,
        "of_energy": (of.p[high] @ deviation[high]).item() / abs(of.energy),
    }
