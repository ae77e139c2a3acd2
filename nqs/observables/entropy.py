"""Second Renyi entropy of a part of the sites."""

# Shapes: B configurations, L sites, M draws.
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from nqs.error_bars import CANCELLED, student
from nqs.hilbert import HilbertSpace
from nqs.observables.expectation import Expectation
from nqs.observables.moves import AmplitudeRatios
from nqs.observables.species import at_sites, values_of
from nqs.protocols import Wavefunction
from nqs.samples import Samples, distinct

PAIRS = 2**16  # pairs of samples behind a Renyi entropy


@torch.no_grad()
def renyi2_entropy(
    samples: Samples, wavefunction: Wavefunction, sites: Sequence[int], *, n_pairs: int = PAIRS, seed: int = 0
) -> Expectation:
    """S_2 = -ln Tr rho_A^2 of the sites A, a scalar, by the swap of A between two replicas,

        Tr rho_A^2 = < psi(m_A, n_B) psi(n_A, m_B) / (psi(n) psi(m)) >    over independent n, m from |psi|^2.

    Swapped configurations outside the sector contribute 0. For fermions each amplitude gets the sign of moving the
    orbitals of A to the front of the Jordan-Wigner order, so that this is the entropy of the fermionic modes. The noise
    grows as exp(S_2). Exhaustive samples give the exact value from the reduced density matrix itself.
    Hastings et al., Phys. Rev. Lett. 104, 157201 (2010).

    Args:
        samples: independent ones (TreeSampler), or exhaustive.
        wavefunction: amplitudes of configurations that were not sampled.
        sites: A, not empty and not all sites.
        n_pairs: disjoint pairs of samples, at most half the number of samples.
        seed: of the choice of pairs.

    Raises:
        ValueError: impossible sites, a space without species, samples drawn without replacement or by Markov
            chains, weighted ones, or fewer than 4 samples.
    """
    hilbert = wavefunction.hilbert
    inside = _subsystem(hilbert, sites).to(samples.weights.device)
    if samples.inclusion_probability is not None:
        if bool((samples.inclusion_probability < 1).any()):
            raise ValueError(
                "the replica trick needs pairs of independent samples, but these were drawn without replacement: "
                "use TreeSampler, or ExhaustiveSampler for the exact value."
            )
        return _exact_renyi2(samples, hilbert, inside)
    if samples.autocorrelation_time is not None or samples.weighted_counts is not None:
        raise ValueError("the replica trick needs pairs of independent samples, not Markov chains or weighted draws.")
    n_pairs = min(n_pairs, samples.n_samples // 2)
    if n_pairs < 2:
        raise ValueError(
            f"{samples.n_samples} samples in {n_pairs} pairs leave no error bar: give at least 4 samples and 2 pairs."
        )
    a, b = _independent_rows(samples, 2 * n_pairs, seed).view(2, n_pairs)
    n, m = samples.configurations[a], samples.configurations[b]
    n_swapped, m_swapped = torch.where(inside, m, n), torch.where(inside, n, m)
    kept = (hilbert.contains(n_swapped) & hilbert.contains(m_swapped)).nonzero()[:, 0]
    a, b, n, m, n_swapped, m_swapped = (x[kept] for x in (a, b, n, m, n_swapped, m_swapped))
    sign = torch.ones(len(kept), dtype=torch.float64, device=n.device)
    for configurations in (n, m, n_swapped, m_swapped):
        sign = sign * _front_signs(hilbert, configurations, inside)
    known = AmplitudeRatios(wavefunction, samples)
    ratio = sign * known.ratios(n_swapped, a) * known.ratios(m_swapped, b)
    values = torch.zeros(n_pairs, dtype=torch.float64, device=n.device)
    values[kept] = ratio.real
    purity = values.mean()
    # <x^2> of the local values x is the probability that the swapped pair is in the sector, so their variance that less
    # the squared mean. It is 0 where all samples are one configuration: then nothing is known of the others.
    terms = (values - purity).square() / (n_pairs * (n_pairs - 1))
    sampled = student(terms.sum()[None], terms.square().sum()[None], n_pairs)[0]
    exact = len(kept) / n_pairs - purity.square()
    variance = sampled.maximum(torch.where(exact > CANCELLED, exact, 0.0) / n_pairs)
    error = torch.where(variance > 0, variance.sqrt() / purity.abs(), torch.nan)
    return Expectation(-purity.log(), error)


def _subsystem(hilbert: HilbertSpace, sites: Sequence[int]) -> Bool[Tensor, " L"]:
    L = hilbert.n_sites
    chosen = {int(site) for site in sites}
    if not 0 < len(chosen) < L or len(chosen) != len(sites) or min(chosen) < 0 or max(chosen) >= L:
        raise ValueError(
            f"sites={list(sites)}: give different sites between 0 and {L - 1}, at least one and not all of them."
        )
    inside = torch.zeros(L, dtype=torch.bool)
    inside[sorted(chosen)] = True
    return inside


def _exact_renyi2(samples: Samples, hilbert: HilbertSpace, inside: Bool[Tensor, " L"]) -> Expectation:
    """-ln Tr (M M+)^2 of the matrix of amplitudes M_AB = psi(n_A, n_B), one block for each set of charges of A."""
    n = samples.configurations
    amplitudes = torch.polar(samples.weights.sqrt(), samples.phase) * _front_signs(hilbert, n, inside)
    row, column = (distinct(hilbert, torch.where(part, n, 0))[1] for part in (inside, ~inside))
    block = torch.unique(_charges_inside(hilbert, n, inside), return_inverse=True)[1]
    purity = amplitudes.new_zeros((), dtype=torch.float64)
    for members in block.argsort(stable=True).split(block.bincount().tolist()):
        i, j = (torch.unique(x[members], return_inverse=True)[1] for x in (row, column))
        matrix = amplitudes.new_zeros((int(i.max()) + 1, int(j.max()) + 1))
        matrix[i, j] = amplitudes[members]
        if matrix.shape[0] > matrix.shape[1]:
            matrix = matrix.T  # A and B have the same entropy
        purity += (matrix @ matrix.mH).abs().square().sum()
    entropy = -purity.log()
    return Expectation(entropy, torch.zeros_like(entropy))


def _charges_inside(hilbert: HilbertSpace, n: UInt8[Tensor, "B L"], inside: Bool[Tensor, " L"]) -> Int64[Tensor, " B"]:
    """Index of the tuple of all conserved charges that the sites A of each configuration carry."""
    number = torch.zeros(len(n), dtype=torch.int64, device=n.device)
    for charge in hilbert.charges:
        if charge.target is not None:
            values = at_sites(values_of(hilbert, charge.values), n)[:, inside].sum(1).long()
            values = values if charge.modulus is None else values % charge.modulus
            values = values - values.min()
            number = number * (values.max() + 1) + values
    return number


def _front_signs(hilbert: HilbertSpace, n: UInt8[Tensor, "B L"], inside: Bool[Tensor, " L"]) -> Float64[Tensor, " B"]:
    """Fermionic sign of moving the occupied orbitals of A in front of all others; 1 without fermions."""
    if not hilbert.species:
        raise ValueError(
            "the entropy needs to know whether the particles are fermions: give the species of the space; it is "
            f"{hilbert}."
        )
    kinds = hilbert.of_kind("fermion")
    if not kinds:
        return torch.ones(len(n), dtype=torch.float64, device=n.device)
    # Jordan-Wigner order
    occupied = torch.cat([at_sites(values_of(hilbert, s.occupation), n) for s in kinds], dim=1)
    in_a = inside.double().repeat(len(kinds))
    b_before = (occupied * (1 - in_a)).cumsum(1)
    return 1 - 2 * ((occupied * in_a * b_before).sum(1) % 2)


def _independent_rows(samples: Samples, number: int, seed: int) -> Int64[Tensor, " M"]:
    """Rows of `number` distinct draws among all independent samples, in random order."""
    device, total = samples.weights.device, samples.n_samples
    generator = torch.Generator(device).manual_seed(seed)
    if total <= 16 * number:
        chosen = torch.randperm(total, generator=generator, device=device)[:number]
    else:
        chosen = torch.empty(0, dtype=torch.int64, device=device)
        while len(chosen) < number:  # few draws coincide
            chosen = torch.randint(total, (2 * number,), generator=generator, device=device).unique()
        chosen = chosen[torch.randperm(len(chosen), generator=generator, device=device)[:number]]
    if samples.counts is None:
        return chosen
    return torch.searchsorted(samples.counts.cumsum(0), chosen, right=True)
