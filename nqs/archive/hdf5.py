"""HDF5 images of archives: writing, and reading what may be damaged."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import h5py
import numpy as np

from nqs.archive.storage import (
    HDF5_SIGNATURE,
    ArchiveError,
    unseal,
)
from nqs.estimators.estimate import EnergyEstimate

if TYPE_CHECKING:  # torch takes seconds to import: looking at an archive does without
    pass

FORMAT, VERSION = "nqs-run", 2
COMPRESSED_FROM = 4096  # bytes; smaller datasets do not get smaller
MAX_DEFLATION = 1032  # no gzip stream holds more than that many times its length
IMAGE_READ_ONLY = 0  # flag of H5LT_open_file_image, which h5py does not name
HEADER = ("format", "package_version", "commit", "created", "hamiltonian", "unit", "config", "script", "options")
EXACT = ("energy", "gap", "dimension", "method", "seconds")

Scalar = str | int | float
Datasets = dict[str, np.ndarray]  # by path without the leading slash: "history/energy"
Attributes = dict[str, dict[str, Scalar]]  # by path of the group, "" for the root


# ------------------------------------------------------------------------------------------------- HDF5, in memory


def _to_image(attributes: Attributes, datasets: Datasets) -> bytes:
    """Bytes of an HDF5 file."""
    # A name of its own, never seen on disk: HDF5 takes two open files of one name for the same file.
    with h5py.File(f"{uuid4()}.h5", "w", driver="core", backing_store=False) as file:
        for group, values in attributes.items():
            file.require_group(f"/{group}").attrs.update(values)
        for path, array in datasets.items():
            small = array.nbytes < COMPRESSED_FROM or path.startswith("checkpoint/")
            how: dict[str, Any] = {} if small else {"compression": "gzip", "shuffle": True}
            file.create_dataset(path, data=array, **how)
        file.flush()
        return file.id.get_file_image()


def _from_image(image: bytes) -> tuple[Attributes, Datasets]:
    """All that an HDF5 file holds, if that is groups, numbers and text inside the file.

    Raises:
        ValueError: anything else.
    """
    attributes: Attributes = {}
    datasets: Datasets = {}

    def read(group: h5py.Group, path: str) -> None:
        if group.attrs or not path:
            attributes[path] = {name: _scalar(value) for name, value in group.attrs.items()}
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise ValueError(f"{path}/{name} is a link to elsewhere")
            item, inner = group[name], f"{path}/{name}".lstrip("/")
            if isinstance(item, h5py.Group):
                if inner.count("/") > 2:  # a group may hold itself
                    raise ValueError(f"{inner} is nested too deeply")
                read(item, inner)
            elif isinstance(item, h5py.Dataset) and item.dtype.kind in "fiubc" and item.shape is not None:
                if item.external or item.is_virtual or item.nbytes > MAX_DEFLATION * len(image):
                    raise ValueError(f"the data of {inner} are not in the file")
                datasets[inner] = np.asarray(item[()])
            else:
                raise ValueError(f"{inner} holds no numbers")

    with h5py.File(h5py.h5f.open_file_image(image, IMAGE_READ_ONLY)) as file:
        read(file, "")
    return attributes, datasets


def _scalar(value: Any) -> Scalar:
    value = value.item() if isinstance(value, np.generic) else value
    if not isinstance(value, (str, int, float)):
        raise ValueError(f"an attribute is {type(value).__name__}, neither a number nor text")
    return value


# ------------------------------------------------------------------------------------------------ every version


def _read(path: Path) -> tuple[int, Attributes, Datasets, int]:
    """Version, attributes, datasets and size of an archive of any version; as version 2 has them."""
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
        attributes, datasets = _from_image(image)
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
        _check_layout(attributes, datasets)
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


def _check_layout(attributes: Attributes, datasets: Datasets) -> None:
    """Raises ValueError, KeyError or TypeError where readers would stumble."""
    for name in HEADER:
        if not isinstance(attributes[""][name], str):
            raise ValueError(f"attribute {name} is not text")
    for name in ("config", "options"):
        if not isinstance(json.loads(str(attributes[""][name])), dict):
            raise ValueError(f"attribute {name} is not a JSON object")
    if not isinstance(json.loads(str(attributes[""]["config"])).get("run", {}), dict):
        raise ValueError("run in the configuration is not a JSON object")
    shapes = {values.shape for path, values in datasets.items() if path.startswith("history/")}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"the history has columns of different shapes, {sorted(shapes)}")
    if "checkpoint" in attributes:
        numbers = attributes["checkpoint"]["step"], attributes["checkpoint"]["damping"]
        if not isinstance(numbers[0], int) or not isinstance(numbers[1], float) or numbers[0] < 0:
            raise ValueError(f"step and damping of the checkpoint are {numbers}")
        if datasets["checkpoint/generator"].dtype != np.uint8:
            raise ValueError("the state of the random generator is not in bytes")
    if "result" in attributes:
        values: dict[str, Any] = dict(attributes["result"])
        if not isinstance(values.pop("step"), int):
            raise ValueError("the step of the result is no whole number")
        EnergyEstimate(**values)
        if any(isinstance(value, str) for value in values.values()):
            raise ValueError("the result holds text instead of numbers")
    if "exact" in attributes and set(attributes["exact"]) != set(EXACT):
        raise ValueError(f"the exact ground state has {sorted(attributes['exact'])}, not {sorted(EXACT)}")
