"""Local energies with every amplitude evaluated once.

    E_loc(n) = <n|H|psi> / psi(n) = <n|H|n> + sum_n' <n|H|n'> psi(n') / psi(n).

Connected configurations are made distinct across the batch and looked up among the samples, whose amplitudes the
sampler has found already; only the rest goes through the network, and of these every prefix that several share
once (nqs.amplitudes.prefixes). On a converged, well-sampled state that saves most evaluations.
"""

# Shapes: U samples, K connected configurations, L sites.
from dataclasses import dataclass

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.amplitudes.cache import amplitudes_at
from nqs.protocols import Hamiltonian, SymmetricWavefunction, Wavefunction
from nqs.runtime.memory import in_pieces, rows_that_fit
from nqs.samples import Lookup, Samples

CPU_BYTES = 2**30  # connected configurations handled at once on a CPU: more of them share more


@dataclass(frozen=True, kw_only=True)
class LocalEnergies:
    """Local energies of a batch of samples, and what they cost.

    Attributes:
        values: E_loc of every distinct sample, in the Hamiltonian's unit.
        diagonal: <n|H|n> of every distinct sample, a part of it.
        n_connected: connected configurations, K.
        n_evaluated: network evaluations made for them.
    """

    values: Complex128[Tensor, " U"]
    diagonal: Float64[Tensor, " U"]
    n_connected: int = 0
    n_evaluated: int = 0

    @property
    def share_saved(self) -> float:
        """Share of the connected amplitudes that needed no network evaluation."""
        return 1.0 - self.n_evaluated / self.n_connected if self.n_connected else 0.0


@torch.no_grad()
def local_energies(hamiltonian: Hamiltonian, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
    """E_loc of every sample, the known amplitudes taken from the samples themselves."""
    n = samples.configurations
    L = n.shape[1]
    diagonal = hamiltonian.diagonal(n)
    values = diagonal.to(torch.complex128)
    known = Lookup(wavefunction.hilbert, n)

    def evaluate(part: Tensor) -> tuple[int, int]:
        connected = hamiltonian.connected(n[part])
        configurations, turn = connected.configurations, torch.zeros((), dtype=torch.float64, device=n.device)
        if isinstance(wavefunction, SymmetricWavefunction):
            configurations, turn = wavefunction.fold(configurations)
        columns = known.rows(configurations)
        amplitudes, evaluated = amplitudes_at(wavefunction, configurations, samples, columns)
        parents = part[connected.parents]
        log_ratio = amplitudes.log_modulus - samples.log_modulus[parents]
        ratio = torch.polar(log_ratio.exp(), amplitudes.phase + turn - samples.phase[parents])
        values.index_add_(0, parents, connected.elements * ratio)
        return len(parents), evaluated

    bytes_per_sample = 4 * L * (2 * L + 256)  # some 4 L connected configurations with keys and sorting buffers
    rows = rows_that_fit(bytes_per_sample, n.device, CPU_BYTES)
    pieces = in_pieces(evaluate, torch.arange(len(n), device=n.device), rows)
    return LocalEnergies(
        values=values,
        diagonal=diagonal,
        n_connected=sum(connected for connected, _ in pieces),
        n_evaluated=sum(evaluated for _, evaluated in pieces),
    )
