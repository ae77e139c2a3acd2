"""The HDF5 archive of a run, format `nqs-run` version 1; complete on disk after every flush, whatever happens.

    /                attributes: format, version, package_version, commit, created, hamiltonian, unit, config (JSON)
    /history/NAME    one value a step: step, energy, error, variance, ... (steps,)
    /checkpoint      attribute: step, the number of finished steps
    /checkpoint/model/NAME, /checkpoint/optimiser/NAME    parameters and state by name
    /checkpoint/generator    state of the random generator, bytes
    /samples         the last batch: configurations (U, L), weights, log_modulus, phase (U,)
    /result          attributes: energy, error, variance, v_score, n_samples, n_distinct of the final evaluation
    /exact           attributes: energy, gap, dimension, method, seconds
    /observables/NAME

The file is kept in memory; a flush writes the whole image beside the old file and renames it over that (atomic on
POSIX). A reader therefore always finds a complete file, also while the run goes on or after it was killed.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import h5py
import numpy as np
import torch
from torch import Tensor

from nqs.exact import ExactGroundState
from nqs.samples import Samples
from nqs.statistics import EnergyEstimate

FORMAT, VERSION = "nqs-run", 1
CHUNK = 256  # values of a history dataset stored together
OPEN_READ_WRITE = 1  # H5LT_FILE_IMAGE_OPEN_RW, which h5py does not name


class ArchiveError(Exception):
    """An archive that cannot be read, or that does not belong to this run."""


class Archive:
    """One run on disk. Make it with `create` or `open`; changes reach the disk with `flush`."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file

    @classmethod
    def create(cls, path: str | Path, *, config: Mapping[str, Any], hamiltonian: str, unit: str) -> Self:
        """A new archive.

        Raises:
            ArchiveError: the file exists, or the folder cannot be written to.
        """
        path = Path(path)
        if path.exists():
            raise ArchiveError(f"{path} exists: resume that run, name another archive, or move the file away.")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise ArchiveError(f"{path} cannot be written: its folder {path.parent} does not exist or is read-only.")
        # A name of its own, never seen on disk: HDF5 takes two open files of one name for the same file.
        file = h5py.File(f"{uuid4()}.h5", "w", driver="core", backing_store=False)
        file.attrs.update(
            format=FORMAT,
            version=VERSION,
            package_version=_package_version(),
            commit=_commit(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            hamiltonian=hamiltonian,
            unit=unit,
            config=json.dumps(config),
        )
        archive = cls(path, file)
        archive.flush()
        return archive

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """An archive from disk, read into memory.

        Raises:
            ArchiveError: no file, no HDF5 file, damaged, or not of this format and version.
        """
        path = Path(path)
        if not path.is_file():
            raise ArchiveError(f"{path}: no such archive.")
        try:
            with h5py.File(path, "r", driver="core", backing_store=False) as stored:
                image = stored.id.get_file_image()
            # Changes stay in this copy until flush; a file without write permission can be read all the same.
            file = h5py.File(h5py.h5f.open_file_image(image, OPEN_READ_WRITE))
            found, number = file.attrs.get("format"), file.attrs.get("version")
            config = json.loads(file.attrs.get("config", "null"))
        except Exception as error:
            raise ArchiveError(
                f"{path} is not a readable HDF5 file: it is damaged or something else ({error}). "
                "The file was left as it is; restore it from a copy."
            ) from error
        if found != FORMAT or number != VERSION or not isinstance(config, dict):
            raise ArchiveError(
                f"{path} is HDF5, but its header says format {found!r} version {number}; "
                f"this package reads {FORMAT!r} version {VERSION}. "
                "It is another program's file, or its header is damaged."
            )
        return cls(path, file)

    # --- reading ----------------------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """What the header says: versions, commit, time, Hamiltonian, unit."""
        return {name: value for name, value in self._file.attrs.items() if name != "config"}

    @property
    def config(self) -> dict[str, Any]:
        """The whole resolved configuration."""
        return json.loads(self._file.attrs["config"])

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return int(self._file["checkpoint"].attrs["step"]) if "checkpoint" in self._file else 0

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Every recorded quantity, (steps,) each."""
        return {name: values[:] for name, values in self._file.get("history", {}).items()}

    @property
    def exact(self) -> dict[str, Any] | None:
        """Energy, gap, dimension, method and seconds of the exact ground state, if it was stored."""
        return dict(self._file["exact"].attrs) if "exact" in self._file else None

    @property
    def result(self) -> EnergyEstimate | None:
        """The final evaluation, if the run got that far."""
        if "result" not in self._file:
            return None
        return EnergyEstimate(**{name: value.item() for name, value in self._file["result"].attrs.items()})

    def samples(self) -> dict[str, np.ndarray]:
        """The last batch of samples."""
        return {name: values[:] for name, values in self._file.get("samples", {}).items()}

    def checkpoint(self) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """Model state, optimiser state and state of the random generator.

        Raises:
            ArchiveError: the run has not finished a step.
        """
        if "checkpoint" not in self._file:
            raise ArchiveError(f"{self.path} holds no checkpoint: the run ended before its first step. Start it anew.")
        group = self._file["checkpoint"]
        model, optimiser = (
            {
                name: torch.from_numpy(data[()]) if data.shape else torch.tensor(data[()])
                for name, data in group[part].items()
            }
            for part in ("model", "optimiser")
        )
        return model, optimiser, torch.from_numpy(group["generator"][()])

    # --- writing ----------------------------------------------------------------------------------------------

    def record(
        self,
        quantities: Mapping[str, float],
        step: int,
        model: Mapping[str, Tensor],
        optimiser: Mapping[str, Tensor],
        generator: Tensor,
    ) -> None:
        """One finished step: its quantities and the state after it. Call `flush` to bring it to the disk."""
        history = self._file.require_group("history")
        for name, value in quantities.items():
            if name not in history:
                history.create_dataset(name, (0,), maxshape=(None,), chunks=(CHUNK,), dtype=np.asarray(value).dtype)
            data = history[name]
            data.resize(len(data) + 1, axis=0)
            data[-1] = value
        checkpoint = self._file.require_group("checkpoint")
        checkpoint.attrs["step"] = step
        for part, tensors in (("model", model), ("optimiser", optimiser), (".", {"generator": generator})):
            group = checkpoint.require_group(part)
            for name, tensor in tensors.items():
                _put(group, name, tensor.detach().cpu().numpy())

    def write_samples(self, samples: Samples) -> None:
        """Replace the stored batch."""
        group = self._file.require_group("samples")
        for name in ("configurations", "weights", "log_modulus", "phase"):
            _put(group, name, getattr(samples, name).cpu().numpy())

    def write_exact(self, exact: ExactGroundState) -> None:
        """Store the exact ground-state energy and where it comes from."""
        values = {name: getattr(exact, name) for name in ("energy", "gap", "dimension", "method", "seconds")}
        self._file.require_group("exact").attrs.update(values)

    def write_result(self, result: EnergyEstimate) -> None:
        """Store the final evaluation."""
        self._file.require_group("result").attrs.update(asdict(result))

    def write_observable(self, name: str, values: np.ndarray) -> None:
        """Store one observable by name."""
        _put(self._file.require_group("observables"), name, values)

    def observables(self) -> dict[str, np.ndarray]:
        """All stored observables."""
        return {name: np.asarray(values[()]) for name, values in self._file.get("observables", {}).items()}

    def flush(self) -> None:
        """Replace the file on disk by the present state, in one atomic step."""
        self._file.flush()
        # Named after the process: two that run the same archive by mistake must not write into one file.
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            partial.write_bytes(self._file.id.get_file_image())
            os.replace(partial, self.path)
        except OSError as error:
            with suppress(OSError):  # a file system that has become read-only refuses this too
                partial.unlink(missing_ok=True)
            raise ArchiveError(
                f"{self.path} cannot be written ({error.strerror}); the last complete version stays."
            ) from error


def _put(group: h5py.Group, name: str, values: np.ndarray) -> None:
    """Write in place where shape and type fit, else replace the dataset."""
    if name in group and group[name].shape == values.shape and group[name].dtype == values.dtype:
        group[name][...] = values
        return
    if name in group:
        del group[name]
    group.create_dataset(name, data=values)


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
