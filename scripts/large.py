"""The default recipe on systems beyond exact diagonalisation, beside published energies, and beside NetKet.

    python scripts/large.py                                         all problems, two seeds, ten minutes each
    python scripts/large.py --problems heisenberg-10x10 --seeds 0   one run
    python scripts/large.py --minutes 5 --against netket            NetKet's recipes as well, as long on the same GPU
    python scripts/large.py --device cpu --minutes 5 --problems heisenberg-6x6 bh-4x4 hubbard-3x4
    python scripts/large.py --list                                  list the problems

Each run is a process of its own, with options for the physics, the seeds and the time limit only; as many at the same
time as there are GPUs, each with one to itself (`--per-gpu` for more). Written into a folder: archives, a table, and a
figure of relative errors and V-scores against time. Finished runs are not repeated, interrupted ones are continued.
Energies extrapolated to zero variance are no bounds, see `nqs.estimators.extrapolation`. Exit code 1 if a run failed.

The references: Heisenberg 10x10, quantum Monte Carlo, -0.6715527 a site (quoted in arXiv:2502.17144); Heisenberg 6x6,
Sandvik, Phys. Rev. B 56, 11678 (1997); J1-J2, exact diagonalisation (Schulz, Ziman, Poilblanc, J. Phys. I 6, 675
(1996)); bosons on 8x8 sites, the lowest variational energy, -0.54783 a site (arXiv:2404.07869); t-V 4x4, Hubbard 3x4,
bosons on 4x4 sites (2,419,731 orbits of 128 symmetries), exact diagonalisation; Hubbard 4x8, best published network;
the Hubbard chain, Bethe ansatz for open ends (Schulz, J. Phys. C 18, 581 (1985)); the others as collected by Wu et al.,
Science 386, 296 (2024), arXiv:2302.04919.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Queue
from typing import Any, Literal

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure

from nqs.archive import Archive
from nqs.estimators.estimate import with_error
from nqs.estimators.extrapolation import zero_variance
from nqs.report.files import write_figure
from nqs.scripts.netket_recipes import RECIPES, Course
from nqs.scripts.studies import Outcome, Problem, Resources, listing, refuse_unknown, run, seeing

HUBBARD = "fermi_hubbard --shape 4 4 --n-up 5 --n-down 5 --U 8"
HUBBARD_4X8 = "fermi_hubbard --shape 4 8 --n-up 14 --n-down 14 --U 8"
PROBLEMS = {
    "heisenberg-10x10": Problem(command="heisenberg --shape 10 10", energy=-67.1553, target=1e-3),
    "j1j2-6x6": Problem(command="heisenberg --shape 6 6 --J 1 0.5", energy=-18.13715, target=5e-3),
    "tfim-12x12": Problem(command="ising --shape 12 12 --boundary open --h 3", energy=-457.0419, target=2e-5),
    "bh-8x8": Problem(command="bose_hubbard --shape 8 8 --n-particles 64 --U 16.8", energy=-35.061, target=1.5e-3),
    "tv32-V1": Problem(command="tv --shape 32 --n-particles 16 --V 1", energy=-15.94685, target=1e-3),
    "tv32-V4": Problem(command="tv --shape 32 --n-particles 16 --V 4", energy=-7.50216, target=1e-3),
    "tv-4x4": Problem(
        command="tv --shape 4 4 --n-particles 5 --V 10 --sampled", energy=-4.0520552744103675, target=1e-3
    ),
    "tv-6x6": Problem(command="tv --shape 6 6 --n-particles 13 --V 1", energy=-22.07737, target=1e-3),
    "hubbard-4x4": Problem(command=HUBBARD, energy=-17.51037, target=1e-3),
    "hubbard-4x4-half": Problem(
        command="fermi_hubbard --shape 4 4 --n-up 8 --n-down 8 --U 8", energy=-8.46896, target=1e-3
    ),
    "hubbard-4x8": Problem(command=HUBBARD_4X8, energy=-24.59, target=2.4e-2),
    "hubbard-4x4-autoregressive": Problem(
        command=f"{HUBBARD} --model.network transformer", energy=-17.51037, target=5e-2
    ),
    "hubbard-4x8-autoregressive": Problem(
        command=f"{HUBBARD_4X8} --model.network transformer", energy=-24.59, target=0.187
    ),
    "heisenberg-6x6": Problem(command="heisenberg --shape 6 6", energy=-24.439396, target=1e-4),
    "bh-4x4": Problem(command="bose_hubbard --shape 4 4 --n-particles 16 --U 8", energy=-26.8251673549, target=1e-3),
    "hubbard-3x4": Problem(
        command="fermi_hubbard --shape 3 4 --n-up 5 --n-down 5 --U 8", energy=-10.76537911051295, target=1e-2
    ),
    "hubbard-32": Problem(
        command="fermi_hubbard --shape 32 --boundary open --n-up 16 --n-down 16 --U 4",
        energy=-17.99457836512679,
        target=1e-2,
    ),
}
OF_CPU = ("heisenberg-6x6", "bh-4x4", "hubbard-3x4")  # five minutes of two cores
WINDOW = 10  # steps of a point of the figure


@dataclass(frozen=True, kw_only=True)
class Config:
    """Problems, seeds and resources."""

    problems: tuple[str, ...] = tuple(name for name in PROBLEMS if name not in OF_CPU)
    seeds: tuple[int, ...] = (0, 1)
    minutes: float = 10.0  # time limit of each run, including the evaluation
    per_gpu: int = 1  # number of runs at the same time on each GPU
    against: Literal["nothing", "netket"] = "nothing"
    device: str = ""  # default: cuda if there is a GPU
    folder: Path = Path("results/large")
    list: bool = False  # list the problems and stop


# ----------------------------------------------------------------------------------------------------------- runs


def in_slots(tasks: Sequence[Callable[[int | None], Any]], slots: list[int | None]) -> list[Any]:
    """Results of the tasks, as many at a time as there are slots; each is called with its slot."""
    free: Queue[int | None] = Queue()
    for slot in slots:
        free.put(slot)

    def carried_out(task: Callable[[int | None], Any]) -> Any:
        slot = free.get()
        try:
            return task(slot)
        finally:
            free.put(slot)

    with ThreadPoolExecutor(len(slots)) as pool:
        return list(pool.map(carried_out, tasks))


def of_netket(name: str, recipe: str, seed: int, config: Config, gpu: int | None) -> Course | None:
    """One of NetKet's recipes in a separate process; None if it failed."""
    path = config.folder / f"{name}-{recipe}-{seed}.json"
    if not path.exists():
        command = [sys.executable, "-m", "nqs.scripts.netket_recipes", "--problem", name, "--recipe", recipe]
        command += ["--seed", str(seed), "--minutes", str(config.minutes), "--output", str(path)]
        with path.with_suffix(".txt").open("w") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, check=False, env=seeing(gpu)
            ).returncode
        if not path.exists():
            print(f"{name}, NetKet's {recipe}, seed {seed} failed with exit code {code}: see {log.name}", flush=True)
            return None
    course = Course(**json.loads(path.read_text()))
    print(f"{name}, NetKet's {recipe}, seed {seed}: E = {with_error(course.energy, course.error)}", flush=True)
    return course


