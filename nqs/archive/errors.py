"""Errors of archives."""


class ArchiveError(Exception):
    """An archive cannot be read or written, or belongs to another run."""


class ArchiveLockedError(ArchiveError):
    """Another process is writing this archive."""
