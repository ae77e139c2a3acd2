"""Layout of archives that readers rely on. A seal can be made by anybody: contents are checked, not trusted.

Groups and names that are not listed here are allowed: later versions may add them.
"""

import json
import math
from dataclasses import fields
from typing import Any

import numpy as np

from nqs.archive.contents import EXACT, HEADER, Attributes, Datasets, Scalar
from nqs.estimators.estimate import EnergyEstimate

MAX_NESTING = 64  # of the configuration
MAX_ENTRIES = 2_000_000  # lists and objects in it, and texts
MAX_TEXT = 2**20  # characters of a line of the header
MAX_DIGITS = 300  # of an integer, which a float can still hold
PARTS = ("hamiltonian", "model", "sampler", "optimiser", "evaluation", "run", "warm_up", "initial")
PLAN = (
    "checkpoint/optimiser/pace.plan"  # number of steps, the step and the progress at which it was chosen, the next step
)
COUNTS = ("step", "samples", "distinct", "seconds")  # columns of the history that are never nan
MAX_COUNT = 2**63
MAX_STEPS = 2**53  # integers that float64 holds
# Kinds of numbers (of NumPy) and dimensions of arrays.
SAMPLES = {"configurations": ("u", 2), "weights": ("f", 1), "log_modulus": ("f", 1), "phase": ("f", 1)}


def check_configuration(header: dict[str, Scalar]) -> None:
    """Raises ValueError, KeyError: configuration or options are not what a run stores."""
    for name in ("config", "options"):
        if name == "options" and name not in header:  # format version 1
            continue
        data = _json_object(name, header[name])
        if name == "config":
            for part in PARTS:
                if not isinstance(data.get(part, {}), dict):
                    raise ValueError(f"{part} in the configuration is not a JSON object")
            steps = data.get("run", {}).get("steps")
            if steps is not None and not (_is_integer(steps) and 0 <= steps < MAX_COUNT):
                raise ValueError(f"run.steps in the configuration is {_brief(steps)}, not a number of steps")
            if not isinstance(data.get("unit", ""), str):
                raise ValueError("unit in the configuration is not text")
            scale = data.get("energy_scale", 1.0)
            if not isinstance(scale, (int, float)) or isinstance(scale, bool) or not 0 < scale < math.inf:
                raise ValueError(f"energy_scale in the configuration is {_brief(scale)}, not a positive energy")
            if not _are_objects(data.get("orthogonal_to", [])):
                raise ValueError("orthogonal_to in the configuration is not a list of JSON objects")


def check_layout(attributes: Attributes, datasets: Datasets) -> None:
    """Raises ValueError, KeyError or TypeError: readers would fail on these contents."""
    for name in HEADER:
        if not isinstance(attributes[""][name], str):
            raise ValueError(f"attribute {name} is not text")
        if name not in ("config", "options") and len(str(attributes[""][name])) > MAX_TEXT:
            raise ValueError(f"attribute {name} is longer than {MAX_TEXT:,} characters")
    _check_history(dict(_group(datasets, "history")))
    if "checkpoint" in attributes:
        _check_checkpoint(attributes["checkpoint"], datasets)
    if PLAN in datasets:
        _check_plan(datasets[PLAN], attributes.get("checkpoint", {}).get("step", 0))
    if "result" in attributes:
        _check_numbers("result", attributes["result"], {"step", *(f.name for f in fields(EnergyEstimate))})
        _check_counts("result", attributes["result"], ("step", "n_samples", "n_distinct"))
        if attributes["result"]["error"] < 0:  # type: ignore[operator]
            raise ValueError("the error of the result is negative")
    if "diagnostics" in attributes:
        _check_numbers("diagnostics", attributes["diagnostics"])
    if "exact" in attributes:
        if set(attributes["exact"]) != set(EXACT):
            raise ValueError(f"the exact ground state has {sorted(attributes['exact'])}, not {sorted(EXACT)}")
        if not isinstance(attributes["exact"]["method"], str):
            raise ValueError("the method of the exact ground state is not text")
        _check_numbers("exact", {name: value for name, value in attributes["exact"].items() if name != "method"})
        _check_counts("exact", attributes["exact"], ("dimension",))
        if not math.isfinite(attributes["exact"]["energy"]):  # type: ignore[arg-type]
            raise ValueError("the exact energy is not finite")
    _check_samples(dict(_group(datasets, "samples")))
    _check_observables(dict(_group(datasets, "observables")))
    sessions = attributes.get("provenance", {}).get("sessions")
    if sessions is not None and not _are_objects(_json("sessions", sessions)):
        raise ValueError("the sessions of the run are not a list of JSON objects")
    names = attributes.get("observables", {}).get("state_names")
    if names is not None and not _are_texts(_json("state_names", names)):
        raise ValueError("the names of the local states are not a list of text")


def _group(datasets: Datasets, name: str) -> list[tuple[str, np.ndarray]]:
    prefix = f"{name}/"
    return [(path.removeprefix(prefix), values) for path, values in datasets.items() if path.startswith(prefix)]


