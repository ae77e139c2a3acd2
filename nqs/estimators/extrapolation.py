"""Energies extrapolated to zero variance: an estimate beside the variational energy, and no bound."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

WINDOWS = 16
SKIPPED = 0.3  # fraction of the steps at the start, where the state is far from a line
FEWEST = 8  # steps in a window


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """E(sigma^2) = energy + slope sigma^2.

    Attributes:
        energy: at zero variance.
        error: from the scatter around the line, the difference to a line through earlier steps as well, and half of the
            distance from the energy of the last steps.
        slope: inverse energy.
        variances: smallest and largest one of the line.
    """

    energy: float
    error: float
    slope: float
    variances: tuple[float, float]


def zero_variance(energy: Float[ndarray, " S"], variance: Float[ndarray, " S"]) -> Extrapolation | None:
    """Line through windows of the later steps of one run; None if the run is too short or shows no line.

    Close to the ground state, |psi> = |0> + eps |1>, both E - E_0 and the variance are of order eps^2, so that the
    energies of ever better states fall on a line that ends at E_0 (Kashima and Imada, J. Phys. Soc. Jpn. 70, 2287
    (2001)). They need not while the state changes its shape: 2,100 steps of the 10x10 Heisenberg lattice, which end
    0.115 above the ground state, point to 0.115 below it, four times what the scatter around the line would say. The
    quoted error is at least half of the distance extrapolated over; the result is no bound.

    Args:
        energy, variance: of the steps in their order; steps that are not finite are left out.
    """
    known = np.isfinite(energy) & np.isfinite(variance)
    energy, variance = energy[known], variance[known]
    first = int(SKIPPED * len(energy))
    windows = min(WINDOWS, (len(energy) - first) // FEWEST)
    if windows < 8:
        return None
    parts = list(zip(np.array_split(energy[first:], windows), np.array_split(variance[first:], windows), strict=True))
    y, x = (np.array([np.median(part[of]) for part in parts]) for of in (0, 1))
    line, later = _line(x, y), _line(x[windows // 2 :], y[windows // 2 :])
    if line is None or later is None:
        return None
    curved, distance = abs(line[0] - later[0]), abs(float(y[-1]) - later[0])
    return Extrapolation(
        energy=later[0],
        error=math.hypot(later[1], curved, distance / 2),
        slope=later[2],
        variances=(float(x[windows // 2 :].min()), float(x[windows // 2 :].max())),
    )


def _line(x: Float[ndarray, " W"], y: Float[ndarray, " W"]) -> tuple[float, float, float] | None:
    """Value at x = 0, its standard error and the slope of a least-squares line; None if no rise is seen."""
    centre, scale = x.mean(), x.std()
    if not scale or not y.std():
        return None
    design = np.stack([np.ones(len(x)), (x - centre) / scale], axis=1)  # orthogonal columns of squared norm len(x)
    (mean, rise), *_ = np.linalg.lstsq(design, y)
    noise = float(((y - design @ np.array([mean, rise])) ** 2).sum()) / (len(x) - 2) / len(x)
    at_zero = -centre / scale
    if rise <= 0 or rise * rise < noise:
        return None
    return float(mean + rise * at_zero), math.sqrt(noise * (1 + at_zero * at_zero)), float(rise / scale)
