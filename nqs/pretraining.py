"""Fitting a wavefunction to a target state: a mean field, a state vector, or another wavefunction.

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

Small sectors are summed exactly. In larger ones half of the samples comes from the target, where that can be sampled,
and the weights p / ((p + q) / 2) and q / ((p + q) / 2), which are never above 2, turn them into averages over p and q.
Else all come from the wavefunction, with weights q / p that are normalised to 1.

Forward and reverse divergences as objectives: Minka, Divergence measures and message passing, MSR-TR-2005-173.
"""

# Shapes: B configurations, U distinct samples, L sites, d local states, G group elements.
import math
import time
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Complex128, Float64, Num, UInt8
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.hilbert import HilbertSpace
from nqs.models import ProjectedDeterminant, SlaterDeterminant
from nqs.optimisation.stochastic_reconfiguration import NaturalGradient, StochasticReconfiguration
from nqs.protocols import (
    Hamiltonian,
    LogPsi,
    Objective,
    Optimiser,
    OptimiserConfig,
    Sampler,
    SamplerConfig,
    Wavefunction,
)
from nqs.recipes.optimiser import optimiser as completed
from nqs.recipes.samplers import training_sampler
from nqs.runtime.memory import max_chunk_rows
from nqs.runtime.progress import Progress
from nqs.samplers import ExhaustiveSampler
from nqs.samples import LocalEnergies, Samples, distinct, split_counts
from nqs.symmetry.group import Symmetry
from nqs.vmc.guard import Guard, NonFiniteError
from nqs.vmc.stages import RunningStage
from nqs.vmc.steps import make_step

FitObjective = Literal["forward", "reverse", "infidelity"]
OBJECTIVES = ("forward", "reverse", "infidelity")
LARGEST_EXPONENT = 300.0
VANISHING = 1e-10  # of a projected amplitude against its terms: nothing but rounding
PHASE_WEIGHT = 2.0  # lambda: modulus and phase count as they do in the infidelity


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
        return _log_psi(self._amplitudes(n.device)[self.hilbert.rank(n)])

    def sample(self, n_samples: int, generator: torch.Generator) -> Samples:
        """Independent samples, on the device of the generator."""
        amplitudes = self._amplitudes(generator.device)
        total = torch.tensor([n_samples], device=generator.device)
        counts = split_counts(total, amplitudes.abs().square()[None], generator)[0]
        rank = counts.nonzero()[:, 0]
        log_modulus, phase = _log_psi(amplitudes[rank])
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
        if isinstance(self.determinant, SlaterDeterminant):
            return _log_psi(self.determinant.amplitude(n))
        rows = max_chunk_rows(16 * self.determinant.symmetry.order * (self.hilbert.n_sites + 2) ** 2, n.device)
        return _log_psi(torch.cat([self.determinant.terms(part).mean(1) for part in n.split(rows)]))


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
        log_modulus, phase = _log_psi(torch.from_numpy(self.amplitudes).to(n.device).flatten())
        chosen = torch.arange(self.hilbert.n_sites, device=n.device) * self.hilbert.local_dim + n.long()
        return LogPsi(log_modulus[chosen].sum(1), phase[chosen].sum(1))


def _log_psi(amplitudes: Num[Tensor, " B"]) -> LogPsi:
    return LogPsi(amplitudes.abs().double().log(), torch.angle(amplitudes).double())


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """How close a wavefunction came to its target.

    Attributes:
        fidelity: |<phi|psi>|^2 at the end, exact where the sector was summed, else from the samples of a step.
        forward: sum q log(q / p) at the end.
        reverse: sum p log(p / q) at the end; infinite where the target vanishes.
        steps: updates made.
        history: "loss", "fidelity", "forward", "reverse", "distinct", before every update and after the last one.
        seconds: wall time.
    """

    fidelity: float
    forward: float
    reverse: float
    steps: int
    history: dict[str, np.ndarray] = field(repr=False)
    seconds: float

    def __str__(self) -> str:
        return (
            f"fidelity {self.fidelity:.6f}, Kullback-Leibler divergence forward {self.forward:.1e}, reverse "
            f"{self.reverse:.1e}, after {self.steps} steps in {self.seconds:.0f} s"
        )


