"""Error bars of means over samples: half the width of a 95 % interval over 1.96, the standard error where that is one.

The scatter of the values that were drawn is trusted only as far as it goes. Two variances of the mean are formed, and
the larger one counts:

1. Scatter of the drawn values, widened by Student's t. The degrees of freedom are those of Satterthwaite (Biometrics
   Bull. 2, 110 (1946)): with N draws and kurtosis k of the values, nu = 2 N / (k - 1), so 2 K if K rare draws make up
   the scatter; N - 1 at most.
2. Known variance. The probability of each configuration is known (the state is normalised), so the sum of
   p |x - <x>|^2 is exact over all configurations whose value is known, drawn or not, and 1 - sum p is the weight of the
   others. These are taken to deviate as configurations do that were drawn once, if there are enough of them; else by as
   much as the range of x allows, or by the largest deviation that is known. For local values of moves n -> n' that can
   be reversed the second moment has no rare large terms if it is taken at n' (`second` below).

Where neither says anything, the error is not determinable: nan. Zero is quoted for exhaustive sums, and elsewhere the
rounding error at least.
"""

# Shapes: U configurations, b of a chunk.
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64, Num
from torch import Tensor

from nqs.samples import Samples

NORMAL = 1.959964  # half width of the 95 % interval of a normal distribution, in standard deviations
NOTHING_SEEN = 3.689  # mean of a Poisson number that is zero with probability 2.5 %
SIMILAR = 10  # configurations drawn once that can stand for those never drawn
COMPLETE = 1e-10  # unseen weight that is rounding error
FEW = 0.1  # unseen weight with which one draw alone is no measurement
ROUNDING = 2.0**-52  # relative
CANCELLED = 1e-14  # relative difference of two large numbers that is rounding error


class ErrorBar(NamedTuple):
    """Mean and its error, nan where it cannot be determined."""

    mean: Num[Tensor, "*shape"]
    error: Float64[Tensor, "*shape"]


@dataclass(frozen=True)
class ErrorWeights:
    """Weights of the sums that make up the error of any mean over the samples."""

    samples: Samples

    @cached_property
    def probability(self) -> Float64[Tensor, " U"] | None:
        """Probability that one draw gives each configuration; None where the state is not known to be normalised."""
        if not self.samples.normalised or self.samples.weighted_counts is not None:
            return None
        p = (2 * self.samples.log_modulus).exp() if self.samples.probability is None else self.samples.probability
        return p if p.sum().item() < 1 + 1e-6 else None

    @cached_property
    def unseen(self) -> float:
        """Weight of all configurations that are not among the samples."""
        if self.probability is None:
            return self._unseen_without_norm
        weight = 1 - self.probability.sum().item()
        return weight if weight > COMPLETE else 0.0

    @property
    def _unseen_without_norm(self) -> float:
        """Upper limit (97.5 %) of the weight of draws that were the only ones of their kind, an estimate of what was
        never drawn: Good, Biometrika 40, 237 (1953)."""
        samples, alone = self.samples, self.rare.sum().item()
        if samples.counts is None and samples.weighted_counts is None:
            return 1.0
        weight = alone / self.draws if self.drawn_once is None else samples.weights[self.drawn_once].sum().item()
        return min(1.0, weight * (1 + NORMAL / math.sqrt(max(alone, 1.0))) + NOTHING_SEEN / self.draws)

    @cached_property
    def unit(self) -> float:
        """Variance of the mean per variance of rare configurations: 1 / N, or exp(kappa) without replacement."""
        samples = self.samples
        return 1 / samples.n_effective if samples.threshold is None else samples.threshold

    @cached_property
    def known(self) -> Float64[Tensor, " U"]:
        """k with variance = sum k |x - <x>|^2 over all configurations: p / N, or p^2 (1 - q) / q with inclusion q."""
        p = self.probability
        if p is None:
            return torch.zeros_like(self.samples.weights)
        if self.samples.threshold is None:
            return p * self.unit
        u = p / self.unit
        return p * self.unit * torch.where(u > 0, u / torch.expm1(u), 1.0)

    @cached_property
    def events(self) -> Float64[Tensor, " U"]:
        """e with sum_i a_i^2 = sum e |x - <x>|^4 for the terms a_i of the scatter, one for each draw."""
        c, counts = self.samples.error_weights, self.samples.counts
        if self.samples.weighted_counts is not None:
            return self.samples.correlation * c.square() / self.samples.weighted_counts
        if counts is None:
            return c.square()
        return torch.where(counts > 0, self.samples.correlation * c.square() / counts.clamp(min=1), 0.0)

    @property
    def drawn_once(self) -> Bool[Tensor, " U"] | None:
        """What is a single draw among weighted ones; None without weights.

        Draws of Markov chains that count as one are one.
        """
        counts, correlation = self.samples.weighted_counts, self.samples.correlation
        if counts is None:
            return None
        of_chains = self.samples.autocorrelation_time is not None and self.samples.islands is None
        return counts < (max(1.5, correlation) if of_chains and not math.isnan(correlation) else 1.5)

    @cached_property
    def rare(self) -> Float64[Tensor, " U"]:
        """1 for what was drawn once, or was included with a probability below one half; else 0.

        Correlated samples that count as one draw are one. Weighted draws have their weights, and the same sum: they
        stand for configurations with the probabilities of the state, not for those of what was drawn from.
        """
        q, counts = self.samples.inclusion_probability, self.samples.counts
        if q is not None:
            return ((q < 0.5) & (self.samples.weights > 0)).double()
        if self.drawn_once is not None:
            weights = self.drawn_once * self.samples.weights
            return weights * (self.drawn_once.sum() / weights.sum().clamp(min=torch.finfo(weights.dtype).tiny))
        if counts is None:
            return torch.ones_like(self.samples.weights)
        return ((counts > 0) & (counts <= self.samples.correlation)).double()

    @cached_property
    def certain(self) -> Float64[Tensor, " U"]:
        """Variance per |x - <x>|^2 that independent draws would have and draws without replacement have not."""
        p = self.probability
        return torch.zeros_like(self.samples.weights) if p is None else p * self.unit - self.known

    @property
    def draws(self) -> float:
        """Fixed number of terms of the scatter; infinite if it is random."""
        samples = self.samples
        return samples.n_effective if samples.inclusion_probability is None else torch.inf


