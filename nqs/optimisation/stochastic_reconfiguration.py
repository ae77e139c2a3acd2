"""Stochastic reconfiguration (minSR, SPRING) with a trust region, from samples and their local energies.

With O = d log psi / d theta, weights w of the distinct samples, centred and weighted rows
    X = [ sqrt(w) (Re O - <Re O>) ; sqrt(w) (Im O - <Im O>) ],   (2 U, P)
    e = [ sqrt(w) Re(E_loc - E)   ; sqrt(w) Im(E_loc - E)   ],   (2 U,)
the energy gradient is 2 X^T e and the metric (real part of the quantum geometric tensor) is X^T X. Stochastic
reconfiguration (Sorella, Phys. Rev. B 64, 024512 (2001)) follows imaginary time, d psi / d tau = -(H - E) psi,
projected on the tangent space: theta -= eta delta with

    (X^T X + s) delta = X^T e           in parameter space, P x P, or equivalently
    delta = X^T (X X^T + s)^-1 e        in sample space, 2 U x 2 U

(minSR: Chen and Heyl, Nat. Phys. 20, 1476 (2024), arXiv:2302.01941; Rende et al., Commun. Phys. 7, 260 (2024),
arXiv:2310.05715), whichever matrix is smaller. Beyond `dense_rows` rows no matrix is stored, and the system is solved
by conjugate gradients (nqs.optimisation.conjugate_gradient).

Implicit diagonal. That explicit Euler step is stiff: it amplifies the error on configurations with
eta (H_nn - E) > 2. Taking the diagonal of H at the end of the step instead,

    X^T (1 + eta D) X delta = X^T e,    D_n = max(H_nn - E, 0),

is the Rayleigh-Gauss-Newton step (Webber and Lindsey, Phys. Rev. Research 4, 033099 (2022), arXiv:2106.10558) with H
replaced by its diagonal. It only scales rows, at no cost: X -> (1 + eta D)^(1/2) X, e -> (1 + eta D)^(-1/2) e.

Logarithmic target. Such a step multiplies amplitudes, psi(n) -> psi(n) (1 - r), r = eta (E_loc - E) / (1 + eta D), but
its first-order change of log psi is -r: amplitudes that are far too small grow exponentially, and a wrong sign never
flips, because the amplitude only shrinks towards zero. The intended change is log(1 - r), which grows logarithmically
for r < 0 and shifts the phase by pi for r > 1. The residual becomes e = -sqrt(w) (1 + eta D) / eta log(1 - r), its
modulus part bounded; to first order in eta nothing changes. Regression on the logarithm of a propagated state: Kochkov
and Clark, arXiv:1811.12423.

Momentum follows SPRING (Goldshlager, Abrahamsen, Lin, arXiv:2401.10190): the part of the previous update delta' that
the present samples do not determine is kept,

    delta = mu delta' + X^T (X X^T + s)^-1 (e - mu X delta').

Second moments follow MARCH (Gu et al., arXiv:2507.02644, eqs. S17 to S23): parameters whose updates change much from
step to step are damped more. With v = beta v' + (delta - delta')^2, elementwise, the next update minimises

    |X delta - e|^2 + s |v^(1/4) (delta - mu delta')|^2,
    delta = mu delta' + v^(-1/2) X^T (X v^(-1/2) X^T + s)^-1 (e - mu X delta'),

the step of SPRING for the parameters v^(1/4) theta. As above s is in units of the mean eigenvalue of the matrix that it
is added to, which the paper's is not: a common factor of v drops out, and with it the normalisation of this average.
v starts at 0, where it is taken as 1, and is nowhere taken below FLOOR of its mean (constants of this package).
"""

# Shapes: U distinct samples, P parameters, R rows of X.
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs.estimators.local_energy import Energy
from nqs.optimisation.kernel import Precision
from nqs.optimisation.schedules import cosine, geometric
from nqs.optimisation.solve import Space, linear_system
from nqs.optimisation.solver import Solver
from nqs.optimisation.split_rows import jacobian_of_all_ranks
from nqs.optimisation.targets import bounded, energy_limit, log_of_one_plus, residual
from nqs.protocols import Hamiltonian, Objective, StepInfo, Wavefunction
from nqs.runtime.options import check_fields
from nqs.samples import LocalEnergies, Samples

