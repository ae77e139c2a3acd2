"""The record of a run is the same in memory and on disk."""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from places import DATA
from torch import Tensor

from nqs import Archive, ArchiveError, FlushPolicy, exact
from nqs.archive import Checkpoint, MemoryArchive
from nqs.estimators.estimate import EnergyEstimate
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.samplers import ExhaustiveSampler
from nqs.samples import Samples

H = BoseHubbard(chain(3), 3, U=4.0)
CONFIG = {"run": {"steps": 7}, "hamiltonian": {"U": 4.0}}
GENERATOR = torch.arange(5, dtype=torch.uint8)
HEADER: dict[str, Any] = {"hamiltonian": "H = 0", "unit": "t", "script": "toy", "options": {"steps": 7}}


@pytest.fixture(params=["memory", "disk"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MemoryArchive]:
    """An empty archive in either home."""
    if request.param == "memory":
        archive: MemoryArchive = MemoryArchive.create(config=CONFIG, **HEADER)
    else:
        archive = Archive.create(tmp_path / "run.h5", config=CONFIG, **HEADER)
    with archive:
        yield archive


@pytest.fixture
def seen(home: MemoryArchive) -> Callable[[], MemoryArchive]:
    """What there is after a flush: on disk, another process's view."""

    def look() -> MemoryArchive:
        home.flush()
        return Archive.open(home.path) if isinstance(home, Archive) else home

    return look


def record(archive: MemoryArchive, step: int, *, sampler: Mapping[str, Tensor] | None = None, **row: float) -> None:
    """Step number `step`; its state can be told from that of every other."""
    model = {"a.w": torch.full((2, 2), float(step)), "a.b": torch.tensor(step)}
    archive.record(
        {"step": step, "energy": -step / 3} | row,
        step + 1,
        Checkpoint(
            model,
            {"update": torch.ones(3) * step},
            GENERATOR,
            sampler=sampler or {},
            damping=0.5,
            last_good=torch.arange(4.0),
        ),
    )


def samples() -> Samples:
    model = small_transformer(width=4, heads=1).build(H.hilbert)
    return ExhaustiveSampler().build(model).sample(torch.Generator().manual_seed(0))


def test_new_archive_knows_its_configuration_and_nothing_else(home: MemoryArchive) -> None:
    assert home.config == CONFIG
    assert home.options == {"steps": 7}
    assert {name: home.attributes[name] for name in ("format", "version", "hamiltonian", "unit", "script")} == {
        "format": "nqs-run",
        "version": 2,
        "hamiltonian": "H = 0",
        "unit": "t",
        "script": "toy",
    }
    assert (home.step, home.steps, home.has_checkpoint, home.finished) == (0, 7, False, False)
    assert (home.exact, home.result, home.result_step) == (None, None, None)
    assert home.history == home.samples() == home.observables() == {}
    with pytest.raises(ArchiveError, match="holds no checkpoint: the run ended before its first step"):
        home.checkpoint()


def test_checkpoint_is_the_state_after_the_last_step(home: MemoryArchive, seen: Callable[[], MemoryArchive]) -> None:
    for step in range(3):
        record(home, step, sampler={"walkers": torch.full((2, 3), step, dtype=torch.uint8)})
    found = seen()
    checkpoint = found.checkpoint()
    assert found.step == 3
    assert checkpoint.damping == 0.5
    assert checkpoint.last_good is not None
    assert checkpoint.last_good.tolist() == [0, 1, 2, 3]
    assert {name: t.tolist() for name, t in checkpoint.model.items()} == {"a.w": [[2.0, 2.0], [2.0, 2.0]], "a.b": 2}
    assert checkpoint.model["a.b"].dtype == torch.int64
    assert checkpoint.optimiser["update"].tolist() == [2, 2, 2]
    assert torch.equal(checkpoint.generator, GENERATOR)
    assert checkpoint.sampler["walkers"].tolist() == [[2] * 3] * 2
    record(home, 3)
    assert seen().checkpoint().sampler == {}  # nothing is left of the walkers of an earlier stage


def test_record_keeps_values_and_not_tensors(home: MemoryArchive) -> None:
    weights = torch.nn.Parameter(torch.zeros(2))
    home.record({"step": 0}, 1, Checkpoint({"w": weights}, {}, GENERATOR))
    with torch.no_grad():
        weights += 1
    home.checkpoint().model["w"].add_(5)
    assert home.checkpoint().model["w"].tolist() == [0, 0]


def test_start_is_a_checkpoint_without_steps(home: MemoryArchive, seen: Callable[[], MemoryArchive]) -> None:
    home.start(Checkpoint({"w": torch.ones(2)}, {}, GENERATOR, sampler={"walkers": torch.zeros(1)}))
    found = seen()
    assert (found.step, found.has_checkpoint, found.checkpoint().damping) == (0, True, 1.0)
    assert found.checkpoint().model["w"].tolist() == [1, 1]
    assert found.checkpoint().sampler["walkers"].tolist() == [0]


def test_history_has_one_value_a_step_and_nan_where_there_is_none(
    home: MemoryArchive, seen: Callable[[], MemoryArchive]
) -> None:
    record(home, 0, extra=1.0)
    record(home, 1, later=2.0)
    np.testing.assert_array_equal(home.history["energy"], [0, -1 / 3])
    record(home, 2)
    record(home, 3, last=3.0)
    history = seen().history
    assert history.keys() == {"step", "energy", "extra", "later", "last"}
    np.testing.assert_array_equal(history["extra"], [1, np.nan, np.nan, np.nan])
    np.testing.assert_array_equal(history["later"], [np.nan, 2, np.nan, np.nan])
    np.testing.assert_array_equal(history["last"], [np.nan, np.nan, np.nan, 3])
    np.testing.assert_array_equal(history["step"], [0, 1, 2, 3])


def test_roll_back_puts_the_parameters_before_the_last_step_and_counts_a_retry(
    home: MemoryArchive, seen: Callable[[], MemoryArchive]
) -> None:
    record(home, 0, retries=0)
    record(home, 1, retries=1)
    home.roll_back({"a.w": torch.full((2, 2), -1.0)})
    found = seen()
    assert found.step == 2
    assert found.checkpoint().model["a.w"].tolist() == [[-1, -1], [-1, -1]]
    assert found.checkpoint().optimiser["update"].tolist() == [1, 1, 1]
    assert found.history["retries"].tolist() == [0, 2]


def test_results_come_back(home: MemoryArchive, seen: Callable[[], MemoryArchive]) -> None:
    batch, ground_state = samples(), exact.ground_state(H)
    estimate = EnergyEstimate(energy=-1.0, error=0.1, variance=0.2, v_score=0.3, n_samples=5, n_distinct=4)
    for step in range(7):
        record(home, step)
    home.write_exact(ground_state)
    home.write_samples(batch)
    home.write_observable("density", np.arange(3.0))
    home.write_result(estimate)
    found = seen()
    assert (found.result, found.result_step, found.finished) == (estimate, 7, True)
    assert found.exact is not None
    assert found.exact["energy"] == ground_state.energy
    np.testing.assert_array_equal(found.samples()["configurations"], batch.configurations)
    np.testing.assert_array_equal(found.samples()["weights"], batch.weights)
    np.testing.assert_array_equal(found.observables()["density"], np.arange(3.0))
    record(home, 7)
    assert (seen().result_step, seen().finished) == (7, True)


def test_flush_can_be_asked_for_at_any_time(home: MemoryArchive) -> None:
    home.flush()
    home.flush_if_due(FlushPolicy(longest=0))
    home.close()
    home.close()


def test_messages_say_where_the_run_is_kept(home: MemoryArchive) -> None:
    record(home, 0)
    if isinstance(home, Archive):
        assert (
            home.how_to_continue()
            == f"1 of 7 steps are saved in {home.path}; repeat the command or resume to continue."
        )
        assert home.where_last_state_is() == f"The state before it is in {home.path}."
    else:
        assert home.how_to_continue() == (
            "stopped after step 1 of 7; nothing is saved, because the run has no archive."
        )
        assert home.where_last_state_is() == "The state before it was restored."


def test_memory_takes_what_no_file_can_hold_and_disk_refuses_it_without_a_trace(tmp_path: Path) -> None:
    config = {"hamiltonian": object(), "run": {"steps": 2}}
    assert MemoryArchive.create(config=config, hamiltonian="mine", unit="J").config == config
    with pytest.raises(TypeError):
        Archive.create(tmp_path / "run.h5", config=config, hamiltonian="mine", unit="J")
    assert list(tmp_path.iterdir()) == []


def test_archive_without_a_state_of_the_sampler_reads_as_empty() -> None:
    old = Archive.open(DATA / "version-1.h5")
    assert old.checkpoint().sampler == {}


def test_looking_at_archives_needs_no_torch() -> None:
    program = "import sys, nqs.archive; from nqs.archive import MemoryArchive; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
