"""The energy of a run, as every table, figure and page quotes it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nqs.archive.archive import Archive
from nqs.archive.errors import ArchiveError
from nqs.estimators.estimate import EnergyEstimate, relative_error, with_error

# Columns of the history in archives of every version.
COLUMNS = ("step", "energy", "error", "variance", "v_score", "samples", "distinct", "seconds")

# Labels and formats of diagnostics, in lines.
DIAGNOSTICS: tuple[dict[str, tuple[str, str]], ...] = (
    {
        "distinct": ("distinct", "{:.2%} of the samples"),
        "effective": ("effective", "{:.2%}"),
        "space": ("observed", "{:.3g} of the space"),
        "weight": ("weight", "{:.6g}"),
    },
    {
        "entropy": ("entropy", "{:.4g}"),
        "perplexity": ("perplexity", "{:,.4g}"),
        "renyi_efficiency": ("Rényi efficiency", "{:.3g}"),
        "total_variation": ("total variation distance", "{:.2g}"),
        "expected_variation": ("expected", "{:.2g}"),
    },
    {
        "acceptance": ("acceptance", "{:.1%}"),
        "autocorrelation_time": ("autocorrelation time", "{:.3g}"),
        "r_hat": ("R-hat", "{:.3f}"),
    },
)


@dataclass(frozen=True, kw_only=True)
class RunEnergy:
    """The energy of the last evaluation, or of the last step where there was none.

    Attributes:
        estimate: energy, error bar, variance, V-score and numbers of samples, in `unit`.
        step: number of steps after which it was found.
        evaluated: whether it is from an evaluation; else it is from the samples of the last step.
        exact: exact ground-state energy, where known.
    """

    estimate: EnergyEstimate
    step: int
    evaluated: bool
    unit: str
    exact: float | None

    def __str__(self) -> str:
        return f"{with_error(self.estimate.energy, self.estimate.error)} {self.unit}"

    @property
    def source(self) -> str:
        """Evaluation or last step, and its numbers of samples, as text."""
        where = f"evaluation after {self.step:,} steps" if self.evaluated else "last step"
        e = self.estimate
        return f"{where}: {e.n_samples:,} samples, {e.n_distinct:,} distinct configurations"

    @property
    def relative_error(self) -> float:
        """(E - E_exact) / |E_exact|; nan where E_exact is not known or 0."""
        return math.nan if self.exact is None else relative_error(self.estimate.energy, self.exact)


def energy_of(archive: Archive, exact: float | None = None) -> RunEnergy:
    """The energy of a run.

    Args:
        exact: exact ground-state energy; by default the one in the archive, if there is one.

    Raises:
        ArchiveError: as `require_step`.
    """
    require_step(archive, "show")
    estimate, step = archive.result, archive.result_step
    evaluated = estimate is not None
    if estimate is None or step is None:
        last = {name: archive.history[name][-1].item() for name in COLUMNS}
        estimate = EnergyEstimate(
            energy=last["energy"],
            error=last["error"],
            variance=last["variance"],
            v_score=last["v_score"],
            n_samples=int(last["samples"]),
            n_distinct=int(last["distinct"]),
        )
        step = archive.step
    if exact is None and archive.exact is not None:
        exact = float(archive.exact["energy"])
    return RunEnergy(
        estimate=estimate, step=step, evaluated=evaluated, unit=str(archive.attributes["unit"]), exact=exact
    )


def require_step(archive: Archive, action: str) -> None:
    """Check that a run can be summarised; `action` is a verb for the message.

    Raises:
        ArchiveError: the run has not finished a step, or its history lacks a column that every run writes.
    """
    if archive.step == 0:
        raise ArchiveError(f"{archive.path} holds no finished step: there is nothing to {action}.")
    missing = [name for name in COLUMNS if name not in archive.history]
    if missing:
        raise ArchiveError(f"{archive.path} was not written by a run of nqs: its history lacks {', '.join(missing)}.")


def origin_of(archive: Archive) -> str:
    """Date, script, package version and commit of a run, as text."""
    header = archive.attributes
    script = f"nqs run {header['script']}, " if header["script"] else ""
    commit = f", commit {str(header['commit'])[:7]}" if header["commit"] else ""
    created = str(header["created"]).replace("T", " ")[:16]
    return f"{created} UTC by {script}nqs {header['package_version']}{commit}"


def of_samples(archive: Archive) -> list[str]:
    """The diagnostics of the samples in lines of text."""
    found = archive.diagnostics
    return [
        ", ".join(_diagnostic(name, found[name]) for name in names if name in found)
        for names in DIAGNOSTICS
        if any(name in found for name in names)
    ]


def of_conjugate_gradient(history: Mapping[str, np.ndarray]) -> str | None:
    """Steps whose linear system was solved without its matrix, and those of which the tolerance was not reached."""
    solved = np.isfinite(history["cg_iterations"]) if "cg_iterations" in history else np.zeros(0)
    if not solved.any() or not {"cg_residual", "cg_unconverged"} <= history.keys():
        return None
    iterations, residual, missed = (
        history[name][solved] for name in ("cg_iterations", "cg_residual", "cg_unconverged")
    )
    found = f"{solved.sum():,} steps by conjugate gradients, {iterations.mean():.0f} iterations each"
    if not missed.any():
        return f"{found}, all within the tolerance"
    return f"{found}, NOT CONVERGED in {missed.sum():,.0f} of them: relative residuals up to {residual.max():.1e}"


def _diagnostic(name: str, number: float) -> str:
    label, style = next(group[name] for group in DIAGNOSTICS if name in group)
    return f"{label} {'not determinable' if math.isnan(number) else style.format(number)}"
