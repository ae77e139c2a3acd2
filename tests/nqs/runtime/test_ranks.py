"""Several ranks, gloo on the CPU: one result whatever their number, and a common end. ranks_farm.py runs them once."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from on_gpus import energies
from places import SHARED

from nqs import Archive
from nqs.cli.launch import free_port, killed_rank, launch
from nqs.runtime import ranks
from nqs.runtime.distributed import Communicator, apart, communicator
from nqs.samplers.decoding import dealt

import ranks_cases

ENERGIES, PARAMETERS = 1e-12, 1e-9  # relative
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", "PYTHONPATH": str(SHARED)}


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What ranks_farm.py finds; once for all workers of a test run, which wait for the first one."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "ranks_farm"
    folder.mkdir(exist_ok=True)
    found = folder / "found.json"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.exists():
            command = [sys.executable, str(SHARED / "ranks_farm.py"), str(folder)]
            subprocess.run(command, check=True, timeout=600, env=ENVIRONMENT)
    return json.loads(found.read_text())


def numbers(value: Any) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def of_ranks(farm: Any, size: int) -> Any:
    found = farm["equal"][str(size)]
    assert found["codes"] == [0] * size, found["printed"]
    return json.loads(found["printed"].splitlines()[-1])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ranks_cases.CASES)
def test_results_do_not_depend_on_the_number_of_ranks(name: str, size: int, farm: Any) -> None:
    one, several = of_ranks(farm, 1)[name], of_ranks(farm, size)[name]
    torch.testing.assert_close(numbers(several["energies"]), numbers(one["energies"]), rtol=ENERGIES, atol=ENERGIES)
    torch.testing.assert_close(
        numbers(several["parameters"]), numbers(one["parameters"]), rtol=PARAMETERS, atol=PARAMETERS
    )
    assert len(one["energies"]) >= ranks_cases.STEPS
    if "samples" in one:
        assert several["samples"] == one["samples"]
        assert several["distinct"] == one["distinct"]
        torch.testing.assert_close(numbers(several["weights"]), numbers(one["weights"]), rtol=1e-12, atol=1e-15)


# ------------------------------------------------------------------------------------------------------ the end


def messages(printed: str) -> list[str]:
    """Lines that say why a run has ended."""
    return [line for line in printed.splitlines() if "error: " in line or line.startswith("interrupted: ")]


@pytest.mark.parametrize(
    ("name", "codes", "message"),
    [
        ("killed", [1, 1, -signal.SIGKILL], "another rank of this run has ended"),
        ("killed, then terminated", [1, 1, -signal.SIGKILL], "another rank of this run has ended"),
        ("terminated", [143, 143, 143], "interrupted: SIGTERM: "),
        ("error", [1, 2, 1], "rank 1: error: the value of one rank"),
    ],
)
def test_all_ranks_end_with_one_message(name: str, codes: list[int], message: str, farm: Any) -> None:
    found = farm["ended"][name]
    assert found["codes"] == codes, found["printed"]
    (line,) = messages(found["printed"])
    assert message in line
    assert found["steps"] >= 3


def test_ranks_end_within_20_seconds(farm: Any) -> None:
    assert max(farm["ended"][name]["seconds"] for name in ("killed", "terminated")) < 20


def test_full_disk_of_rank_0(farm: Any) -> None:
    found = farm["ended"]["full"]
    assert found["codes"] == [1, 0, 0]
    assert "The run goes on in memory" in found["printed"]
    (line,) = messages(found["printed"])
    copy = Path(line.split(" results are in ")[1].split(": move")[0])
    assert Archive.open(copy).finished
    assert found["steps"] >= 2


def test_a_run_goes_on_with_another_number_of_ranks(farm: Any) -> None:
    before, two, one = (farm["ended"][name] for name in ("error", "resumed on 2", "resumed on 1"))
    assert (two["codes"], one["codes"]) == ([3, 3], [3])  # the time limit, after one step
    assert [two["steps"], one["steps"]] == [before["steps"] + 1, before["steps"] + 2]


@pytest.mark.parametrize("hit", ["launcher", "rank"])
def test_signals_under_torchrun(hit: str, tmp_path: Path) -> None:
    archive, output = tmp_path / "run.h5", tmp_path / "out.txt"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    run = "-m nqs run heisenberg --shape 8 --sampled --distinct 30 --device cpu --flush.longest 0 --steps 10000"
    with output.open("w") as out:
        place = ["--master-port", str(free_port())]
        whole = [*command, *place, *run.split(), "--archive", str(archive)]
        launcher = subprocess.Popen(whole, stdout=out, stderr=out, env=ENVIRONMENT)
    end = time.monotonic() + 120
    while (not archive.exists() or Archive.open(archive).step < 2) and time.monotonic() < end:
        time.sleep(0.2)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    begin = time.monotonic()
    os.kill(launcher.pid if hit == "launcher" else int(children[-1]), signal.SIGTERM if hit == "launcher" else 9)
    assert launcher.wait(timeout=60) != 0
    assert time.monotonic() - begin < 20
    (line,) = messages(output.read_text())
    assert ("interrupted: SIGTERM" if hit == "launcher" else "another rank") in line
    assert Archive.open(archive).step >= 2


# ------------------------------------------------------------------------------------------------------- parts


def test_one_process_is_a_communicator_that_does_nothing() -> None:
    one, x = communicator(), torch.arange(6.0)
    assert (one.rank, one.size, one.is_first) == (0, 1, True)
    assert one.share(6) == slice(0, 6)
    assert one.gather(x, number=6)[0] is x
    assert one.sum(x) is x
    assert one.numbers(1.5, 2.0) == (1.5, 2.0)
    assert one.value(one) is one
    assert ranks.start("cpu").size == 1
    with apart():
        assert communicator().size == 1


@pytest.mark.parametrize(("number", "size"), [(10, 3), (2, 4), (0, 2), (9, 3)])
def test_shares_are_all_rows_in_order(number: int, size: int) -> None:
    rows = [row for rank in range(size) for row in range(number)[Communicator(rank, size).share(number)]]
    assert rows == list(range(number))


def test_groups_are_dealt_in_a_snake() -> None:
    weights = torch.tensor([1, 9, 5, 7, 3, 2, 8])
    assert dealt(weights, 3).tolist() == [0, 0, 2, 2, 1, 0, 1]
    large = torch.rand(512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    shares = torch.zeros(8, dtype=torch.float64).index_add_(0, dealt(large, 8), large)
    assert shares.min() > 0.98 * shares.max()


def about(**changes: Any) -> dict[str, Any]:
    one = {"nqs": "1", "torch": "2", "Python": "3.12", "device": "GPU", "processes": 2, "gpus": 2, "host": "node"}
    return one | changes


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({}, ""),
        ({"torch": "3", "host": "node7"}, "rank 0 on node has torch 2, rank 1 on node7 has 3"),
        ({"device": "other GPU"}, "on equal devices"),
        ({"gpus": 1}, "2 processes on node (rank 1 among them) need a GPU each, and PyTorch finds 1 there"),
    ],
)
def test_ranks_that_do_not_fit_together_are_refused(other: dict[str, Any], text: str) -> None:
    verdict = ranks._verdict([about(), about(**other)])
    assert text in verdict
    assert bool(verdict) == bool(text)


def test_more_gpus_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="--gpus 4: PyTorch finds 2 GPUs here"):
        launch(4, ["-m", "nqs"])


def test_no_thread_is_left_when_a_rank_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # One that came back from the store while the interpreter ended aborted the process (exit code 134).
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(signal, "set_wakeup_fd", lambda *_, **__: -1)
    watch = ranks._Watch(0)
    assert "nqs-watch" in {thread.name for thread in threading.enumerate()}
    watch.stop()
    assert "nqs-watch" not in {thread.name for thread in threading.enumerate()}


def test_a_rank_that_was_killed_is_named() -> None:
    assert killed_rank({0: 143, 2: -9}) == (2, "SIGKILL")
    assert killed_rank({0: -15, 1: 1}) is None


def test_a_model_on_the_gpu_of_another_rank_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="before a model is built"):
        ranks.start("cuda:0")


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_the_result_of_one(tmp_path: Path) -> None:
    command = "heisenberg --shape 10 --sampled --distinct 60 --steps 20 --model.dtype float64"
    one, two = (energies(command, gpus, tmp_path) for gpus in (1, 2))
    torch.testing.assert_close(two, one, rtol=1e-8, atol=0)
