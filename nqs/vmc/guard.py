"""Roll-back of a run: after an energy that is not finite, or that rose above the limit stated by the step."""

import math
import sys
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs.runtime.distributed import communicator
from nqs.samples import LocalEnergies, Samples

UNLIMITED = sys.float_info.max  # no limit; finite, as archives require
SMALLEST_FACTOR = 2.0**-5  # on the update after non-finite states: five halvings
REGROWTH = 1.1  # of the factor with every good step
NOISE = 6.0  # standard errors by which the energy may exceed its limit
ROUNDING = 1e-12  # increase that counts as rounding error, relative to the off-diagonal part of the energy
PRECISION = 8 * sys.float_info.epsilon  # the same, relative to the energy: a large constant in H is rounded, too
STRICT = 0.8  # progress of a stage after which exhaustive sums may not rise above their lowest energy
WINDOW = 50  # sampled steps over which energies are averaged, to see a drift that single ones hide in their noise


class NonFiniteError(FloatingPointError):
    """An energy or a parameter became infinite or not a number."""

    def __init__(self, energy: float, variance: float, retries: int = 0, where: str = "", kept: str = "") -> None:
        self.energy, self.variance, self.retries = energy, variance, retries
        tried = f", not even from the state before and with the update halved {retries} times" if retries else ""
        super().__init__(
            f"{where}: energy {energy}, variance {variance}, or the update, is not finite{tried}. {kept} "
            "Try a smaller learning_rate or max_step, a larger diagonal_shift, or dtype='float64'."
        )

    def at(self, where: str, kept: str) -> "NonFiniteError":
        """The same error with the step and the location of the last finite state."""
        return NonFiniteError(self.energy, self.variance, self.retries, where, kept)


