"""What of the sampling pass is used again: amplitudes in the local energy, the graph in the gradient.

Local energies of the same samples, in units of the time of the draw:
    looked up            amplitudes of samples are reused, the others share prefixes: what nqs does
    shared prefixes      every connected amplitude is computed; those with one prefix share it
    from scratch         every connected amplitude by a pass of its own
Gradients of sum_n w(n) log p(n), in units of the same draw without a graph:
    fresh pass           draw without a graph, then one pass over the distinct configurations and backward
    graph kept           draw with a graph through stored keys and values, then backward
Memory: of the tensors that the backward pass holds. Difference: of amplitudes or gradients to those from scratch.
"""

# Shapes: F prefixes, U distinct samples, H heads, T sites so far, E = D / H.
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.estimators.local_energy import local_energies
from nqs.models import TransformerConfig
from nqs.models.parts import Attention, Composed, ComposedConfig
from nqs.recipes.known_signs import signs
from nqs.samplers import TreeSampler
from nqs.samples import Samples, split_counts
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.small import hamiltonian_of

DISTINCT = (100, 1_000, 4_000)
ENERGIES = ("looked up", "shared prefixes", "from scratch")
GRADIENTS = ("fresh pass", "graph kept")
VARIANTS = tuple(f"{way}; {number:,}" for way in (*ENERGIES, *GRADIENTS) for number in DISTINCT)
COLUMNS = (
    Column("time", "time / time of the draw", ".2f"),
    Column("memory", "MB held for backward", ".1f"),
    Column("reused", "amplitudes reused", ".1%"),
    Column("difference", "largest difference", ".1e"),
)
REPEATS = 3


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """The shortest time of some repetitions, and the last result."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - begin)
    return min(seconds), found


def run(job: Job) -> Row:
    way, text = job.variant.split("; ")
    number = int(text.replace(",", ""))
    return energies(job, way, number) if way in ENERGIES else gradients(job, way, number)


def energies(job: Job, way: str, number: int) -> Row:
    h = hamiltonian_of(job.problem)
    config = TransformerConfig(
        width=16, layers=2, heads=4, mlp_ratio=2, phase="zero", reference=signs(h).reference, seed=job.seed
    )  # fmt: skip
    psi = config.build(h.hilbert)
    sampler = TreeSampler(n_distinct=min(number, h.hilbert.dimension // 2)).build(psi)
    sampler.sample(torch.Generator().manual_seed(job.seed))  # finds the number of samples
    draw, samples = timed(lambda: sampler.sample(torch.Generator().manual_seed(job.seed)))
    expected = from_scratch(h, psi, samples)
    if way == "looked up":
        seconds, found = timed(lambda: local_energies(h, psi, samples))
        values, reused = found.values.real, 1 - found.n_evaluated / found.n_connected
    elif way == "shared prefixes":
        seconds, values = timed(lambda: with_prefixes(h, psi, samples))
        reused = 0.0
    else:
        seconds, values = timed(lambda: from_scratch(h, psi, samples))
        reused = 0.0
    difference = (values - expected).abs().max().item()
    return {"time": seconds / draw, "reused": reused, "difference": difference, "draw": draw}


@torch.no_grad()
def from_scratch(h: Any, psi: Any, samples: Samples) -> Float64[Tensor, " U"]:
    connected = h.connected(samples.configurations)
    amplitudes = [psi.log_psi(part) for part in connected.configurations.split(2_000)]
    return summed(h, samples, connected, torch.cat([a[0] for a in amplitudes]), torch.cat([a[1] for a in amplitudes]))


@torch.no_grad()
def with_prefixes(h: Any, psi: Any, samples: Samples) -> Float64[Tensor, " U"]:
    from nqs.amplitudes.prefixes import log_psi_sharing_prefixes

    connected = h.connected(samples.configurations)
    return summed(h, samples, connected, *log_psi_sharing_prefixes(psi, connected.configurations))


def summed(h: Any, samples: Samples, connected: Any, log_modulus: Tensor, phase: Tensor) -> Float64[Tensor, " U"]:
    ratio = (log_modulus - samples.log_modulus[connected.parents]).exp()
    ratio = ratio * (phase - samples.phase[connected.parents]).cos()
    return h.diagonal(samples.configurations).index_add(0, connected.parents, connected.elements * ratio)


# --- gradients ------------------------------------------------------------------------------------------------------


def gradients(job: Job, way: str, number: int) -> Row:
    h = hamiltonian_of(job.problem)
    psi = ComposedConfig(width=16, mixer=Attention(), phase=None, seed=job.seed).build(h.hilbert)
    sampler = TreeSampler(n_distinct=min(number, h.hilbert.dimension // 2)).build(psi)
    samples = sampler.sample(torch.Generator().manual_seed(job.seed))
    draws = int(samples.counts.sum()) if samples.counts is not None else 0

    @torch.no_grad()
    def without_graph() -> tuple[Tensor, Tensor, Tensor]:
        return draw(psi, draws, torch.Generator().manual_seed(job.seed))

    def fresh() -> Tensor:
        n, counts, _ = without_graph()
        return gradient(psi, counts, 2 * psi(n).log_modulus)

    def kept() -> Tensor:
        _, counts, log_p = draw(psi, draws, torch.Generator().manual_seed(job.seed))
        return gradient(psi, counts, log_p)

    only, _ = timed(without_graph)
    chosen = fresh if way == "fresh pass" else kept
    seconds, found = timed(chosen)
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        chosen()
    held = sum(storages.values())
    difference = (found - fresh()).abs().max().item() / found.abs().max().item()
    return {"time": seconds / only, "memory": held / 1e6, "difference": difference, "draw": only}


def gradient(psi: Composed, counts: Int64[Tensor, " U"], log_p: Float64[Tensor, " U"]) -> Float64[Tensor, " P"]:
    """Of a mean over samples of log p with weights that change sign, as (E_loc - E) does."""
    w = counts.double() / counts.sum()
    value = log_p.detach()
    loss = (w * (value - w @ value)) @ log_p
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(psi.parameters()))])


def draw(
    psi: Composed, number: int, generator: torch.Generator
) -> tuple[UInt8[Tensor, "U L"], Int64[Tensor, " U"], Float64[Tensor, " U"]]:
    """Tree sampling with stored keys and values; log p has a graph if gradients are enabled."""
    hilbert = psi.hilbert
    L, d = hilbert.n_sites, hilbert.local_dim
    tables, blocks = hilbert.tables("cpu"), cast(Any, psi.blocks)
    tokens = torch.empty((1, 0), dtype=torch.uint8)
    counts, remainder = torch.tensor([number]), torch.tensor([hilbert.start])
    log_p = torch.zeros(1, dtype=torch.float64)
    stored: list[Tensor] = [torch.zeros((2, 1, b.attention.heads, 0, 4), dtype=torch.float64) for b in blocks]
    for site in range(L):
        F = len(tokens)
        before = tokens[:, -1:].long() if site else torch.full((F, 1), d)
        x = psi.token(before[..., None]) + psi.position(F, site + 1)[:, -1:]
        for k, block in enumerate(blocks):
            q, *new = block.attention.projected(block.norm1(x))  # (F, H, 1, E) each
            stored[k] = torch.cat([stored[k], torch.stack(new)], dim=3)
            y = nn.functional.scaled_dot_product_attention(q, *stored[k])
            x = x + block.attention.out(y.transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        logits = cast(Any, psi.head)(psi.norm(x), first=site)[:, 0] + tables.log_uniform[site, remainder]
        conditional = logits.log_softmax(-1)
        children = split_counts(counts, conditional.detach().exp(), generator, number)
        rows, chosen = children.nonzero().T
        log_p = log_p[rows] + conditional[rows, chosen]
        counts, tokens = children[rows, chosen], torch.cat([tokens[rows], chosen[:, None].to(torch.uint8)], 1)
        remainder = tables.after(site, remainder[rows], chosen)
        stored = [s[:, rows] for s in stored]
    return tokens, counts, log_p
