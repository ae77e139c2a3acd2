"""Checks before a run is rebuilt from an archive, whose configuration may ask for any amount of time and memory."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nqs.archive.errors import ArchiveError
from nqs.archive.record import RunRecord
from nqs.hilbert import HilbertSpace
from nqs.optimisation.known_states import KnownState
from nqs.optimisation.stages import Evaluation
from nqs.runtime.memory import available_memory
from nqs.runtime.text import printable

MAX_SITES, MAX_LAYERS = 10_000, 1_000
COPIES = 8  # of all parameters, in float64, in a run at least: state of the optimiser, last good ones, updates
PLAIN = (int, float, str, bool, type(None))
# What the loop needs of each part, and the package of the classes of nqs that have it.
NEEDED = {
    "hamiltonian": ("hilbert", "hamiltonians"),
    "model": ("build", "models"),
    "sampler": ("build", "samplers"),
    "optimiser": ("objective", "optimisation"),
    "evaluation": ("build", "samplers"),
    "run": ("temperature_at", "optimisation"),
    "warm_up": ("share", "optimisation"),
}


@contextmanager
def one_line(place: object) -> Iterator[None]:
    """Context manager: an archive may hold values of which no class of nqs has thought, and names with line ends.

    Raises:
        ArchiveError: instead of errors that are neither a ValueError nor an ArchiveError.
    """
    try:
        yield
    except (ArchiveError, ValueError) as error:
        if str(error).isprintable():
            raise
        kind = ArchiveError if isinstance(error, ArchiveError) else ValueError
        raise kind(printable(error)) from error
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ArchiveError(f"{place} holds a run that cannot be rebuilt: {text}") from error


def check_sizes(config: Any) -> None:
    """Raises ValueError: a lattice or a space in a plain configuration has more than MAX_SITES sites."""
    level = [config]
    while level:
        for part in level:
            if isinstance(part, Mapping) and (sites := _sites(part)) > MAX_SITES:
                raise ValueError(f"{part['type']} has {sites:,} sites; runs from archives have at most {MAX_SITES:,}.")
        level = [
            item
            for part in level
            for item in (part.values() if isinstance(part, Mapping) else part if isinstance(part, list) else ())
            if isinstance(item, (Mapping, list))
        ]


def _sites(part: Mapping[str, Any]) -> int:
    shape, basis, sites = part.get("shape"), part.get("basis"), part.get("n_sites")
    if part.get("type") == "HilbertSpace" and isinstance(sites, int):
        return sites
    if part.get("type") == "Lattice" and isinstance(shape, list) and isinstance(basis, list):
        return math.prod(size for size in shape if isinstance(size, int)) * len(basis)
    return 0


def check_kinds(built: Mapping[str, Any]) -> None:
    """Raises ValueError: a part of a run is of another kind, such as a lattice in place of the sampler, or has fields
    of another type."""
    for state in built.get("orthogonal_to", ()):  # a name in place of a state would be that of a file to be opened
        if not isinstance(state, KnownState):
            raise ValueError(f"a known state in the archive is a {type(state).__name__}, which cannot be one.")
    for name, part in built.items():
        if name not in NEEDED:
            continue
        needed, package = NEEDED[name]
        if name == "evaluation" and isinstance(part, Evaluation):
            _check_fields(part, whole=True)
            if type(part.batches) is not int:
                raise ValueError(
                    f"Evaluation has batches = {part.batches!r}, which is a {type(part.batches).__name__}."
                )
            part = part.sampler
        module = f"{type(part).__module__}.".split(".")
        if not hasattr(part, needed) or (module[0] == "nqs" and module[1] != package):
            raise ValueError(f"the {name} of the run in the archive is a {type(part).__name__}, which cannot be one.")
        _check_fields(part, whole=name != "run")
        if name == "run" and part.steps is None and part.total_minutes is None:
            raise ValueError("the run in the archive does not say how many steps or minutes it has.")
        if name == "warm_up":
            check_kinds({"sampler": part.sampler, "optimiser": part.optimiser})


def _check_fields(part: Any, *, whole: bool) -> None:
    """Raises ValueError: a number, a text or None in a field of another type. Other types are left to the classes.

    Args:
        whole: integers may be floats without fraction, such as 1e6 samples.
    """
    if isinstance(part, tuple):
        for item in part:
            _check_fields(item, whole=whole)
    if not is_dataclass(part) or not type(part).__module__.startswith("nqs."):  # a user's own annotations may be loose
        return
    hints = get_type_hints(type(part))
    for field in filter(lambda field: field.init, fields(part)):
        value, hint = getattr(part, field.name), hints[field.name]
        if isinstance(value, dict):
            raise ValueError(f"{type(part).__name__} has a {field.name} without a type.")
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
        plain = [kind for kind in kinds if kind in PLAIN]
        if len(plain) + sum(get_origin(kind) is Literal for kind in kinds) == len(kinds):
            allowed = {*plain, int} if float in plain else {*plain}
            integer = whole and int in plain and isinstance(value, float) and value.is_integer()
            if type(value) not in allowed and not integer and value not in literals:
                raise ValueError(
                    f"{type(part).__name__} has {field.name} = {value!r}, which is a {type(value).__name__}."
                )
        _check_fields(value, whole=whole)


def check_history(archive: RunRecord) -> None:
    """Raises ArchiveError: finished steps without the column that every run sums up, or more than the run has."""
    if archive.step and "seconds" not in archive.history:
        raise ArchiveError(f"{archive.place} was not written by a run of nqs: its history lacks seconds.")
    steps = archive.config["run"].get("steps")
    steps = archive.steps if steps is None else min(steps, archive.steps)
    if archive.step > steps:
        raise ArchiveError(f"{archive.place} holds {archive.step:,} steps of a run of {steps:,}.")


def check_parameters(model: Any, hilbert: HilbertSpace, archive: RunRecord) -> None:
    """`check_shapes` of the network of a run and its checkpoint."""
    check_shapes(model, hilbert, archive.parameters() if archive.has_checkpoint else None, archive.place)


class NotDrawn(TorchFunctionMode):
    """Initial values are not drawn: torch takes seconds to import what it draws with on the meta device."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if function in (Tensor.normal_, Tensor.uniform_) or getattr(function, "__module__", "") == nn.init.__name__:
            return arguments[0] if arguments else options["tensor"]
        return function(*arguments, **options)


