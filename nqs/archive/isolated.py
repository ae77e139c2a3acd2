"""Read HDF5 images of untrusted files in a child process with limited memory and time (`nqs.archive.reader`)."""

import json
import math
import os
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np

from nqs.archive import reader
from nqs.archive.contents import Attributes, Datasets
from nqs.archive.serialise import ARRAY_TYPES, COMPLEX_TYPES

SECONDS, BYTES_A_SECOND = 60.0, 10**7  # before the child is ended; its CPU time is limited more tightly
KINDS = {np.dtype(name).str for name in (*ARRAY_TYPES, *COMPLEX_TYPES)}
# One thread each: a pool of BLAS reserves memory for every core. No plug-ins of HDF5 that a file may name.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HDF5_PLUGIN_PRELOAD": "::"}


class Reader:
    """Reads any number of images in one child process, which costs 0.1 s to start. Use it as a context manager."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None

    def read(self, image: bytes) -> tuple[Attributes, Datasets]:
        """Attributes and datasets of an image.

        Raises:
            ValueError: the child process refused it, crashed, or reached a limit.
        """
        child = self._child = self._child or _started()
        timer = threading.Timer(SECONDS + len(image) / BYTES_A_SECOND, child.kill)
        timer.start()
        try:
            return _exchanged(child, image)
        except BaseException as error:
            self.close()  # what it would send next is not known
            if isinstance(error, (OSError, EOFError, struct.error)):
                raise ValueError(f"the HDF5 library {_end_of(child)} it") from None
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            child, self._child = self._child, None
            child.kill()
            child.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _started() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", str(Path(reader.__file__))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | ENVIRONMENT,
        start_new_session=True,  # an interrupt in the terminal is for the parent
    )


def _end_of(child: "subprocess.Popen[bytes]") -> str:
    """What ended the child process: a time limit, or a crash."""
    too_long = {-number for name in ("SIGKILL", "SIGXCPU") if (number := getattr(signal, name, None)) is not None}
    return "does not finish reading" if child.returncode in too_long else "crashes while reading"


def _exchanged(child: "subprocess.Popen[bytes]", image: bytes) -> tuple[Attributes, Datasets]:
    """Send an image and receive its contents, which are checked: a crafted file may have taken over the child."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(struct.pack("<Q", len(image)))
    child.stdin.write(image)
    child.stdin.flush()
    attributes: Attributes = {}
    datasets: Datasets = {}
    left = 2 * (reader.max_total(len(image)) + reader.MAX_TEXT)  # twice: text grows as JSON

    def received(size: int) -> bytearray:
        nonlocal left
        left -= size
        if left < 0:
            raise ValueError("it holds too much")
        data = bytearray(size)
        if child.stdout.readinto(data) != size:  # type: ignore[union-attr]
            raise EOFError
        return data

    while True:
        (size,) = struct.unpack("<Q", received(8))
        kind, *rest = _parsed(received(size))
        if kind == "end":
            return attributes, datasets
        if kind == "group":
            path, values = rest
            if not all(isinstance(value, (str, int, float)) for value in values.values()):
                raise ValueError(f"/{path} has attributes that are neither numbers nor text")
            attributes[path] = values
        elif kind == "data":
            path, dtype, shape = rest
            if dtype not in KINDS:
                raise ValueError(f"{path} holds numbers of type {dtype}, which nqs does not write")
            count = math.prod(shape) * np.dtype(dtype).itemsize
            datasets[path] = np.frombuffer(received(count), dtype).reshape(shape)
        else:
            raise ValueError(*rest[:1])


def _parsed(text: bytearray) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