def _check_history(columns: dict[str, np.ndarray]) -> None:
    shapes = {values.shape for values in columns.values()}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"the history has columns of different shapes, {sorted(shapes)}")
    if shapes == {(0,)}:
        raise ValueError("the history has columns without a row")
    for name, values in columns.items():
        if values.dtype.kind not in "fiu":
            raise ValueError(f"the column {_brief(name)} of the history holds no real numbers")
        with np.errstate(over="ignore"):  # of other floating-point types: inf is refused
            numbers = values.astype(np.float64)
        if name in COUNTS and not (np.isfinite(numbers) & (numbers >= 0) & (numbers < MAX_COUNT)).all():
            raise ValueError(f"the column {name} of the history holds impossible values")


def _check_checkpoint(attributes: dict[str, Scalar], datasets: Datasets) -> None:
    damping = attributes["damping"]
    _check_counts("checkpoint", attributes, ("step",))
    if not isinstance(damping, float) or not 0 < damping < math.inf:
        raise ValueError(f"the damping of the checkpoint is {damping!r}")
    generator = datasets["checkpoint/generator"]
    if generator.dtype != np.uint8 or generator.ndim != 1:
        raise ValueError("the state of the random generator is not in bytes")
    last_good = datasets.get("checkpoint/last_good")
    if last_good is not None and (last_good.dtype.kind != "f" or last_good.ndim != 1):
        raise ValueError(f"the parameters before the last update have the shape {last_good.shape}")


def _check_plan(plan: np.ndarray, step: Scalar) -> None:
    """The number of steps of a run that is sized by its time, or was stopped before its last step."""
    if plan.dtype != np.float64 or plan.shape != (4,):
        raise ValueError(f"the plan of the steps is {plan.dtype} of shape {plan.shape}, not four numbers")
    total, first, progress, again = plan.tolist()
    counts = all(number.is_integer() and 0 <= number <= MAX_STEPS for number in (total, first, again))
    if not counts or not 0 <= progress <= 1 or first > min(total, step):
        raise ValueError(f"the plan of the steps holds impossible values, {_brief(plan.tolist())}")


def _check_samples(arrays: dict[str, np.ndarray]) -> None:
    for name, (kind, ndim) in SAMPLES.items():
        if name in arrays and (arrays[name].dtype.kind != kind or arrays[name].ndim != ndim):
            raise ValueError(f"{name} of the samples are {arrays[name].dtype} of shape {arrays[name].shape}")
    if len({len(arrays[name]) for name in SAMPLES if name in arrays}) > 1:
        raise ValueError("the samples have arrays of different lengths")


def _check_observables(arrays: dict[str, np.ndarray]) -> None:
    overlaps = arrays.get("overlaps")
    if overlaps is not None and (overlaps.dtype.kind != "f" or overlaps.ndim != 1 or "overlaps_error" not in arrays):
        raise ValueError("the overlaps with known states are not real numbers with error bars")
    for name, values in arrays.items():
        for ending in ("_error", "_exact"):
            other = arrays.get(name + ending)
            if other is not None and other.shape != values.shape:
                raise ValueError(f"{_brief(name + ending)} has the shape {other.shape}, its observable {values.shape}")


def _check_numbers(group: str, values: dict[str, Scalar], names: set[str] | None = None) -> None:
    if names is not None and set(values) != names:
        raise ValueError(f"the attributes of {group} are {sorted(values)}, not {sorted(names)}")
    if any(isinstance(value, (str, bool)) for value in values.values()):
        raise ValueError(f"the {group} holds text instead of numbers")


def _check_counts(group: str, values: dict[str, Scalar], names: tuple[str, ...]) -> None:
    for name in names:
        if not _is_integer(values[name]) or values[name] < 0:  # type: ignore[operator]
            raise ValueError(f"the {name} of the {group} is not a non-negative integer")


def _are_texts(data: Any) -> bool:
    return isinstance(data, list) and all(isinstance(item, str) for item in data)


def _are_objects(data: Any) -> bool:
    return isinstance(data, list) and all(isinstance(item, dict) for item in data)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# ------------------------------------------------------------------------------------------------------------- JSON


def _json_object(name: str, text: Scalar) -> dict[str, Any]:
    data = _json(name, text)
    if not isinstance(data, dict):
        raise ValueError(f"attribute {name} is not a JSON object")
    return data


def _json(name: str, text: Scalar) -> Any:
    """JSON data of bounded size and depth."""
    if not isinstance(text, str):
        raise ValueError(f"attribute {name} is not text")
    if text.count("[") + text.count("{") + text.count('"') // 2 > MAX_ENTRIES:
        raise ValueError(f"attribute {name} has more than {MAX_ENTRIES:,} entries")
    try:
        data = json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"attribute {name} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"attribute {name} is not JSON that nqs writes: {error}") from None
    level = [data] if isinstance(data, (dict, list)) else []
    for _ in range(MAX_NESTING):
        if not level:
            return data
        level = [
            item
            for part in level
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, (dict, list))
        ]
    raise ValueError(f"attribute {name} is nested too deeply")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]} …"
