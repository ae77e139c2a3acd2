"""One check of the types of options, at every public door: what was found, what is allowed, what to do; one line.

Dataclasses of options are checked by their annotations (`check_fields`), the arguments of functions by the table below
(`check_options`). Values are checked where they are used: this is about steps="ten" and watch=[3].
"""

import functools
import operator
import types
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

LONGEST = 60  # characters of a value in a message


class OptionError(TypeError, ValueError):
    """An option of a wrong type; a ValueError, too, as other mistakes in options are."""


class Allowed(NamedTuple):
    """What an option may be, in words, and its test."""

    text: str
    fits: Callable[[Any], bool]


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
    return Allowed(f"{allowed.text}, or None", lambda value: value is None or allowed.fits(value))


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
    "a model built for the sector, such as Transformer(hamiltonian.hilbert)", has("hilbert", "log_psi", "parameters")
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
    "steps": or_none(WHOLE),
    "seed": WHOLE,
    "exact_limit": WHOLE,
    "threads": or_none(WHOLE),
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


def check_fields(config: Any) -> None:
    """The fields of a dataclass by their annotations: numbers, texts, True or False, and choices of texts.

    Raises:
        OptionError: one of a wrong type.
    """
    kind: Any = type(config)
    for name, allowed in _of_class(kind).items():
        value = getattr(config, name)
        if not allowed.fits(value):
            raise OptionError(f"{kind.__name__}: {_line(name, value, allowed)}")


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
        return Allowed(" or ".join(map(repr, get_args(hint))), lambda value: True)  # its values are checked elsewhere
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_of_hint(part) for part in get_args(hint) if part is not type(None)]
        if any(part is None for part in parts):
            return None
        known = [part for part in parts if part is not None]
        allowed = Allowed(" or ".join(part.text for part in known), either(*(part.fits for part in known)))
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
