"""Matrix elements of a molecule in a second: all connected determinants of a batch, against a loop over excitations.

    python scripts/benchmark_molecule.py --fcidump n2.fcidump --frozen 2
    python scripts/benchmark_molecule.py --lattice-size 12               no file: a Hubbard ring in standing waves

Prints elements per CPU second (on a GPU per second), the ratio to a loop over single and double excitations in Python,
and a JSON line. An element is one n' != n with <n|H|n'> above the cutoff, with its configuration and its parent, as
`Molecule.connected` returns them on one thread; what vanishes is not counted. PyNQS (arXiv:2507.19276) reports 17
million a CPU second for its kernel in C++.
"""

import json
import time
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch

from nqs.cli.options import command_line
from nqs.hamiltonians import FermiHubbard, Molecule
from nqs.lattice import chain

REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which molecule, and how many determinants."""

    fcidump: str | None = None  # file with the integrals
    frozen: int = 0  # number of the first orbitals that stay doubly occupied
    lattice_size: int = 12  # sites of the ring without a file
    determinants: int = 2_000  # random ones
    looped: int = 2  # determinants of the loop
    device: str = "cpu"


def main(options: Options) -> None:
    torch.set_num_threads(1)
    if options.fcidump is None:
        L = options.lattice_size
        molecule = Molecule.from_lattice(FermiHubbard(chain(L), L // 2, L // 2, U=4.0))
    else:
        molecule = Molecule.from_fcidump(options.fcidump, frozen=options.frozen)
    n = molecule.hilbert.random(options.determinants, torch.Generator().manual_seed(0))
    looped, seconds = in_a_loop(molecule, n[: options.looped])
    batched = n.to(options.device)
    found, best = molecule.connected(batched), float("inf")  # tables are made in the first call
    clock = time.process_time if options.device == "cpu" else time.perf_counter
    for _ in range(REPEATS):
        begin = clock()
        found = molecule.connected(batched)
        if options.device != "cpu":
            torch.cuda.synchronize()
        best = min(best, clock() - begin)
    rate, loop = len(found.elements) / best, looped / seconds
    each = len(found.elements) / len(n)
    print(f"{molecule}\n{each:,.0f} connected determinants each")
    print(f"{rate / 1e6:.1f} million elements a second, {rate / loop:,.0f} times those of a loop")
    row = {"elements_per_second": rate, "ratio_to_loop": rate / loop, "connected": each, "device": options.device}
    print(json.dumps(row))


def in_a_loop(molecule: Molecule, n: torch.Tensor) -> tuple[int, float]:
    """Number of elements that are not zero, from a loop over excitations, and its CPU time."""
    M = molecule.integrals.n_orbitals
    v = {(s, t): molecule.integrals.four_index(s, t) for s in (0, 1) for t in (0, 1)}
    h = [molecule.integrals.h(s) for s in (0, 1)]
    begin, number = time.process_time(), 0
    for row in n.numpy():
        occupied = [[p for p in range(M) if row[p] >> s & 1] for s in (0, 1)]
        empty = [[p for p in range(M) if not row[p] >> s & 1] for s in (0, 1)]
        for s in (0, 1):
            for i in occupied[s]:
                for a in empty[s]:
                    x = h[s][i, a] + sum(v[s, t][i, a, k, k] for t in (0, 1) for k in occupied[t])
                    number += abs(x - sum(v[s, s][i, k, k, a] for k in occupied[s])) > molecule.cutoff
            for i, j in combinations(occupied[s], 2):
                for a, b in combinations(empty[s], 2):
                    number += abs(v[s, s][i, a, j, b] - v[s, s][i, b, j, a]) > molecule.cutoff
        for i in occupied[0]:
            for a in empty[0]:
                for j in occupied[1]:
                    number += int(np.count_nonzero(np.abs(v[0, 1][i, a, j, empty[1]]) > molecule.cutoff))
    return int(number), time.process_time() - begin


if __name__ == "__main__":
    command_line(main, Options, __doc__)
