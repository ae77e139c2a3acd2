"""Jobs side by side: worker processes, several on every visible GPU, each of which measures one job after another."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from nqs.scripts.ablation.jobs import Job, Row, key_of
from nqs.scripts.ablation.worker import MARK
from nqs.scripts.studies import visible_gpus


def places(device: str, parallel: int) -> list[dict[str, str]]:
    """Environment of every worker: `parallel` of them on each GPU, or in all on the CPU.

    Raises:
        ValueError: no GPU is visible.
    """
    if device == "cpu":
        return [{"CUDA_VISIBLE_DEVICES": ""}] * parallel
    gpus = visible_gpus()
    if not gpus:
        raise ValueError("device 'cuda' was asked for, but no GPU is visible: choose --device cpu.")
    return [{"CUDA_VISIBLE_DEVICES": gpu} for _ in range(parallel) for gpu in gpus]


def read_rows(path: Path) -> list[Row]:
    """Rows of a file of JSON lines, [] if there is none; a last line that was cut off is ignored."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def missing(jobs: Sequence[Job], rows: Sequence[Row]) -> list[Job]:
    """Jobs without a row; failed ones are tried again."""
    done = {key_of(row) for row in rows if "failed" not in row}
    return [job for job in jobs if job.key not in done]


def measure(jobs: Sequence[Job], path: Path, *, device: str, parallel: int, until: float = float("inf")) -> int:
    """Measure the jobs and append a row for each to the file as it ends.

    Args:
        until: `time.monotonic()` after which no job begins that would end later.

    Returns:
        Number of jobs that failed.

    Raises:
        ValueError: no GPU is visible.
    """
    waiting: queue.SimpleQueue[Job] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = ends_with_newline(path)
    lock, failed, number = threading.Lock(), [], 0

    with path.open("a") as file:
        if not begun:
            file.write("\n")

        def keep(row: Row) -> None:
            nonlocal number
            with lock:
                file.write(json.dumps(row) + "\n")
                file.flush()
                number += 1
                if "failed" in row:
                    failed.append(row)
                text = row.get("failed") or f"{row['wall']:.0f} s"
                name = f"{row['question']}, {row['problem']}, {row['variant']}, seed {row['seed']}"
                print(f"[{number}/{len(jobs)}] {name}: {text}", flush=True)

        threads = [
            threading.Thread(target=_serve, args=(waiting, environment, keep, until))
            for environment in places(device, parallel)[: len(jobs)]
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return len(failed)


def ends_with_newline(path: Path) -> bool:
    """Whether the next row begins a line of its own."""
    text = path.read_text() if path.exists() else ""
    return not text or text.endswith("\n")


class Worker:
    """One process of `nqs.scripts.ablation.worker`; its messages go to a log beside the rows."""

    def __init__(self, environment: dict[str, str]) -> None:
        threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nqs.scripts.ablation.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads, **environment},
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.jobs, self.answers = self.process.stdin, self.process.stdout

    def measure(self, job: Job) -> Row:
        """The row of a job; with "failed" if the process ended."""
        try:
            self.jobs.write(json.dumps(asdict(job)) + "\n")
            self.jobs.flush()
            for line in self.answers:
                if line.startswith(MARK):
                    row: Row = json.loads(line.removeprefix(MARK))
                    return row
        except BrokenPipeError:
            pass
        return {**asdict(job), "failed": f"the process ended with code {self.process.wait()}"}

    def close(self) -> None:
        with suppress(BrokenPipeError):
            self.jobs.close()
        self.answers.read()
        self.answers.close()
        self.process.wait()


def _serve(
    waiting: "queue.SimpleQueue[Job]", environment: dict[str, str], keep: "Callable[[Row], None]", until: float
) -> None:
    """Measure waiting jobs with one worker, which is replaced if it ends."""
    worker: Worker | None = None
    try:
        while True:
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            if time.monotonic() + job.seconds > until:
                continue
            worker = worker or Worker(environment)
            row = worker.measure(job)
            keep(row)
            if "failed" in row or worker.process.poll() is not None:  # a GPU may be left in a state of error
                worker.close()
                worker = None
    finally:
        if worker is not None:
            worker.close()
