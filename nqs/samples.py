"""Weighted distinct configurations, and exact bookkeeping of equal ones."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Complex128, Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.chains import autocorrelation_time, r_hat
from nqs.hilbert import HilbertSpace
from nqs.islands import Islands

LARGEST_BINOMIAL = 2**40  # trials up to which rounding errors of torch.binomial do not matter
FEW_SUCCESSES = 1e6  # mean below which those of more trials are Poisson numbers


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Distinct configurations drawn from |psi|^2, each with the amplitude that it was drawn with.

    Attributes:
        configurations: distinct, (U, L).
        weights: estimate of |psi|^2 on them, sums to 1.
        log_modulus, phase: log psi of each, as computed while sampling.
        counts: how often each was drawn in independent draws, or by Markov chains; None for other schemes.
        inclusion_probability: probability with which each entered a draw without replacement, 1 for an exhaustive sum,
            nan if not known; None for independent draws.
        autocorrelation_time: of Markov chains (nqs.chains), in samples of a chain; nan if it is not determinable, None
            for uncorrelated samples.
        probability: probability that one draw gives each; None for |psi|^2.
        threshold: exp(kappa) of a draw without replacement, with inclusion 1 - exp(-p / exp(kappa)).
        normalised: log_modulus is that of a normalised state, so that probabilities are known.
        chains: row of the sample of every round and Markov chain, (T, C); None where unknown.
        acceptance: fraction of the moves of Markov chains that were accepted.
        weighted_counts: number of draws that an importance weight is the sum of, (sum w)^2 / sum w^2 where these
            differ; None for samples that are not weighted.
        n_drawn: number of weighted draws in all.
        log_norm: logarithm of the mean weight of these, where weights are |psi|^2 / q; of a fixed number of draws the
            mean, not its logarithm, is an unbiased estimate of sum |psi|^2.
        islands: independent groups of weighted draws with common ancestors (nqs.islands); the autocorrelation time is
            then half the number of draws that count as one.

    Configurations with weight 0 may be among them, after those that were drawn: their amplitudes are known, which
    serves the error bars (nqs.error_bars).

    Reductions over samples have their home here: `mean`, `sum`, `variance`, `standard_error`.
    """

    configurations: UInt8[Tensor, "U L"]
    weights: Float64[Tensor, " U"]
    log_modulus: Float64[Tensor, " U"]
    phase: Float64[Tensor, " U"]
    counts: Int64[Tensor, " U"] | None = None
    inclusion_probability: Float64[Tensor, " U"] | None = None
    autocorrelation_time: float | None = None
    probability: Float64[Tensor, " U"] | None = None
    threshold: float | None = None
    normalised: bool = True
    chains: Int64[Tensor, "T C"] | None = None
    acceptance: float | None = None
    weighted_counts: Float64[Tensor, " U"] | None = None
    n_drawn: int | None = None
    log_norm: float | None = None
    islands: Islands | None = None

    @property
    def n_samples(self) -> int:
        """Number of samples; of distinct configurations where there are no counts."""
        if self.n_drawn is not None:
            return self.n_drawn
        return self.n_distinct if self.counts is None else int(self.counts.sum())

    @property
    def n_distinct(self) -> int:
        """Number of distinct configurations, U."""
        return len(self.configurations)

    @property
    def is_exhaustive(self) -> bool:
        """All configurations of the sector with exact weights: expectation values have no sampling noise."""
        return (
            self.inclusion_probability is not None
            and self.threshold is None
            and bool((self.inclusion_probability == 1).all())
        )

    @property
    def correlation(self) -> float:
        """Number of samples that count as one independent sample, 2 tau of the autocorrelation time, at least 1."""
        tau = self.autocorrelation_time
        return 1.0 if tau is None else tau if math.isnan(tau) else max(1.0, 2 * tau)

    def correlated_as(self, x: Num[Tensor, " U"]) -> "Samples":
        """The samples with the autocorrelation time of x, the longer one of its real and imaginary part.

        Unchanged where there are no chains or islands, or where they are not stationary.
        """
        if self.autocorrelation_time is None or math.isnan(self.autocorrelation_time):
            return self
        if self.islands is not None:
            parts = torch.view_as_real(x) if x.is_complex() else x[:, None].double()
            return replace(self, autocorrelation_time=self.islands.correlation(parts) / 2)
        if self.chains is None:
            return self
        series = torch.view_as_real(x[self.chains]) if x.is_complex() else x[self.chains][..., None].double()
        return replace(self, autocorrelation_time=autocorrelation_time(series).max().item())

    @property
    def n_effective(self) -> float:
        """Number of independent samples with the same noise: Kish's (sum w)^2 / sum w^2 of weighted draws.

        Of draws with common ancestors as many as count as one; where that is not known, Kish's.
        """
        if self.weighted_counts is not None:
            kish = 1.0 / (self.weights.square() / self.weighted_counts).sum().item()
            return kish if math.isnan(self.correlation) else kish / self.correlation
        return self.n_samples / self.correlation

    @property
    def r_hat(self) -> float | None:
        """Split R-hat of log|psi| (nqs.chains); None without chains."""
        return None if self.chains is None else r_hat(self.log_modulus[self.chains])

    @property
    def error_weights(self) -> Float64[Tensor, " U"]:
        """c with (standard error)^2 = sum c |x - <x>|^2 for the mean of any x over the samples.

        Draws without replacement: configurations included with certainty do not contribute (arXiv:2002.06043,
        appendix). Correlated samples count as n_samples / (2 tau) independent ones, with the integrated
        autocorrelation time tau. Weighted draws: the squares of their weights.
        """
        if self.inclusion_probability is not None:
            return self.weights.square() * (1 - self.inclusion_probability)
        if self.weighted_counts is not None:
            return self.weights.square() / self.weighted_counts * self.correlation
        return self.weights * self.correlation / max(self.n_samples - 1, 1)

    def mean(self, x: Num[Tensor, "U ..."]) -> Num[Tensor, "..."]:
        """<x> = sum_n w(n) x(n)."""
        return torch.tensordot(self.weights.to(x.dtype), x, 1) if x.ndim > 1 else self.weights.to(x.dtype) @ x

    def sum(self, x: Num[Tensor, "U ..."]) -> Num[Tensor, "..."]:
        """Sum over the distinct configurations, without weights."""
        return x.sum(0)

    def variance(self, x: Num[Tensor, "U ..."]) -> Float64[Tensor, "..."]:
        """<|x - <x>|^2>."""
        return self.mean((x - self.mean(x)).abs().square())

    def standard_error(self, x: Num[Tensor, "U ..."]) -> Float64[Tensor, "..."]:
        """Standard error of the mean of x from the scatter of what was drawn; error bars: nqs.error_bars."""
        return torch.tensordot(self.error_weights, (x - self.mean(x)).abs().square(), 1).sqrt()

    @property
    def perplexity(self) -> float:
        """exp of the Shannon entropy -<log |psi|^2>: effective number of configurations that carry the state.

        Where |psi|^2 is not normalised it is that of the weights, exact for exhaustive sums and else too low.
        """
        occupied = self.weights > 0
        weights, log_modulus = self.weights[occupied], self.log_modulus[occupied]
        return (-weights @ (2 * log_modulus if self.normalised else weights.log())).exp().item()


