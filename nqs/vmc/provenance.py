"""What the outcome of a run depends on besides its configuration: initial parameters, versions, device and threads.

Numbers are the same bit for bit on one machine with the same versions, device and number of CPU threads. Otherwise sums
are taken in another order, and results differ in their last bits first; `steps_differ` says where.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqs.archive.header import package_version
from nqs.protocols import Wavefunction
from nqs.runtime.text import printable

Session = dict[str, str | int]
LONGEST = 1000  # characters of a line about them
NAMES = {"nqs": "nqs", "torch": "torch", "device": "device", "threads": "threads", "float32": "precision of float32"}


def digest_of(parameters: Mapping[str, Tensor] | Mapping[str, np.ndarray]) -> str:
    """SHA-256 of parameters and buffers: their names, types, shapes and bytes."""
    sha = hashlib.sha256()
    for name in sorted(parameters):
        value = parameters[name]
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        sha.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def given_parameters(wavefunction: Wavefunction) -> dict[str, str] | None:
    """The digest of parameters that do not follow from the model's configuration, for that of the run.

    None for those of a new model, and for models whose configuration fixes none.
    """
    config = wavefunction.config
    while hasattr(config, "base"):  # averages over a symmetry have no parameters of their own, but large tables
        config = config.base
    if not hasattr(config, "build"):
        return None
    state = wavefunction.state_dict()
    present = digest_of({name.rsplit("base.", 1)[-1]: tensor for name, tensor in state.items()})
    new, again = (digest_of(config.build(wavefunction.hilbert, "cpu").state_dict()) for _ in range(2))
    # Two new models that differ have random parameters without a seed.
    return None if present == new or new != again else {"parameters": digest_of(state)}


class InitialParameters:
    """`given_parameters` of a wavefunction when an archive was begun: an interrupted run has changed them since."""

    def __init__(self, wavefunction: Wavefunction) -> None:
        self.wavefunction = wavefunction
        self.begun: dict[Path | None, dict[str, str] | None] = {}

    def of(self, archive: str | Path | None) -> dict[str, str] | None:
        """For a run with this archive."""
        key = None if archive is None else Path(archive).resolve()
        if key is None or key not in self.begun or not key.exists():
            self.begun[key] = given_parameters(self.wavefunction)
        return self.begun[key]


def session(device: torch.device, step: int) -> Session:
    """Where and with what the steps from `step` on are made."""
    cuda = device.type == "cuda"
    where = torch.cuda.get_device_name(device) if cuda else torch.backends.cpu.get_cpu_capability()
    return {
        "step": step,
        "nqs": package_version(),
        "torch": torch.__version__,
        "device": f"{device.type} ({where})",
        "threads": torch.get_num_threads(),
        "float32": torch.get_float32_matmul_precision(),
    }


def steps_differ(before: Mapping[str, Any], now: Session) -> str | None:
    """One line if the steps from here on may differ in their last bits from those of an uninterrupted run."""
    changes = [f"{text} {before.get(key)} → {now[key]}" for key, text in NAMES.items() if before.get(key) != now[key]]
    if not changes:
        return None
    text = printable(", ".join(changes), longest=LONGEST)  # archives may be of any origin
    return f"from step {now['step']} on, numbers may differ in their last bits: {text}"
