"""The archive's documented layout, what it refuses, and that a flush is all or nothing."""

import errno
import fcntl
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from networks import small_transformer
from places import DATA, DOCS
from torch import Tensor

import nqs.archive.archive
import nqs.archive.hdf5
from nqs import VMC, Archive, ArchiveError, FlushPolicy, exact
from nqs.archive import ArchiveLockedError, Checkpoint
from nqs.archive.lock import writer_of
from nqs.archive.storage import seal
from nqs.estimators.estimate import EnergyEstimate
from nqs.exact import ExactGroundState
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.samplers import TreeSampler
from nqs.samples import Samples

STEPS = 3
H = BoseHubbard(chain(3), 3, U=4.0)  # 10 configurations


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of a short run with an exact energy; tests leave it as it is."""
    path = tmp_path_factory.mktemp("archive") / "run.h5"
    model = small_transformer(width=4, heads=1).build(H.hilbert)
    vmc = VMC(H, model, TreeSampler(n_samples=500), evaluation=TreeSampler(n_samples=2000))
    vmc.run(STEPS, archive=path, exact=exact.ground_state(H), progress=False)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create(tmp_path / "new.h5", config={"U": 4.0}, hamiltonian="H = 0", unit="t")


def record(archive: Archive, step: int, **tensors: Tensor) -> None:
    """One finished step with these parameters."""
    archive.record(
        {"step": step, "energy": -step / 3}, step + 1, Checkpoint(tensors, {}, torch.arange(4, dtype=torch.uint8))
    )


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------ documented layout


def test_header_can_be_read_with_h5py_alone(finished: Path) -> None:
    with h5py.File(finished) as file:
        header = dict(file.attrs)
    documented = nqs.archive.archive.__doc__.split("attributes:")[1].split("(JSON)")[0]
    assert set(header) == {name.strip() for name in documented.split(",")} | {"script", "options"}
    assert header["format"] == "nqs-run"
    assert header["version"] == 2
    assert (header["script"], header["options"]) == ("", "{}")
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", header["package_version"])
    assert re.fullmatch(r"[0-9a-f]{40}|", header["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", header["created"])
    assert header["hamiltonian"] == str(H)
    assert header["unit"] == "J"
    config = json.loads(header["config"])
    assert config["hamiltonian"]["U"] == 4.0
    assert config["hamiltonian"]["type"] == "BoseHubbard"
    assert config["run"]["steps"] == STEPS
    assert set(config) == {"hamiltonian", "model", "sampler", "optimiser", "evaluation", "run", "unit", "energy_scale"}


def test_datasets_can_be_read_with_h5py_alone(finished: Path) -> None:
    with h5py.File(finished) as file:
        groups = {"history", "checkpoint", "samples", "result", "exact", "observables", "provenance", "diagnostics"}
        assert set(file) == groups
        assert set(file["provenance"].attrs) == {"parameters", "sessions"}

        assert {"step", "energy", "error", "variance", "v_score", "samples", "distinct", "seconds"} <= set(
            file["history"]
        )
        assert {"learning_rate", "update_norm", "gradient_norm", "temperature", "perplexity"} <= set(file["history"])
        for values in file["history"].values():
            assert values.shape == (STEPS,)
            assert np.isfinite(values[:]).all()
        np.testing.assert_array_equal(file["history/step"], np.arange(STEPS))

        assert file["checkpoint"].attrs["step"] == STEPS
        assert file["checkpoint"].attrs["damping"] == 1
        assert set(file["checkpoint"]) == {"model", "optimiser", "generator", "last_good"}
        model = small_transformer(width=4, heads=1).build(H.hilbert).state_dict()
        assert {name: data.shape for name, data in file["checkpoint/model"].items()} == {
            name: tuple(tensor.shape) for name, tensor in model.items()
        }
        n_parameters = sum(tensor.numel() for tensor in model.values())
        assert file["checkpoint/optimiser/update"].shape == file["checkpoint/last_good"].shape == (n_parameters,)
        assert file["checkpoint/generator"].dtype == np.uint8

        n = file["samples/configurations"][:]
        assert n.shape == (file["result"].attrs["n_distinct"], 3)
        assert n.dtype == np.uint8
        assert (n.sum(1) == 3).all()
        for name in ("weights", "log_modulus", "phase"):
            assert file["samples"][name].shape == (len(n),)
        assert file["samples/weights"][:].sum() == pytest.approx(1)

        estimate = {"energy", "error", "variance", "v_score", "n_samples", "n_distinct"}
        assert set(file["result"].attrs) == estimate | {"step"}
        assert file["result"].attrs["step"] == STEPS
        assert file["result"].attrs["n_samples"] == 2000
        assert set(file["exact"].attrs) == {"energy", "gap", "dimension", "method", "seconds"}
        assert file["exact"].attrs["dimension"] == 10
        probabilities = file["observables/local_state_probabilities"][:]
        assert probabilities.shape == (3, 4)
        np.testing.assert_allclose(probabilities.sum(1), 1)


def test_no_pickle_anywhere(finished: Path) -> None:
    def plain(name: str, item: h5py.Group | h5py.Dataset) -> None:
        values = list(item.attrs.values()) + ([item[()]] if isinstance(item, h5py.Dataset) else [])
        for value in values:
            assert isinstance(value, str) or np.asarray(value).dtype.kind in "fiuc", name

    with h5py.File(finished) as file:
        plain("/", file)
        file.visititems(plain)


def test_reading_gives_what_h5py_gives(finished: Path) -> None:
    archive = Archive.open(finished)
    with h5py.File(finished) as file:
        assert archive.step == STEPS
        header = {name: value for name, value in file.attrs.items() if name not in ("config", "options")}
        assert archive.attributes == header
        assert archive.config == json.loads(file.attrs["config"])
        for found, group in ((archive.history, "history"), (archive.samples(), "samples")):
            assert set(found) == set(file[group])
            for name, values in found.items():
                np.testing.assert_array_equal(values, file[group][name])
        assert archive.exact == dict(file["exact"].attrs)
        values = {name: value.item() for name, value in file["result"].attrs.items() if name != "step"}
        assert archive.result == EnergyEstimate(**values)
        assert archive.finished
        assert archive.size == finished.stat().st_size
        assert set(archive.observables()) == set(file["observables"])


def test_new_archive_is_on_disk_and_empty(archive: Archive) -> None:
    again = Archive.open(archive.path)
    assert again.config == {"U": 4.0}
    assert again.attributes["unit"] == "t"
    assert again.step == 0
    assert again.history == {}
    assert again.samples() == {}
    assert again.observables() == {}
    assert again.exact is None
    assert again.result is None
    with pytest.raises(ArchiveError, match=r"holds no checkpoint: .* Start it anew"):
        again.checkpoint()


# ------------------------------------------------------------------------------------------------------ create


def test_existing_file_is_not_overwritten(archive: Archive) -> None:
    before = archive.path.read_bytes()
    with pytest.raises(ArchiveError, match=r"new\.h5 exists: resume that run, name another archive, or move"):
        Archive.create(archive.path, config={}, hamiltonian="", unit="J")
    assert archive.path.read_bytes() == before


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"folder .*missing does not exist or is read-only"):
        Archive.create(tmp_path / "missing" / "x.h5", config={}, hamiltonian="", unit="J")
    assert listing(tmp_path) == set()


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ArchiveError, match=r"folder .*file does not exist or is read-only"):
        Archive.create(tmp_path / "file" / "x.h5", config={}, hamiltonian="", unit="J")
    assert (tmp_path / "file").read_text() == "not a folder"


def test_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may write everywhere
    with pytest.raises(ArchiveError, match="does not exist or is read-only"):
        Archive.create(tmp_path / "x.h5", config={}, hamiltonian="", unit="J")
    assert listing(tmp_path) == set()


def test_a_file_of_the_same_name_in_the_working_directory_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "x.h5").write_text("precious")
    monkeypatch.chdir(tmp_path)
    record(Archive.create("results/x.h5", config={}, hamiltonian="", unit="J"), 0, w=torch.ones(2))
    assert (tmp_path / "x.h5").read_text() == "precious"


# -------------------------------------------------------------------------------------------------------- open


def write_hdf5(path: Path, **attributes: Any) -> None:
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
        file["energy"] = np.arange(3.0)


def flipped(path: Path, finished: Path, *positions: int) -> None:
    data = bytearray(finished.read_bytes())
    for position in positions:
        data[position] ^= 0xFF
    path.write_bytes(data)


def changed(path: Path, finished: Path, change: Callable[[h5py.File], object], version: int = 2) -> None:
    """The run after a change of its contents, with a new seal, as if an archive had been written like that."""
    image = path.with_suffix(".image")
    image.write_bytes(finished.read_bytes()[512:])
    with h5py.File(image, "r+") as file:
        change(file)
    data = image.read_bytes()
    image.unlink()
    path.write_bytes(seal(data, format="nqs-run", version=version) + data)


def resealed(change: Callable[[h5py.File], object], version: int = 2) -> Callable[[Path, Path], None]:
    return lambda path, finished: changed(path, finished, change, version)


def replaced(file: h5py.File, name: str, values: Any) -> None:
    del file[name]
    file[name] = values


def external(file: h5py.File) -> None:
    """Data in another file of the reader's machine."""
    del file["history/energy"]
    file.create_dataset("history/energy", (STEPS,), "f8", external=[("/etc/hostname", 0, 8 * STEPS)])


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((STEPS,), "f8")
    layout[:] = h5py.VirtualSource("other.h5", "x", (STEPS,))
    del file["history/energy"]
    file.create_virtual_dataset("history/energy", layout)


