"""Read archives of every version of the format, upgraded to the present one."""

from collections.abc import Callable
from pathlib import Path

from nqs.archive.contents import FORMAT, VERSION, Attributes, Datasets
from nqs.archive.errors import ArchiveError
from nqs.archive.isolated import Reader
from nqs.archive.schema import check_configuration, check_layout
from nqs.archive.storage import HDF5_SIGNATURE, USER_BLOCK, unseal
from nqs.archive.upgrade import upgrade


def read_file(path: Path, reader: Reader, *, sealed: bool = True) -> tuple[int, Attributes, Datasets, int]:
    """Format version, attributes, datasets, and size in bytes of an archive; contents upgraded to the present version.

    Args:
        sealed: False: another HDF5 program may have changed the file; its contents are checked as always.

    Raises:
        ArchiveError: the file cannot be read, is damaged, has another format, or a later version of it.
    """
    number, image, size = sealed_image(path) if sealed else _unsealed_image(path)
    if number > VERSION:
        raise ArchiveError(
            f"{path} is of version {number} of the archive format; this package reads versions 1 to {VERSION}: "
            "update nqs."
        )
    try:
        attributes, datasets = reader.read(image)
    except Exception as error:  # of many types, if a crafted file has taken over the child process
        raise _unreadable(path, error) from error
    header = attributes.get("", {})
    if not sealed and header.get("version") in UPGRADES:
        number = int(header["version"])
    if header.get("format") != FORMAT or header.get("version") != number:
        raise ArchiveError(
            f"{path} is HDF5, but its header says format {header.get('format')!r} version {header.get('version')!r}; "
            f"this package reads {FORMAT!r} versions 1 to {VERSION}. "
            "It is another program's file, or its header is damaged."
        )
    try:
        check_configuration(header)
        UPGRADES[number](attributes, datasets)
        upgrade(attributes, datasets)
        check_layout(attributes, datasets)
    except (KeyError, TypeError, ValueError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise ArchiveError(
            f"{path} has the header of an archive, but not its layout: {what}. "
            "The file was left as it is; restore it from a copy."
        ) from error
    return number, attributes, datasets, size


def sealed_image(path: Path) -> tuple[int, bytes, int]:
    """Format version, HDF5 image, and size in bytes of an archive whose checksum is right; version 1 has no checksum.

    Raises:
        ArchiveError: the file cannot be read, or was changed since it was written.
    """
    data = _bytes_of(path)
    if data.startswith(HDF5_SIGNATURE):
        return 1, data, len(data)
    try:
        return *unseal(data, format=FORMAT), len(data)
    except ValueError as error:
        raise _unreadable(path, error) from error


def _unsealed_image(path: Path) -> tuple[int, bytes, int]:
    """As `sealed_image`, with or without a user block, whatever the checksum."""
    data = _bytes_of(path)
    for start in (0, USER_BLOCK):
        if data.startswith(HDF5_SIGNATURE, start):
            return VERSION, data[start:], len(data)
    raise _unreadable(path, ValueError("it is not HDF5"))


def _bytes_of(path: Path) -> bytes:
    if not path.is_file():
        raise ArchiveError(f"{path}: no such archive.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read ({error.strerror}).") from error


def _unreadable(path: Path, error: Exception) -> ArchiveError:
    return ArchiveError(f"{path} is no readable archive: {error}. The file was left as it is; restore it from a copy.")


def _from_version_1(attributes: Attributes, datasets: Datasets) -> None:
    attributes[""] |= {"version": VERSION, "script": "", "options": "{}"}
    if "checkpoint" in attributes:
        attributes["checkpoint"].setdefault("damping", 1.0)
    if "result" in attributes:  # format version 1 has only evaluations after the last step
        attributes["result"]["step"] = attributes["checkpoint"]["step"]


UPGRADES: dict[int, Callable[[Attributes, Datasets], None]] = {1: _from_version_1, 2: lambda *_: None}
