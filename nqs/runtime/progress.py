"""Progress of a run: a bar on a terminal, plain lines elsewhere, and optionally TensorBoard."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

from tqdm import tqdm

LINE_EVERY = 15.0  # seconds between plain lines


class Watcher(Protocol):
    """Observer of a run, for `VMC.run(watch=...)`."""

    def step(self, row: Mapping[str, float]) -> bool | None:
        """Called after every step with its row of the history; False ends the run, which is then evaluated."""

    def close(self) -> None:
        """Called at the end of the run, finished or not."""


class Progress:
    """Progress bar if standard error is a terminal, else lines: first and last step, and every 15 seconds in between.

    Args:
        total: number of steps of the whole run; None: not yet known.
        initial: number of steps made before.
        show: False: print nothing.
        unit: what is counted.
    """

    def __init__(self, total: int | None, initial: int, *, show: bool, unit: str = "step") -> None:
        self._bar = tqdm(total=total, initial=initial, disable=not (show and sys.stderr.isatty()), unit=unit,
                         dynamic_ncols=True)  # fmt: skip
        self._unit = unit
        self._lines = show and not sys.stderr.isatty()
        self._total, self._initial, self._done = total, initial, initial
        self._begin = time.monotonic()
        self._last_line = -float("inf")

    def update(self, status: str, total: int | None = None, seconds_left: float | None = None) -> None:
        """Called after every step.

        Args:
            total: if it has changed.
            seconds_left: of a time limit, where that ends the work and no number of steps does.
        """
        self._done += 1
        if total is not None and total != self._total:
            self._total = self._bar.total = total
        by_time = None if seconds_left is None else f"{tqdm.format_interval(max(0.0, seconds_left))} left"
        self._bar.set_postfix_str(status if by_time is None else f"{by_time}: {status}", refresh=False)
        self._bar.update()
        now = time.monotonic()
        if self._lines and (self._done == self._total or now - self._last_line >= LINE_EVERY):
            self._last_line = now
            each = (now - self._begin) / (self._done - self._initial)
            many, left = "/?", "? left"
            if self._total is not None:
                many, left = f"/{self._total}", f"{tqdm.format_interval(each * (self._total - self._done))} left"
            elif by_time is not None:
                many, left = "", by_time
            print(f"{self._unit} {self._done}{many}, {each:.2g} s each, {left}: {status}", file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class TensorBoard:
    """Watcher that writes every quantity of the history as a TensorBoard scalar.

    Args:
        folder: folder of the event files; `tensorboard --logdir FOLDER` shows them.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError("TensorBoard is not installed: pip install 'nqs[tensorboard]'.") from None
        self._writer = SummaryWriter(str(folder))

    def step(self, row: Mapping[str, float]) -> None:
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))

    def close(self) -> None:
        self._writer.close()
