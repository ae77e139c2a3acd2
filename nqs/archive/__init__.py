"""HDF5 archives of runs."""

from nqs.archive.archive import Archive
from nqs.archive.hdf5 import FORMAT, VERSION
from nqs.archive.storage import ArchiveError, ArchiveLockedError, FlushPolicy

__all__ = ["FORMAT", "VERSION", "Archive", "ArchiveError", "ArchiveLockedError", "FlushPolicy"]
