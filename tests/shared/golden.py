"""Golden runs: toy runs whose numbers are pinned seed for seed in golden.json, so that a rewrite can show that it
changes none of them. test_golden.py compares with tolerances, because processors round differently.

    python tests/shared/golden.py                      what there is, and the seconds that each run takes
    python tests/shared/golden.py --exact [NAME ...]   compare bit for bit with golden.json of this machine
    python tests/shared/golden.py --write [NAME ...]   write entries anew, all of them by default, and say what changes

A run is a function below with `@golden`; its docstring is the note "why" of its entry. Everything that it needs from
nqs is imported here and nowhere else. An entry holds

    energies      of every step of the history
    estimate      energy, error and variance of the final evaluation
    parameters    after the last step: their number, sum, sum of squares, and eight of them, evenly spaced
    losses        of a fit before the run
    choices       lines of text about what the recipes chose
    torch         version that the entry was written with: another one may draw other random numbers

of which a run leaves out what it does not have. On one machine all numbers repeat bit for bit.
"""

import argparse
import contextlib
import io
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from networks import small_transformer
from optimisers import exact_steps, natural_gradient
from torch.nn.utils import parameters_to_vector
from variants import variant

from nqs import VMC, Archive, Result, exact, recipes, resume
from nqs.cli.options import command_line
from nqs.exact import lowest_sector
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.models import (
    MarshallSign,
    OnOrbits,
    ProjectedDeterminant,
    Symmetrised,
    hartree_fock,
    sector_of,
)
from nqs.optimisation import ExactSteps, OptimiserConfig, StochasticReconfiguration, TorchOptimiser
from nqs.pretraining import FitObjective, MeanField, Target, VectorTarget, fit
from nqs.protocols import Hamiltonian, Sampler, Wavefunction, WavefunctionConfig
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.scripts import bose_hubbard, fermi_hubbard, heisenberg
from nqs.symmetry import symmetries_of
from nqs.transfer import load, transfer
from nqs.vmc import WarmUp

FILE = Path(__file__).with_suffix(".json")
SHOWN = 8  # parameters of an entry

Record = dict[str, Any]  # an entry of golden.json
Run = Callable[[Path], Record]  # of an empty folder for archives


@dataclass(frozen=True)
class Tolerance:
    """Relative; parameters, errors and variances may also differ by as much in absolute terms."""

    energies: float = 1e-10
    parameters: float = 1e-8


@dataclass(frozen=True)
class Golden:
    """A run that is pinned.

    Attributes:
        tolerance: on other processors.
    """

    run: Run
    tolerance: Tolerance = Tolerance()


RUNS: dict[str, Golden] = {}
TOY = small_transformer()
POSITIVE = replace(TOY, phase="zero")
NARROW = replace(POSITIVE, width=4, heads=1, mlp_ratio=1)
SHIFT = 1e-3  # to the end, where a smaller one would let differences in rounding grow towards the tolerance


def golden(run: Run) -> Run:
    RUNS[run.__name__] = Golden(run)
    return run


def rounded(run: Run) -> Run:
    """`golden` for networks whose gradients are in float32."""
    RUNS[run.__name__] = Golden(run, Tolerance(energies=1e-6, parameters=1e-5))
    return run


# ------------------------------------------------------------------------------------------------------- entries


def record(result: Result, wavefunction: Wavefunction) -> Record:
    """What is kept of a run."""
    estimate = result.estimate
    return {
        "energies": result.history["energy"].tolist(),
        "estimate": {"energy": estimate.energy, "error": estimate.error, "variance": estimate.variance},
        "parameters": of_parameters(wavefunction),
    }


def of_archive(path: Path) -> Record:
    """The same, of an archive."""
    archive = Archive.open(path)
    assert archive.finished
    assert archive.result is not None
    result = Result(estimate=archive.result, n_sites=1, unit="", history=archive.history, seconds=0.0)
    return record(result, load(archive))


