"""nqs export: history and parameters of a run in formats of other programs."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from nqs.cli.errors import errors_to_exit_codes
from nqs.cli.files import File
from nqs.runtime.text import printable

if TYPE_CHECKING:
    from nqs.archive.archive import Archive


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the history of a run as CSV or JSON, its parameters as safetensors, or density matrices as npz (electrons).

    nqs export run.h5 -o history.csv parameters.safetensors density_matrices.npz
    """

    file: File
    # files; the ending chooses the format: .csv, .json, .safetensors or .npz
    output: Annotated[tuple[Path, ...], tyro.conf.arg(aliases=["-o"], metavar="FILE...")]

    def __call__(self) -> None:
        from nqs.archive.archive import Archive
        from nqs.report.summary import require_step

        writers = {
            ".csv": write_csv, ".json": write_json, ".safetensors": write_parameters, ".npz": write_density_matrices
        }  # fmt: skip
        with errors_to_exit_codes():
            archive = Archive.open(self.file)
            require_step(archive, "export")
            unknown = [str(path) for path in self.output if path.suffix not in writers]
            if unknown or not self.output:
                raise ValueError(
                    f"output {' '.join(unknown) or 'is missing'}: a name must end with {', '.join(writers)}."
                )
            for path in self.output:
                writers[path.suffix](archive, path)
                print(path)


def write_csv(archive: "Archive", path: Path) -> None:
    """One line per step, every digit."""
    history = {"step": archive.history["step"]} | archive.history
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(printable, history))
        writer.writerows(zip(*(values.tolist() for values in history.values()), strict=True))


def write_json(archive: "Archive", path: Path) -> None:
    """The output of `nqs show --json`, with the history under "history"; null for values that are not finite."""
    from nqs.cli.commands.show import plain_data

    history = {
        name: [value if math.isfinite(value) else None for value in values.tolist()]
        for name, values in archive.history.items()
    }
    path.write_text(json.dumps(plain_data(archive) | {"history": history}, indent=1) + "\n")


def write_parameters(archive: "Archive", path: Path) -> None:
    """Parameters by name, with Hamiltonian, unit, package version, configuration and step as metadata."""
    from safetensors.numpy import save_file

    header, parameters = archive.attributes, archive.parameters()
    without = [name for name, values in parameters.items() if values.dtype.kind == "c"]
    if without:
        raise ValueError(f"{archive.path} has complex parameters ({without[0]}, …), which safetensors cannot hold.")
    metadata = {name: str(header[name]) for name in ("hamiltonian", "unit", "package_version")}
    metadata |= {"config": json.dumps(archive.config), "step": str(archive.step)}
    save_file(parameters, path, metadata=metadata)


def write_density_matrices(archive: "Archive", path: Path) -> None:
    """One- and two-body density matrices, summed over spins, in the convention of PySCF: dm1, dm2 and dm2_error.

    Raises:
        ValueError: as `nqs.expectation.density_matrices`.
    """
    import numpy as np

    from nqs.expectation import density_matrices

    one, two = density_matrices(archive)
    np.savez(path, dm1=one.numpy(), dm2=two.value.numpy(), dm2_error=two.error.numpy())
