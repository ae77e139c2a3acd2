"""Energies extrapolated to zero variance: an estimate beside the variational energy, and no bound."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

WINDOWS = 12
SKIPPED = 0.3  # fraction of the steps at the start, where the state is far from a line
FEWEST = 8  # steps in a window


@dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """E(sigma^2) = energy + slope sigma^2.

    Attributes:
        energy: at zero variance.
        error: its standard error, from the scatter around the line.
        slope: inverse energy.
        variances: smallest and largest variance of the fit.
    """

    energy: float
    error: float
    slope: float
    variances: tuple[float, float]


def zero_variance(energy: Float[ndarray, " S"], variance: Float[ndarray, " S"]) -> Extrapolation | None:
    """Line through means of windows of successive steps of one run; None if the run is too short or shows no line.

    Close to the ground state, |psi> = |0> + eps |1>, both E - E_0 and the variance are of order eps^2, so that the
    energies of ever better states fall on a line that ends at E_0 (Kashima and Imada, J. Phys. Soc. Jpn. 70, 2287
    (2001)). They need not: the result is no upper bound, and its error is that of the fit alone.

    Args:
        energy, variance: of the steps in their order; steps that are not finite are left out.
    """
    known = np.isfinite(energy) & np.isfinite(variance)
    energy, variance = energy[known], variance[known]
    first = int(SKIPPED * len(energy))
    windows = min(WINDOWS, (len(energy) - first) // FEWEST)
    if windows < 4:
        return None
    parts = list(zip(np.array_split(energy[first:], windows), np.array_split(variance[first:], windows), strict=True))
    y, x = (np.array([np.median(part[of]) for part in parts]) for of in (0, 1))
    centre, scale = x.mean(), x.std()
    if not scale or not y.std():
        return None
    design = np.stack([np.ones(windows), (x - centre) / scale], axis=1)
    (mean, rise), *_ = np.linalg.lstsq(design, y)
    noise = float(((y - design @ np.array([mean, rise])) ** 2).sum()) / (windows - 2)
    at_zero = -centre / scale
    error = math.sqrt(noise / windows * (1 + at_zero * at_zero))  # orthogonal columns of squared norm `windows`
    if rise <= 0 or rise * rise < noise / windows:  # a slope that is not seen
        return None
    return Extrapolation(
        energy=float(mean + rise * at_zero),
        error=error,
        slope=float(rise / scale),
        variances=(float(x.min()), float(x.max())),
    )
