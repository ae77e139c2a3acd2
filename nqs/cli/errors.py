"""Exit codes of commands and scripts; user errors exit with one line."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from nqs.archive.errors import ArchiveError
from nqs.runtime.interruption import Interrupted
from nqs.runtime.launched import RankError, is_started_by_torchrun
from nqs.runtime.text import printable

OUT_OF_MEMORY = ("can't allocate memory", "out of memory")  # in the messages of PyTorch's RuntimeErrors


class ExitCode(IntEnum):
    """For batch jobs."""

    FINISHED = 0
    ERROR = 1
    USAGE = 2  # wrong options: the same command will never work
    TIME_LIMIT = 3  # everything is saved, steps remain: resume
    # Everything is saved; 128 + number of the signal, as `Interrupted.exit_code`.
    SIGHUP = 129
    SIGINT = 130
    SIGTERM = 143


@contextmanager
def errors_to_exit_codes() -> Iterator[None]:
    """Context manager: user errors and interrupts exit with one line and an `ExitCode`, without a traceback.

    A ValueError is about what the user stated: options, values, files of options. The others are failures.

    Raises:
        SystemExit: instead of these errors.
    """
    try:
        yield
    except Interrupted as error:
        _end(f"interrupted: {error}", error.exit_code, error)
    except KeyboardInterrupt as error:
        line = "interrupted: recorded steps are in the archive; repeat the command to continue."
        _end(line, ExitCode.SIGINT, error)
    except BrokenPipeError:  # nqs show ... | head
        sys.stderr.close()  # else Python reports the broken pipe at its end
        raise SystemExit(int(ExitCode.FINISHED)) from None
    except RankError as error:
        _end(f"error: {error}", ExitCode.ERROR, error)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        line = "out of memory: choose a smaller system, fewer distinct configurations or a narrower network."
        _end(f"error: {line}", ExitCode.ERROR, error)
    except ValueError as error:
        line = printable(error, keep="\n")
        _end(f"error: {line}", ExitCode.USAGE, error)
    except (OSError, FloatingPointError, ArchiveError) as error:
        line = printable(error, keep="\n")
        _end(f"error: {line}", ExitCode.ERROR, error)


def _end(message: str, code: int, error: BaseException) -> None:
    if is_started_by_torchrun():
        from nqs.runtime import ranks  # here, because importing torch takes seconds

        line = ranks.failed(error, code, message)
        if line is not None:
            print(line, file=sys.stderr)
        ranks.end_after_failure(code)
    elif code == ExitCode.ERROR:
        raise SystemExit(message) from None  # Python prints it and exits with 1
    else:
        print(message, file=sys.stderr)
    raise SystemExit(int(code)) from None
