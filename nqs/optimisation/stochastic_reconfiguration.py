"""Updates of the parameters from samples and their local energies: natural gradient and torch optimisers.

With O = d log psi / d theta, weights w of the distinct samples, centred and weighted rows
    X = [ sqrt(w) (Re O - <Re O>) ; sqrt(w) (Im O - <Im O>) ],   (2 U, P)
    e = [ sqrt(w) Re(E_loc - E)   ; sqrt(w) Im(E_loc - E)   ],   (2 U,)
the energy gradient is 2 X^T e and the metric (real part of the quantum geometric tensor) is X^T X. Stochastic
reconfiguration (Sorella, Phys. Rev. B 64, 024512 (2001)) follows imaginary time, d psi / d tau = -(H - E) psi,
projected on the tangent space: theta -= eta delta with

    (X^T X + s) delta = X^T e           in parameter space, P x P, or equivalently
    delta = X^T (X X^T + s)^-1 e        in sample space, 2 U x 2 U

(minSR: Chen and Heyl, Nat. Phys. 20, 1476 (2024), arXiv:2302.01941; Rende et al., Commun. Phys. 7, 260 (2024),
arXiv:2310.05715), whichever matrix is smaller.

Implicit diagonal. That explicit Euler step is stiff: it amplifies the error on configurations with
eta (H_nn - E) > 2. Taking the diagonal of H at the end of the step instead,

    X^T (1 + eta D) X delta = X^T e,    D_n = max(H_nn - E, 0),

is the Rayleigh-Gauss-Newton step (Webber and Lindsey, Phys. Rev. Research 4, 033099 (2022), arXiv:2106.10558) with H
replaced by its diagonal. It costs nothing, it only scales rows: X -> (1 + eta D)^(1/2) X, e -> (1 + eta D)^(-1/2) e.

Logarithmic target. Such a step multiplies amplitudes, psi(n) -> psi(n) (1 - r) with r = eta (E_loc - E) / (1 + eta D),
but its first-order change of log psi is -r: amplitudes that are far too small grow exponentially, and a wrong sign can
never turn, since the amplitude only shrinks towards zero with it. The change that is meant is log(1 - r), which grows
mildly for r < 0 and turns the phase by pi for r > 1. So the residual becomes e = sqrt(w) (1 + eta D) / eta times
-log(1 - r), its modulus part bounded; to first order in eta nothing changes. Regression on the logarithm of a
propagated state: Kochkov and Clark, arXiv:1811.12423.

Momentum follows SPRING (Goldshlager, Abrahamsen, Lin, arXiv:2401.10190): the part of the previous update delta' that
the present samples do not see is kept,

    delta = mu delta' + X^T (X X^T + s)^-1 (e - mu X delta').

Exact propagation. Where the samples are the whole sector, H between them is known and need not be replaced by its
diagonal: the target is the change of log psi by exp(-eta (H - E)) itself (nqs.optimisation.imaginary_time), the rows
keep the weights 1 + eta D of the implicit diagonal. A step then goes as far as imaginary time does, and a rate of 1 is
not too large for spectra of any width. A sum over the sector with H between its terms is what exact diagonalisation
has, too: such steps say how well the network can represent the state, and how far a run could get without sampling
noise.

Adaptive shift. Without sampling noise the shift has to guard only against steps that the linearisation does not
describe. The gain of a step is by how much it brought log psi nearer to its target, in units of what the linearisation
promised: where most came true the next shift is lower, where little did it is higher, up to its schedule, as in the
method of Levenberg and Marquardt (Nocedal and Wright, Numerical Optimization, section 10.3). Convergence then stays
geometric down to rounding.
"""

# Shapes: U distinct samples, P parameters, R rows of X.
import math
import sys
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Complex128, Float64
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.estimators.local_energy import Elements
from nqs.optimisation.contract import StepInfo, _check_positive
from nqs.optimisation.imaginary_time import evolved
from nqs.optimisation.jacobian import n_parts
from nqs.optimisation.kernel import Precision, centred_jacobian
from nqs.optimisation.schedules import cosine, geometric
from nqs.optimisation.solve import in_sample_space, solve, transposed_norm
from nqs.protocols import Wavefunction
from nqs.samples import Samples

