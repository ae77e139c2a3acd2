"""Reference phases: a fixed sign or phase of every configuration, to which a phase head adds what it learns.

The energy is a property of the whole state, so a reference only moves the starting point: where it is right, nothing is
left to learn; where it is wrong, the phase head can compensate it. A reference that carries most of the sign structure
is what makes fermions and frustrated spins tractable.
"""

# Shapes: B configurations, L sites.
import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.protocols import AutoregressiveWavefunction, Conditionals, DecodingState, LogPsi, WavefunctionConfig

VANISHING = 1e-9  # ratio of pivots; the determinants of random matrices of 100 rows stay far above it


class ReferencePhase(Protocol):
    """A frozen dataclass of plain data; archives store it."""

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """Phase of each configuration in radians, on the device of n."""


@dataclass(frozen=True, kw_only=True)
class MarshallSign:
    """(-1)^(sum of S + m over sublattice A), exact for antiferromagnets whose bonds all join A and B.

    Marshall, Proc. R. Soc. A 232, 48 (1955); for any spin and bipartite lattice Lieb and Mattis, J. Math. Phys. 3, 749
    (1962). Local state k of a spin is S + m.

    Attributes:
        sublattice: 1 for each site of A, 0 for B: `tuple(lattice.sublattices().tolist())`.
    """

    sublattice: tuple[int, ...]

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        on_a = torch.tensor(self.sublattice, device=n.device)
        return math.pi * ((n.long() * on_a).sum(1) % 2).double()