def fewer(samples: Samples, number: int, generator: torch.Generator) -> Samples:
    """At most so many samples out of the given ones, without new ones: rounds of Markov chains, else random draws."""
    if samples.chains is None:
        rows = torch.multinomial(samples.weights, number, replacement=True, generator=generator)
        kept: dict[str, Any] = {
            "inclusion_probability": None,
            "threshold": None,
            "weighted_counts": None,
            "n_drawn": None,
            "islands": None,
        }
    else:
        T, C = samples.chains.shape
        chains = samples.chains.flip(0)[:: math.ceil(T * C / number) if number > C else T].flip(0)
        chains = chains[:, :number]
        rows, kept = chains.flatten(), {}
    rows, classes, counts = torch.unique(rows, return_inverse=True, return_counts=True)
    if samples.chains is not None:
        kept["chains"] = classes.view(chains.shape)
    return replace(
        samples,
        configurations=samples.configurations[rows],
        weights=counts.double() / counts.sum(),
        log_modulus=samples.log_modulus[rows],
        phase=samples.phase[rows],
        counts=counts,
        probability=None if samples.probability is None else samples.probability[rows],
        **kept,
    )


@dataclass(frozen=True, kw_only=True)
class LocalEnergies:
    """Local values of an objective on the samples, E_loc(n) = <n|H|psi> / psi(n) for an energy, and their cost.

    Attributes:
        values: of every distinct sample, in the Hamiltonian's unit.
        diagonal: <n|H|n> of every distinct sample, included in the values.
        n_connected: number of connected configurations, K.
        n_evaluated: number of network evaluations for them.
        penalty: part of the values that is no energy, in the same unit; None without any.
        overlaps: |<k|psi>|^2 with the known states of the penalty.
        noise: variances of the real and the imaginary part of each value, where matrix elements are sampled
            (nqs.estimators.sampled_elements); else None.
    """

    values: Complex128[Tensor, " U"]
    diagonal: Float64[Tensor, " U"]
    n_connected: int = 0
    n_evaluated: int = 0
    penalty: Complex128[Tensor, " U"] | None = None
    overlaps: tuple[float, ...] = ()
    noise: Float64[Tensor, "U 2"] | None = None

    @property
    def energies(self) -> Complex128[Tensor, " U"]:
        """The values without the penalty."""
        return self.values if self.penalty is None else self.values - self.penalty

    def in_units_of(self, energy_scale: float) -> "LocalEnergies":
        """Values and diagonal divided by a scale of energy."""
        noise = None if self.noise is None else self.noise / energy_scale / energy_scale
        return replace(self, values=self.values / energy_scale, diagonal=self.diagonal / energy_scale, noise=noise)

    @property
    def fraction_saved(self) -> float:
        """Fraction of the connected amplitudes that needed no network evaluation."""
        return 1.0 - self.n_evaluated / self.n_connected if self.n_connected else 0.0


