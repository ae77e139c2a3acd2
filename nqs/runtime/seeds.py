"""Seeds of random numbers."""


def checked_seed(seed: int) -> int:
    """The seed, if torch and archives can hold it.

    Raises:
        ValueError: it does not fit into 64 bits.
    """
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed={seed}: it must fit into 64 bits, -2**63 <= seed < 2**63.")
    return seed
