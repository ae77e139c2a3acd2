"""The record of a run on several ranks: rank 0 has the archive, the others a copy in memory that nobody writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nqs.archive.memory import MemoryArchive
from nqs.runtime.distributed import communicator


class RecordOfOtherRank(MemoryArchive):
    """What the archive of rank 0 holds, with the same interface; messages about it are those of rank 0.

    Attributes:
        path: of that archive; None if the run has none.
    """

    path: Path | None = None


def with_one_writer(open_record: Callable[[], MemoryArchive]) -> MemoryArchive:
    """The record that rank 0 opens, and copies on the other ranks.

    Raises:
        ArchiveError: on all ranks, as `open_record` on rank 0.
    """
    ranks = communicator()
    if ranks.size == 1:
        return open_record()
    opened: list[MemoryArchive] = []

    def contents() -> tuple[Any, ...]:
        record = open_record()
        opened.append(record)
        return *record.contents(), getattr(record, "path", None), record.keeps_observables

    try:
        config, options, attributes, datasets, path, keeps = ranks.of_first(contents)
    except BaseException:
        for record in opened:
            record.close()
        raise
    if opened:
        return opened[0]
    copy = RecordOfOtherRank(config, options, attributes, datasets)
    copy.path, copy.keeps_observables = path, keeps
    return copy
