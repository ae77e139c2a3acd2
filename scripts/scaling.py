"""Strong and weak scaling of a step over the GPUs of a machine, and the balance of a draw on up to 1,024 ranks.

    python scripts/scaling.py                                  1, 2, 4, .. GPUs, as many as there are
    python scripts/scaling.py --rows heisenberg --gpus 1 4     one problem
    python scripts/scaling.py --device cpu --rows toy          two processes of a CPU, a minute
    python scripts/scaling.py --rows chains chains-eager       Markov chains with a CUDA graph, and without
    python scripts/scaling.py --repeats 1000 8000 --steps 20 --rows heisenberg hubbard      repeated evaluations alone
    python scripts/benchmark.py --scaling                      the same as the first

Each number of GPUs is a run of torchrun, whose rows are printed as they come: seconds of a step and of its parts (the
shortest of those that fit into --seconds, at least one), the speed-up against one GPU, and the part of the step that
rank 0 spends in communication, waiting for other ranks included. In strong scaling the number of distinct
configurations is that of a step, in weak scaling that of a GPU. The last table is computed: a draw of the first problem
is cut into prefix groups, which are dealt to ranks as `nqs.samplers.decoding` does, and the largest share of each site
is compared with the mean.

With --repeats nothing is timed: of draws of so many distinct configurations, after --steps steps, the connected
configurations that are no samples are counted, once for all ranks and once for each rank that evaluates them.
"""

import json
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from nqs import recipes
from nqs.amplitudes.prefixes import SITE_COST, common_prefix
from nqs.cli.launch import free_port
from nqs.cli.options import command_line
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.lattice import chain, square
from nqs.models import MarshallSign, TransformerConfig
from nqs.optimisation import solve, split_rows, stochastic_reconfiguration
from nqs.optimisation.kernel import DenseJacobian, StreamedJacobian
from nqs.protocols import Hamiltonian, OptimiserConfig, SamplerConfig, Wavefunction, lattice_of
from nqs.recipes.samplers import chains as chains_of_recipe
from nqs.runtime.distributed import Communicator, communicator
from nqs.runtime.ranks import start
from nqs.samplers import TreeSampler
from nqs.samplers.decoding import dealt
from nqs.samples import Lookup, Samples, distinct

RANKS = tuple(2**k for k in range(11))  # of the simulation
GROUPS = (512, 2048, 8192)
FEW_RANKS = (2, 4, 8)  # of which repeated evaluations are counted
PARTS = ("sampling", "local energy", "kernel", "solve", "step")
LINE = "scaling: "  # in front of a measurement on standard output
WARM_UP = 8  # the first step has so many times fewer configurations
LEAST_STEPS = 3  # of a row; the first draw of a size captures its CUDA graph
COLLECTIVES = ("gather_padded", "to_columns", "sum", "from_first", "largest")


def tree(_: Hamiltonian, __: Wavefunction, number: int) -> SamplerConfig:
    return TreeSampler(n_distinct=number)


def chains(hamiltonian: Hamiltonian, psi: Wavefunction, number: int) -> SamplerConfig:
    """The Markov chains of `nqs.recipes`."""
    return chains_of_recipe(psi, number, lattice_of(hamiltonian))


