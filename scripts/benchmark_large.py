"""Time from a Hamiltonian to the first step on large lattices, and its exponent in the number of sites.

    python scripts/benchmark_large.py                             rings up to 1,000 sites, squares up to 40 x 40
    python scripts/benchmark_large.py --rings 100 200 --squares   other sizes, no squares

Everything that a run does before its first step: the plan (signs, symmetries, sizes), the network, the checks of the
Hamiltonian and of the network, sampler and optimiser. Each case is a process of its own; imports are not counted. The
exponent is the slope of log time against log sites.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from nqs.cli.options import command_line

PROGRAM = """
import json, resource, time
from nqs.driver import built
from nqs.hamiltonians import BoseHubbard, Heisenberg
from nqs.lattice import chain, square
from nqs.recipes import plan
begin, cpu = time.perf_counter(), time.process_time()
chosen = plan({hamiltonian}, device="cpu", threads=1, steps=2)
vmc = built(chosen, chosen.model.build(chosen.hamiltonian.hilbert, "cpu"))
stage = chosen.stages[0]
stage.sampler.build(vmc.of_steps)
stage.optimiser.build(vmc.of_steps, stage.optimiser.objective(chosen.hamiltonian))
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps([time.perf_counter() - begin, time.process_time() - cpu, memory, str(chosen.hamiltonian.hilbert)]))
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of the lattices."""

    rings: tuple[int, ...] = (100, 300, 1000)  # Heisenberg rings, sites
    squares: tuple[int, ...] = (10, 20, 40)  # Heisenberg squares, sites of a side
    bosons: tuple[int, ...] = (50, 100, 200)  # Bose-Hubbard rings with one boson a site, at most four on a site
    limit: float = 600.0  # time limit of each process, seconds


@dataclass(frozen=True)
class Measured:
    sites: int
    wall: float
    cpu: float
    memory: float
    space: str


def measured(hamiltonian: str, sites: int, limit: float) -> Measured:
    program = PROGRAM.format(hamiltonian=hamiltonian)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise ValueError(f"{hamiltonian}: {done.stderr.strip().splitlines()[-1]}")
    return Measured(sites, *json.loads(done.stdout.strip().splitlines()[-1]))


def exponent(rows: list[Measured]) -> float:
    """Least-squares slope of log CPU time against log sites."""
    return float(np.polyfit(np.log([row.sites for row in rows]), np.log([row.cpu for row in rows]), 1)[0])


def main(config: Config) -> None:
    families = {
        "Heisenberg rings": [(f"Heisenberg(chain({L}), 0)", L) for L in config.rings],
        "Heisenberg squares": [(f"Heisenberg(square({L}), 0)", L * L) for L in config.squares],
        "Bose-Hubbard rings": [(f"BoseHubbard(chain({L}), {L}, U=4.0, n_max=4)", L) for L in config.bosons],
    }
    report = {}
    begin = time.perf_counter()
    for name, cases in families.items():
        if not cases:
            continue
        print(f"{name:20}{'sites':>7}{'wall s':>9}{'CPU s':>9}{'GiB':>7}  space")
        rows = []
        for hamiltonian, sites in cases:
            rows.append(measured(hamiltonian, sites, config.limit))
            row = rows[-1]
            print(f"{'':20}{row.sites:7}{row.wall:9.2f}{row.cpu:9.2f}{row.memory:7.2f}  {row.space}", flush=True)
        if len(rows) > 1:
            report[name] = {"exponent": exponent(rows), "rows": [vars(row) for row in rows]}
            print(f"{'':20}exponent {report[name]['exponent']:.2f}")
    print(json.dumps({"seconds": time.perf_counter() - begin, **report}))


if __name__ == "__main__":
    command_line(main, Config, __doc__)
