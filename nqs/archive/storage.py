"""Bytes on disk: sealed with a checksum, replaced in one step, written by one process at a time.

A sealed file is a user block of 512 bytes, which HDF5 skips, and an HDF5 image:

    nqs-run/2                    format and version
    sha256 0123…cdef             of all bytes after the user block
    bytes 123456                 their number; zeros follow up to byte 512

Every bit of the file is checked before the HDF5 library, which crashes on damaged files, sees any of it. By hand:

    head -n 3 run.h5; tail -c +513 run.h5 | sha256sum
"""

import fcntl
import glob
import hashlib
import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

USER_BLOCK = 512  # bytes; HDF5 looks for its signature at 0, 512, 1024, ...
SEAL = re.compile(rb"([a-z-]+)/(\d{1,9})\nsha256 [0-9a-f]{64}\nbytes \d{1,18}\n\0*")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class ArchiveError(Exception):
    """An archive that cannot be read or written, or that does not belong to this run."""


class ArchiveLockedError(ArchiveError):
    """Another process writes this archive."""


# ------------------------------------------------------------------------------------------------------- checksum


def seal(image: bytes, *, format: str, version: int) -> bytes:
    """The user block of an image, 512 bytes."""
    text = f"{format}/{version}\nsha256 {hashlib.sha256(image).hexdigest()}\nbytes {len(image)}\n"
    return text.encode().ljust(USER_BLOCK, b"\0")


def unseal(data: bytes, *, format: str) -> tuple[int, bytes]:
    """Version and image of a sealed file.

    Raises:
        ValueError: no such file, or any of its bits has changed.
    """
    match = SEAL.fullmatch(data[:USER_BLOCK])
    if match is None or match[1] != format.encode():
        raise ValueError(f"it does not begin with the seal of an {format} archive")
    version, image = int(match[2]), data[USER_BLOCK:]
    if data[:USER_BLOCK] != seal(image, format=format, version=version):
        raise ValueError(f"its checksum is wrong: bytes were changed or cut off since it was written (now {len(data)})")
    return version, image


# ----------------------------------------------------------------------------------------------- replacing a file


def replace_file(path: Path, data: bytes) -> None:
    """Put data at path in one atomic step: whoever reads finds the old bytes or the new ones.

    Raises:
        OSError: disk full, folder read-only or gone; the old file stays.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # or a power failure could leave the new name with none of the bytes
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):  # a file system that has become read-only refuses this too
            partial.unlink(missing_ok=True)
        raise


# ----------------------------------------------------------------------------------------------------- one writer


class WriterLock:
    """The right to write a file, held by at most one process on a file system; the kernel frees it when that ends.

    It is on a hidden file beside the archive, because the archive itself is replaced all the time; its owner is in it.

    Raises:
        ArchiveLockedError: another process holds it.
        OSError: the folder is read-only or gone, or the file system has no locks.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = -1
        self._file = path.with_name(f".{path.name}.lock")
        descriptor = self._open()
        try:
            while True:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_current(descriptor):
                    break
                os.close(descriptor)  # its last owner has removed this one in between
                descriptor = self._open()
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BlockingIOError:
            owner = os.read(descriptor, 200).decode(errors="replace").strip()
            os.close(descriptor)
            raise ArchiveLockedError(
                f"{path} is being written by another process ({owner or 'just starting'}): wait for it or stop it, "
                "or name another archive. Reading it is allowed all the time."
            ) from None
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of a process killed while it wrote
            leftover.unlink(missing_ok=True)

    def _open(self) -> int:
        return os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def _is_current(self, descriptor: int) -> bool:
        mine = os.fstat(descriptor)
        try:
            found = self._file.stat()
        except FileNotFoundError:
            return False
        return (mine.st_dev, mine.st_ino) == (found.st_dev, found.st_ino)

    def release(self) -> None:
        """Give it back; the second time does nothing."""
        if self._descriptor < 0:
            return
        with suppress(OSError):
            if self._is_current(self._descriptor):
                self._file.unlink()
        os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()


def writer_of(path: Path) -> str | None:
    """Who writes the file just now, such as "process 123 on host"; None for nobody."""
    try:
        descriptor = os.open(path.with_name(f".{path.name}.lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


# ----------------------------------------------------------------------------------------------------- how often


@dataclass(frozen=True, kw_only=True)
class FlushPolicy:
    """When an archive is written during a run: a SIGKILL or a power failure costs what came after the last time.

    Signals that a process can catch, errors and the end of the run write it in any case.

    Attributes:
        share: of the time, spent on writing at most ...
        longest: ... unless that many seconds have passed; 0 to write after every step.
    """

    share: float = 0.01
    longest: float = 60.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: the share of the time for writing is above 0 and at most 1.")
        if not self.longest >= 0:
            raise ValueError(f"longest={self.longest}: give the seconds between two writes, 0 for every step.")

    def due(self, last_end: float, last_seconds: float) -> bool:
        """Whether to write now, from when the last write ended (time.perf_counter) and how long it took."""
        return time.perf_counter() - last_end >= min(last_seconds / self.share, self.longest)
