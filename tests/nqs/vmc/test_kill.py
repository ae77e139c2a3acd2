"""A run that is killed loses at most what came after the last flush, and then ends as if nothing had happened.

Runs live in children of one helper process, forked after its imports, because importing torch takes longer than a run.
The helper reads "PATH ACT LONGEST"; the child prints its process id, then every step that is on disk.

    pytest tests/nqs/vmc/test_kill.py --kills 100        as many kills at random moments
"""

import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from nqs import Archive, resume
from nqs.cli.commands.verify import Verify

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL")

STEPS = 25
PATIENCE = 60.0  # seconds for a line that should take milliseconds
HELPER = f"""
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
torch.use_deterministic_algorithms(True)
from nqs import VMC, Archive, FlushPolicy
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.recipes import OptimiserOptions
from nqs.samplers import TreeSampler

replace, flush = os.replace, Archive.flush

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def half_written(descriptor):
    os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
    die()

def not_renamed(source, target):
    die()

def renamed(source, target):
    replace(source, target)
    die()

def run(path, act, longest, steps={STEPS}):
    h = BoseHubbard(chain(3), 3, U=4.0)
    model = Transformer(h.hilbert, width=4, layers=1, heads=1, mlp_ratio=2)
    optimiser = OptimiserOptions(momentum=0.5)
    vmc = VMC(h, model, TreeSampler(n_distinct=6), optimiser, TreeSampler(n_samples=100))

    def report(archive):
        if act != "run" and archive.step == int(act.split("@")[1]):
            if act.startswith("half"):
                os.fsync = half_written
            else:
                os.replace = renamed if act.startswith("renamed") else not_renamed
        flush(archive)
        print("step", archive.step, flush=True)

    Archive.flush = report
    policy = FlushPolicy(longest=float(longest))
    vmc.run(steps, archive=path, progress=False, seed=3, flush=policy)

run(None, "run", 0, steps=1)  # the first one is slow
print("ready", flush=True)
for line in sys.stdin:
    path, act, longest = line.split()
    child = os.fork()
    if not child:
        print("pid", os.getpid(), flush=True)
        run(path, act, longest)
        os._exit(0)
    print("exit", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Helper:
    """The process that runs are forked from."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", "-c", HELPER]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        self.buffer = b""
        assert self.read() == ["ready"]

    def read(self) -> list[str]:
        """The words of the next line."""
        assert self.process.stdout is not None
        while b"\n" not in self.buffer:
            assert select.select([self.process.stdout], [], [], PATIENCE)[0], "the helper says nothing"
            received = os.read(self.process.stdout.fileno(), 4096)
            assert received, "the helper has died"
            self.buffer += received
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line.decode().split()

    def run(
        self,
        path: Path,
        act: str = "run",
        *,
        longest: float = 0.0,
        until: Callable[[int], float | None] | None = None,
    ) -> tuple[int, int]:
        """Last step flushed and exit status. `until` says after which step, and how much later, to kill the run."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{path} {act} {longest}\n".encode())
        word, pid = self.read()
        assert word == "pid"
        step, killed = 0, False
        while True:
            word, number = self.read()
            if word == "exit":
                return step, int(number)
            step = int(number)
            delay = until(step) if until is not None and not killed else None
            if delay is not None:
                time.sleep(delay)
                with suppress(ProcessLookupError):  # it may have ended by itself
                    os.kill(int(pid), signal.SIGKILL)
                killed = True


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    helper = Helper()
    yield helper
    helper.process.kill()  # no run is under way
    with helper.process:
        pass


@pytest.fixture(scope="module")
def uninterrupted(helper: Helper, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("uninterrupted") / "run.h5"
    assert helper.run(path) == (STEPS, 0)
    return path


def assert_complete(archive: Archive) -> None:
    """History, parameters and generator belong to the same step, and all of it can be read."""
    assert all(len(values) == archive.step for values in archive.history.values())
    assert archive.history["step"].tolist() == list(range(archive.step))
    model, optimiser, generator, *_ = archive.checkpoint()
    assert all(tensor.isfinite().all() for tensor in [*model.values(), *optimiser.values()])
    torch.Generator().set_state(generator)


def assert_same(path: Path, reference: Path) -> None:
    found, expected = Archive.open(path), Archive.open(reference)
    assert found.step == expected.step == STEPS
    for a, b in zip(found.checkpoint()[:2], expected.checkpoint()[:2], strict=True):
        assert a.keys() == b.keys()
        assert all(a[name].numpy().tobytes() == b[name].numpy().tobytes() for name in b)
    assert torch.equal(found.checkpoint()[2], expected.checkpoint()[2])
    for name in expected.history.keys() - {"seconds", "archive_seconds"}:
        np.testing.assert_array_equal(found.history[name], expected.history[name], err_msg=name)
    assert found.result == expected.result


def test_kills_at_random_moments(
    helper: Helper, uninterrupted: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Between flushes, frequent or rare, and inside one; a run that comes to its end is compared and begun anew."""
    rng = random.Random(1)
    kills, runs, done = 0, 0, 0
    path = tmp_path / "0.h5"
    while kills < request.config.getoption("kills"):
        longest = rng.choice([0.0, 60.0])
        act, until = "run", None
        if rng.random() < 0.4:
            step = min(done + rng.randint(1, 8), STEPS)
            act = f"{rng.choice(['half', 'not-renamed', 'renamed'])}@{step}"
        else:
            delay = rng.uniform(0, 0.15)
            until = lambda step, delay=delay: delay  # noqa: E731
        flushed, status = helper.run(path, act, longest=longest, until=until)
        assert status in (0, -signal.SIGKILL)
        if status:
            kills += 1
            if path.exists():  # not before the first flush
                assert Verify(files=(path,))() == 0  # nqs verify
                archive = Archive.open(path)
                if archive.step:
                    assert_complete(archive)
                assert archive.step >= max(done, flushed)  # or killed between the rename and the report
                done = archive.step
        else:
            assert_same(path, uninterrupted)
            assert {file.name for file in tmp_path.iterdir()} == {f"{run}.h5" for run in range(runs + 1)}
            runs, done = runs + 1, 0
            path = tmp_path / f"{runs}.h5"
    assert helper.run(path) == (STEPS, 0)
    assert_same(path, uninterrupted)


def test_kills_inside_a_flush(helper: Helper, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    for act, n, lost in (("half", 4, 1), ("not-renamed", 4, 1), ("renamed", 4, 0), ("half", 9, 1)):
        reported, status = helper.run(path, f"{act}@{n}")
        assert status == -signal.SIGKILL
        assert reported in (0, n - 1)  # 0 where the first step was the last one
        archive = Archive.open(path)
        assert_complete(archive)
        assert archive.step == n - lost
    resume(path, progress=False)
    assert_same(path, uninterrupted)


def test_kill_before_the_first_step(helper: Helper, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    assert helper.run(path, "half@0") == (0, -signal.SIGKILL)
    assert not path.exists()
    assert helper.run(path, "renamed@0") == (0, -signal.SIGKILL)
    assert Archive.open(path).step == 0
    assert helper.run(path) == (STEPS, 0)
    assert_same(path, uninterrupted)


def test_kill_while_the_result_is_written(helper: Helper, uninterrupted: Path, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    reported, status = helper.run(path, until=lambda step: 0.0 if step == STEPS else None)
    assert reported == STEPS
    assert status in (0, -signal.SIGKILL)  # it may have been quicker
    resume(path, progress=False)
    assert_same(path, uninterrupted)
