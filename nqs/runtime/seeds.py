"""Seeds of random numbers."""

import operator
from typing import Any


def checked_seed(seed: Any) -> int:
    """The seed, if torch and archives can hold it.

    Raises:
        ValueError: it is no integer, or does not fit into 64 bits.
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise ValueError(f"seed={seed!r}: it must be an integer.") from None
    if not -(2**63) <= number < 2**63:
        raise ValueError(f"seed={seed}: it must fit into 64 bits, -2**63 <= seed < 2**63.")
    return number
