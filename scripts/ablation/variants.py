"""Variants of the questions that training answers: what each of them changes in the baseline."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast, get_args

from nqs.models import TransformerConfig
from nqs.models.parts import (
    Attention,
    ByPosition,
    Categorical,
    Deembedding,
    GridPositions,
    Groups,
    LastPhase,
    LatentConfig,
    LearnedPositions,
    LinearRecurrence,
    LogitPhase,
    MaskedMLP,
    NoPositions,
    OneHot,
    Ordinal,
    Recurrence,
    Retention,
    RotaryAttention,
    SignPhase,
    TokenPhase,
    WholePhase,
)
from nqs.optimisation import TorchOptimiser
from nqs.samplers import CoverageSampler, GumbelSampler, ImportanceSampler, Proposal, TreeSampler
from nqs.scripts.ablation.jobs import Job
from nqs.scripts.ablation.orders import Encoding, SplitElectrons, SplitReference, displacements
from nqs.scripts.ablation.problems import PROBLEMS
from nqs.scripts.ablation.training import Setting, baseline, parameters_of

Parts = Mapping[str, Any]
TOKENS: dict[str, Parts] = {
    "categorical": {"tokens": Categorical()},
    "one-hot": {"tokens": OneHot()},
    "groups": {"tokens": Groups()},
    "number": {"tokens": Ordinal(features=1)},
    "smooth features": {"tokens": Ordinal(features=8)},
    "patches of 2": {"tokens": OneHot(), "patch": 2},
    "patches of 4": {"tokens": OneHot(), "patch": 4},
}
POSITIONS: dict[str, Parts] = {
    "attention, none": {"mixer": Attention(), "positions": NoPositions()},
    "attention, learned": {"mixer": Attention(), "positions": LearnedPositions()},
    "attention, rows and columns": {"mixer": Attention(), "positions": GridPositions()},
    "attention, rotary": {"mixer": RotaryAttention(), "positions": NoPositions()},
    "displacement, none": {"positions": NoPositions()},
    "displacement, learned": {},
}
DEEMBEDDING: dict[str, Parts] = {
    "last position": {},
    "pooled": {"deembedding": Deembedding(pooled=True)},
    "head per site": {"deembedding": Deembedding(per_site=True)},
    "pooled, head per site": {"deembedding": Deembedding(pooled=True, per_site=True)},
}
PHASES: dict[str, Parts] = {
    "per token": {"phase": TokenPhase()},
    "last position": {"phase": LastPhase()},
    "separate network": {"phase": WholePhase(ratio=2)},
    "from logits": {"phase": LogitPhase()},
    "sign": {"phase": SignPhase()},
}
BACKBONES: dict[str, Parts] = {
    "attention": {"mixer": Attention()},
    "attention by displacement": {},
    "gated recurrence": {"mixer": Recurrence()},
    "gated recurrence, two-dimensional": {"mixer": Recurrence(grid=True)},
    "linear recurrence": {"mixer": LinearRecurrence()},
    "retention": {"mixer": Retention()},
    "masked perceptron": {"mixer": MaskedMLP()},
}
CACHED = "transformer with cached decoding"


def with_parts(table: Mapping[str, Parts], *, start: bool = True) -> Callable[[Job], Setting]:
    """The baseline with the parts of a variant and, about, the number of parameters of the baseline."""

    def setting(job: Job) -> Setting:
        base = baseline(job, start=start)
        parts = dict(table[job.variant])
        patch = parts.get("patch", 1)
        if patch > 1 and "mixer" not in parts:
            classes = base.model.mixer.classes
            parts["mixer"] = ByPosition(classes=tuple(row[::patch] for row in classes[::patch]))
        if base.model.phase is None:
            parts.pop("phase", None)
        return replace(base, model=replace(base.model, **parts), match=parameters_of(base))

    return setting


def backbones(job: Job) -> Setting:
    if job.variant != CACHED:
        return with_parts(BACKBONES)(job)
    base = baseline(job)
    model = base.model
    config = TransformerConfig(
        width=model.width, layers=model.layers, mlp_ratio=model.mlp_ratio, attention="factored",
        displacements=model.mixer.classes, phase="zero" if model.phase is None else "learned", dtype=model.dtype,
        seed=model.seed, reference=model.reference, start=model.start, initial_phases=model.initial_phases,
    )  # fmt: skip
    sampler: Any = base.sampler
    return replace(base, model=config, sampler=replace(sampler, use_cuda_graph=True))


def orders(job: Job) -> Setting:
    """Orders of the sites; for electrons also of the orbitals."""
    if job.variant not in ("joint", *get_args(Encoding)):
        return baseline(job, order=job.variant)
    base = baseline(job, start=False)
    if job.variant == "joint":
        return base
    electrons = SplitElectrons(base.hamiltonian, cast(Encoding, job.variant))
    rows = displacements(PROBLEMS[job.problem].lattice, list(range(base.hamiltonian.hilbert.n_sites)))
    rows_, columns = base.model.shape
    model = replace(
        base.model,
        mixer=ByPosition(classes=electrons.classes(rows)),
        shape=(2 * rows_, columns),
        reference=SplitReference(base.model.reference, electrons),
    )
    return replace(base, hamiltonian=electrons, model=model, match=parameters_of(base))


def latents(job: Job) -> Setting:
    base = baseline(job)
    number = int(job.variant.split()[0])
    if number == 1:
        return base
    config = LatentConfig(component=replace(base.model, start="uniform"), latents=number, seed=job.seed)
    return replace(base, model=config, match=parameters_of(base))


SAMPLERS = ("independent", "without replacement", "tempered", "most probable", "four times as many", "a quarter")


def samplers(job: Job) -> Setting:
    base = baseline(job)
    distinct = base.sampler.n_distinct  # type: ignore[attr-defined]
    most = base.hamiltonian.hilbert.dimension
    chosen: dict[str, Any] = {
        "independent": base.sampler,
        "without replacement": GumbelSampler(n_distinct=distinct),
        "tempered": ImportanceSampler(n_samples=distinct, n_effective=1, n_batches=1, proposal=Proposal(power=0.5)),
        "most probable": CoverageSampler(n_distinct=distinct),
        "four times as many": TreeSampler(n_distinct=min(4 * distinct, most), use_cuda_graph=False),
        "a quarter": TreeSampler(n_distinct=max(1, distinct // 4), use_cuda_graph=False),
    }
    return replace(base, sampler=chosen[job.variant])


OBJECTIVES = ("energy", "entropy weight 0.3", "entropy weight 1", "energy, Adam")


def objectives(job: Job) -> Setting:
    base = baseline(job)
    if job.variant == "energy, Adam":
        return replace(base, optimiser=TorchOptimiser(name="Adam", learning_rate=3e-3, final_learning_rate=1e-4))
    return replace(base, temperature=0.0 if job.variant == "energy" else float(job.variant.split()[-1]))


def possible(table: Mapping[str, Parts], problem: str) -> tuple[str, ...]:
    """Variants that a problem can have: groups of several species, patches that divide the sites."""
    hilbert = PROBLEMS[problem].hamiltonian(PROBLEMS[problem].lattice).hilbert
    several, L = len(hilbert.species) > 1, math.prod(PROBLEMS[problem].shape)
    return tuple(
        name
        for name, parts in table.items()
        if (name != "groups" or several) and L % parts.get("patch", 1) == 0
        and not (hilbert.local_dim == 2 and isinstance(parts.get("tokens"), Ordinal))
    )  # fmt: skip
