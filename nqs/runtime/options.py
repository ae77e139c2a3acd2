"""One check of the types of options, at every public door: what was found, what is allowed, what to do; one line.

Dataclasses of options are checked by their annotations (`check_fields`), the arguments of functions by the table below
(`check_options`). Other values are checked where they are used.
"""

import functools
import math
import operator
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from nqs.runtime.seeds import checked_seed

LONGEST = 60  # characters of a value in a message


class OptionError(TypeError, ValueError):
    """An option of a wrong type; a ValueError, too, as other mistakes in options are."""


class Allowed(NamedTuple):
    """What an option may be, in words, and its test; `choices`: one of some texts."""

    text: str
    fits: Callable[[Any], bool]
    choices: bool = False


def summary_of(config: object) -> str:
    """What a configuration says of itself in a few words, for the printed plan; by default the name of its class."""
    return str(getattr(config, "summary", type(config).__name__))


def whole(value: Any) -> bool:
    """An integer, of numpy too, but no bool."""
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def has(*names: str) -> Callable[[Any], bool]:
    """Objects with these attributes; classes in place of objects are none."""
    return lambda value: not isinstance(value, type) and all(hasattr(value, name) for name in names)


def watchers(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def either(*tests: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: any(test(value) for test in tests)


def one_of(*kinds: type | Any) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def or_none(allowed: Allowed) -> Allowed:
    text = allowed.text if allowed.choices else f"{allowed.text}, or None"
    return Allowed(text, lambda value: value is None or allowed.fits(value), allowed.choices)


WHOLE, NUMBER, TEXT = (
    Allowed("a whole number", whole),
    Allowed("a number", number),
    Allowed("a text", one_of(str)),
)
YES = Allowed("True or False", one_of(bool))
PATH = Allowed("the path of a file", one_of(str, Path))
BUILDER = Allowed("a configuration, such as TreeSampler(n_distinct=1000), not a class", has("build"))
HAMILTONIAN = Allowed(
    "an object with hilbert, diagonal and connected, such as nqs.hamiltonians.Heisenberg(...)",
    has("hilbert", "diagonal", "connected"),
)
EXACT = Allowed(
    '"auto", what exact.ground_state returned, or an energy',
    either(number, lambda value: isinstance(value, str) and value == "auto", has("energy", "state")),
)
MODEL = Allowed(
    "NetworkOptions(...) or a model's configuration, such as TransformerConfig(...)", either(has("build"), has("given"))
)
REFERENCE = Allowed(
    '"auto", "none" or a reference phase, such as MarshallSign(...)',
    either(lambda value: isinstance(value, str) and value in ("auto", "none"), has("phase")),
)
WAVEFUNCTION = Allowed(
    "a model built for the sector, such as TransformerConfig(...).build(hamiltonian.hilbert)",
    has("hilbert", "log_psi", "parameters"),
)
ALLOWED = {
    "hamiltonian": HAMILTONIAN,
    "wavefunction": WAVEFUNCTION,
    "sampler": or_none(BUILDER),
    "evaluation": or_none(Allowed("a sampler's configuration or an Evaluation", either(has("build"), has("batches")))),
    "optimiser": or_none(Allowed("OptimiserOptions(...) or an optimiser's configuration", has("__dataclass_fields__"))),
    "warm_up": or_none(Allowed("a WarmUp(...)", has("share", "sampler", "optimiser"))),
    "model": or_none(MODEL),
    "reference": REFERENCE,
    "symmetry": Allowed('"auto" or "none"', one_of(str)),
    "distinct": or_none(WHOLE),
    "sampled": YES,
    "steps": or_none(WHOLE),
    "seed": WHOLE,
    "exact_limit": WHOLE,
    "threads": or_none(WHOLE),
    "gpu_memory": or_none(NUMBER),
    "minutes": or_none(NUMBER),
    "total_minutes": or_none(NUMBER),
    "temperature": NUMBER,
    "annealing": NUMBER,
    "penalty": or_none(NUMBER),
    "begin": or_none(NUMBER),
    "error": or_none(NUMBER),
    "initial": or_none(Allowed("the path of an archive, or the origin of the parameters", one_of(str, Path, Mapping))),
    "archive": or_none(PATH),
    "name": or_none(TEXT),
    "unit": or_none(TEXT),
    "pretrain": Allowed('"none", "mean-field" or "exact"', one_of(str)),
    "device": or_none(Allowed('"cpu" or "cuda"', either(one_of(str), has("type", "index")))),
    "exact": or_none(EXACT),
    "figure": YES,
    "progress": YES,
    "flush": or_none(Allowed("a FlushPolicy(...)", has("share", "longest"))),
    "watch": Allowed("a list of observers with the methods step(row) and close()", watchers),
    "until": or_none(Allowed("a function of a row of the history", callable)),
    "types": or_none(Allowed("a dictionary of classes by name", one_of(Mapping))),
}  # fmt: skip


def check_options(**options: Any) -> None:
    """The arguments of a public function, by name.

    Raises:
        OptionError: one of a wrong type.
    """
    for name, value in options.items():
        if name in ALLOWED and not ALLOWED[name].fits(value):
            raise OptionError(_line(name, value, ALLOWED[name]))
    if "watch" in options:
        for watcher in options["watch"] if isinstance(options["watch"], list | tuple) else ():
            if not has("step", "close")(watcher):
                raise OptionError(_line("watch", options["watch"], ALLOWED["watch"]))


def check_fields(config: Any, *, positive: Sequence[str] = (), at_least: Mapping[str, int] | None = None) -> None:
    """The fields of a dataclass by their annotations: numbers, texts, True or False, choices of texts; 64-bit seeds.

    Args:
        positive: fields that are positive, finite numbers, or None.
        at_least: lower bounds of fields, and of n_NAME, the resolved value of a field NAME that may be None.

    Raises:
        OptionError: one of a wrong type.
        ValueError: one out of range.
    """
    kind: Any = type(config)
    for name, allowed in _of_class(kind).items():
        value = getattr(config, name)
        if not allowed.fits(value):
            if allowed.choices:
                raise ValueError(f"{name}={value!r}: choose {allowed.text}.")
            raise OptionError(f"{kind.__name__}: {_line(name, value, allowed)}")
    if hasattr(config, "seed"):
        checked_seed(config.seed)
    for name in positive:
        if (value := getattr(config, name)) is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: it must be a positive number.")
    for name, least in (at_least or {}).items():
        if (value := getattr(config, name)) is not None and value < least:
            shown = name if name in kind.__dataclass_fields__ else name.removeprefix("n_")
            raise ValueError(f"{shown}={value}: it must be at least {least}.")


@functools.cache
def _of_class(kind: type) -> dict[str, Allowed]:
    hints = get_type_hints(kind)
    found = {name: _of_hint(hints[name]) for name in kind.__dataclass_fields__}  # type: ignore[attr-defined]
    return {name: allowed for name, allowed in found.items() if allowed is not None}


def _of_hint(hint: Any) -> Allowed | None:
    """None for hints that are not checked here."""
    simple = {int: WHOLE, float: NUMBER, str: TEXT, bool: YES}
    if hint in simple:
        return simple[hint]
    if get_origin(hint) is Literal:
        *rest, last = map(repr, get_args(hint))
        return Allowed(f"{', '.join(rest)} or {last}", lambda value: value in get_args(hint), choices=True)
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_of_hint(part) for part in get_args(hint) if part is not type(None)]
        if any(part is None for part in parts):
            return None
        known = [part for part in parts if part is not None]
        text, choices = " or ".join(part.text for part in known), all(part.choices for part in known)
        allowed = Allowed(text, either(*(part.fits for part in known)), choices)
        return or_none(allowed) if type(None) in get_args(hint) else allowed
    return None


def _line(name: str, value: Any, allowed: Allowed) -> str:
    shown = repr(value)
    shown = shown if len(shown) <= LONGEST and "\n" not in shown else f"<{type(value).__name__}>"
    hint = ""
    if isinstance(value, str) and allowed.fits(_number(value)):
        hint = f"; leave the quotes out, {name}={value}"
    elif isinstance(value, float) and value.is_integer() and allowed.fits(int(value)):
        hint = f"; write {name}={int(value)}"
    return f"{name}={shown} is a {type(value).__name__}: give {allowed.text}{hint}."


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