class Guard:
    """Checks every state before a step is made from it, and rolls back states that are worse than allowed.

    Attributes:
        before: parameters before the last update, whose energy was finite, (P,); None before the first one.
        limit: upper bound of the energy after the last step.
        lowest, best: lowest energy in this stage, of an exhaustive sum or the mean of `WINDOW` sampled steps, and the
            parameters there.
        factor: on the next update; below 1 after non-finite states. Archives call it damping.
        start: the parameters that the run began with, until an energy was clearly below theirs; else None.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.before: Tensor | None = None
        self.best: Tensor | None = None
        self.factor = 1.0
        self.start: Tensor | None = None
        self.at_start = (math.nan, math.nan)  # energy and its error
        self.new_stage()

    def begin(self) -> None:
        """The run begins with the present parameters."""
        self.start = self.current()

    def new_stage(self) -> None:
        """Reset the energy limits: the optimiser or the objective changes."""
        self.limit = self.lowest = UNLIMITED
        self.noise_of_lowest = 0.0
        self.window: list[tuple[float, float]] = []  # energies and squared errors of the latest sampled steps

    def current(self) -> Tensor:
        return parameters_to_vector(self.parameters).detach()  # a copy

    def rose(self, samples: Samples, local: LocalEnergies, progress: float, *, drifts: bool = True) -> bool:
        """Whether the energy exceeds its limit beyond the noise; the parameters of a better state are then restored.

        Near the end of a stage the limit of exhaustive sums is the lowest energy of the stage. Sampled energies are
        also averaged over windows: where such a mean is above the lowest one, the state of that one is restored.

        Args:
            drifts: compare windows; False where the objective itself changes from step to step.
        """
        measured = samples.mean(local.values.real), samples.standard_error(local.values), samples.mean(local.diagonal)
        energy, noise, diagonal = communicator().numbers(*torch.stack(measured).tolist())
        exact = samples.is_exhaustive
        if self.start is not None:
            self._compare_with_start(energy, noise)
        if exact and energy < self.lowest:
            self.lowest, self.best = energy, self.current()
        elif drifts and not exact and self._drifted(energy, noise):
            assert self.best is not None
            self.restore(self.best)
            return True
        strict = exact and progress >= STRICT
        limit = self.lowest if strict else self.limit
        rounding = ROUNDING * abs(energy - diagonal) + PRECISION * abs(energy)
        if not energy > limit + NOISE * noise + rounding:
            return False
        kept = self.best if strict else self.before
        assert kept is not None
        self.restore(kept)
        return True

    def _compare_with_start(self, energy: float, noise: float) -> None:
        first, error = self.at_start
        if math.isnan(first):
            self.at_start = energy, noise
        elif energy < first - NOISE * math.hypot(noise, error):
            self.start = None

    def _drifted(self, energy: float, noise: float) -> bool:
        """Whether the window that ends with this energy lies above the lowest one, beyond the noise of both."""
        self.window.append((energy, noise**2))
        if len(self.window) < WINDOW:
            return False
        mean, error = self.mean_of_window()
        self.window = []
        if self.best is not None and mean > self.lowest + NOISE * math.hypot(error, self.noise_of_lowest):
            return True
        if mean < self.lowest:
            self.lowest, self.noise_of_lowest, self.best = mean, error, self.current()
        return False

    def mean_of_window(self) -> tuple[float, float]:
        """Mean energy of the latest sampled steps and its error, (nan, nan) if there are none."""
        number = len(self.window)
        if not number:
            return math.nan, math.nan
        return sum(e for e, _ in self.window) / number, sum(square for _, square in self.window) ** 0.5 / number

    def better(self) -> Tensor | None:
        """Parameters of an earlier sampled state that may lie below the present one; None if there is none."""
        mean, _ = self.mean_of_window()
        return self.best if self.best is not None and mean > self.lowest else None

    def accept(self, before: Tensor, energy_limit: float) -> bool:
        """Accept the update since `before`, times the factor; False if it is not finite.

        Args:
            energy_limit: upper bound of the next energy, stated by the optimiser.
        """
        after = self.current()
        if self.factor < 1:
            after = before + self.factor * (after - before)
            self.restore(after)
        if not after.isfinite().all():
            return False
        self.before, self.limit = before, min(energy_limit, UNLIMITED)
        self.factor = min(1.0, REGROWTH * self.factor)
        return True

    def retreat(self, to: Tensor) -> bool:
        """Restore a finite state for another attempt with half the step; False after five attempts."""
        self.factor /= 2
        self.restore(to)
        self.new_stage()
        return self.factor >= SMALLEST_FACTOR

    def restore(self, parameters: Tensor) -> None:
        vector_to_parameters(parameters.clone(), self.parameters)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Keys begin with "guard.": archives keep them beside those of the optimiser."""
        limits = torch.tensor([self.limit, self.lowest, self.noise_of_lowest], dtype=torch.float64)
        window = torch.tensor(self.window, dtype=torch.float64).view(-1, 2)
        state = {"guard.limits": limits, "guard.window": window}
        if self.start is not None:
            at_start = torch.tensor(self.at_start, dtype=torch.float64)
            state |= {"guard.start": self.start, "guard.at_start": at_start}
        return state if self.best is None else state | {"guard.best": self.best}

    def load_state_dict(self, state: dict[str, Tensor], before: Tensor | None, factor: float) -> None:
        """Restore a checkpoint, also one of 0.1, whose optimiser kept the limits.

        Raises:
            ValueError: an earlier state in it is not one of the wavefunction.
        """
        self.before, self.factor = before, factor
        if "guard.limits" in state:
            self.limit, self.lowest, *noise = state["guard.limits"].tolist()
            self.noise_of_lowest = noise[0] if noise else 0.0
        if "guard.window" in state:
            self.window = [(energy, square) for energy, square in state["guard.window"].tolist()]
        if "guard" in state:  # limit, factor on the shift, and of exact sums shift and lowest energy
            numbers = state["guard"].tolist()
            self.limit, self.lowest = numbers[0], numbers[3] if len(numbers) > 3 else UNLIMITED
        if "guard.start" in state:
            self.start = self._checked(state["guard.start"])
            energy, error = state["guard.at_start"].tolist()
            self.at_start = energy, error
        best = state.get("guard.best", state.get("best"))
        if best is not None:
            self.best = self._checked(best)

    def _checked(self, stored: Tensor) -> Tensor:
        """Raises ValueError: parameters in an archive that are not those of the wavefunction."""
        number = sum(p.numel() for p in self.parameters)
        if stored.shape != (number,) or not stored.isfinite().all():
            raise ValueError(
                f"an earlier state in the checkpoint has parameters of the shape {tuple(stored.shape)}, or some not "
                f"finite; the wavefunction has {number:,}. It was not written by a run of nqs."
            )
        return stored.to(self.parameters[0])


def is_finite(*numbers: float) -> bool:
    return all(math.isfinite(number) for number in numbers)