def chains_without_graph(hamiltonian: Hamiltonian, psi: Wavefunction, number: int) -> SamplerConfig:
    return replace(chains_of_recipe(psi, number, lattice_of(hamiltonian)), use_cuda_graph=False)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is measured.

    Attributes:
        build: Hamiltonian, wavefunction and optimiser of a step, for a device.
        distinct: configurations of a step, or of a GPU; of Markov chains their number, one sample each.
        sampler: of a Hamiltonian, a wavefunction and that number.
        is_long: a step takes so long that there is only one.
    """

    build: Callable[[str], tuple[Hamiltonian, Wavefunction, OptimiserConfig]]
    distinct: int
    sampler: Callable[[Hamiltonian, Wavefunction, int], SamplerConfig] = tree
    is_weak: bool = False
    is_long: bool = False


def of_recipe(hamiltonian: Hamiltonian, device: str) -> tuple[Hamiltonian, Wavefunction, OptimiserConfig]:
    """Transformer and optimiser that `nqs.recipes` chooses for sampled steps."""
    plan = recipes.plan(hamiltonian, device=device, sampled=True, model=recipes.NetworkOptions(network="transformer"))
    return hamiltonian, plan.model.build(hamiltonian.hilbert, device).for_steps(), plan.stages[-1].optimiser


def heisenberg(device: str) -> tuple[Hamiltonian, Wavefunction, OptimiserConfig]:
    return of_recipe(Heisenberg(square(10, 10), 0.0), device)


def bose_hubbard(device: str) -> tuple[Hamiltonian, Wavefunction, OptimiserConfig]:
    return of_recipe(BoseHubbard(square(8, 8), 64, U=16.0), device)


def large(device: str) -> tuple[Hamiltonian, Wavefunction, OptimiserConfig]:
    """6.3 million parameters on 64 sites, the kernel in TF32."""
    hamiltonian = Heisenberg(chain(64), 0.0)
    sign = MarshallSign(sublattice=(0, 1) * 32)
    model = TransformerConfig(width=256, layers=8, heads=8, mlp_ratio=4, dtype="float32", phase="zero", reference=sign)
    optimiser = recipes.optimiser(recipes.OptimiserOptions(final_diagonal_shift=1e-3, precision="tf32"), exact=False)
    return hamiltonian, model.build(hamiltonian.hilbert, device), optimiser


def convolutions(device: str) -> tuple[Hamiltonian, Wavefunction, OptimiserConfig]:
    """The 10x10 Heisenberg lattice as `nqs.ground_state` solves it."""
    hamiltonian = Heisenberg(square(10, 10), 0.0)
    plan = recipes.plan(hamiltonian, device=device)
    return hamiltonian, plan.model.build(hamiltonian.hilbert, device).for_steps(), plan.stages[-1].optimiser


def hubbard(device: str) -> tuple[Hamiltonian, Wavefunction, OptimiserConfig]:
    return of_recipe(FermiHubbard(square(4, 4), 5, 5, U=8.0), device)


def toy(device: str) -> tuple[Hamiltonian, Wavefunction, OptimiserConfig]:
    hamiltonian = Heisenberg(chain(16), 0.0)
    model = TransformerConfig(width=16, layers=1, heads=2, mlp_ratio=2, phase="zero")
    return hamiltonian, model.build(hamiltonian.hilbert, device), recipes.optimiser(exact=False)


PROBLEMS = {
    "heisenberg": Problem(build=heisenberg, distinct=32_000),
    "bose-hubbard": Problem(build=bose_hubbard, distinct=32_000),
    "hubbard": Problem(build=hubbard, distinct=8_000),
    "heisenberg-weak": Problem(build=heisenberg, distinct=8_000, is_weak=True),
    "heisenberg-chains": Problem(build=convolutions, distinct=32_768, sampler=chains),
    "large": Problem(build=large, distinct=32_768, is_long=True),
    "chains": Problem(build=convolutions, distinct=2_048, sampler=chains),
    "chains-eager": Problem(build=convolutions, distinct=2_048, sampler=chains_without_graph),
    "toy": Problem(build=toy, distinct=500),
    "toy-chains": Problem(build=toy, distinct=200, sampler=chains),
    "toy-weak": Problem(build=toy, distinct=250, is_weak=True),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Rows and numbers of GPUs."""

    rows: tuple[str, ...] = ("heisenberg", "heisenberg-chains", "bose-hubbard", "heisenberg-weak", "large")
    gpus: tuple[int, ...] = ()  # (): 1, 2, 4, .. up to those of the machine; on a CPU 1 and 2 processes
    device: str = field(default_factory=recipes.default_device)
    seconds: float = 8.0  # of the steps of a row, at least three; the fastest counts
    simulate: bool = True  # balance of a draw of the first row, if it is a tree, on up to 1,024 ranks
    repeats: tuple[int, ...] = ()  # numbers of configurations of which repeated evaluations are counted
    steps: int = 0  # with a quarter of the first of these, before they are counted
    figure: Path = Path("results/scaling.png")
    measure: bool = False  # measure the rows in this process and its other ranks: what torchrun starts

    def __post_init__(self) -> None:
        unknown = set(self.rows) - set(PROBLEMS)
        if unknown:
            raise ValueError(f"--rows {' '.join(sorted(unknown))}: choose from {', '.join(PROBLEMS)}.")


# ----------------------------------------------------------------------------------------- measurement of a rank


