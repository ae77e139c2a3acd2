"""Signals and a time limit: runs that end early with everything saved."""

import math
import os
import signal
import threading
import time
from types import FrameType
from typing import Any, Self


class Interrupted(KeyboardInterrupt):
    """SIGINT or SIGTERM came; the step in flight was finished and saved. `exit_code` follows the shell's convention."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Interruption:
    """Context manager that delays SIGINT and SIGTERM, so that the current step is finished and saved.

    A second SIGINT raises KeyboardInterrupt at once. Signal handlers stay unchanged outside the main thread, which
    alone receives signals, and for signals that the process ignores.

    Attributes:
        number: number of the first signal; None if none has come.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # batch systems repeat SIGTERM
        self.number = number
        # Not print: the signal may have come in the middle of another print.
        os.write(2, f"\n{signal.Signals(number).name}: finishing this step, then saving\n".encode())

    def check(self, saved: str) -> None:
        """End the run if a signal has come.

        Args:
            saved: where the run can be continued, for the message.

        Raises:
            Interrupted: a signal has come.
        """
        if self.number is not None:
            raise Interrupted(f"{signal.Signals(self.number).name}: {saved}", self.number)


class TimeLimit:
    """Time limit that includes the final evaluation of a run.

    Args:
        minutes: time from now; None for no limit.

    Raises:
        ValueError: not a positive, finite number of minutes.
    """

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
            raise ValueError(f"minutes={minutes}: a time limit is a positive number of minutes; leave it out for none.")
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def allows(self, seconds: float) -> bool:
        """Whether a task that takes this long would end in time."""
        return time.monotonic() + seconds <= self._end
