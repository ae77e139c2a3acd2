"""Functions whose keyword options are the fields of a dataclass: every option is stated once, with type and default."""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

Fields = ParamSpec("Fields")
Subject = TypeVar("Subject")
Bundle = TypeVar("Bundle")
Outcome = TypeVar("Outcome")

ENTRY = re.compile(r"^ {8}(\w+): .*\n(?: {9,}.*\n)*", re.MULTILINE)
PLACE = "        {options}\n"  # in a docstring: stands for the attributes of the dataclass


def takes(
    bundle: Callable[Fields, Bundle],
) -> Callable[[Callable[[Subject, Bundle], Outcome]], Callable[Concatenate[Subject, Fields], Outcome]]:
    """Decorator of f(subject, bundle): makes it f(subject, **options), with the fields of the dataclass as options.

    Type checkers, completion and `help` see every option; unknown ones raise the usual TypeError. The attributes that
    the dataclass and its bases document stand in the docstring of f in place of {options}.
    """

    def decorator(function: Callable[[Subject, Bundle], Outcome]) -> Callable[Concatenate[Subject, Fields], Outcome]:
        (subject, _), fields = inspect.signature(function).parameters.values(), inspect.signature(bundle).parameters
        signature = inspect.signature(function).replace(parameters=[subject, *fields.values()])

        @functools.wraps(function)
        def called(*args: Any, **options: Any) -> Outcome:
            try:
                given = signature.bind(*args, **options).arguments
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            return function(given.pop(subject.name), bundle(**given))  # type: ignore[call-arg]

        called.__signature__ = signature  # type: ignore[attr-defined]
        called.__doc__ = (function.__doc__ or "").replace(PLACE, _attributes(bundle))
        return called

    return decorator


def _attributes(bundle: Any) -> str:
    """Documented attributes of a dataclass, after those of its bases."""
    found: dict[str, str] = {}
    for kind in reversed(bundle.__mro__):
        _, _, rest = (kind.__doc__ or "").partition("    Attributes:\n")
        block = rest.split("\n\n")[0].rstrip() + "\n"
        found |= {entry[1]: entry[0] for entry in re.finditer(ENTRY, block)}
    return "".join(found.values())
