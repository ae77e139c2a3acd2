"""Signals and time limits: the step in flight is finished, everything is saved, the handlers are put back."""

import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from networks import small_transformer

from nqs import VMC, Archive, ArchiveError, FlushPolicy, Interrupted, resume
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.runtime.interruption import Interruption, TimeLimit
from nqs.runtime.launched import RankError
from nqs.samplers import TreeSampler
from nqs.samplers.tree import TreeSampling

H = BoseHubbard(chain(3), 3, U=4.0)
STEPS = 5


def vmc() -> VMC:
    model = small_transformer(width=4, heads=1).build(H.hilbert)
    return VMC(H, model, TreeSampler(n_samples=40), None, TreeSampler(n_samples=100))


def at_call(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    """Do something in the middle of the step of that number."""
    sample, calls = TreeSampling.sample, []

    def sampled(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == number + 1:
            act()
        return sample(*arguments)

    monkeypatch.setattr(TreeSampling, "sample", sampled)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_and_saves(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        at_call(patch, 2, lambda: os.kill(os.getpid(), number))
        with pytest.raises(
            Interrupted, match=r"SIG\w+: 3 of 5 steps are saved in .*run\.h5; repeat the command or"
        ) as end:
            vmc().run(STEPS, archive=path, progress=False)
    assert end.value.exit_code == 128 + number
    assert isinstance(end.value, KeyboardInterrupt)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert Archive.open(path).step == 3
    reference = vmc().run(STEPS, archive=tmp_path / "reference.h5", progress=False)
    assert resume(path, progress=False).estimate == reference.estimate
    assert {file.name for file in tmp_path.iterdir()} == {"run.h5", "reference.h5"}


def test_signal_without_an_archive_says_that_nothing_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(
        Interrupted, match="stopped after step 2 of 5; nothing is saved, because the run has no archive"
    ):
        vmc().run(STEPS, progress=False)


def test_second_sigint_acts_at_once_and_keeps_the_finished_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_call(monkeypatch, 2, twice)
    with pytest.raises(KeyboardInterrupt) as end:
        vmc().run(STEPS, archive=tmp_path / "run.h5", progress=False)
    assert not isinstance(end.value, Interrupted)
    assert Archive.open(tmp_path / "run.h5").step == 2


def test_second_sigterm_changes_nothing() -> None:
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interruption.number == signal.SIGTERM
        with pytest.raises(Interrupted, match="SIGTERM: all is well"):
            interruption.check("all is well")


def test_signals_in_the_last_flush_cannot_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batch systems repeat SIGTERM while the archive is written."""
    path = tmp_path / "run.h5"
    fsync = os.fsync

    def signalled(descriptor: int) -> None:
        if path.exists():
            os.kill(os.getpid(), signal.SIGTERM)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", signalled)
    at_call(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted):
        vmc().run(STEPS, archive=path, progress=False, flush=FlushPolicy(share=1e-9))
    assert Archive.open(path).step == 3


def test_signal_in_the_evaluation_lets_it_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_call(monkeypatch, STEPS, lambda: os.kill(os.getpid(), signal.SIGTERM))
    vmc().run(STEPS, archive=tmp_path / "run.h5", progress=False)
    assert Archive.open(tmp_path / "run.h5").finished


def test_sigterm_after_the_end_of_another_rank_is_no_news() -> None:
    def left_alone() -> None:
        try:
            raise RankError("another rank has ended")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # by a launcher

    with Interruption(patience=0) as interruption:
        with pytest.raises((RankError, Interrupted)) as end:
            left_alone()
        assert end.type is RankError
        assert interruption.number is None
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what a shell does to background jobs
    try:
        with Interruption() as interruption:
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGINT)
            assert interruption.number is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_can_run() -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(vmc().run(1, progress=False)))
    thread.start()
    thread.join()
    assert len(results) == 1


# ----------------------------------------------------------------------------------------------------- time limit


class Clock:
    """Seconds that pass only in steps of a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
        self.now = 1000.0
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, lambda: self.now)
        sample = TreeSampling.sample

        def slow(*arguments: Any) -> Any:
            self.now += step
            return sample(*arguments)

        monkeypatch.setattr(TreeSampling, "sample", slow)


@pytest.mark.parametrize(
    ("minutes", "steps"),
    [
        (10.0, 5),  # 5 steps of a minute and an evaluation
        (5.0, 4),  # the evaluation, 1 minute, must fit in as well
        (4.0, 3),
        (2.0, 1),
        (0.1, 1),  # one step is made always, or a chain of short jobs would never end
    ],
)
def test_time_limit_leaves_time_for_the_evaluation(
    minutes: float, steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch, 60.0)
    path = tmp_path / "run.h5"
    result = vmc().run(STEPS, archive=path, progress=False, minutes=minutes)
    assert result.steps_left == STEPS - steps
    assert len(result.history["step"]) == steps
    assert clock.now - 1000 <= max(60 * minutes, 120)
    archive = Archive.open(path)
    assert (archive.step, archive.result_step, archive.finished) == (steps, steps, steps == STEPS)
    assert archive.result == result.estimate
    assert ("stopped at the time limit" in str(result)) == (steps < STEPS)


def test_chain_of_limited_runs_ends_like_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = vmc().run(STEPS, archive=tmp_path / "reference.h5", progress=False)
    Clock(monkeypatch, 60.0)
    left = []
    path = tmp_path / "run.h5"
    vmc().run(STEPS, archive=path, progress=False, minutes=3)
    while not Archive.open(path).finished:
        left.append(resume(path, progress=False, minutes=2).steps_left)
    assert left == [2, 1, 0]
    assert Archive.open(path).result == reference.estimate


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_time_limits_are_refused(minutes: float) -> None:
    with pytest.raises(
        ValueError, match=rf"minutes={minutes}: a time limit is a positive number of minutes; leave it out"
    ):
        TimeLimit(minutes)


# ------------------------------------------------------------------------------------------ disks that fail on the way


def vanish(folder: Path) -> None:
    shutil.rmtree(folder)


def refuse_long_files(folder: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def restored_limits() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("fail", "message"), [(vanish, "No such file or directory"), (refuse_long_files, "File too large")]
)
def test_disk_that_fails_in_a_run_is_reported_and_harms_nothing(
    fail: Callable[[Path], None],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    restored_limits: None,
) -> None:
    (tmp_path / "temporary").mkdir()  # for the copy of what cannot be written
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    folder = tmp_path / "results"
    folder.mkdir()
    path = folder / "run.h5"
    with monkeypatch.context() as patch:
        at_call(patch, 2, lambda: fail(folder))
        with pytest.raises(ArchiveError, match=rf"run\.h5 cannot be written \({message}\); the last complete version"):
            vmc().run(STEPS, archive=path, progress=False, flush=FlushPolicy(longest=0))
    if fail is vanish:
        assert [file.name for file in tmp_path.iterdir()] == ["temporary"]
        (copy,) = tmp_path.glob("temporary/nqs-*/run.h5")
        assert Archive.open(copy).finished
        return
    assert [file.name for file in folder.iterdir()] == ["run.h5"]
    assert Archive.open(path).step == 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))  # room was made
    reference = vmc().run(STEPS, progress=False)
    assert resume(path, progress=False).estimate == reference.estimate
