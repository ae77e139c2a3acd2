"""Signals and a time limit: runs that end early with everything saved.

Way of a SIGTERM through a run: `Interruption` notes it while the step goes on; the loop (nqs.vmc.loop) keeps the step
and asks on every rank (`nqs.runtime.together.CommonInterruption.check`), which raises `Interrupted`; on the way out of
the loop's ExitStack the archive is written and the handlers are restored; nqs.cli.errors makes it exit code 128 + 15.
The evaluation (nqs.vmc.evaluation) asks after every batch. Outside the loop nqs.driver has an `Interruption` without
patience, which raises at once: there is nothing to save.
"""

import math
import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self

from nqs.runtime.launched import is_ending_for_another_rank

PATIENCE = 8.0  # seconds that a step or a batch may go on after a signal; batch systems kill after ten or more
OUTSIDE = "stopped outside the steps; what was saved before is unchanged."


class Interrupted(KeyboardInterrupt):
    """SIGINT, SIGTERM or SIGHUP came, and what there was is saved. `exit_code` follows the shell's convention."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interruption:
    """Context manager that delays SIGINT, SIGTERM and SIGHUP, so that the current step is finished and saved.

    A second SIGINT raises KeyboardInterrupt at once. Signal handlers stay unchanged outside the main thread, which
    alone receives signals, and for signals that the process ignores.

    Args:
        patience: seconds after which `Interrupted` is raised wherever the program is, PATIENCE by default; 0: at once.
            On systems without timers (Windows) a positive patience has no end.
        saved: where the run can be continued, for the message of an `Interrupted` that is raised without `check`.
        quiet: say nothing when the signal comes.

    Attributes:
        number: number of the first signal; None if none has come.
    """

    def __init__(self, patience: float | None = None, saved: str = OUTSIDE, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.patience, self.saved = PATIENCE if patience is None else patience, saved
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)
                if number is not None and signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self.number is not None and self.patience and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # batch systems repeat SIGTERM
        if number == signal.SIGTERM and is_ending_for_another_rank():
            return
        self.number = number
        if not self.patience:
            self.check(self.saved)
        # Not print: the signal may have come in the middle of another print.
        if not self.quiet:
            os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving\n".encode())
        if hasattr(signal, "setitimer"):
            self._previous.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, lambda *_: self.check(self.saved)))
            signal.setitimer(signal.ITIMER_REAL, self.patience)

    def check(self, saved: str) -> None:
        """End the run if a signal has come.

        Args:
            saved: where the run can be continued, for the message.

        Raises:
            Interrupted: a signal has come.
        """
        self.saved = saved
        if self.number is not None:
            raise Interrupted(f"{signal.Signals(self.number).name}: {saved}", self.number)


class TimeLimit:
    """Time limit that includes the final evaluation of a run.

    Args:
        minutes: time from now; None for no limit.

    Attributes:
        seconds: length of the limit.

    Raises:
        ValueError: not a positive, finite number of minutes.
    """

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
            raise ValueError(f"minutes={minutes}: a time limit is a positive number of minutes; leave it out for none.")
        self.seconds = math.inf if minutes is None else 60 * minutes
        self._end = time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        """Seconds until the end; infinite without a limit."""
        return self._end - time.monotonic()

    def allows(self, seconds: float) -> bool:
        """Whether a task that takes this long would end in time."""
        return time.monotonic() + seconds <= self._end