def error_bar(samples: Samples, x: Num[Tensor, "U ..."], reach: float | Tensor | None = None) -> ErrorBar:
    """Mean and error of values that are known on all samples; `reach` as in `Moments.error`."""
    moments = Moments(ErrorWeights(samples.correlated_as(x) if x.ndim == 1 else samples))
    moments.add(slice(None), x)
    return moments.error(reach)


class Moments:
    """Sums over the samples, chunk by chunk, that give the mean of x and its error."""

    def __init__(self, weights: ErrorWeights) -> None:
        samples = weights.samples
        self.of, self.origin = weights, None
        self.linear = torch.stack(
            [samples.weights, samples.error_weights, weights.known, weights.rare, weights.certain]
        )
        self.second: Tensor | None = None

    origin: Tensor | None  # estimate of the mean that is subtracted, against cancellation between large sums

    def add(
        self, rows: Tensor | slice, x: Num[Tensor, "b ..."], second: Float64[Tensor, "b ..."] | None = None
    ) -> None:
        """
        Args:
            second: real numbers with the same mean as |x|^2.
        """
        self.shape, x = x.shape[1:], x.flatten(1) if x.ndim > 1 else x[:, None]
        linear, events = self.linear[:, rows], self.of.events[rows]
        if self.origin is None:
            w = linear[0].to(x.dtype)
            self.origin = (w @ x) / w.sum() if w.sum() != 0 else x[0]
            self.first = x.new_zeros((len(linear), x.shape[1]))
            self.squares, self.fourth = self.first.real.double(), torch.zeros_like(self.origin.real)
            self.largest = torch.zeros_like(self.origin.real)
        x = x - self.origin
        squares = x.abs().square()
        self.first = self.first + linear.to(x.dtype) @ x
        self.squares = self.squares + linear @ squares
        self.fourth = self.fourth + events @ squares.square()
        self.largest = torch.maximum(self.largest, squares.amax(0))
        if second is not None:
            part = linear[0] @ second.reshape(len(squares), -1)
            self.second = part if self.second is None else self.second + part

    def error(self, reach: float | Tensor | None = None) -> ErrorBar:
        """
        Args:
            reach: largest possible |x - <x>| of any configuration; None, or nan, if not known.
        """
        assert self.origin is not None
        shift = self.first[0]
        mean = self.origin + shift
        _, scatter, known, rare, certain = (
            (s - 2 * (shift.conj() * f).real + w.sum() * shift.abs().square()).clamp(min=0)
            for s, f, w in zip(self.squares, self.first, self.linear, strict=True)
        )
        if reach is not None:
            reach = torch.as_tensor(reach).to(scatter).expand(self.shape).flatten()
        error = combined(self.of, mean, scatter, self.fourth, known, (rare, self.largest), reach=reach)
        if self.second is not None:
            variance = self.second - mean.abs().square()
            variance = torch.where(variance > CANCELLED * self.second, variance, 0.0)
            known = (self.of.unit * variance - certain).clamp(min=0)
            of_moves = combined(self.of, mean, scatter, self.fourth, known)
            error = of_moves if reach is None else torch.where(reach.isnan(), of_moves, error)
        return ErrorBar(mean.view(self.shape), error.view(self.shape))


