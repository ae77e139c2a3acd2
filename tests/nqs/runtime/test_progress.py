"""What a run shows: a bar on a terminal, a line now and then elsewhere, TensorBoard on request."""

import io
import re
import sys
from pathlib import Path

import pytest
from networks import small_transformer

import nqs.runtime.progress
from nqs import VMC
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.runtime.progress import Progress, TensorBoard
from nqs.samplers import TreeSampler


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, steps: int, initial: int = 0, *, show: bool = True
) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(steps, initial, show=show) as progress:
        for step in range(initial, steps):
            progress.update(f"E = {step}")
    return stream.getvalue()


def test_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal(), 3)
    assert "\r" in text
    assert "3/3" in text
    assert "E = 2" in text


def test_log_gets_the_first_and_the_last_step_as_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(monkeypatch, io.StringIO(), 50, 10).splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"step 11/50, \S+ s each, \d\d:\d\d left: E = 10", lines[0])
    assert re.fullmatch(r"step 50/50, \S+ s each, 00:00 left: E = 49", lines[1])


def test_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**6, 5))  # seconds of a step
    monkeypatch.setattr(nqs.runtime.progress.time, "monotonic", lambda: float(next(now)))
    lines = shown(monkeypatch, io.StringIO(), 10).splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 1/10", "step 4/10", "step 7/10", "step 10/10"]
    assert "5 s each, 00:30 left" in lines[1]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_work_that_ends_with_the_time_shows_the_time_that_is_left(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with Progress(None, 1, show=True, unit="batch") as progress:
        progress.update("E = 1", seconds_left=83.0)
    text = stream.getvalue()
    assert "01:23 left: E = 1" in text
    assert "?" not in text.replace("?batch/s", "")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_silence(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, stream, 3, show=False) == ""


def test_tensorboard_gets_every_quantity_of_every_step(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    h = BoseHubbard(chain(3), 3, U=4.0)
    vmc = VMC(h, small_transformer(width=4, heads=1).build(h.hilbert), TreeSampler(n_samples=20))
    history = vmc.run(3, progress=False, watch=[TensorBoard(tmp_path)]).history
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(history) - {"step"}
    energies = events.Scalars("energy")
    assert [event.step for event in energies] == [0, 1, 2]
    assert [event.value for event in energies] == pytest.approx(history["energy"].tolist(), rel=1e-6)


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"TensorBoard is not installed: pip install 'nqs\[tensorboard\]'"):
        TensorBoard(tmp_path)
