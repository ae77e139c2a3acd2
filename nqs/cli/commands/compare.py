"""nqs compare: tables of energies and errors of runs."""

from dataclasses import dataclass
from typing import Literal

from nqs.cli.errors import errors_to_exit_codes
from nqs.cli.files import Files, at_least_one


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare runs with the exact energy, which is computed once and stored in the archives, and with each other.

    One table per Hamiltonian, the lowest energy first.
    """

    files: Files = ()
    format: Literal["text", "csv", "markdown"] = "text"
    exact_limit: int = 200_000  # largest dimension for exact diagonalisation if no exact energy is known

    def __call__(self) -> None:
        from nqs.archive.archive import Archive
        from nqs.report.compare import WRITERS, compared

        with errors_to_exit_codes():
            at_least_one(self.files, "compare")
            rows = compared([Archive.open(file) for file in self.files], self.exact_limit)
            print(WRITERS[self.format](rows), end="")
