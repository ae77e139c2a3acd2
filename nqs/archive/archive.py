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
    /samples         those of the last evaluation: configurations (U, L), weights, log_modulus, phase (U,)
    /diagnostics     attributes: those of the samples (nqs.estimators.diagnostics)
    /result          attributes: energy, error, variance, v_score, n_samples, n_distinct of the last evaluation; step,
                     number of steps after which it was made
    /exact           attributes: energy, gap, dimension, method, seconds
    /provenance      attributes: parameters, SHA-256 of the initial ones; sessions (JSON), versions, device and threads
                     of every process that made steps
    /observables/NAME    attribute of the group: state_names (JSON), of the local states

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
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from nqs.archive.contents import FORMAT, VERSION, Attributes, Datasets, Scalar
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
        self._identity = _identity(lock.target) if lock is not None else None  # of the file as last read or written
        self._recorded = False  # changes that are not on disk yet
        self._failing = False  # the last flush of `save` failed
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
        header = _header(config, options, hamiltonian=hamiltonian, unit=unit, script=script)
        folder = Path(os.path.realpath(path)).parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ArchiveError(f"{path} cannot be written: its folder {path.parent} does not exist or is read-only.")
        archive = cls(path, {"": header}, {}, lock=_lock(path))
        try:
            archive.flush()
        except BaseException:  # a signal, too
            archive.close()
            raise
        return archive

    @classmethod
    def open(cls, path: str | Path, mode: Literal["r", "a"] = "r", *, sealed: bool = True) -> Self:
        """An archive from disk, read into memory.

        Args:
            mode: "r" to read, also while another process writes; "a" to write as well, alone until it is closed.
            sealed: False: whatever the checksum says, because another HDF5 program has changed the file.

        Raises:
            ArchiveError: no file, damaged, another format or a later version of it, or written by another process.
        """
        with Reader() as reader:
            return cls._open(Path(path), mode, reader, sealed=sealed)

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
    def _open(cls, path: Path, mode: Literal["r", "a"], reader: Reader, *, sealed: bool = True) -> Self:
        if not path.is_file():
            raise ArchiveError(f"{path}: no such archive.")
        lock = _lock(path) if mode == "a" else None
        try:
            number, attributes, datasets, size = read_file(path, reader, sealed=sealed)
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

    def start_over(
        self, *, config: Mapping[str, Any], hamiltonian: str, unit: str, script: str, options: Mapping[str, Any]
    ) -> None:
        """Replace the record of a run that ended before its first step by that of another one.

        Raises:
            ArchiveError: there are steps.
        """
        if self.step:
            raise ArchiveError(f"{self.path} holds {self.step} steps: it is not started over.")
        header = _header(config, options, hamiltonian=hamiltonian, unit=unit, script=script)
        super().__init__(config, options, {"": header}, {})
        self._changed()

    def flush(self) -> None:
        """Replace the file on disk by the present state, atomically.

        Raises:
            ArchiveError: the archive was opened for reading, or writing failed; the last complete version stays.
        """
        if self._lock is None:
            raise ArchiveError(f"{self.path} was opened for reading or closed: open it with mode 'a' to write.")
        begin = time.perf_counter()
        data = self._image()
        try:
            self._hold_lock()
            replace_file(self._lock.target, data)
        except OSError as error:
            raise ArchiveError(
                f"{self.path} cannot be written ({error.strerror}); the last complete version stays."
            ) from error
        self.size, self._recorded = len(data), False
        self._identity = _identity(self._lock.target)
        end = time.perf_counter()
        self._last_flush = (end, end - begin)

    def _image(self) -> bytes:
        self._settle()
        self._attributes[""]["version"] = VERSION
        image = to_image(self._attributes, self._datasets)
        return seal(image, format=FORMAT, version=VERSION) + image

    def _hold_lock(self) -> None:
        """Take the lock anew if its file was removed, or its folder renamed and made again.

        Raises:
            OSError: the folder is not there.
            ArchiveError: another process has the lock, or has put another file in the place of this archive.
        """
        assert self._lock is not None
        if self._lock.in_place:
            return
        target = self._lock.target
        os.stat(target.parent)  # filelock would make the folder
        lock = _lock(target)
        if _identity(target) not in (None, self._identity):
            lock.release()
            raise ArchiveError(f"{self.path} is another file now, which is left as it is.")
        self._lock.release()
        self._lock = lock

    def save(self) -> None:
        """Flush during a run. A failure is said once; the run goes on in memory and the next flush tries again."""
        try:
            self.flush()
        except ArchiveError as error:
            if not self._failing:
                _say(f"{error} The run goes on in memory and tries again.")
            self._failing = self._recorded = True
            self._last_flush = (time.perf_counter(), self._last_flush[1])
        else:
            if self._failing:
                _say(f"{self.path} is written again: {self.step} steps.")
            self._failing = False

    def flush_if_due(self, policy: FlushPolicy) -> None:
        """Save if the policy allows the time for it, or if the last flush was too long ago."""
        if policy.due(*self._last_flush):
            self.save()

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
        """Flush recorded changes, unless a flush has just failed, and close.

        Raises:
            ArchiveError: the file cannot be written; everything is in a copy among the temporary files, if possible.
        """
        try:
            if self._recorded and not (kind is not None and issubclass(kind, ArchiveError)):
                self._flush_or_rescue()
        finally:
            self.close()

    def _flush_or_rescue(self) -> None:
        try:
            self.flush()
        except ArchiveError as error:
            raise ArchiveError(f"{error} {self._rescued()}") from error

    def _rescued(self) -> str:
        """Write everything to a new folder of temporary files; what was done, as text."""
        copy = Path(tempfile.gettempdir())
        try:
            copy = Path(tempfile.mkdtemp(prefix="nqs-")) / self.path.name
            copy.write_bytes(self._image())
        except OSError as error:
            with suppress(OSError):
                copy.unlink(missing_ok=True)
                copy.parent.rmdir()
            return f"A copy in {copy.parent} failed as well ({error.strerror}): steps since then are lost."
        return f"All {self.step} steps and results are in {copy}: move it to a safe place, nqs resume goes on from it."


def _say(line: str) -> None:
    """A line on standard error, above a progress bar if there is one."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)


def _header(
    config: Mapping[str, Any], options: Mapping[str, Any] | None, *, hamiltonian: str, unit: str, script: str
) -> dict[str, Scalar]:
    """Attributes of the root group.

    Raises:
        TypeError: the configuration is not plain data (JSON).
    """
    texts = {"config": json.dumps(config), "options": json.dumps(options or {})}
    return new_header(hamiltonian=hamiltonian, unit=unit, script=script) | texts


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and number of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _lock(path: Path) -> WriterLock:
    try:
        return WriterLock(path)
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be locked for writing ({error.strerror}): its folder must exist and be writable, on a file "
            "system with locks."
        ) from error
