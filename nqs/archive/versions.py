"""Read archives of every version of the format, upgraded to the present one."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from nqs.archive.contents import FORMAT, VERSION, Attributes, Datasets, check_layout
from nqs.archive.errors import ArchiveError
from nqs.archive.hdf5 import from_image
from nqs.archive.storage import HDF5_SIGNATURE, unseal
from nqs.archive.upgrade import upgrade


def read_file(path: Path) -> tuple[int, Attributes, Datasets, int]:
    """Format version, attributes, datasets, and size in bytes of an archive; contents upgraded to the present version.

    Raises:
        ArchiveError: the file cannot be read, is damaged, has another format, or a later version of it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read ({error.strerror}).") from error
    try:
        number, image = (1, data) if data.startswith(HDF5_SIGNATURE) else unseal(data, format=FORMAT)
        if number == 1:
            _probe(path)
    except ValueError as error:
        raise ArchiveError(
            f"{path} is no readable archive: {error}. The file was left as it is; restore it from a copy."
        ) from error
    if number > VERSION:
        raise ArchiveError(
            f"{path} is of version {number} of the archive format; this package reads versions 1 to {VERSION}: "
            "update nqs."
        )
    try:
        attributes, datasets = from_image(image)
    except Exception as error:  # h5py raises errors of many types
        raise ArchiveError(
            f"{path} is no readable archive: {error}. The file was left as it is; restore it from a copy."
        ) from error
    header = attributes[""]
    if header.get("format") != FORMAT or header.get("version") != number:
        raise ArchiveError(
            f"{path} is HDF5, but its header says format {header.get('format')!r} version {header.get('version')!r}; "
            f"this package reads {FORMAT!r} versions 1 to {VERSION}. "
            "It is another program's file, or its header is damaged."
        )
    try:
        UPGRADES[number](attributes, datasets)
        upgrade(attributes, datasets)
        check_layout(attributes, datasets)
    except (KeyError, TypeError, ValueError) as error:
        raise ArchiveError(
            f"{path} has the header of an archive, but not its layout: {error}. "
            "The file was left as it is; restore it from a copy."
        ) from error
    return number, attributes, datasets, len(data)


def _probe(path: Path) -> None:
    """Read a file without a checksum in a child process first, because HDF5 may crash on a damaged one.

    Raises:
        ValueError: the child process failed.
    """
    command = [sys.executable, "-P", "-c", PROBE, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise ValueError("the HDF5 library does not finish reading it") from None
    if done.returncode:
        raise ValueError(f"the HDF5 library cannot read it ({(done.stderr.splitlines() or ['it crashed'])[-1]})")


PROBE = """
import sys, h5py
def visit(name, item):
    dict(item.attrs)
    if isinstance(item, h5py.Dataset) and item.nbytes < 2**30:
        item[()]
with h5py.File(sys.argv[1], "r") as file:
    dict(file.attrs)
    file.visititems(visit)
"""


def _from_version_1(attributes: Attributes, datasets: Datasets) -> None:
    attributes[""] |= {"version": VERSION, "script": "", "options": "{}"}
    if "checkpoint" in attributes:
        attributes["checkpoint"].setdefault("damping", 1.0)
    if "result" in attributes:  # format version 1 has only evaluations after the last step
        attributes["result"]["step"] = attributes["checkpoint"]["step"]


UPGRADES: dict[int, Callable[[Attributes, Datasets], None]] = {1: _from_version_1, 2: lambda *_: None}