def distinct(hilbert: HilbertSpace, n: UInt8[Tensor, "B L"]) -> tuple[Int64[Tensor, " U"], Int64[Tensor, " B"]]:
    """First row of every distinct configuration, and the class (index into these) of every row.

    Classes are numbered in lexicographic order of the configurations.
    Exact for any number of sites: keys of several words are made distinct word by word.
    """
    words = hilbert.keys(n).T
    classes = torch.unique(words[0], return_inverse=True)[1]
    for word in words[1:]:
        word_class = torch.unique(word, return_inverse=True)[1]
        classes = torch.unique(classes * len(n) + word_class, return_inverse=True)[1]
    n_classes = int(classes.max()) + 1 if len(n) else 0
    # The first row of a class, so that the result does not depend on the order of parallel writes.
    rows = torch.arange(len(n), device=n.device)
    first = torch.full((n_classes,), len(n), device=n.device).scatter_reduce_(0, classes, rows, "amin")
    return first, classes


def split_counts(
    counts: Int64[Tensor, " F"], p: Float64[Tensor, "F d"], generator: torch.Generator, most: int | None = None
) -> Int64[Tensor, "F d"]:
    """Multinomial split of every count over its row of probabilities, by binary halving of the d choices.

    A count goes to the left half of the choices binomially with the fraction of probability there; after log2(d)
    rounds every choice is separate. Equal in distribution to one multinomial draw a row.

    Args:
        most: upper bound of the counts, up to 2^62; None: found, which waits for the device.
    """
    d = p.shape[1]
    levels = max(d - 1, 0).bit_length()
    if d < 2**levels:
        p = torch.nn.functional.pad(p, (0, 2**levels - d))
    if most is None:
        most = int(counts.max()) if len(counts) else 0
    remaining = counts[:, None]  # (F, 1), then (F, 2), (F, 4), ...
    for level in range(levels):
        below = 2 ** (levels - level - 1)  # choices of a half
        parts = p.view(len(p), 2**level, 2, below)  # F may be 0
        halves = parts[..., 0] if below == 1 else parts.sum(-1)
        left = binomial(remaining, halves[..., 0], halves[..., 1], generator, exact=most <= LARGEST_BINOMIAL)
        remaining = torch.stack([left, remaining - left], dim=-1).flatten(1)
    return remaining[:, :d]


