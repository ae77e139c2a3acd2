"""nqs report: one web page about runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nqs.cli.errors import errors_to_exit_codes
from nqs.cli.files import Files, at_least_one

ENDINGS = (".html", ".htm")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Write one self-contained web page: energies, comparison, convergence, observables, sampler, configuration.

    nqs report run.h5 -o run.html
    nqs report results/*.h5 -o report.html       several runs side by side
    """

    files: Files = ()
    # HTML file
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FILE.html")]
    # largest dimension for exact diagonalisation where an archive holds no exact energy, which is then stored in it; 0:
    # nothing is computed
    exact_limit: int = 0

    def __call__(self) -> None:
        from nqs.archive.archive import Archive
        from nqs.archive.storage import replace_file
        from nqs.report.compare import compared
        from nqs.report.page import html_report

        with errors_to_exit_codes():
            at_least_one(self.files, "report")
            if self.output.suffix.lower() not in ENDINGS:
                raise ValueError(f"output {self.output}: the name of a web page must end with {' or '.join(ENDINGS)}.")
            if not self.output.parent.is_dir():
                raise ValueError(f"output {self.output}: there is no folder {self.output.parent}; make it first.")
            archives = list(Archive.open_all(dict.fromkeys(self.files)))
            rows = compared(archives, self.exact_limit)
            if self.exact_limit > 0:
                archives = list(
                    Archive.open_all(dict.fromkeys(self.files))
                )  # with the exact energies computed just now
            replace_file(self.output, html_report(archives, rows).encode())
            print(self.output)
