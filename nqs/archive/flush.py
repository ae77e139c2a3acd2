"""How often an archive is written during a run."""

import time
from dataclasses import dataclass

from nqs.runtime.options import check_fields


@dataclass(frozen=True, kw_only=True)
class FlushPolicy:
    """When an archive is written during a run: SIGKILL or a power failure loses the steps since the last write.

    It is always written at the end of the run, on errors, and on signals that a process can catch.

    Attributes:
        share: largest fraction of the time spent on writing, unless `longest` has passed.
        longest: largest time between two writes, in seconds; 0: write after every step.
    """

    share: float = 0.01
    longest: float = 60.0

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: give a fraction of the time, above 0 and at most 1.")
        if not self.longest >= 0:
            raise ValueError(f"longest={self.longest}: give the seconds between two writes, 0 for every step.")

    def due(self, last_end: float, last_seconds: float) -> bool:
        """Whether to write now.

        Args:
            last_end: `time.perf_counter()` at the end of the last write.
            last_seconds: its duration.
        """
        return time.perf_counter() - last_end >= min(last_seconds / self.share, self.longest)
