"""Proxies of the local energy, and what they cost in bias.

    all                 every connected configuration: unbiased
    samples             only those among the samples
    samples, rescaled   the same, times sum |<n|H|n'>| over all of them / over those among the samples
    largest half        the half with the largest |<n|H|n'>|
    drawn               m of them with probability ~ |<n|H|n'>|, divided by it: unbiased, with more noise

Bias: mean over repeated draws of the estimated energy less <H>, both by sums over the sector; spread: standard
deviation.
Evaluated: amplitudes that the network computes besides those of the samples, per sample.
"""

# Shapes: R draws, U distinct samples, D configurations of the sector, K connected configurations.
from functools import cached_property

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nqs.protocols import Hamiltonian, Wavefunction
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.scripts.ablation.small import Sector, early_state, hamiltonian_of, sector

SAMPLES = (100, 1_000, 10_000, 100_000)
REPEATS, DRAWN = 40, 4
PROXIES = ("all", "samples", "samples, rescaled", "largest half", "drawn")
VARIANTS = tuple(f"{proxy}; {number:,} samples" for proxy in PROXIES for number in SAMPLES)
COLUMNS = (
    Column("bias", "bias / |E|", "+.1e"),
    Column("bias_error", "its standard error", ".1e"),
    Column("spread", "standard deviation / |E|", ".1e"),
    Column("evaluated", "amplitudes evaluated per sample", ".2f"),
)


class Elements:
    """Off-diagonal elements of H by row, and ratios of amplitudes."""

    def __init__(self, h: Hamiltonian, of: Sector, psi: Wavefunction) -> None:
        connected = h.connected(of.n)
        log_modulus, phase = psi.log_psi(of.n)
        amplitude = log_modulus.exp() * phase.cos()
        self.row, self.column = connected.parents, h.hilbert.rank(connected.configurations)
        self.size = connected.elements.abs()
        self.value = connected.elements * amplitude[self.column] / amplitude[self.row]
        self.diagonal: Float64[Tensor, " D"] = h.diagonal(of.n)
        order = self.row.argsort(stable=True)
        self.row, self.column, self.size, self.value = (
            x[order] for x in (self.row, self.column, self.size, self.value)
        )

    def summed(self, x: Tensor) -> Float64[Tensor, " D"]:
        return torch.zeros_like(self.diagonal).index_add_(0, self.row, x)

    @cached_property
    def of_all(self) -> Float64[Tensor, " D"]:
        return self.summed(self.value)

    @cached_property
    def sizes(self) -> Float64[Tensor, " D"]:
        """sum |<n|H|n'>| of every row."""
        return self.summed(self.size)

    @cached_property
    def largest_half(self) -> Tensor:
        """Of the elements of every row, ties by position."""
        order = torch.argsort(self.size, descending=True, stable=True)
        order = order[self.row[order].argsort(stable=True)]
        number = torch.bincount(self.row, minlength=len(self.diagonal))
        place = torch.arange(len(order)) - (number.cumsum(0) - number)[self.row[order]]
        kept = torch.zeros(len(order), dtype=torch.bool)
        kept[order] = place < (number[self.row[order]] + 1) // 2
        return kept

    @cached_property
    def of_half(self) -> Float64[Tensor, " D"]:
        return self.summed(self.value * self.largest_half)

    def outside(self, used: Tensor, present: Tensor) -> float:
        """Distinct columns of the used elements that are not present, per present row."""
        columns = torch.zeros_like(present)
        columns[self.column[used]] = True
        return int((columns & ~present).sum()) / int(present.sum())


def local_values(
    proxy: str, at: Elements, present: Tensor, generator: torch.Generator
) -> tuple[Float64[Tensor, " D"], float]:
    """Local energies of all rows, and amplitudes evaluated per present row."""
    rows = present[at.row]
    if proxy == "all":
        return at.diagonal + at.of_all, at.outside(rows, present)
    if proxy == "largest half":
        return at.diagonal + at.of_half, at.outside(rows & at.largest_half, present)
    if proxy == "drawn":
        chosen = drawn(at, present, generator)
        parts = at.value[chosen] / at.size[chosen] * at.sizes[at.row[chosen]] / DRAWN
        return at.diagonal.index_add(0, at.row[chosen], parts), at.outside(chosen, present)
    inside = present[at.column].double()
    found = at.summed(at.value * inside)
    if proxy == "samples, rescaled":
        found = found * at.sizes / at.summed(at.size * inside).clamp(min=1e-300)
    return at.diagonal + found, 0.0


def drawn(at: Elements, present: Tensor, generator: torch.Generator) -> Int64[Tensor, " K"]:
    """DRAWN elements of every present row, with probability ~ |<n|H|n'>|."""
    cumulated = at.size.cumsum(0)
    last = torch.bincount(at.row, minlength=len(at.diagonal)).cumsum(0)
    high = torch.where(last > 0, cumulated[(last - 1).clamp(min=0)], 0.0)
    low = torch.cat([high.new_zeros(1), high[:-1]])
    rows = present.nonzero()[:, 0]
    u = torch.rand((len(rows), DRAWN), generator=generator, dtype=torch.float64)
    at_most = (low[rows][:, None] + u * (high - low)[rows][:, None]).clamp(max=cumulated[-1].item())
    found = torch.searchsorted(cumulated, at_most.flatten()).clamp(max=len(cumulated) - 1)
    return found[at.row[found] == rows.repeat_interleave(DRAWN)]


def run(job: Job) -> Row:
    h, psi = hamiltonian_of(job.problem), early_state(job.problem, job.seed)
    known = sector(h, psi, gradients=False)
    at = Elements(h, known, psi)
    proxy, text = job.variant.split("; ")
    number = int(text.split()[0].replace(",", ""))
    generator = torch.Generator().manual_seed(job.seed)
    energies, evaluated = [], []
    for _ in range(REPEATS):
        counts = torch.bincount(
            torch.multinomial(known.p, number, replacement=True, generator=generator), minlength=len(known.p)
        )
        values, cost = local_values(proxy, at, counts > 0, generator)
        energies.append((counts.double() @ values / number).item())
        evaluated.append(cost)
    found = torch.tensor(energies, dtype=torch.float64)
    size = abs(known.energy)
    return {
        "bias": (found.mean().item() - known.energy) / size,
        "bias_error": found.std().item() / REPEATS**0.5 / size,
        "spread": found.std().item() / size,
        "evaluated": sum(evaluated) / REPEATS,
    }
