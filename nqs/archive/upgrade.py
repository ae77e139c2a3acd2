"""Archives of earlier packages in the terms of this one.

`upgrade` changes what is read: 0.1 had a model `WithReference(base, reference)` around a network, whose reference phase
has become an argument of the network; the names of its parameters thereby lose one "base.".

`upgraded` is applied where a run is rebuilt or compared with another one. `nqs show` therefore prints the options as
they were stored, and a removed option prevents resuming the run, but not looking at it.

Elsewhere: Hilbert spaces without species (`species_of_0_1`), files of format 1 (`versions`), and checkpoints whose
optimiser kept the limits of the roll-back (`load_state_dict` of `nqs.vmc.guard` and of the optimisers).
"""

import json
from collections.abc import Mapping
from typing import Any

from nqs.archive.contents import Attributes, Datasets
from nqs.archive.errors import ArchiveError

WRAPPER = "WithReference"
PARAMETERS = "checkpoint/model/"

# Options that 0.1 had, by class, with the default value: that of today's only behaviour.
REMOVED: dict[str, dict[str, Any]] = {
    "StochasticReconfiguration": {
        "adaptive": True, "implicit": True, "propagated": True, "logarithmic": None, "space": "auto",
    },
    "TorchOptimiser": {"baseline": True},
    "RunConfig": {"clip": None, "first_samples": 1.0},
    "RotaryAttention": {"grid": False},
}  # fmt: skip
# Parts of `ComposedConfig` that lost in docs/design_questions.md and were removed, and the last commit with them.
REMOVED_PARTS: dict[str, dict[str, Any]] = {"Sinusoidal": {}, "RotaryAttention": {"grid": True}}
LAST_COMMIT = "bca6904"
RENAMED = {"TreeSampler": {"recorded": "use_cuda_graph"}}
# Numbers of exact steps that were not given; nqs.recipes may choose others today.
EXACT_STEPS = {"time": 1.0, "diagonal_shift": 1e-3, "final_diagonal_shift": 1e-7, "max_step": 0.15}
# Values of options that older archives lack, and numbers with a default up to 0.2 that configurations may leave out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "RunConfig": {"minutes": None, "annealing": 0.5},
    "TransformerConfig": {"width": 32, "layers": 2, "mlp_ratio": 2, "start": "uniform", "initial_phases": 1.0},
    "DeterminantConfig": {"width": 16, "layers": 1, "mlp_ratio": 2, "correction": 0.01},
    "ConvolutionalConfig": {"width": 16, "layers": 2, "mlp_ratio": 2},
    "GroupConvolutionalConfig": {"width": 6, "layers": 2},
    "VisionConfig": {"width": 16, "layers": 2, "mlp_ratio": 2},
    "RBMConfig": {"density": 1, "initial": 0.1},
    "JastrowConfig": {"initial": 0.01},
    "ListedState": {"rest": 1e-3},
    "StochasticReconfiguration": {
        "learning_rate": 0.3, "final_learning_rate": 0.02, "diagonal_shift": 1e-3, "final_diagonal_shift": 1e-5,
        "max_step": 0.1, "precision": "float64",
    },
    "ExactSteps": EXACT_STEPS,
    "TorchOptimiser": {"name": "Adam", "learning_rate": 1e-3, "final_learning_rate": 1e-4},
    "TreeSampler": {"use_cuda_graph": True},
    "MetropolisSampler": {"n_chains": 256, "n_discarded": 16},
}  # fmt: skip


def upgrade(attributes: Attributes, datasets: Datasets) -> None:
    """Remove `WithReference` from the configuration and the names of the parameters, in place."""
    config = json.loads(str(attributes[""]["config"]))
    model, removed = without_wrapper(config.get("model")) if isinstance(config, dict) else (None, 0)
    if not removed:
        return
    attributes[""]["config"] = json.dumps(config | {"model": model})
    prefix = PARAMETERS + removed * "base."
    for name in [name for name in datasets if name.startswith(prefix)]:
        datasets[PARAMETERS + name.removeprefix(prefix)] = datasets.pop(name)


