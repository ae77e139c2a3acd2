"""Reference phases: a fixed sign or phase of every configuration, to which a phase head adds what it learns.

The energy is a property of the whole state, so a reference only moves the starting point: where it is right, nothing is
left to learn; where it is wrong, the phase head can compensate it. A reference that carries most of the sign structure
is what makes fermions and frustrated spins tractable.
"""

# Shapes: B configurations, L sites.
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.protocols import AutoregressiveWavefunction, Conditionals, DecodingState, LogPsi, WavefunctionConfig


class ReferencePhase(Protocol):
    """A frozen dataclass of plain data; archives store it."""

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """Phase of each configuration in radians, on the device of n."""


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
