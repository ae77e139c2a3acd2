"""Read access to the record of a run: configuration, history, checkpoint and results."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nqs.archive.contents import Attributes, Datasets, Scalar
from nqs.archive.errors import ArchiveError
from nqs.estimators.estimate import EnergyEstimate

if TYPE_CHECKING:
    from torch import Tensor
else:
    Tensor = Any  # importing torch takes seconds: `nqs show` does without


class Checkpoint(NamedTuple):
    """State after the last finished step, each part by name.

    Attributes:
        model: parameters and buffers.
        optimiser: state of the optimiser.
        generator: state of the random generator, bytes.
        sampler: state of the sampler; {} if it has none.
        damping: factor on the next update.
        last_good: all parameters before the last update, (P,), whose energy was finite.
    """

    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    generator: Tensor
    sampler: dict[str, Tensor] = {}  # noqa: RUF012  # never changed
    damping: float = 1.0
    last_good: Tensor | None = None


class RunRecord:
    """The record of one run, in memory or from a file.

    Attributes:
        config: the complete resolved configuration, as plain data.
        options: options of the script that started the run; {} for a run from Python.
    """

    def __init__(
        self, config: Mapping[str, Any], options: Mapping[str, Any], attributes: Attributes, datasets: Datasets
    ) -> None:
        self.config, self.options = dict(config), dict(options)
        self._attributes = attributes
        self._datasets = datasets
        self._rows: list[Mapping[str, float]] = []  # of the history, not yet among the datasets

    def contents(self) -> "tuple[dict[str, Any], dict[str, Any], Attributes, Datasets]":
        """Configuration, options, attributes and datasets, from which a copy is made."""
        self._settle()
        return self.config, self.options, self._attributes, self._datasets

    @property
    def place(self) -> str:
        """Name of the archive in messages."""
        return "the archive in memory"

    @property
    def attributes(self) -> dict[str, Scalar]:
        """The header: versions, commit, time, Hamiltonian, unit, script."""
        return {name: value for name, value in self._attributes[""].items() if name not in ("config", "options")}

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return int(self._attributes.get("checkpoint", {}).get("step", 0))

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint: after a step, or of given initial parameters."""
        return "checkpoint" in self._attributes

    @property
    def steps(self) -> int:
        """Number of steps of the complete run, as far as it is chosen; else `step`."""
        steps = self.config.get("run", {}).get("steps")
        if "checkpoint/optimiser/pace.plan" in self._datasets:  # sized by its time, or stopped when it had converged
            steps = int(self._datasets["checkpoint/optimiser/pace.plan"][0])
        return steps if isinstance(steps, int) else self.step

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Every recorded quantity, (steps,) each."""
        self._settle()
        return self._group("history")

    @property
    def exact(self) -> dict[str, Any] | None:
        """Energy, gap, dimension, method and seconds of the exact ground state, if it was stored."""
        return dict(self._attributes["exact"]) if "exact" in self._attributes else None

    @property
    def result(self) -> EnergyEstimate | None:
        """The last evaluation of the energy, if there was one."""
        values: dict[str, Any] = dict(self._attributes.get("result", {}))
        values.pop("step", None)
        return EnergyEstimate(**values) if values else None

    @property
    def result_step(self) -> int | None:
        """Number of steps before the evaluation in `result`: less than `steps` if a time limit stopped the run."""
        result = self._attributes.get("result")
        return None if result is None else int(result["step"])

    @property
    def finished(self) -> bool:
        """Whether all steps were made and the energy was evaluated after the last one."""
        return self.result_step == self.steps

    @property
    def initial_parameters(self) -> str | None:
        """SHA-256 of the parameters before the first step; None in archives of earlier versions."""
        found = self._attributes.get("provenance", {}).get("parameters")
        return str(found) if found else None

    @property
    def sessions(self) -> list[dict[str, Any]]:
        """Version, device and threads of every process that made steps, and its first step; [] in earlier archives."""
        return list(json.loads(str(self._attributes.get("provenance", {}).get("sessions", "[]"))))

    def samples(self) -> dict[str, np.ndarray]:
        """The samples of the last evaluation."""
        return self._group("samples")

    @property
    def diagnostics(self) -> dict[str, float]:
        """Diagnostics of the samples of the last evaluation; {} in earlier archives."""
        return {name: float(number) for name, number in self._attributes.get("diagnostics", {}).items()}

    def observables(self) -> dict[str, np.ndarray]:
        """All stored observables."""
        return self._group("observables")

    @property
    def state_names(self) -> list[str] | None:
        """Names of the local states, for figures; None if they are not stored."""
        names = self._attributes.get("observables", {}).get("state_names")
        return None if names is None else json.loads(str(names))

    def parameters(self) -> dict[str, np.ndarray]:
        """Parameters and buffers of the model after the last step, by name.

        Raises:
            ArchiveError: the run has not finished a step.
        """
        if not self.has_checkpoint:
            raise ArchiveError(f"{self.place} holds no checkpoint: the run ended before its first step. Start it anew.")
        return self._group("checkpoint/model")

    def checkpoint(self) -> Checkpoint:
        """The state to continue from.

        Raises:
            ArchiveError: the run has not finished a step.
        """
        import torch

        model, optimiser, sampler = (
            {name: torch.from_numpy(values.copy()) for name, values in group.items()}
            for group in (self.parameters(), self._group("checkpoint/optimiser"), self._group("checkpoint/sampler"))
        )
        last_good = self._datasets.get("checkpoint/last_good")
        return Checkpoint(
            model=model,
            optimiser=optimiser,
            generator=torch.from_numpy(self._datasets["checkpoint/generator"].copy()),
            sampler=sampler,
            damping=float(self._attributes["checkpoint"]["damping"]),
            last_good=None if last_good is None else torch.from_numpy(last_good.copy()),
        )

    def _group(self, name: str) -> dict[str, np.ndarray]:
        prefix = f"{name}/"
        return {path.removeprefix(prefix): values for path, values in self._datasets.items() if path.startswith(prefix)}

    def _settle(self) -> None:
        """Move the rows of the history to the datasets; nan where a quantity was not recorded."""
        if not self._rows:
            return
        old = self._group("history")
        done = max(map(len, old.values()), default=0)
        names = dict.fromkeys([*old, *(name for row in self._rows for name in row)])
        new = {name: np.asarray([row.get(name, np.nan) for row in self._rows]) for name in names}
        if done:
            new = {name: np.concatenate([old.get(name, np.full(done, np.nan)), new[name]]) for name in new}
        self._datasets |= {f"history/{name}": values for name, values in new.items()}
        self._rows = []
