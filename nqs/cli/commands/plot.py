"""nqs plot: the figure of a run, or the convergence of several."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from nqs.cli.errors import errors_to_exit_codes
from nqs.cli.files import Files, at_least_one


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw the energy, its error and the occupation statistics of a run, or the convergence of several.

    nqs plot run.h5 -o run.png
    nqs plot run.h5 -o run.png --follow 10       a live figure, redrawn every 10 s during the run
    nqs plot results/*.h5 -o all.pdf             relative errors over steps and time
    """

    files: Files = ()
    # PNG, PDF or SVG file
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FIGURE")]
    follow: float | None = None  # redraw after this many seconds until all runs have ended

    def __call__(self) -> None:
        from nqs.archive.lock import writer_of
        from nqs.report.figures import plot_run, plot_runs
        from nqs.report.files import refuse_foreign

        with errors_to_exit_codes():
            at_least_one(self.files, "plot")
            if self.follow is not None and not self.follow > 0:
                raise ValueError(f"follow={self.follow}: give the seconds between two figures.")
            refuse_foreign(self.output)
            while True:
                going_on = [file for file in self.files if writer_of(file) is not None]
                if len(self.files) == 1:
                    plot_run(self.files[0], self.output)
                else:
                    plot_runs(self.files, self.output)
                if self.follow is None or not going_on:
                    break
                time.sleep(self.follow)
            print(self.output)
