"""How commands and scripts end: exit codes, and one clear line for what users can get wrong."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

from nqs.archive.errors import ArchiveError
from nqs.runtime.interruption import Interrupted


class ExitCode(IntEnum):
    """For batch jobs; wrong options end with 2."""

    FINISHED = 0
    ERROR = 1
    TIME_LIMIT = 3  # all is saved, steps are left: resume
    SIGINT = 130  # all is saved
    SIGTERM = 143  # all is saved


@contextmanager
def errors_to_exit_codes() -> Iterator[None]:
    """What users can get wrong ends the process with one line and an `ExitCode`, not with a traceback.

    Raises:
        SystemExit: instead of the error.
    """
    try:
        yield
    except Interrupted as error:
        _end(f"interrupted: {error}", error.exit_code)
    except KeyboardInterrupt:
        _end("interrupted: what was recorded is in the archive; repeat the command to go on.", ExitCode.SIGINT)
    except BrokenPipeError:  # nqs show ... | head
        sys.stderr.close()  # or Python would complain at its end
        raise SystemExit(int(ExitCode.FINISHED)) from None
    except (ValueError, OSError, FloatingPointError, ArchiveError) as error:
        raise SystemExit(f"error: {error}") from None  # printed by the interpreter, which ends with 1


def _end(message: str, code: int) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(int(code)) from None
