"""States above the lowest: penalties on the overlaps with states that are known.

    H' = H + sum_k w_k |k><k|,    P_k(n) = <n|k><k|psi> / psi(n) = r(n) <r>^*,    r(n) = k(n) / psi(n),  <r> = <psi|k>.

The lowest state of H' is the next one of H if every w_k exceeds the distance of that state from E_k. P_k is the local
energy of the penalty, so that every optimiser of nqs.optimisation can minimise H'. The variance of r is at most 1, for
normalised states. The square of a mean over N samples exceeds |<r>|^2 by the square of its standard error; so each
sample takes the mean over the others,

    <r>_{-n} = <r> - (e_n / w_n) (r(n) - <r>),    (standard error)^2 = sum_n e_n |r(n) - <r>|^2,

which leaves overlap and gradient without bias. Sums over the whole sector have e = 0.

Penalties: Choo, Carleo, Regnault, Neupert, Phys. Rev. Lett. 121, 167204 (2018), arXiv:1807.03325. Overlaps without bias
from two sets of samples: Pfau, Axelrod, Sutterud, von Glehn, Spencer, Science 385, eadn0137 (2024), arXiv:2308.16848.
"""

# Shapes: U samples, N configurations or orbits.
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Complex128, Num, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.amplitudes.prefixes import log_psi_sharing_prefixes
from nqs.hilbert import HilbertSpace
from nqs.observables.expectation import Expectation, means_of_values
from nqs.observables.state_vector import StateVector
from nqs.optimisation.exact_steps import SectorObjective
from nqs.optimisation.imaginary_time import Matrix
from nqs.protocols import LogPsi, Objective, Wavefunction, WavefunctionConfig
from nqs.runtime.memory import in_chunks, max_chunk_rows
from nqs.samples import LocalEnergies, Samples
from nqs.symmetry.projection import projection_terms

REAL = 1e-14  # imaginary part of an amplitude, relative to the largest one, that counts as rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownState:
    """A state that a run stays orthogonal to, as plain data: a vector, or a wavefunction with its parameters.

    Attributes:
        weight: w of the penalty, in the Hamiltonian's unit.
        vector: normalised amplitudes in lexicographic order.
        model, parameters: of a normalised wavefunction; parameters and buffers by name.

    Raises:
        ValueError: a weight that is not positive, or neither or both of vector and model.
    """

    weight: float
    vector: np.ndarray | None = field(default=None, repr=False)
    model: WavefunctionConfig | None = None
    parameters: Mapping[str, np.ndarray] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise ValueError(f"penalty={self.weight}: the weight of a penalty is a positive energy.")
        if (self.vector is None) == (self.model is None) or (self.model is None) != (self.parameters is None):
            raise ValueError("a known state is either a vector, or a model with its parameters.")

    def build(self, hilbert: HilbertSpace, device: torch.device | str) -> "Known":
        """
        Raises:
            ValueError: a vector that is not normalised or of another dimension, or a state of another sector.
        """
        if self.vector is not None:
            return Known(StateVector(hilbert, self.vector).to(device), self.weight)
        assert self.model is not None
        assert self.parameters is not None
        state = self.model.build(hilbert, device)
        state.load_state_dict({name: torch.as_tensor(values) for name, values in self.parameters.items()})
        return Known(state, self.weight)


class Known(NamedTuple):
    """A known state, and the weight of its penalty."""

    state: Wavefunction
    weight: float


@torch.no_grad()
def projected(state: Wavefunction, wavefunction: Wavefunction, n: UInt8[Tensor, "B L"]) -> LogPsi:
    """log of a state, projected on the symmetry sector of a wavefunction, at its configurations (representatives)."""
    return log_psi_by_all_ranks(wavefunction, n, partial(_projected, state))


def _projected(state: Wavefunction, wavefunction: Wavefunction, n: UInt8[Tensor, "B L"]) -> LogPsi:
    symmetry = wavefunction.symmetry
    if symmetry is None or symmetry == state.symmetry:
        representatives, phase = state.fold(n)
        found = log_psi_sharing_prefixes(state, representatives)
        return found._replace(phase=found.phase + phase)

    def of_chunk(part: Tensor) -> LogPsi:
        largest = -math.inf

        def amplitude(m: Tensor) -> Tensor:
            nonlocal largest
            representatives, angle = state.fold(m)
            log_modulus, phase = log_psi_sharing_prefixes(state, representatives)
            largest = log_modulus.max().item()
            return torch.polar((log_modulus - max(largest, -1e300)).exp(), phase + angle)

        mean = projection_terms(amplitude, symmetry, wavefunction.hilbert, part).mean(1)
        return LogPsi(mean.abs().double().log() + largest, torch.angle(mean).double())

    rows = max_chunk_rows(16 * symmetry.order * (wavefunction.hilbert.n_sites + 2) ** 2, n.device)
    chunks = in_chunks(of_chunk, n, rows)
    return LogPsi(torch.cat([p.log_modulus for p in chunks]), torch.cat([p.phase for p in chunks]))


