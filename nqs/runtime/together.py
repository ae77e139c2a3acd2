"""Decisions that all ranks of a run take alike: time limits by the clock of rank 0, signals that any of them got."""

import math
from dataclasses import dataclass

from nqs.runtime.distributed import communicator
from nqs.runtime.interruption import Interruption, TimeLimit


class CommonTimeLimit(TimeLimit):
    """The time limit of rank 0, by its clock; to be asked by all ranks together."""

    def __init__(self, minutes: float | None) -> None:
        super().__init__(None if minutes is None else communicator().numbers(minutes)[0])

    @property
    def left(self) -> float:
        return super().left if self.seconds == math.inf else communicator().numbers(super().left)[0]

    def allows(self, seconds: float) -> bool:
        return self.seconds == math.inf or communicator().decided(super().allows(seconds))


@dataclass
class CommonInterruption:
    """An interruption that any rank got; to be asked by all ranks together."""

    own: Interruption

    @property
    def number(self) -> int | None:
        """Number of the signal; None if no rank got one."""
        found = communicator().largest(self.own.number or 0)
        if found and self.own.number is None:
            self.own.number = found
        return found or None

    def check(self, saved: str) -> None:
        """As `Interruption.check`."""
        self.own.saved = saved
        if self.number is not None:
            self.own.check(saved)
