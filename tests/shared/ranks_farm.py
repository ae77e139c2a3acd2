"""Several ranks without several imports: one process that forks them, for test_ranks.py.

    python tests/shared/ranks_farm.py FOLDER     runs everything and writes FOLDER/found.json

`equal` holds what ranks_cases.py gives on 1, 2 and 3 ranks; `ended` how ranks end of which one fails: their exit codes,
the seconds until all have ended, and what they printed.
"""

import importlib
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nqs.cli import main as nqs
from nqs.runtime.launched import rank_of_process

import ranks_cases

SIZES = (1, 2, 3)
# What the ranks need and would otherwise import each for itself.
IMPORTED = ("nqs.scripts.heisenberg", "nqs.vmc", "scipy.sparse.linalg", "scipy.special", "torch.profiler", "tyro")
RUN = "run heisenberg --shape 8 --sampled --distinct 30 --device cpu --flush.longest 0 --model.width 8"


class Ranks:
    """Forked processes in the environment of torchrun."""

    def __init__(self, size: int, target: Callable[[], object], output: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.output, self.processes, self.begin = output, [], time.monotonic()
        for rank in range(size):
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            process = os.fork()
            if not process:
                self._become(target, {name: str(value) for name, value in environment.items()})
            self.processes.append(process)

    def _become(self, target: Callable[[], object], environment: dict[str, str]) -> None:
        os.environ.update(environment)
        descriptor = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = 0
        try:
            target()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())  # as the interpreter at its end
            code = 1
        finally:
            from nqs.runtime import ranks

            try:
                ranks.finish()
                sys.stdout.flush()
            except BaseException:
                traceback.print_exc()
            os._exit(code)

    def wait(self) -> dict[str, Any]:
        """Exit codes, seconds since `begin`, and what was printed."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in self.processes]
        return {"codes": codes, "seconds": time.monotonic() - self.begin, "printed": self.output.read_text()}


def steps_of(archive: Path) -> int:
    from nqs import Archive

    return Archive.open(archive).step if archive.exists() else 0


def wait_for_steps(archive: Path, number: int) -> None:
    end = time.monotonic() + 60
    while steps_of(archive) < number and time.monotonic() < end:
        time.sleep(0.1)


# ------------------------------------------------------------------------------------------------------ failures


def run(archive: Path, steps: int, **patches: Callable[[], None]) -> Callable[[], None]:
    """`nqs run` after a patch of rank 1 (`other`) or 0 (`first`)."""

    def target() -> None:
        name = "other" if rank_of_process() == 1 else "first" if rank_of_process() == 0 else ""
        patches.get(name, lambda: None)()
        nqs([*RUN.split(), "--steps", str(steps), "--archive", str(archive)])

    return target


def error_in_step_5() -> None:
    from nqs.vmc import loop

    real, calls = loop.make_step, []

    def make_step(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise ValueError("the value of one rank")
        return real(*arguments, **options)

    loop.make_step = make_step


def terminated_on_the_way_out() -> None:
    """SIGTERM, as launchers send it after the end of a rank, while that is on its way from the steps to a message."""
    from nqs.runtime import ranks
    from nqs.runtime.launched import RankError
    from nqs.vmc.loop import VMC

    carry_out, failed = VMC.carry_out, ranks.failed

    def carried_out(*arguments: Any, **options: Any) -> Any:
        try:
            return carry_out(*arguments, **options)
        except RankError:
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    def told(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return failed(*arguments, **options)

    VMC.carry_out, ranks.failed = carried_out, told


def full_disk() -> None:
    from nqs.archive import archive

    real, calls = archive.replace_file, []

    def replace_file(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) > 3:
            raise OSError(28, "No space left on device")
        return real(*arguments, **options)

    archive.replace_file = replace_file


def failures(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}

    def start(name: str, steps: int, **patches: Callable[[], None]) -> tuple[Ranks, Path]:
        archive = folder / f"{name}.h5"
        return Ranks(3, run(archive, steps, **patches), folder / f"{name}.txt"), archive

    def end(name: str, ranks: Ranks, archive: Path) -> None:
        found[name] = ranks.wait() | {"steps": steps_of(archive)}

    started = {
        "killed": start("killed", 10_000),
        "killed, then terminated": start("killed_then", 10_000, first=terminated_on_the_way_out),
        "terminated": start("terminated", 10_000),
        "error": start("error", 10_000, other=error_in_step_5),
        "full": start("full", 6, first=full_disk),
    }
    killed, terminated = {2: signal.SIGKILL}, dict.fromkeys(range(3), signal.SIGTERM)
    for name, hit in (("killed", killed), ("killed, then terminated", killed), ("terminated", terminated)):
        ranks, archive = started[name]
        wait_for_steps(archive, 3)
        ranks.begin = time.monotonic()
        for rank, number in hit.items():
            os.kill(ranks.processes[rank], number)
    for name, (ranks, archive) in started.items():
        end(name, ranks, archive)
    again = Ranks(2, lambda: nqs(f"resume {folder / 'error.h5'} --device cpu --minutes 1e-9".split()), folder / "again")
    end("resumed on 2", again, folder / "error.h5")
    alone = Ranks(1, lambda: nqs(f"resume {folder / 'error.h5'} --device cpu --minutes 1e-9".split()), folder / "alone")
    end("resumed on 1", alone, folder / "error.h5")
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)  # before the first fork
    for name in IMPORTED:
        importlib.import_module(name)
    for deterministic in (True, False):  # the first call imports much
        torch.use_deterministic_algorithms(deterministic)
    equal = [(size, Ranks(size, ranks_cases.main, folder / f"equal_{size}.txt")) for size in SIZES]
    found: dict[str, Any] = {"equal": {size: ranks.wait() for size, ranks in equal}}
    found["ended"] = failures(folder)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
