"""Resume runs from archives, and rebuild their objects."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nqs import hamiltonians, hilbert, lattice, models, optimisation, samplers, symmetry
from nqs.archive.archive import Archive, ArchiveError, FlushPolicy
from nqs.archive.serialise import from_plain
from nqs.archive.upgrade import upgraded
from nqs.exact.diagonalisation import ExactGroundState
from nqs.runtime.progress import Watcher
from nqs.runtime.text import printable
from nqs.vmc.loop import VMC
from nqs.vmc.result import Result
from nqs.vmc.stored import check_history, check_kinds, check_parameters, check_sizes, one_line


def resume(
    archive: str | Path,
    *,
    types: Mapping[str, type] | None = None,
    device: torch.device | str = "cpu",
    exact: ExactGroundState | float | None = None,
    progress: bool = True,
    minutes: float | None = None,
    flush: FlushPolicy | None = None,
    watch: Iterable[Watcher] = (),
) -> Result:
    """Continue a run from its archive alone.

    Args:
        archive: HDF5 file that `VMC.run` wrote.
        types: classes of your own that the run was built from, by name.
        device: where to continue.
        exact, progress, minutes, flush, watch: as in `VMC.run`.

    Raises:
        ArchiveError: no readable archive, or no run in it.
        ValueError: the run was built from classes that nqs does not know; pass them in `types`.
    """
    file = Archive.open(archive)
    config = file.config
    if "initial" in config and not file.has_checkpoint:
        raise ArchiveError(f"{archive} was stopped before its initial parameters were kept: repeat the command.")
    built = rebuild(config, types, finished=file.finished)
    with one_line(archive):
        hilbert = built["hamiltonian"].hilbert
        check_history(file)
        check_parameters(built["model"], hilbert, file)
        wavefunction = built["model"].build(hilbert, device)
        with torch.no_grad():  # parts of the model may be of a wrong kind
            wavefunction.log_psi(hilbert.random(1, torch.Generator().manual_seed(0)).to(device))
        vmc = VMC(
            built["hamiltonian"],
            wavefunction,
            built["sampler"],
            built["optimiser"],
            built["evaluation"],
            warm_up=built.get("warm_up"),
            unit=printable(config["unit"]),
        )
    # The stored configuration itself: those of older versions lack later options.
    return vmc.carry_out(
        built["run"],
        config,
        archive=archive,
        exact=exact,
        progress=progress,
        minutes=minutes,
        flush=flush,
        watch=watch,
    )


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
    parts += tuple(name for name in ("warm_up",) if name in config)
    parts = tuple(only) or parts
    with one_line("the archive"):
        config = upgraded({name: config[name] for name in parts}, finished=finished)
        check_sizes(config)
        built = {name: from_plain(config[name], known) for name in parts}
        check_kinds(built)
    return built


def known_types() -> dict[str, type]:
    """Configuration classes of nqs by name, from which archives may be rebuilt."""
    modules = (hamiltonians, hilbert, lattice, models, samplers, optimisation, symmetry)
    return {name: item for module in modules for name, item in vars(module).items() if isinstance(item, type)}
