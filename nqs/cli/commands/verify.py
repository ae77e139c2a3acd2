"""nqs verify: check the integrity of archives."""

from dataclasses import dataclass

from nqs.cli.errors import ExitCode, errors_to_exit_codes
from nqs.cli.files import Files, at_least_one
from nqs.runtime.text import printable


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check archives against the checksums written with them. Exit code 1 if one of them is damaged.

    The contents are not read. A checksum shows damage, not who wrote a file.
    """

    files: Files = ()

    def __call__(self) -> int:
        from nqs.archive.errors import ArchiveError
        from nqs.archive.versions import sealed_image

        with errors_to_exit_codes():
            at_least_one(self.files, "verify")
            damaged = 0
            for file in self.files:
                try:
                    version, _, size = sealed_image(file)
                except ArchiveError as error:
                    damaged += 1
                    print(f"DAMAGED  {error}")
                    continue
                name = printable(file)
                if version == 1:
                    print(f"unsealed {name}: format version 1 has no checksum")
                else:
                    print(f"ok       {name}: {size:,} bytes, SHA-256 as written")
        return ExitCode.ERROR if damaged else ExitCode.FINISHED
