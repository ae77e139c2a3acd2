"""Where the sampling node passes gradient: estimators of d <f> / d theta through discrete samples.

f is the local energy at fixed parameters, extended to relaxed configurations x (a distribution over the local states of
every site) as f(x) = sum_n prod_s x_s[n_s] f(n), with the mean energy in place of f(n) outside the sector.

    score function        f(n) d log p(n)
    ..., with baseline    (f(n) - b) d log p(n), b the mean of the other samples
    straight-through      hard samples forward, the derivative of the probabilities backward (Bengio et al.,
                          arXiv:1308.3432)
    Gumbel-softmax, T     relaxed samples softmax((log p + Gumbel noise) / T), fed on to the network and to f
                          (Jang et al., arXiv:1611.01144)

Relaxed tokens reach the network through a linear map of one-hot tokens; masks follow the hard samples.
"""

# Shapes: B samples, L sites, d local states, S = d^L configurations.

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from nqs.models.parts import Attention, Composed, ComposedConfig, OneHot
from nqs.recipes.known_signs import signs
from nqs.samplers.gumbel import gumbel
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.small import early_state, hamiltonian_of, sector

NUMBER, REPEATS = 500, 60
VARIANTS = (
    "score function",
    "score function, with baseline",
    "straight-through",
    "Gumbel-softmax, 0.1",
    "Gumbel-softmax, 0.5",
    "Gumbel-softmax, 1",
)
COLUMNS = (
    Column("noise", "noise / |gradient|"),
    Column("bias", "bias / |gradient|"),
    Column("cosine", "cosine of the mean and the gradient", ".3f"),
)


class Relaxed:
    """Samples of a composed model with relaxed tokens, site by site."""

    def __init__(self, model: Composed, temperature: float | None, straight: bool) -> None:
        self.model, self.temperature, self.straight = model, temperature, straight

    def draw(self, number: int, generator: torch.Generator) -> tuple[Int64[Tensor, "B L"], list[Tensor], Tensor]:
        """Hard samples, tokens as they are passed on (B, d) each, and log p of the hard samples."""
        hilbert = self.model.hilbert
        d, tables = hilbert.local_dim, hilbert.tables("cpu")
        remainder = torch.full((number,), hilbert.start)
        tokens = [nn.functional.one_hot(torch.full((number,), d), d + 1).double()]
        hard, soft, log_p = [], [], torch.zeros(number, dtype=torch.float64)
        for site in range(hilbert.n_sites):
            logits = self.logits(torch.stack(tokens, 1)) + tables.log_uniform[site, remainder]
            conditional = logits.log_softmax(-1)
            keys = conditional + gumbel(conditional.detach(), generator)
            choice = keys.argmax(-1)
            one_hot = nn.functional.one_hot(choice, d).double()
            if self.temperature is not None:
                relaxed = (keys / self.temperature).softmax(-1)
            elif self.straight:
                p = conditional.exp()
                relaxed = one_hot + p - p.detach()
            else:
                relaxed = one_hot
            log_p = log_p + conditional.gather(-1, choice[:, None])[:, 0]
            remainder = tables.after(site, remainder, choice)
            hard.append(choice)
            soft.append(relaxed)
            tokens.append(nn.functional.pad(relaxed, (0, 1)))
        return torch.stack(hard, 1), soft, log_p

    def logits(self, tokens: Float64[Tensor, "B T d1"]) -> Float64[Tensor, "B d"]:
        """Of the next site."""
        model = self.model
        x = model.token.linear(tokens) + model.position(len(tokens), tokens.shape[1])
        for block in model.blocks:
            x = block(x)
        return model.head(model.norm(x[:, -1:]), first=tokens.shape[1] - 1)[:, 0]


def extended(f: Float64[Tensor, " S"], tokens: list[Tensor]) -> Float64[Tensor, " B"]:
    """f(x) = sum_n prod_s x_s[n_s] f(n), site by site from the last one."""
    d = tokens[0].shape[1]
    values = f.expand(len(tokens[0]), -1)
    for x in reversed(tokens):
        values = (values.view(len(x), -1, d) @ x[:, :, None])[..., 0]
    return values[:, 0]


def run(job: Job) -> Row:
    h = hamiltonian_of(job.problem)
    config = ComposedConfig(
        width=8, layers=1, mixer=Attention(heads=2), tokens=OneHot(), phase=None, reference=signs(h).reference,
        seed=job.seed,
    )  # fmt: skip
    psi = early_state(job.problem, job.seed, model=config)
    assert isinstance(psi, Composed)
    known, d, L = sector(h, psi), h.hilbert.local_dim, h.hilbert.n_sites
    f = torch.full((d**L,), known.energy, dtype=torch.float64)
    weights = d ** torch.arange(L - 1, -1, -1)
    f[(known.n.long() * weights).sum(1)] = known.local
    temperature = float(job.variant.split(", ")[1]) if job.variant.startswith("Gumbel") else None
    relaxed = Relaxed(psi, temperature, job.variant == "straight-through")
    generator = torch.Generator().manual_seed(job.seed)
    parameters, found = list(psi.parameters()), []
    for _ in range(REPEATS):
        hard, soft, log_p = relaxed.draw(NUMBER, generator)
        if job.variant.startswith("score"):
            values = f[(hard * weights).sum(1)]
            if job.variant.endswith("baseline"):
                values = (values - values.mean()) * NUMBER / (NUMBER - 1)
            objective = (values * log_p).mean()
        else:
            objective = extended(f, soft).mean()
        parts = torch.autograd.grad(objective, parameters, materialize_grads=True)
        found.append(torch.cat([part.flatten() for part in parts]))
    estimates, size = torch.stack(found), known.gradient.norm()
    mean = estimates.mean(0)
    noise = (estimates - mean).square().sum(1).mean().item() * REPEATS / (REPEATS - 1)
    bias = (mean - known.gradient).square().sum().item() - noise / REPEATS
    return {
        "noise": noise**0.5 / size.item(),
        "bias": max(bias, 0.0) ** 0.5 / size.item(),
        "cosine": (mean @ known.gradient / mean.norm() / size).item(),
    }