def fit(
    wavefunction: Wavefunction,
    target: Target,
    objective: FitObjective = "forward",
    *,
    steps: int = 100,
    fidelity: float = 1.0,
    sampler: SamplerConfig | None = None,
    optimiser: OptimiserConfig | None = None,
    phase_weight: float = PHASE_WEIGHT,
    generator: torch.Generator | None = None,
    progress: bool = True,
) -> FitResult:
    """Move the parameters of a wavefunction towards a target.

    A symmetric wavefunction is fitted to the projection of the target on its symmetry sector.

    Args:
        target: `VectorTarget`, `MeanField`, `ProductState`, another wavefunction, or anything with `log_psi`.
        objective: "forward", "reverse" or "infidelity", see above.
        steps: updates, at most.
        fidelity: end as soon as the fidelity is as high.
        sampler: of both states; chosen from the dimension by default.
        optimiser: natural gradient by default.
        phase_weight: lambda.
        generator: random numbers, on the device of the wavefunction.
        progress: show a progress bar, or lines where there is no terminal.

    Raises:
        ValueError: another sector, an unknown objective, a target without weight in the symmetry sector, or one that
            vanishes on configurations of the wavefunction, for which the reverse divergence is infinite.
        FloatingPointError: the fit left finite numbers.

    >>> from nqs import exact
    >>> from nqs.hamiltonians import Heisenberg
    >>> from nqs.lattice import chain
    >>> from nqs.models import Transformer
    >>> hamiltonian = Heisenberg(chain(4), total_sz=0)
    >>> target = VectorTarget(hamiltonian.hilbert, exact.ground_state(hamiltonian).state)
    >>> model = Transformer(hamiltonian.hilbert, width=8, layers=1, heads=2)
    >>> fit(model, target, steps=50, progress=False).fidelity > 0.9999
    True
    """
    _check(wavefunction, target, objective, steps, phase_weight)
    device = next(wavefunction.parameters()).device
    sampler = sampler or training_sampler(wavefunction, device)
    exact = isinstance(sampler, ExhaustiveSampler)
    aim = Divergence(target, objective, phase_weight)
    running = RunningStage(
        wavefunction,
        Mixture(wavefunction, target, sampler),
        aim,
        FitOptimiser(optimiser or default_optimiser(objective, exact=exact), exact, objective),
    )
    guard = Guard(wavefunction.parameters())
    generator = generator or torch.Generator(device).manual_seed(0)
    begin = time.perf_counter()
    rows: list[dict[str, float]] = []

    def enough(samples: Samples, local: LocalEnergies) -> bool:
        return len(rows) == steps or aim.found.fidelity >= fidelity

    with Progress(steps, 0, show=progress) as bar:
        for step in range(steps + 1):
            try:
                made = make_step(running, guard, generator, step / max(steps, 1), enough=enough)
            except NonFiniteError as error:
                raise error.at(f"step {step} of the fit", "The state before it was restored.") from None
            found = aim.found
            row = {"loss": found.loss, "fidelity": found.fidelity, "forward": found.forward, "reverse": found.reverse}
            rows.append(row | {"distinct": made.samples.n_distinct})
            if made.enough:
                break
            bar.update(f"fidelity {found.fidelity:.6f}, {objective} {found.loss:.1e}")
    return FitResult(
        fidelity=found.fidelity,
        forward=found.forward,
        reverse=found.reverse,
        steps=len(rows) - 1,
        history={name: np.array([row[name] for row in rows]) for name in rows[0]},
        seconds=time.perf_counter() - begin,
    )


