"""Schedules of rates and shifts."""

import math


def cosine(start: float, end: float, progress: float) -> float:
    """From start to end along half a cosine. Loshchilov and Hutter, arXiv:1608.03983, eq. (5)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


def geometric(start: float, end: float, progress: float) -> float:
    """From start to end with a constant ratio per step."""
    return start ** (1 - min(progress, 1.0)) * end ** min(progress, 1.0)
