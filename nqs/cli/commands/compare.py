"""nqs compare: tables of energies and errors of runs."""

from dataclasses import dataclass
from typing import Literal

from nqs.cli.errors import errors_to_exit_codes
from nqs.cli.files import Files, at_least_one


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare runs with the exact energies in their archives, and with each other.

    One table per Hamiltonian, the lowest energy first.
    """

    files: Files = ()
    format: Literal["text", "csv", "markdown"] = "text"
    # largest dimension for exact diagonalisation where an archive holds no exact energy, which is then stored in it; 0:
    # nothing is computed
    exact_limit: int = 0

    def __call__(self) -> None:
        from nqs.archive.archive import Archive
        from nqs.report.compare import WRITERS, compared

        with errors_to_exit_codes():
            at_least_one(self.files, "compare")
            rows = compared(list(Archive.open_all(self.files)), self.exact_limit)
            print(WRITERS[self.format](rows), end="")