def bomb(file: h5py.File) -> None:
    """A terabyte when it is read, next to nothing in the file."""
    del file["history/energy"]
    file.create_dataset("history/energy", (2**37,), "f8", chunks=(2**20,), compression="gzip")


SEAL = "is no readable archive: it does not begin with the seal of an nqs-run archive.*left as it is; restore it"
CHECKSUM = r"is no readable archive: its checksum is wrong: bytes were changed or cut off .*\(now \d+\).*left as it is"
HEADER = r"is HDF5, but its header says format .*; this package reads 'nqs-run' versions 1 to 2\."
LAYOUT = "has the header of an archive, but not its layout: .*left as it is; restore it from a copy"
CONTENTS = "is no readable archive: .*left as it is; restore it from a copy"
DAMAGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "text": (lambda path, run: path.write_text("E = -7.45979\n"), SEAL),
    "empty": (lambda path, run: path.write_bytes(b""), SEAL),
    "truncated": (lambda path, run: path.write_bytes(run.read_bytes()[:-1]), CHECKSUM),
    "longer": (lambda path, run: path.write_bytes(run.read_bytes() + b"\0"), CHECKSUM),
    "half": (lambda path, run: path.write_bytes(run.read_bytes()[: run.stat().st_size // 2]), CHECKSUM),
    "user block only": (lambda path, run: path.write_bytes(run.read_bytes()[:512]), CHECKSUM),
    "without user block": (lambda path, run: path.write_bytes(run.read_bytes()[512:]), HEADER),
    "format": (lambda path, run: flipped(path, run, 0), SEAL),
    "zeros of the user block": (lambda path, run: flipped(path, run, 511), SEAL),
    "checksum": (lambda path, run: path.write_bytes(run.read_bytes().replace(b"\nsha256 ", b"\nsha256 0", 1)), SEAL),
    "first byte of HDF5": (lambda path, run: flipped(path, run, 512), CHECKSUM),
    "last byte": (lambda path, run: flipped(path, run, -1), CHECKSUM),
    "changed by hand": (
        lambda path, run: path.write_bytes(run.read_bytes().replace(b'"U": 4.0', b'"U": 8.0')),
        CHECKSUM,
    ),
    "foreign": (lambda path, run: write_hdf5(path), HEADER.replace("format .*;", "format None version None;")),
    "foreign format": (lambda path, run: write_hdf5(path, format="other"), "format 'other' version None"),
    "broken foreign": (
        lambda path, run: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500)),
        "is no readable archive: the HDF5 library cannot read it",
    ),
    "version to come": (
        resealed(lambda file: file.attrs.update(version=3), 3),
        "is of version 3 of the archive format; this package reads versions 1 to 2: update nqs",
    ),
    "two versions": (resealed(lambda file: file.attrs.update(version=3)), "header says format 'nqs-run' version 3"),
    "no format": (resealed(lambda file: file.attrs.pop("format")), "header says format None version 2"),
    "no configuration": (resealed(lambda file: file.attrs.pop("config")), f"{LAYOUT[:-60]}.*config"),
    "configuration of numbers": (resealed(lambda file: file.attrs.update(config=3)), "attribute config is not text"),
    "torn configuration": (resealed(lambda file: file.attrs.update(config='{"run"')), LAYOUT),
    "configuration as a list": (resealed(lambda file: file.attrs.update(config="[]")), "config is not a JSON object"),
    "steps as a list": (
        resealed(lambda file: file.attrs.update(config='{"run": []}')),
        "run in the configuration is not",
    ),
    "attribute of bytes": (resealed(lambda file: file.attrs.update(unit=np.void(b"x"))), CONTENTS),
    "uneven history": (
        resealed(lambda file: replaced(file, "history/energy", np.ones(STEPS + 1))),
        "the history has columns of different shapes",
    ),
    "no generator": (resealed(lambda file: file["checkpoint"].pop("generator")), LAYOUT),
    "generator of numbers": (
        resealed(lambda file: replaced(file, "checkpoint/generator", np.ones(3))),
        "the random generator is not in bytes",
    ),
    "negative step": (
        resealed(lambda file: file["checkpoint"].attrs.update(step=-1)),
        "the step of the checkpoint is not a",
    ),
    "result without energy": (resealed(lambda file: file["result"].attrs.pop("energy")), LAYOUT),
    "result of text": (resealed(lambda file: file["result"].attrs.update(energy="low")), "text instead of numbers"),
    "exact without energy": (resealed(lambda file: file["exact"].attrs.pop("energy")), "the exact ground state has"),
    "text as data": (resealed(lambda file: replaced(file, "history/energy", "low")), "history/energy holds no numbers"),
    "link to another file": (
        resealed(lambda file: file.update({"elsewhere": h5py.ExternalLink("/etc/hostname", "x")})),
        "elsewhere is a link to elsewhere",
    ),
    "group that holds itself": (resealed(lambda file: file["exact"].update(me=file["exact"])), "nested too deeply"),
    "data in another file": (resealed(external), "the data of history/energy are not in the file"),
    "virtual data": (resealed(virtual), "the data of history/energy are not in the file"),
    "more data than a file can hold": (resealed(bomb), "the data of history/energy are not in the file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_archive_is_refused_and_left_as_it_is(
    damage: str, finished: Path, tmp_path: Path, unchecked: None
) -> None:
    path = tmp_path / "x.h5"
    make, message = DAMAGES[damage]
    make(path, finished)
    before = path.read_bytes()
    for mode in ("r", "a"):
        with pytest.raises(ArchiveError, match=message) as error:
            Archive.open(path, mode)
        assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert listing(tmp_path) == {"x.h5"}


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match=r"none\.h5: no such archive"):
        Archive.open(tmp_path / "none.h5")
    with pytest.raises(ArchiveError, match="no such archive"):
        Archive.open(tmp_path)  # a folder
    assert listing(tmp_path) == set()


