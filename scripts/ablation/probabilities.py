"""Probabilities or log-probabilities: log psi of long sequences from logits in single precision.

    product                   probabilities by softmax, multiplied, the logarithm of the product
    log of softmax            logarithms of probabilities, added
    log-softmax               added in single precision
    log-softmax, sum in 64    rounded to single precision, added in double precision
    float64                   logits raised to double precision before log-softmax: what nqs does

Exact: the same logits in extended precision. Logits are normal with a standard deviation of 3 for two and four local
states, and the configurations are drawn from them.
"""

# Shapes: B configurations, L sites, d local states.
import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from nqs.scripts.ablation.jobs import Column, Job, Row

ROWS, REPEATS, SPREAD = 2_000, 20, 3.0
COLUMNS = (
    Column("error", "largest error of log psi"),
    Column("lost", "amplitudes lost (0)", ".1%"),
    Column("nanoseconds", "ns a site", ".1f"),
)

Sum = Callable[[Float[Tensor, "B L d"], Int64[Tensor, "B L 1"]], Float[Tensor, " B"]]
SUMS: dict[str, Sum] = {
    "product": lambda logits, n: logits.softmax(-1).gather(-1, n).prod(1)[:, 0].log() / 2,
    "log of softmax": lambda logits, n: logits.softmax(-1).gather(-1, n).log().sum((1, 2)) / 2,
    "log-softmax": lambda logits, n: logits.log_softmax(-1).gather(-1, n).sum((1, 2)) / 2,
    "log-softmax, sum in 64": lambda logits, n: logits.log_softmax(-1).gather(-1, n).double().sum((1, 2)) / 2,
    "float64": lambda logits, n: logits.double().log_softmax(-1).gather(-1, n).sum((1, 2)) / 2,
}
PROBLEMS = {f"L={L}, d={d}": (L, d) for L in (64, 256) for d in (2, 4)}


def extended(logits: Float[Tensor, "B L d"], n: Int64[Tensor, "B L 1"]) -> Float64[Tensor, " B"]:
    """log psi with numbers of 80 bits, where the machine has them."""
    x = logits.numpy().astype(np.longdouble)
    log_p = x - x.max(-1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(-1, keepdims=True))
    return torch.from_numpy((np.take_along_axis(log_p, n.numpy(), -1).sum((1, 2)) / 2).astype(np.float64))


def run(job: Job) -> Row:
    L, d = PROBLEMS[job.problem]
    generator = torch.Generator().manual_seed(job.seed)
    logits = SPREAD * torch.randn((ROWS, L, d), generator=generator)
    n = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1, generator=generator).view(ROWS, L, 1)
    exact = extended(logits, n)
    method, seconds = SUMS[job.variant], []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        found = method(logits, n)
        seconds.append(time.perf_counter() - begin)
    finite = found.isfinite()
    return {
        "error": (found.double() - exact)[finite].abs().max().item() if finite.any() else None,
        "lost": 1 - finite.double().mean().item(),
        "nanoseconds": 1e9 * sorted(seconds)[REPEATS // 2] / (ROWS * L),
    }
