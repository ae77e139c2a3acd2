"""Seeds of random numbers."""

from numbers import Integral


def checked_seed(seed: int) -> int:
    """The seed, if torch and archives can hold it.

    Raises:
        ValueError: it is no integer, or does not fit into 64 bits.
    """
    if not isinstance(seed, Integral):
        raise ValueError(f"seed={seed!r}: it must be an integer.")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed={seed}: it must fit into 64 bits, -2**63 <= seed < 2**63.")
    return seed