def of_parameters(wavefunction: Wavefunction) -> dict[str, Any]:
    theta = parameters_to_vector(wavefunction.parameters()).detach().double()
    every = (len(theta) - 1) / (SHOWN - 1)
    values = theta[[round(k * every) for k in range(SHOWN)]].tolist()
    return {"number": len(theta), "sum": theta.sum().item(), "squares": theta.square().sum().item(), "values": values}


def run(
    hamiltonian: Hamiltonian,
    model: WavefunctionConfig,
    sampler: Sampler | None,
    optimiser: OptimiserConfig | None = None,
    *,
    steps: int,
    evaluation: Sampler | None = None,
    warm_up: WarmUp | None = None,
    start: Callable[[Wavefunction], object] = lambda wavefunction: None,
    **options: Any,
) -> Record:
    """A run from Python.

    Args:
        start: changes the parameters before the first step.
        options: of `VMC.run`.
    """
    wavefunction = model.build(hamiltonian.hilbert)
    start(wavefunction)
    vmc = VMC(hamiltonian, wavefunction, sampler, optimiser, evaluation, warm_up=warm_up)
    return record(vmc.run(steps, progress=False, **options), wavefunction)


def script(module: Any, folder: Path, *options: str) -> Record:
    """A run as `nqs run NAME` makes it."""
    path = folder / "run.h5"
    arguments = ["--device", "cpu", "--archive", str(path), *options]
    command_line(module.main, module.Config, module.__doc__, args=arguments)
    return of_archive(path)


# ---------------------------------------------------------------------------------------------- runs from Python


@golden
def bosons_exact(folder: Path) -> Record:
    """Bosons, sums over the sector, natural gradient that follows imaginary time with an adaptive shift; phase head."""
    return run(BoseHubbard(chain(4), 4, U=4.0), TOY, ExhaustiveSampler(), steps=5)


@golden
def bosons_annealed(folder: Path) -> Record:
    """Bosons, tree with n_distinct, entropy annealing; two blocks."""
    hamiltonian = BoseHubbard(chain(6), 6, U=8.0)
    return run(
        hamiltonian,
        replace(POSITIVE, layers=2),
        TreeSampler(n_distinct=60),
        steps=6,
        evaluation=TreeSampler(n_samples=2000),
        seed=1,
        temperature=1.0,
        annealing=0.7,
    )


@golden
def spins_adam(folder: Path) -> Record:
    """Heisenberg ring with Marshall's signs, tree with n_samples, Adam; cut frontier in the evaluation."""
    model = replace(POSITIVE, reference=MarshallSign(sublattice=(0, 1) * 4))
    optimiser = TorchOptimiser(name="Adam", learning_rate=1e-2, final_learning_rate=1e-3)
    evaluation = TreeSampler(n_samples=1000, max_frontier=16)
    return run(Heisenberg(chain(8), 0.0), model, TreeSampler(n_samples=200), optimiser, steps=8, evaluation=evaluation)


@golden
def ising_without_replacement(folder: Path) -> Record:
    """Ising lattice in a tilted field, Gumbel sampler; momentum, in parameter space, change of log psi linear."""
    optimiser = variant(momentum=0.8, space="parameters", logarithmic=False)
    return run(Ising(square(2, 4), h=2.0, g=0.1), POSITIVE, GumbelSampler(n_distinct=50), optimiser, steps=5)


@golden
def frustrated_on_orbits(folder: Path) -> Record:
    """J1-J2 ring on orbits, in the sector of Marshall's signs, with a phase head; tree, explicit diagonal."""
    hamiltonian, reference = Heisenberg(chain(10), 0.0, J=(1.0, 0.4)), MarshallSign(sublattice=(0, 1) * 5)
    symmetry = sector_of(reference, symmetries_of(hamiltonian), hamiltonian.hilbert)
    model = OnOrbits(base=replace(TOY, reference=reference), symmetry=symmetry)
    optimiser = variant(learning_rate=0.1, implicit=False)
    return run(hamiltonian, model, TreeSampler(n_distinct=10), optimiser, steps=6)