def test_opening_and_changing_leaves_the_file_until_flush(finished: Path) -> None:
    before, time = finished.read_bytes(), finished.stat().st_mtime_ns
    archive = Archive.open(finished)
    record(archive, STEPS, w=torch.ones(3))
    archive.write_observable("extra", np.ones(3))
    assert finished.read_bytes() == before
    assert finished.stat().st_mtime_ns == time


def test_archive_without_write_permission_can_be_read(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    path.write_bytes(finished.read_bytes())
    path.chmod(0o444)  # shows nothing when root runs the tests
    assert Archive.open(path).step == STEPS


# ------------------------------------------------------------------------------------------------------- flush


def no_space(*arguments: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("failure", ["replace", "fsync"])
def test_failed_flush_keeps_the_previous_version(
    failure: str, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(archive, 0, w=torch.tensor([1.0, 2.0]))
    archive.flush()
    before = archive.path.read_bytes()
    record(archive, 1, w=torch.tensor([3.0, 4.0]))
    with monkeypatch.context() as patch:
        patch.setattr(os, failure, no_space)
        with pytest.raises(
            ArchiveError, match=r"new\.h5 cannot be written \(No space left on device\); the last complete version"
        ):
            archive.flush()
    assert archive.path.read_bytes() == before
    assert listing(archive.path.parent) == {"new.h5", ".new.h5.lock"}
    assert Archive.open(archive.path).step == 1
    archive.flush()  # space was made
    assert Archive.open(archive.path).step == 2
    archive.close()
    assert listing(archive.path.parent) == {"new.h5"}


def test_disk_that_is_really_full_keeps_the_previous_version(archive: Archive) -> None:
    before = archive.path.read_bytes()
    record(archive, 0, w=torch.zeros(10**5))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, hard))  # no file may be longer than that
    try:
        with pytest.raises(ArchiveError, match=r"cannot be written \(File too large\)"):
            archive.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert archive.path.read_bytes() == before
    assert listing(archive.path.parent) == {"new.h5", ".new.h5.lock"}


def test_folder_that_vanishes_is_reported(archive: Archive, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path)
    with pytest.raises(ArchiveError, match=r"cannot be written \(No such file or directory\); the last complete"):
        archive.flush()
    archive.close()
    assert not tmp_path.exists()


def test_file_system_that_becomes_read_only_is_reported(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "open", read_only)
    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(ArchiveError, match=r"cannot be written \(Read-only file system\)"):
        archive.flush()


def test_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(ArchiveError, match="No space left on device"):
        Archive.create(tmp_path / "x.h5", config={}, hamiltonian="", unit="J")
    assert listing(tmp_path) == set()


def test_second_reader_sees_every_flushed_step_and_nothing_else(archive: Archive) -> None:
    for step in range(4):
        record(archive, step, w=torch.full((2,), float(step)))
        assert Archive.open(archive.path).step == step  # recorded, but not flushed
        archive.flush()
        reader = Archive.open(archive.path)
        assert reader.step == step + 1
        assert reader.checkpoint()[0]["w"].tolist() == [step, step]
        with h5py.File(archive.path, "r") as file:
            assert file["history/energy"].shape == (step + 1,)
            archive.flush()  # also while someone has it open
            assert file["history/energy"].shape == (step + 1,)


def test_no_moment_of_a_flush_shows_an_incomplete_file(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    replace = os.replace

    def look(*arguments: Any) -> None:
        seen.append(Archive.open(archive.path).step)

    def watched_replace(source: Path, target: Path) -> None:
        look()
        replace(source, target)
        look()

    record(archive, 0)
    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(os, "replace", watched_replace)
    archive.flush()
    assert seen == [0, 0, 1]


def test_flush_is_due_by_its_cost_or_after_the_longest_time(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    archive._last_flush = (100.0, 0.5)  # ended then, took half a second
    written = []
    monkeypatch.setattr(Archive, "flush", lambda self: written.append(1))
    for now, policy, expected in (
        (149.0, FlushPolicy(), False),
        (151.0, FlushPolicy(), True),
        (124.0, FlushPolicy(share=0.02), False),
        (126.0, FlushPolicy(share=0.02), True),
        (109.0, FlushPolicy(longest=10), False),
        (111.0, FlushPolicy(longest=10), True),
        (100.0, FlushPolicy(longest=0), True),
    ):
        monkeypatch.setattr(time, "perf_counter", lambda now=now: now)
        written.clear()
        archive.flush_if_due(policy)
        assert bool(written) is expected, (now, policy)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, r"share=0\.0: give a fraction of the time, above 0 and at most 1"),
        ({"share": 2.0}, r"share=2\.0: give a fraction"),
        ({"longest": -1.0}, r"longest=-1\.0: give the seconds between two writes, 0 for every step"),
        ({"longest": float("nan")}, r"longest=nan: give the seconds"),
    ],
)
def test_impossible_flush_policies_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlushPolicy(**options)


