"""Hostile archives with valid seals, and every verb on them.

python tests/shared/fuzz_archives.py FOLDER FIRST LAST [all]      files of these seeds; one JSON line each

Each file is an archive of tests/data with one to three mutations: of the HDF5 structure (types, shapes, values, links),
of the JSON configuration, of texts, or of bytes of the HDF5 image. It is then sealed like any archive. Without `all`
only one of report, plot, evaluate and resume is called, chosen by the seed.
"""

import contextlib
import io
import json
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from places import DATA

import nqs.archive.archive
import nqs.vmc.continuation
import nqs.vmc.loop
from nqs import Archive, ArchiveError
from nqs.archive.isolated import Reader
from nqs.archive.storage import seal
from nqs.cli import main
from nqs.cli.errors import ExitCode
from nqs.vmc.continuation import known_types

BASES = sorted(path.name for path in DATA.glob("*.h5"))
READ_WRITE = 1  # flag of H5LT_open_file_image, which h5py does not name
SECONDS = 120  # wall clock of a file, for machines that are busy
NASTY = (
    "\x1b[2J\x1b]0;owned\x07", "\x9b31m", "\u202eright to left\u2069", "line\nE = -99 J\r", "\x00\x7f", "\ud800",
    "<script>alert(1)</script>", "$\\frac{", "_", "", "x" * 100_000, "é漢\U0001f600", "%s{0}{{ 7 * 7 }}",
)  # fmt: skip
NUMBERS = (0, -1, 1, 2, 257, 20_000, 65_537, 10**6, 10**9, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e150,
           1e308, -1e308, float("nan"), float("inf"), float("-inf"), True, None)  # fmt: skip
TYPES = ("f8", "f4", "f2", "i8", "u1", "u8", "?", "c16", ">f8", "S5", "V7")


# ------------------------------------------------------------------------------------------------------- mutations


def mutated(rng: random.Random) -> bytes:
    """A sealed archive, or one of format version 1, which has no seal."""
    name = rng.choice(BASES)
    data = (DATA / name).read_bytes()
    sealed = not data.startswith(b"\x89HDF")
    image = data[512:] if sealed else data
    kinds = rng.choice((["bytes"], ["structure"], ["config"], ["text"], ["structure", "config"], ["config", "text"]))
    for kind in kinds:
        if kind == "bytes":
            image = bytes(with_other_bytes(bytearray(image), rng))
        else:
            image = with_other_contents(image, {"structure": structure, "config": config, "text": text}[kind], rng)
    return seal(image, format="nqs-run", version=2) + image if sealed else image


