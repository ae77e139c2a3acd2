"""Errors of archives."""

from nqs.runtime.text import printable


class ArchiveError(Exception):
    """An archive cannot be read or written, or belongs to another run. Names in the message may be of any origin."""

    def __init__(self, message: object = "") -> None:
        super().__init__(printable(message, keep="\n", longest=10_000))


class ArchiveLockedError(ArchiveError):
    """Another process is writing this archive."""
