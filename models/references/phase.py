"""Reference phases: a fixed sign or phase of every configuration, to which a phase head adds what it learns.

A model takes it as an argument, `TransformerConfig(reference=MarshallSign(...))`.

The energy is a property of the whole state, so a reference only changes the starting point: where it is exact nothing
is left to learn, where it is wrong the phase head can compensate. A reference with most of the sign structure makes
fermions and frustrated spins tractable.
"""

import numpy as np
import torch

from nqs.hilbert import HilbertSpace
from nqs.protocols import ReferencePhase


def phase_agreement(reference: ReferencePhase, hilbert: HilbertSpace, state: np.ndarray) -> float:
    """Fraction of the weight |psi|^2 of an exact state with the correct sign in the reference, up to a global phase.

    For real states (1 + |sum |psi|^2 s_ref s_exact|) / 2; 1 means exact, 1/2 is no better than chance. For complex
    states the overlap of the phase factors enters the same way.

    Args:
        state: state vector in lexicographic order, (dimension,).
    """
    psi = torch.from_numpy(np.ascontiguousarray(state)).to(torch.complex128)
    factor = torch.polar(torch.ones(len(psi), dtype=torch.float64), reference.phase(hilbert.configurations()))
    overlap = (psi.abs() * psi.conj() * factor).sum().abs() / psi.abs().square().sum()
    return (1 + overlap.item()) / 2
