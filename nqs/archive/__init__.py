"""Archives of runs: in memory, and as HDF5 files on disk."""

from nqs.archive.archive import Archive
from nqs.archive.contents import FORMAT, VERSION
from nqs.archive.errors import ArchiveError, ArchiveLockedError
from nqs.archive.flush import FlushPolicy
from nqs.archive.memory import MemoryArchive
from nqs.archive.record import Checkpoint

__all__ = [
    "FORMAT",
    "VERSION",
    "Archive",
    "ArchiveError",
    "ArchiveLockedError",
    "Checkpoint",
    "FlushPolicy",
    "MemoryArchive",
]
