"""nqs verify: check the integrity of archives."""

from dataclasses import dataclass

from nqs.cli.errors import ExitCode, errors_to_exit_codes
from nqs.cli.files import Files, at_least_one


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check archives against the checksums written with them. Exit code 1 if one of them is damaged."""

    files: Files = ()

    def __call__(self) -> int:
        from nqs.archive.archive import Archive, ArchiveError

        with errors_to_exit_codes():
            at_least_one(self.files, "verify")
            damaged = 0
            for file in self.files:
                try:
                    archive = Archive.open(file)
                except ArchiveError as error:
                    damaged += 1
                    print(f"DAMAGED  {error}")
                    continue
                if archive.read_version == 1:
                    print(f"readable {file}: {archive.step} steps; format version 1 has no checksum")
                else:
                    print(f"ok       {file}: {archive.step} steps, {archive.size:,} bytes, SHA-256 as written")
        return ExitCode.ERROR if damaged else ExitCode.FINISHED