def ratios(state: Wavefunction, wavefunction: Wavefunction, samples: Samples) -> Complex128[Tensor, " U"]:
    """r(n) = k(n) / psi(n) of the samples; 0 where psi vanishes."""
    phi = projected(state, wavefunction, samples.configurations)
    r = torch.polar((phi.log_modulus - samples.log_modulus).exp(), phi.phase - samples.phase)
    return torch.where(samples.weights > 0, r, 0)


def overlap(samples: Samples, r: Complex128[Tensor, " U"]) -> Expectation:
    """|<k|psi>|^2 without bias, which may be negative within its error; a scalar.

    The error is that of 2 Re(<r>^* r), and of the square of a Gaussian mean where that vanishes.
    """
    mean, noise = samples.mean(r), samples.standard_error(r)
    linear = means_of_values(samples, 2 * (mean.conj() * r).real).error
    return Expectation(mean.abs().square() - noise.square(), torch.hypot(linear, math.sqrt(2) * noise.square()))


@torch.no_grad()
def overlaps(known: Sequence[Known], wavefunction: Wavefunction, samples: Samples) -> Expectation:
    """|<k|psi>|^2 of every known state, (K,)."""
    found = [overlap(samples, ratios(one.state, wavefunction, samples)) for one in known]
    return Expectation(torch.stack([value for value, _ in found]), torch.stack([error for _, error in found]))


class Penalised:
    """An energy with penalties on the overlaps with known states, as an objective."""

    def __init__(self, objective: Objective, known: Sequence[Known]) -> None:
        self.objective, self.known = objective, known
        self._last: tuple[Tensor, list[LogPsi]] | None = None  # exhaustive sums repeat their configurations

    @property
    def energy_scale(self) -> float:
        return self.objective.energy_scale

    @torch.no_grad()
    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        local = self.objective.local(wavefunction, samples)
        penalty, diagonal = torch.zeros_like(local.values), torch.zeros_like(local.diagonal)
        share = torch.where(samples.weights > 0, samples.error_weights / samples.weights, 0)  # e_n / w_n
        found = []
        for (_, weight), phi in zip(self.known, self._log_psi(wavefunction, samples.configurations), strict=True):
            r = torch.polar((phi.log_modulus - samples.log_modulus).exp(), phi.phase - samples.phase)
            r = torch.where(samples.weights > 0, r, 0)
            mean = samples.mean(r)
            penalty += weight * r * (mean - share * (r - mean)).conj()
            diagonal += weight * (2 * phi.log_modulus).exp()
            found.append(overlap(samples, r).value.item())
        return replace(
            local,
            values=local.values + penalty,
            diagonal=local.diagonal + diagonal,
            penalty=penalty,
            overlaps=tuple(found),
        )

    def _log_psi(self, wavefunction: Wavefunction, n: UInt8[Tensor, "U L"]) -> list[LogPsi]:
        if self._last is None or not torch.equal(self._last[0], n):
            self._last = n, [projected(state, wavefunction, n) for state, _ in self.known]
        return self._last[1]


class PenalisedSector(Penalised):
    """The same with the matrix of H' on the sector, for exact steps."""

    objective: SectorObjective

    def matrix(self, wavefunction: Wavefunction, samples: Samples) -> Matrix:
        matrix = self.objective.matrix(wavefunction, samples)
        vectors = []
        for phi in self._log_psi(wavefunction, samples.configurations):
            x = torch.polar(phi.log_modulus.exp(), phi.phase) * matrix.sizes.sqrt()
            real = x.imag.abs().max() <= REAL * x.abs().max()
            vectors.append(x.real.contiguous() if real else x)
        return PenalisedMatrix(matrix, vectors, [weight for _, weight in self.known])


class PenalisedMatrix:
    """H + sum_k w_k |k><k| in the basis of a sector."""

    def __init__(self, matrix: Matrix, vectors: Sequence[Num[Tensor, " N"]], weights: Sequence[float]) -> None:
        self.base, self.vectors, self.weights = matrix, vectors, weights
        self.sizes = matrix.sizes

    @property
    def is_real(self) -> bool:
        return self.base.is_real and not any(vector.is_complex() for vector in self.vectors)

    @property
    def width(self) -> float:
        """No two eigenvalues differ by more."""
        return self.base.width + sum(self.weights)

    def apply(self, x: Num[Tensor, " N"]) -> Num[Tensor, " N"]:
        y = self.base.apply(x)
        for vector, weight in zip(self.vectors, self.weights, strict=True):
            dtype = torch.promote_types(vector.dtype, x.dtype)
            y = y + weight * torch.vdot(vector.to(dtype), x.to(dtype)) * vector
        return y


def penalised(objective: Objective, known: Sequence[Known]) -> Objective:
    """The objective with penalties on known states; itself without any."""
    if not known:
        return objective
    kind: Callable[..., Objective] = PenalisedSector if isinstance(objective, SectorObjective) else Penalised
    return kind(objective, known)
