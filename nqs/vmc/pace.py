"""How far a run has come: of a given number of steps, or of as many as fit into a time, by measured costs."""

import math
import time
from collections import deque
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from nqs.optimisation.stages import RunConfig, Stage
from nqs.recipes.steps import EVALUATION_FRACTION
from nqs.runtime.distributed import communicator
from nqs.runtime.interruption import TimeLimit
from nqs.runtime.together import CommonTimeLimit

TIMES = ("seconds", "archive_seconds")  # columns of the history that make up the time of a step

MEASURED = 20  # steps before the first plan; their rates are those of the start
FEW = 3  # steps after which long ones are planned for
LATEST = 20  # steps whose mean time is that of the steps to come
MOST = 2**50  # steps: checkpoints hold their number as float64
NEARLY = 0.02  # fraction of the steps of a timed run that may be left when its time is over
AGAIN = 1.25  # the plan is corrected whenever the number of steps has grown by this factor


class Clock:
    """Wall time of a run and of its steps, by the clock of rank 0.

    Attributes:
        limit: of this process; that of the run, where a process continues a timed one without a limit of its own.
        spent: seconds of all steps of all processes, with their parts of the archive.
        seconds: of the last step.
        writing: seconds of the archive after the last step.
    """

    def __init__(
        self, run: RunConfig, minutes: float | None, limit: TimeLimit, history: Mapping[str, np.ndarray]
    ) -> None:
        self.of_run = math.inf if run.total_minutes is None else 60 * run.total_minutes
        self.spent = sum(float(history[name].sum()) for name in TIMES if name in history)
        self.limit, self.seconds, self.writing = limit, 0.0, 0.0
        if run.total_minutes is not None and minutes is None:
            self.limit = CommonTimeLimit(max(self.of_run - self.spent, EVALUATION_FRACTION * self.of_run) / 60)

    def start(self) -> None:
        """A step begins."""
        self._begin = time.perf_counter()

    def stepped(self) -> dict[str, float]:
        """The step is made: columns of the history."""
        (self.seconds,) = communicator().numbers(time.perf_counter() - self._begin)
        self.of_step = self.seconds + self.writing
        self.spent += self.of_step
        return {"seconds": self.seconds, "archive_seconds": self.writing}

    def written(self) -> None:
        """The archive is written."""
        (self.writing,) = communicator().numbers(time.perf_counter() - self._begin - self.seconds)

    @property
    def left(self) -> float:
        """Seconds for the steps to come of a timed run."""
        return min(self.limit.left, self.of_run - self.spent) - EVALUATION_FRACTION * self.of_run


class Pace:
    """Progress of a run from 0 to 1, on which rates, shifts and temperatures depend.

    With `RunConfig.total_minutes` the number of steps is chosen after the first steps and corrected as costs change;
    progress never falls, and reaches 1 when the time for steps is over. The choice is part of the checkpoint.

    Attributes:
        total: number of steps; None until it is chosen.
    """

    def __init__(self, run: RunConfig) -> None:
        self.timed, self.stopped = run.steps is None, False
        self.total = run.steps
        self._from_step, self._from_progress = 0, 0.0
        self._next = MEASURED
        self._seconds: deque[float] = deque(maxlen=LATEST)
        self._measured = 0  # steps of this process

    def progress(self, step: int) -> float:
        """Before a step, counted from 0."""
        if self.total is None:
            return 0.0
        left = (step - self._from_step) / max(1, self.total - self._from_step)
        return self._from_progress + (1 - self._from_progress) * left

    def of_stage(self, stage: Stage, step: int) -> float:
        """Progress within a stage; a timed run has one stage."""
        return self.progress(step) if self.timed else stage.progress(step)

    def ends(self, step: int) -> bool:
        """Whether no step is left after so many."""
        return self.total is not None and step >= self.total

    def stop(self, done: int) -> None:
        """The run is finished after so many steps."""
        self.total, self.stopped = done, True

    def time_is_up(self, done: int) -> bool:
        """Stop a timed run of which nearly all steps are made: their number was an estimate. Whether it stops here."""
        if self.timed and self.total is not None and 0 < self.total - done <= max(1, NEARLY * self.total):
            self.stop(done)
            return True
        return False

    def measured(self, done: int, seconds: float, left: float) -> None:
        """Choose or correct the number of steps of a timed run.

        Args:
            done: steps so far.
            seconds: that the last one took, with its part of the archive.
            left: seconds for all steps to come.
        """
        if self._measured == 1:  # the first step of a process compiles, and thermalises Markov chains
            self._seconds.clear()
        self._seconds.append(seconds)
        self._measured += 1
        each = sum(self._seconds) / len(self._seconds)
        long = self.total is None and done + left / each < 2 * MEASURED and (self._measured >= FEW or left < each)
        if not self.timed or (done < self._next and not long):
            return
        self._from_step, self._from_progress = done, self.progress(done)
        self.total = done + math.floor(min(max(0.0, left / each), MOST))
        self._next = max(min(MEASURED, 2 * done), math.ceil(AGAIN * done))

    # --- checkpoints ------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Of a timed or stopped run; {} of another. Keys begin with "pace.": they are kept beside the optimiser's."""
        if self.total is None or not (self.timed or self.stopped):
            return {}
        plan = (self.total, self._from_step, self._from_progress, self._next)
        return {"pace.plan": torch.tensor(plan, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if "pace.plan" in state:
            total, first, self._from_progress, again = state["pace.plan"].tolist()
            self.total, self._from_step, self._next = int(total), int(first), int(again)
