"""Accuracy of the default recipes: relative errors of ground-state energies for a table of problems and seeds.

    python scripts/accuracy.py                                  all problems, three seeds, on a GPU if there is one
    python scripts/accuracy.py --problems bh8-U4 j1j2-4x4       some problems
    python scripts/accuracy.py --seeds 0 --parallel 1           one seed, one run at a time
    python scripts/accuracy.py --large --seeds 0 --minutes 8.2  systems beyond exact diagonalisation, on a GPU
    python scripts/accuracy.py --list                           list the problems

Each run is a separate process of the script of its Hamiltonian, with options for the physics, the seeds and the time
limit only; several share the device, because small problems do not fill a GPU. Archives and figures are kept in a
folder: finished runs are not repeated, interrupted ones are continued. Exit code 1 if a run failed.
"""

import json
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import tyro

from nqs import recipes
from nqs.archive import Archive
from nqs.report.summary import energy_of

HUBBARD = "fermi_hubbard --boundary open"


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A script with its physics.

    Attributes:
        command: script and options.
        energy: exact ground-state energy.
        target: relative error to reach.
        seeds: largest number of seeds.
    """

    command: str
    energy: float
    target: float
    seeds: int = 3


# Exact diagonalisation with `nqs.exact` (dimensions below 200,000) and `scipy.sparse.linalg.eigsh`; the Ising chain is
# -2 / sin(pi / 2 L) (Pfeuty, Ann. Phys. 57, 79 (1970)), the 6x6 lattice is quantum Monte Carlo, -0.678872(1) per site
# (Sandvik, Phys. Rev. B 56, 11678 (1997)).
PROBLEMS = {
    "bh4": Problem(command="bose_hubbard --shape 4 --n-particles 4", energy=-3.9765130137420552, target=1e-6),
    "tv6": Problem(command="tv --shape 6", energy=-3.236067977499789, target=1e-6),
    "bh8-U1": Problem(command="bose_hubbard --U 1", energy=-13.11931637037791, target=1e-7),
    "bh8-U4": Problem(command="bose_hubbard --U 4", energy=-7.45979062605314, target=1e-7),
    "bh8-U10": Problem(command="bose_hubbard --U 10", energy=-3.1735360440113975, target=1e-7),
    "bh8-U16": Problem(command="bose_hubbard --U 16", energy=-1.992372798760071, target=1e-7),
    "bh10-U4": Problem(command="bose_hubbard --shape 10 --n-particles 10", energy=-9.251592973178992, target=1e-6),
    "tfim20": Problem(command="ising --shape 20", energy=-25.49098968636475, target=1e-6),
    "heisenberg20": Problem(command="heisenberg --shape 20", energy=-8.904386529876431, target=5e-7),
    "j1j2-4x4": Problem(command="heisenberg --shape 4 4 --J 1 0.5", energy=-8.457923351394845, target=1e-5),
    "hubbard10-U4": Problem(command=f"{HUBBARD} --shape 10 --U 4", energy=-5.380618820414507, target=1e-5),
    "hubbard10-U8": Problem(command=f"{HUBBARD} --shape 10 --U 8", energy=-3.074388982905958, target=1e-5),
    "hubbard-2x4-U4": Problem(command="fermi_hubbard --shape 2 4 --U 4", energy=-5.954236681057308, target=1e-5),
    "hubbard-2x4": Problem(command="fermi_hubbard --shape 2 4 --U 8", energy=-3.467173437213945, target=1e-5),
    "hubbard-4x4": Problem(
        command="fermi_hubbard --shape 4 4 --n-up 4 --n-down 4 --U 8", energy=-16.460626753681762, target=1e-3, seeds=1
    ),
    "heisenberg-6x6": Problem(command="heisenberg --shape 6 6", energy=-24.439396, target=1e-4, seeds=1),
}
TOY = ("bh4", "tv6")  # for tests
# Beyond exact diagonalisation. Heisenberg 10x10: quantum Monte Carlo, -0.6715527 per site (quoted in arXiv:2502.17144);
# J1-J2: exact diagonalisation (Schulz, Ziman, Poilblanc, J. Phys. I 6, 675 (1996)); bosons on 8x8 sites: the lowest
# variational energy, -0.54783 per site (arXiv:2404.07869); the others as collected by Wu et al., Science 386, 296
# (2024), arXiv:2302.04919. nan: not known to us.
LARGE = {
    "heisenberg-10x10": Problem(command="heisenberg --shape 10 10", energy=-67.1553, target=1e-3),
    "j1j2-6x6": Problem(command="heisenberg --shape 6 6 --J 1 0.5", energy=-18.13715, target=5e-3),
    "tfim-12x12": Problem(command="ising --shape 12 12 --boundary open --h 3", energy=-457.0419, target=2e-5),
    "bh-8x8": Problem(command="bose_hubbard --shape 8 8 --n-particles 64 --U 16.8", energy=-35.061, target=2e-3),
    "hubbard-4x4-doped": Problem(
        command="fermi_hubbard --shape 4 4 --n-up 5 --n-down 5 --U 8", energy=-17.51037, target=1e-3
    ),
    "tv32-V1": Problem(command="tv --shape 32 --n-particles 16 --V 1", energy=-15.94685, target=1e-3),
    "tv32-V4": Problem(command="tv --shape 32 --n-particles 16 --V 4", energy=-7.50216, target=1e-3),
    "hubbard-4x4-half": Problem(
        command="fermi_hubbard --shape 4 4 --n-up 8 --n-down 8 --U 8", energy=-8.46896, target=1e-3
    ),
    "tv-6x6": Problem(command="tv --shape 6 6 --n-particles 13 --V 1", energy=-22.07737, target=1e-3),
    "hubbard-4x8": Problem(
        command="fermi_hubbard --shape 4 8 --n-up 14 --n-down 14 --U 8", energy=math.nan, target=math.nan
    ),
    "hubbard-32": Problem(
        command="fermi_hubbard --shape 32 --boundary open --n-up 16 --n-down 16 --U 4", energy=math.nan, target=math.nan
    ),
}
PROBLEMS |= LARGE


@dataclass(frozen=True, kw_only=True)
class Config:
    """Problems, seeds and resources."""

    problems: tuple[str, ...] = tuple(name for name in PROBLEMS if name not in (*TOY, *LARGE))
    large: bool = False  # the problems beyond exact diagonalisation instead
    seeds: tuple[int, ...] = (0, 1, 2)
    parallel: int = 4  # number of runs at the same time
    minutes: float = 10.0  # time limit of each run, including the evaluation
    device: str = ""  # default: cuda if there is a GPU
    folder: Path = Path("results/accuracy")
    list: bool = False  # list the problems and stop


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One finished run."""

    problem: str
    seed: int
    relative_error: float
    v_score: float
    fidelity: float | None
    seconds: float
    steps: int


