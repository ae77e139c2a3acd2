"""nqs: ground states of quantum many-body Hamiltonians from autoregressive neural quantum states."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nqs import exact, recipes
    from nqs.archive.archive import Archive, ArchiveError, FlushPolicy
    from nqs.driver import ground_state
    from nqs.expectation import expect
    from nqs.optimisation.stages import RunConfig
    from nqs.runtime.interruption import Interrupted
    from nqs.vmc.continuation import resume
    from nqs.vmc.guard import NonFiniteError
    from nqs.vmc.loop import VMC
    from nqs.vmc.result import Result

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
    "expect",
    "ground_state",
    "recipes",
    "resume",
]

# Module paths of 0.1, such as nqs.statistics; none of them is the name of a module of today.
__path__.append(f"{__path__[0]}/paths_of_0_1")

# Imported on first use: torch takes seconds, and many commands do not need it.
_HOMES = {"Interrupted": "runtime.interruption", "ground_state": "driver", "expect": "expectation"}
_HOMES |= dict.fromkeys(("Archive", "ArchiveError", "FlushPolicy"), "archive")
_HOMES |= dict.fromkeys(("VMC", "NonFiniteError", "Result", "RunConfig", "resume"), "vmc")


def __getattr__(name: str) -> Any:
    if name in ("exact", "recipes"):
        return importlib.import_module(f"nqs.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"nqs.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'nqs' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