# ------------------------------------------------------------------------------------------------- one writer

OTHER = """
import sys, time
from nqs import Archive
archive = Archive.open(sys.argv[1], "a")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_process(archive: Archive) -> Iterator[subprocess.Popen]:
    """Another process that writes the archive."""
    archive.close()
    command = [sys.executable, "-P", "-c", OTHER, str(archive.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_second_writer_is_refused_and_readers_are_not(archive: Archive, other_process: subprocess.Popen) -> None:
    before = archive.path.read_bytes()
    message = (
        rf"new\.h5 is being written by another process \(process {other_process.pid} on .+\): wait for it or stop it"
    )
    with pytest.raises(ArchiveLockedError, match=message):
        Archive.open(archive.path, "a")
    assert Archive.open(archive.path).step == 0
    assert archive.path.read_bytes() == before


def test_lock_of_a_killed_process_is_taken_over_with_what_it_left(
    archive: Archive, other_process: subprocess.Popen
) -> None:
    leftover = archive.path.with_name(f".new.h5.{other_process.pid}.partial")
    leftover.write_text("half an archive")
    other_process.kill()
    other_process.wait()
    assert listing(archive.path.parent) == {"new.h5", ".new.h5.lock", leftover.name}
    with Archive.open(archive.path, "a") as again:
        record(again, 0)
    assert listing(archive.path.parent) == {"new.h5"}
    assert Archive.open(archive.path).step == 1


def test_reader_cannot_flush(archive: Archive) -> None:
    with pytest.raises(ArchiveError, match=r"new\.h5 was opened for reading or closed: open it with mode 'a' to write"):
        Archive.open(archive.path).flush()
    archive.close()
    with pytest.raises(ArchiveError, match="opened for reading or closed"):
        archive.flush()


def test_folder_without_room_for_a_lock_is_reported(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    archive.close()
    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(ArchiveError, match=r"cannot be locked for writing \(Read-only file system\): its folder must"):
        Archive.open(archive.path, "a")


def test_lock_whose_file_was_removed_in_between_is_taken_anew(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, lock = fcntl.flock, archive.path.with_name(".new.h5.lock")
    archive.close()
    calls = []

    def removed(descriptor: int, operation: int) -> None:
        flock(descriptor, operation)
        calls.append(descriptor)
        if len(calls) == 1:  # what the release of another process does
            lock.unlink()

    monkeypatch.setattr(fcntl, "flock", removed)
    with Archive.open(archive.path, "a"):
        assert len(calls) == 2
        with pytest.raises(ArchiveLockedError):
            Archive.open(archive.path, "a")


def test_two_names_of_one_archive_share_its_lock(archive: Archive, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    link = folder / "link.h5"
    link.symlink_to(archive.path)
    with pytest.raises(ArchiveLockedError, match=r"link\.h5 is being written by another process \(process \d+ on "):
        Archive.open(link, "a")
    assert writer_of(link) == writer_of(archive.path) is not None
    archive.close()
    assert writer_of(link) is writer_of(archive.path) is None
    with Archive.open(link, "a") as again:
        assert writer_of(archive.path) == f"process {os.getpid()} on {socket.gethostname()}"
        record(again, 0)
    assert link.is_symlink()
    assert Archive.open(archive.path).step == 1
    assert listing(folder) == {"link.h5"}
    assert listing(tmp_path) == {"new.h5", "elsewhere"}


def test_archive_is_created_where_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    link = tmp_path / "run.h5"
    link.symlink_to(tmp_path / "data" / "real.h5")
    with Archive.create(link, config={}, hamiltonian="H = 0", unit="J"):
        assert listing(tmp_path / "data") == {"real.h5", ".real.h5.lock"}
    assert link.is_symlink()
    assert listing(tmp_path / "data") == {"real.h5"}
    link.unlink()
    link.symlink_to(tmp_path / "gone" / "real.h5")
    with pytest.raises(ArchiveError, match="does not exist or is read-only"):
        Archive.create(link, config={}, hamiltonian="H = 0", unit="J")


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_permissions_of_the_file_are_kept(mode: int, archive: Archive) -> None:
    archive.path.chmod(mode)
    record(archive, 0)
    archive.flush()
    assert archive.path.stat().st_mode & 0o777 == mode


def test_reader_without_write_permission_sees_who_writes(archive: Archive) -> None:
    archive.path.with_name(".new.h5.lock").chmod(0o444)
    assert writer_of(archive.path) == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_forked_process_does_not_take_or_free_the_lock(archive: Archive) -> None:
    """In a process of its own: JAX, which other tests import, warns of forks."""
    archive.close()
    program = f"""