def outcome(name: str, seed: int, path: Path) -> Outcome:
    """Errors, time and steps of a run with a stored evaluation."""
    archive = Archive.open(path)
    found = energy_of(archive, PROBLEMS[name].energy)
    fidelity = archive.observables().get("fidelity")
    return Outcome(
        problem=name,
        seed=seed,
        relative_error=found.relative_error,
        v_score=found.estimate.v_score,
        fidelity=None if fidelity is None else float(fidelity),
        seconds=float(archive.history["seconds"].sum()),
        steps=archive.step,
    )


def run(name: str, seed: int, config: Config) -> Outcome | None:
    """One run in a separate process; None if it failed. Its output is written beside the archive."""
    path = config.folder / f"{name}-{seed}.h5"
    script, *options = PROBLEMS[name].command.split()
    if not path.exists() or Archive.open(path).result is None:
        command = [sys.executable, "-m", "nqs.cli", "run", script.replace("_", "-"), *options]
        command += ["--seed", str(seed), "--model.seed", str(seed), "--minutes", str(config.minutes)]
        command += ["--device", config.device or recipes.default_device(), "--archive", str(path)]
        begin = time.monotonic()
        with path.with_suffix(".txt").open("w") as log:
            code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
        if not path.exists() or Archive.open(path).result is None:
            print(f"{name} seed {seed} failed with exit code {code}: see {log.name}", flush=True)
            return None
        error = outcome(name, seed, path).relative_error
        print(f"{name} seed {seed}: relative error {error:.1e}, {time.monotonic() - begin:.0f} s", flush=True)
    return outcome(name, seed, path)


def table(outcomes: list[Outcome]) -> str:
    """Markdown table with median and largest error over the seeds of each problem."""
    lines = ["| problem | seeds | median rel. error | worst | target | V-score | fidelity | steps | seconds |"]
    lines.append("|---" * 9 + "|")
    for name in dict.fromkeys(o.problem for o in outcomes):
        runs = [o for o in outcomes if o.problem == name]
        errors = [abs(o.relative_error) for o in runs]
        known = [o.fidelity for o in runs if o.fidelity is not None]
        fidelity = f"1 - {1 - median(known):.0e}" if known else ""
        lines.append(
            f"| {name} | {len(runs)} | {median(errors):.1e} | {max(errors):.1e} | {PROBLEMS[name].target:.0e} | "
            f"{median(o.v_score for o in runs):.1e} | {fidelity} | {median(o.steps for o in runs):.0f} | "
            f"{median(o.seconds for o in runs):.0f} |"
        )
    return "\n".join(lines)


def main(config: Config) -> int:
    if config.list:
        print("\n".join(f"{name:16} {problem.command}" for name, problem in PROBLEMS.items()))
        return 0
    unknown = [name for name in config.problems if name not in PROBLEMS]
    if unknown:
        raise SystemExit(f"error: no problem {unknown[0]!r}: choose among {', '.join(PROBLEMS)}.")
    config.folder.mkdir(parents=True, exist_ok=True)
    problems = tuple(LARGE) if config.large else config.problems
    jobs = [(name, seed) for name in problems for seed in config.seeds[: PROBLEMS[name].seeds]]
    with ThreadPoolExecutor(config.parallel) as pool:
        found = list(pool.map(lambda job: run(job[0], job[1], config), jobs))
    outcomes = [o for o in found if o is not None]
    print(table(outcomes))
    print(json.dumps([vars(o) for o in outcomes]))
    return int(len(outcomes) < len(jobs))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
