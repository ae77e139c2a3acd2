"""The HDF5 archive of a run, format `nqs-run` version 2; complete on disk after every flush, whatever happens.

    user block       512 bytes of text: format, version, SHA-256 of the rest (see nqs/storage.py)
    /                attributes: format, version, package_version, commit, created, hamiltonian, unit, config (JSON),
                     script, options (JSON)
    /history/NAME    one value a step: step, energy, error, variance, ... (steps,)
    /checkpoint      attributes: step, the number of finished steps; damping, factor on the next update (1: none)
    /checkpoint/model/NAME, /checkpoint/optimiser/NAME    parameters and state by name
    /checkpoint/generator    state of the random generator, bytes
    /checkpoint/last_good    all parameters before the last update, (P,)
    /samples         the last batch: configurations (U, L), weights, log_modulus, phase (U,)
    /result          attributes: energy, error, variance, v_score, n_samples, n_distinct of the last evaluation, and the
                     step after which it was made
    /exact           attributes: energy, gap, dimension, method, seconds
    /observables/NAME

`script` and `options` say which script started the run and with which options; "" and {} for a run from Python. Large
datasets but the parameters, which do not shrink, are compressed with gzip, which every HDF5 library reads.

The contents are kept in memory; a flush writes the whole image beside the old file and renames it over that (atomic on
POSIX). A reader therefore always finds a complete file, also while the run goes on or after it was killed. One process
at a time may write.

Version 1 had no user block, no script and options, no damping and last_good, and no step in /result.
"""

import json
import math
import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from nqs.archive.storage import (
    ArchiveError,
    ArchiveLockedError,
    FlushPolicy,
    WriterLock,
    replace_file,
    seal,
)
from nqs.archive.upgrade import upgrade
from nqs.estimators.estimate import EnergyEstimate

if TYPE_CHECKING:  # torch takes seconds to import: looking at an archive does without
    from torch import Tensor

    from nqs.exact.diagonalisation import ExactGroundState
    from nqs.samples import Samples
from nqs.archive.hdf5 import EXACT, FORMAT, VERSION, Attributes, Datasets, Scalar, _read, _to_image

__all__ = ["FORMAT", "VERSION", "Archive", "ArchiveError", "ArchiveLockedError", "FlushPolicy"]


