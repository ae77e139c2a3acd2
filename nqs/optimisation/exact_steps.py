"""Natural-gradient steps along exact imaginary time, for exhaustive sums over the sector.

The matrix of H on all configurations, or all orbits of a symmetry, is known (nqs.exact.sector_matrix) and replaces the
diagonal approximation of nqs.optimisation.stochastic_reconfiguration: the target is the change of log psi by
exp(-tau (H - E)) itself (nqs.optimisation.imaginary_time); the rows of X keep the weights 1 + tau D of the implicit
diagonal. Steps are as long as imaginary time, and a time of 1 is stable for spectra of any width. Exact
diagonalisation needs the same matrix: such steps show how well the network can represent the state, and the accuracy
of a run without sampling noise.

Adaptive shift. Without sampling noise the shift only has to limit steps to the range of the linearisation. The gain
ratio is the actual over the predicted approach of log psi to its target: if it exceeds GOOD the next shift is reduced,
if it is below POOR it is raised, up to the schedule (Levenberg-Marquardt; Nocedal and Wright, Numerical
Optimization, section 10.3). Convergence is then geometric down to machine precision.
"""

# Shapes: N configurations or orbits.
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Num
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs.exact.sector_matrix import SectorMatrix
from nqs.optimisation.imaginary_time import Matrix, evolved
from nqs.optimisation.jacobian import n_parts
from nqs.optimisation.kernel import Precision
from nqs.optimisation.schedules import geometric
from nqs.optimisation.solve import linear_system
from nqs.optimisation.solver import Solver
from nqs.optimisation.split_rows import jacobian_of_all_ranks
from nqs.optimisation.stochastic_reconfiguration import StochasticReconfiguration
from nqs.optimisation.targets import SMALLEST, bounded, energy_limit, gain_ratio, log_of_one_plus, residual
from nqs.protocols import Hamiltonian, Objective, StepInfo, Wavefunction
from nqs.runtime.distributed import communicator
from nqs.runtime.options import check_fields
from nqs.samples import LocalEnergies, Samples

# After a rejected step the shift is multiplied by EXACT_BACKOFF, a factor that decays by EXACT_RECOVERY per step: both
# milder than for sampled steps, because a rejected step without noise costs little, and gone after four steps.
EXACT_BACKOFF, EXACT_RECOVERY = 10.0, 2.0
# A step with a gain ratio above GOOD lowers the next shift by RELAX; one below POOR raises it by TIGHTEN. Close to the
# usual numbers of trust regions (Nocedal and Wright, algorithm 4.1: above 3/4, below 1/4, factors 2 and 4).
GOOD, RELAX, POOR, TIGHTEN = 0.5, 4.0, 0.25, 3.0
LOWEST_SHIFT = 1e-13
REAL = 1e-14  # sine of a phase that counts as 0 or pi