def with_other_bytes(data: bytearray, rng: random.Random) -> bytearray:
    end = rng.choice((len(data), 4096, 1024))  # most metadata lie at the beginning
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        place = rng.randrange(min(end, len(data)) - 8)
        how = rng.randrange(4)
        if how == 0:
            data[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            data[place] = rng.randrange(256)
        elif how == 2:
            data[place : place + 8] = rng.choice((bytes(8), b"\xff" * 8, b"\xff" * 7 + b"\x7f", rng.randbytes(8)))
        else:
            other = rng.randrange(len(data) - 8)
            data[place : place + 8] = data[other : other + 8]
    return data


def with_other_contents(
    image: bytes, change: Callable[[h5py.File, random.Random], object], rng: random.Random
) -> bytes:
    with h5py.File(h5py.h5f.open_file_image(image, READ_WRITE)) as file:
        with contextlib.suppress(Exception):  # not possible in this file
            for _ in range(rng.choice((1, 1, 2, 3))):
                change(file, rng)
        file.flush()
        return file.id.get_file_image()


def objects(file: h5py.File) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return found


def structure(file: h5py.File, rng: random.Random) -> None:
    name = rng.choice(objects(file))
    group = file[rng.choice([path for path in objects(file) if isinstance(file[path], h5py.Group)])]
    how = rng.randrange(14)
    if how == 0:
        del file[name]
    elif how == 1:
        file.move(name, rng.choice((*objects(file), f"observables/{rng.choice(NASTY[:6])}", "history/x")) + "_")
    elif how in (2, 3, 4):
        replace(file, name, rng)
    elif how == 5:
        for i in range(rng.choice((1, 30, 300, 25_000))):
            group[f"link{i}"] = file[name]
    elif how == 6:
        group["elsewhere"] = rng.choice((h5py.SoftLink("/history"), h5py.ExternalLink("/etc/passwd", "/")))
    elif how == 7:
        size = rng.choice((2**20, 2**27, 2**34, 2**50))
        for i in range(rng.choice((1, 200))):  # unallocated, or one chunk of zeros that expands
            group.create_dataset(f"void{i}", (size,), "f8", chunks=rng.choice((None, (2**16,))), compression=None)
    elif how == 8:
        file[name].attrs[rng.choice(("step", "damping", "energy", "n_samples", "x"))] = rng.choice(NUMBERS[:-1])
    elif how == 9:
        target = rng.choice([file, *(file[path] for path in ("checkpoint", "result", "exact") if path in file)])
        del target.attrs[rng.choice(list(target.attrs))]
    elif how == 10:
        target = rng.choice([file, *(file[path] for path in ("checkpoint", "result", "exact") if path in file)])
        values = (*NUMBERS[:-1], "text", b"bytes", np.ones(3), h5py.Empty("f8"), np.void(b"xx"))
        target.attrs[rng.choice(list(target.attrs))] = rng.choice(values)
    elif how == 11:
        names = [path for path in objects(file) if isinstance(file[path], h5py.Dataset)]
        one, other = rng.choice(names), rng.choice(names)
        file.move(one, "swapped"), file.move(other, one), file.move("swapped", other)
    elif how == 12 and "checkpoint/optimiser" in file:  # a run that is sized by its time
        numbers = [rng.choice((8, 0, 1, 0.5, *NUMBERS[:-2])) for _ in range(rng.choice((4, 4, 4, 3, 0)))]
        file["checkpoint/optimiser/pace.plan"] = np.array(numbers, rng.choice(("f8", "f8", "f8", "f4", "c16")))
    else:
        path = f"observables/{rng.choice(('density_', 'correlations_', 'structure_factor_'))}{rng.choice(NASTY)[:50]}"
        file[path.replace("\0", "")] = np.ones(rng.choice(((3,), (3, 3), (0,), (20_000,), (1500, 1500))))


def replace(file: h5py.File, name: str, rng: random.Random) -> None:
    """Other values, another shape or another type of a dataset."""
    if isinstance(file[name], h5py.Group):
        del file[name]
        file[name] = np.ones(2)
        return
    old = file[name][()] if file[name].nbytes < 2**24 else np.zeros(2)
    del file[name]
    how = rng.randrange(4)
    if how == 0 and np.size(old):
        values = np.array(old)
        with contextlib.suppress(ValueError, OverflowError, TypeError):
            values[tuple(rng.randrange(n) for n in values.shape)] = rng.choice(NUMBERS[:-2])
        file[name] = values
    elif how == 1:
        shapes = [(), (0,), (1,), (2, 2), (3, 0), (5,), (300_000,), np.shape(old)[::-1], (*np.shape(old), 2)]
        file.create_dataset(name, rng.choice(shapes), "f8", fillvalue=rng.choice((0.0, 1.0, float("nan"), -1e308)))
        file[name][...] = rng.choice((0.0, 1.0, float("nan"), 1e308))
    elif how == 2:
        file[name] = np.zeros(np.shape(old), rng.choice(TYPES))
    else:
        file[name] = rng.choice(("text", h5py.Empty("f4"), np.zeros(2, [("a", "i4"), ("b", "f8")]), np.array(old).T))


def config(file: h5py.File, rng: random.Random) -> None:
    """Another value somewhere in the configuration or the options."""
    name = rng.choice(("config", "config", "config", "options" if "options" in file.attrs else "config"))
    if rng.random() < 0.15:
        deep = rng.choice((63, 100, 5_000, 100_000))
        raw = ("[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep, "[]", "null", "{", '{"run": 1}', "1" * 5000)
        file.attrs[name] = rng.choice((*raw, '{"hamiltonian": ' + raw[0] + "}"))
        return
    data = json.loads(file.attrs[name])
    places = list(walk(data))
    if not places:
        return
    if rng.random() < 0.2:
        data |= rng.choice(later_parts(data, rng))
        places = list(walk(data))
    container, key = rng.choice(places)
    how = rng.randrange(6)
    if how == 0 and isinstance(container, dict):
        del container[key]
    elif how == 1:
        other, place = rng.choice(places)
        container[key] = json.loads(json.dumps(other[place]))
    elif how == 2:
        container[key] = rng.choice(NUMBERS)
    elif how == 3:
        container[key] = rng.choice((NASTY[0], NASTY[5], [], {}, [[]], [1e9], {"type": "array"}, [None, "x"], "text"))
    elif how == 4:
        types = [place for place in places if place[1] == "type"]
        container, key = rng.choice(types or places)
        container[key] = rng.choice((*known_types(), "os", 3))
    else:
        for container, key in [place for place in places if place[1] in ("shape", "n_sites", "width", "n_samples")]:
            container[key] = rng.choice(([20_000], [10**9], [141, 142], 10**5, 10**9, 64, [0], [10**30]))
    file.attrs[name] = json.dumps(data)


def later_parts(data: dict[str, Any], rng: random.Random) -> list[dict[str, Any]]:
    """Parts of a configuration that the archives of tests/data lack."""
    number, model = rng.choice((1.0, *NUMBERS)), data.get("model")
    known = {
        "type": "KnownState",
        "weight": number,
        "model": model,
        "parameters": rng.choice(({}, {"x": [1]}, "x", None)),
    }
    vector = {"type": "array", "dtype": "float64", "shape": [35], "data": [35**-0.5] * 35}
    return [
        {"energy_scale": number},
        {"run": {"type": "RunConfig", "minutes": number}},
        {"evaluation": {"type": "Evaluation", "sampler": data.get("evaluation"), "batches": number, "error": 1.0}},
        {"orthogonal_to": rng.choice(([known], known, ["/etc/passwd"], "/etc/passwd", [model], [[]]))},
        {
            "orthogonal_to": [
                {"type": "KnownState", "weight": 1.0, "vector": rng.choice((vector, number, [number] * 35))}
            ]
        },
    ]


def walk(data: Any) -> Iterator[tuple[Any, Any]]:
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in list(pairs):
        yield data, key
        yield from walk(value)


def text(file: h5py.File, rng: random.Random) -> None:
    """Texts that control a terminal, forge lines or inject markup."""
    how = rng.randrange(3)
    if how == 0 and "exact" in file:
        file["exact"].attrs["method"] = rng.choice(NASTY)
    elif how == 1:
        data = json.loads(file.attrs["config"])
        container, key = rng.choice([place for place in walk(data) if isinstance(place[0], dict)])
        container[rng.choice(NASTY)] = container[key]
        file.attrs["config"] = json.dumps(data)
    else:
        names = ("hamiltonian", "unit", "script", "created", "commit", "package_version")
        file.attrs[rng.choice([name for name in names if name in file.attrs])] = rng.choice(NASTY).replace("\0", "")


# ----------------------------------------------------------------------------------------------------------- verbs


class FirstStepDone(BaseException):
    """Ends a resumed run."""


def first_step_done(*_: object, **__: object) -> None:
    raise FirstStepDone


def called(line: list[str]) -> tuple[str, str]:
    """Outcome of a command, and all that it printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            main(line)
            outcome = "done"
        except SystemExit as end:
            outcome = end.code if isinstance(end.code, str) else f"exit {end.code}"
            printed = (end.code if isinstance(end.code, str) else output.getvalue()).strip().splitlines()
            if end.code != ExitCode.TIME_LIMIT and not (printed and printed[-1].startswith(("error: ", "DAMAGED"))):
                raise AssertionError(f"no error line: {end.code} {printed[-1:]}") from None
        except FirstStepDone:
            outcome = "first step done"
    return outcome, output.getvalue() + (outcome if outcome.startswith("error") else "")


def tried(path: Path, rng: random.Random, every: bool) -> dict[str, str]:
    """All verbs on a file: their outcomes.

    Raises:
        Exception: of any kind, where a user would see a traceback, or a character that is not printable.
    """
    folder = path.parent
    try:
        Archive.open(path)
        outcomes = {"open": "done"}
    except ArchiveError as error:
        outcomes = {"open": f"error: {error}"}
    html, csv, parameters = (str(folder / f"out{ending}") for ending in (".html", ".csv", ".safetensors"))
    lines = {
        "verify": ["verify", str(path)],
        "show": ["show", str(path)],
        "json": ["show", "--json", str(path)],
        "toml": ["show", "--toml", str(path)],
        "compare": ["compare", str(path), str(folder / "own.h5")],
        "markdown": ["compare", str(path), "--format", "markdown"],
        "csv": ["compare", str(path), "--format", "csv"],
        "export": ["export", str(path), "-o", csv, str(folder / "out.json"), parameters],
        "report": ["report", str(path), "-o", html],
        "plot": ["plot", str(path), "-o", str(folder / "out.png")],
        "plots": ["plot", str(path), str(folder / "own.h5"), "-o", str(folder / "outs.png")],
        "evaluate": ["evaluate", str(path)],
        "resume": ["resume", str(path), "--threads", "1"],
    }
    long = ["report", "plot", "plots", "evaluate", "resume"]
    if not every:
        chosen = rng.choices(long, [1, 1, 1, 1, 3])
        if outcomes["open"] != "done":  # every verb opens the file first
            chosen = [rng.choice(list(lines)), "verify", "show"]
        lines = {
            name: line for name, line in lines.items() if name in chosen or (name not in long and len(chosen) == 1)
        }
    for name, line in lines.items():
        outcomes[name], printed = called(line)
        strange = {c for c in printed if not c.isprintable()} - {"\n"}
        if name in ("evaluate", "resume"):
            strange -= {"\r"}  # progress bar
        if strange:
            raise AssertionError(f"{name} printed {strange}")
        if outcomes["open"] == "done" and "no readable archive" in outcomes[name]:
            raise AssertionError(f"{name}: {outcomes[name]}")
    if outcomes.get("report") == "done":
        page = Path(html).read_text()
        strange = {c for c in page if not c.isprintable()} - {"\n"}
        if strange or "<script" in page:
            raise AssertionError(f"the page holds {strange or 'a script'}")
    return outcomes


def too_long(*_: object) -> None:
    raise TimeoutError("too long")


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def peak_bytes() -> tuple[int, int]:
    """Largest resident memory so far, of this process and of its children."""
    unit = 1 if sys.platform == "darwin" else 1024
    own, children = (
        unit * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    with contextlib.suppress(OSError):  # Linux counts what the process that started this one used before
        own = 1024 * int(re.findall(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[0])
    return own, children


def work(folder: Path, seeds: range, every: bool) -> None:
    nqs.vmc.loop.keep_step = first_step_done  # type: ignore[assignment]
    for module in (nqs.vmc.loop, nqs.vmc.continuation):
        module.evaluate_best = first_step_done  # type: ignore[attr-defined]
    shared = Reader()  # one child process for all files; a crash starts a new one
    shared.close, close = lambda: None, shared.close  # type: ignore[method-assign]
    nqs.archive.archive.Reader = lambda: shared  # type: ignore[assignment,misc]
    shutil.copy(DATA / "0.1-script.h5", folder / "own.h5")
    signal.signal(signal.SIGALRM, too_long)
    warnings.simplefilter("error")
    for seed in seeds:
        rng = random.Random(seed)
        print(json.dumps({"seed": seed}), flush=True)
        path = folder / "x.h5"
        path.write_bytes(mutated(rng))
        before, begin = cpu_seconds(), time.monotonic()
        failure, outcomes = "", {}
        signal.alarm(SECONDS)
        try:
            outcomes = tried(path, rng, every)
        except Exception:
            failure = traceback.format_exc()
        finally:
            signal.alarm(0)
        if "too long" in failure or seed % 20 == 0:
            close()  # so that the child's CPU time and memory are counted
        print(
            json.dumps(
                {
                    "seed": seed,
                    "outcomes": {name: outcome[:300] for name, outcome in outcomes.items()},
                    "failure": failure,
                    "cpu": cpu_seconds() - before,
                    "wall": time.monotonic() - begin,
                    "memory": peak_bytes(),
                }
            ),
            flush=True,
        )
    close()


if __name__ == "__main__":
    work(Path(sys.argv[1]), range(int(sys.argv[2]), int(sys.argv[3])), "all" in sys.argv[4:])