import os
from nqs.archive import Archive, ArchiveLockedError
from nqs.archive.lock import writer_of
archive = Archive.open({str(archive.path)!r}, "a")
child = os.fork()
if not child:
    archive.close()
    os._exit(0)
os.waitpid(child, 0)
assert writer_of(archive.path) is not None
try:
    Archive.open(archive.path, "a")
except ArchiveLockedError:
    print("locked")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "locked\n", done.stderr


# -------------------------------------------------------------------------------------------- every past version

VERSION_1 = DATA / "version-1.h5"


def test_version_1_is_read_and_upgraded_when_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(VERSION_1.read_bytes())
    old = Archive.open(path)
    assert (old.step, old.steps, old.result_step, old.finished) == (5, 5, 5, True)
    assert old.result is not None
    assert old.result.energy == -1.9321231040454778
    assert old.exact is not None
    assert old.exact["energy"] == pytest.approx(-3.1749615197)
    assert old.config["optimiser"]["momentum"] == 0.5
    with h5py.File(VERSION_1) as file:
        assert old.history.keys() == file["history"].keys()
        np.testing.assert_array_equal(old.history["energy"], file["history/energy"][:])
        assert set(old.checkpoint()[0]) == set(file["checkpoint/model"])
    assert (old.checkpoint().damping, old.checkpoint().last_good, old.options) == (1.0, None, {})
    with Archive.open(path, "a") as archive:
        archive.flush()
    assert path.read_bytes().startswith(b"nqs-run/2\n")
    new = Archive.open(path)
    assert new.attributes["version"] == 2
    assert new.attributes["package_version"] == old.attributes["package_version"]
    assert new.result == old.result
    assert_bitwise(new.checkpoint()[0], old.checkpoint()[0])


