"""The record of a run in memory: the interface that the loop writes to, with or without a file behind it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nqs.archive.contents import EXACT, Attributes, Datasets
from nqs.archive.flush import FlushPolicy
from nqs.archive.header import new_header
from nqs.archive.record import RunRecord
from nqs.estimators.estimate import EnergyEstimate

if TYPE_CHECKING:  # importing torch takes seconds: `nqs show` does without
    from torch import Tensor

    from nqs.exact.diagonalisation import ExactGroundState
    from nqs.samples import Samples


class MemoryArchive(RunRecord):
    """One run in memory, gone with the process. Make it with `create`."""

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
        """An empty record. The configuration may hold any object."""
        header = new_header(hamiltonian=hamiltonian, unit=unit, script=script)
        return cls(config, options or {}, {"": header}, {})

    # --- steps ------------------------------------------------------------------------------------------------

    def record(
        self,
        quantities: Mapping[str, float],
        step: int,
        model: "Mapping[str, Tensor]",
        optimiser: "Mapping[str, Tensor]",
        generator: "Tensor",
        *,
        sampler: "Mapping[str, Tensor] | None" = None,
        damping: float = 1.0,
        last_good: "Tensor | None" = None,
    ) -> None:
        """One finished step: its quantities and the state after it. `flush` brings it to the disk, if there is one."""
        attributes, datasets = self._with_checkpoint(
            step, model, optimiser, generator, sampler or {}, damping=damping, last_good=last_good
        )
        # Together, so that an interrupted record leaves no half of a step.
        rows = [*self._rows, dict(quantities)]
        self._rows, self._attributes, self._datasets = rows, attributes, datasets
        self._changed()

    def start(
        self,
        model: "Mapping[str, Tensor]",
        optimiser: "Mapping[str, Tensor]",
        generator: "Tensor",
        *,
        sampler: "Mapping[str, Tensor] | None" = None,
    ) -> None:
        """The state before the first step, for a run that begins with parameters of its own."""
        self._attributes, self._datasets = self._with_checkpoint(0, model, optimiser, generator, sampler or {})
        self._changed()

    def _with_checkpoint(
        self,
        step: int,
        model: "Mapping[str, Tensor]",
        optimiser: "Mapping[str, Tensor]",
        generator: "Tensor",
        sampler: "Mapping[str, Tensor]",
        *,
        damping: float = 1.0,
        last_good: "Tensor | None" = None,
    ) -> tuple[Attributes, Datasets]:
        """All attributes and datasets with this checkpoint in the place of the last one."""
        tensors = {"checkpoint/generator": generator}
        for kind, state in (("model", model), ("optimiser", optimiser), ("sampler", sampler)):
            tensors |= {f"checkpoint/{kind}/{name}": tensor for name, tensor in state.items()}
        if last_good is not None:
            tensors["checkpoint/last_good"] = last_good
        new = {path: tensor.detach().cpu().numpy().copy() for path, tensor in tensors.items()}
        attributes = self._attributes | {"checkpoint": {"step": step, "damping": damping}}
        datasets = {path: old for path, old in self._datasets.items() if not path.startswith("checkpoint/")} | new
        return attributes, datasets

    def roll_back(self, model: "Mapping[str, Tensor]") -> None:
        """Replace the parameters after the last step by those before it, which counts as a retry."""
        self._settle()
        for name, tensor in model.items():
            self._datasets[f"checkpoint/model/{name}"] = tensor.detach().cpu().numpy().copy()
        if "history/retries" in self._datasets:  # a run begun in format 1 did not count them
            self._datasets["history/retries"] = self._datasets["history/retries"].copy()
            self._datasets["history/retries"][-1] += 1
        self._changed()

    # --- results ----------------------------------------------------------------------------------------------

    def write_samples(self, samples: "Samples") -> None:
        """Replace the stored batch."""
        for name in ("configurations", "weights", "log_modulus", "phase"):
            self._datasets[f"samples/{name}"] = getattr(samples, name).cpu().numpy().copy()

    def write_exact(self, exact: "ExactGroundState") -> None:
        """Store the exact ground-state energy and where it comes from."""
        self._attributes["exact"] = {name: getattr(exact, name) for name in EXACT}

    def write_result(self, result: EnergyEstimate) -> None:
        """Store an evaluation of the present state."""
        self._attributes["result"] = asdict(result) | {"step": self.step}

    def write_observable(self, name: str, values: np.ndarray) -> None:
        """Store one observable by name."""
        self._datasets[f"observables/{name}"] = np.array(values)

    keeps_observables = False  # they take time, and nobody could read them

    # --- keeping ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Bring everything to the disk, if there is one."""

    def flush_if_due(self, policy: FlushPolicy) -> None:
        """Flush where the policy says so."""

    def close(self) -> None:
        """The end of writing."""

    def _changed(self) -> None:
        """The state of the run is another one than at the last flush."""

    def how_to_continue(self) -> str:
        """For the message of a run that was stopped."""
        return f"stopped after step {self.step} of {self.steps}; nothing is saved, because the run has no archive."

    def where_last_state_is(self) -> str:
        """For the message of a run whose energy is not finite."""
        return "The state before it was restored."

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