@dataclass(frozen=True, kw_only=True)
class ExactSteps:
    """Steps of imaginary time with H between all configurations or orbits of an exhaustive sum.

    `nqs.recipes.optimiser(exact=True)` gives them with the recommended numbers and the measurements that chose these;
    `VMC` takes them where it sums over the whole sector and is given no optimiser, or `nqs.recipes.OptimiserOptions`.

    Attributes:
        time: imaginary time tau of a step, in inverse units of the energy scale (nqs.estimators.energy_scale).
        diagonal_shift: of the linear system at the start, in units of the mean eigenvalue of the metric.
        final_diagonal_shift: at the end of the schedule, reached geometrically; the adaptive shift goes below it.
        max_step: trust region: the step is shortened to this length of the change of the normalised state.
        precision: of the products X X^T and X^T X. Shifts below 1e-5 need "float64".
        memory: GiB for the rows of X and the tensors they are computed from; X is streamed where it does not fit. None:
            2 on a CPU, 60 % of what the matrix leaves free on a GPU. The matrix and its factor come on top.
        dense_rows, solver_tolerance, solver_iterations: as in `StochasticReconfiguration`. Conjugate gradients converge
            slowly at the small shifts of exact steps.
    """

    time: float
    diagonal_shift: float
    final_diagonal_shift: float
    max_step: float
    precision: Precision = "float64"
    memory: float | None = None
    dense_rows: int = field(default=Solver.dense_rows, metadata={"stored_if_default": False})
    solver_tolerance: float = field(default=Solver.tolerance, metadata={"stored_if_default": False})
    solver_iterations: int = field(default=Solver.iterations, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        shifts = ("diagonal_shift", "final_diagonal_shift")
        least = {"dense_rows": 0, "solver_iterations": 1}
        check_fields(self, positive=("time", *shifts, "max_step", "memory", "solver_tolerance"), at_least=least)

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> "SectorEnergy":
        return SectorEnergy(hamiltonian, energy_scale, check=check)

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> "ImaginaryTime":
        """
        Raises:
            ValueError: an objective without the matrix of a sector.
        """
        if not isinstance(objective, SectorObjective):
            raise ValueError(
                "ExactSteps need the matrix of the Hamiltonian on its sector: steps.build(psi, "
                f"steps.objective(hamiltonian)); found the objective {objective!r}."
            )
        return ImaginaryTime(self, wavefunction, objective)

    @property
    def without_matrix(self) -> StochasticReconfiguration:
        """Stochastic reconfiguration with the same options, for objectives other than the energy."""
        return StochasticReconfiguration(
            learning_rate=self.time,
            final_learning_rate=self.time,
            diagonal_shift=self.diagonal_shift,
            final_diagonal_shift=self.final_diagonal_shift,
            momentum=0.0,
            max_step=self.max_step,
            precision=self.precision,
            memory=self.memory,
            dense_rows=self.dense_rows,
            solver_tolerance=self.solver_tolerance,
            solver_iterations=self.solver_iterations,
        )

    @property
    def solver(self) -> Solver:
        return self.without_matrix.solver


@runtime_checkable
class SectorObjective(Objective, Protocol):
    """An energy whose matrix on the whole sector is known."""

    def matrix(self, wavefunction: Wavefunction, samples: Samples) -> Matrix: ...


class SectorEnergy:
    """Local energies of exhaustive sums by one product with the matrix of the sector, which is built once.

    Args:
        energy_scale: unit of energies in steps, see nqs.estimators.energy_scale.
        check: False for a Hamiltonian that `check_hamiltonian` has accepted before.
    """

    def __init__(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> None:
        self.hamiltonian = hamiltonian
        self.energy_scale = energy_scale
        self.check = check
        self._matrix: SectorMatrix | None = None

    def matrix(self, wavefunction: Wavefunction, samples: Samples) -> SectorMatrix:
        """Matrix on the sector or orbits of the samples.

        Raises:
            ValueError: the samples are not all of them, or `check_hamiltonian` refuses the Hamiltonian.
        """
        symmetry = wavefunction.symmetry
        device = samples.configurations.device
        if self._matrix is None or (self._matrix.symmetry, self._matrix.device) != (symmetry, device):
            self._matrix = SectorMatrix.of(self.hamiltonian, symmetry, device=device, check=self.check)
        if len(self._matrix) != samples.n_distinct:
            raise ValueError(
                f"ExactSteps sum over the whole sector of {len(self._matrix):,} terms; the sampler gave "
                f"{samples.n_distinct:,}: use ExhaustiveSampler, or StochasticReconfiguration for samples."
            )
        return self._matrix

    @torch.no_grad()
    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        """E_loc = (H x)_n / x_n; <n|H|n> where the probability underflows to zero."""
        matrix = self.matrix(wavefunction, samples)
        x = normalised_amplitudes(samples)
        values = torch.where(samples.weights > 0, matrix.apply(x) / x, matrix.diagonal).to(torch.complex128)
        communicator().from_first(values)
        return LocalEnergies(values=values, diagonal=matrix.diagonal, n_connected=matrix.n_connected)


def normalised_amplitudes(samples: Samples) -> Num[Tensor, " N"]:
    """sqrt(w) exp(i phase) of an exhaustive sum, real if all phases are 0 or pi."""
    root = samples.weights.sqrt()
    if torch.sin(samples.phase).abs().max() < REAL:
        return root * torch.cos(samples.phase).round()
    return torch.polar(root, samples.phase)


class ImaginaryTime:
    """Exact steps of one wavefunction."""

    def __init__(self, config: ExactSteps, wavefunction: Wavefunction, objective: SectorObjective) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.objective = objective
        self.parameters = [p for p in wavefunction.parameters() if p.requires_grad]
        self.n_parameters = sum(p.numel() for p in self.parameters)
        self.backoff = 1.0  # factor on the shift after rejected steps
        self.shift = max(config.diagonal_shift, config.final_diagonal_shift)

    @torch.no_grad()
    def step(self, samples: Samples, local: LocalEnergies, progress: float) -> StepInfo:
        config, diagonal, w = self.config, local.diagonal, samples.weights
        matrix = self.objective.matrix(self.wavefunction, samples)
        energy = samples.mean(local.values.real)
        deviation = local.values - energy
        # The schedule bounds the adaptive shift from above where there are enough parameters for every amplitude; with
        # fewer the linearisation needs larger shifts.
        shift = self.shift
        if self.n_parameters >= len(diagonal) * n_parts(self.wavefunction):
            shift = min(shift, geometric(config.diagonal_shift, config.final_diagonal_shift, progress))
        shift *= self.backoff
        self.backoff = max(1.0, self.backoff / EXACT_RECOVERY)
        row_factor = 1 + config.time * (diagonal - energy).clamp(min=0)
        memory = None if config.memory is None else int(config.memory * 2**30)
        of_rows = (w * row_factor).sqrt()
        X = jacobian_of_all_ranks(self.wavefunction, samples, of_rows, memory, config.precision, solver=config.solver)
        stiffness = row_factor.sqrt().repeat(X.shape[0] // len(row_factor))
        system = linear_system(X, solver=config.solver)
        gradient = residual(w, deviation, X.shape[0]) / stiffness
        gradient_norm = 2 * system.transposed_norm(gradient)
        x = normalised_amplitudes(samples)
        scale = self.objective.energy_scale
        time, evolution = evolved(x, matrix, config.time / scale, config.max_step)
        ranks = communicator()
        (time,) = ranks.numbers(time)
        ranks.from_first(evolution)
        time *= scale
        ratio = evolution * torch.polar(torch.ones_like(w), -samples.phase) / w.sqrt().clamp(min=SMALLEST)
        change = log_of_one_plus(ratio)
        change -= samples.mean(change)
        wanted = residual(w, row_factor * change, X.shape[0]) / stiffness
        solution = system.solve(-wanted / time, shift)
        update = solution.update
        linear = X.matvec(update)
        time, norm = bounded(time, linear / stiffness, samples, config.max_step)
        flat = parameters_to_vector(self.parameters)
        vector_to_parameters(flat - time * update.to(flat.dtype), self.parameters)
        gain = gain_ratio(self.wavefunction, samples, wanted, -time * linear, stiffness)
        factor = 1 / RELAX if gain > GOOD else TIGHTEN if gain < POOR else 1.0
        self.shift = max(LOWEST_SHIFT, factor * shift)
        limit = energy_limit(samples, local, energy, norm)
        return StepInfo(time, norm, gradient_norm, limit, solution.iterations, solution.residual, solution.converged)

    def reject(self) -> None:
        self.backoff *= EXACT_BACKOFF

    def state_dict(self) -> dict[str, Tensor]:
        return {"trust": torch.tensor([self.backoff, self.shift], dtype=torch.float64)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        if "trust" in state:
            self.backoff, self.shift = state["trust"].tolist()
        elif "guard" in state:  # of 0.1: limit of the energy, factor on the shift, shift, lowest energy
            numbers = state["guard"].tolist()
            self.backoff = numbers[1]
            self.shift = numbers[2] if len(numbers) > 2 else self.shift
