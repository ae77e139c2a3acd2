"""Program of the child process that reads HDF5 images of untrusted files: the HDF5 library may crash, hang or take all
memory on a crafted file. `nqs.archive.isolated` starts it by its path; it imports nothing of nqs.

Requests on stdin: length of the image, 8 bytes; the image. Replies on stdout: length of a JSON text, 8 bytes; the text:

    ["group", path, attributes]
    ["data", path, dtype, shape]     the values follow, row-major
    ["error", message]               the last reply for this image
    ["end"]                          the last reply for this image

Limits of an image: the sizes below, counted for every path, so that hard links count each time; memory and CPU time of
the process where the operating system has such limits (Linux; macOS: CPU time only; Windows: none, but the parent ends
the child after a time).
"""

import json
import mmap
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import h5py
import numpy as np

MAX_OBJECTS = 20_000  # groups, datasets and attributes
MAX_TEXT = 2**26  # bytes of an attribute; configurations of molecules contain their integrals
MIN_TOTAL, MAX_EXPANSION = 2**27, 64  # all values together: bytes, and multiples of the size of the image
MAX_DEFLATION = 1032  # largest compression ratio of gzip; a larger dataset is not in the file
MAX_DEPTH = 2  # slashes in the path of a group
ROOM = 2**26  # bytes for attributes and buffers
PROGRAM = 2**28  # bytes of address space of this process before it reads, where the system does not say
COPIES = 3  # of a compressed dataset while it is read
# CPU time: a constant, twice what MAX_OBJECTS take on a busy processor, and the speed of decompression.
SECONDS, BYTES_A_SECOND = 4, 10**8
IMAGE_READ_ONLY = 0  # flag of H5LT_open_file_image, which h5py does not name


class Refused(ValueError):
    """Contents that an archive cannot have."""


def max_total(image_size: int) -> int:
    """Largest size in bytes of all values of an image together."""
    return max(MIN_TOTAL, MAX_EXPANSION * image_size)


def read_image(image: bytes, group: Callable[[str, dict[str, Any]], None], data: Callable[[str, Any], None]) -> None:
    """Pass every group with attributes and every dataset on, one at a time.

    Raises:
        Refused: something else than groups, numbers and text inside the file itself, or too much.
    """
    objects, left = 0, max_total(len(image))

    def count(what: str, size: int = 0) -> None:
        nonlocal objects, left
        objects, left = objects + 1, left - size
        if objects > MAX_OBJECTS or left < 0:
            raise Refused(
                f"{what} is beyond the limits of {MAX_OBJECTS:,} objects and {max_total(len(image)):,} bytes in an "
                f"archive of {len(image):,} bytes"
            )

    def read(parent: h5py.Group, path: str) -> None:
        attributes = {}
        for name in parent.attrs:
            count(f"attribute {name} of /{path}")
            value = attributes[name] = scalar(parent.attrs, name)
            count(f"attribute {name} of /{path}", len(value) if isinstance(value, str) else 0)
        if attributes or not path:
            group(path, attributes)
        for name in parent:
            inner = f"{path}/{name}".lstrip("/")
            count(inner)
            if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
                raise Refused(f"{path}/{name} is a link to elsewhere")
            item = parent[name]
            if isinstance(item, h5py.Group):
                if inner.count("/") > MAX_DEPTH:  # a group may contain itself
                    raise Refused(f"{inner} is nested too deeply")
                read(item, inner)
            elif isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in "fiubc":
                if item.external or item.is_virtual or item.nbytes > MAX_DEFLATION * len(image):
                    raise Refused(f"the data of {inner} are not in the file")
                count(inner, item.nbytes)
                if item.size and not item.id.get_storage_size():
                    raise Refused(f"the data of {inner} are not in the file")
                values = np.asarray(item[()])
                data(inner, values.astype(values.dtype.newbyteorder("="), copy=False))
            else:
                raise Refused(f"{inner} holds no numbers")

    with h5py.File(h5py.h5f.open_file_image(image, IMAGE_READ_ONLY)) as file:
        read(file, "")


def scalar(attributes: h5py.AttributeManager, name: str) -> str | int | float:
    """Value of an attribute."""
    found = attributes.get_id(name)
    kind = found.dtype.kind
    if found.shape != () or not (kind in "fiub" or h5py.check_string_dtype(found.dtype)):
        raise Refused(f"attribute {name} is neither a number nor text")
    if found.get_storage_size() > MAX_TEXT:
        raise Refused(f"attribute {name} is longer than {MAX_TEXT:,} bytes")
    value = attributes[name]
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        value = value.decode(errors="surrogateescape")
    if not isinstance(value, (str, int, float)) or (isinstance(value, str) and len(value) > MAX_TEXT):
        raise Refused(f"attribute {name} is neither a number nor text of at most {MAX_TEXT:,} characters")
    return value


# ---------------------------------------------------------------------------------------------------------- process


def address_space() -> int:
    """Bytes of address space in use."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * mmap.PAGESIZE
    except (OSError, ValueError):  # no Linux
        return PROGRAM


def limit_process(image_size: int) -> None:
    """Bound memory and CPU time of this process for an image."""
    with suppress(ImportError):  # Windows
        import resource

        total = max_total(image_size)
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = used.ru_utime + used.ru_stime + SECONDS + total / BYTES_A_SECOND
        memory = address_space() + ROOM + COPIES * (total + image_size)
        limits = {"RLIMIT_CPU": int(seconds) + 1, "RLIMIT_AS": memory, "RLIMIT_CORE": 0}
        for name, value in limits.items():
            with suppress(AttributeError, ValueError, OSError):  # not every system has every limit
                kind = getattr(resource, name)
                _, hard = resource.getrlimit(kind)
                resource.setrlimit(kind, (value if hard < 0 else min(value, hard), hard))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""

    def reply(*parts: Any) -> None:
        text = json.dumps(parts).encode()
        replies.write(struct.pack("<Q", len(text)) + text)

    def data(path: str, values: Any) -> None:
        values = np.ascontiguousarray(values).reshape(np.shape(values))
        reply("data", path, values.dtype.str, values.shape)
        replies.write(values.reshape(-1).view(np.uint8))

    while len(head := requests.read(8)) == 8:
        (size,) = struct.unpack("<Q", head)
        limit_process(size)
        try:
            read_image(requests.read(size), lambda path, attributes: reply("group", path, attributes), data)
        except Refused as error:
            reply("error", str(error)[:1000])
        except Exception as error:  # h5py raises errors of many types
            reply("error", f"the HDF5 library cannot read it ({str(error)[:1000] or type(error).__name__})")
        else:
            reply("end")
        replies.flush()


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