def binomial(
    n: Int64[Tensor, "..."],
    p: Float64[Tensor, "..."],
    q: Float64[Tensor, "..."],
    generator: torch.Generator,
    *,
    exact: bool,
) -> Int64[Tensor, "..."]:
    """Number of successes of n trials with the probabilities p : q of success and failure; both 0 if n is 0.

    Of more than LARGEST_BINOMIAL trials, for which torch.binomial loses precision, numbers of the mean m are drawn from
    the Poisson distribution for m below FEW_SUCCESSES, at a total variation distance of m / n < 1e-6 (Barbour and Hall,
    Math. Proc. Camb. Phil. Soc. 95, 473 (1984)), else from the normal one with its correction of third order (Cornish
    and Fisher, Rev. Inst. Int. Stat. 5, 307 (1938)), m + sigma z + (1 - 2 f) (z^2 - 1) / 6, up to terms of order
    1 / sigma < 1e-3 of one success. The numbers of success and failure always have the sum n.

    Args:
        exact: there are no more trials than torch.binomial draws without loss of precision.
    """
    if exact:
        fraction = (p / (p + q)).nan_to_num(0.0)  # at most 1: p <= p + q, also after rounding
        return torch.binomial(n.double(), fraction, generator=generator).long()
    # Fractions close to 1 lack the digits that those close to 0 have.
    f = (torch.minimum(p, q) / (p + q)).nan_to_num(0.0)
    mean = n * f
    z = torch.empty_like(f).normal_(generator=generator)
    drawn = mean + (mean * (1 - f)).sqrt() * z + (1 - 2 * f) * (z.square() - 1) / 6
    few = torch.poisson(mean.clamp(max=FEW_SUCCESSES), generator=generator)
    drawn = torch.where(mean < FEW_SUCCESSES, few, drawn.round())
    small = torch.binomial(n.clamp(max=LARGEST_BINOMIAL).double(), f, generator=generator)
    drawn = torch.where(n <= LARGEST_BINOMIAL, small, drawn).long().clamp(min=0).minimum(n)
    return torch.where(p > q, n - drawn, drawn)


class Lookup:
    """Finds configurations among given ones. Exact for any number of sites: keys of several words word by word."""

    def __init__(self, hilbert: HilbertSpace, configurations: UInt8[Tensor, "U L"]) -> None:
        self.hilbert = hilbert
        self._tables: list[tuple[Tensor, Tensor]] = []  # sorted words and sorted pairs of (class so far, word)
        classes = torch.zeros(len(configurations), dtype=torch.int64, device=configurations.device)
        for word in hilbert.keys(configurations).T:
            words, inverse = torch.unique(word, return_inverse=True)
            pairs, classes = torch.unique(classes * len(words) + inverse, return_inverse=True)
            self._tables.append((words, pairs))
        self._rows = torch.empty_like(classes).index_copy_(
            0, classes, torch.arange(len(classes), device=classes.device)
        )

    def rows(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """Row of each configuration among the given ones, which are distinct; -1 if absent."""
        if not len(self._rows):
            return torch.full((len(n),), -1, device=n.device)
        classes = torch.zeros(len(n), dtype=torch.int64, device=n.device)
        found = torch.ones_like(classes, dtype=torch.bool)
        for word, (words, pairs) in zip(self.hilbert.keys(n).T, self._tables, strict=True):
            place = torch.searchsorted(words, word.contiguous()).clamp_(max=len(words) - 1)
            found &= words[place] == word
            pair = classes * len(words) + place
            classes = torch.searchsorted(pairs, pair).clamp_(max=len(pairs) - 1)
            found &= pairs[classes] == pair
        return self._rows[classes].masked_fill_(~found, -1)
