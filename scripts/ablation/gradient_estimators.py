"""Estimators of the energy gradient from samples, against the exact one.

    plain                    2 <E_loc O>, as it stands
    constant baseline        2 <(E_loc - b) O> with b = E: not known in practice
    sample mean              b: the mean of the same samples, sum / N
    sample mean, centred     the same with O - <O>, as in the natural gradient
    leave one out            b without the sample itself: sample mean times N / (N - 1)
    earlier samples, k       drawn before k steps, with weights |psi|^2 / |psi_old|^2 normalised by their sum
    clipped, k               the same with weights between 0.8 and 1.2, as in PPO (Schulman et al., arXiv:1707.06347)

Bias: norm of the mean over repeated draws less the exact gradient, corrected for the noise of the mean; noise: root of
the mean square deviation from the mean. Both in units of the norm of the exact gradient.
"""

# Shapes: D configurations of the sector, P parameters, R draws.
import torch
from jaxtyping import Float64
from torch import Tensor

from nqs import recipes
from nqs.samplers import ExhaustiveSampler
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.small import Sector, early_state, hamiltonian_of, sector
from nqs.vmc.loop import VMC

NUMBERS = {10: 10_000, 1_000: 1_000}  # samples, and repeated draws
CLIP = 0.2
LATER = (1, 4, 16)  # steps between draw and gradient
RATE = 0.02  # of these steps: the state changes slowly, as between inner steps
ESTIMATORS = (
    "plain",
    "constant baseline",
    "sample mean",
    "sample mean, centred",
    "leave one out",
    *(f"earlier samples, {k}" for k in LATER),
    *(f"clipped, {k}" for k in LATER),
)
VARIANTS = tuple(f"{name}; {number:,} samples" for number in NUMBERS for name in ESTIMATORS)
COLUMNS = (
    Column("noise", "noise / |gradient|"),
    Column("bias", "bias / |gradient|"),
    Column("ratio", "weights: effective fraction", ".3f"),
)


def estimates(
    variant: str, of: Sector, counts: Float64[Tensor, "R D"], ratio: Float64[Tensor, " D"]
) -> Float64[Tensor, "R P"]:
    """Gradients, one for each draw; ratio = |psi|^2 / (distribution of the draws)."""
    N = counts.sum(1, keepdim=True)
    w = counts / N
    if variant == "plain":
        return 2 * (w * of.local) @ of.O
    if variant == "constant baseline":
        return 2 * (w * (of.local - of.energy)) @ of.O
    if variant.startswith("clipped"):
        # Gradient of the mean of min(r A, clip(r) A): samples beyond the range in the direction of A do not count.
        advantage = (w * ratio * of.local).sum(1, keepdim=True) / (w * ratio).sum(1, keepdim=True) - of.local
        counted = torch.where(advantage > 0, ratio < 1 + CLIP, ratio > 1 - CLIP)
        return -2 * (w * ratio * counted * advantage) @ of.O
    if variant.startswith("earlier"):
        w = w * ratio
        w = w / w.sum(1, keepdim=True)
    deviation = w * (of.local - (w @ of.local)[:, None])
    found = 2 * deviation @ of.O
    if variant == "sample mean, centred":
        found = found - 2 * deviation.sum(1, keepdim=True) * (w @ of.O)
    return found * (N / (N - 1)) if variant == "leave one out" else found


def run(job: Job) -> Row:
    h, psi = hamiltonian_of(job.problem), early_state(job.problem, job.seed)
    drawn_from = sector(h, psi, gradients=False).p
    name, text = job.variant.split("; ")
    number = int(text.split()[0].replace(",", ""))
    repeats = NUMBERS[number]
    later = int(name.split(", ")[-1]) if name.startswith(("earlier", "clipped")) else 0
    if later:
        steps = recipes.optimiser(
            recipes.OptimiserOptions(learning_rate=RATE, final_learning_rate=RATE), exact=False
        )  # fmt: skip
        VMC(h, psi, ExhaustiveSampler(), steps, ExhaustiveSampler()).run(later, seed=job.seed, progress=False)
    of = sector(h, psi)
    ratio = of.p / drawn_from
    generator = torch.Generator().manual_seed(job.seed)
    rows = torch.multinomial(drawn_from, number * repeats, replacement=True, generator=generator)
    place = torch.arange(repeats).repeat_interleave(number) * len(ratio) + rows
    counts = torch.bincount(place, minlength=repeats * len(ratio)).view(repeats, -1).double()
    found = estimates(name, of, counts, ratio)
    mean, size = found.mean(0), of.gradient.norm()
    noise = (found - mean).square().sum(1).mean().item() * repeats / (repeats - 1)
    bias = (mean - of.gradient).square().sum().item() - noise / repeats
    effective = 1 / (drawn_from @ ratio.square()).item()
    return {
        "noise": noise**0.5 / size.item(),
        "bias": max(bias, 0.0) ** 0.5 / size.item(),
        "ratio": effective if later else None,
        "parameters": psi.n_parameters,
    }
