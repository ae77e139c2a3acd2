"""What can be wrong with an archive."""


class ArchiveError(Exception):
    """An archive that cannot be read or written, or that does not belong to this run."""


class ArchiveLockedError(ArchiveError):
    """Another process writes this archive."""
