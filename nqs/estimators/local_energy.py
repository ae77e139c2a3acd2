"""Local energies, with every amplitude evaluated once.

    E_loc(n) = <n|H|psi> / psi(n) = <n|H|n> + sum_n' <n|H|n'> psi(n') / psi(n).

Connected configurations are looked up among the samples, whose amplitudes are known; the others are made distinct and
evaluated, with shared prefixes once (nqs.amplitudes.prefixes). On a converged, well-sampled state this saves most
evaluations. They are found in chunks of samples, and evaluated together: samples of different chunks have many in
common. 8,000 determinants of N2 in cc-pVDZ with 3,368 connected ones each are connected with 6.8 million distinct ones
that are not among them; chunks of 1,000, each for itself, would evaluate 15.9 million. Where the Hamiltonian says so,
elements are sampled (nqs.estimators.sampled_elements).

Of several ranks each finds the energies of its share of the samples: neighbours in their order, which are connected
with the same configurations more often than others.
"""

# Shapes: U samples, K connected configurations, L sites.

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Complex128, Float64, Int64, Num
from torch import Tensor

from nqs.amplitudes.cache import Request, amplitudes_of, request
from nqs.estimators.sampled_elements import SampledElements
from nqs.protocols import Hamiltonian, Wavefunction, max_connected, sampled_elements
from nqs.runtime.distributed import communicator
from nqs.runtime.memory import in_chunks, max_chunk_rows
from nqs.samples import LocalEnergies, Lookup, Samples

# Chunk of connected configurations, by an upper estimate, and terms of several chunks that wait for their amplitudes.
CPU_BYTES, GPU_BYTES = 2**30, 2**33


class Terms(NamedTuple):
    """Terms of local energies, without the amplitudes that they wait for."""

    request: Request  # of psi(n')
    elements: Num[Tensor, " K"]  # <n|H|n'>; where it was drawn, over its probability
    parents: Int64[Tensor, " K"]  # row of n among the samples
    angle: Float64[Tensor, " K"]  # phase of the symmetry
    variance: Float64[Tensor, " K"] | None  # of a term in units of its square, where elements are drawn

    @property
    def nbytes(self) -> int:
        return sum(x.nbytes for x in (*self.request, *self[1:]) if x is not None)


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
    drawn_for_each = sampled_elements(hamiltonian)
    draw = None if drawn_for_each is None else SampledElements(hamiltonian, samples, drawn_for_each, seed)
    most_waiting = max_chunk_rows(1, n.device, CPU_BYTES, GPU_BYTES)
    sums = Sums(hamiltonian, wavefunction, samples, diagonal.to(torch.complex128), draw, most_waiting)
    images = wavefunction.n_images * max_connected(hamiltonian)
    bytes_per_sample = images * (2 * L + 256)  # with keys and sorting buffers
    number = len(n) - first
    own = torch.arange(first, len(n), device=n.device)[ranks.share(number)]
    in_chunks(sums.connect, own, max_chunk_rows(bytes_per_sample, n.device, CPU_BYTES, GPU_BYTES))
    sums.evaluate()
    n_connected, n_evaluated = ranks.total(sums.n_connected, sums.n_evaluated)
    (found,) = ranks.gather(sums.values[own], number=number)
    values, noise = torch.cat([sums.values[:first], found]), sums.noise
    if noise is not None:
        (of_draw,) = ranks.gather(noise[own], number=number)
        noise = torch.cat([noise[:first], of_draw])
    return LocalEnergies(
        values=values, diagonal=diagonal, n_connected=n_connected, n_evaluated=n_evaluated, noise=noise
    )


class Sums:
    """Sums over connected configurations: those of several chunks of samples wait, and are evaluated together.

    Attributes:
        values: of every sample, (U,), at first the given ones; the sums are added in place.
        noise: variances of their real and imaginary parts, (U, 2), where elements are drawn.
        n_connected, n_evaluated: numbers of terms and of network evaluations so far.

    Args:
        draw: of elements; None: all.
        most_waiting: bytes of terms above which they are evaluated before others are found.
    """

    def __init__(
        self,
        hamiltonian: Hamiltonian,
        wavefunction: Wavefunction,
        samples: Samples,
        values: Complex128[Tensor, " U"],
        draw: SampledElements | None,
        most_waiting: int,
    ) -> None:
        self.hamiltonian, self.wavefunction, self.samples = hamiltonian, wavefunction, samples
        self.known = Lookup(wavefunction.hilbert, samples.configurations)
        self.values, self.draw, self.most_waiting = values, draw, most_waiting
        self.noise = None if draw is None else torch.zeros_like(torch.view_as_real(values))
        self.waiting: list[Terms] = []
        self.n_connected = self.n_evaluated = 0

    def connect(self, part: Int64[Tensor, " B"]) -> None:
        """Find the terms of some samples, given by their rows."""
        if sum(terms.nbytes for terms in self.waiting) > self.most_waiting:
            self.evaluate()
        connected = self.hamiltonian.connected(self.samples.configurations[part])
        connected = connected._replace(parents=part[connected.parents])
        configurations, angle = self.wavefunction.fold(connected.configurations)
        rows, elements, parents = self.known.rows(configurations), connected.elements, connected.parents
        variance = None
        if self.draw is not None:
            probability = self.draw.probability(connected, rows >= 0)
            drawn = self.draw.drawn(connected, probability)
            configurations, angle, rows, elements, parents, probability = (
                x[drawn] for x in (configurations, angle, rows, elements, parents, probability)
            )
            elements, variance = elements / probability, 1 - probability
        asked = request(self.samples, configurations, rows, self.known)
        self.waiting.append(Terms(asked, elements, parents, angle, variance))
        self.n_connected += len(parents)

    def evaluate(self) -> None:
        """Add all terms that wait; if memory runs out, those of half of the chunks, then the others."""
        number = len(self.waiting)
        in_chunks(lambda part: self._add(len(part)), torch.arange(number), max(1, number))

    def _add(self, number: int) -> None:
        """Add the first chunks of terms; without memory none of them."""
        chunks, samples = self.waiting[:number], self.samples
        found, evaluated = amplitudes_of(self.wavefunction, samples, [terms.request for terms in chunks])
        products = []
        for terms, amplitudes in zip(chunks, found, strict=True):
            log_ratio = amplitudes.log_modulus - samples.log_modulus[terms.parents]
            angle = amplitudes.phase + terms.angle - samples.phase[terms.parents]
            product = terms.elements * torch.polar(log_ratio.exp(), angle)
            noise = None if terms.variance is None else terms.variance[:, None] * torch.view_as_real(product).square()
            products.append((product, noise))
        del self.waiting[:number]
        self.n_evaluated += evaluated
        for terms, (product, noise) in zip(chunks, products, strict=True):
            self.values.index_add_(0, terms.parents, product)
            if self.noise is not None and noise is not None:
                self.noise.index_add_(0, terms.parents, noise)
