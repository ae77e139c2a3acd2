"""Archives as arguments of commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

Files = Annotated[
    tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...", help="archives, HDF5 files of runs.")
]
File = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE", help="archive, the HDF5 file of a run.")]


def at_least_one(files: Sequence[Path], command: str) -> None:
    """Raises ValueError: no file was given."""
    if not files:
        raise ValueError(f"nqs {command} needs at least one archive: nqs {command} results/*.h5")
