"""Resume runs from archives."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from nqs.archive.archive import Archive, ArchiveError, FlushPolicy
from nqs.exact.diagonalisation import ExactGroundState
from nqs.runtime.progress import Watcher
from nqs.runtime.text import printable
from nqs.vmc.loop import VMC
from nqs.vmc.rebuilding import known_types, rebuild
from nqs.vmc.result import Result
from nqs.vmc.stored import check_history, check_parameters, one_line

__all__ = ["known_types", "rebuild", "resume"]


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
            orthogonal_to=built.get("orthogonal_to", ()),
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
