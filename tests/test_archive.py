"""The archive's documented layout, what it refuses, and that a flush is all or nothing."""

import errno
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

import nqs.archive
from nqs import VMC, Archive, ArchiveError, exact
from nqs.exact import ExactGroundState
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.samplers import TreeSampler
from nqs.samples import Samples
from nqs.statistics import EnergyEstimate

STEPS = 3
H = BoseHubbard(chain(3), 3, U=4.0)  # 10 configurations


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Archive of a short run with an exact energy; tests leave it as it is."""
    path = tmp_path_factory.mktemp("archive") / "run.h5"
    model = Transformer(H.hilbert, width=4, layers=1, heads=1)
    vmc = VMC(H, model, TreeSampler(n_samples=500), evaluation=TreeSampler(n_samples=2000))
    vmc.run(STEPS, archive=path, exact=exact.ground_state(H), progress=False)
    return path


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive.create(tmp_path / "new.h5", config={"U": 4.0}, hamiltonian="H = 0", unit="t")


def record(archive: Archive, step: int, **tensors: Tensor) -> None:
    """One finished step with these parameters."""
    archive.record({"step": step, "energy": -step / 3}, step + 1, tensors, {}, torch.arange(4, dtype=torch.uint8))


def listing(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------ documented layout


def test_header_can_be_read_with_h5py_alone(finished: Path) -> None:
    with h5py.File(finished) as file:
        header = dict(file.attrs)
    documented = nqs.archive.__doc__.split("attributes:")[1].split("(JSON)")[0]
    assert set(header) == {name.strip() for name in documented.split(",")}
    assert header["format"] == "nqs-run"
    assert header["version"] == 1
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", header["package_version"])
    assert re.fullmatch(r"[0-9a-f]{40}|", header["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", header["created"])
    assert header["hamiltonian"] == str(H)
    assert header["unit"] == "J"
    config = json.loads(header["config"])
    assert config["hamiltonian"]["U"] == 4.0
    assert config["hamiltonian"]["type"] == "BoseHubbard"
    assert config["run"]["steps"] == STEPS
    assert set(config) == {"hamiltonian", "model", "sampler", "optimiser", "evaluation", "run", "unit"}


def test_datasets_can_be_read_with_h5py_alone(finished: Path) -> None:
    with h5py.File(finished) as file:
        assert set(file) == {"history", "checkpoint", "samples", "result", "exact", "observables"}

        assert {"step", "energy", "error", "variance", "v_score", "samples", "distinct", "seconds"} <= set(
            file["history"]
        )
        assert {"learning_rate", "update_norm", "gradient_norm", "temperature", "perplexity"} <= set(file["history"])
        for values in file["history"].values():
            assert values.shape == (STEPS,)
            assert values.maxshape == (None,)
            assert np.isfinite(values[:]).all()
        np.testing.assert_array_equal(file["history/step"], np.arange(STEPS))

        assert file["checkpoint"].attrs["step"] == STEPS
        assert set(file["checkpoint"]) == {"model", "optimiser", "generator"}
        model = Transformer(H.hilbert, width=4, layers=1, heads=1).state_dict()
        assert {name: data.shape for name, data in file["checkpoint/model"].items()} == {
            name: tuple(tensor.shape) for name, tensor in model.items()
        }
        n_parameters = sum(tensor.numel() for tensor in model.values())
        assert file["checkpoint/optimiser/update"].shape == (n_parameters,)
        assert file["checkpoint/generator"].dtype == np.uint8

        n = file["samples/configurations"][:]
        assert n.shape == (file["result"].attrs["n_distinct"], 3)
        assert n.dtype == np.uint8
        assert (n.sum(1) == 3).all()
        for name in ("weights", "log_modulus", "phase"):
            assert file["samples"][name].shape == (len(n),)
        assert file["samples/weights"][:].sum() == pytest.approx(1)

        assert set(file["result"].attrs) == {"energy", "error", "variance", "v_score", "n_samples", "n_distinct"}
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
        assert archive.attributes == {name: value for name, value in file.attrs.items() if name != "config"}
        assert archive.config == json.loads(file.attrs["config"])
        for found, group in ((archive.history, "history"), (archive.samples(), "samples")):
            assert set(found) == set(file[group])
            for name, values in found.items():
                np.testing.assert_array_equal(values, file[group][name])
        assert archive.exact == dict(file["exact"].attrs)
        assert archive.result == EnergyEstimate(**{k: v.item() for k, v in file["result"].attrs.items()})
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


def other_version(path: Path, finished: Path) -> None:
    path.write_bytes(finished.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 2


def without_config(path: Path, finished: Path) -> None:
    path.write_bytes(finished.read_bytes())
    with h5py.File(path, "r+") as file:
        del file.attrs["config"]


def flipped(path: Path, finished: Path, *positions: int) -> None:
    data = bytearray(finished.read_bytes())
    for position in positions:
        data[position] ^= 0xFF
    path.write_bytes(data)


def torn_config(path: Path, finished: Path) -> None:
    data = finished.read_bytes()
    assert data.count(b'{"hamiltonian": ') == 1
    path.write_bytes(data.replace(b'{"hamiltonian": ', b'{"hamiltonian"\0\0'))


UNREADABLE = "is not a readable HDF5 file: it is damaged or something else .*left as it is"
HEADER = r"is HDF5, but its header says format .*; this package reads 'nqs-run' version 1\."
DAMAGES = {
    "text": (lambda path, run: path.write_text("E = -7.45979\n"), UNREADABLE),
    "empty": (lambda path, run: path.write_bytes(b""), UNREADABLE),
    "truncated": (lambda path, run: path.write_bytes(run.read_bytes()[:-1]), f"truncated file.*|{UNREADABLE}"),
    "half": (lambda path, run: path.write_bytes(run.read_bytes()[: run.stat().st_size // 2]), UNREADABLE),
    "first block only": (lambda path, run: path.write_bytes(run.read_bytes()[:512]), UNREADABLE),
    "signature": (lambda path, run: flipped(path, run, 0, 5), UNREADABLE),
    "superblock version": (lambda path, run: flipped(path, run, 8), UNREADABLE),
    "size of offsets": (lambda path, run: flipped(path, run, 13), UNREADABLE),
    "end of file address": (lambda path, run: flipped(path, run, *range(40, 48)), UNREADABLE),
    "root group address": (lambda path, run: flipped(path, run, *range(64, 72)), UNREADABLE),
    "configuration": (torn_config, UNREADABLE),
    "no configuration": (without_config, HEADER),
    "foreign": (lambda path, run: write_hdf5(path), HEADER.replace("format .*;", "format None version None;")),
    "foreign format": (lambda path, run: write_hdf5(path, format="other"), "format 'other' version None"),
    "other version": (other_version, "format 'nqs-run' version 2; this package reads 'nqs-run' version 1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_no_archive_is_refused_and_left_as_it_is(damage: str, finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    make, message = DAMAGES[damage]
    make(path, finished)
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match=message) as error:
        Archive.open(path)
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


def half_write(path: Path, data: bytes) -> None:
    """What a full disk does."""
    with path.open("wb") as file:
        file.write(data[: len(data) // 2])
    no_space()


@pytest.mark.parametrize("failure", ["replace", "write", "half a write"])
def test_failed_flush_keeps_the_previous_version(
    failure: str, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(archive, 0, w=torch.tensor([1.0, 2.0]))
    archive.flush()
    before = archive.path.read_bytes()
    record(archive, 1, w=torch.tensor([3.0, 4.0]))
    with monkeypatch.context() as patch:
        if failure == "replace":
            patch.setattr(os, "replace", no_space)
        else:
            patch.setattr(Path, "write_bytes", no_space if failure == "write" else half_write)
        with pytest.raises(
            ArchiveError, match=r"new\.h5 cannot be written \(No space left on device\); the last complete version"
        ):
            archive.flush()
    assert archive.path.read_bytes() == before
    assert listing(archive.path.parent) == {"new.h5"}
    assert Archive.open(archive.path).step == 1
    archive.flush()  # space was made
    assert Archive.open(archive.path).step == 2
    assert listing(archive.path.parent) == {"new.h5"}


def test_file_system_that_becomes_read_only_is_reported(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "write_bytes", read_only)
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
    write = Path.write_bytes

    def in_pieces(path: Path, data: bytes) -> int:
        for end in range(0, len(data) + 1, max(1, len(data) // 5)):
            write(path, data[:end])
            seen.append(Archive.open(archive.path).step)
        return write(path, data)

    record(archive, 0)
    monkeypatch.setattr(Path, "write_bytes", in_pieces)
    archive.flush()
    assert set(seen) == {0}
    assert Archive.open(archive.path).step == 1


def test_two_processes_never_write_into_one_partial_file(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: written.append(path) or no_space())
    for pid in (100, 200):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        with pytest.raises(ArchiveError):
            archive.flush()
    assert len(set(written)) == 2
    assert {path.parent for path in written} == {archive.path.parent}  # a rename is atomic only within a file system


# -------------------------------------------------------------------------------------------------- quantities


def test_history_grows_over_chunks_and_reopening(archive: Archive) -> None:
    n = nqs.archive.CHUNK + 5
    for step in range(n):
        record(archive, step)
    archive.flush()
    again = Archive.open(archive.path)
    record(again, n)
    again.flush()
    history = Archive.open(archive.path).history
    assert history["step"].tolist() == list(range(n + 1))
    np.testing.assert_array_equal(history["energy"], [-step / 3 for step in range(n + 1)])
    assert history["step"].dtype == np.int64
    assert history["energy"].dtype == np.float64


def test_history_keeps_what_is_not_finite(archive: Archive) -> None:
    for value in (1.0, float("inf"), float("-inf"), float("nan")):
        archive.record({"v_score": value}, 1, {}, {}, torch.zeros(1, dtype=torch.uint8))
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


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    archive.record({}, 1, model, optimiser, generator)
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


def test_parameters_of_equal_shape_are_overwritten_in_place(archive: Archive) -> None:
    record(archive, 0, w=torch.zeros(1000), scalar=torch.tensor(1.0))
    archive.flush()
    with h5py.File(archive.path) as file:
        place = file["checkpoint/model/w"].id.get_offset()
    size = archive.path.stat().st_size
    for step in range(1, 20):
        record(archive, step, w=torch.full((1000,), float(step)), scalar=torch.tensor(float(step)))
    archive.flush()
    with h5py.File(archive.path) as file:
        assert file["checkpoint/model/w"].id.get_offset() == place
        assert file["checkpoint/model/w"][0] == file["checkpoint/model/scalar"][()] == 19
    assert archive.path.stat().st_size < size + 1000


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
    again = Archive.create(archive.path, config={}, hamiltonian="", unit="J")  # the first one is still alive
    record(again, 0)
    assert archive.step == 0


def test_two_readers_do_not_share_their_changes(archive: Archive) -> None:
    first, second = Archive.open(archive.path), Archive.open(archive.path)
    record(first, 0)
    assert (first.step, second.step, archive.step, Archive.open(archive.path).step) == (1, 0, 0, 0)
