"""Contents of an archive as attributes and datasets by path, and the layout that readers rely on."""

import json
from typing import Any

import numpy as np

from nqs.estimators.estimate import EnergyEstimate

FORMAT, VERSION = "nqs-run", 2
HEADER = ("format", "package_version", "commit", "created", "hamiltonian", "unit", "config", "script", "options")
EXACT = ("energy", "gap", "dimension", "method", "seconds")

Scalar = str | int | float
Datasets = dict[str, np.ndarray]  # by path without the leading slash: "history/energy"
Attributes = dict[str, dict[str, Scalar]]  # by path of the group, "" for the root


def check_layout(attributes: Attributes, datasets: Datasets) -> None:
    """Raises ValueError, KeyError or TypeError: readers would fail on these contents."""
    for name in HEADER:
        if not isinstance(attributes[""][name], str):
            raise ValueError(f"attribute {name} is not text")
    for name in ("config", "options"):
        if not isinstance(json.loads(str(attributes[""][name])), dict):
            raise ValueError(f"attribute {name} is not a JSON object")
    if not isinstance(json.loads(str(attributes[""]["config"])).get("run", {}), dict):
        raise ValueError("run in the configuration is not a JSON object")
    shapes = {values.shape for path, values in datasets.items() if path.startswith("history/")}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"the history has columns of different shapes, {sorted(shapes)}")
    if "checkpoint" in attributes:
        numbers = attributes["checkpoint"]["step"], attributes["checkpoint"]["damping"]
        if not isinstance(numbers[0], int) or not isinstance(numbers[1], float) or numbers[0] < 0:
            raise ValueError(f"step and damping of the checkpoint are {numbers}")
        if datasets["checkpoint/generator"].dtype != np.uint8:
            raise ValueError("the state of the random generator is not in bytes")
    if "result" in attributes:
        values: dict[str, Any] = dict(attributes["result"])
        if not isinstance(values.pop("step"), int):
            raise ValueError("the step of the result is not an integer")
        EnergyEstimate(**values)
        if any(isinstance(value, str) for value in values.values()):
            raise ValueError("the result holds text instead of numbers")
    if "exact" in attributes and set(attributes["exact"]) != set(EXACT):
        raise ValueError(f"the exact ground state has {sorted(attributes['exact'])}, not {sorted(EXACT)}")
