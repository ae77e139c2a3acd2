"""Checks of the options of optimisers."""

import math


def check_positive(config: object, *names: str) -> None:
    """Raises ValueError if a field is not a positive finite number."""
    for name in names:
        value = getattr(config, name)
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name}={value}: it must be a positive number.")
