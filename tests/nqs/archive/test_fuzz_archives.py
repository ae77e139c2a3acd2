"""Hostile archives with valid seals: no verb ends in a traceback, crashes, hangs or floods.

pytest tests/nqs/archive/test_fuzz_archives.py --fuzz 5000        as many files, made by tests/shared/fuzz_archives.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

PROGRAM = ROOT / "tests" / "shared" / "fuzz_archives.py"
BATCH = 100  # files of one process
GIBIBYTE = 2**30
SECONDS = 10  # of CPU time for all verbs on a file
PATIENCE = 1800  # seconds for a batch, on a machine that does other work


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "first" in metafunc.fixturenames:
        metafunc.parametrize("first", range(0, metafunc.config.getoption("fuzz"), BATCH))


def test_hostile_archives_end_in_one_line(first: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), str(first), str(first + BATCH)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"{found[-1:]} {done.stderr[-2000:]}"
    tried = [one for one in found if "outcomes" in one]
    assert [one["seed"] for one in tried] == list(range(first, first + BATCH))
    failures = [f"seed {one['seed']}: {one['failure']}" for one in tried if one["failure"]]
    assert not failures, "\n".join(failures)
    # Every 20th file also counts the CPU time of the process that read all since the one before.
    shares = [one["cpu"] / (3 if one["seed"] % 20 == 0 else 1) for one in tried]
    assert max(shares) < SECONDS, max(tried, key=lambda one: one["cpu"])
    assert max(max(one["memory"]) for one in tried) < GIBIBYTE
    opened = sum(one["outcomes"]["open"] == "done" for one in tried)
    assert BATCH / 10 < opened < BATCH * 9 / 10  # mutations that readers refuse, and such that get further