class Divergence:
    """A divergence from a target as an objective.

    Attributes:
        found: comparison with the target on the last samples.
    """

    found: "Comparison"

    def __init__(self, target: Target, kind: FitObjective, phase_weight: float) -> None:
        self.target, self.kind, self.phase_weight = target, kind, phase_weight
        self._known: tuple[Tensor, LogPsi] | None = None  # of an exhaustive sum, the same in each step

    @torch.no_grad()
    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        n = samples.configurations
        if self._known is None or not torch.equal(self._known[0], n):
            self._known = n, target_log_psi(self.target, n, wavefunction)
        self.found = compare(samples, self._known[1], self.kind, self.phase_weight)
        return LocalEnergies(values=self.found.local, diagonal=self.found.diagonal)


class Mixture:
    """Samples of the wavefunction and, where possible, as many of the target."""

    def __init__(self, wavefunction: Wavefunction, target: Target, sampler: SamplerConfig) -> None:
        self.wavefunction, self.target, self.config = wavefunction, target, sampler
        self.own = sampler.build(wavefunction)

    def sample(self, generator: torch.Generator) -> Samples:
        return draw(self.wavefunction, self.target, self.own, self.config, generator)

    def state_dict(self) -> dict[str, Tensor]:
        return self.own.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.own.load_state_dict(state)


class FitOptimiser:
    """An optimiser as these objectives need it: they have no stiff diagonal, and local values of the reverse divergence
    are logarithms already."""

    def __init__(self, config: OptimiserConfig, exact: bool, kind: FitObjective) -> None:
        self.config, self.exact, self.kind = config, exact, kind

    def objective(self, hamiltonian: Hamiltonian) -> Objective:
        return self.config.objective(hamiltonian)

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> Optimiser:
        if not isinstance(self.config, StochasticReconfiguration):
            return self.config.build(wavefunction, objective)
        config = completed(self.config, exact=self.exact)
        assert isinstance(config, StochasticReconfiguration)
        return NaturalGradient(config, wavefunction, implicit=False, logarithmic=self.kind != "reverse")


def default_optimiser(objective: FitObjective, *, exact: bool) -> StochasticReconfiguration:
    """Natural gradient in which a step of rate 1/2 would reach the target, if the model could follow.

    Args:
        exact: without sampling noise.
    """
    return StochasticReconfiguration(
        learning_rate=1.0 if objective == "infidelity" else 0.5,
        final_learning_rate=None if exact else 0.05,
        max_step=0.3,
    )


class Comparison(NamedTuple):
    """Of a wavefunction with its target, on samples.

    Attributes:
        loss: value of the objective.
        local: f(n) in the place of local energies, their mean is the loss.
        diagonal: the part of f(n) that belongs to n itself, in the place of diagonal elements.
    """

    loss: float
    fidelity: float
    forward: float
    reverse: float
    local: Complex128[Tensor, " U"]
    diagonal: Float64[Tensor, " U"]


