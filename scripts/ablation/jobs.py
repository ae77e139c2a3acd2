"""Jobs and questions: what `scripts/ablations.py` distributes, and what comes back."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

KEYS = ("question", "problem", "variant", "seed", "seconds", "device")  # tell jobs apart; a row begins with them


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of one variant.

    Attributes:
        question, problem, variant: their names.
        seed: of the parameters and of the samples.
        seconds: time limit of the run, steps and evaluation; studies without training ignore it.
        device: "cpu" or "cuda".
    """

    question: str
    problem: str
    variant: str
    seed: int
    seconds: float
    device: str

    @property
    def key(self) -> tuple[Any, ...]:
        return tuple(asdict(self).values())


Row = dict[str, Any]


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in KEYS)


class Column(NamedTuple):
    """A measured number of a row in the table."""

    name: str
    title: str
    form: str = ".2e"


@dataclass(frozen=True, kw_only=True)
class Question:
    """A design question and how it is answered.

    Attributes:
        number: in the list of questions.
        text: the question.
        variants: names, by problem; the problems are those it is asked on by default.
        run: measures one job.
        columns: of the table; the first one is drawn in the figure.
        times: time of a job in units of that of a training run; 0: without training, it has no limit.
    """

    number: int
    text: str
    variants: Mapping[str, tuple[str, ...]]
    run: Callable[[Job], Row]
    columns: tuple[Column, ...]
    times: float

    def jobs(self, name: str, *, seeds: tuple[int, ...], seconds: float, device: str) -> list[Job]:
        """Seeds first, so that an interrupted series has every variant with its first seeds."""
        limit = self.times * seconds
        return [
            Job(question=name, problem=problem, variant=variant, seed=seed, seconds=limit, device=device)
            for seed in seeds
            for problem, variants in self.variants.items()
            for variant in variants
        ]