MAX_LOG_CHANGE = 1.0  # of an amplitude in one step of the logarithmic target
# A step is refused where the energy rose above SLACK times what a step of its length can do, and NOISE standard errors;
# the next one is made with CAUTION times the shift, which falls back by RECOVERY a step.
SLACK, NOISE, CAUTION, RECOVERY = 3.0, 6.0, 100.0, 1.2
EXACT_CAUTION, EXACT_RECOVERY = 10.0, 2.0  # of exact sums, where a refused step costs little
STRICT = 0.8  # share of the steps after which exact sums go on from their lowest energy and may not rise above it
# A step with a gain above GOOD lowers the next shift by RELAX; one below POOR raises it by TIGHTEN.
GOOD, RELAX, POOR, TIGHTEN = 0.5, 4.0, 0.25, 3.0
ROUNDING = 1e-12  # share of an energy below which a rise means nothing
LOWEST_SHIFT = 1e-13
UNLIMITED = sys.float_info.max  # an energy above all; finite, as all numbers in archives
SMALLEST, LARGEST_EXPONENT = 1e-150, 300.0


@dataclass(frozen=True, kw_only=True)
class StochasticReconfiguration:
    """Natural gradient with a bounded step.

    Attributes:
        learning_rate: imaginary-time step eta at the start, in inverse units of the energy. None: 1 where steps follow
            exp(-eta (H - E)) itself (`propagated`), else 0.3; times the root of the number of images, which carry the
            noise of as many samples, where amplitudes are averages over a symmetry.
        final_learning_rate: eta at the end, reached along a cosine. None: that of the start where expectation values
            are exact, else 0.02, or a twentieth of it for averages.
        diagonal_shift: s at the start, in units of the mean eigenvalue of the metric on the samples' span.
        final_diagonal_shift: s at the end, reached geometrically. None: 1e-7 where expectation values are exact, else
            1e-5, or 1e-4 for averages.
        adaptive: lower the shift below its schedule as long as steps are linear, where expectation values are exact
            (and the diagonal implicit: explicit steps need the shift for stability).
        implicit: take the diagonal of H implicitly, which makes large steps stable.
        propagated: where expectation values are exact (and `implicit`), follow exp(-eta (H - E)) instead of a step with
            the diagonal; from matrix elements that exact local energies contain anyway.
        logarithmic: follow the logarithm of the propagated amplitudes, which lets wrong signs turn. None: where there
            are at least as many parameters as rows of X; fewer cannot follow large changes of single amplitudes.
        momentum: mu of SPRING, which keeps what the samples of a step do not determine; 0 for plain stochastic
            reconfiguration. None: 0.9 for sampled averages, else 0.
        max_step: trust region: the step is shortened to this length of the change of the normalised state. None: 0.15
            where expectation values are exact, else 0.1, or 0.2 for averages.
        space: "samples" (minSR) or "parameters"; "auto" takes the smaller matrix.
        precision: of the products X X^T and X^T X, which take most of the time of large steps. "float32" is for shifts
            of 1e-5 and more; "tf32" is float32 with factors rounded to 10 bits on GPUs that can, for shifts of 1e-3 and
            more (docs/profile.md): `scripts/benchmark.py --rounding` shows what it does to a step.
        memory: GiB of the rows of X and of what they are made from; where they do not fit they are streamed. None:
            2 on a CPU, 60 % of what the matrix leaves free on a GPU. The matrix and its factor come on top.
    """

    learning_rate: float | None = None
    final_learning_rate: float | None = None
    diagonal_shift: float = 1e-3
    final_diagonal_shift: float | None = None
    adaptive: bool = True
    implicit: bool = True
    propagated: bool = True
    logarithmic: bool | None = None
    momentum: float | None = None
    max_step: float | None = None
    space: Literal["auto", "samples", "parameters"] = "auto"
    precision: Precision = "float64"
    memory: float | None = None

    def __post_init__(self) -> None:
        optional = ("learning_rate", "final_learning_rate", "final_diagonal_shift", "max_step", "memory")
        given = [name for name in optional if getattr(self, name) is not None]
        _check_positive(self, "diagonal_shift", *given)
        if not 0 <= (self.momentum or 0) < 1:
            raise ValueError(f"momentum={self.momentum}: it must be at least 0 and below 1.")
        if self.space not in ("auto", "samples", "parameters"):
            raise ValueError(f"space={self.space!r}: choose 'auto', 'samples' or 'parameters'.")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision={self.precision!r}: choose 'float64', 'float32' or 'tf32'.")

    @property
    def propagates(self) -> bool:
        """Whether steps use the matrix elements of H between the samples, where these are the whole sector."""
        return self.implicit and self.propagated

    def completed(self, *, exact: bool, images: int = 1) -> "StochasticReconfiguration":
        """With numbers for what was None.

        Args:
            exact: expectation values have no sampling noise.
            images: over which amplitudes are averaged; they carry the noise of as many samples.
        """
        if exact:
            rate = self.learning_rate or (1.0 if self.propagates else 0.3)
            final_rate, final_shift, max_step, momentum = rate, 1e-7, 0.15, 0.0
        else:
            rate = self.learning_rate or 0.3 * math.sqrt(images)
            of_samples, of_averages = (0.02, 1e-5, 0.1, 0.0), (rate / 20, 1e-4, 0.2, 0.9)
            final_rate, final_shift, max_step, momentum = of_samples if images == 1 else of_averages
        return replace(
            self,
            learning_rate=rate,
            final_learning_rate=self.final_learning_rate or final_rate,
            final_diagonal_shift=self.final_diagonal_shift or final_shift,
            max_step=self.max_step or max_step,
            momentum=momentum if self.momentum is None else self.momentum,
        )

    def build(self, wavefunction: Wavefunction) -> "NaturalGradient":
        return NaturalGradient(self.completed(exact=False), wavefunction)