@golden
def ising_averaged(folder: Path) -> Record:
    """Average over a symmetry, over a subgroup in steps; attention by displacement; momentum by default."""
    lattice = square(4, 2)
    hamiltonian = Ising(lattice, h=3.0)
    group = symmetries_of(hamiltonian)
    moves = {tuple(permutation) for permutation in lattice.translations(2).tolist()}
    trained = tuple(g for g, permutation in enumerate(group.permutations) if permutation in moves)
    assert 1 < len(trained) < group.order
    base = replace(POSITIVE, heads=4, attention="factored", displacements=displacements(lattice))
    model = Symmetrised(base=base, symmetry=group, trained=trained)
    return run(hamiltonian, model, TreeSampler(n_distinct=20), steps=6, evaluation=TreeSampler(n_samples=1000))


@golden
def bosons_averaged(folder: Path) -> Record:
    """Average over a whole group, sums over its orbits."""
    hamiltonian = BoseHubbard(chain(4), 4, U=2.0)
    model = Symmetrised(base=POSITIVE, symmetry=symmetries_of(hamiltonian))
    return run(hamiltonian, model, ExhaustiveSampler(), steps=5)


@golden
def electrons_on_orbits(folder: Path) -> Record:
    """Electrons on orbits, in the sector of the projected Hartree-Fock determinant, with a phase head; sums."""
    hamiltonian = FermiHubbard(chain(6), 2, 2, U=4.0)
    symmetry = symmetries_of(hamiltonian, fermions=True)
    determinant, sector, _ = lowest_sector(hamiltonian, symmetry, [hartree_fock(hamiltonian).determinant])
    projected = ProjectedDeterminant(determinant=determinant, symmetry=sector, hilbert=hamiltonian.hilbert)
    model = OnOrbits(base=replace(TOY, reference=projected), symmetry=sector)
    return run(hamiltonian, model, ExhaustiveSampler(), steps=6)


@golden
def electrons_sampled(folder: Path) -> Record:
    """Electrons with the signs of a Hartree-Fock determinant and a phase head; tree."""
    hamiltonian = FermiHubbard(square(2, 3, "open"), 3, 3, U=8.0)
    model = replace(TOY, reference=hartree_fock(hamiltonian).determinant)
    return run(hamiltonian, model, TreeSampler(n_distinct=60), steps=6, evaluation=TreeSampler(n_distinct=200))


@golden
def spinless_streamed(folder: Path) -> Record:
    """Spinless fermions on a twisted ring, complex elements, no reference; rows of the Jacobian streamed by layers."""
    hamiltonian = TV(chain(8), 3, V=2.0, twist=(0.4,))
    optimiser = exact_steps(memory=4e-4, time=0.3, final_diagonal_shift=SHIFT)  # memory in GiB
    return run(hamiltonian, TOY, ExhaustiveSampler(), optimiser, steps=4)


@golden
def tj_streamed(folder: Path) -> Record:
    """t-J ring, signs learned; metric in parameter space from streamed rows, samples from a tree."""
    optimiser = variant(memory=1e-4, space="parameters")
    return run(TJ(chain(5), 2, 2, J=0.4), TOY, TreeSampler(n_distinct=20), optimiser, steps=5)


@golden
def narrow_exact(folder: Path) -> Record:
    """Fewer parameters than amplitudes, sums: the shift falls and rises freely, and a late step is refused."""
    return run(Ising(chain(8), h=1.0), NARROW, ExhaustiveSampler(), steps=6)


@golden
def narrow_sampled(folder: Path) -> Record:
    """Long steps from samples: one leads to a higher energy and is refused."""
    optimiser = variant(max_step=0.5, logarithmic=False)
    return run(Ising(chain(8), h=1.0), NARROW, TreeSampler(n_samples=10**6), optimiser, steps=6)


