"""Energy estimates and the notation of numbers with errors."""

import math
from dataclasses import dataclass

MAX_DECIMALS = 14  # of double precision
FIXED = 1e-3, 1e12  # moduli with a fixed number of decimals; smaller and larger ones have a power of ten


@dataclass(frozen=True, kw_only=True)
class EnergyEstimate:
    """Expectation value of H in the variational state.

    Attributes:
        energy: mean of the local energy, in the Hamiltonian's unit.
        error: half the width of the 95 % interval over 1.96, the standard error of many samples (nqs.error_bars); 0 for
            an exhaustive sum, nan if it cannot be determined.
        variance: <H^2> - <H>^2, the mean of |E_loc - energy|^2; 0 on an eigenstate, nan if it cannot be determined.
        v_score: N Var(H) / (E - E_inf)^2, N sites; nan without a variance.
        n_samples: number of samples.
        n_distinct: number of distinct configurations.
    """

    energy: float
    error: float
    variance: float
    v_score: float
    n_samples: int
    n_distinct: int

    @property
    def remark(self) -> str:
        """Why there is no error bar, one line; empty where there is one."""
        if not math.isnan(self.error):
            return ""
        return (
            f"(?): the error bar is not determinable from {self.n_samples:,} samples on {self.n_distinct:,} distinct "
            "configurations: draw more, or sum over the sector"
        )


def with_error(value: float, error: float) -> str:
    """A number with its error in the last two digits; eight decimals without an error, (?) if it is not determinable.

    >>> with_error(-7.4597912, 3.1e-5)
    '-7.459791(31)'
    >>> with_error(-7.4597912, 0.0)
    '-7.45979120'
    >>> with_error(-7.4597912e-8, 3.1e-13)
    '-7.459791(31)e-08'
    >>> with_error(-7.4597912, math.nan)
    '-7.45979120(?)'
    """
    if math.isfinite(value) and not math.isfinite(error):
        return f"{value:.8f}(?)"
    if not (error > 0 and math.isfinite(value) and math.isfinite(error)):
        return with_decimals(value)
    if not FIXED[0] <= (largest := max(abs(value), error)) < FIXED[1]:
        _, power = f"{largest:.0e}".split("e")
        return f"{with_error(value / 10.0 ** int(power), error / 10.0 ** int(power))}e{power}"
    _, exponent = f"{error:.1e}".split("e")  # rounded to two digits first: 0.0996 is 0.10
    digits = 1 - int(exponent)
    if digits <= 0:
        return f"{value:.0f}({error:.0f})"
    if digits > MAX_DECIMALS:
        return f"{value:.{MAX_DECIMALS}f}"
    return f"{value:.{digits}f}({error * 10**digits:.0f})"


def with_decimals(value: float, decimals: int = 8) -> str:
    """A number with so many decimals, of its mantissa where it is very small or large.

    >>> with_decimals(-7.4597912), with_decimals(-7.4597912e-8, 2)
    ('-7.45979120', '-7.46e-08')
    """
    fixed = not value or not math.isfinite(value) or FIXED[0] <= abs(value) < FIXED[1]
    return f"{value:.{decimals}{'f' if fixed else 'e'}}"


def relative_error(energy: float, exact: float) -> float:
    """(E - E_exact) / |E_exact|; nan where the exact energy is 0."""
    return (energy - exact) / abs(exact) if exact else math.nan


def error_text(energy: float, exact: float) -> str:
    """The relative error; the difference where the exact energy is 0.

    >>> error_text(-1.5, -2.0), error_text(1e-9, 0.0)
    ('relative error 2.5e-01', 'error +1.0e-09')
    """
    return f"relative error {relative_error(energy, exact):.1e}" if exact else f"error {energy - exact:+.1e}"