# -------------------------------------------------------------------------------------------------- quantities


def test_history_grows_until_it_is_compressed_and_over_reopening(archive: Archive) -> None:
    n = nqs.archive.hdf5.COMPRESSED_FROM // 8 + 5
    for step in range(n):
        record(archive, step)
    archive.flush()
    archive.close()
    with Archive.open(archive.path, "a") as again:
        record(again, n)
    history = Archive.open(archive.path).history
    assert history["step"].tolist() == list(range(n + 1))
    np.testing.assert_array_equal(history["energy"], [-step / 3 for step in range(n + 1)])
    assert history["step"].dtype == np.int64
    assert history["energy"].dtype == np.float64


def test_history_keeps_what_is_not_finite(archive: Archive) -> None:
    for value in (1.0, float("inf"), float("-inf"), float("nan")):
        archive.record({"v_score": value}, 1, Checkpoint({}, {}, torch.zeros(1, dtype=torch.uint8)))
    np.testing.assert_array_equal(archive.history["v_score"], [1.0, np.inf, -np.inf, np.nan])


DTYPES = (torch.float64, torch.float32, torch.int64, torch.uint8, torch.bool)
SHAPES = [(), (1,), (3,), (2, 3), (2, 1, 2)]


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...], seed: int) -> Tensor:
    """Every bit random, so also denormal and infinite numbers and nan."""
    size = np.dtype(str(dtype).removeprefix("torch.")).itemsize
    values = np.random.default_rng(seed).integers(0, 256, (int(np.prod(shape)), size), dtype=np.uint8)
    tensor = torch.from_numpy(values.flatten() % 2 if dtype == torch.bool else values.flatten())
    return (tensor.bool() if dtype == torch.bool else tensor.view(dtype)).reshape(shape)


