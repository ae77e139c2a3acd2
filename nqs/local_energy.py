"""Local energies with every amplitude evaluated once.

    E_loc(n) = <n|H|psi> / psi(n) = <n|H|n> + sum_n' <n|H|n'> psi(n') / psi(n).

Connected configurations are made distinct across the batch and looked up among the samples, whose amplitudes the
sampler has found already; only the rest goes through the network. On a converged, well-sampled state that saves most
evaluations.
"""

# Shapes: U samples, K connected configurations, L sites.
from dataclasses import dataclass

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.chunks import log_psi_in_chunks, rows_that_fit
from nqs.protocols import Hamiltonian, LogPsi, SymmetricWavefunction, Wavefunction
from nqs.samples import Samples, distinct


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
    n_connected: int
    n_evaluated: int

    @property
    def share_saved(self) -> float:
        """Share of the connected amplitudes that needed no network evaluation."""
        return 1.0 - self.n_evaluated / self.n_connected if self.n_connected else 0.0


@torch.no_grad()
def local_energies(hamiltonian: Hamiltonian, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
    """E_loc of every sample, the known amplitudes taken from the samples themselves."""
    n = samples.configurations
    diagonal = hamiltonian.diagonal(n)
    values = diagonal.to(torch.complex128)
    n_connected = n_evaluated = 0
    bytes_per_sample = 64 * n.shape[1] * (n.shape[1] + 64)  # a guess of connected rows, keys and sorting buffers
    for part in torch.arange(len(n), device=n.device).split(rows_that_fit(bytes_per_sample, n.device)):
        connected = hamiltonian.connected(n[part])
        configurations, turn = connected.configurations, 0.0
        if isinstance(wavefunction, SymmetricWavefunction):
            configurations, turn = wavefunction.fold(configurations)
        amplitudes, evaluated = amplitudes_with_cache(wavefunction, configurations, samples)
        parents = part[connected.parents]
        ratio = torch.polar(
            (amplitudes.log_modulus - samples.log_modulus[parents]).exp(), amplitudes.phase + turn - samples.phase[parents]
        )
        values.index_add_(0, parents, connected.elements * ratio)
        n_connected += len(parents)
        n_evaluated += evaluated
    return LocalEnergies(values=values, diagonal=diagonal, n_connected=n_connected, n_evaluated=n_evaluated)


def amplitudes_with_cache(wavefunction: Wavefunction, n: Tensor, samples: Samples) -> tuple[LogPsi, int]:
    """log psi of the configurations n, (K, L), and how many of them had to be evaluated."""
    U = samples.n_distinct
    first, classes = distinct(wavefunction.hilbert, torch.cat([samples.configurations, n]))
    unknown = first >= U  # classes whose first member is no sample
    log_modulus = torch.empty(len(first), dtype=torch.float64, device=n.device)
    phase = torch.empty_like(log_modulus)
    log_modulus[classes[:U]], phase[classes[:U]] = samples.log_modulus, samples.phase
    rows = first[unknown] - U
    if len(rows):
        log_modulus[unknown], phase[unknown] = log_psi_in_chunks(wavefunction, n[rows])
    return LogPsi(log_modulus[classes[U:]], phase[classes[U:]]), len(rows)
