"""Weights of the penalties on known states, from an upper bound of the level above them.

A penalty w must lift its state k above the wanted level, w > E - E_k, and should not be much larger: the noise of its
local values and the curvature that bounds the steps grow with w. The wanted level lies below every trial state that is
orthogonal to all known ones. Those here are phi = (O - <O>) |k> with the diagonal operators O that ask whether a site
has a certain local state,

    <phi|H|phi> / <phi|phi> = E_k + <[O, [H, O]]> / (2 Var O)                              (k an eigenstate),
    <[O, [H, O]]> = -Re sum_n |k(n)|^2 sum_m <n|H|m> k(m) / k(n) (O(n) - O(m))^2,

less what phi has of the other known states j, c_j = <j|phi>:  (E_phi - sum_j |c_j|^2 E_j) / (1 - sum_j |c_j|^2).

Feynman, Phys. Rev. 94, 262 (1954), where O is a density.
"""

# Shapes: U samples, L sites, K connected configurations of a chunk, A operators: one a site, for one local state.
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nqs.estimators.energy import infinite_temperature_energy
from nqs.estimators.energy_scale import energy_scale
from nqs.observables.moves import AmplitudeRatios
from nqs.observables.operators import matrix_element
from nqs.optimisation.known_states import ratios
from nqs.protocols import Hamiltonian, Wavefunction, max_connected
from nqs.runtime.memory import max_chunk_rows
from nqs.samples import Samples

MARGIN = 2.0  # of the weight on the distance to the bound, which is sampled
# The same on the distance to the mean of the spectrum, where it is closer than the bound. With K known states
# E_inf - E_0 is at least (1 - K / dim) (E_K - E_0): three times that exceeds the distance to the next level of a sector
# of 2 K states or more.
MARGIN_OF_MEAN = 3.0
LEAST_VARIANCE = 1e-2  # of an operator whose bound is used: below it a few samples decide
MOST_KNOWN = 0.75  # weight of the other known states in a trial state that is used


class Drawn(NamedTuple):
    """A known state with samples of it in its whole sector."""

    state: Wavefunction
    samples: Samples


@torch.no_grad()
def penalty_weights(hamiltonian: Hamiltonian, known: Sequence[Drawn]) -> list[float]:
    """Of every known state, in the Hamiltonian's unit."""
    scale, mean = energy_scale(hamiltonian), infinite_temperature_energy(hamiltonian)
    energies = [matrix_element(hamiltonian, one.samples, one.state).value.item() for one in known]
    bound = min(_bound(hamiltonian, known, energies, k) for k in range(len(known)))
    return [min(MARGIN * max(bound - energy, scale), MARGIN_OF_MEAN * max(mean - energy, scale)) for energy in energies]


def _bound(hamiltonian: Hamiltonian, known: Sequence[Drawn], energies: Sequence[float], k: int) -> float:
    """The lowest energy of a trial state made from the known state k; infinite if none can be used."""
    (state, samples), hilbert = known[k], hamiltonian.hilbert
    others = [j for j in range(len(known)) if j != k]
    r = [ratios(known[j].state, state, samples).conj() for j in others]
    lowest = float("inf")
    for a in range(1, hilbert.local_dim):
        O = (samples.configurations == a).double()  # (U, A)
        mean = samples.mean(O)
        variance = samples.mean((O - mean).square())
        excess = _double_commutators(hamiltonian, state, samples, a) / (2 * variance)
        c = [samples.mean(x[:, None] * (O - mean)).abs().square() / variance for x in r]
        of_known = sum(c, torch.zeros_like(variance))
        of_others = sum((x * energies[j] for x, j in zip(c, others, strict=True)), torch.zeros_like(variance))
        energy = (energies[k] + excess - of_others) / (1 - of_known)
        usable = (variance > LEAST_VARIANCE) & (of_known < MOST_KNOWN)
        if usable.any():
            lowest = min(lowest, energy[usable].min().item())
    return lowest


def _double_commutators(
    hamiltonian: Hamiltonian, state: Wavefunction, samples: Samples, a: int
) -> Float64[Tensor, " A"]:
    """<[O, [H, O]]> of the operators O that ask for the local state a."""
    amplitudes, L = AmplitudeRatios(state, samples), hamiltonian.hilbert.n_sites
    total = torch.zeros(L, dtype=torch.float64, device=samples.weights.device)

    def add(rows: Int64[Tensor, " b"]) -> None:
        n = samples.configurations[rows]
        m, elements, parents = hamiltonian.connected(n)
        inside = hamiltonian.hilbert.contains(m)
        m, elements, parents = m[inside], elements[inside], parents[inside]
        hops = (elements * amplitudes.ratios(m, rows[parents])).real * samples.weights[rows[parents]]
        changed = ((m == a) ^ (n[parents] == a)).double()  # (K, A)
        total.sub_(hops.nan_to_num(0.0) @ changed)

    rows = torch.arange(len(samples.weights), device=total.device)
    for part in rows.split(max_chunk_rows(max_connected(hamiltonian) * 32 * L, total.device)):
        add(part)
    return total
