"""nqs verify: check the integrity of archives, and seal them again."""

from dataclasses import dataclass
from pathlib import Path

from nqs.cli.errors import ExitCode, errors_to_exit_codes
from nqs.cli.files import Files, at_least_one
from nqs.runtime.text import printable


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check archives against the checksums written with them. Exit code 1 if one of them is damaged.

    A checksum shows damage, not who wrote a file.

    nqs verify --reseal run.h5                   after another HDF5 program has changed the file
    """

    files: Files = ()
    reseal: bool = (
        False  # write a new checksum for files whose contents are those of a run that can be shown and resumed
    )

    def __call__(self) -> int:
        from nqs.archive.errors import ArchiveError

        with errors_to_exit_codes():
            at_least_one(self.files, "verify")
            damaged = 0
            for file in self.files:
                try:
                    print(self._checked(file))
                except ArchiveError as error:
                    damaged += 1
                    print(f"DAMAGED  {error}")
        return ExitCode.ERROR if damaged else ExitCode.FINISHED

    def _checked(self, file: Path) -> str:
        """What the file is, in one line. Raises ArchiveError: it is damaged, or no archive."""
        from nqs.archive.archive import Archive
        from nqs.archive.errors import ArchiveError
        from nqs.archive.versions import sealed_image

        name = printable(file)
        try:
            version, _, size = sealed_image(file)
        except ArchiveError as error:
            if self.reseal and file.is_file():
                return reseal(file)
            raise error
        if version > 1:
            return f"ok       {name}: {size:,} bytes, SHA-256 as written"
        if self.reseal:
            return reseal(file)
        Archive.open(file)  # any HDF5 file may be without a checksum
        return f"unsealed {name}: format version 1 has no checksum"


def reseal(file: Path) -> str:
    """Seal an archive again whose contents are those of a run; one line about it.

    Raises:
        ArchiveError: its contents are not, or another process writes it.
    """
    from nqs.archive.archive import Archive
    from nqs.archive.errors import ArchiveError
    from nqs.vmc.continuation import rebuild
    from nqs.vmc.stored import check_parameters

    with Archive.open(file, "a", sealed=False) as archive:
        rows = {len(values) for values in archive.history.values()} or {0}
        if rows != {archive.step}:
            raise ArchiveError(
                f"{file}: its history has {max(rows)} rows for {archive.step} steps; it is left as it is."
            )
        try:
            built = rebuild(archive.config, finished=archive.finished)
            check_parameters(built["model"], built["hamiltonian"].hilbert, archive)
            unknown = ""
        except ValueError as error:
            unknown = f"; its run was not rebuilt: {printable(error, longest=200)}"
        archive.flush()
        return f"resealed {printable(file)}: {archive.step} steps, {archive.size:,} bytes{unknown}"
