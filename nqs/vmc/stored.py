"""Checks before a run is rebuilt from an archive, whose configuration may ask for any amount of time and memory."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from nqs.archive.errors import ArchiveError
from nqs.archive.record import RunRecord
from nqs.hilbert import HilbertSpace
from nqs.runtime.memory import available_memory

MAX_SITES = 10_000
COPIES = 8  # of all parameters, in float64, in a run at least: state of the optimiser, last good ones, updates
# What the loop needs of each part.
NEEDED = {"hamiltonian": "hilbert", "model": "build", "sampler": "build", "optimiser": "objective",
          "evaluation": "build", "run": "temperature_at", "warm_up": "steps"}  # fmt: skip


@contextmanager
def one_line(place: object) -> Iterator[None]:
    """Context manager: an archive may hold values of which no class of nqs has thought.

    Raises:
        ArchiveError: instead of errors that are neither a ValueError nor an ArchiveError.
    """
    try:
        yield
    except (ArchiveError, ValueError):
        raise
    except Exception as error:
        raise ArchiveError(f"{place} holds a run that cannot be rebuilt: {type(error).__name__}: {error}") from error


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
    """Raises ValueError: a part of a run is of another kind, such as a lattice in place of the sampler."""
    for name, part in built.items():
        if name in NEEDED and not hasattr(part, NEEDED[name]):
            raise ValueError(f"the {name} of the run in the archive is a {type(part).__name__}, which cannot be one.")


def check_parameters(model: Any, hilbert: HilbertSpace, archive: RunRecord) -> None:
    """Compare the shapes of the network's parameters with those in the checkpoint, before any of them is allocated.

    Raises:
        ArchiveError: they differ, or do not fit into memory.
    """
    while hasattr(model, "base"):  # symmetrised states, which need numbers to be built
        model = model.base
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in model.build(hilbert, "meta").state_dict().items()}
    memory = available_memory()
    needed = 8 * COPIES * sum(map(math.prod, shapes.values()))
    if memory is not None and needed > memory:
        raise ArchiveError(
            f"{archive.place}: its model has parameters for which {needed:,} bytes are needed and {memory:,} are free."
        )
    if not archive.has_checkpoint:
        return
    stored = {name: values.shape for name, values in archive.parameters().items()}
    for name, shape in shapes.items():
        found = {other for path, other in stored.items() if path == name or path.endswith(f".{name}")}
        if shape not in found:
            raise ArchiveError(
                f"{archive.place}: the parameters {name} of its model have the shape {shape}, those in its checkpoint "
                f"{', '.join(map(str, sorted(found))) or 'are missing'}. It was not written by a run of nqs."
            )
