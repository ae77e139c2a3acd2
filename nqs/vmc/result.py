"""Result of a run."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nqs.estimators.estimate import EnergyEstimate, error_text, relative_error, with_decimals, with_error
from nqs.exact.diagonalisation import ExactGroundState
from nqs.runtime.notebook import html_table

LARGE_OVERLAP = 0.1  # with a known state, at which a run has not become orthogonal to it


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result of a run.

    Attributes:
        estimate: energy, error bar, variance and V-score of the final evaluation, from samples that were not used
            for optimisation.
        n_sites: L.
        unit: of the energies.
        history: every recorded quantity, one value per step.
        seconds: wall time of the optimisation, over all resumed parts.
        exact: exact ground-state energy, where known.
        overlaps: |<k|psi>|^2 with each of the states that the run stayed orthogonal to, and its error.
        archive: path of the archive.
        steps_left: remaining steps after a time limit.
    """

    estimate: EnergyEstimate
    n_sites: int
    unit: str
    history: dict[str, np.ndarray]
    seconds: float
    exact: float | None = None
    overlaps: tuple[tuple[float, float], ...] = ()
    archive: Path | None = None
    steps_left: int = 0

    @property
    def relative_error(self) -> float:
        """(E - E_exact) / |E_exact|; nan where the exact energy is not known or 0."""
        return math.nan if self.exact is None else relative_error(self.estimate.energy, self.exact)

    def __str__(self) -> str:
        e = self.estimate
        lines = [
            f"E = {with_error(e.energy, e.error)} {self.unit}",
            f"E / site = {with_error(e.energy / self.n_sites, e.error / self.n_sites)} {self.unit}",
            f"variance {e.variance:.2e}, V-score {e.v_score:.2e}, "
            f"{e.n_samples:,} samples on {e.n_distinct:,} distinct configurations, optimised in {self.seconds:.0f} s",
        ]
        if self.overlaps:
            lines.append(f"overlap with known states {self._overlaps}")
            if self.not_orthogonal:
                lines.append(self.not_orthogonal)
        if e.remark:
            lines.append(e.remark)
        if self.exact is not None:
            lines.append(self.compare(self.exact))
        if self.steps_left:
            lines.append(f"stopped at the time limit with {self.steps_left:,} steps left: resume to go on")
        return "\n".join(lines)

    def __repr__(self) -> str:
        e = self.estimate
        exact = "" if self.exact is None else f", {error_text(e.energy, self.exact)}"
        left = f", {self.steps_left:,} steps left" if self.steps_left else ""
        energy = f"E = {with_error(e.energy, e.error)} {self.unit}"
        return f"<Result {energy}, variance {e.variance:.1e}, {e.n_distinct:,} distinct configurations{exact}{left}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        e = self.estimate
        rows = [
            ("E / site", f"{with_error(e.energy / self.n_sites, e.error / self.n_sites)} {self.unit}"),
            ("variance", f"{e.variance:.2e} {self.unit}²"),
            ("V-score", f"{e.v_score:.2e}"),
            ("samples", f"{e.n_samples:,} on {e.n_distinct:,} distinct configurations"),
            ("optimised in", f"{self.seconds:.0f} s"),
        ]
        if self.overlaps:
            rows.append(("overlap with known states", self._overlaps))
            if self.not_orthogonal:
                rows.append(("known states", self.not_orthogonal))
        if e.remark:
            rows.append(("error", e.remark))
        if self.exact is not None:
            rows.append(("exact", self.compare(self.exact).removeprefix("exact ")))
        if self.archive is not None:
            rows.append(("archive", str(self.archive)))
        if self.steps_left:
            rows.append(("steps left", f"{self.steps_left:,}: resume to go on"))
        return html_table(f"E = {with_error(e.energy, e.error)} {self.unit}", rows)

    @property
    def not_orthogonal(self) -> str:
        """One line if an overlap with a known state is large beyond its error; "" elsewhere."""
        large = [k for k, (value, error) in enumerate(self.overlaps, start=1) if value - 3 * error > LARGE_OVERLAP]
        if not large:
            return ""
        which = ", ".join(map(str, large))
        return f"not orthogonal to known state {which}: more steps, or a larger penalty, are needed"

    @property
    def _overlaps(self) -> str:
        shown = [f"{value:.1e}" + (f" ± {error:.1e}" if error else "") for value, error in self.overlaps]
        return ", ".join(shown)

    def compare(self, exact: ExactGroundState | float) -> str:
        """One line: the exact energy, the relative error, and the difference in error bars."""
        energy = exact.energy if isinstance(exact, ExactGroundState) else exact
        difference = self.estimate.energy - energy
        bars = f" = {difference / self.estimate.error:+.1f} error bars" if self.estimate.error > 0 else ""
        if not energy:
            return f"exact {with_decimals(energy)} {self.unit}: error {difference:+.2e}{bars}"
        relative = relative_error(self.estimate.energy, energy)
        return f"exact {with_decimals(energy)} {self.unit}: relative error {relative:.1e} ({difference:+.2e}{bars})"
