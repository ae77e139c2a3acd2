"""Archives on file systems that fail during a run, behind links, and moved away: real folders, limits, processes."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import small_transformer

from nqs import VMC, Archive, ArchiveError, FlushPolicy
from nqs.archive import ArchiveLockedError, Checkpoint
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.samplers import TreeSampler

H = BoseHubbard(chain(3), 3, U=4.0)
STEPS = 6
EVERY_STEP = FlushPolicy(longest=0)


def vmc() -> VMC:
    return VMC(H, small_transformer(width=4, heads=1).build(H.hilbert), TreeSampler(n_samples=200))


@pytest.fixture(scope="module")
def energy() -> float:
    return vmc().run(STEPS, progress=False).estimate.energy


@pytest.fixture(autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def limited() -> Iterator[Callable[[int], None]]:
    """Sets the largest length of any file, as a full disk: writing more fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


class At:
    """Watcher that acts after certain steps."""

    def __init__(self, actions: dict[int, Callable[[], object]]) -> None:
        self.actions = actions

    def step(self, row: Any) -> None:
        self.actions.get(int(row["step"]), lambda: None)()

    def close(self) -> None: ...


def run(path: Path, **actions: Callable[[], object]) -> float:
    at = At({int(name.removeprefix("after_")): action for name, action in actions.items()})
    return vmc().run(STEPS, archive=path, progress=False, flush=EVERY_STEP, watch=[at]).estimate.energy


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------------------------------- failures that pass