WARM = WarmUp(share=0.5, sampler=TreeSampler(n_distinct=12), optimiser=recipes.warm_up_optimiser())


@golden
def warmed_up(folder: Path) -> Record:
    """Warm-up from samples, then sums over the sector."""
    return run(BoseHubbard(chain(4), 4, U=4.0), POSITIVE, ExhaustiveSampler(), steps=6, warm_up=WARM)


@golden
def warmed_up_and_resumed(folder: Path) -> Record:
    """The same, ended by a time limit in the warm-up, repeated, interrupted after it and resumed: no number changes."""
    path, hamiltonian = folder / "run.h5", BoseHubbard(chain(4), 4, U=4.0)

    def repeated(**options: Any) -> None:
        run(hamiltonian, POSITIVE, ExhaustiveSampler(), steps=6, warm_up=WARM, archive=path, **options)

    with patch("nqs.vmc.affordable.SHORT", math.inf):  # the draw stays as it is on a busy processor, too
        repeated(minutes=1e-9)
    assert Archive.open(path).step == 1
    with contextlib.suppress(KeyboardInterrupt):
        repeated(watch=[StopAfter(4)])
    assert Archive.open(path).step == 4
    resume(path, progress=False)
    return of_archive(path)


class StopAfter:
    """Watches a run, and interrupts it after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def step(self, row: Any) -> None:
        if row["step"] + 1 == self.steps:
            raise KeyboardInterrupt

    def close(self) -> None: ...


@golden
def fitted(folder: Path) -> Record:
    """Fits to a mean field, to the exact state and to another network, by all three divergences, then a run."""
    hamiltonian = FermiHubbard(square(2, 3, "open"), 2, 2, U=4.0)
    determinant = hartree_fock(hamiltonian).determinant
    ground_state = VectorTarget(hamiltonian.hilbert, exact.ground_state(hamiltonian).state)
    other = replace(TOY, seed=5, reference=determinant).build(hamiltonian.hilbert)
    tree = TreeSampler(n_samples=300)
    fits: list[tuple[Target, FitObjective, Sampler]] = [
        (MeanField(hamiltonian.hilbert, determinant), "forward", ExhaustiveSampler()),
        (ground_state, "infidelity", tree),
        (other, "reverse", tree),
    ]
    losses: list[float] = []

    def start(wavefunction: Wavefunction) -> None:
        for target, objective, sampler in fits:
            optimiser = recipes.fit_optimiser(objective, exact=sampler is not tree)
            optimiser = replace(optimiser, diagonal_shift=10 * SHIFT, final_diagonal_shift=10 * SHIFT)
            made = fit(wavefunction, target, objective, steps=3, sampler=sampler, optimiser=optimiser, progress=False)
            losses.extend(made.history["loss"].tolist())

    model = replace(TOY, reference=determinant)
    optimiser = natural_gradient(final_diagonal_shift=SHIFT)
    return run(hamiltonian, model, tree, optimiser, steps=3, start=start) | {"losses": losses}


@golden
def transferred(folder: Path) -> Record:
    """A run that starts with the parameters of another one, on a larger lattice and with more bosons."""
    path, small, large = folder / "run.h5", BoseHubbard(chain(4), 4, U=4.0), BoseHubbard(chain(5), 5, U=6.0)
    model = replace(POSITIVE, heads=4, attention="factored", displacements=displacements(small.lattice))
    optimiser = natural_gradient(final_diagonal_shift=SHIFT)
    run(small, model, ExhaustiveSampler(), exact_steps(final_diagonal_shift=SHIFT), steps=2, archive=path)
    return run(
        large,
        replace(model, displacements=displacements(large.lattice)),
        TreeSampler(n_samples=300),
        optimiser,
        steps=4,
        start=lambda wavefunction: transfer(wavefunction, large, Archive.open(path)),
    )


def displacements(lattice: Any) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, lattice.displacements().tolist()))


# --------------------------------------------------------------------------------------- scripts and their recipes


@rounded
def heisenberg_script(folder: Path) -> Record:
    """scripts/heisenberg.py as it comes: orbits, Marshall's signs, sums; the usual network with float32 gradients."""
    return script(heisenberg, folder, "--shape", "10", "--steps", "4", "--exact-limit", "0")


