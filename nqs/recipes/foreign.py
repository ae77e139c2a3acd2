"""Options that a kind of network does not have, or has with one value only."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Foreign(NamedTuple):
    """Why an option of `nqs.recipes.NetworkOptions` is refused.

    Attributes:
        why: what the network has instead, one sentence.
        only: the value that is allowed, since the network is like that; None: no value is.
    """

    why: str
    only: str | None = None


def own_options(given: Mapping[str, Any], foreign: Mapping[str, Foreign]) -> dict[str, Any]:
    """The given options without foreign ones.

    Raises:
        ValueError: a foreign option with a value that is not allowed.
    """
    for name, option in foreign.items():
        if name in given and given[name] != option.only:
            raise ValueError(f"{name}={given[name]!r}: {option.why}")
    return {name: value for name, value in given.items() if name not in foreign}
