"""Fitting a wavefunction to a target state by the divergences of nqs.pretraining.divergences."""

# Shapes: B configurations, U distinct samples, L sites, d local states, G group elements.
import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_by_all_ranks
from nqs.optimisation.stochastic_reconfiguration import NaturalGradient, StochasticReconfiguration
from nqs.pretraining.divergences import OBJECTIVES, PHASE_WEIGHT, Divergence, FitObjective
from nqs.pretraining.targets import Target, VectorTarget, symmetry_of, target_log_psi
from nqs.protocols import (
    Hamiltonian,
    Objective,
    Optimiser,
    OptimiserConfig,
    SamplerConfig,
    Wavefunction,
)
from nqs.recipes.optimiser import fit_optimiser
from nqs.recipes.samplers import is_exhaustive, training_sampler
from nqs.runtime.progress import Progress
from nqs.samples import LocalEnergies, Samples, distinct
from nqs.vmc.guard import Guard, NonFiniteError
from nqs.vmc.steps import RunningStage, make_step


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """Result of a fit.

    Attributes:
        fidelity: |<phi|psi>|^2 at the end, exact if the sector was summed, else from the last samples.
        forward: sum q log(q / p) at the end.
        reverse: sum p log(p / q) at the end; infinite if the target vanishes on a sample.
        steps: number of updates.
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
    steps: int,
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
        objective: "forward", "reverse" or "infidelity", see nqs.pretraining.divergences.
        steps: largest number of updates.
        fidelity: stop at this fidelity.
        sampler: of both states; by default chosen from the dimension.
        optimiser: natural gradient by default.
        phase_weight: lambda.
        generator: random numbers, on the device of the wavefunction.
        progress: show a progress bar, or lines where there is no terminal.

    Raises:
        ValueError: another sector, an unknown objective, a target without weight in the symmetry sector, or an infinite
            reverse divergence because the target vanishes on configurations of the wavefunction.
        NonFiniteError: an energy or a parameter is not finite.

    >>> from nqs import exact
    >>> from nqs.hamiltonians import Heisenberg
    >>> from nqs.lattice import chain
    >>> from nqs.models import Transformer
    >>> hamiltonian = Heisenberg(chain(4), total_sz=0)
    >>> target = VectorTarget(hamiltonian.hilbert, exact.ground_state(hamiltonian).state)
    >>> model = Transformer(hamiltonian.hilbert, width=8, layers=1, heads=2, mlp_ratio=2)
    >>> fit(model, target, steps=50, progress=False).fidelity > 0.9999
    True
    """
    _check(wavefunction, target, objective, steps, phase_weight)
    device = next(wavefunction.parameters()).device
    sampler = sampler or training_sampler(wavefunction, device)
    optimiser = optimiser or fit_optimiser(objective, exact=is_exhaustive(sampler))
    aim = Divergence(target, objective, phase_weight)
    running = RunningStage(
        wavefunction,
        Mixture(wavefunction, target, sampler),
        aim,
        FitOptimiser(optimiser, objective),
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


class Mixture:
    """Sampler of the wavefunction and, where possible, to equal parts of the target; weighted with p."""

    def __init__(self, wavefunction: Wavefunction, target: Target, sampler: SamplerConfig) -> None:
        self.wavefunction, self.target, self.config = wavefunction, target, sampler
        self.own = sampler.build(wavefunction)

    @torch.no_grad()
    def sample(self, generator: torch.Generator) -> Samples:
        wavefunction, target = self.wavefunction, self.target
        own = self.own.sample(generator)
        theirs = None if own.is_exhaustive else self._of_target(own.n_samples, generator)
        if theirs is None:
            return own
        n = torch.cat([own.configurations, theirs.configurations])
        first, classes = distinct(wavefunction.hilbert, n)
        n = n[first]
        fraction = torch.zeros(len(first), dtype=torch.float64, device=n.device)
        fraction.index_add_(0, classes, torch.cat([own.weights, theirs.weights]) / 2)
        psi = log_psi_by_all_ranks(wavefunction, n)
        phi = target_log_psi(target, n, wavefunction)
        mixture = torch.logaddexp(2 * psi.log_modulus, 2 * phi.log_modulus) - math.log(2)
        weights = fraction * (2 * psi.log_modulus - mixture).exp()
        return Samples(configurations=n, weights=weights / weights.sum(), log_modulus=psi.log_modulus, phase=psi.phase)

    def _of_target(self, n_samples: int, generator: torch.Generator) -> Samples | None:
        """Samples of the target as configurations that the wavefunction is sampled on; None if it cannot be sampled."""
        symmetry = symmetry_of(self.wavefunction)
        if isinstance(self.target, VectorTarget) and symmetry is None:
            return self.target.sample(n_samples, generator)
        if not isinstance(self.target, Wavefunction) or symmetry not in (None, symmetry_of(self.target)):
            return None
        samples = self.config.build(self.target).sample(generator)
        return self.target.to_sector_samples(samples, generator) if symmetry is None else samples

    def state_dict(self) -> dict[str, Tensor]:
        return self.own.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.own.load_state_dict(state)


class FitOptimiser:
    """Natural gradient adapted to divergences: no implicit diagonal, and no logarithmic target for the reverse one,
    whose local values are logarithms already. Other optimisers are used as they are."""

    def __init__(self, config: OptimiserConfig, kind: FitObjective) -> None:
        self.config, self.kind = config, kind

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> Objective:
        return self.config.objective(hamiltonian, energy_scale, check=check)

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> Optimiser:
        if not isinstance(self.config, StochasticReconfiguration):
            return self.config.build(wavefunction, objective)
        return NaturalGradient(self.config, wavefunction, implicit=False, logarithmic=self.kind != "reverse")


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