@golden
def bose_hubbard_script(folder: Path) -> Record:
    """scripts/bose_hubbard.py on the whole sector, --distinct and so a tree, then the evaluation of the recipes."""
    options = ("--shape", "5", "--n-particles", "5", "--steps", "4", "--exact-limit", "1000", "--distinct", "40")
    network = ("--model.dtype", "float64", "--model.width", "8")
    return script(bose_hubbard, folder, *options, *network, "--optimiser.final-diagonal-shift", str(SHIFT))


@golden
def fermi_hubbard_script(folder: Path) -> Record:
    """scripts/fermi_hubbard.py: Hartree-Fock, projected on a sector, fitted to (--pretrain), sums over the orbits."""
    options = ("--shape", "5", "--n-up", "2", "--n-down", "2", "--steps", "4", "--exact-limit", "0")
    network = ("--model.dtype", "float64", "--model.width", "8")
    return script(fermi_hubbard, folder, *options, "--pretrain", "mean-field", *network)


@golden
def recipe_choices(folder: Path) -> Record:
    """What the recipes choose for problems that are too large to run here: symmetry, network, samplers, steps."""
    signed, hubbard = recipes.NetworkOptions(phase="learned"), FermiHubbard(chain(6), 3, 3, U=4.0)
    problems: Sequence[tuple[Hamiltonian, dict[str, Any]]] = (
        (BoseHubbard(chain(8), 8, U=4.0), {}),
        (BoseHubbard(chain(12), 12, U=4.0), {}),
        (BoseHubbard(chain(20), 20, U=4.0), {"model": signed}),
        (Ising(chain(20), h=1.0), {}),
        (Ising(chain(12), h=1.0), {"minutes": 0.1}),
        (Heisenberg(chain(12), 0.0), {}),
        (Heisenberg(square(4), 0.0, J=(1.0, 0.5)), {}),
        (hubbard, {"reference": hartree_fock(hubbard).determinant}),
        (TJ(chain(8), 3, 3, J=0.4), {"model": signed}),
    )
    return {"choices": [choice(hamiltonian, **options) for hamiltonian, options in problems]}


def choice(hamiltonian: Hamiltonian, minutes: float | None = None, **options: Any) -> str:
    """What `nqs.ground_state` would do, up to its first step."""
    plan = recipes.plan(hamiltonian, minutes=minutes, device="cpu", threads=1, **options)
    *before, main = plan.stages
    optimiser = main.optimiser
    if isinstance(optimiser, ExactSteps):
        optimiser = optimiser.without_matrix
    assert isinstance(optimiser, StochasticReconfiguration)
    wavefunction = plan.model.build(hamiltonian.hilbert, "cpu")
    _, wanted = recipes.steps_within(None, wavefunction, main.sampler, "cpu")
    warm_up = "".join(f"{stage.steps} steps of warm-up with {described(stage.sampler)}" for stage in before)
    return (
        f"{type(hamiltonian).__name__}, dimension {hamiltonian.hilbert.dimension}: {plan.reason('symmetry')}; "
        f"{plan.summary}; {wanted} steps without a limit; {warm_up or 'no warm-up'}; {plan.n_images} images in steps; "
        f"{next(wavefunction.parameters()).dtype}, gradients {wavefunction.gradient_dtype}; "
        f"rates {optimiser.learning_rate:.12g} to {optimiser.final_learning_rate:.12g}, last shift "
        f"{optimiser.final_diagonal_shift:g}, steps up to {optimiser.max_step:g}, momentum {optimiser.momentum:g}; "
        f"evaluated with {described(plan.evaluation)}"
    )


