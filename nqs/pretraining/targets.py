"""Target states of a fit: state vectors, mean fields, product states, other wavefunctions."""

# Shapes: B configurations, L sites, d local states, G group elements.
import math
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Complex128, Num, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.hilbert import HilbertSpace
from nqs.models import ProjectedDeterminant, SlaterDeterminant
from nqs.protocols import LogPsi, Wavefunction
from nqs.samples import Samples, split_counts
from nqs.symmetry.group import Symmetry

VANISHING = 1e-10  # modulus of a projected amplitude relative to its terms, below which it is rounding error


@runtime_checkable
class Target(Protocol):
    """A state to fit to, normalised or not; every `Wavefunction` is one."""

    @property
    def hilbert(self) -> HilbertSpace: ...

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Log modulus, -inf where the state vanishes, and phase."""


@dataclass(frozen=True, eq=False)
class VectorTarget:
    """A state by its amplitudes in lexicographic order, such as `ExactGroundState.state`.

    Raises:
        ValueError: not one finite amplitude for each configuration, or nothing but zeros.
    """

    hilbert: HilbertSpace
    state: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        if self.state.shape != (self.hilbert.dimension,):
            raise ValueError(
                f"the state vector has shape {self.state.shape}, but the sector is {self.hilbert}: give "
                f"({self.hilbert.dimension},) amplitudes in the order of hilbert.configurations()."
            )
        if not (np.isfinite(self.state).all() and self.state.any()):
            raise ValueError("the state vector has infinite or undefined amplitudes, or none that is not 0.")

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Normalised."""
        return as_log_psi(self._amplitudes(n.device)[self.hilbert.rank(n)])

    def sample(self, n_samples: int, generator: torch.Generator) -> Samples:
        """Independent samples, on the device of the generator."""
        amplitudes = self._amplitudes(generator.device)
        total = torch.tensor([n_samples], device=generator.device)
        counts = split_counts(total, amplitudes.abs().square()[None], generator)[0]
        rank = counts.nonzero()[:, 0]
        log_modulus, phase = as_log_psi(amplitudes[rank])
        return Samples(
            configurations=self.hilbert.unrank(rank),
            weights=counts[rank].double() / n_samples,
            log_modulus=log_modulus,
            phase=phase,
            counts=counts[rank],
        )

    def _amplitudes(self, device: torch.device) -> Complex128[Tensor, " dimension"]:
        state = torch.from_numpy(self.state / np.linalg.norm(self.state))
        return state.to(device=device, dtype=torch.complex128)


@dataclass(frozen=True)
class MeanField:
    """A determinant of fermions, or its projection on a symmetry sector, with its amplitudes and not only its signs."""

    hilbert: HilbertSpace
    determinant: SlaterDeterminant | ProjectedDeterminant

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Not normalised in a symmetry sector."""
        return as_log_psi(self.determinant.amplitude(n))


@dataclass(frozen=True, eq=False)
class ProductState:
    """prod_s a_s(n_s), projected on the sector: a Gutzwiller state of bosons, a mean field of spins.

    Attributes:
        hilbert: the sector.
        amplitudes: a_s(k) of local state k on site s, (L, d), real or complex.

    Raises:
        ValueError: another shape.
    """

    hilbert: HilbertSpace
    amplitudes: np.ndarray

    def __post_init__(self) -> None:
        wanted = (self.hilbert.n_sites, self.hilbert.local_dim)
        if self.amplitudes.shape != wanted:
            raise ValueError(
                f"the amplitudes of the product state have shape {self.amplitudes.shape}; the sector has {wanted[0]} "
                f"sites with {wanted[1]} local states, so give {wanted}."
            )

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Not normalised."""
        log_modulus, phase = as_log_psi(torch.from_numpy(self.amplitudes).to(n.device).flatten())
        chosen = torch.arange(self.hilbert.n_sites, device=n.device) * self.hilbert.local_dim + n.long()
        return LogPsi(log_modulus[chosen].sum(1), phase[chosen].sum(1))


def as_log_psi(amplitudes: Num[Tensor, " B"]) -> LogPsi:
    return LogPsi(amplitudes.abs().double().log(), torch.angle(amplitudes).double())


@torch.no_grad()
def target_log_psi(target: Target, n: UInt8[Tensor, "B L"], wavefunction: Wavefunction) -> LogPsi:
    """The target, projected on the symmetry sector of the wavefunction: 1/G sum_g c_g(n)* phi(g n)."""
    symmetry = symmetry_of(wavefunction)
    if symmetry is None or symmetry == symmetry_of(target):
        return evaluated(target, n)
    G, element = symmetry.order, torch.arange(symmetry.order, device=n.device)
    log_modulus, phase = evaluated(target, symmetry.images(n).flatten(0, 1))
    symmetry_phase = symmetry.phases(n.repeat_interleave(G, 0), element.repeat(len(n)), wavefunction.hilbert)
    largest = log_modulus.max()
    if largest == -math.inf:
        return LogPsi(log_modulus.view(-1, G)[:, 0], phase.view(-1, G)[:, 0])
    terms = torch.polar((log_modulus - largest).exp(), phase - symmetry_phase).view(-1, G)
    mean = terms.mean(1)
    projected = as_log_psi(torch.where(mean.abs() > VANISHING * terms.abs().amax(1), mean, 0))
    return LogPsi(projected.log_modulus + largest, projected.phase)


def evaluated(target: Target, n: UInt8[Tensor, "B L"]) -> LogPsi:
    return log_psi_by_all_ranks(target, n) if isinstance(target, Wavefunction) else target.log_psi(n)


def symmetry_of(state: object) -> Symmetry | None:
    if isinstance(state, MeanField):
        state = state.determinant
    return getattr(state, "symmetry", None)