def assert_bitwise(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert found[name].shape == tensor.shape, name
        assert found[name].numpy().tobytes() == tensor.numpy().tobytes(), name


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(
    st.sampled_from(["weight", "blocks.0.mlp.2.bias", "0.exp_avg", "step"]),
    st.tuples(st.sampled_from(DTYPES), st.sampled_from(SHAPES), st.integers(0, 2**32)),
))  # fmt: skip
def test_parameters_come_back_bit_for_bit(tmp_path: Path, tensors: dict[str, Any]) -> None:
    path = tmp_path / "x.h5"
    path.unlink(missing_ok=True)
    model = {name: random_tensor(*arguments) for name, arguments in tensors.items()}
    optimiser = {f"{name}.moment": tensor.clone() for name, tensor in model.items()}
    generator = torch.Generator().manual_seed(3).get_state()
    archive = Archive.create(path, config={}, hamiltonian="", unit="J")
    archive.record({}, 1, Checkpoint(model, optimiser, generator))
    archive.flush()
    for found, expected in zip(Archive.open(path).checkpoint(), (model, optimiser), strict=False):
        assert_bitwise(found, expected)
    assert torch.equal(Archive.open(path).checkpoint()[2], generator)


def test_parameters_that_need_gradients_or_are_views_are_stored_by_value(archive: Archive) -> None:
    w = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    record(archive, 0, w=w)
    with torch.no_grad():
        w *= 2  # after the record
    assert archive.checkpoint()[0]["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_quantity_that_comes_later_is_filled_up_and_one_that_goes_is_kept(archive: Archive) -> None:
    for row in ({"step": 0, "old": 1.5}, {"step": 1, "old": 2.5}):
        archive.record(row, 1, Checkpoint({}, {}, torch.zeros(1, dtype=torch.uint8)))
    archive.flush()
    archive.record({"step": 2, "new": 3.5}, 1, Checkpoint({}, {}, torch.zeros(1, dtype=torch.uint8)))
    archive.flush()
    history = Archive.open(archive.path).history
    assert history["step"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(history["old"], [1.5, 2.5, np.nan])
    np.testing.assert_array_equal(history["new"], [np.nan, np.nan, 3.5])


def test_file_does_not_grow_with_the_parameters_of_past_steps(archive: Archive) -> None:
    sizes = []
    for step in range(20):
        record(archive, step, w=torch.full((1000,), float(step)), scalar=torch.tensor(float(step)))
        archive.flush()
        sizes.append(archive.path.stat().st_size)
    assert sizes[-1] <= sizes[0] + 20 * 16 + 512
    with h5py.File(archive.path) as file:
        assert file["checkpoint/model/w"][0] == file["checkpoint/model/scalar"][()] == 19


def test_compression_pays(archive: Archive, tmp_path: Path) -> None:
    """Samples shrink, parameters are not tried: random digits do not."""
    n = torch.randint(0, 3, (4000, 16), generator=torch.Generator().manual_seed(0))
    archive.write_samples(samples_of(n.tolist()))
    archive.record({}, 1, Checkpoint({"w": torch.rand(4000)}, {}, torch.zeros(1, dtype=torch.uint8)))
    archive.flush()
    with h5py.File(archive.path) as file:
        configurations = file["samples/configurations"]
        assert configurations.compression == "gzip"
        assert configurations.id.get_storage_size() < 0.35 * configurations.nbytes
        assert file["checkpoint/model/w"].compression is None


@pytest.mark.parametrize(
    "changed",
    [torch.arange(7.0), torch.zeros(2, 2), torch.tensor(3.0), torch.arange(3), torch.ones(3).double()],
    ids=str,
)
def test_parameters_of_another_shape_or_type_replace_the_old_ones(changed: Tensor, archive: Archive) -> None:
    record(archive, 0, w=torch.zeros(3), other=torch.ones(2))
    record(archive, 1, w=changed, other=torch.ones(2))
    archive.flush()
    assert_bitwise(Archive.open(archive.path).checkpoint()[0], {"w": changed, "other": torch.ones(2)})


def samples_of(n: list[list[int]]) -> Samples:
    configurations = torch.tensor(n, dtype=torch.uint8)
    p = torch.full((len(n),), 1 / len(n), dtype=torch.float64)
    return Samples(configurations=configurations, weights=p, log_modulus=p.log() / 2, phase=torch.zeros_like(p))


def test_samples_are_replaced_by_the_last_batch(archive: Archive) -> None:
    for n in ([[0, 3], [1, 2]], [[3, 0]], [[2, 1], [1, 2], [0, 3]]):
        archive.write_samples(samples_of(n))
        archive.flush()
        stored = Archive.open(archive.path).samples()
        assert stored["configurations"].tolist() == n
        assert stored["configurations"].dtype == np.uint8
        assert len(stored["weights"]) == len(stored["log_modulus"]) == len(stored["phase"]) == len(n)


def test_result_exact_and_observables_come_back(archive: Archive) -> None:
    result = EnergyEstimate(energy=-1 / 3, error=1e-300, variance=0.1, v_score=1e-9, n_samples=10**12, n_distinct=7)
    ground = ExactGroundState(
        energy=-1 / 7, gap=float("nan"), state=np.ones(1), dimension=1, method="dense", seconds=0.1
    )
    archive.write_result(result)
    archive.write_exact(ground)
    archive.write_observable("density", np.array([0.25, 0.75]))
    archive.write_observable("density", np.array([0.5]))
    archive.write_observable("order", np.array(0.125))
    archive.flush()
    again = Archive.open(archive.path)
    assert again.result == result
    assert again.exact is not None
    assert again.exact["energy"] == ground.energy
    assert np.isnan(again.exact["gap"])
    assert again.exact["method"] == "dense"
    assert "state" not in again.exact
    assert {name: values.tolist() for name, values in again.observables().items()} == {"density": [0.5], "order": 0.125}


# ------------------------------------------------------------------------------------- several archives at a time


def test_archives_of_one_name_in_two_folders_are_two_archives(tmp_path: Path) -> None:
    archives = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        archives.append(Archive.create(tmp_path / folder / "run.h5", config={}, hamiltonian=folder, unit="J"))
    record(archives[0], 0)
    for archive in archives:
        archive.flush()
    assert [Archive.open(archive.path).step for archive in archives] == [1, 0]


def test_archive_can_be_made_anew_after_its_file_was_removed(archive: Archive) -> None:
    archive.path.unlink()
    with pytest.raises(ArchiveLockedError, match="is being written by another process"):  # and may write it again
        Archive.create(archive.path, config={}, hamiltonian="", unit="J")
    archive.close()
    again = Archive.create(archive.path, config={}, hamiltonian="", unit="J")  # the first one is still alive
    record(again, 0)
    assert archive.step == 0


def test_two_readers_do_not_share_their_changes(archive: Archive) -> None:
    first, second = Archive.open(archive.path), Archive.open(archive.path)
    record(first, 0)
    assert (first.step, second.step, archive.step, Archive.open(archive.path).step) == (1, 0, 0, 0)


# ----------------------------------------------------------------------------------------------- docs/archives.md

PAGE = (DOCS / "archives.md").read_text()


def test_page_reads_an_archive_with_h5py_alone(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert set(re.findall(r"^import (\S+)", program, re.MULTILINE)) == {"h5py", "hashlib", "json"}
    assert "from " not in program
    shutil.copy(finished, tmp_path / "bh6.h5")
    monkeypatch.chdir(tmp_path)
    exec(program, {})
    out = capsys.readouterr().out
    assert str(H) in out
    assert "StochasticReconfiguration" in out
    result = Archive.open(finished).result
    assert result is not None
    assert f"{result.energy}" in out
    changed = bytearray(finished.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "bh6.h5").write_bytes(changed)
    with pytest.raises(AssertionError):
        exec(program, {})


def test_page_names_all_that_an_archive_holds(finished: Path) -> None:
    documented = {}
    table = PAGE.split("## Format")[1].split("\n## ")[0]
    for line in re.findall(r"^\| (.+) \| (.+) \|$", table, re.MULTILINE):
        place, what = line
        documented[place.replace("attributes of ", "").strip("`")] = set(re.findall(r"`(\w+)", what))
    with h5py.File(finished) as file:
        assert documented["/"] == set(file.attrs)
        assert documented["/history/NAME"] == set(file["history"])
        assert documented["/checkpoint"] == set(file["checkpoint"].attrs) | set(file["checkpoint"])
        assert documented["/samples"] == set(file["samples"])
        assert documented["/result"] == set(file["result"].attrs)
        assert documented["/exact"] == set(file["exact"].attrs)
        assert documented["/provenance"] == set(file["provenance"].attrs)
        assert documented["/diagnostics"] >= set(file["diagnostics"].attrs)
        assert set(file) == {name.split("/")[1] for name in documented if name.startswith("/") and len(name) > 1}
