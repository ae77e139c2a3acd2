"""Rebuild the objects of a run from the configuration in its archive."""

from collections.abc import Mapping, Sequence
from typing import Any

from nqs import hamiltonians, hilbert, lattice, models, optimisation, samplers, symmetry
from nqs.archive.errors import ArchiveError
from nqs.archive.serialise import from_plain
from nqs.archive.upgrade import upgraded
from nqs.models import parts as model_parts
from nqs.vmc.stored import check_kinds, check_sizes, one_line


def rebuild(
    config: Mapping[str, Any],
    types: Mapping[str, type] | None = None,
    *,
    only: Sequence[str] = (),
    finished: bool = False,
) -> dict[str, Any]:
    """The objects of a run from the configuration in its archive: hamiltonian, model, sampler, optimiser, ...

    Args:
        only: the parts that are wanted; all by default.
        finished: no step is left, so that removed options do not matter.

    Raises:
        ArchiveError: a part is missing, or its values do not fit.
        ValueError: a class that nqs does not know.
    """
    known = known_types() | dict(types or {})
    parts: tuple[str, ...] = ("hamiltonian", "model", "sampler", "optimiser", "evaluation", "run")
    missing = [name for name in only or (*parts, "unit") if name not in config]
    if missing:
        raise ArchiveError(f"the archive holds no run of nqs: its configuration lacks {', '.join(missing)}.")
    parts += tuple(name for name in ("warm_up", "orthogonal_to") if name in config)
    parts = tuple(only) or parts
    with one_line("the archive"):
        config = upgraded({name: config[name] for name in parts}, finished=finished)
        check_sizes(config)
        built = {name: from_plain(config[name], known) for name in parts}
        check_kinds(built)
    return built


def known_types() -> dict[str, type]:
    """Configuration classes of nqs by name, from which archives may be rebuilt."""
    modules = (hamiltonians, hilbert, lattice, models, model_parts, samplers, optimisation, symmetry)
    found = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: item for name, item in found.items() if isinstance(item, type)}
