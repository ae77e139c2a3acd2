"""Particles added to, or removed from, sampled configurations until their numbers are those of a sector.

The result is not distributed as the amplitudes say: scripts/equalisation.py measures by how much.
"""

# Shapes: B configurations, L sites, d local states, C conserved charges.
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.protocols import AutoregressiveWavefunction
from nqs.samples import distinct


def excess(sector: HilbertSpace, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B C"]:
    """N - N0 of every charge."""
    values = torch.tensor([c.values for c in sector.charges], device=n.device)  # (C, d)
    targets = torch.tensor([c.target for c in sector.charges], device=n.device)
    return values[:, n.long()].sum(-1).T - targets


def neighbours(sector: HilbertSpace, charge: int) -> Int64[Tensor, "2 d"]:
    """Local states with one particle of the charge less, and one more; -1 where there is none."""
    states = list(zip(*(c.values for c in sector.charges), strict=True))

    def state(numbers: tuple[int, ...]) -> int:
        return states.index(numbers) if numbers in states else -1

    return torch.tensor(
        [[state((*n[:charge], n[charge] + change, *n[charge + 1 :])) for n in states] for change in (-1, 1)]
    )


def equalised(
    n: UInt8[Tensor, "B L"],
    sector: HilbertSpace,
    generator: torch.Generator,
    guide: AutoregressiveWavefunction | None = None,
) -> UInt8[Tensor, "B L"]:
    """Configurations with particles removed or added, one after another, until all are in the sector.

    Args:
        guide: sites are drawn with the ratio of its conditionals after and before the change; None: uniformly, out of
            those that can give, or take, a particle.
    """
    n = n.clone()
    for charge in range(len(sector.charges)):
        changes = neighbours(sector, charge).to(n.device)
        while len(rows := (difference := excess(sector, n)[:, charge]).nonzero()[:, 0]):
            old = n[rows].long()
            new = changes[(difference[rows] < 0).long()].gather(1, old)  # (b, L)
            log_ratio = torch.zeros(new.shape, dtype=torch.float64, device=n.device)
            if guide is not None:
                first, classes = distinct(guide.hilbert, n[rows])
                log_p = guide.conditionals(n[rows[first]]).log_p[classes]
                log_ratio = (log_p.gather(2, new.clamp(min=0)[..., None]) - log_p.gather(2, old[..., None]))[..., 0]
            p = log_ratio.masked_fill(new < 0, -torch.inf).softmax(1)
            site = torch.multinomial(p, 1, generator=generator)
            n[rows] = old.scatter(1, site, new.gather(1, site)).to(torch.uint8)
    return n