# ---------------------------------------------------------------------------------------------------------- table


def row(outcome: Outcome, problem: Problem, archive: Path) -> str:
    """A row of the table of our runs."""
    history = Archive.open(archive).history
    line = zero_variance(history["energy"], history["variance"])
    cells = (
        outcome.problem,
        str(outcome.seed),
        with_error(outcome.energy, outcome.error),
        f"{problem.energy:.7g}",
        f"{outcome.relative_error:.1e}",
        f"{problem.target:.1e}",
        f"{outcome.v_score:.1e}",
        "" if line is None else with_error(line.energy, line.error),
        str(outcome.steps),
        f"{outcome.seconds:.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def table(outcomes: list[Outcome], folder: Path) -> str:
    """Markdown table of our runs."""
    titles = ("problem", "seed", "energy", "reference", "relative error", "target", "V-score", "at zero variance")
    lines = ["| " + " | ".join((*titles, "steps", "seconds of steps")) + " |", "|---" * 10 + "|"]
    lines += [row(o, PROBLEMS[o.problem], folder / f"{o.problem}-{o.seed}.h5") for o in outcomes]
    return "\n".join(lines)


def against(outcomes: list[Outcome], courses: list[Course]) -> str:
    """Markdown table of our energies beside those of NetKet's recipes."""
    lines = ["| problem | seed | nqs | NetKet | recipe | parameters | steps |", "|---" * 7 + "|"]
    ours = {(o.problem, o.seed): with_error(o.energy, o.error) for o in outcomes}
    lines += [
        f"| {c.problem} | {c.seed} | {ours.get((c.problem, c.seed), '')} | {with_error(c.energy, c.error)} | "
        f"{c.recipe} | {c.parameters:,} | {len(c.energies):,} |"
        for c in courses
    ]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------------------------- figure


def smooth(values: np.ndarray) -> np.ndarray:
    """Medians of successive windows of steps."""
    few = max(1, len(values) // WINDOW)
    return np.array([np.median(part) for part in np.array_split(values, few)])


def draw(outcomes: list[Outcome], courses: list[Course], folder: Path) -> Path:
    """Relative errors and V-scores against wall time; grey: the target."""
    names = list(dict.fromkeys(o.problem for o in outcomes))
    figure = Figure(figsize=(9, 2.6 * len(names)), layout="constrained")
    for name, (left, right) in zip(names, figure.subplots(len(names), 2, squeeze=False), strict=True):
        seeds = [o.seed for o in outcomes if o.problem == name]
        histories = {seed: Archive.open(folder / f"{name}-{seed}.h5").history for seed in seeds}
        theirs = [c for c in courses if c.problem == name and c.energies]
        reference = PROBLEMS[name].energy
        for seed, history in histories.items():
            seconds = smooth(history["seconds"].cumsum())
            left.plot(seconds, np.abs(smooth(history["energy"]) / reference - 1), label=f"nqs, seed {seed}")
            right.plot(seconds, smooth(history["v_score"]))
        for course in theirs:
            above = np.abs(smooth(np.array(course.energies)) / reference - 1)
            label = f"NetKet {course.recipe}, seed {course.seed}"
            left.plot(smooth(np.array(course.seconds)), above, "--", label=label)
        left.axhline(PROBLEMS[name].target, color="grey", lw=0.6)
        left.set(title=name, ylabel="|E - E₀| / |E₀|")
        right.set(ylabel="V-score")
        for axes in (left, right):
            axes.set(xlabel="seconds", yscale="log")
        left.legend(fontsize=6, frameon=False)
    path = folder / "large.png"
    write_figure(figure, path)
    return path


def main(config: Config) -> int:
    if config.list:
        print(listing(PROBLEMS))
        return 0
    refuse_unknown(config.problems, PROBLEMS)
    if config.per_gpu < 1:
        raise SystemExit(f"error: per_gpu={config.per_gpu}: give the number of runs on each GPU, 1 or more.")
    config.folder.mkdir(parents=True, exist_ok=True)
    on_gpus = config.device.startswith("cuda") or (not config.device and torch.cuda.is_available())
    gpus: list[int | None] = [*range(torch.cuda.device_count())] if on_gpus else [None]
    slots = gpus * config.per_gpu
    resources = Resources(minutes=config.minutes, device=config.device, folder=config.folder)
    jobs = [(name, seed) for name in config.problems for seed in config.seeds[: PROBLEMS[name].seeds]]
    tasks: list[Callable[[int | None], Outcome | Course | None]]
    tasks = [partial(run, name, PROBLEMS[name], seed, resources) for name, seed in jobs]
    if config.against == "netket":
        tasks += [
            partial(of_netket, name, recipe, seed, config) for name, seed in jobs for recipe in RECIPES.get(name, ())
        ]
    found = in_slots(tasks, slots)
    outcomes = [o for o in found if isinstance(o, Outcome)]
    courses = [c for c in found if isinstance(c, Course)]
    if outcomes:
        text = table(outcomes, config.folder) + ("\n\n" + against(outcomes, courses) if courses else "")
        (config.folder / "large.md").write_text(text + "\n")
        print(text)
        print(f"figure  {draw(outcomes, courses, config.folder)}")
    return int(None in found)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
