"""Archives of earlier packages in the terms of this one, changed in memory when they are read.

0.1 had a model `WithReference(base, reference)` around a network. The reference phase has become an argument of the
network, whose parameters thereby lose one "base." of their names.
"""

import json
from collections.abc import Mapping
from typing import Any

from nqs.archive.contents import Attributes, Datasets
from nqs.archive.errors import ArchiveError

WRAPPER = "WithReference"
PARAMETERS = "checkpoint/model/"


def upgrade(attributes: Attributes, datasets: Datasets) -> None:
    """In place, the configuration and the names of the parameters."""
    config = json.loads(str(attributes[""]["config"]))
    model, removed = without_wrapper(config.get("model"))
    if not removed:
        return
    attributes[""]["config"] = json.dumps(config | {"model": model})
    prefix = PARAMETERS + removed * "base."
    for name in [name for name in datasets if name.startswith(prefix)]:
        datasets[PARAMETERS + name.removeprefix(prefix)] = datasets.pop(name)


def without_wrapper(model: Any) -> tuple[Any, int]:
    """The configuration of a model with the reference phase in that of the network, and the wrappers removed.

    A reference phase of a reference phase stays as it is: it cannot be expressed any more, and building it says so.
    """
    if not isinstance(model, dict) or not isinstance(model.get("base"), dict):
        return model, 0
    base, removed = without_wrapper(model["base"])
    if model.get("type") != WRAPPER or base.get("reference") is not None:
        return model | {"base": base}, removed
    return base | {"reference": model.get("reference")}, removed + 1


# Options that StochasticReconfiguration had in 0.1, with their default.
_REMOVED = {"adaptive": True, "implicit": True, "propagated": True, "logarithmic": None, "space": "auto"}


def upgraded(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of an archive as a run of today would write it.

    Raises:
        ArchiveError: an option that was removed has a value that stands in the way.
    """
    return _optimiser(dict(config))


def _optimiser(config: dict[str, Any]) -> dict[str, Any]:
    """Exact steps were stochastic reconfiguration with a sampler that sums over the whole sector."""
    old = config.get("optimiser")
    if not isinstance(old, Mapping):
        return config
    if old.get("type") == "TorchOptimiser":
        return config | {"optimiser": _without(old, {"baseline": True})}
    if old.get("type") != "StochasticReconfiguration":
        return config
    exact = "propagated" in old and config.get("sampler", {}).get("type") == "ExhaustiveSampler"
    changed: dict[str, Any] = {"optimiser": _without(old, _REMOVED)}
    if exact:
        changed["optimiser"] = _exact_steps(changed["optimiser"])
    warm_up = config.get("warm_up")
    if isinstance(warm_up, Mapping) and isinstance(warm_up.get("optimiser"), Mapping):
        changed["warm_up"] = {**warm_up, "optimiser": _without(warm_up["optimiser"], _REMOVED)}
    return config | changed


def _exact_steps(old: Mapping[str, Any]) -> dict[str, Any]:
    rate = old.get("learning_rate") or 1.0
    if old.get("momentum"):
        raise _in_the_way("momentum", old["momentum"])
    if old.get("final_learning_rate") not in (None, rate):
        raise _in_the_way("final_learning_rate", old["final_learning_rate"])
    names = ("diagonal_shift", "final_diagonal_shift", "max_step", "precision", "memory")
    return {"type": "ExactSteps", "time": rate} | {name: old[name] for name in names if old.get(name) is not None}


def _without(old: Mapping[str, Any], removed: Mapping[str, Any]) -> dict[str, Any]:
    for name, default in removed.items():
        if name in old and old[name] != default:
            raise _in_the_way(name, old[name])
    return {name: value for name, value in old.items() if name not in removed}


def _in_the_way(name: str, value: object) -> ArchiveError:
    return ArchiveError(
        f"the optimiser of this run has {name}={value!r}, an option that was removed: nqs 0.1 can go on with it."
    )
