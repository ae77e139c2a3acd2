"""Local energies, with every amplitude evaluated once.

    E_loc(n) = <n|H|psi> / psi(n) = <n|H|n> + sum_n' <n|H|n'> psi(n') / psi(n).

Connected configurations are made distinct across the batch and looked up among the samples, whose amplitudes are known;
only the others are evaluated, with shared prefixes once (nqs.amplitudes.prefixes). On a converged, well-sampled state
this saves most evaluations. Where the Hamiltonian says so, elements are sampled (nqs.estimators.sampled_elements).

Of several ranks each finds the energies of its share of the samples: neighbours in their order, which are connected
with the same configurations more often than others.
"""

# Shapes: U samples, K connected configurations, L sites.

from dataclasses import dataclass

import torch
from torch import Tensor

from nqs.amplitudes.cache import amplitudes_at
from nqs.estimators.sampled_elements import SampledElements
from nqs.protocols import Hamiltonian, Wavefunction, max_connected, sampled_elements
from nqs.runtime.distributed import communicator
from nqs.runtime.memory import in_chunks, max_chunk_rows
from nqs.samples import LocalEnergies, Lookup, Samples

CPU_BYTES = 2**30  # chunk of connected configurations on a CPU: larger chunks share more


@dataclass(frozen=True)
class Energy:
    """The energy as an objective: local energies of any samples.

    Attributes:
        energy_scale: unit of energies in steps, see nqs.estimators.energy_scale.
    """

    hamiltonian: Hamiltonian
    energy_scale: float = 1.0

    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        return local_energies(self.hamiltonian, wavefunction, samples)


@torch.no_grad()
def local_energies(
    hamiltonian: Hamiltonian, wavefunction: Wavefunction, samples: Samples, *, first: int = 0, seed: int = 0
) -> LocalEnergies:
    """E_loc of every sample; amplitudes of the samples are reused.

    Args:
        first: of the samples from this one on; others only serve the look-up, their values are those of the diagonal.
        seed: of the draw of elements, where these are sampled.
    """
    n, ranks = samples.configurations, communicator()
    L = n.shape[1]
    diagonal = hamiltonian.diagonal(n)
    values = diagonal.to(torch.complex128)
    known = Lookup(wavefunction.hilbert, n)
    drawn_for_each = sampled_elements(hamiltonian)
    draw = None if drawn_for_each is None else SampledElements(hamiltonian, samples, drawn_for_each, seed)
    noise = None if draw is None else torch.zeros_like(torch.view_as_real(values))

    def evaluate(part: Tensor) -> tuple[int, int]:
        connected = hamiltonian.connected(n[part])
        connected = connected._replace(parents=part[connected.parents])
        configurations, symmetry_phase = wavefunction.fold(connected.configurations)
        columns = known.rows(configurations)
        elements, parents = connected.elements, connected.parents
        if draw is not None:
            probability = draw.probability(connected, columns >= 0)
            drawn = draw.drawn(connected, probability)
            configurations, symmetry_phase, columns, elements, parents, probability = (
                x[drawn] for x in (configurations, symmetry_phase, columns, elements, parents, probability)
            )
            elements = elements / probability
        amplitudes, evaluated = amplitudes_at(wavefunction, configurations, samples, columns)
        log_ratio = amplitudes.log_modulus - samples.log_modulus[parents]
        ratio = torch.polar(log_ratio.exp(), amplitudes.phase + symmetry_phase - samples.phase[parents])
        values.index_add_(0, parents, elements * ratio)
        if noise is not None:
            noise.index_add_(0, parents, (1 - probability)[:, None] * torch.view_as_real(elements * ratio).square())
        return len(parents), evaluated

    images = wavefunction.n_images * max_connected(hamiltonian)
    bytes_per_sample = images * (2 * L + 256)  # with keys and sorting buffers
    rows = max_chunk_rows(bytes_per_sample, n.device, CPU_BYTES)
    number = len(n) - first
    own = torch.arange(first, len(n), device=n.device)[ranks.share(number)]
    chunks = in_chunks(evaluate, own, rows)
    n_connected, n_evaluated = ranks.total(
        sum(connected for connected, _ in chunks), sum(evaluated for _, evaluated in chunks)
    )
    (found,) = ranks.gather(values[own], number=number)
    values = torch.cat([values[:first], found])
    if noise is not None:
        (of_draw,) = ranks.gather(noise[own], number=number)
        noise = torch.cat([noise[:first], of_draw])
    return LocalEnergies(
        values=values, diagonal=diagonal, n_connected=n_connected, n_evaluated=n_evaluated, noise=noise
    )
