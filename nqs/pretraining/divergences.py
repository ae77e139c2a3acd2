"""Divergences of a wavefunction from a target state, as objectives with local values.

With psi the wavefunction and phi the target, p and q their probabilities and delta = arg psi - arg phi,

    forward       sum q log(q / p) + lambda (1 - |sum q exp(i delta)|^2)      covers all that the target has
    reverse       sum p log(p / q) + lambda (1 - |sum p exp(i delta)|^2)      stays where the target is
    infidelity    1 - |<phi|psi>|^2 / <phi|phi>

None of them depends on the global phase, nor on the norm of the target. With lambda = 2 each Kullback-Leibler
divergence with its phase overlap is twice the infidelity close to the target.

The infidelity is the energy of 1 - |phi><phi|, so its local energies serve every optimiser of nqs.optimisation as those
of a Hamiltonian do. So do the gradients of the other two, because they have the same form 2 Re <(f - <f>)* O>, with

    forward       f = -q/p + i lambda (q/p) Im(z* exp(i delta)),                               z = sum q exp(i delta)
    reverse       f = log(p/q) - 2 lambda Re(z* exp(i delta)) + i lambda Im(z* exp(i delta)),  z = sum p exp(i delta)
    infidelity    f = 1 - r <r>* / <|r|^2>,   r = phi / psi,   averages over p.

Small sectors are summed exactly. In larger ones half of the samples comes from the target, if that can be sampled, and
the weights p / ((p + q) / 2) and q / ((p + q) / 2), bounded by 2, give averages over p and q. Otherwise all samples
come from the wavefunction, with weights q / p normalised to 1.

Forward and reverse divergences as objectives: Minka, Divergence measures and message passing, MSR-TR-2005-173.
"""

# Shapes: U distinct samples.
import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.pretraining.targets import Target, target_log_psi
from nqs.protocols import LogPsi, Wavefunction
from nqs.samples import LocalEnergies, Samples

FitObjective = Literal["forward", "reverse", "infidelity"]
OBJECTIVES = ("forward", "reverse", "infidelity")
LARGEST_EXPONENT = 300.0
PHASE_WEIGHT = 2.0  # lambda: with it modulus and phase count as in the infidelity


class Comparison(NamedTuple):
    """Comparison of a wavefunction with its target on samples.

    Attributes:
        loss: value of the objective.
        local: f(n), in place of local energies; the mean is the loss.
        diagonal: diagonal part of f(n), in place of <n|H|n>.
    """

    loss: float
    fidelity: float
    forward: float
    reverse: float
    local: Complex128[Tensor, " U"]
    diagonal: Float64[Tensor, " U"]


def compare(samples: Samples, phi: LogPsi, objective: FitObjective, phase_weight: float = PHASE_WEIGHT) -> Comparison:
    """Objective, its local values, fidelity and divergences.

    Args:
        samples: of the wavefunction, with weights that stand for p.
        phi: the target there, normalised or not.

    Raises:
        ValueError: the target vanishes on all samples, or, for the reverse divergence, on some.
    """
    w, seen = samples.weights, samples.weights > 0
    log_r = (phi.log_modulus - samples.log_modulus).masked_fill(~seen, -math.inf)
    log_norm = (w.log() + 2 * log_r)[seen].logsumexp(0)
    if log_norm == -math.inf:
        raise ValueError("the target vanishes on all samples: it has no weight in this (symmetry) sector.")
    log_ratio = 2 * log_r - log_norm  # log(q / p)
    ratio = log_ratio.clamp(max=LARGEST_EXPONENT).exp()
    v = torch.where(seen, w.log() + log_ratio, -math.inf).exp()  # q, sums to 1
    forward = v[v > 0] @ log_ratio[v > 0]
    reverse = -(w[seen] @ log_ratio[seen])
    relative_phase = torch.polar(torch.ones_like(w), samples.phase - phi.phase)  # exp(i delta)
    r = ratio.sqrt() * relative_phase.conj()  # phi / psi, normalised to <|r|^2> = 1
    mean = samples.mean(r)
    fidelity = mean.abs().square().item()
    if objective == "infidelity":
        loss = 1 - fidelity
        return Comparison(loss, fidelity, forward.item(), reverse.item(), 1 - r * mean.conj(), 1 - v)
    z = v.to(relative_phase.dtype) @ relative_phase if objective == "forward" else samples.mean(relative_phase)
    aligned = z.conj() * relative_phase
    if objective == "forward":
        divergence = forward
        local = torch.complex(-ratio, phase_weight * ratio * aligned.imag)
    else:
        if reverse == math.inf:
            raise ValueError(
                "the target vanishes on configurations of the wavefunction, where the reverse divergence is infinite: "
                "use objective='forward' or 'infidelity'."
            )
        divergence = reverse
        local = torch.complex(
            -log_ratio.masked_fill(~seen, 0) - 2 * phase_weight * aligned.real, phase_weight * aligned.imag
        )
    loss = (divergence + phase_weight * (1 - z.abs().square())).item()
    local = local - samples.mean(local.real) + loss
    # df / d log|psi| = 2 for the reverse divergence, and for the forward one close to the target.
    return Comparison(loss, fidelity, forward.item(), reverse.item(), local, torch.full_like(w, loss + 2))


class Divergence:
    """A divergence from a target as an objective.

    Attributes:
        found: comparison with the target on the last samples.
    """

    energy_scale = 1.0  # divergences are numbers
    found: "Comparison"

    def __init__(self, target: Target, kind: FitObjective, phase_weight: float) -> None:
        self.target, self.kind, self.phase_weight = target, kind, phase_weight
        self._known: tuple[Tensor, LogPsi] | None = None  # reused: exhaustive sums repeat n

    @torch.no_grad()
    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        n = samples.configurations
        if self._known is None or not torch.equal(self._known[0], n):
            self._known = n, target_log_psi(self.target, n, wavefunction)
        self.found = compare(samples, self._known[1], self.kind, self.phase_weight)
        return LocalEnergies(values=self.found.local, diagonal=self.found.diagonal)
