"""Archives of earlier packages in the terms of this one, changed in memory when they are read.

0.1 had a model `WithReference(base, reference)` around a network. The reference phase has become an argument of the
network, whose parameters thereby lose one "base." of their names.
"""

import json
from typing import Any

from nqs.archive.contents import Attributes, Datasets

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
