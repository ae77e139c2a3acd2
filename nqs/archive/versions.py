"""Archives of every version of the format, as the present version has them."""

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
    """Version, attributes, datasets and size of an archive of any version; upgraded to the present version."""
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
    except Exception as error:  # h5py raises whatever it likes
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
    """Read a file without a checksum in another process first, because HDF5 may crash on a damaged one.

    Raises:
        ValueError: that process did not survive.
    """
    command = [sys.executable, "-P", "-c", PROBE, str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise ValueError("the HDF5 library does not come to an end with it") from None
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
    if "result" in attributes:  # made after the last step only
        attributes["result"]["step"] = attributes["checkpoint"]["step"]


UPGRADES: dict[int, Callable[[Attributes, Datasets], None]] = {1: _from_version_1, 2: lambda *_: None}