def test_disk_that_is_full_for_a_while(
    tmp_path: Path, energy: float, limited: Callable[[int], None], capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.h5"
    seen = []
    found = run(
        path, after_1=lambda: limited(1000), after_3=lambda: (seen.append(Archive.open(path).step), limited(-1))
    )
    assert found == energy
    assert seen == [2]  # the last complete version
    assert Archive.open(path).finished
    lines = capfd.readouterr().err.splitlines()
    assert lines == [
        f"{path} cannot be written (File too large); the last complete version stays. "
        "The run goes on in memory and tries again.",
        f"{path} is written again: 5 steps.",
    ]
    assert names(tmp_path) == {"run.h5"}


def test_folder_that_is_renamed_and_comes_back(tmp_path: Path, energy: float) -> None:
    folder, away = tmp_path / "results", tmp_path / "moved"
    folder.mkdir()
    path = folder / "run.h5"
    found = run(path, after_1=lambda: folder.rename(away), after_3=lambda: away.rename(folder))
    assert found == energy
    assert Archive.open(path).finished
    assert names(tmp_path) == {"results"}
    assert names(folder) == {"run.h5"}


def test_folder_that_is_made_anew_is_locked_anew(tmp_path: Path, energy: float) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    path = folder / "run.h5"
    locked = []

    def made_anew() -> None:
        folder.rename(tmp_path / "old")
        folder.mkdir()

    def second_writer() -> None:
        with pytest.raises(ArchiveLockedError):
            Archive.open(path, "a")
        locked.append(True)

    assert run(path, after_1=made_anew, after_3=second_writer) == energy
    assert locked
    assert Archive.open(path).finished
    assert names(folder) == {"run.h5"}
    assert Archive.open(tmp_path / "old" / "run.h5").step == 2


def test_lock_that_was_removed_is_taken_anew(tmp_path: Path, energy: float) -> None:
    path = tmp_path / "run.h5"
    assert run(path, after_1=lambda: (tmp_path / ".run.h5.lock").unlink()) == energy
    assert names(tmp_path) == {"run.h5"}


# ------------------------------------------------------------------------------------------- failures that stay


def test_folder_that_never_comes_back(tmp_path: Path, energy: float, temporary: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    with pytest.raises(
        ArchiveError,
        match=r"run\.h5 cannot be written \(No such file or directory\); the last complete version stays\. "
        r"All 6 steps and results are in (\S+/run\.h5): move it to a safe place, nqs resume goes on from it\.",
    ):
        run(folder / "run.h5", after_1=lambda: folder.rename(tmp_path / "moved"))
    assert names(tmp_path) == {"moved"}
    (copy,) = temporary.glob("nqs-*/run.h5")
    archive = Archive.open(copy)
    assert archive.finished
    assert archive.result is not None
    assert archive.result.energy == energy
    assert Archive.open(tmp_path / "moved" / "run.h5").step == 2


def test_no_room_anywhere(tmp_path: Path, limited: Callable[[int], None], temporary: Path) -> None:
    path = tmp_path / "run.h5"
    with pytest.raises(
        ArchiveError, match=r"\(File too large\).*A copy in .* failed as well \(File too large\): steps"
    ):
        run(path, after_1=lambda: limited(1000))
    assert Archive.open(path).step == 2
    assert names(temporary) == set()
    assert names(tmp_path) == {"run.h5"}


def test_command_that_could_not_write_ends_with_1(tmp_path: Path) -> None:
    """`nqs run` in a process of its own, whose folder is removed on the way; it is stopped with SIGTERM."""
    folder = tmp_path / "results"
    folder.mkdir()
    toy = ["run", "bose-hubbard", "--shape", "3", "--n-particles", "3", "--model.width", "4"]
    command = [sys.executable, "-m", "nqs.cli", *toy]
    command += ["--steps", "100000", "--archive", str(folder / "run.h5"), "--flush.longest", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while "step 1/100000" not in (line := process.stderr.readline()):
            assert line, "the run has ended"
        shutil.rmtree(folder)
        while "The run goes on in memory and tries again." not in (line := process.stderr.readline()):
            assert line, "the run has ended"
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    last = err.splitlines()[-1]
    assert last.startswith(f"error: {folder}/run.h5 cannot be written (No such file or directory)")
    (copy,) = tmp_path.glob("nqs-*/run.h5")
    assert str(copy) in last
    assert Archive.open(copy).step > 1


READ_ONLY = """
import sys, tempfile
from pathlib import Path
import numpy as np
from nqs.archive import Archive, ArchiveError
outer = Path(tempfile.mkdtemp())
print(outer, flush=True)
tempfile.tempdir = str(outer)
folder = outer / "results"
folder.mkdir()
path = folder / "run.h5"
try:
    with Archive.create(path, config={}, hamiltonian="H", unit="J") as archive:
        folder.chmod(0o500)
        archive.write_observable("density", np.ones(3))
        archive.save()
        archive.save()
        if sys.argv[1] == "back":
            folder.chmod(0o700)
except ArchiveError as error:
    print(error)
"""


@pytest.mark.skipif(os.getuid() == 0 and shutil.which("setpriv") is None, reason="root may write everywhere")
@pytest.mark.parametrize("how", ["back", "stays"])
def test_folder_that_becomes_read_only(how: str) -> None:
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.getuid() == 0 else []
    command = [*other, sys.executable, "-P", "-c", READ_ONLY, how]
    done = subprocess.run(command, capture_output=True, text=True)
    if other and "import numpy" in done.stderr:
        pytest.skip("another user cannot read this installation")
    assert done.returncode == 0, done.stderr
    outer, *lines = done.stdout.splitlines()
    path = Path(outer) / "results" / "run.h5"
    try:
        assert done.stderr.count("The run goes on in memory") == 1
        if how == "back":
            assert lines == []
            assert set(Archive.open(path).observables()) == {"density"}
        else:
            (line,) = lines
            copy = re.search(r"\(Permission denied\).* are in (\S+): move it", line)
            assert copy is not None
            assert set(Archive.open(copy[1]).observables()) == {"density"}
            assert Archive.open(path).observables() == {}
    finally:
        path.parent.chmod(0o700)
        shutil.rmtree(outer)


# ------------------------------------------------------------------------------------------------------- links


def record(archive: Archive, step: int) -> None:
    archive.record({"step": step}, step + 1, Checkpoint({}, {}, torch.zeros(1, dtype=torch.uint8)))


def test_a_link_that_is_changed_during_a_run_leads_nowhere_else(tmp_path: Path) -> None:
    """Writer and lock stay where they began: no second writer, and the other file is left alone."""
    one, two, link = tmp_path / "one.h5", tmp_path / "two.h5", tmp_path / "run.h5"
    link.symlink_to(one)
    with Archive.create(link, config={}, hamiltonian="H", unit="J") as archive:
        link.unlink()
        link.symlink_to(two)
        two.write_text("precious")
        record(archive, 0)
        archive.flush()
        with pytest.raises(ArchiveLockedError):
            Archive.open(one, "a")
    assert two.read_text() == "precious"
    assert link.is_symlink()
    assert Archive.open(one).step == 1


def test_relative_paths_stay_where_they_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with Archive.create("run.h5", config={}, hamiltonian="H", unit="J") as archive:
        monkeypatch.chdir(tmp_path / "elsewhere")
        record(archive, 0)
    assert Archive.open(tmp_path / "run.h5").step == 1
    assert names(tmp_path / "elsewhere") == set()


def test_two_processes_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "data")
    (tmp_path / "link.h5").symlink_to(tmp_path / "results" / "run.h5")
    program = "import sys; from nqs import Archive; Archive.open(sys.argv[1], 'a')"
    with Archive.create(tmp_path / "link.h5", config={}, hamiltonian="H", unit="J"):
        for path in ("link.h5", "results/run.h5", "data/run.h5"):
            done = subprocess.run(
                [sys.executable, "-P", "-c", program, str(tmp_path / path)], capture_output=True, text=True
            )
            assert done.returncode == 1
            assert f"is being written by another process (process {os.getpid()} on" in done.stderr
    assert (tmp_path / "link.h5").is_symlink()
    assert names(tmp_path / "data") == {"run.h5"}


def test_another_file_in_the_place_of_a_lost_one_is_left_alone(tmp_path: Path, temporary: Path) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    path = folder / "run.h5"
    archive = Archive.create(path, config={}, hamiltonian="first", unit="J")
    folder.rename(tmp_path / "old")
    folder.mkdir()
    Archive.create(path, config={}, hamiltonian="second", unit="J").close()
    record(archive, 0)
    with (
        pytest.raises(ArchiveError, match=r"run\.h5 is another file now, which is left as it is\. All 1 steps"),
        archive,
    ):
        pass
    assert Archive.open(path).attributes["hamiltonian"] == "second"
    assert names(folder) == {"run.h5"}
    (copy,) = temporary.glob("nqs-*/run.h5")
    assert Archive.open(copy).attributes["hamiltonian"] == "first"


# ----------------------------------------------------------------------------------- runs that failed at the start


def test_a_run_that_failed_before_its_first_step_is_not_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"

    def failing(self: Any, generator: Any) -> None:
        raise RuntimeError("out of memory")

    wrong = VMC(BoseHubbard(chain(3), 3, U=8.0), vmc().wavefunction, TreeSampler(n_samples=10**6))
    sampling = type(wrong.sampler.build(wrong.wavefunction))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "sample", failing)
        with pytest.raises(RuntimeError):
            wrong.run(50, archive=path, progress=False)
    assert Archive.open(path).step == 0
    result = vmc().run(2, archive=path, progress=False)
    archive = Archive.open(path)
    assert archive.config["hamiltonian"]["U"] == 4.0
    assert archive.attributes["hamiltonian"] == str(H)
    assert (archive.step, archive.steps, archive.finished) == (2, 2, True)
    assert result.estimate == vmc().run(2, progress=False).estimate
    with pytest.raises(ArchiveError, match="holds another run"):  # a run with steps is
        wrong.run(50, archive=path, progress=False)
    with pytest.raises(ArchiveError, match="holds 2 steps: it is not started over"), Archive.open(path, "a") as found:
        found.start_over(config={}, hamiltonian="", unit="", script="", options={})
