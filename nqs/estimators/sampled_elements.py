r"""Semistochastic local energies: large off-diagonal elements exactly, an unbiased sample of the others.

    E_loc(n) = <n|H|n> + sum_n' b(n, n') / p(n, n') <n|H|n'> psi(n') / psi(n),    b = 1 with probability p, else 0,
    p(n, n') = min(1, |psi(n)|^(1/2) |<n|H|n'>| / tau),

and p = 1 where psi(n') is known, because n' was sampled too. The variance of the energy is least for p ~ |psi(n)|,
that of each component |psi(n)| E_loc(n) of a gradient for p that do not depend on n; the square root is between them.
tau follows from the wanted number of elements for each configuration. The mean over b is the local energy, whatever
psi; its variance is estimated from the elements that were drawn, sum (1 - p) |x / p|^2.

Semistochastic projections: Petruzielo et al., Phys. Rev. Lett. 109, 230201 (2012).
"""

# Shapes: U samples, K connected configurations, W words of a key.
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.protocols import Connected, Hamiltonian
from nqs.samples import Samples

PROBES = 64  # configurations whose elements show how large their sum is
MANTISSA = 53


class SampledElements:
    """The draw of elements for one set of samples.

    The random numbers are a function of the samples, the two configurations and the seed, so that neither chunks nor
    the order of the samples change the result.

    Args:
        number: elements that are drawn for each configuration on average, at most.
        seed: of the draw.
    """

    def __init__(self, hamiltonian: Hamiltonian, samples: Samples, number: int, seed: int = 0) -> None:
        self.hilbert = hamiltonian.hilbert
        log_modulus = samples.log_modulus
        self.importance = ((log_modulus - log_modulus.max()) / 2).exp()
        U = samples.n_distinct
        rows = torch.arange(0, U, max(1, U // PROBES), device=log_modulus.device)
        total = hamiltonian.connected(samples.configurations[rows]).elements.abs().sum() / len(rows)
        self.tau = total * self.importance.sum() / (number * U)
        bits = log_modulus.double().contiguous().view(torch.int64)
        self.seed = mixed(bits).sum() + seed
        self.keys = self._hashed(samples.configurations)

    def probability(self, connected: Connected, known: Tensor) -> Float64[Tensor, " K"]:
        """p of every element, 1 where `known`; parents are rows of the samples."""
        p = connected.elements.abs() * self.importance.index_select(0, connected.parents) / self.tau
        return p.clamp_(max=1.0).masked_fill_(known, 1.0)

    def drawn(self, connected: Connected, probability: Float64[Tensor, " K"]) -> Int64[Tensor, " k"]:
        """The elements that enter the sum."""
        pairs = self._hashed(connected.configurations) + 3 * self.keys.index_select(0, connected.parents)
        uniform = (mixed(pairs + self.seed) >> (64 - MANTISSA)).bitwise_and_(2**MANTISSA - 1).double() * 2.0**-MANTISSA
        return (uniform < probability).nonzero()[:, 0]

    def _hashed(self, n: UInt8[Tensor, "K L"]) -> Int64[Tensor, " K"]:
        found = torch.zeros(len(n), dtype=torch.int64, device=n.device)
        for word in self.hilbert.keys(n).T:
            found = mixed(found + word)
        return found


def mixed(z: Int64[Tensor, " K"]) -> Int64[Tensor, " K"]:
    """Random bits from integers, a step of SplitMix64: Steele, Lea, Flood, ACM SIGPLAN Not. 49 (10), 453 (2014)."""
    z = z - 0x61C8864680B583EB  # + 0x9E3779B97F4A7C15 modulo 2^64
    z = (z ^ _shifted(z, 30)) * -0x40A7B892E31B1A47
    z = (z ^ _shifted(z, 27)) * -0x6B2FB644ECCEEE15
    return z ^ _shifted(z, 31)


def _shifted(z: Int64[Tensor, " K"], bits: int) -> Int64[Tensor, " K"]:
    """To the right, without the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)
