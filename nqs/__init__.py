"""nqs: ground states of quantum many-body Hamiltonians from autoregressive neural quantum states."""

import importlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads sleep instead of spinning: on a busy machine spinning makes a step several times slower
# (measured: 5.1 s against 1.4 s on two loaded cores). Heeded only if torch was not imported before; then one thread is
# the better choice, unless the environment says otherwise.
if "torch" in sys.modules and not {"OMP_WAIT_POLICY", "OMP_NUM_THREADS"} & os.environ.keys():
    sys.modules["torch"].set_num_threads(1)
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

BEGIN = time.monotonic()  # of the process, more or less: a time limit includes the imports

if TYPE_CHECKING:
    from nqs import exact, recipes
    from nqs.archive.archive import Archive, ArchiveError, FlushPolicy
    from nqs.runtime.interruption import Interrupted
    from nqs.vmc.continuation import resume
    from nqs.vmc.guard import NonFiniteError
    from nqs.vmc.loop import VMC
    from nqs.vmc.result import Result
    from nqs.vmc.stages import RunConfig

__all__ = [
    "VMC",
    "Archive",
    "ArchiveError",
    "FlushPolicy",
    "Interrupted",
    "NonFiniteError",
    "Result",
    "RunConfig",
    "exact",
    "recipes",
    "resume",
]

# Imported when they are used: torch takes seconds, and the command line often does without.
_HOMES = {
    "Archive": "archive",
    "ArchiveError": "archive",
    "FlushPolicy": "archive",
    "Interrupted": "runtime.interruption",
}
_HOMES |= dict.fromkeys(("VMC", "NonFiniteError", "Result", "RunConfig", "resume"), "vmc")


def __getattr__(name: str) -> Any:
    if name in ("exact", "recipes"):
        return importlib.import_module(f"nqs.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"nqs.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'nqs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
