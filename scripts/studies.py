"""Runs of scripts with their default recipes, each in a process, and their errors: for studies of accuracy."""

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from nqs import recipes
from nqs.archive import Archive
from nqs.report.summary import energy_of


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


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What each run may use.

    Attributes:
        minutes: time limit, including the evaluation.
        device: of torch; "": a GPU if there is one.
        folder: for archives, figures and outputs.
    """

    minutes: float
    device: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One finished run."""

    problem: str
    seed: int
    energy: float
    error: float
    relative_error: float
    v_score: float
    fidelity: float | None
    seconds: float
    steps: int


def outcome(name: str, problem: Problem, seed: int, path: Path) -> Outcome:
    """Errors, time and steps of a run with a stored evaluation."""
    archive = Archive.open(path)
    found = energy_of(archive, problem.energy)
    fidelity = archive.observables().get("fidelity")
    return Outcome(
        problem=name,
        seed=seed,
        energy=found.estimate.energy,
        error=found.estimate.error,
        relative_error=found.relative_error,
        v_score=found.estimate.v_score,
        fidelity=None if fidelity is None else float(fidelity),
        seconds=float(archive.history["seconds"].sum()),
        steps=archive.step,
    )


def run(name: str, problem: Problem, seed: int, resources: Resources, gpu: int | None = None) -> Outcome | None:
    """One run in a separate process; None if it failed. Its output is written beside the archive.

    Args:
        gpu: index of the only GPU that the process sees; None: all that this one sees.
    """
    path = resources.folder / f"{name}-{seed}.h5"
    script, *options = problem.command.split()
    if not path.exists() or Archive.open(path).result is None:
        command = [sys.executable, "-m", "nqs.cli", "run", script.replace("_", "-"), *options]
        command += ["--seed", str(seed), "--model.seed", str(seed), "--minutes", str(resources.minutes)]
        command += ["--device", resources.device or recipes.default_device(), "--archive", str(path)]
        begin = time.monotonic()
        with path.with_suffix(".txt").open("w") as log:
            code = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, check=False, env=seeing(gpu)
            ).returncode
        if not path.exists() or Archive.open(path).result is None:
            print(f"{name} seed {seed} failed with exit code {code}: see {log.name}", flush=True)
            return None
        found = outcome(name, problem, seed, path)
        seconds = time.monotonic() - begin
        print(f"{name} seed {seed}: relative error {found.relative_error:.1e}, {seconds:.0f} s", flush=True)
    return outcome(name, problem, seed, path)


def seeing(gpu: int | None) -> dict[str, str] | None:
    """The environment of a process that sees one GPU only, counted among those that this one sees; None: all these."""
    return None if gpu is None else os.environ | {"CUDA_VISIBLE_DEVICES": visible_gpus()[gpu]}


def visible_gpus() -> list[str]:
    """Names for CUDA_VISIBLE_DEVICES: those that this process may use."""
    if (listed := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in listed.split(",") if name.strip()]
    return [str(k) for k in range(torch.cuda.device_count())]


def table(outcomes: list[Outcome], problems: Mapping[str, Problem]) -> str:
    """Markdown table with median and largest error over the seeds of each problem."""
    lines = ["| problem | seeds | median rel. error | worst | target | V-score | fidelity | steps | seconds |"]
    lines.append("|---" * 9 + "|")
    for name in dict.fromkeys(o.problem for o in outcomes):
        runs = [o for o in outcomes if o.problem == name]
        errors = [abs(o.relative_error) for o in runs]
        known = [o.fidelity for o in runs if o.fidelity is not None]
        fidelity = f"1 - {1 - median(known):.0e}" if known else ""
        lines.append(
            f"| {name} | {len(runs)} | {median(errors):.1e} | {max(errors):.1e} | {problems[name].target:.0e} | "
            f"{median(o.v_score for o in runs):.1e} | {fidelity} | {median(o.steps for o in runs):.0f} | "
            f"{median(o.seconds for o in runs):.0f} |"
        )
    return "\n".join(lines)


def listing(problems: Mapping[str, Problem]) -> str:
    """Names and commands."""
    width = max(map(len, problems)) + 2
    return "\n".join(f"{name:{width}} {problem.command}" for name, problem in problems.items())


def refuse_unknown(names: Iterable[str], problems: Mapping[str, Problem]) -> None:
    """Raises SystemExit: a name that is no problem."""
    unknown = [name for name in names if name not in problems]
    if unknown:
        raise SystemExit(f"error: no problem {unknown[0]!r}: choose among {', '.join(problems)}.")
