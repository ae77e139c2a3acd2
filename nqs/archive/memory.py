"""The record of a run in memory: the interface that the loop writes to, whether or not there is a file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nqs.archive.contents import EXACT, Attributes, Datasets
from nqs.archive.flush import FlushPolicy
from nqs.archive.header import new_header
from nqs.archive.record import Checkpoint, RunRecord
from nqs.estimators.estimate import EnergyEstimate

if TYPE_CHECKING:  # importing torch takes seconds: `nqs show` does without
    from torch import Tensor

    from nqs.exact.diagonalisation import ExactGroundState
    from nqs.samples import Samples


class MemoryArchive(RunRecord):
    """The record of a run without a file. Make it with `create`."""

    @classmethod
    def create(
        cls,
        *,
        config: Mapping[str, Any],
        hamiltonian: str,
        unit: str,
        script: str = "",
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """An empty record. The configuration may contain any objects."""
        header = new_header(hamiltonian=hamiltonian, unit=unit, script=script)
        return cls(config, options or {}, {"": header}, {})

    # --- steps ------------------------------------------------------------------------------------------------

    def record(self, quantities: Mapping[str, float], step: int, checkpoint: Checkpoint) -> None:
        """Record a finished step: a row of the history, and the checkpoint after it. `flush` writes it to disk."""
        attributes, datasets = self._with_checkpoint(step, checkpoint)
        # In one assignment, so that an interrupt leaves no half-recorded step.
        rows = [*self._rows, dict(quantities)]
        self._rows, self._attributes, self._datasets = rows, attributes, datasets
        self._changed()

    def start(self, checkpoint: Checkpoint) -> None:
        """Checkpoint before the first step, for a run whose parameters do not follow from the model's seed."""
        self._attributes, self._datasets = self._with_checkpoint(0, checkpoint)
        self._changed()

    def _with_checkpoint(self, step: int, new: Checkpoint) -> tuple[Attributes, Datasets]:
        """All attributes and datasets with the checkpoint replaced."""
        tensors = {"checkpoint/generator": new.generator}
        for kind in ("model", "optimiser", "sampler"):
            tensors |= {f"checkpoint/{kind}/{name}": tensor for name, tensor in getattr(new, kind).items()}
        if new.last_good is not None:
            tensors["checkpoint/last_good"] = new.last_good
        arrays = {path: tensor.detach().cpu().numpy().copy() for path, tensor in tensors.items()}
        attributes = self._attributes | {"checkpoint": {"step": step, "damping": new.damping}}
        datasets = {path: old for path, old in self._datasets.items() if not path.startswith("checkpoint/")} | arrays
        return attributes, datasets

    def write_provenance(self, parameters: str, sessions: Sequence[Mapping[str, Any]]) -> None:
        """Store the digest of the initial parameters, and the sessions of `RunRecord.sessions`."""
        self._attributes["provenance"] = {"parameters": parameters, "sessions": json.dumps(list(sessions))}

    def keep(self, kind: str, tensors: "Mapping[str, Tensor]") -> None:
        """Replace tensors of one kind in the checkpoint: "model", "optimiser" or "sampler"."""
        for name, tensor in tensors.items():
            self._datasets[f"checkpoint/{kind}/{name}"] = tensor.detach().cpu().numpy().copy()
        self._changed()

    def roll_back(self, model: "Mapping[str, Tensor]") -> None:
        """Replace the parameters after the last step by those before it, and count a retry."""
        self._settle()
        self.keep("model", model)
        if "history/retries" in self._datasets:  # format version 1 has no such column
            self._datasets["history/retries"] = self._datasets["history/retries"].copy()
            self._datasets["history/retries"][-1] += 1

    # --- results ----------------------------------------------------------------------------------------------

    def write_samples(self, samples: "Samples") -> None:
        """Replace the stored batch."""
        for name in ("configurations", "weights", "log_modulus", "phase"):
            self._datasets[f"samples/{name}"] = getattr(samples, name).cpu().numpy().copy()

    def write_exact(self, exact: "ExactGroundState") -> None:
        """Store the exact ground-state energy, gap, dimension, method and seconds."""
        self._attributes["exact"] = {name: getattr(exact, name) for name in EXACT}

    def write_result(self, result: EnergyEstimate) -> None:
        """Store an evaluation of the present state."""
        self._attributes["result"] = asdict(result) | {"step": self.step}

    def write_diagnostics(self, numbers: Mapping[str, float]) -> None:
        """Store the diagnostics of the samples (nqs.estimators.diagnostics)."""
        self._attributes["diagnostics"] = {name: float(number) for name, number in numbers.items()}

    def write_observable(self, name: str, values: np.ndarray) -> None:
        """Store one observable by name."""
        self._datasets[f"observables/{name}"] = np.array(values)

    def write_state_names(self, names: Sequence[str]) -> None:
        """Store the names of the local states, for figures."""
        self._attributes["observables"] = {"state_names": json.dumps(list(names))}

    keeps_observables = False  # measuring takes time, and nothing could read them later

    # --- writing ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write everything to disk, if there is a file."""

    def save(self) -> None:
        """Flush during a run, which goes on if that fails."""

    def flush_if_due(self, policy: FlushPolicy) -> None:
        """Save if the policy says so."""

    def close(self) -> None:
        """End writing."""

    def _changed(self) -> None:
        """Called after every change."""

    def how_to_continue(self) -> str:
        """Message of a run that was stopped."""
        return f"stopped after step {self.step} of {self.steps}; nothing is saved, because the run has no archive."

    def where_last_state_is(self) -> str:
        """Message of a run whose energy is not finite."""
        return "The state before it was restored."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