def described(sampler: Sampler) -> str:
    distinct = getattr(sampler, "n_distinct", None)
    return "every configuration" if isinstance(sampler, ExhaustiveSampler) else f"{distinct} distinct configurations"


# ----------------------------------------------------------------------------------------------------- comparison


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """One thread, and operators that repeat bit for bit; afterwards all is as it was."""
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(before)


def found(name: str, folder: Path) -> Record:
    """The entry of a run, made now, without what it prints."""
    made = RUNS[name].run
    with deterministic(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        entry = made(folder)
    return {"why": made.__doc__, "torch": torch.__version__.split("+")[0]} | entry


def differences(new: Record, old: Record, tolerance: Tolerance | None = None) -> list[str]:
    """Where two entries differ, one line each; what they are about is not compared.

    Args:
        tolerance: None: bit for bit.
    """
    lines = []
    a, b = dict(flat(new)), dict(flat(old))
    for key in {**b, **a}:
        if key in ("why", "torch"):
            continue
        if key not in a or key not in b:
            lines.append(f"{key}: only in the {'old' if key in b else 'new'} entry")
        elif not same(key, a[key], b[key], tolerance):
            off = "" if isinstance(a[key], str) else f" ({a[key] - b[key]:+.1e})"
            lines.append(f"{key}: {b[key]!r} was expected, {a[key]!r} is found{off}")
    return lines


def same(key: str, a: Any, b: Any, tolerance: Tolerance | None) -> bool:
    if tolerance is None or not isinstance(a, float):
        return a == b
    if key.startswith(("energies", "losses", "estimate.energy")):
        # An energy on its way through 0 has no relative digits to keep.
        return math.isclose(a, b, rel_tol=tolerance.energies, abs_tol=tolerance.energies)
    return math.isclose(a, b, rel_tol=tolerance.parameters, abs_tol=tolerance.parameters)


def flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers and texts with the way to them: "parameters.values[3]"."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list):
        yield f"number of {name}", len(value)
        for i, item in enumerate(value):
            yield from flat(item, f"{name}[{i}]")
    else:
        yield name, value


def comparable() -> bool:
    """Whether torch draws the same initial parameters here: without AVX2 its normal numbers differ by float32 rounding.

    Numbers of AVX2 and of AVX512 are the same.
    """
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def stored() -> dict[str, Record]:
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


def text(entries: dict[str, Record]) -> str:
    """JSON with a line for each field, and for each text of a list."""
    blocks = []
    for name, entry in entries.items():
        lines = [f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in entry.items()]
        lines = [line.replace('", "', '",\n      "') for line in lines]
        blocks.append(f'  "{name}": {{\n    ' + ",\n    ".join(lines) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="of runs; all by default")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--write", action="store_true", help="write these entries of golden.json anew")
    what.add_argument("--exact", action="store_true", help="compare bit for bit, status 1 if anything differs")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in RUNS]
    if unknown:
        parser.error(f"no run {', '.join(unknown)}; there are {', '.join(RUNS)}")
    entries, different = stored(), 0
    for name in arguments.names or RUNS:
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            entry = found(name, Path(folder))
        seconds = time.perf_counter() - begin
        lines = differences(entry, entries[name]) if name in entries else ["no entry yet"]
        if arguments.write:
            entries[name] = entry
            entries = {known: entries[known] for known in RUNS if known in entries}
            FILE.write_text(text(entries), encoding="utf-8")
        different += bool(lines)
        note = ("different" if lines else "equal") if arguments.exact or arguments.write else entry["why"]
        print(f"{name:28} {seconds:5.2f} s  {note}")
        if arguments.exact or arguments.write:
            print("".join(f"    {line}\n" for line in lines), end="")
    return int(arguments.exact and different > 0)


if __name__ == "__main__":
    sys.exit(main())
