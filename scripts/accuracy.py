"""Accuracy of the default recipes: relative errors of ground-state energies for a table of problems and seeds.

    python scripts/accuracy.py                                  all problems, three seeds, on a GPU if there is one
    python scripts/accuracy.py --problems bh8-U4 j1j2-4x4       some problems
    python scripts/accuracy.py --seeds 0 --parallel 1           one seed, one run at a time
    python scripts/accuracy.py --list                           list the problems

Each run is a separate process of the script of its Hamiltonian, with options for the physics, the seeds and the time
limit only; several share the device, because small problems do not fill a GPU. Archives and figures are kept in a
folder: finished runs are not repeated, interrupted ones are continued. Exit code 1 if a run failed. `scripts/large.py`
has the systems beyond exact diagonalisation.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import tyro

from nqs.scripts.studies import Problem, Resources, listing, refuse_unknown, run, table

HUBBARD = "fermi_hubbard --boundary open"

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


@dataclass(frozen=True, kw_only=True)
class Config:
    """Problems, seeds and resources."""

    problems: tuple[str, ...] = tuple(name for name in PROBLEMS if name not in TOY)
    seeds: tuple[int, ...] = (0, 1, 2)
    parallel: int = 4  # number of runs at the same time
    minutes: float = 10.0  # time limit of each run, including the evaluation
    device: str = ""  # default: cuda if there is a GPU
    folder: Path = Path("results/accuracy")
    list: bool = False  # list the problems and stop


def main(config: Config) -> int:
    if config.list:
        print(listing(PROBLEMS))
        return 0
    refuse_unknown(config.problems, PROBLEMS)
    config.folder.mkdir(parents=True, exist_ok=True)
    resources = Resources(minutes=config.minutes, device=config.device, folder=config.folder)
    jobs = [(name, seed) for name in config.problems for seed in config.seeds[: PROBLEMS[name].seeds]]
    with ThreadPoolExecutor(config.parallel) as pool:
        found = list(pool.map(lambda job: run(job[0], PROBLEMS[job[0]], job[1], resources), jobs))
    outcomes = [o for o in found if o is not None]
    print(table(outcomes, PROBLEMS))
    print(json.dumps([vars(o) for o in outcomes]))
    return int(len(outcomes) < len(jobs))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config, description=__doc__)))
