"""Matrix elements of a molecule in a second, against a loop over excitations; parts of an optimisation step.

    python scripts/benchmark_molecule.py --fcidump n2.fcidump --frozen 2
    python scripts/benchmark_molecule.py --lattice-size 12               no file: a Hubbard ring in standing waves
    python scripts/benchmark_molecule.py --fcidump n2.fcidump --frozen 2 --step --device cuda

Prints elements per CPU second (on a GPU per second), the ratio to a loop over single and double excitations in Python,
and a JSON line. An element is one n' != n with <n|H|n'> above the cutoff, with its configuration and its parent, as
`Molecule.connected` returns them on one thread; what vanishes is not counted. PyNQS (arXiv:2507.19276) reports 17
million a CPU second for its kernel in C++.

With --step: seconds of a step of the sampled run that `nqs run molecule --sampled` makes, from its start, and of its
parts, each with its share of the whole; the device finishes every part before the next one begins. Parts within others
count for themselves alone.
"""

import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import combinations
from typing import Any
from unittest import mock

import numpy as np
import torch

from nqs.amplitudes import cache
from nqs.cli.options import command_line
from nqs.driver import built
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import FermiHubbard, Molecule
from nqs.lattice import chain
from nqs.models.inference.cached_attention import CachedDotProduct
from nqs.models.inference.decoder import CachedBlock, Decoder
from nqs.models.inference.prefix_tree import PrefixTree
from nqs.models.references.listed import ListedConditionals
from nqs.models.transformer import Transformer
from nqs.optimisation import kernel, solve, stochastic_reconfiguration
from nqs.recipes import plan
from nqs.samples import Lookup

REPEATS = 5
LOCAL = "local energies"
# Parts of a step, by the functions that make them; of a part within another one the time counts for itself.
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("elements", Molecule, "connected"),
    ("look-up", Lookup, "rows"),
    ("distinct", cache, "distinct"),
    ("evaluations", cache, "log_psi_sharing_prefixes"),
    ("rest of the network", Decoder, "log_psi_in_order"),
    ("start from the list", ListedConditionals, "of"),
    ("tree of prefixes", PrefixTree, "__init__"),
    ("rest of the blocks", CachedBlock, "after_prefix"),
    ("attention", CachedDotProduct, "after_prefix"),
    ("feed-forward", CachedBlock, "add_mlp_"),
    ("conditionals", Transformer, "of_outputs"),
    ("Jacobian", stochastic_reconfiguration, "jacobian_of_all_ranks"),
    ("kernel", kernel.DenseJacobian, "gram"),
    ("kernel", kernel.DenseJacobian, "metric"),
    ("kernel", kernel.StreamedJacobian, "gram"),
    ("kernel", kernel.StreamedJacobian, "metric"),
    ("solve", solve.DenseSystem, "solve"),
    ("solve", solve.IterativeSystem, "solve"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which molecule, and how many determinants."""

    fcidump: str | None = None  # file with the integrals
    frozen: int = 0  # number of the first orbitals that stay doubly occupied
    lattice_size: int = 12  # sites of the ring without a file
    determinants: int = 2_000  # random ones
    looped: int = 2  # determinants of the loop
    device: str = "cpu"
    step: bool = False  # the parts of an optimisation step instead of elements in a second
    distinct: int | None = None  # determinants of the step; None: those of the recipe
    minutes: float = 2.6  # time limit of the run whose step it is; short ones start from shorter lists


def main(options: Options) -> None:
    if options.step:
        step(molecule_of(options), options)
    else:
        torch.set_num_threads(1)
        elements(molecule_of(options), options)


def molecule_of(options: Options) -> Molecule:
    if options.fcidump is None:
        L = options.lattice_size
        return Molecule.from_lattice(FermiHubbard(chain(L), L // 2, L // 2, U=4.0))
    return Molecule.from_fcidump(options.fcidump, frozen=options.frozen)


def elements(molecule: Molecule, options: Options) -> None:
    """Elements in a second, and the ratio to a loop."""
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


class Parts:
    """Seconds and calls by part; a part within another one is named after both, "outer: inner"."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.calls: Counter[str] = Counter()
        self._names: list[str] = []
        self._begin = self._now()

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def _now(self) -> float:
        if self.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    def _until_now(self) -> None:
        """Time since the last change of parts belongs to the present one."""
        now = self._now()
        if self._names:
            self.seconds[self._name] += now - self._begin
        self._begin = now

    @property
    def _name(self) -> str:
        outer, *inner = self._names
        return f"{outer}: {inner[-1]}" if inner else outer

    def measure(self, name: str, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        self._until_now()
        self._names.append(name)
        self.calls[self._name] += 1
        try:
            return function(*args, **options)
        finally:
            self._until_now()
            self._names.pop()

    def method(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, measured; also as a method."""

        def measured(*args: Any, **options: Any) -> Any:
            return self.measure(name, function, *args, **options)

        return measured


def step(molecule: Molecule, options: Options) -> None:
    """Print the seconds of a step and of its parts."""
    device, begin = options.device, time.perf_counter()
    chosen = plan(molecule, device=device, sampled=True, minutes=options.minutes, distinct=options.distinct)
    model = chosen.model.build(molecule.hilbert, device)
    vmc, stage = built(chosen, model), chosen.stages[-1]
    sampler, optimiser = stage.sampler.build(vmc.of_steps), stage.optimiser.build(vmc.of_steps)
    generator = torch.Generator(device).manual_seed(0)
    print(f"{molecule}\n{chosen.summary}\n{time.perf_counter() - begin:.1f} s to the first step", flush=True)

    def one_step(parts: Parts) -> Any:
        samples = parts.measure("draw", sampler.sample, generator)
        local = parts.measure(LOCAL, local_energies, molecule, vmc.of_steps, samples)
        parts.measure("update", optimiser.step, samples, local.in_units_of(vmc.energy_scale), 0.0)
        return local

    seconds = []
    for _ in range(2):  # tables are made in the first one
        whole = Parts(device)
        local = one_step(whole)
        seconds.append(whole.total)
    parts = Parts(device)
    with ExitStack() as changed:
        for name, owner, function in PARTS:
            measured = parts.method(name, getattr(owner, function))
            changed.enter_context(mock.patch.object(owner, function, measured))
        local = one_step(parts)
    print(f"{seconds[1]:.3f} s a step, the first one {seconds[0]:.3f} s; {parts.total:.3f} s part by part:")
    for name, of_part in sorted(parts.seconds.items(), key=lambda item: -item[1]):
        print(f"{of_part:9.4f} s {of_part / parts.total:7.1%} {parts.calls[name]:6,} calls  {name}")
    others = [f"{LOCAL}: {name}" for name in ("elements", "look-up", "distinct")]
    evaluating = sum(x for name, x in parts.seconds.items() if name.startswith(f"{LOCAL}: ") and name not in others)
    print(
        f"{len(local.values):,} determinants, {local.n_connected:,} connected ones, {local.n_evaluated:,} evaluated in "
        f"{evaluating:.3f} s"
    )
    row: dict[str, Any] = {"seconds": seconds[1], "parts": parts.seconds, "device": device}
    row |= {
        "evaluations": evaluating,
        "distinct": len(local.values),
        "connected": local.n_connected,
        "evaluated": local.n_evaluated,
    }
    if device != "cpu":
        row["peak_memory"] = torch.cuda.max_memory_allocated()
    print(json.dumps(row))


if __name__ == "__main__":
    command_line(main, Options, __doc__)
