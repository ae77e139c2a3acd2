"""Divergences to a target: where fits to an exact ground state end, by what they minimise.

Forward Kullback-Leibler (samples of the target), reverse (samples of the wavefunction), infidelity; and the energy,
which needs no target. The same samples and steps of stochastic reconfiguration; errors by sums over the sector.
"""

import torch

from nqs import exact, recipes
from nqs.models import TransformerConfig
from nqs.pretraining import VectorTarget, fit
from nqs.recipes.known_signs import signs
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.small import hamiltonian_of, sector
from nqs.vmc.loop import VMC

STEPS, SAMPLES = 60, 500
VARIANTS = ("forward", "reverse", "infidelity", "energy")
COLUMNS = (
    Column("error", "relative error of the energy"),
    Column("infidelity", "1 - fidelity"),
)


def run(job: Job) -> Row:
    h = hamiltonian_of(job.problem)
    found = exact.ground_state(h)
    config = TransformerConfig(
        width=16, layers=2, heads=4, mlp_ratio=2, phase="zero", reference=signs(h).reference, seed=job.seed
    )  # fmt: skip
    psi = config.build(h.hilbert)
    sampler, generator = TreeSampler(n_samples=SAMPLES), torch.Generator().manual_seed(job.seed)
    if job.variant == "energy":
        run = VMC(h, psi, sampler, recipes.optimiser(exact=False), ExhaustiveSampler())
        run.run(STEPS, seed=job.seed, progress=False)
    else:
        target = VectorTarget(h.hilbert, found.state)
        fit(psi, target, job.variant, steps=STEPS, sampler=sampler, generator=generator, progress=False)  # type: ignore[arg-type]
    known = sector(h, psi, gradients=False)
    weight = torch.from_numpy(found.state).abs().square().double()
    overlap = (known.p.sqrt() @ weight.sqrt()).item()  # both have the signs of the reference
    return {"error": (known.energy - found.energy) / abs(found.energy), "infidelity": 1 - overlap**2}
