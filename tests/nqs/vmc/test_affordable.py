"""Steps and batches that a time limit makes smaller: a clock that passes with every configuration that is drawn."""

import time
from typing import Any

import pytest
import torch
from networks import small_transformer

from nqs import VMC, Archive, resume
from nqs.estimators.local_energy import Energy
from nqs.hamiltonians import Heisenberg
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.runtime.interruption import TimeLimit
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.samplers.tree import TreeSampling
from nqs.vmc.affordable import SHORT, affordable

H = Heisenberg(chain(16), 0)  # 12,870 configurations


def model() -> Transformer:
    return small_transformer(heads=1, seed=0).build(H.hilbert)


class Clock:
    """So many seconds for every distinct configuration that is wanted and for a draw, and once at the start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float, first: float = 0.0, draw: float = 0.0) -> None:
        self.now, self.wanted = 1000.0, list[int]()
        for name in ("monotonic", "perf_counter"):
            monkeypatch.setattr(time, name, lambda: self.now)
        sample = TreeSampling.sample

        def slow(sampling: TreeSampling, generator: torch.Generator) -> Any:
            wanted = sampling.config.n_distinct or 0
            self.now += draw + each * wanted + (0.0 if self.wanted else first)
            self.wanted.append(wanted)
            return sample(sampling, generator)

        monkeypatch.setattr(TreeSampling, "sample", slow)


def test_no_time_limit_and_samplers_without_a_number_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1.0)
    cpu = torch.device("cpu")
    for sampler in (TreeSampler(n_samples=100), ExhaustiveSampler()):
        assert affordable(sampler, model(), Energy(H), TimeLimit(0.01), cpu, 0.2) is sampler
    sampler = TreeSampler(n_distinct=100)
    assert affordable(sampler, model(), Energy(H), TimeLimit(None), cpu, 0.2) is sampler
    assert clock.wanted == []


@pytest.mark.parametrize(
    ("minutes", "wanted", "found"),
    [
        (100.0, 100, 100),  # 100 s fit into a fifth of 6,000 s
        (5.0, 100, 59),  # of 60 s, one of which the measurement took
        (0.5, 100, 5),
        (1e-3, 100, int(SHORT)),  # seconds: a draw that takes less is always made
    ],
)
def test_numbers_that_fit(minutes: float, wanted: int, found: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, 1.0)
    limit = TimeLimit(minutes)
    chosen: Any = affordable(TreeSampler(n_distinct=wanted), model(), Energy(H), limit, torch.device("cpu"), 0.2)
    assert chosen.n_distinct == pytest.approx(found, abs=1)
    assert sum(clock.wanted[2:]) <= 0.25 * max(SHORT, 0.2 * limit.seconds)  # after the first draw and its repetition
    assert sum(clock.wanted) <= max(1, max(SHORT, 0.2 * limit.seconds))
    clock.wanted.clear()
    again: Any = affordable(
        TreeSampler(n_distinct=wanted), model(), Energy(H), TimeLimit(minutes), torch.device("cpu"), 0.2, (7.0, 7.0)
    )
    assert again.n_distinct == pytest.approx(found, abs=1)
    assert clock.wanted == []


def test_what_the_first_draw_takes_once_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 s for caches in the first draw, then 0.1 s a configuration: 16 fit into 12 s, 16 times the first do not."""
    clock = Clock(monkeypatch, 0.1, first=4.0)
    sampler = TreeSampler(n_distinct=16)
    assert affordable(sampler, model(), Energy(H), TimeLimit(1.0), torch.device("cpu"), 0.2) is sampler
    assert clock.wanted == [1, 1]


def test_the_first_draw_leaves_the_time_for_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 s for caches, then 0.1 s a draw of whatever size: 4,096 configurations fit into 6 s."""
    clock = Clock(monkeypatch, 0.0, first=2.0, draw=0.1)
    sampler = TreeSampler(n_distinct=4096)
    assert affordable(sampler, model(), Energy(H), TimeLimit(0.5), torch.device("cpu"), 0.2) is sampler
    assert clock.wanted == [1, 1, 4, 16, 64, 256]


@pytest.mark.parametrize("minutes", [1.0, 4.0])
def test_a_time_limit_below_one_step_bounds_the_run(
    minutes: float, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A step of 200 configurations takes 400 s; the first process and the one that continues it end in time."""
    path, sampler = tmp_path / "run.h5", TreeSampler(n_distinct=200)
    clock = Clock(monkeypatch, 2.0)
    begin = clock.now
    VMC(H, model(), sampler, evaluation=sampler).run(5, archive=path, minutes=minutes, progress=True)
    assert 0.2 * 60 * minutes < clock.now - begin < 1.05 * 60 * minutes
    assert "instead of 200 distinct configurations in each step" in capsys.readouterr().err
    archive = Archive.open(path)
    assert archive.result is not None
    steps, begin = archive.step, clock.now
    resume(path, minutes=minutes, progress=False)
    assert clock.now - begin < 1.05 * 60 * minutes
    assert Archive.open(path).step > steps