class Stopwatch:
    """Seconds by name; a part within a part counts for the outer one alone."""

    def __init__(self, device: torch.device) -> None:
        self.device, self._inside = device, False
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        if self._inside:
            yield
            return
        self._inside = True
        begin = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - begin
            self._inside = False

    def around(self, owner: Any, function: str, name: str) -> Any:
        """Patch that times a function of a module or class."""
        real = getattr(owner, function)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.time(name):
                return real(*arguments, **options)

        return patch.object(owner, function, timed)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def measured(problem: Problem, device: str, seconds: float) -> dict[str, float]:
    """Seconds of a step and its parts on this rank; "communication" of a step with the clock on all messages."""
    hamiltonian, psi, config = problem.build(device)
    optimiser, place = config.build(psi), next(psi.parameters()).device
    number = problem.distinct * (communicator().size if problem.is_weak else 1)
    generator = torch.Generator(place).manual_seed(0)
    sampler = problem.sampler(hamiltonian, psi, number).build(psi)
    found: dict[str, Any] = {}

    def step(with_sampler: Any, watch: Stopwatch) -> None:
        communicator().numbers(0.0)  # all begin together
        whole = watch._now()
        with watch.time("sampling"):
            samples = with_sampler.sample(generator)
        with watch.time("local energy"):
            local = local_energies(hamiltonian, psi, samples)
        with ExitStack() as stack:
            for owner, function, name in (
                (stochastic_reconfiguration, "jacobian_of_all_ranks", "kernel"),
                *((kind, "gram", "kernel") for kind in (split_rows.SplitJacobian, DenseJacobian, StreamedJacobian)),
                *((kind, "metric", "kernel") for kind in (split_rows.SplitJacobian, DenseJacobian, StreamedJacobian)),
                (solve, "solve_shifted", "solve"),
            ):
                stack.enter_context(watch.around(owner, function, name))
            optimiser.step(samples, local.in_units_of(hamiltonian.hilbert.n_sites), 0.5)
        watch.seconds["step"] = watch._now() - whole
        found.update(distinct=samples.n_distinct, evaluated=local.n_evaluated)

    step(problem.sampler(hamiltonian, psi, max(1, number // WARM_UP)).build(psi), Stopwatch(place))
    sampler.sample(generator)  # finds the number of samples, or thermalises
    best: dict[str, float] = {}
    begin, n_steps = time.monotonic(), 0
    while True:
        watch, n_steps = Stopwatch(place), n_steps + 1
        step(sampler, watch)
        if not best or watch.seconds["step"] < best["step"]:
            best = dict(watch.seconds)
        late = time.monotonic() - begin + best["step"] > seconds
        if communicator().decided(problem.is_long or (late and n_steps >= LEAST_STEPS)):
            break
    talk = Stopwatch(place)
    if not problem.is_long:
        with ExitStack() as stack:
            for name in COLLECTIVES:
                stack.enter_context(talk.around(Communicator, name, "communication"))
            step(sampler, Stopwatch(place))
        best["communication"] = talk.seconds["communication"]
    parameters = sum(p.numel() for p in psi.parameters())
    memory = torch.cuda.max_memory_allocated(place) / 2**30 if place.type == "cuda" else 0.0
    return best | found | {"parameters": parameters, "memory": memory}


def measure_rows(config: Config) -> None:
    """Measure the rows and print what rank 0 found."""
    ranks = start(config.device)
    for name in config.rows:
        try:
            found = measured(PROBLEMS[name], config.device, config.seconds)
        except torch.OutOfMemoryError as error:
            if ranks.size > 1:
                raise
            print(f"{name} does not fit: {error}", file=sys.stderr, flush=True)
            continue
        if ranks.is_first:
            print(LINE + json.dumps({"row": name, "gpus": ranks.size} | found), flush=True)
        if config.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


# --------------------------------------------------------------------------------------------------------- runs


def run(config: Config, gpus: int, rows: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Measurements of some rows on so many GPUs, as they come."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(gpus)),
        *("--master-addr", "127.0.0.1", "--master-port", str(free_port())),
        *(__file__, "--measure", "--device", config.device, "--seconds", str(config.seconds), "--rows", *rows),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(LINE):
                yield json.loads(line.removeprefix(LINE))
    if process.returncode:
        print(f"{gpus} GPUs: ended with exit code {process.returncode}", file=sys.stderr)


def main(config: Config) -> None:
    if config.measure:
        measure_rows(config)
        return
    if config.repeats:
        count_repeats(config)
        return
    gpus = config.gpus or default_gpus(config.device)
    print(f"{'row':16} GPUs distinct  {'  '.join(f'{part:>12}' for part in PARTS)}  speed-up efficiency talk  GiB")
    found: list[dict[str, Any]] = []
    long = tuple(name for name in config.rows if PROBLEMS[name].is_long)
    short = tuple(name for name in config.rows if name not in long)
    for rows in (short, long):
        for number in gpus if rows else ():
            for one in run(config, number, rows):
                found.append(one)
                print(line_of(one, found), flush=True)
    report: dict[str, Any] = {"measured": found}
    if config.simulate and PROBLEMS[config.rows[0]].sampler is tree:
        report["balance"] = simulated(config, found)
    draw(found, report.get("balance", {}), config.figure)
    print(json.dumps(report))


def default_gpus(device: str) -> tuple[int, ...]:
    present = torch.cuda.device_count() if device == "cuda" else 2
    return tuple(2**k for k in range(present.bit_length()) if 2**k <= present)


def speed_up(one: dict[str, Any], all_of_them: list[dict[str, Any]], part: str = "step") -> float | None:
    """Against one GPU: of the time, or in weak scaling of the configurations in a second; None without one."""
    first = next((other for other in all_of_them if other["row"] == one["row"] and other["gpus"] == 1), None)
    if first is None or not one.get(part):
        return None
    work = one["distinct"] / first["distinct"] if PROBLEMS[one["row"]].is_weak else 1.0
    return work * first[part] / one[part]


def line_of(one: dict[str, Any], all_of_them: list[dict[str, Any]]) -> str:
    parts = "  ".join(f"{one.get(part, 0.0):10.3f} s" for part in PARTS)
    gain = speed_up(one, all_of_them)
    ratio = "       -          -" if gain is None else f"{gain:8.2f} {gain / one['gpus']:10.0%}"
    talk = f"{one['communication'] / one['step']:4.0%}" if "communication" in one else "   -"
    return f"{one['row']:16} {one['gpus']:4} {one['distinct']:8,}  {parts}  {ratio} {talk} {one['memory']:4.0f}"


# ---------------------------------------------------------------------------------------------------- simulation


def widths(n: Tensor, groups: int) -> tuple[Tensor, Tensor, int]:
    """Prefixes of every group at every site, (G, L); leaves of the groups, (G,); site where they are dealt.

    Args:
        n: distinct configurations in lexicographic order, (U, L).
    """
    L = n.shape[1]
    shared = torch.nn.functional.pad(common_prefix(n[1:], n[:-1]), (1, 0), value=-1)  # -1: the first one is new
    new = shared[:, None] < torch.arange(1, L + 1, device=n.device)  # (U, L): begins a prefix of that length
    dealt_at = int((new.sum(0) >= groups).to(torch.uint8).argmax()) if bool((new.sum(0) >= groups).any()) else L - 1
    group = new[:, dealt_at].cumsum(0) - 1
    of_groups = torch.zeros((int(group[-1]) + 1, L), dtype=torch.int64, device=n.device)
    return of_groups.index_add_(0, group, new.long()), torch.bincount(group), dealt_at


def balance(of_groups: Tensor, leaves: Tensor, dealt_at: int, ranks: int) -> float:
    """Mean over largest share of the prefixes, summed over the sites; before the deal every rank decodes all."""
    owner = dealt(leaves, ranks)
    shares = torch.zeros((ranks, of_groups.shape[1]), dtype=torch.int64, device=owner.device)
    shares.index_add_(0, owner, of_groups)
    total = of_groups.sum(0)
    largest = torch.where(torch.arange(len(total), device=total.device) <= dealt_at, total, shares.amax(0))
    return (total.sum() / ranks / largest.sum()).item()


def simulated(config: Config, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Balance of a draw of the first row, and the speed-up that it and the replicated solution allow."""
    problem = PROBLEMS[config.rows[0]]
    _, psi, _ = problem.build(config.device)
    generator = torch.Generator(next(psi.parameters()).device).manual_seed(0)
    sampler = TreeSampler(n_distinct=problem.distinct, use_cuda_graph=False).build(psi)
    samples = sampler.sample(generator)
    n = samples.configurations
    print(f"\nbalance of the sampling of {len(n):,} configurations ({config.rows[0]}), and speed-up of a step with it")
    one = next((x for x in found if x["row"] == config.rows[0] and x["gpus"] == 1), None)
    table: dict[str, Any] = {}
    print("ranks     " + "".join(f"{groups:>8,} groups" for groups in GROUPS) + "   speed-up")
    cut = {groups: widths(n, groups) for groups in GROUPS}
    for ranks in RANKS:
        shares = [balance(*cut[groups], ranks) for groups in GROUPS]
        limit = None
        if one is not None:  # local energies and kernel in equal shares, the solution on every rank
            shared = one["sampling"] / shares[0] + one["step"] - one["sampling"] - one.get("solve", 0.0)
            limit = one["step"] / (shared / ranks + one.get("solve", 0.0))
        text = "" if limit is None else f"{limit:11.1f}"
        print(f"{ranks:5,}     " + "".join(f"{share:14.0%} " for share in shares) + text)
        table[str(ranks)] = {"balance": dict(zip(map(str, GROUPS), shares, strict=True)), "speed_up": limit}
    return table


class Repeats(NamedTuple):
    """Network evaluations of local energies on several ranks, relative to those on one.

    Attributes:
        added: part of the evaluations that is made once more.
        cost: sites that are evaluated, shared prefixes once, with the shares of nqs.estimators.local_energy.
        cost_dealt: the same where each connected configuration belongs to one rank, drawn at random as by a hash.
    """

    added: float
    cost: float
    cost_dealt: float


def repeats(
    hamiltonian: Hamiltonian, psi: Wavefunction, samples: Samples, sizes: Sequence[int] = FEW_RANKS
) -> tuple[int, dict[int, Repeats]]:
    """Number of evaluations on one rank, and what several ranks add to them; each share in one chunk."""
    n = samples.configurations
    connected = hamiltonian.connected(n)
    configurations, _ = psi.fold(connected.configurations)
    unknown = (Lookup(psi.hilbert, n).rows(configurations) < 0).nonzero()[:, 0]
    first, classes = distinct(psi.hilbert, configurations[unknown])
    evaluated, parents = configurations[unknown[first]], connected.parents[unknown]  # in lexicographic order
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(0)).to(n.device)
    once, found = cost(evaluated), {}
    for size in sizes:
        owner = parents // Communicator(0, size).rows_of_share(len(n))
        shares = [torch.unique(classes[owner == rank]) for rank in range(size)]
        found[size] = Repeats(
            added=sum(map(len, shares)) / len(first) - 1,
            cost=sum(cost(evaluated[share]) for share in shares) / once,
            cost_dealt=sum(cost(evaluated[order % size == rank]) for rank in range(size)) / once,
        )
    return len(first), found


def cost(n: Tensor) -> float:
    """Sites of configurations in lexicographic order that are evaluated, as `nqs.amplitudes.prefixes` decides."""
    return min(n.numel(), SITE_COST * (n.numel() - int(common_prefix(n[1:], n[:-1]).sum())))


def count_repeats(config: Config) -> None:
    print(f"{'row':16} steps distinct evaluations   on {FEW_RANKS} ranks: added; cost; cost if dealt by a hash")
    report = []
    for name in config.rows:
        hamiltonian, psi, optimiser_config = PROBLEMS[name].build(config.device)
        optimiser = optimiser_config.build(psi)
        generator = torch.Generator(next(psi.parameters()).device).manual_seed(0)
        sampler = TreeSampler(n_distinct=max(1, config.repeats[0] // 4), use_cuda_graph=False).build(psi)
        for _ in range(config.steps):
            samples = sampler.sample(generator)
            local = local_energies(hamiltonian, psi, samples)
            optimiser.step(samples, local.in_units_of(hamiltonian.hilbert.n_sites), 0.3)
        for number in config.repeats:
            samples = TreeSampler(n_distinct=number, use_cuda_graph=False).build(psi).sample(generator)
            once, found = repeats(hamiltonian, psi, samples)
            added, *costs = zip(*found.values(), strict=True)
            text = "".join(f"{x:7.1%}" for x in added) + "".join(
                "  " + "".join(f"{x:6.2f}" for x in kind) for kind in costs
            )
            print(f"{name:16} {config.steps:5} {samples.n_distinct:8,} {once:11,}   {text}", flush=True)
            ranks = {size: one._asdict() for size, one in found.items()}
            report.append({"row": name, "distinct": samples.n_distinct, "once": once, "ranks": ranks})
    print(json.dumps(report))


def draw(found: list[dict[str, Any]], table: dict[str, Any], path: Path) -> None:
    """Speed-up by number of GPUs, and balance by number of ranks."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for row in dict.fromkeys(one["row"] for one in found):
        points = [(one["gpus"], speed_up(one, found)) for one in found if one["row"] == row]
        left.plot(*zip(*[(x, y) for x, y in points if y is not None], strict=True) or ((), ()), "o-", label=row)
    most = max((one["gpus"] for one in found), default=1)
    left.plot([1, most], [1, most], "k:", label="ideal")
    left.set(xlabel="GPUs", ylabel="speed-up of a step")
    left.legend()
    for groups in GROUPS if table else ():
        right.semilogx(RANKS, [table[str(n)]["balance"][str(groups)] for n in RANKS], "o-", label=f"{groups:,} groups")
    right.set(xlabel="ranks", ylabel="balance of the sampling", ylim=(0, 1.02))
    if table:
        right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    print(f"figure {path}")


if __name__ == "__main__":
    command_line(main, Config, __doc__)