def compare(samples: Samples, phi: LogPsi, objective: FitObjective, phase_weight: float = PHASE_WEIGHT) -> Comparison:
    """Objective, its local values, and how close both states are.

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
    turn = torch.polar(torch.ones_like(w), samples.phase - phi.phase)  # exp(i delta)
    r = ratio.sqrt() * turn.conj()  # phi / psi, normalised to <|r|^2> = 1
    mean = (w * r).sum()
    fidelity = mean.abs().square().item()
    if objective == "infidelity":
        loss = 1 - fidelity
        return Comparison(loss, fidelity, forward.item(), reverse.item(), 1 - r * mean.conj(), 1 - v)
    z = ((v if objective == "forward" else w) * turn).sum()
    aligned = z.conj() * turn
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
    local = local - w @ local.real + loss
    # df / d log|psi| = 2 for the reverse divergence, and for the forward one close to the target.
    return Comparison(loss, fidelity, forward.item(), reverse.item(), local, torch.full_like(w, loss + 2))


@torch.no_grad()
def draw(
    wavefunction: Wavefunction, target: Target, sampler: Sampler, config: SamplerConfig, generator: torch.Generator
) -> Samples:
    """Samples of the wavefunction and, where possible, as many of the target, weighted with p."""
    own = sampler.sample(generator)
    theirs = None if own.is_exhaustive else _sampled(wavefunction, target, config, own, generator)
    if theirs is None:
        return own
    n = torch.cat([own.configurations, theirs.configurations])
    first, classes = distinct(wavefunction.hilbert, n)
    n = n[first]
    share = torch.zeros(len(first), dtype=torch.float64, device=n.device)
    share.index_add_(0, classes, torch.cat([own.weights, theirs.weights]) / 2)
    psi = log_psi_in_chunks(wavefunction, n)
    phi = target_log_psi(target, n, wavefunction)
    mixture = torch.logaddexp(2 * psi.log_modulus, 2 * phi.log_modulus) - math.log(2)
    weights = share * (2 * psi.log_modulus - mixture).exp()
    return Samples(configurations=n, weights=weights / weights.sum(), log_modulus=psi.log_modulus, phase=psi.phase)


def _sampled(
    wavefunction: Wavefunction, target: Target, sampler: SamplerConfig, own: Samples, generator: torch.Generator
) -> Samples | None:
    """Samples of the target among the configurations that samples of the wavefunction have; None if it has none."""
    symmetry = _symmetry_of(wavefunction)
    if isinstance(target, VectorTarget) and symmetry is None:
        return target.sample(own.n_samples, generator)
    if not isinstance(target, Wavefunction) or symmetry not in (None, _symmetry_of(target)):
        return None
    samples = sampler.build(target).sample(generator)
    if isinstance(target, Wavefunction) and symmetry is None:
        return target.to_sector_samples(samples, generator)
    return samples


@torch.no_grad()
def target_log_psi(target: Target, n: UInt8[Tensor, "B L"], wavefunction: Wavefunction) -> LogPsi:
    """The target, projected on the symmetry sector of the wavefunction: 1/G sum_g c_g(n)* phi(g n)."""
    symmetry = _symmetry_of(wavefunction)
    if symmetry is None or symmetry == _symmetry_of(target):
        return _evaluated(target, n)
    G, element = symmetry.order, torch.arange(symmetry.order, device=n.device)
    log_modulus, phase = _evaluated(target, symmetry.images(n).flatten(0, 1))
    turn = symmetry.phases(n.repeat_interleave(G, 0), element.repeat(len(n)), wavefunction.hilbert)
    largest = log_modulus.max()
    if largest == -math.inf:
        return LogPsi(log_modulus.view(-1, G)[:, 0], phase.view(-1, G)[:, 0])
    terms = torch.polar((log_modulus - largest).exp(), phase - turn).view(-1, G)
    mean = terms.mean(1)
    projected = _log_psi(torch.where(mean.abs() > VANISHING * terms.abs().amax(1), mean, 0))
    return LogPsi(projected.log_modulus + largest, projected.phase)


def _evaluated(target: Target, n: UInt8[Tensor, "B L"]) -> LogPsi:
    return log_psi_in_chunks(target, n) if isinstance(target, Wavefunction) else target.log_psi(n)


def _symmetry_of(state: object) -> Symmetry | None:
    if isinstance(state, MeanField):
        state = state.determinant
    return getattr(state, "symmetry", None)


def _check(wavefunction: Wavefunction, target: Target, objective: str, steps: int, phase_weight: float) -> None:
    if target.hilbert != wavefunction.hilbert:
        raise ValueError(
            f"the wavefunction lives on {wavefunction.hilbert}, the target on {target.hilbert}: build both on the same "
            "sector; nqs.transfer brings parameters from one lattice to another."
        )
    if objective not in OBJECTIVES:
        raise ValueError(f"objective={objective!r}: choose 'forward', 'reverse' or 'infidelity'.")
    if steps < 0:
        raise ValueError(f"steps={steps}: it must be 0 (compare only) or more.")
    if phase_weight < 0:
        raise ValueError(f"phase_weight={phase_weight}: it must be 0 (phases are free) or more.")
