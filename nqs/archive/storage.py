"""Files on disk: sealed with a checksum, replaced atomically.

A sealed file is a user block of 512 bytes, which HDF5 skips, and an HDF5 image:

    nqs-run/2                    format and version
    sha256 0123…cdef             of all bytes after the user block
    bytes 123456                 number of these bytes; zeros follow up to byte 512

The whole file is checked before the HDF5 library reads it, because that may crash on damaged files. By hand:

    head -n 3 run.h5; tail -c +513 run.h5 | sha256sum
"""

import hashlib
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

USER_BLOCK = 512  # bytes; HDF5 looks for its signature at 0, 512, 1024, ...
SEAL = re.compile(rb"([a-z-]+)/(\d{1,9})\nsha256 [0-9a-f]{64}\nbytes \d{1,18}\n\0*")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


# ------------------------------------------------------------------------------------------------------- checksum


def seal(image: bytes, *, format: str, version: int) -> bytes:
    """The user block of an HDF5 image, 512 bytes."""
    text = f"{format}/{version}\nsha256 {hashlib.sha256(image).hexdigest()}\nbytes {len(image)}\n"
    return text.encode().ljust(USER_BLOCK, b"\0")


def unseal(data: bytes, *, format: str) -> tuple[int, bytes]:
    """Version and image of a sealed file.

    Raises:
        ValueError: the data have no seal of this format, or were changed since.
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
    """Write a file atomically: readers find the old contents or the new ones.

    The target of a symbolic link is replaced, not the link. Permissions of the file are kept.

    Raises:
        OSError: disk full, folder read-only or missing; the old file stays.
    """
    path = Path(os.path.realpath(path))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a power failure could leave an empty file under the new name
        with suppress(FileNotFoundError, PermissionError):  # a new file; a file system without permissions
            partial.chmod(stat.S_IMODE(path.stat().st_mode))
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):  # a file system that became read-only refuses this too
            partial.unlink(missing_ok=True)
        raise