class NaturalGradient:
    """Stochastic reconfiguration of one wavefunction."""

    def __init__(self, config: StochasticReconfiguration, wavefunction: Wavefunction) -> None:
        self.config = config
        self.wavefunction = wavefunction
        self.parameters = [p for p in wavefunction.parameters() if p.requires_grad]
        self.update = torch.zeros_like(parameters_to_vector(self.parameters), dtype=torch.float64)
        self.before = self.update.clone()  # parameters before the last step
        self.lowest, self.best = UNLIMITED, self.update.clone()  # energy of an exact sum, and its parameters
        # What the energy may at most have become by the last step, the factor on the shift after refused steps, and the
        # adaptive shift.
        self.limit, self.backoff = UNLIMITED, 1.0
        self.shift = max(config.diagonal_shift, config.final_diagonal_shift or 0.0)

    @torch.no_grad()
    def step(
        self,
        samples: Samples,
        local_energies: Complex128[Tensor, " U"],
        diagonal: Float64[Tensor, " U"],
        progress: float,
        elements: Elements | None = None,
    ) -> StepInfo:
        config = self.config
        assert config.max_step is not None
        assert config.momentum is not None
        exact = not samples.error_weights.any()
        rate, shift = self._schedules(progress)
        energy = samples.weights @ local_energies.real
        deviation = local_energies - energy
        variance = samples.weights @ deviation.abs().square()
        uncertain = NOISE * (samples.error_weights @ deviation.abs().square()).sqrt() + ROUNDING * energy.abs()
        # What is minimised may change from step to step (annealing), but not where matrix elements are given.
        if elements is not None and energy < self.lowest:
            self.lowest, self.best = energy.item(), parameters_to_vector(self.parameters).double()
        strict = elements is not None and progress >= STRICT
        if energy > (self.lowest if strict else self.limit) + uncertain:
            self.backoff *= EXACT_CAUTION if exact else CAUTION
            self.update.zero_()
            kept = self.best if strict else self.before
            vector_to_parameters(kept.to(self.parameters[0].dtype), self.parameters)
            return StepInfo(learning_rate=0.0, update_norm=0.0, gradient_norm=0.0)
        # A network that cannot follow every amplitude needs whatever shift keeps its steps true.
        free = elements is not None and len(self.update) < len(diagonal) * n_parts(self.wavefunction)
        shift, self.backoff = (
            (self.shift if free else min(shift, self.shift)) * self.backoff,
            max(1.0, self.backoff / (EXACT_RECOVERY if exact else RECOVERY)),
        )
        damping = torch.ones_like(diagonal)
        if config.implicit:
            damping += rate * (diagonal - energy).clamp(min=0)
        memory = None if config.memory is None else int(config.memory * 2**30)
        X = centred_jacobian(self.wavefunction, samples, (samples.weights * damping).sqrt(), memory, config.precision)
        stiffness = damping.sqrt().repeat(X.shape[0] // len(damping))
        in_samples = in_sample_space(X, config.space)
        matrix = X.gram() if in_samples else X.metric()
        gradient = residual(samples.weights, deviation, X.shape[0]) / stiffness
        gradient_norm = 2 * transposed_norm(X, gradient, matrix if in_samples else None)
        if elements is not None:
            root = samples.weights.sqrt()
            rate, moved = evolved(root, diagonal, elements, rate, config.max_step)
            change = log_of_one_plus(moved / root.clamp(min=SMALLEST))
            change -= (samples.weights * change).sum()
        elif X.shape[0] <= X.shape[1] if config.logarithmic is None else config.logarithmic:
            change = log_of_one_plus(-rate * deviation / damping)
        else:
            change = -rate * deviation / damping
        wanted = residual(samples.weights, damping * change, X.shape[0]) / stiffness
        previous = config.momentum * self.update
        unseen = -wanted / rate - X.matvec(previous) if config.momentum else -wanted / rate
        self.update = previous + solve(X, unseen, shift, config.space, matrix)
        linear = X.matvec(self.update)
        rate, norm = bounded(rate, linear / stiffness, samples.weights, config.max_step)
        flat = parameters_to_vector(self.parameters)
        vector_to_parameters(flat - rate * self.update.to(flat.dtype), self.parameters)
        self.before = flat.double()
        if config.adaptive and config.implicit and exact:
            found = gain_ratio(self.wavefunction, samples, wanted, -rate * linear, stiffness)
            factor = 1 / RELAX if found > GOOD else TIGHTEN if found < POOR else 1.0
            self.shift = max(LOWEST_SHIFT, factor * shift)
        scale = (diagonal - energy).abs().max()
        self.limit = (energy + SLACK * (2 * variance.sqrt() * norm + scale * norm**2)).item()
        return StepInfo(learning_rate=rate, update_norm=norm, gradient_norm=gradient_norm)

    @property
    def propagates(self) -> bool:
        return self.config.propagates

    def _schedules(self, progress: float) -> tuple[float, float]:
        """Learning rate and diagonal shift."""
        config = self.config
        assert config.learning_rate is not None
        assert config.final_learning_rate is not None
        assert config.final_diagonal_shift is not None
        rate = cosine(config.learning_rate, config.final_learning_rate, progress)
        shift = geometric(config.diagonal_shift, config.final_diagonal_shift, progress)
        return rate, shift

    def state_dict(self) -> dict[str, Tensor]:
        guard = torch.tensor([self.limit, self.backoff, self.shift, self.lowest], dtype=torch.float64)
        return {"update": self.update, "before": self.before, "best": self.best, "guard": guard}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.update = state["update"].to(self.update.device)
        if "guard" in state:  # archives of version 1 have none
            self.before = state["before"].to(self.before.device)
            guard = state["guard"].tolist()  # older ones end after two or three numbers
            self.limit, self.backoff, self.shift, self.lowest = guard + [self.shift, self.lowest][len(guard) - 2 :]
            self.best = state.get("best", self.best).to(self.best.device)


def bounded(
    rate: float, direction: Float64[Tensor, " rows"], weights: Float64[Tensor, " U"], max_step: float
) -> tuple[float, float]:
    """The learning rate, lowered until the step is short enough, and the length of that step.

    The length is that of the finite change psi -> psi exp(-rate c), sqrt(sum w |exp(-rate c) - 1|^2): where the change
    c of log psi is small that is the metric, and an amplitude that would grow from nothing counts with what it is then.

    Args:
        direction: sqrt(w) c, real parts and below them imaginary ones.
    """
    U = len(weights)
    c = direction.view(-1, U) / weights.sqrt().clamp(min=SMALLEST)
    while True:
        grown = torch.polar((-rate * c[0]).clamp(max=LARGEST_EXPONENT).exp(), -rate * c[1:].sum(0))
        norm = (weights @ (grown - 1).abs().square()).sqrt().item()
        if norm <= max_step or rate < SMALLEST:
            return rate, norm
        rate *= max(0.5, max_step / norm)


def log_of_one_plus(x: Complex128[Tensor, " U"]) -> Complex128[Tensor, " U"]:
    """log(1 + x), its real part at most MAX_LOG_CHANGE in modulus; exact for small x."""
    modulus = torch.log1p((x.abs().square() + 2 * x.real).clamp(min=-1)) / 2
    return torch.complex(modulus.clamp(-MAX_LOG_CHANGE, MAX_LOG_CHANGE), torch.atan2(x.imag, 1 + x.real))


def gain_ratio(
    wavefunction: Wavefunction,
    samples: Samples,
    wanted: Float64[Tensor, " R"],
    linear: Float64[Tensor, " R"],
    stiffness: Float64[Tensor, " R"],
) -> float:
    """By how much a step brought log psi nearer to its target, (|t|^2 - |t - a|^2) / (|t|^2 - |t - l|^2).

    t is the wanted change, a the one that was made, l its linear prediction; 1 where the step was linear. In the norm
    sum w (1 + eta D) |.|^2, mean free. nan where nothing was predicted.

    Args:
        samples: with log psi before the step.
    """
    after = log_psi_in_chunks(wavefunction, samples.configurations)
    moved = torch.complex(after.log_modulus - samples.log_modulus, after.phase - samples.phase)
    moved = torch.where(samples.weights > 0, moved, 0.0)
    made = residual(samples.weights, moved - (samples.weights * moved).sum(), len(wanted)) * stiffness
    promised = linear @ (2 * wanted - linear)
    return (made @ (2 * wanted - made) / promised).item() if promised > 0 else math.nan


def residual(weights: Tensor, deviation: Complex128[Tensor, " U"], rows: int) -> Float64[Tensor, " R"]:
    """sqrt(w) times the real parts, and below them the imaginary ones where there are 2 U rows."""
    scaled = weights.sqrt() * deviation
    return scaled.real if rows == len(weights) else torch.cat([scaled.real, scaled.imag])