class Archive:
    """One run on disk. Make it with `create` or `open`; changes reach the disk with `flush`.

    Attributes:
        path: of the file.
        size: bytes of the file when it was last read or written.
        read_version: version of the format that it was read from.
    """

    def __init__(
        self, path: Path, attributes: Attributes, datasets: Datasets, *, size: int = 0, lock: WriterLock | None = None
    ) -> None:
        self.path = path
        self.size = size
        self.read_version = VERSION
        self._attributes = attributes
        self._datasets = datasets
        self._rows: list[Mapping[str, float]] = []  # of the history, not yet among the datasets
        self._lock = lock
        self._recorded = False  # something that is not on disk
        self._last_flush = (-math.inf, 0.0)  # end and duration

    @classmethod
    def create(
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
        """
        path = Path(path)
        if path.exists():
            raise ArchiveError(f"{path} exists: resume that run, name another archive, or move the file away.")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise ArchiveError(f"{path} cannot be written: its folder {path.parent} does not exist or is read-only.")
        header: dict[str, Scalar] = {
            "format": FORMAT,
            "version": VERSION,
            "package_version": _package_version(),
            "commit": _commit(),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "hamiltonian": hamiltonian,
            "unit": unit,
            "config": json.dumps(config),
            "script": script,
            "options": json.dumps(options or {}),
        }
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
            ArchiveError: no file, damaged, not of this format, of a version to come, or written by another process.
        """
        path = Path(path)
        if not path.is_file():
            raise ArchiveError(f"{path}: no such archive.")
        lock = _lock(path) if mode == "a" else None
        try:
            number, attributes, datasets, size = _read(path)
        except BaseException:
            if lock is not None:
                lock.release()
            raise
        upgrade(attributes, datasets)
        archive = cls(path, attributes, datasets, size=size, lock=lock)
        archive.read_version = number
        return archive

    def close(self) -> None:
        """Let others write. What was not flushed stays in memory only."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Flush what was recorded, unless a flush is what failed, and close."""
        try:
            if self._recorded and not (kind is not None and issubclass(kind, ArchiveError)):
                self.flush()
        finally:
            self.close()

    # --- reading ----------------------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Scalar]:
        """What the header says: versions, commit, time, Hamiltonian, unit, script."""
        return {name: value for name, value in self._attributes[""].items() if name not in ("config", "options")}

    @property
    def config(self) -> dict[str, Any]:
        """The whole resolved configuration."""
        return json.loads(str(self._attributes[""]["config"]))

    @property
    def options(self) -> dict[str, Any]:
        """Options of the script that started the run; empty for a run from Python."""
        return json.loads(str(self._attributes[""]["options"]))

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return int(self._attributes.get("checkpoint", {}).get("step", 0))

    @property
    def has_checkpoint(self) -> bool:
        """A state to go on from: after a step, or before the first one if the run began with parameters of its own."""
        return "checkpoint" in self._attributes

    @property
    def steps(self) -> int:
        """Number of steps that the run is meant to have; `step` where the configuration does not say."""
        steps = self.config.get("run", {}).get("steps")
        return steps if isinstance(steps, int) else self.step

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Every recorded quantity, (steps,) each."""
        self._settle()
        return self._group("history")

    @property
    def exact(self) -> dict[str, Any] | None:
        """Energy, gap, dimension, method and seconds of the exact ground state, if it was stored."""
        return dict(self._attributes["exact"]) if "exact" in self._attributes else None

    @property
    def result(self) -> EnergyEstimate | None:
        """The last evaluation, if the run got that far."""
        values: dict[str, Any] = dict(self._attributes.get("result", {}))
        values.pop("step", None)
        return EnergyEstimate(**values) if values else None

    @property
    def result_step(self) -> int | None:
        """Number of steps after which `result` was found: less than `steps` where a time limit stopped the run."""
        result = self._attributes.get("result")
        return None if result is None else int(result["step"])

    @property
    def finished(self) -> bool:
        """All steps made and the energy evaluated after the last one."""
        return self.result_step == self.steps

    def samples(self) -> dict[str, np.ndarray]:
        """The last batch of samples."""
        return self._group("samples")

    def observables(self) -> dict[str, np.ndarray]:
        """All stored observables."""
        return self._group("observables")

    def parameters(self) -> dict[str, np.ndarray]:
        """Parameters and buffers of the model after the last step, by name.

        Raises:
            ArchiveError: the run has not finished a step.
        """
        if not self.has_checkpoint:
            raise ArchiveError(f"{self.path} holds no checkpoint: the run ended before its first step. Start it anew.")
        return self._group("checkpoint/model")

    def checkpoint(self) -> "tuple[dict[str, Tensor], dict[str, Tensor], Tensor]":
        """Model state, optimiser state and state of the random generator.

        Raises:
            ArchiveError: the run has not finished a step.
        """
        import torch

        model, optimiser = (
            {name: torch.from_numpy(values.copy()) for name, values in group.items()}
            for group in (self.parameters(), self._group("checkpoint/optimiser"))
        )
        return model, optimiser, torch.from_numpy(self._datasets["checkpoint/generator"].copy())

    @property
    def damping(self) -> float:
        """Factor on the next update."""
        return float(self._attributes.get("checkpoint", {}).get("damping", 1.0))

    @property
    def last_good(self) -> np.ndarray | None:
        """All parameters before the last update, (P,), whose energy was found finite."""
        return self._datasets.get("checkpoint/last_good")

    def _group(self, name: str) -> dict[str, np.ndarray]:
        prefix = f"{name}/"
        return {path.removeprefix(prefix): values for path, values in self._datasets.items() if path.startswith(prefix)}

    # --- writing ----------------------------------------------------------------------------------------------

    def record(
        self,
        quantities: Mapping[str, float],
        step: int,
        model: "Mapping[str, Tensor]",
        optimiser: "Mapping[str, Tensor]",
        generator: "Tensor",
        *,
        damping: float = 1.0,
        last_good: "Tensor | None" = None,
    ) -> None:
        """One finished step: its quantities and the state after it. Call `flush` to bring it to the disk."""
        attributes, datasets = self._with_checkpoint(step, model, optimiser, generator, damping, last_good)
        # Together, so that an interrupted record leaves no half of a step.
        rows = [*self._rows, dict(quantities)]
        self._rows, self._attributes, self._datasets, self._recorded = rows, attributes, datasets, True

    def start(self, model: "Mapping[str, Tensor]", optimiser: "Mapping[str, Tensor]", generator: "Tensor") -> None:
        """The state before the first step, for a run that begins with parameters of its own."""
        self._attributes, self._datasets = self._with_checkpoint(0, model, optimiser, generator, 1.0, None)
        self._recorded = True

    def _with_checkpoint(
        self,
        step: int,
        model: "Mapping[str, Tensor]",
        optimiser: "Mapping[str, Tensor]",
        generator: "Tensor",
        damping: float,
        last_good: "Tensor | None",
    ) -> tuple[Attributes, Datasets]:
        """All attributes and datasets with this checkpoint in the place of the last one."""
        tensors = {"checkpoint/generator": generator}
        tensors |= {f"checkpoint/model/{name}": tensor for name, tensor in model.items()}
        tensors |= {f"checkpoint/optimiser/{name}": tensor for name, tensor in optimiser.items()}
        if last_good is not None:
            tensors["checkpoint/last_good"] = last_good
        new = {path: tensor.detach().cpu().numpy().copy() for path, tensor in tensors.items()}
        attributes = self._attributes | {"checkpoint": {"step": step, "damping": damping}}
        datasets = {path: old for path, old in self._datasets.items() if not path.startswith("checkpoint/")} | new
        return attributes, datasets

    def roll_back(self, model: "Mapping[str, Tensor]") -> None:
        """Replace the parameters after the last step by those before it, which counts as a retry."""
        self._settle()
        for name, tensor in model.items():
            self._datasets[f"checkpoint/model/{name}"] = tensor.detach().cpu().numpy().copy()
        if "history/retries" in self._datasets:  # a run begun in format 1 did not count them
            self._datasets["history/retries"] = self._datasets["history/retries"].copy()
            self._datasets["history/retries"][-1] += 1
        self._recorded = True

    def _settle(self) -> None:
        """Move the rows of the history to the datasets; nan where a quantity was not recorded."""
        if not self._rows:
            return
        old = self._group("history")
        done = max(map(len, old.values()), default=0)
        new = {name: np.asarray([row.get(name, np.nan) for row in self._rows]) for name in {**old, **self._rows[0]}}
        if done:
            new = {name: np.concatenate([old.get(name, np.full(done, np.nan)), new[name]]) for name in new}
        self._datasets |= {f"history/{name}": values for name, values in new.items()}
        self._rows = []

    def write_samples(self, samples: "Samples") -> None:
        """Replace the stored batch."""
        for name in ("configurations", "weights", "log_modulus", "phase"):
            self._datasets[f"samples/{name}"] = getattr(samples, name).cpu().numpy().copy()

    def write_exact(self, exact: "ExactGroundState") -> None:
        """Store the exact ground-state energy and where it comes from."""
        self._attributes["exact"] = {name: getattr(exact, name) for name in EXACT}

    def write_result(self, result: EnergyEstimate) -> None:
        """Store an evaluation of the present state."""
        self._attributes["result"] = asdict(result) | {"step": self.step}

    def write_observable(self, name: str, values: np.ndarray) -> None:
        """Store one observable by name."""
        self._datasets[f"observables/{name}"] = np.array(values)

    def flush(self) -> None:
        """Replace the file on disk by the present state, in one atomic step.

        Raises:
            ArchiveError: the archive was opened for reading, or the disk refuses; the last complete version stays.
        """
        if self._lock is None:
            raise ArchiveError(f"{self.path} was opened for reading or closed: open it with mode 'a' to write.")
        begin = time.perf_counter()
        self._settle()
        self._attributes[""]["version"] = VERSION
        image = _to_image(self._attributes, self._datasets)
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
        """Flush where that does not cost more time than the policy allows, or where the last time is long ago."""
        if policy.due(*self._last_flush):
            self.flush()


def _lock(path: Path) -> WriterLock:
    try:
        return WriterLock(path)
    except OSError as error:
        raise ArchiveError(
            f"{path} cannot be locked for writing ({error.strerror}): its folder must exist and be writable, on a file "
            "system with locks."
        ) from error


def _package_version() -> str:
    try:
        return version("nqs")
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    """Commit of the source tree that this file lies in, "" where it is installed without one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
