"""Runs that end early without losing anything: signals, and a limit on the time."""

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
    """Between `with` and its end, the first SIGINT or SIGTERM is noted only, so that the step can be finished.

    A second SIGINT raises KeyboardInterrupt at once. Outside the main thread, which alone receives signals, nothing is
    changed, and neither for signals that the process ignores.

    Attributes:
        number: of the first signal; None before it.
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
        """End the run if a signal has come; `saved` says in the message where it can be continued.

        Raises:
            Interrupted: a signal has come.
        """
        if self.number is not None:
            raise Interrupted(f"{signal.Signals(self.number).name}: {saved}", self.number)


class TimeLimit:
    """Ends the steps of a run early enough for its evaluation.

    Args:
        minutes: from now on; None for no limit.
    """

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and not (minutes > 0 and math.isfinite(minutes)):
            raise ValueError(f"minutes={minutes}: a time limit is a positive number of minutes; leave it out for none.")
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes

    def allows(self, seconds: float) -> bool:
        """Whether something that takes so long would end in time."""
        return time.monotonic() + seconds <= self._end
