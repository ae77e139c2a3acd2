"""Speed of sampler, local energies, gradient and whole step, also against a naive version and NetKet.

    python scripts/benchmark.py                                              Heisenberg chain L=20, 1,024 samples
    python scripts/benchmark.py --L 16 32 64 128 --distinct 500              scaling exponent of the cost with L
    python scripts/benchmark.py --problem bose-hubbard --against naive       a naive version of nqs
    python scripts/benchmark.py --against netket                             NetKet with two layers of LSTM
    python scripts/benchmark.py --breakdown                                  natural gradient next to plain gradient
    python scripts/benchmark.py --rounding                                   natural gradient in lower precisions
    python scripts/benchmark.py --profile                                    the operations that take most of a step
    python scripts/benchmark.py --scaling                                    several GPUs, see scripts/scaling.py

Times are CPU seconds on a CPU (summed over threads) and wall seconds on a GPU: the best of several repetitions after a
warm-up; with --repeats 0, for very large sizes, those of a single run without counting operations. The floating-point
operations of matrix products are counted, and the time they would take at the rate of a large product in the same
precision (float64, float32, TF32) is compared with the measured time; so are the bytes of the inputs and outputs of all
operations with the rate of a large copy.

The naive version draws every sample separately, evaluates the whole prefix for every site and every connected
configuration of every distinct sample from scratch, and takes gradients with torch.func. It runs on a random subset of
--naive-samples samples, and ratios compare rates. "Prefix sharing alone" compares local energies with and without
prefix sharing, all else equal.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, Literal, cast, get_args

from nqs.runtime.threads import let_idle_threads_sleep

# isort: split
let_idle_threads_sleep()  # has an effect only before torch is imported

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from nqs import recipes
from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.cli.options import command_line
from nqs.estimators.local_energy import LocalEnergies, local_energies
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.lattice import chain
from nqs.models import MarshallSign, TransformerConfig
from nqs.optimisation import Optimiser, StochasticReconfiguration, TorchOptimiser
from nqs.optimisation.jacobian import by_vmap, jacobian
from nqs.optimisation.kernel import Precision, centred_jacobian, matrix_products
from nqs.optimisation.solve import in_sample_space, solve_shifted
from nqs.optimisation.stochastic_reconfiguration import residual
from nqs.protocols import AutoregressiveWavefunction, Hamiltonian, Sampler, SamplerConfig
from nqs.samplers import GumbelSampler, TreeSampler
from nqs.samples import Samples
from nqs.scripts import scaling

SHIFTS = (1e-3, 1e-4, 1e-5, 1e-6)
NETKET_CHAINS = 512  # parallel Markov chains: more of them vectorise better, but each is shorter
Part = Literal["sampler", "local energy", "gradient", "step"]
PARTS: tuple[Part, ...] = ("sampler", "local energy", "gradient", "step")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Problem, sizes and measurements."""

    problem: Literal["heisenberg", "bose-hubbard", "fermi-hubbard"] = "heisenberg"
    L: tuple[int, ...] = (20,)  # number of sites; several give the scaling exponent of the cost
    samples: int = 1024  # number of independent samples
    distinct: int | None = None  # number of distinct configurations instead, drawn without replacement
    use_cuda_graph: bool = True  # sample with a CUDA graph on a GPU; operations are counted without it
    sector: bool = False  # Heisenberg at total Sz = 0; False: all total Sz, as NetKet samples
    train: int = 0  # optimisation steps before the measurement
    training_samples: int = 4096  # largest number of samples in each of them
    model: TransformerConfig = field(
        default_factory=lambda: TransformerConfig(width=16, layers=2, heads=2, mlp_ratio=2, phase="zero")
    )
    optimiser: StochasticReconfiguration = field(
        default_factory=lambda: cast(StochasticReconfiguration, recipes.optimiser(exact=False))
    )
    device: str = field(default_factory=recipes.default_device)
    threads: int | None = None  # CPU threads; None: as PyTorch chooses
    repeats: int = 3  # 0: a single run, for very large sizes
    parts: tuple[Part, ...] = PARTS
    against: Literal["nothing", "naive", "netket"] = "nothing"
    naive_samples: int = 256
    breakdown: bool = False  # parts of a natural-gradient step, and a plain-gradient step
    rounding: bool = False  # rounding errors of updates in lower precisions
    profile: bool = False  # list the operations that take most of a step
    scaling: bool = False  # over the GPUs of this machine instead: scripts/scaling.py
    seed: int = 0


