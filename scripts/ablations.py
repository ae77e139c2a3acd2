"""Design questions of the wavefunction, each a switch, answered by measurement.

    python scripts/ablations.py --list                                  the questions, their problems and variants
    python scripts/ablations.py --question tokens phase --variants categorical sign --list       what that would measure
    python scripts/ablations.py --question tokens --seeds 0 1 2 --seconds 60
    python scripts/ablations.py --question backbones --problems heisenberg-6x6 --parallel 4 --device cuda
    python scripts/ablations.py --all --device cuda --parallel 5 --seconds 50 --seeds 0 1 2 --minutes 8.9
    python scripts/ablations.py --question tokens --show                table and figure of the rows that are there

Training runs of one question have the same time, the same number of parameters (the width is chosen so), the same
samples and steps: those of nqs.recipes for large systems, without sums over the sector and without averages over a
symmetry. Every run that ends adds one line of JSON to the file of rows; what is in there is not measured again. Tables
show the median over the seeds, with the range.
"""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nqs.cli.options import command_line


@dataclass(frozen=True, kw_only=True)
class Config:
    question: tuple[str, ...] = ()  # names, see --list
    all: bool = False  # every question
    list: bool = False  # list the chosen questions, or all, with the chosen variants, and measure nothing
    show: bool = False  # table and figure of the rows that are there, and measure nothing
    problems: tuple[str, ...] = ()  # of the questions; by default all but the 8x8 lattice
    variants: tuple[str, ...] = ()  # of the questions; all by default
    seeds: tuple[int, ...] = (0,)
    seconds: float = 60.0  # time of a training run, evaluation included
    minutes: float = math.inf  # of the whole series: runs that would end later are left for the next time
    device: Literal["cpu", "cuda"] = "cpu"
    parallel: int = 1  # runs side by side, on each visible GPU or on the CPU
    rows: Path = Path("results/ablations.jsonl")

    def check(self) -> None:
        """
        Raises:
            ValueError: an option that is out of range, or a question, problem or variant that does not exist.
        """
        from nqs.scripts.ablation.questions import questions

        every = questions()
        chosen = [every[name] for name in self.names if name in every]
        if not chosen and not self.question:
            raise ValueError("choose --question NAME, --all or --list.")
        problems = {problem for question in chosen for problem in question.variants}
        variants = {v for question in chosen for vs in question.variants.values() for v in vs}
        for what, given, allowed in (
            ("question", self.question, set(every)),
            ("problem", self.problems, problems),
            ("variant", self.variants, variants),
        ):
            unknown = [name for name in given if name not in allowed]
            if unknown:
                raise ValueError(f"no {what} {unknown[0]!r}: choose among {', '.join(sorted(allowed))}.")
        if not (0 < self.seconds < math.inf and self.minutes > 0 and self.parallel >= 1 and self.seeds):
            raise ValueError("give positive seconds, minutes and parallel, and at least one seed.")

    @property
    def names(self) -> tuple[str, ...]:
        from nqs.scripts.ablation.questions import questions

        return tuple(questions()) if self.all or (self.list and not self.question) else self.question

    def chooses(self, problem: str, variant: str) -> bool:
        """Whether a variant of a problem is measured, in each of the questions that has both."""
        from nqs.scripts.ablation.problems import ON_REQUEST

        wanted = problem in self.problems if self.problems else problem not in ON_REQUEST
        return wanted and (not self.variants or variant in self.variants)


def main(config: Config) -> int:
    begin = time.monotonic()
    config.check()
    from nqs.scripts.ablation.parallel import measure, missing, read_rows
    from nqs.scripts.ablation.questions import questions
    from nqs.scripts.ablation.table import draw, table, with_errors

    every = questions()
    if config.list:
        for name in config.names:
            print(f"{every[name].number:2d}  {name}: {every[name].text}")
            for problem, variants in every[name].variants.items():
                chosen = [variant for variant in variants if config.chooses(problem, variant)]
                if chosen:
                    print(f"      {problem}: {'; '.join(chosen)}")
        return 0
    failed = 0
    if not config.show:
        jobs = [
            job
            for seed in config.seeds
            for name in config.names
            for job in every[name].jobs(name, seeds=(seed,), seconds=config.seconds, device=config.device)
            if config.chooses(job.problem, job.variant)
        ]
        left = missing(jobs, read_rows(config.rows))
        left.sort(key=lambda job: (config.seeds.index(job.seed), -job.seconds))  # long ones first
        print(f"{len(left)} runs to make, {len(jobs) - len(left)} of {len(jobs)} are in {config.rows}", flush=True)
        until = begin + 60 * config.minutes
        failed = measure(left, config.rows, device=config.device, parallel=config.parallel, until=until)
    rows = with_errors(read_rows(config.rows))
    for name in config.names:
        if text := table(rows, name, every[name]):
            figure = config.rows.with_name(f"{config.rows.stem}-{name}.png")
            draw(rows, name, every[name], figure)
            print(f"\n{every[name].number}. {every[name].text}\n\n{text}\n\nfigure {figure}")
    return 1 if failed else 0


if __name__ == "__main__":
    command_line(main, Config, __doc__)
