"""Observables of a run as panels of its figure: points for the run, circles for the exact ground state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from nqs.runtime.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Arrays = Mapping[str, np.ndarray]  # as `Archive.observables` returns them; names as in nqs.observables.measure

COLOURS = ("#1f6f8b", "#e08e45", "#6a994e")
MAX_MARKS = 2_000  # points with error bars in a panel
SMALLEST_RANGE = 0.1  # of the density axis
TOTALS = ("particles", "Sz")  # of electrons; with both, the densities of each spin are redundant
OF_EACH_SPIN = ("up_electrons", "down_electrons")
SCALARS = {
    "fidelity": "fidelity",
    "condensate_fraction": "condensate fraction",
    "renyi2_entropy": "Rényi-2 entropy of half",
}


def has_panels(found: Arrays) -> bool:
    return any(name.startswith("density_") for name in found)


def draw_panels(axes: tuple[Axes, Axes, Axes], found: Arrays) -> None:
    """Densities of the sites, correlations over distance, and momentum distribution or structure factors."""
    left, middle, right = axes
    for colour, name in zip(COLOURS, _named(found, "density_"), strict=False):
        sites = np.arange(len(found[name]))
        _points(left, sites, found, name, colour, name.removeprefix("density_"))
    left.set(xlabel="site", ylabel="density")
    left.locator_params(axis="x", integer=True)
    low, high = left.get_ylim()
    room = max(0.0, SMALLEST_RANGE - (high - low)) / 2  # differences of 1e-4 are noise
    left.set_ylim(low - room, high + room)

    distances = found.get("distances")
    pairs = [*(["spin_correlations"] if "spin_correlations" in found else []), *_named(found, "correlations_")]
    for colour, name in zip(COLOURS, pairs, strict=False):
        label = "spins S·S" if name == "spin_correlations" else name.removeprefix("correlations_")
        x, shells = _shells(distances, len(found[name]))
        _points(middle, x, _shell_means(found, name, shells), name, colour, label)
    middle.axhline(0.0, color="0.8", lw=0.8, zorder=0)
    middle.set(xlabel="distance" if distances is not None else "|i - j|", ylabel="mean correlation")

    _momenta(right, found)
    for panel in axes:
        if panel.get_legend_handles_labels()[1]:
            panel.legend(fontsize=8, frameon=False)


class Scalar(NamedTuple):
    """A scalar observable; error and exact value if known."""

    name: str
    value: float
    error: float | None
    exact: float | None


def scalars(found: Arrays) -> list[Scalar]:
    """Scalar observables of a run; the double occupancy is the mean over sites."""

    def number(name: str) -> float | None:
        return float(found[name].mean()) if name in found else None

    numbers = [(words, name, number(f"{name}_error")) for name, words in SCALARS.items()]
    numbers.append(("double occupancy of a site", "double_occupancy", None))
    return [
        Scalar(words, float(found[name].mean()), error, number(f"{name}_exact"))
        for words, name, error in numbers
        if name in found
    ]


def one_line(found: Arrays) -> str:
    """Scalar observables of a run in one line."""
    parts = []
    for name, value, error, exact in scalars(found):
        number = f"{value:.4f}" if error is None else f"{value:.6g} ± {error:.1g}"
        parts.append(f"{name} {number}" + ("" if exact is None else f" (exact {exact:.4f})"))
    return "    ".join(parts)


def plain(text: object, longest: int = 60) -> str:
    """Printable text with escaped dollar signs, which matplotlib would read as a formula."""
    return printable(text, longest=longest).replace("$", r"\$")


def _named(found: Arrays, prefix: str) -> list[str]:
    names = [name for name in found if name.startswith(prefix) and not name.endswith(("_error", "_exact"))]
    if not {f"{prefix}{total}" for total in TOTALS} <= set(names):
        return names
    return [name for name in names if name.removeprefix(prefix) not in OF_EACH_SPIN]


def _points(axes: Axes, x: np.ndarray, found: Arrays, name: str, colour: str, label: str) -> None:
    x = x[:MAX_MARKS]
    value, error = found[name].real[:MAX_MARKS], found[f"{name}_error"][:MAX_MARKS]
    axes.errorbar(x, value, yerr=error, fmt="o", ms=4, color=colour, label=plain(label.replace("_", " ")))
    if f"{name}_exact" in found:
        labelled = "exact" in axes.get_legend_handles_labels()[1]
        exact = found[f"{name}_exact"].real[:MAX_MARKS]
        axes.plot(x, exact, "o", ms=8, mfc="none", color=colour, label=None if labelled else "exact")


def _shells(distances: np.ndarray | None, n_sites: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct distances between two sites, and for each pair the number of its distance, -1 for none, (L, L)."""
    if distances is None:
        i = np.arange(n_sites)
        distances = np.abs(i[:, None] - i).astype(float)
    rounded = np.where(np.isfinite(distances), distances, 0.0).round(6)
    x, shell = np.unique(rounded, return_inverse=True)
    below = np.count_nonzero(x <= 0)
    return x[below:], np.maximum(shell.reshape(rounded.shape) - below, -1)


def _shell_means(found: Arrays, name: str, shells: np.ndarray) -> Arrays:
    """Real parts of means over pairs. The quoted error is the mean of the errors, an upper bound reached for full
    correlation."""
    pairs = shells >= 0
    number = np.bincount(shells[pairs])
    names = (name, f"{name}_error", f"{name}_exact")
    return {key: np.bincount(shells[pairs], found[key].real[pairs]) / number for key in names if key in found}


def _momenta(axes: Axes, found: Arrays) -> None:
    """Momentum distribution and structure factors on a ring; the first of them as a map on a two-dimensional torus;
    else coherence over distance."""
    names = [*(["momentum_distribution"] if "momentum_distribution" in found else [])]
    names += _named(found, "structure_factor_")
    vectors = found.get("wave_vectors")
    if vectors is not None and names and vectors.shape[1] == 1:
        for colour, name in zip(COLOURS, names, strict=False):
            particles = name == "momentum_distribution"
            k = _folded(found["particle_wave_vectors" if particles else "wave_vectors"][:, 0])
            label = "n(k)" if particles else f"S(k), {name.removeprefix('structure_factor_')}"
            _points(axes, k / np.pi, found, name, colour, label)
        axes.set(xlabel="k / π", ylabel="n(k), S(k)" if names[0] == "momentum_distribution" else "S(k)")
    elif vectors is not None and names and vectors.shape[1] == 2:
        particles = names[0] == "momentum_distribution"
        kx, ky = _folded(found["particle_wave_vectors" if particles else "wave_vectors"]).T / np.pi
        drawn = axes.scatter(kx, ky, c=found[names[0]].real, s=120, cmap="viridis")
        title = "n(k)" if particles else f"S(k), {names[0].removeprefix('structure_factor_').replace('_', ' ')}"
        axes.figure.colorbar(drawn, ax=axes, label=plain(title))
        axes.set(xlabel="kx / π", ylabel="ky / π")
        axes.margins(0.2)
    elif "one_body_density_matrix" in found:
        name = "one_body_density_matrix"
        x, shells = _shells(found.get("distances"), len(found[name]))
        _points(axes, x, _shell_means(found, name, shells), name, COLOURS[0], "⟨a⁺ a⟩")
        axes.axhline(0.0, color="0.8", lw=0.8, zorder=0)
        axes.set(xlabel="distance", ylabel="mean coherence")
    else:
        axes.set_axis_off()


def _folded(k: np.ndarray) -> np.ndarray:
    """Wave vectors folded into (-pi, pi]."""
    return np.pi - (np.pi - k) % (2 * np.pi)
