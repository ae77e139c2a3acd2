"""One child process that reads the archives of all tests: it starts in 0.15 s, longer than most archives take."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

from nqs.archive.contents import Attributes, Datasets
from nqs.archive.isolated import Reader


class OneReader(Reader):
    """Stays open after `with`. A refused image ends its child process, as it does everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self._process, self._turn = os.getpid(), threading.Lock()

    def read(self, image: bytes) -> tuple[Attributes, Datasets]:
        if os.getpid() != self._process:  # a fork: the pipes are those of the process before
            with Reader() as own:
                return own.read(image)
        with self._turn:
            return super().read(image)

    def __exit__(self, *_: object) -> None: ...


@contextmanager
def one_reader() -> Iterator[None]:
    """`Archive.open` with one child process for all calls."""
    reader = OneReader()
    try:
        with patch("nqs.archive.archive.Reader", lambda: reader):
            yield
    finally:
        reader.close()