# After a rejected step the shift is multiplied by SHIFT_BACKOFF, a factor that decays by SHIFT_RECOVERY per step: by as
# much as the shift falls over a run, and for 26 steps.
SHIFT_BACKOFF, SHIFT_RECOVERY = 100.0, 1.2
FLOOR = 1e-8  # smallest second moment, in units of their mean: a parameter may hardly move


@dataclass(frozen=True, kw_only=True)
class StochasticReconfiguration:
    """Natural gradient with a bounded step.

    `nqs.recipes.optimiser(exact=False)` gives one with the recommended numbers and the measurements that chose them;
    `VMC` takes those for its wavefunction where it is given no optimiser, or `nqs.recipes.OptimiserOptions(...)`.

    Attributes:
        learning_rate: initial imaginary-time step eta, in inverse units of the energy scale
            (nqs.estimators.energy_scale).
        final_learning_rate: eta at the end, reached along a cosine; small because of sampling noise.
        diagonal_shift: initial shift s, in units of the mean eigenvalue of the metric on the samples' span.
        final_diagonal_shift: s at the end, reached geometrically; large enough for sampling noise.
        momentum: mu of SPRING, which keeps what the samples of a step do not determine; 0 for plain stochastic
            reconfiguration.
        second_moments: beta of MARCH, the decay of the second moments of changes of the update, below 1 and typically
            0.995; 0 for SPRING.
        max_step: trust region: upper bound of the change of the normalised state in one step.
        precision: of the products X X^T and X^T X, which take most of the time of large steps. "float32" is for shifts
            of 1e-5 and more; "tf32" is float32 with factors rounded to 10 bits on GPUs that support it, for shifts of
            1e-3 and more (docs/speed.md): `scripts/benchmark.py --rounding` measures its effect on a step.
        memory: GiB for the rows of X and the tensors they are computed from; X is streamed where it does not fit. None:
            2 on a CPU, 60 % of what the matrix leaves free on a GPU. The matrix and its factor come on top.
        dense_rows: largest matrix that is stored and factorised, of 8 n^2 bytes and two copies; larger systems are
            solved by conjugate gradients.
        solver_tolerance: of conjugate gradients: residual relative to the right-hand side. Products in lower precision
            round the matrix itself, as they round a stored one.
        solver_iterations: of conjugate gradients, at most; the column `cg_unconverged` of the history, `nqs show` and
            reports tell the steps where these were not enough. Each keeps a residual of 8 n bytes.

    Raises:
        ValueError: a value out of range.
    """

    learning_rate: float
    final_learning_rate: float
    diagonal_shift: float
    final_diagonal_shift: float
    momentum: float = 0.0
    second_moments: float = field(default=0.0, metadata={"stored_if_default": False})
    max_step: float
    precision: Precision = "float64"
    memory: float | None = None
    dense_rows: int = field(default=Solver.dense_rows, metadata={"stored_if_default": False})
    solver_tolerance: float = field(default=Solver.tolerance, metadata={"stored_if_default": False})
    solver_iterations: int = field(default=Solver.iterations, metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        rates = ("learning_rate", "final_learning_rate", "diagonal_shift", "final_diagonal_shift")
        least = {"dense_rows": 0, "solver_iterations": 1}
        check_fields(self, positive=(*rates, "max_step", "memory", "solver_tolerance"), at_least=least)
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: it must be at least 0 and below 1.")
        if not 0 <= self.second_moments < 1:
            raise ValueError(f"second_moments={self.second_moments}: it must be at least 0 (without) and below 1.")

    @property
    def solver(self) -> Solver:
        return Solver(dense_rows=self.dense_rows, tolerance=self.solver_tolerance, iterations=self.solver_iterations)

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> Energy:
        return Energy(hamiltonian, energy_scale)

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> "NaturalGradient":
        return NaturalGradient(self, wavefunction)


class NaturalGradient:
    """Stochastic reconfiguration of one wavefunction.

    Args:
        implicit: treat the diagonal of H implicitly; False for objectives without a stiff diagonal.
        logarithmic: follow the logarithm of the propagated amplitudes. None: if there are at least as many
            parameters as rows of X; fewer cannot represent large changes of single amplitudes.
        space: of the linear system, see nqs.optimisation.solve.
    """

    def __init__(
        self,
        config: StochasticReconfiguration,
        wavefunction: Wavefunction,
        *,
        implicit: bool = True,
        logarithmic: bool | None = None,
        space: Space = "auto",
    ) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.implicit, self.logarithmic, self.space = implicit, logarithmic, space
        self.parameters = [p for p in wavefunction.parameters() if p.requires_grad]
        self.update = torch.zeros_like(parameters_to_vector(self.parameters), dtype=torch.float64)
        self.moments = torch.zeros_like(self.update) if config.second_moments else None  # v
        self.backoff = 1.0  # factor on the shift after rejected steps

    @property
    def columns(self) -> Float64[Tensor, " P"] | None:
        """v^(-1/4); None for 1."""
        if self.moments is None or not (mean := self.moments.mean().item()):
            return None
        return self.moments.clamp(min=FLOOR * mean).pow(-0.25)

    @torch.no_grad()
    def step(self, samples: Samples, local: LocalEnergies, progress: float) -> StepInfo:
        config = self.config
        rate = cosine(config.learning_rate, config.final_learning_rate, progress)
        shift = geometric(config.diagonal_shift, config.final_diagonal_shift, progress)
        energy = samples.mean(local.values.real)
        deviation = local.values - energy
        shift, self.backoff = shift * self.backoff, max(1.0, self.backoff / SHIFT_RECOVERY)
        row_factor = torch.ones_like(local.diagonal)  # 1 + eta D
        if self.implicit:
            row_factor += rate * (local.diagonal - energy).clamp(min=0)
        memory = None if config.memory is None else int(config.memory * 2**30)
        factor, columns = (samples.weights * row_factor).sqrt(), self.columns
        X = jacobian_of_all_ranks(self.wavefunction, samples, factor, memory, config.precision, columns, config.solver)
        scale = 1.0 if columns is None else columns
        stiffness = row_factor.sqrt().repeat(X.shape[0] // len(row_factor))
        system = linear_system(X, self.space, config.solver)
        gradient = residual(samples.weights, deviation, X.shape[0]) / stiffness
        if columns is None:  # else the columns of X carry a factor that the gradient has not
            gradient_norm = 2 * system.transposed_norm(gradient)
        else:
            gradient_norm = 2 * (X.rmatvec(gradient) / columns).norm().item()
        change = -rate * deviation / row_factor
        if X.shape[0] <= X.shape[1] if self.logarithmic is None else self.logarithmic:
            change = log_of_one_plus(change)
        wanted = residual(samples.weights, row_factor * change, X.shape[0]) / stiffness
        previous = config.momentum * self.update / scale
        unseen = -wanted / rate - X.matvec(previous) if config.momentum else -wanted / rate
        solution = system.solve(unseen, shift)
        scaled = previous + solution.update
        rate, norm = bounded(rate, X.matvec(scaled) / stiffness, samples, config.max_step)
        update = scale * scaled
        if self.moments is not None:
            self.moments = config.second_moments * self.moments + (update - self.update).square()
        self.update = update
        flat = parameters_to_vector(self.parameters)
        vector_to_parameters(flat - rate * self.update.to(flat.dtype), self.parameters)
        limit = energy_limit(samples, local, energy, norm)
        return StepInfo(rate, norm, gradient_norm, limit, solution.iterations, solution.residual, solution.converged)

    def reject(self) -> None:
        self.backoff *= SHIFT_BACKOFF
        self.update.zero_()
        # One update that is not finite would stay in the average for ever.
        if self.moments is not None and not bool(self.moments.isfinite().all()):
            self.moments.zero_()

    def state_dict(self) -> dict[str, Tensor]:
        state = {"update": self.update, "trust": torch.tensor([self.backoff], dtype=torch.float64)}
        return state if self.moments is None else state | {"second_moments": self.moments}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.update = state["update"].to(self.update.device)
        if self.moments is not None and "second_moments" in state:
            self.moments = state["second_moments"].to(self.update.device)
        if "trust" in state:
            (self.backoff,) = state["trust"].tolist()
        elif "guard" in state:  # of 0.1: the limit of the energy, the factor on the shift, and numbers of exact steps
            self.backoff = state["guard"].tolist()[1]