@dataclass(frozen=True, kw_only=True)
class SlaterDeterminant:
    """Phase of <n|D> for a determinant of fermions, all up orbitals first in Jordan-Wigner order; 0 where that is 0.

    <n|D> = det[orbitals_up[occupied by up]] det[orbitals_down[occupied by down]] with rows in the order of the sites.

    Attributes:
        up: orbitals of the up electrons, or of spinless fermions, L rows of N_up numbers (real parts).
        down: orbitals of the down electrons; None for spinless fermions.
        up_imaginary, down_imaginary: imaginary parts, None for real orbitals.
    """

    up: tuple[tuple[float, ...], ...]
    down: tuple[tuple[float, ...], ...] | None = None
    up_imaginary: tuple[tuple[float, ...], ...] | None = None
    down_imaginary: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def from_orbitals(cls, up: np.ndarray, down: np.ndarray | None = None) -> "SlaterDeterminant":
        """From matrices of orbitals, (L, N) each."""

        def rows(part: np.ndarray) -> tuple[tuple[float, ...], ...]:
            return tuple(tuple(row) for row in part.tolist())

        complex_orbitals = np.iscomplexobj(up) or (down is not None and np.iscomplexobj(down))
        return cls(
            up=rows(up.real),
            down=None if down is None else rows(down.real),
            up_imaginary=rows(up.imag) if complex_orbitals else None,
            down_imaginary=rows(down.imag) if complex_orbitals and down is not None else None,
        )

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        return torch.angle(self.amplitude(n))

    def amplitude(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        """<n|D>, float64 or complex128."""
        amplitude = _determinant(self.up, self.up_imaginary, n % 2 == 1)
        if self.down is not None:
            amplitude = amplitude * _determinant(self.down, self.down_imaginary, n >= 2)
        return amplitude


def _determinant(
    real: tuple[tuple[float, ...], ...], imaginary: tuple[tuple[float, ...], ...] | None, occupied: Tensor
) -> Num[Tensor, " B"]:
    """det of the rows of the occupied sites; exactly 0 where it vanishes up to rounding.

    Symmetries make many determinants vanish, and the sign of what rounding leaves of them would depend on the device.
    """
    orbitals = torch.tensor(real, dtype=torch.float64, device=occupied.device)  # (L, N)
    if imaginary is not None:
        orbitals = torch.complex(orbitals, torch.tensor(imaginary, dtype=torch.float64, device=occupied.device))
    B, N = len(occupied), orbitals.shape[1]
    counts = occupied.sum(1)
    if bool((counts != N).any()):
        raise ValueError(
            f"the determinant has {N} orbitals, but a configuration has {int(counts[counts != N][0])} particles: "
            "use a reference with as many orbitals as the sector has particles."
        )
    sites: Int64[Tensor, "B N"] = occupied.nonzero()[:, 1].view(B, N)
    if N == 0:
        return torch.ones(B, dtype=orbitals.dtype, device=occupied.device)
    factors, swaps, _ = torch.linalg.lu_factor_ex(orbitals[sites])  # raises nothing where a pivot is 0
    pivots = factors.diagonal(dim1=-2, dim2=-1)  # (B, N)
    odd = (swaps != torch.arange(1, N + 1, device=swaps.device)).sum(1) % 2
    size = pivots.abs()
    return torch.where(size.amin(1) > VANISHING * size.amax(1), pivots.prod(1) * (1 - 2 * odd), 0.0)


@dataclass(frozen=True, kw_only=True)
class WithReference:
    """A model with a reference phase: `WithReference(base=TransformerConfig(), reference=MarshallSign(...))`."""

    base: WavefunctionConfig
    reference: ReferencePhase

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "ReferencedWavefunction":
        base = self.base.build(hilbert, device)
        if not isinstance(base, AutoregressiveWavefunction):
            raise TypeError(f"a reference phase needs an autoregressive model; {type(base).__name__} is none.")
        return ReferencedWavefunction(self, base)


class ReferencedWavefunction(AutoregressiveWavefunction[DecodingState]):
    """An autoregressive wavefunction times a fixed phase of each configuration."""

    config: WithReference

    def __init__(self, config: WithReference, base: AutoregressiveWavefunction) -> None:
        super().__init__()
        self.config = config
        self.base = base
        self.hilbert = base.hilbert
        self.has_phase = base.has_phase
        self.shares_prefixes = base.shares_prefixes
        self.rowwise_layers = base.rowwise_layers
        self.gradient_dtype = base.gradient_dtype

    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        return self.base.conditionals(n)

    def start(self, batch: int) -> DecodingState:
        return self.base.start(batch)

    def step(self, tokens: UInt8[Tensor, " B"] | None, state: DecodingState) -> tuple[Conditionals, DecodingState]:
        return self.base.step(tokens, state)

    def reference_phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        return self.base.reference_phase(n) + self.config.reference.phase(n)

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        log_modulus, phase = self.base.log_psi_in_order(n, shared)
        return LogPsi(log_modulus, phase + self.config.reference.phase(n))

    @property
    def bytes_per_configuration(self) -> int:
        return self.base.bytes_per_configuration

    @property
    def bytes_per_shared_site(self) -> int:
        return self.base.bytes_per_shared_site


def phase_agreement(reference: ReferencePhase, hilbert: HilbertSpace, state: np.ndarray) -> float:
    """Share of the weight |psi|^2 of an exact state whose sign the reference gets right, up to a global phase.

    For real states (1 + |sum |psi|^2 s_ref s_exact|) / 2; 1 means exact, 1/2 is no better than chance. For complex
    states the overlap of the phase factors enters the same way.

    Args:
        state: state vector in lexicographic order, (dimension,).
    """
    psi = torch.from_numpy(np.ascontiguousarray(state)).to(torch.complex128)
    factor = torch.polar(torch.ones(len(psi), dtype=torch.float64), reference.phase(hilbert.configurations()))
    overlap = (psi.abs() * psi.conj() * factor).sum().abs() / psi.abs().square().sum()
    return (1 + overlap.item()) / 2


def innermost(config: Any) -> tuple[Any, Any]:
    """The model under symmetries and references, and its reference."""
    reference = None
    while hasattr(config, "base"):
        reference = getattr(config, "reference", reference)
        config = config.base
    return config, reference
