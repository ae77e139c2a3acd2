"""The code of README.md and of the pages in docs/, and a comparison of the outputs they show with those of a run."""

import math
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from places import DOCS, ROOT

README = ROOT / "README.md"
PAGES = DOCS


# ------------------------------------------------------------------------------------------------------------- code


def blocks(file: Path, language: str) -> list[str]:
    """The code blocks of one language in a Markdown file."""
    return re.findall(rf"^```{language}\n(.*?)^```", file.read_text(), flags=re.MULTILINE | re.DOTALL)


def page_blocks(page: str, language: str) -> list[str]:
    """The code blocks of one language in a page of docs/."""
    return blocks(PAGES / page, language)


def commands(file: Path) -> list[tuple[str, str]]:
    """Every block of shell commands that is followed by its output, with that output."""
    pattern = r"^```sh\n([^`]*?)^```\n+^```text\n([^`]*?)^```"
    return re.findall(pattern, file.read_text(), flags=re.MULTILINE)


def dipolar_bosons() -> ModuleType:
    """The Hamiltonian that docs/adding_hamiltonian.md adds, as a module."""
    return module("docs_dipolar_bosons", page_blocks("adding_hamiltonian.md", "python")[0])


def recurrent() -> ModuleType:
    """The model that docs/adding_model.md adds, as a module."""
    return module("docs_recurrent", page_blocks("adding_model.md", "python")[0])


def one_by_one() -> ModuleType:
    """The sampler that docs/adding_sampler.md adds, as a module."""
    return module("docs_one_by_one", page_blocks("adding_sampler.md", "python")[0])


def module(name: str, source: str) -> ModuleType:
    if name not in sys.modules:
        made = ModuleType(name)
        sys.modules[name] = made  # where dataclasses look
        exec(compile(source, name, "exec"), made.__dict__)
    return sys.modules[name]


# ---------------------------------------------------------------------------------------------------------- outputs

NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:\(\d+\))?(?:e[-+]?\d+)?")
MACHINE = [  # what depends on the machine: times, threads, digests of all choices
    (re.compile(r"\b\d+(?:\.\d+)? (s|min|h)\b"), r"# \1"),
    (re.compile(r"\b\d+ threads?\b"), "# threads"),
    (re.compile(r"-[0-9a-f]{8}\."), "-#."),
    (re.compile(r"[-+]\d+\.\d error bars"), "# error bars"),
]
DIGITS = 5e-7  # relative: eight printed digits of an energy, less what one processor rounds otherwise than another
RESIDUAL = 1e-9  # below it a residual is rounding, which no two machines share
ORDERS = 10.0  # factor between larger residuals: they grow from rounding, step by step


def assert_same_output(found: str, shown: str, digits: float = DIGITS) -> None:
    """The same lines but for white space, times, threads and the last digits of numbers.

    Whole numbers must be equal. Decimal numbers agree to `digits`, those with an error bar also within four error bars.
    Numbers with an exponent are residuals (variances, relative errors): both below `RESIDUAL`, or within a factor of
    `ORDERS`.
    """
    lines, expected = lines_of(found), lines_of(shown)
    assert len(lines) == len(expected), f"{len(lines)} lines instead of the {len(expected)} shown:\n{found}"
    for line, wanted in zip(lines, expected, strict=True):
        assert NUMBER.split(line) == NUMBER.split(wanted), f"printed: {line}\nshown:   {wanted}"
        for number, other in zip(NUMBER.findall(line), NUMBER.findall(wanted), strict=True):
            assert same_number(number, other, digits), (
                f"{number} instead of {other}\nprinted: {line}\nshown:   {wanted}"
            )


def assert_same_words(found: str, shown: str) -> None:
    """The same lines but for every number: outputs of runs that a time limit has stopped."""
    words = [[NUMBER.sub("#", line) for line in lines_of(text)] for text in (found, shown)]
    assert words[0] == words[1]


def lines_of(text: str) -> list[str]:
    """Without what depends on the machine, which includes the last column of a table if that is headed "seconds"."""
    lines, timed = [], False
    for line in text.strip().splitlines():
        for pattern, instead in MACHINE:
            line = pattern.sub(instead, line)
        words = line.split()
        if timed and words:
            words[-1] = "#"
        timed = timed or words[-1:] == ["seconds"]
        lines.append(" ".join(words))
    return lines


def same_number(found: str, shown: str, digits: float) -> bool:
    if "e" in found or "e" in shown:
        a, b = abs(float(found)), abs(float(shown))
        return max(a, b) < RESIDUAL or max(a, b) < ORDERS * min(a, b)
    if "." not in found and "." not in shown:
        return found == shown
    (a, a_error), (b, b_error) = value(found), value(shown)
    return abs(a - b) <= max(digits * max(abs(a), abs(b)), 4 * math.hypot(a_error, b_error), last_digit(shown))


def value(text: str) -> tuple[float, float]:
    """A number and its error bar: -7.4597(12) is -7.4597 and 0.0012."""
    number, _, error = text.replace(",", "").rstrip(")").partition("(")
    return float(number), float(error or 0) * last_digit(number)


def last_digit(text: str) -> float:
    """What one unit of the last printed digit stands for."""
    return 10.0 ** -len(text.partition("(")[0].partition(".")[2])


# ------------------------------------------------------------------------------------------------------------- runs


def output_of(line: str, folder: Path) -> str:
    """What a line of a shell prints: `nqs …` or `python …`, in a process of its own on one thread of the CPU."""
    program, *arguments = shlex.split(line)
    command = {"nqs": [sys.executable, "-m", "nqs.cli"], "python": [sys.executable]}[program]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=400
    )
    stopped = "--minutes" in arguments
    assert done.returncode == (3 if stopped else 0), f"{line}\n{done.stderr}"
    return done.stdout