def check_shapes(model: Any, hilbert: HilbertSpace, parameters: Mapping[str, np.ndarray] | None, place: str) -> None:
    """Compare the shapes of a network's parameters with the stored ones, before any of them is allocated.

    Args:
        parameters: stored ones; None: there are none yet.
        place: name of the archive.

    Raises:
        ArchiveError: they differ, do not fit into memory, or are not finite.
    """
    while hasattr(model, "base"):  # symmetrised states, which need numbers to be built
        model = model.base
    layers = getattr(model, "layers", 0)
    if layers > MAX_LAYERS:
        raise ArchiveError(f"{place}: its model has {layers:,} layers; runs from archives have at most {MAX_LAYERS:,}.")
    try:
        with torch.device("meta"), NotDrawn():
            shapes = {name: tuple(tensor.shape) for name, tensor in model.build(hilbert, "meta").state_dict().items()}
    except NotImplementedError:  # a model of a user's own that computes with numbers when it is built
        return
    memory = available_memory()
    needed = 8 * COPIES * sum(map(math.prod, shapes.values()))
    if memory is not None and needed > memory:
        raise ArchiveError(
            f"{place}: its model has parameters for which {needed:,} bytes are needed and {memory:,} are free."
        )
    if parameters is None:
        return
    infinite = [name for name, values in parameters.items() if not np.isfinite(values).all()]
    if infinite:
        raise ArchiveError(f"{place}: the parameters {printable(infinite[0])} in its checkpoint are not finite.")
    stored = {name: values.shape for name, values in parameters.items()}
    for name, shape in shapes.items():
        found = {other for path, other in stored.items() if path == name or path.endswith(f".{name}")}
        if shape not in found:
            raise ArchiveError(
                f"{place}: the parameters {name} of its model have the shape {shape}, those in its checkpoint "
                f"{', '.join(map(str, sorted(found))) or 'are missing'}. It was not written by a run of nqs."
            )
