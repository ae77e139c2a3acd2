"""One writer for each archive, on every operating system; readers need no lock."""

import glob
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from nqs.archive.errors import ArchiveLockedError

# Not zero: the last owner may remove the file between opening and locking it, and `nqs show` locks it for a moment.
PATIENCE, INTERVAL = 0.1, 0.01  # seconds


class WriterLock:
    """Exclusive lock of the process that writes an archive; the operating system releases it when that process ends.

    The lock is on a hidden file beside the archive, because the archive itself is replaced at every flush; it contains
    the process id and host of the owner.

    Args:
        path: archive. Symbolic links are followed once, here, so that two names of an archive share its lock, and a
            link that is changed later leads its writer nowhere else.

    Attributes:
        target: file that the archive is, without links.

    Raises:
        ArchiveLockedError: another process holds it.
        OSError: the folder is read-only or missing, or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self.target = Path(os.path.realpath(path))
        self._file = _lock_file(self.target)
        self._lock = FileLock(
            self._file, timeout=PATIENCE, poll_interval=INTERVAL, thread_local=False, fallback_to_soft=False
        )
        try:
            self._lock.acquire()
        except Timeout:
            raise ArchiveLockedError(
                f"{path} is being written by another process ({_owner(self._file) or 'just starting'}): wait for it or "
                "stop it, or name another archive. Reading is always possible."
            ) from None
        with suppress(PermissionError):  # Windows forbids a second access to a locked file: the owner stays unknown
            self._file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._identity = self._file.stat()
        pattern = f".{glob.escape(self.target.name)}.*.partial"
        for leftover in self.target.parent.glob(pattern):  # of a process killed in a flush
            leftover.unlink(missing_ok=True)

    @property
    def in_place(self) -> bool:
        """Whether another process would meet this lock: not if its file was removed or its folder moved."""
        try:
            return self._lock.is_locked and os.path.samestat(self._file.stat(), self._identity)
        except OSError:
            return False

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._lock.is_locked:
            if self.in_place:  # else it is the lock of another process
                with suppress(OSError):  # before the release, or another process could own it already
                    self._file.unlink()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        if hasattr(self, "_lock"):
            self.release()


def writer_of(path: Path) -> str | None:
    """The process that is writing the file, such as "process 123 on host"; None if there is none."""
    from filelock import lock_descriptor

    file = _lock_file(path)
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:  # closing the descriptor frees the lock
        return None if lock_descriptor(descriptor, blocking=False) else _owner(file) or "another process"
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _lock_file(path: Path) -> Path:
    target = Path(os.path.realpath(path))
    return target.with_name(f".{target.name}.lock")


def _owner(file: Path) -> str:
    """Text of a lock file; "" if it cannot be read."""
    try:
        return file.read_bytes()[:200].decode(errors="replace").strip()
    except OSError:
        return ""
