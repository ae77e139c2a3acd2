"""How one process carries out a run: what may differ from process to process without changing the run."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from nqs.archive.archive import FlushPolicy
from nqs.runtime.distributed import communicator
from nqs.runtime.options import check_options
from nqs.runtime.progress import Watcher


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Where a run is kept, what is shown of it, and what ends it early; no part of its configuration.

    Attributes:
        archive: HDF5 file of the run. If it already holds this run, the run is resumed; on the CPU the result then
            equals that of an uninterrupted run bit for bit.
        progress: show a progress bar, or lines where there is no terminal.
        flush: how often the archive is written.
        watch: observers such as `nqs.runtime.progress.TensorBoard`; closed at the end. One whose `step` returns
            False ends the run as `until` does.
        until: called with every row of the history; the run is finished and evaluated where it returns True.
        started_by: name of the script and its options, to keep in the archive.
    """

    archive: str | Path | None = None
    progress: bool = True
    flush: FlushPolicy | None = None
    watch: Iterable[Watcher] = ()
    until: Callable[[Mapping[str, float]], bool] | None = None
    started_by: tuple[str, Mapping[str, Any]] = ("", {})

    def __post_init__(self) -> None:
        check_options(**vars(self))
        object.__setattr__(self, "watch", tuple(self.watch))  # it may be a generator

    def on_this_rank(self) -> Self:
        """The same; on ranks other than the first one without messages and observers."""
        return self if communicator().is_first else replace(self, progress=False, watch=())

    def goes_on(self, row: Mapping[str, float]) -> bool:
        """Show a row of the history to all observers; False if one of them, or `until`, ends the run."""
        wanted = [watcher.step(row) is not False for watcher in self.watch]
        return communicator().decided(all(wanted) and not (self.until is not None and self.until(row)))
