"""How much a prefix must be remembered, by the order of the sites: mutual information of exact ground states.

For every cut of the sequence, I = H(prefix) + H(rest) - H(all) of |psi|^2, in bits: what any network has to carry from
the sites before to those after. The mean and the largest one over all cuts.
"""

# Shapes: D configurations, L sites.
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs import exact
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.lattice import square
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.orders import ORDERS, SplitElectrons, order_of_sites

COLUMNS = (
    Column("mean", "mean over cuts / bits", ".3f"),
    Column("largest", "largest / bits", ".3f"),
)
SHAPES = {"bose-hubbard-3x3": (3, 3), "heisenberg-4x4": (4, 4), "hubbard-2x4": (2, 4)}
ENCODINGS = ("interleaved", "blocks")


def hamiltonian_of(problem: str) -> Any:
    """One particle on each site, with U = 8."""
    lattice = square(*SHAPES[problem])
    if problem.startswith("bose"):
        return BoseHubbard(lattice, 9, U=8.0)
    return FermiHubbard(lattice, 4, 4, U=8.0) if problem.startswith("hubbard") else Heisenberg(lattice, total_sz=0)


def variants(problem: str) -> tuple[str, ...]:
    return (*ORDERS, *(ENCODINGS if problem.startswith("hubbard") else ()))


@cache
def probabilities(problem: str) -> tuple[UInt8[Tensor, "D L"], Float64[Tensor, " D"]]:
    h = hamiltonian_of(problem)
    state = torch.from_numpy(exact.ground_state(h).state)
    return h.hilbert.configurations(), state.abs().square().double()


def entropy(n: UInt8[Tensor, "D L"], p: Float64[Tensor, " D"]) -> float:
    """Of the distribution of the sites in n, in bits."""
    weights = 4 ** torch.arange(n.shape[1]) if int(n.max()) < 4 else 10 ** torch.arange(n.shape[1])
    _, classes = (n.long() * weights).sum(1).unique(return_inverse=True)
    q = torch.zeros(int(classes.max()) + 1, dtype=torch.float64).index_add_(0, classes, p)
    return -(q * q.clamp(min=1e-300).log2()).sum().item()


def information(n: UInt8[Tensor, "D L"], p: Float64[Tensor, " D"]) -> Sequence[float]:
    """Mutual information of both sides of every cut."""
    whole = entropy(n, p)
    return [entropy(n[:, :cut], p) + entropy(n[:, cut:], p) - whole for cut in range(1, n.shape[1])]


def run(job: Job) -> Row:
    n, p = probabilities(job.problem)
    if job.variant in ENCODINGS:
        n = SplitElectrons(hamiltonian_of(job.problem), job.variant).split(n)  # type: ignore[arg-type]
    else:
        n = n[:, order_of_sites(job.variant, SHAPES[job.problem])]
    found = information(n, p)
    return {"mean": sum(found) / len(found), "largest": max(found)}
