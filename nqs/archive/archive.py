"""The HDF5 archive of a run, format `nqs-run` version 2; complete on disk after every flush, whatever happens.

    user block       512 bytes of text: format, version, SHA-256 of the rest (see nqs/archive/storage.py)
    /                attributes: format, version, package_version, commit, created, hamiltonian, unit, config (JSON),
                     script, options (JSON)
    /history/NAME    one value a step: step, energy, error, variance, ... (steps,)
    /checkpoint      attributes: step, number of finished steps; damping, factor on the next update (1: none)
    /checkpoint/model/NAME, /checkpoint/optimiser/NAME    parameters and state by name
    /checkpoint/sampler/NAME    state of the sampler, where it has one: walkers of a Markov chain
    /checkpoint/generator    state of the random generator, bytes
    /checkpoint/last_good    all parameters before the last update, (P,)
    /samples         the last batch: configurations (U, L), weights, log_modulus, phase (U,)
    /result          attributes: energy, error, variance, v_score, n_samples, n_distinct of the last evaluation; step,
                     number of steps after which it was made
    /exact           attributes: energy, gap, dimension, method, seconds
    /observables/NAME    attribute: state_names (JSON), of the local states

`script` and `options` say which script started the run and with which options; "" and {} for a run from Python. Large
datasets are compressed with gzip, which every HDF5 library reads; parameters are not, because they do not compress.

Every file is read as one of unknown origin: HDF5 runs in a child process (`nqs.archive.isolated`), and the layout is
checked (`nqs.archive.schema`).

The contents are kept in memory; a flush writes a complete new file beside the old one and renames it (atomic on POSIX).
A reader therefore always finds a complete file, also during the run or after it was killed. One process at a time may
write.

Version 1 had no user block, no script and options, no damping and last_good, and no step in /result.
"""

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from nqs.archive.contents import FORMAT, VERSION, Attributes, Datasets
from nqs.archive.errors import ArchiveError, ArchiveLockedError
from nqs.archive.flush import FlushPolicy
from nqs.archive.hdf5 import to_image
from nqs.archive.header import new_header
from nqs.archive.isolated import Reader
from nqs.archive.lock import WriterLock
from nqs.archive.memory import MemoryArchive
from nqs.archive.storage import replace_file, seal
from nqs.archive.versions import read_file

__all__ = ["FORMAT", "VERSION", "Archive", "ArchiveError", "ArchiveLockedError", "FlushPolicy"]


class Archive(MemoryArchive):
    """One run on disk. Make it with `create` or `open`; changes reach the disk with `flush`.

    Attributes:
        path: of the file.
        size: bytes of the file when it was last read or written.
        read_version: version of the format that it was read from.
    """

    keeps_observables = True

    def __init__(
        self, path: Path, attributes: Attributes, datasets: Datasets, *, size: int = 0, lock: WriterLock | None = None
    ) -> None:
        header = attributes[""]
        super().__init__(json.loads(str(header["config"])), json.loads(str(header["options"])), attributes, datasets)
        self.path = path
        self.size = size
        self.read_version = VERSION
        self._lock = lock
        self._recorded = False  # changes that are not on disk yet
        self._last_flush = (-math.inf, 0.0)  # end and duration

    @classmethod
    def create(  # type: ignore[override]  # it has a path
        cls,
        path: str | Path,
        *,
        config: Mapping[str, Any],
        hamiltonian: str,
        unit: str,
        script: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A new archive, to be written by this process alone until it is closed.

        Raises:
            ArchiveError: the file exists, the folder cannot be written to, or another process has just begun.
            TypeError: the configuration is not plain data (JSON).
        """
        path = Path(path)
        if path.exists():
            raise ArchiveError(f"{path} exists: resume that run, name another archive, or move the file away.")
        folder = Path(os.path.realpath(path)).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ArchiveError(f"{path} cannot be written: its folder {path.parent} does not exist or is read-only.")
        header = new_header(hamiltonian=hamiltonian, unit=unit, script=script)
        header |= {"config": json.dumps(config), "options": json.dumps(options or {})}
        archive = cls(path, {"": header}, {}, lock=_lock(path))
        try:
            archive.flush()
        except ArchiveError:
            archive.close()
            raise
        return archive

    @classmethod
    def open(cls, path: str | Path, mode: Literal["r", "a"] = "r") -> Self:
        """An archive from disk, read into memory.

        Args:
            mode: "r" to read, also while another process writes; "a" to write as well, alone until it is closed.

        Raises:
            ArchiveError: no file, damaged, another format or a later version of it, or written by another process.
        """
        with Reader() as reader:
            return cls._open(Path(path), mode, reader)

    @classmethod
    def open_all(cls, paths: Iterable[str | Path]) -> Iterator[Self]:
        """Archives from disk, to read, one after the other; faster than `open` for each.

        Raises:
            ArchiveError: as `open`, of the first file that cannot be read.
        """
        with Reader() as reader:
            for path in paths:
                yield cls._open(Path(path), "r", reader)

    @classmethod
    def _open(cls, path: Path, mode: Literal["r", "a"], reader: Reader) -> Self:
        if not path.is_file():
            raise ArchiveError(f"{path}: no such archive.")
        lock = _lock(path) if mode == "a" else None
        try:
            number, attributes, datasets, size = read_file(path, reader)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        archive = cls(path, attributes, datasets, size=size, lock=lock)
        archive.read_version = number
        return archive

    @property
    def place(self) -> str:
        return str(self.path)

    def flush(self) -> None:
        """Replace the file on disk by the present state, atomically.

        Raises:
            ArchiveError: the archive was opened for reading, or writing failed; the last complete version stays.
        """
        if self._lock is None:
            raise ArchiveError(f"{self.path} was opened for reading or closed: open it with mode 'a' to write.")
        begin = time.perf_counter()
        self._settle()
        self._attributes[""]["version"] = VERSION
        image = to_image(self._attributes, self._datasets)
        data = seal(image, format=FORMAT, version=VERSION) + image
        try:
            replace_file(self.path, data)
        except OSError as error:
            raise ArchiveError(
                f"{self.path} cannot be written ({error.strerror}); the last complete version stays."
            ) from error
        self.size, self._recorded = len(data), False
        end = time.perf_counter()
        self._last_flush = (end, end - begin)

    def flush_if_due(self, policy: FlushPolicy) -> None:
        """Flush if the policy allows the time for it, or if the last flush was too long ago."""
        if policy.due(*self._last_flush):
            self.flush()

    def close(self) -> None:
        """Release the lock. Changes since the last flush stay in memory only."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _changed(self) -> None:
        self._recorded = True

    def how_to_continue(self) -> str:
        return f"{self.step} of {self.steps} steps are saved in {self.path}; repeat the command or resume to continue."

    def where_last_state_is(self) -> str:
        return f"The state before it is in {self.path}."

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush recorded changes, unless a flush has just failed, and close."""
        try:
            if self._recorded and not (kind is not None and issubclass(kind, ArchiveError)):
                self.flush()
        finally:
            self.close()


def _lock(path: Path) -> WriterLock:
    try:
        return WriterLock(path)
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be locked for writing ({error.strerror}): its folder must exist and be writable, on a file "
            "system with locks."
        ) from error
