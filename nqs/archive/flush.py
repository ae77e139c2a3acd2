"""How often an archive is written during a run."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class FlushPolicy:
    """When an archive is written during a run: a SIGKILL or a power failure costs what came after the last time.

    Signals that a process can catch, errors and the end of the run write it in any case.

    Attributes:
        share: of the time, spent on writing at most ...
        longest: ... unless that many seconds have passed; 0 to write after every step.
    """

    share: float = 0.01
    longest: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: the share of the time for writing is above 0 and at most 1.")
        if not self.longest >= 0:
            raise ValueError(f"longest={self.longest}: give the seconds between two writes, 0 for every step.")

    def due(self, last_end: float, last_seconds: float) -> bool:
        """Whether to write now, from when the last write ended (time.perf_counter) and how long it took."""
        return time.perf_counter() - last_end >= min(last_seconds / self.share, self.longest)
