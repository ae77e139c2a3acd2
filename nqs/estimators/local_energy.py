"""Local energies with every amplitude evaluated once.

    E_loc(n) = <n|H|psi> / psi(n) = <n|H|n> + sum_n' <n|H|n'> psi(n') / psi(n).

Connected configurations are made distinct across the batch and looked up among the samples, whose amplitudes the
sampler has found already; only the rest goes through the network, and of these every prefix that several share
once (nqs.amplitudes.prefixes). On a converged, well-sampled state that saves most evaluations.
"""

# Shapes: U samples, K connected configurations, L sites.
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Complex128, Float64, Int64
from torch import Tensor

from nqs.amplitudes.cache import amplitudes_at
from nqs.protocols import Hamiltonian, SymmetricWavefunction, Wavefunction, max_connected
from nqs.runtime.memory import in_pieces, rows_that_fit
from nqs.samples import Lookup, Samples

CPU_BYTES = 2**30  # connected configurations handled at once on a CPU: more of them share more


class Elements(NamedTuple):
    """Off-diagonal matrix elements of H between samples, in the basis of their normalised amplitudes.

    Of the amplitudes sqrt(w) exp(i arg psi), w the weights of an exhaustive sum; the phases are taken into the basis,
    so that the state is sqrt(w). E_loc = <n|H|n> + sum_columns values sqrt(w_column / w_row). Hermitian.
    """

    rows: Int64[Tensor, " K"]
    columns: Int64[Tensor, " K"]
    values: Complex128[Tensor, " K"]


@dataclass(frozen=True, kw_only=True)
class LocalEnergies:
    """Local energies of a batch of samples, and what they cost.

    Attributes:
        values: E_loc of every distinct sample, in the Hamiltonian's unit.
        diagonal: <n|H|n> of every distinct sample, a part of it.
        elements: of H between the samples, where they were asked for.
        n_connected: connected configurations, K.
        n_evaluated: network evaluations made for them.
    """

    values: Complex128[Tensor, " U"]
    diagonal: Float64[Tensor, " U"]
    n_connected: int
    n_evaluated: int
    elements: Elements | None = None

    @property
    def share_saved(self) -> float:
        """Share of the connected amplitudes that needed no network evaluation."""
        return 1.0 - self.n_evaluated / self.n_connected if self.n_connected else 0.0


@torch.no_grad()
def local_energies(
    hamiltonian: Hamiltonian, wavefunction: Wavefunction, samples: Samples, *, elements: bool = False
) -> LocalEnergies:
    """E_loc of every sample, the known amplitudes taken from the samples themselves.

    Args:
        elements: keep the matrix elements of H between the samples, which are all configurations or orbits.
    """
    n = samples.configurations
    L = n.shape[1]
    diagonal = hamiltonian.diagonal(n)
    values = diagonal.to(torch.complex128)
    known = Lookup(wavefunction.hilbert, n)

    def evaluate(part: Tensor) -> tuple[int, int, Elements | None]:
        connected = hamiltonian.connected(n[part])
        configurations, turn = connected.configurations, torch.zeros((), dtype=torch.float64, device=n.device)
        if isinstance(wavefunction, SymmetricWavefunction):
            configurations, turn = wavefunction.fold(configurations)
        columns = known.rows(configurations)
        amplitudes, evaluated = amplitudes_at(wavefunction, configurations, samples, columns)
        parents = part[connected.parents]
        found = elements_between(samples, parents, columns, connected.elements, turn) if elements else None
        log_ratio = amplitudes.log_modulus - samples.log_modulus[parents]
        ratio = torch.polar(log_ratio.exp(), amplitudes.phase + turn - samples.phase[parents])
        values.index_add_(0, parents, connected.elements * ratio)
        return len(parents), evaluated, found

    bytes_per_sample = max_connected(hamiltonian) * (2 * L + 256)  # with keys and sorting buffers
    rows = rows_that_fit(bytes_per_sample, n.device, CPU_BYTES)
    pieces = in_pieces(evaluate, torch.arange(len(n), device=n.device), rows)
    kept = [found for _, _, found in pieces if found is not None]
    return LocalEnergies(
        values=values,
        diagonal=diagonal,
        n_connected=sum(connected for connected, _, _ in pieces),
        n_evaluated=sum(evaluated for _, evaluated, _ in pieces),
        elements=Elements(*map(torch.cat, zip(*kept, strict=True))) if elements else None,
    )


def elements_between(
    samples: Samples,
    rows: Int64[Tensor, " K"],
    columns: Int64[Tensor, " K"],
    elements: Complex128[Tensor, " K"] | Float64[Tensor, " K"],
    turn: Float64[Tensor, "*K"],
) -> Elements:
    """Those of the given matrix elements whose column is a sample, in the basis of the normalised amplitudes.

    Args:
        columns: -1 for what is no sample.
        elements: <n|H|n'> of row and connected configuration.
        turn: angle from psi of the representative of n' to that of n'.
    """
    inside = columns >= 0
    # Members of the orbit of each sample, up to a common factor.
    log_members = torch.where(samples.weights > 0, samples.weights.log() - 2 * samples.log_modulus, 0.0)
    log_share = (log_members[rows] - log_members[columns]) / 2
    angle = samples.phase[columns] - samples.phase[rows] + turn
    return Elements(rows[inside], columns[inside], (elements * torch.polar(log_share.exp(), angle))[inside])