def combined(
    of: ErrorWeights,
    mean: Num[Tensor, " E"],
    scatter: Float64[Tensor, " E"],
    fourth: Float64[Tensor, " E"],
    known: Float64[Tensor, " E"],
    others: tuple[Float64[Tensor, " E"], Float64[Tensor, " E"]] | None = None,
    *,
    reach: Float64[Tensor, " E"] | None = None,
) -> Float64[Tensor, " E"]:
    """Error of the means of E quantities from sums over the deviations d = x - mean.

    Args:
        scatter, fourth: of |d|^2 with `error_weights`, of |d|^4 with `events`.
        known: known variance of the mean.
        others: of |d|^2 with `rare`, and the largest |d|^2; None if `known` comprises all configurations.
        reach: as in `Moments.error`.
    """
    if of.samples.is_exhaustive:
        return torch.zeros_like(scatter)
    unit, unseen = of.unit, 0.0 if others is None else of.unseen
    sampled = student(scatter, fourth, of.draws)
    undetermined = torch.zeros_like(scatter, dtype=torch.bool)
    if others is not None and unseen:
        rare, largest = others
        n_rare = of.rare.sum().item()
        kish = n_rare**2 / max(of.rare.square().sum().item(), torch.finfo(torch.float64).tiny)
        if kish >= SIMILAR:
            deviation = rare / n_rare
            if reach is not None:  # if nothing that was drawn deviates, at most NOTHING_SEEN of the draws would
                at_most = reach.square() * min(1.0, unit / unseen * (NOTHING_SEEN / NORMAL) ** 2)
                deviation = torch.where(scatter > 0, deviation, at_most)
        elif reach is not None:
            deviation = reach.square()
        else:
            deviation = largest.minimum(SIMILAR * rare / n_rare**2) if n_rare else largest
            undetermined = (sampled + known == 0) | (of.draws < 2 and unseen > FEW)
        known = known + unit * unseen * deviation
    error = sampled.maximum(known).sqrt().maximum(ROUNDING * mean.abs())
    return error.masked_fill(undetermined, torch.nan)


def student(variance: Float64[Tensor, " E"], fourth: Float64[Tensor, " E"], draws: float) -> Float64[Tensor, " E"]:
    """Variance of a mean widened by (t / 1.96)^2, t for the degrees of freedom of its terms.

    Args:
        variance: sum of terms a_i.
        fourth: sum of a_i^2.
        draws: number of terms, infinite if it is random.
    """
    from scipy.special import stdtrit  # here, because importing scipy takes time

    effective = (variance.square() / fourth).nan_to_num(1.0)  # number of terms that make up the variance
    freedom = 2 * effective / (1 - effective / draws).clamp(min=1e-12)
    t = stdtrit(freedom.clamp(min=1.0, max=max(draws - 1, 1.0)).cpu().numpy(), 0.975)
    return variance * (torch.as_tensor(t).to(variance) / NORMAL).square()