def without_wrapper(model: Any) -> tuple[Any, int]:
    """The configuration of a model with the reference phase in that of the network, and the number of wrappers removed.

    A reference phase of a reference phase stays as it is: no model of today expresses it, and building it says so.
    """
    if not isinstance(model, dict) or not isinstance(model.get("base"), dict):
        return model, 0
    base, removed = without_wrapper(model["base"])
    if model.get("type") != WRAPPER or base.get("reference") is not None:
        return model | {"base": base}, removed
    return base | {"reference": model.get("reference")}, removed + 1


def upgraded(config: Mapping[str, Any], *, finished: bool = False) -> dict[str, Any]:
    """The configuration of an archive as a run of today would store it.

    Args:
        config: all of it or some of its parts.
        finished: no step is left, so that removed options are dropped whatever their value.

    Raises:
        ArchiveError: steps are left, and a removed option has a value that this package cannot continue with; or the
            model has a part that was removed.
    """
    new = {name: _part(part, finished) for name, part in config.items()}
    old = config.get("optimiser")
    exact = new.get("sampler", {}).get("type") == "ExhaustiveSampler"
    if exact and isinstance(old, Mapping) and "propagated" in old:  # exact steps were an option
        new["optimiser"] = _exact_steps(old, finished)
    return new


def _part(part: Any, finished: bool) -> Any:
    if isinstance(part, list):
        return [_part(item, finished) for item in part] if any(isinstance(item, dict) for item in part) else part
    if not isinstance(part, Mapping):
        return part
    kind = str(part.get("type"))
    if kind in REMOVED_PARTS and REMOVED_PARTS[kind].items() <= part.items():
        raise ArchiveError(
            f"the model of this run has a part that was removed, {kind}({_options_of(REMOVED_PARTS[kind])}): nqs of "
            f"commit {LAST_COMMIT} can rebuild it; here the run can be shown, compared and plotted."
        )
    removed: Mapping[str, Any] = REMOVED.get(kind, {})
    renamed: Mapping[str, str] = RENAMED.get(kind, {})
    new = dict(DEFAULTS.get(kind, {}))
    for name, value in part.items():
        if name not in removed:
            new[renamed.get(name, name)] = _part(value, finished)
        elif value != removed[name] and not finished:
            raise _removed(kind, name, value)
    return new | _resolved(new) if kind == "TransformerConfig" else new


def _resolved(network: Mapping[str, Any]) -> dict[str, Any]:
    """Values of unset fields, as 0.1 resolved them."""
    width, attention = network.get("width") or 32, network.get("attention") or "dot-product"
    heads = network.get("heads") or (width if attention == "factored" else 4)
    return {"width": width, "heads": heads, "attention": attention, "dtype": network.get("dtype") or "mixed"}


def _exact_steps(old: Mapping[str, Any], finished: bool) -> dict[str, Any]:
    """In 0.1 exact steps were stochastic reconfiguration with a sampler that sums over the whole sector."""
    rate = old.get("learning_rate") or EXACT_STEPS["time"]
    allowed = {"momentum": (None, 0.0), "final_learning_rate": (None, rate)}
    for name, values in allowed.items():
        if not finished and old.get(name) not in values:
            raise _removed("ExactSteps", name, old[name])
    names = ("diagonal_shift", "final_diagonal_shift", "max_step", "precision", "memory")
    given = {name: old[name] for name in names if old.get(name) is not None}
    return {"type": "ExactSteps"} | EXACT_STEPS | {"time": rate} | given


def _options_of(part: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in part.items())


def _removed(kind: str, name: str, value: object) -> ArchiveError:
    subject = "this run" if kind == "RunConfig" else "the optimiser of this run"
    return ArchiveError(
        f"{subject} has {name}={value!r}, an option that was removed: nqs 0.1 can resume it; here it can be shown, "
        "compared, reported and plotted."
    )