# ----------------------------------------------------------------------------------------------------- problems


def hamiltonian(config: Config, L: int) -> Hamiltonian:
    if config.problem == "heisenberg":
        return Heisenberg(chain(L), 0.0 if config.sector else None)
    if config.problem == "bose-hubbard":
        return BoseHubbard(chain(L), L, U=4.0)
    return FermiHubbard(chain(L), L // 2, L // 2, U=4.0)


def wavefunction(config: Config, h: Hamiltonian) -> AutoregressiveWavefunction:
    model = recipes.on_lattice(config.model, chain(h.hilbert.n_sites))
    if config.problem != "heisenberg":
        return model.build(h.hilbert, config.device)
    sign = MarshallSign(sublattice=tuple(site % 2 for site in range(h.hilbert.n_sites)))
    return replace(model, reference=sign).build(h.hilbert, config.device)


# -------------------------------------------------------------------------------------------------- measurement


@dataclass(frozen=True)
class Measurement:
    """One part at one size: seconds, operations in matrix products by precision, bytes of all inputs and outputs."""

    seconds: float
    operations: dict[str, int]
    bytes: int


class Counted(TorchDispatchMode):
    """Counts operations in matrix products, and bytes of the inputs and outputs of all operations except views."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.is_view:
            return result
        tensors = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)]
        self.bytes += sum({id(x): x.numel() * x.element_size() for x in tensors}.values())
        operations = COUNTED.get(func.overloadpacket)
        if operations is not None:
            kind = str(tensors[0].dtype)[6:]
            if kind == "float32" and tensors[0].is_cuda and torch.get_float32_matmul_precision() != "highest":
                kind = "tf32"
            self.operations[kind] += operations(*args, **(kwargs or {}), out_val=result)
        return result


def attention_operations(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    """Operations in q k^T and in weights times v, shapes (B, H, T, E); torch's table lacks the CPU kernels."""
    return 4 * q.numel() * k.shape[2]


def attention_backward_operations(g: Any, q: Any, k: Any, *_: Any, **__: Any) -> int:
    return 10 * q.numel() * k.shape[2]


COUNTED: dict[Any, Callable[..., int]] = flop_registry | {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_operations,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward_operations,
}


def seconds_of(run: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Shortest of several repetitions after a warm-up; time of a single run if `repeats` is 0."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best = float("inf")
    for repetition in range(repeats + 1):
        synchronise(device)
        begin = clock()
        run()
        synchronise(device)
        if repetition or not repeats:
            best = min(best, clock() - begin)
    return best


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(
    run: Callable[[], object], device: torch.device, repeats: int, counted_run: Callable[[], object] | None = None
) -> Measurement:
    """Seconds of `run`; operations of `counted_run`, if given, because those of a CUDA graph cannot be counted."""
    seconds = seconds_of(run, device, repeats)
    if not repeats:
        return Measurement(seconds, {}, 0)
    with Counted() as counted:
        (counted_run or run)()
    return Measurement(seconds, dict(counted.operations), counted.bytes)


def operations_of(run: Callable[[], object], device: torch.device) -> str:
    """Table of the operations that take longest."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        run()
        synchronise(device)
    on_gpu = device.type == "cuda"
    times = {e.key: (e.self_device_time_total if on_gpu else e.self_cpu_time_total) / 1e6
             for e in profile.key_averages()}  # fmt: skip
    total = sum(times.values())
    longest = sorted(times.items(), key=lambda item: -item[1])[:12]
    return "\n".join(f"{seconds:9.4f} s {100 * seconds / total:5.1f} %  {name}" for name, seconds in longest)


@cache
def product_rate(device: torch.device, kind: str) -> float:
    """Measured operations per second of a large matrix product in float64, float32 or tf32."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn((size, size), dtype=torch.float64 if kind == "float64" else torch.float32, device=device)
    b, c = torch.randn_like(a), torch.empty_like(a)
    with matrix_products("tf32" if kind == "tf32" else "float32"):
        return 2 * size**3 / seconds_of(lambda: torch.mm(a, b, out=c), device, 3)


def copy_rate(device: torch.device) -> float:
    """Measured bytes per second, read and written, of a large copy."""
    large = torch.empty(2**30 if device.type == "cuda" else 2**27, dtype=torch.uint8, device=device).zero_()
    target = torch.empty_like(large)
    return 2 * large.numel() / seconds_of(lambda: target.copy_(large), device, 3)


def fraction_of_products(m: Measurement, device: torch.device) -> float:
    """Time of the matrix products at the rates of large products, as a fraction of the measured time."""
    return sum(number / product_rate(device, kind) for kind, number in m.operations.items()) / m.seconds


def peak_memory(device: torch.device) -> int:
    """Peak memory since the start in bytes, of the GPU or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --------------------------------------------------------------------------------------------------------- nqs


@dataclass(frozen=True)
class Prepared:
    """A Hamiltonian and a wavefunction after `train` steps, with what a step needs."""

    hamiltonian: Hamiltonian
    psi: AutoregressiveWavefunction
    optimiser: Optimiser
    sampler: Sampler
    generator: torch.Generator
    device: torch.device

    def step(self, progress: float = 0.5, sampler: Sampler | None = None) -> None:
        samples = (sampler or self.sampler).sample(self.generator)
        local = local_energies(self.hamiltonian, self.psi, samples)
        self.optimiser.step(samples, local, progress)


def prepare(config: Config, L: int) -> Prepared:
    device = recipes.checked_device(config.device)
    h = hamiltonian(config, L)
    psi = wavefunction(config, h)
    sampler: SamplerConfig = TreeSampler(n_samples=config.samples, use_cuda_graph=config.use_cuda_graph)
    if config.distinct is not None:
        sampler = GumbelSampler(n_distinct=config.distinct)
    generator = torch.Generator(device).manual_seed(config.seed)
    prepared = Prepared(h, psi, config.optimiser.build(psi), sampler.build(psi), generator, device)
    training = TreeSampler(n_samples=min(config.samples, config.training_samples)).build(psi)
    for i in range(config.train):
        prepared.step(i / config.train, training)
    return prepared


def ours(config: Config, prepared: Prepared) -> tuple[dict[str, Measurement], dict[str, Any], Samples, LocalEnergies]:
    """Measurements of all parts; numbers about the state, its samples and their local energies."""
    h, psi, sampler, generator = prepared.hamiltonian, prepared.psi, prepared.sampler, prepared.generator
    optimiser, device = prepared.optimiser, prepared.device
    parameters = [p.detach().clone() for p in psi.parameters()]
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    times = [clock()]
    samples = sampler.sample(generator)
    synchronise(device)
    times.append(clock())
    local = local_energies(h, psi, samples)
    synchronise(device)
    times.append(clock())
    runs: dict[str, Callable[[], object]] = {
        "sampler": lambda: sampler.sample(generator),
        "local energy": lambda: local_energies(h, psi, samples),
        "gradient": lambda: optimiser.step(samples, local, 0.5),
        "step": prepared.step,
    }
    unrecorded = TreeSampler(n_samples=config.samples, use_cuda_graph=False).build(psi)
    plain: dict[str, Callable[[], object]] = {
        "sampler": lambda: unrecorded.sample(generator),
        "step": lambda: prepared.step(sampler=unrecorded),
    }
    found: dict[str, Measurement] = {}
    if not config.repeats:  # the runs above are the measurement
        found = {
            "sampler": Measurement(times[1] - times[0], {}, 0),
            "local energy": Measurement(times[2] - times[1], {}, 0),
        }
        found = {part: m for part, m in found.items() if part in config.parts}
    for part in [part for part in config.parts if part not in found]:
        with torch.no_grad():  # measure every part with the same parameters
            for parameter, value in zip(psi.parameters(), parameters, strict=True):
                parameter.copy_(value)
        found[part] = measure(runs[part], device, config.repeats, plain.get(part))
    extra: dict[str, Any] = {}
    if config.breakdown:
        extra["breakdown"] = breakdown(config, prepared)
        print_breakdown(extra["breakdown"], "s" if device.type == "cuda" else "CPU s")
    if config.rounding:
        extra["rounding"] = rounding(config, prepared)
    if config.profile:
        print(operations_of(prepared.step, device))
    with torch.no_grad():
        for parameter, value in zip(psi.parameters(), parameters, strict=True):
            parameter.copy_(value)
    return (
        found,
        {
            "parameters": psi.n_parameters,
            "samples": samples.n_samples,
            "distinct": samples.n_distinct,
            "connected": local.n_connected,
            "evaluated": local.n_evaluated,
            "saved": local.fraction_saved,
            **extra,
        },
        samples,
        local,
    )


# --------------------------------------------------------------------------------------------------- breakdown


def breakdown(config: Config, prepared: Prepared) -> dict[str, float]:
    """Seconds of the parts of a natural-gradient step, and of a plain-gradient update (Adam).

    If the Jacobian does not fit into memory it is streamed, and its time is contained in that of kernel and rest.
    """
    h, psi, sampler, device = prepared.hamiltonian, prepared.psi, prepared.sampler, prepared.device
    samples = sampler.sample(prepared.generator)
    local = local_energies(h, psi, samples)
    options = config.optimiser
    memory = None if options.memory is None else int(options.memory * 2**30)

    def seconds(run: Callable[[], object]) -> float:
        return seconds_of(run, device, config.repeats)

    def step(optimiser: Optimiser) -> object:
        return optimiser.step(samples, local, 0.5)

    @torch.no_grad()
    def of_natural_gradient() -> dict[str, float]:
        rows = partial(centred_jacobian, psi, samples, samples.weights.sqrt(), memory, options.precision)
        X = rows()
        kernel = X.gram if in_sample_space(X) else X.metric
        matrix = kernel()
        right, mean = matrix[0].clone(), matrix.trace() / min(X.shape)
        return {
            "Jacobian": seconds(rows),
            "kernel": seconds(kernel),
            "solution": seconds(lambda: solve_shifted(matrix.clone(), right, 1e-3, mean)),
        }

    found = {
        "sampler": seconds(lambda: sampler.sample(prepared.generator)),
        "local energy": seconds(lambda: local_energies(h, psi, samples)),
        **of_natural_gradient(),
    }
    whole = seconds(lambda: step(prepared.optimiser))
    found["rest of the update"] = whole - found["Jacobian"] - found["kernel"] - found["solution"]
    plain = TorchOptimiser(name="Adam", learning_rate=1e-3, final_learning_rate=1e-4).build(psi)
    found["plain update"] = seconds(lambda: step(plain))
    shared = found["sampler"] + found["local energy"]
    found["update ratio"] = whole / found["plain update"]
    found["step ratio"] = (shared + whole) / (shared + found["plain update"])
    return found


def print_breakdown(found: dict[str, float], unit: str) -> None:
    parts = list(found)[:6]
    total = sum(found[part] for part in parts)
    print(f"\n{'natural-gradient step':24}{unit:>10}")
    for part in parts:
        print(f"  {part:22}{found[part]:10.4f}{100 * found[part] / total:7.1f}%")
    print(f"plain gradient instead  {found['plain update']:10.4f}")
    print(f"natural gradient costs {found['step ratio']:.2f} plain steps with sampler and local energy in both, "
          f"{found['update ratio']:.2f} without")  # fmt: skip


@torch.no_grad()
def rounding(config: Config, prepared: Prepared) -> dict[str, list[float]]:
    """Rounding errors |X (delta - delta64)| / |X delta64| of updates in lower precisions, for each of SHIFTS."""
    samples = prepared.sampler.sample(prepared.generator)
    local = local_energies(prepared.hamiltonian, prepared.psi, samples).values
    memory = None if config.optimiser.memory is None else int(config.optimiser.memory * 2**30)
    updates: dict[str, list[torch.Tensor]] = {}
    for precision in get_args(Precision):
        X = centred_jacobian(prepared.psi, samples, samples.weights.sqrt(), memory, precision)
        e = residual(samples.weights, local - samples.weights @ local.real, X.shape[0])
        kernel = X.gram()
        mean = kernel.trace() / min(X.shape)
        updates[precision] = [X.rmatvec(solve_shifted(kernel.clone(), e, shift, mean)) for shift in SHIFTS]
    exact = centred_jacobian(prepared.psi, samples, samples.weights.sqrt(), memory)
    wanted = [exact.matvec(delta) for delta in updates["float64"]]
    found = {}
    print(f"\n{'rounding of the update':24}" + "".join(f"{f'shift {shift:.0e}':>14}" for shift in SHIFTS))
    for precision in list(updates)[1:]:
        found[precision] = [
            ((exact.matvec(delta) - change).norm() / change.norm()).item()
            for delta, change in zip(updates[precision], wanted, strict=True)
        ]
        print(f"  {precision:22}" + "".join(f"{distance:14.1e}" for distance in found[precision]))
    return found


# ------------------------------------------------------------------------------------------------------- naive


@torch.no_grad()
def naive_samples(psi: AutoregressiveWavefunction, n_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Independent samples, (n_samples, L): every site from a network evaluation of all sites."""
    L = psi.hilbert.n_sites
    n = torch.zeros((n_samples, L), dtype=torch.uint8, device=generator.device)
    for site in range(L):
        p = psi.conditionals(n).log_p[:, site].exp()
        n[:, site] = torch.multinomial(p, 1, generator=generator)[:, 0]
    return n


@torch.no_grad()
def naive_local_energies(h: Hamiltonian, psi: AutoregressiveWavefunction, samples: Samples) -> torch.Tensor:
    """Local energies with every connected configuration evaluated from scratch, in chunks of the fastest size."""
    n = samples.configurations
    values = h.diagonal(n).to(torch.complex128)
    for part in torch.arange(len(n), device=n.device).split(256):
        connected = h.connected(n[part])
        parents = part[connected.parents]
        log_modulus, phase = log_psi_in_chunks(psi, connected.configurations)
        here = psi.log_psi(n[part])
        ratio = torch.polar(
            (log_modulus - here.log_modulus[connected.parents]).exp(), phase - here.phase[connected.parents]
        )
        values.index_add_(0, parents, connected.elements * ratio)
    return values


def naive(config: Config, prepared: Prepared, samples: Samples, local: LocalEnergies) -> dict[str, float]:
    """Rates per second of the naive version on the same state: distinct samples, local energies, gradients."""
    h, psi, generator, device = prepared.hamiltonian, prepared.psi, prepared.generator, prepared.device
    size = config.naive_samples
    print(f"naive: timed on {min(size, samples.n_distinct):,} of {samples.n_distinct:,} distinct samples, at random")
    few = torch.randperm(samples.n_distinct, generator=torch.Generator().manual_seed(0))[:size].to(device)
    part = Samples(
        configurations=samples.configurations[few],
        weights=samples.weights[few],
        log_modulus=samples.log_modulus[few],
        phase=samples.phase[few],
    )
    difference = (naive_local_energies(h, psi, part) - local.values[few]).abs().max()
    print(f"largest difference of a local energy from the naive one: {difference.item():.1e}")
    parameters = {name: p.detach() for name, p in psi.named_parameters()}
    n_parameters = sum(p.numel() for p in parameters.values())
    kind = next(iter(parameters.values()))
    out = [torch.empty((len(few), n_parameters), dtype=kind.dtype, device=device) for _ in range(1 + psi.has_phase)]
    ones = torch.ones(len(few), dtype=torch.float64, device=device)
    # Each independent sample counts as n_distinct / n_samples distinct ones, as in the tree sampler.
    rates = {
        "sampler": len(few)
        / seconds_of(lambda: naive_samples(psi, size, generator), device, 1)
        * (samples.n_distinct / samples.n_samples)
        * (size / len(few)),
        "local energy": len(few) / seconds_of(lambda: naive_local_energies(h, psi, part), device, 1),
        "jacobian": len(few) / seconds_of(lambda: by_vmap(psi, parameters, part.configurations, ones, out), device, 1),
        "our jacobian": len(few) / seconds_of(lambda: jacobian(psi, part.configurations), device, 1),
    }
    if config.repeats:
        psi.shares_prefixes = False
        seconds = seconds_of(lambda: local_energies(h, psi, samples), device, 1)
        psi.shares_prefixes = True
        rates["prefix sharing alone"] = samples.n_distinct / seconds
    return rates


# ------------------------------------------------------------------------------------------------------- NetKet


def rbm_alpha(n_parameters: float, visible: int) -> int:
    """Ratio of hidden to visible units of a restricted Boltzmann machine with about `n_parameters` parameters."""
    return max(1, round((n_parameters - visible) / (visible * (visible + 1))))


def netket(config: Config, L: int, n_parameters: int) -> tuple[dict[str, float], dict[str, Any]]:
    """CPU seconds of NetKet's parts without compilation, for the same Hamiltonian and number of samples.

    NetKet's autoregressive models do not conserve particle numbers; there, a restricted Boltzmann machine with about as
    many real parameters is sampled by Markov chains in the sector.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import netket as nk

    graph = nk.graph.Chain(L, pbc=True)
    chains = min(NETKET_CHAINS, config.samples)
    options: dict[str, Any] = {}
    if config.problem == "heisenberg":
        hilbert: Any = nk.hilbert.Spin(0.5, L)
        operator = nk.operator.Heisenberg(hilbert, graph, J=0.25, sign_rule=True).to_jax_operator()
        # LSTMNet has the faster step, FastLSTMNet the faster sampler.
        models = {name: getattr(nk.experimental.models, name)(hilbert=hilbert, layers=2, features=32)
                  for name in ("LSTMNet", "FastLSTMNet")}  # fmt: skip
        sampler: Any = nk.sampler.ARDirectSampler(hilbert)
    elif config.problem == "bose-hubbard":
        hilbert = nk.hilbert.Fock(n_max=L, N=L, n_particles=L)
        operator = nk.operator.BoseHubbard(hilbert, graph, U=4.0, J=1.0).to_jax_operator()
        models = {"RBM": nk.models.RBM(alpha=rbm_alpha(n_parameters, L))}
        # MetropolisExchange only permutes the occupation numbers.
        sampler = nk.sampler.MetropolisHamiltonian(hilbert, hamiltonian=operator, n_chains=chains)
    else:
        hilbert = nk.hilbert.SpinOrbitalFermions(L, s=1 / 2, n_fermions_per_spin=(L // 2, L // 2))
        operator = nk.operator.FermiHubbardJax(hilbert, t=1.0, U=4.0, graph=graph)
        models = {"RBM": nk.models.RBM(alpha=rbm_alpha(n_parameters, 2 * L))}
        options = {"mode": "real"}  # as NetKet recommends without a phase
        sampler = nk.sampler.MetropolisFermionHop(hilbert, graph=graph, n_chains=chains)
    best: dict[str, float] = {}
    counts: dict[str, Any] = {}
    for name, model in models.items():
        state = nk.vqs.MCState(sampler, model, n_samples=config.samples, seed=config.seed)
        driver = nk.driver.VMC_SR(
            operator, nk.optimizer.Sgd(0.02), diag_shift=1e-3, variational_state=state, on_the_fly=False, **options
        )

        def sample(state: Any = state) -> None:
            state.reset()
            jax.block_until_ready(state.samples)

        runs: dict[str, Callable[[], object]] = {
            "sampler": sample,
            "local energy": partial(lambda state: jax.block_until_ready(state.local_estimators(operator)), state),
            "step": partial(
                lambda driver, state: (
                    driver.run(1, show_progress=False), jax.block_until_ready(state.parameters)
                ), driver, state
            ),
        }  # fmt: skip
        for part, run in runs.items():
            if part in config.parts:
                run()  # compiles; seconds_of does the warm-up
                seconds = seconds_of(run, torch.device("cpu"), config.repeats)
                print(f"NetKet {name}: {part} {seconds:.4f} CPU s")
                best[part] = min(best.get(part, float("inf")), seconds)
        drawn = np.asarray(state.samples).reshape(-1, hilbert.size)
        counts = {"parameters": state.n_parameters, "distinct": len(np.unique(drawn, axis=0)), "samples": len(drawn)}
    return best, counts


# -------------------------------------------------------------------------------------------------------- report


def rate_text(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2f}"


def main(config: Config) -> None:
    if config.scaling:
        scaling.main(scaling.Config(device=config.device))
        return
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = recipes.checked_device(config.device)
    kinds = ["float64", "float32", "tf32"] if device.type == "cuda" else ["float64", "float32"]
    limits = {kind: product_rate(device, kind) for kind in kinds} | {"bandwidth": copy_rate(device)}
    unit = "s" if device.type == "cuda" else "CPU s"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    rates = ", ".join(f"{limits[kind] / 1e9:,.0f} in {kind}" for kind in kinds)
    print(f"{name}: matrix products {rates} (Gflop/{unit}), copies {limits['bandwidth'] / 1e9:,.0f} GB/{unit}")
    report: dict[str, Any] = {"device": name, "precision": config.model.dtype, "limits": limits, "sizes": []}
    times: dict[str, list[float]] = {}
    for L in config.L:
        prepared = prepare(config, L)
        found, state, samples, local = ours(config, prepared)
        print(f"\n{config.problem} L={L}: {state['parameters']:,} parameters, {state['samples']:,} samples, "
              f"{state['distinct']:,} distinct, {state['connected']:,} connected, {state['evaluated']:,} evaluated "
              f"({100 * state['saved']:.0f} % saved)")  # fmt: skip
        print(f"{'':14}{unit:>10}{'distinct/' + unit:>16}{'Gflop':>10}{'of matmul':>11}{'GB':>8}{'of copies':>11}")
        size: dict[str, Any] = {"L": L, **state, "parts": {}}
        for part, m in found.items():
            times.setdefault(part, []).append(m.seconds)
            product = fraction_of_products(m, device)
            traffic = m.bytes / m.seconds / limits["bandwidth"]
            operations = sum(m.operations.values()) / 1e9
            print(f"{part:14}{m.seconds:10.4f}{rate_text(state['distinct'] / m.seconds):>16}{operations:10.2f}"
                  f"{100 * product:10.1f}%{m.bytes / 1e9:8.2f}{100 * traffic:10.1f}%")  # fmt: skip
            size["parts"][part] = {"seconds": m.seconds, "operations": m.operations,
                                   "matmul_fraction": product, "copy_fraction": traffic}  # fmt: skip
        size["peak_memory"] = peak_memory(device)
        print(f"peak memory {size['peak_memory'] / 2**30:.2f} GiB")
        if config.against == "naive":
            size["naive"] = against_naive(config, prepared, found, state, samples, local)
        elif config.against == "netket":
            size["netket"] = against_netket(config, L, found, state)
        report["sizes"].append(size)
    if len(config.L) > 1:
        report["exponent"] = {}
        print()
        for part, seconds in times.items():
            exponent = np.polyfit(np.log(config.L), np.log(seconds), 1)[0]
            report["exponent"][part] = exponent
            print(f"{part}: cost ~ L^{exponent:.2f} from L={config.L[0]} to {config.L[-1]}")
    print(json.dumps(report))


def against_naive(
    config: Config,
    prepared: Prepared,
    found: dict[str, Measurement],
    state: dict[str, Any],
    samples: Samples,
    local: LocalEnergies,
) -> dict[str, float]:
    rates = naive(config, prepared, samples, local)
    ratios: dict[str, float] = {
        part: state["distinct"] / found[part].seconds / rates[part]
        for part in ("sampler", "local energy")
        if part in found
    }
    alone = "prefix sharing alone"
    if "local energy" in found and alone in rates:
        ratios[alone] = state["distinct"] / found["local energy"].seconds / rates[alone]
    ratios["jacobian"] = rates["our jacobian"] / rates["jacobian"]
    for part, ratio in ratios.items():
        print(f"against naive: {part} {ratio:.1f} times faster (naive: {rate_text(rates[part])} distinct per second, "
              f"{state['distinct'] / rates[part]:,.0f} s for all of them at that rate)")  # fmt: skip
    return ratios


def against_netket(config: Config, L: int, found: dict[str, Measurement], state: dict[str, Any]) -> dict[str, float]:
    if config.device != "cpu":
        raise ValueError("NetKet is measured on the CPU: add --device cpu.")
    seconds, theirs = netket(config, L, state["parameters"])
    print(
        f"NetKet: {theirs['parameters']:,} parameters, {theirs['samples']:,} samples, {theirs['distinct']:,} distinct"
    )
    ratios = {part: seconds[part] / found[part].seconds for part in seconds if part in found}
    for part, ratio in ratios.items():
        print(f"against NetKet: {part} {ratio:.2f} times faster ({seconds[part]:.3f} CPU s)")
    return ratios


if __name__ == "__main__":
    command_line(main, Config, __doc__)
