"""Figures of a run: convergence of the energy, and what was measured in the state found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from nqs.archive import Archive, ArchiveError
from nqs.exact import ExactGroundState
from nqs.hilbert import HilbertSpace
from nqs.observable_panels import Arrays, draw_panels, has_panels, summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VMC_COLOUR, EXACT_COLOUR = "#1f6f8b", "#d1495b"
TRANSIENT = 0.1  # share of the steps left out when the energy axis is chosen
TITLE_WIDTH = 140  # characters


def plot_run(
    archive: str | Path, figure: str | Path, hilbert: HilbertSpace, exact: ExactGroundState | None = None
) -> None:
    """Energy, relative error (or variance), local states and observables of an archive, as PNG, PDF or SVG.

    Args:
        archive: HDF5 file of a run.
        figure: file to write; its ending chooses the format.
        hilbert: names the local states.
        exact: exact ground state, for its local-state probabilities; its energy is also taken from the archive.

    Raises:
        ArchiveError: no readable archive, or one without a finished step.
        ValueError: a format that matplotlib cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = Archive.open(archive)
    history, result, unit = run.history, run.result, run.attributes["unit"]
    if not history:
        raise ArchiveError(f"{archive} holds no finished step yet: there is nothing to plot.")
    energy_exact = exact.energy if exact is not None else (run.exact or {}).get("energy")
    observables = run.observables()
    rows = 2 if has_panels(observables) else 1
    canvas = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(textwrap.fill(str(run.attributes["hamiltonian"]), TITLE_WIDTH), fontsize=9)
    panels = canvas.subplots(rows, 3, squeeze=False)
    left, middle, right = panels[0]
    if rows == 2:
        draw_panels(tuple(panels[1]), observables)
        canvas.supxlabel(summary(observables), fontsize=9)

    step, energy, error = history["step"], history["energy"], history["error"]
    left.fill_between(step, energy - error, energy + error, color=VMC_COLOUR, alpha=0.3, lw=0)
    left.plot(step, energy, color=VMC_COLOUR, lw=1, label="VMC")
    if energy_exact is not None:
        left.axhline(energy_exact, color=EXACT_COLOUR, lw=1, ls="--", label="exact")
    if result is not None:
        left.errorbar(
            step[-1], result.energy, yerr=result.error, fmt="o", ms=4, color=VMC_COLOUR, label="final evaluation"
        )
    _zoom(left, energy, energy_exact)
    left.set(xlabel="step", ylabel=f"energy ({unit})")
    left.legend(fontsize=8, frameon=False)

    if energy_exact:  # no relative error of zero
        relative = np.abs(energy - energy_exact) / abs(energy_exact)
        middle.plot(step, relative, ".", ms=2, color=VMC_COLOUR, label="each step")
        if error.any():  # an exhaustive sum has none
            middle.plot(step, error / abs(energy_exact), color="0.6", lw=0.8, label="error bar of a step")
        if result is not None:
            final = abs(result.energy - energy_exact) / abs(energy_exact)
            bar = result.error / abs(energy_exact)
            # The lower end of an error bar that includes zero cannot be drawn on a logarithmic axis.
            middle.errorbar(
                step[-1], final, yerr=[[min(bar, 0.9 * final)], [bar]], fmt="o", ms=4, color=EXACT_COLOUR,
                label=f"final: {final:.1e}",
            )  # fmt: skip
        middle.set(xlabel="step", ylabel="relative error |E - E₀| / |E₀|")
    else:
        middle.plot(step, history["variance"], color=VMC_COLOUR, lw=1, label="variance")
        middle.set(xlabel="step", ylabel=f"variance ({unit}²)")
    if any(np.greater(line.get_ydata(), 0).any() for line in middle.get_lines()):  # not on an exact eigenstate
        middle.set_yscale("log")
    middle.legend(fontsize=8, frameon=False)
    for axes in (left, middle):
        axes.xaxis.get_major_locator().set_params(integer=True)

    _local_states(right, observables, hilbert, exact)
    canvas.savefig(figure, dpi=150)


def plot_runs(archives: Sequence[str | Path], figure: str | Path) -> None:
    """Convergence of several runs, over steps and over time, as PNG, PDF or SVG.

    The relative error where all exact energies are known, else the energy above the lowest one found.

    Args:
        archives: HDF5 files of runs, of any Hamiltonians.
        figure: file to write; its ending chooses the format.

    Raises:
        ArchiveError: one of them is no readable archive, or has no finished step.
        ValueError: a format that matplotlib cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = [Archive.open(archive) for archive in archives]
    for run in runs:
        if not run.history:
            raise ArchiveError(f"{run.path} holds no finished step yet: there is nothing to plot.")
    exact = [(run.exact or {}).get("energy") for run in runs]
    canvas = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(canvas)
    for axes, name in zip(canvas.subplots(1, 2, sharey=True), ("step", "seconds"), strict=True):
        for run, reference in zip(runs, exact, strict=True):
            energy = run.history["energy"]
            if all(exact):
                y = np.abs(energy / reference - 1)
            else:
                y = energy - min(other.history["energy"].min() for other in runs)
            x = run.history["step"] if name == "step" else run.history["seconds"].cumsum()
            axes.plot(x, y, ".-", ms=3, lw=0.6, label=run.path.stem)
        axes.set(xlabel=name, yscale="log")
    axes.legend(fontsize=7, frameon=False)
    unit = str(runs[0].attributes["unit"])
    label = "relative error |E - E₀| / |E₀|" if all(exact) else f"energy above the lowest ({unit})"
    canvas.axes[0].set_ylabel(label)
    canvas.savefig(figure, dpi=150)


def _zoom(axes: Axes, energy: np.ndarray, exact: float | None) -> None:
    """Choose the energy axis from what follows the first transient."""
    settled = energy[int(TRANSIENT * len(energy)) :]
    values = np.append(settled, exact) if exact is not None else settled
    margin = 0.1 * np.ptp(values) or 1e-3
    axes.set_ylim(values.min() - margin, values.max() + margin)


def _local_states(axes: Axes, observables: Arrays, hilbert: HilbertSpace, exact: ExactGroundState | None) -> None:
    """Probability of each local state, averaged over sites: bars for the run, circles for the exact state."""
    if "local_state_probabilities" not in observables:
        axes.set_axis_off()
        return
    probabilities = observables["local_state_probabilities"].mean(0)  # (d,)
    x = np.arange(len(probabilities))
    axes.bar(x, probabilities, color=VMC_COLOUR, alpha=0.7, label="VMC")
    if exact is None and "local_state_probabilities_exact" in observables:
        known = observables["local_state_probabilities_exact"].mean(0)
        axes.plot(x, known, "o", mfc="none", color=EXACT_COLOUR, label="exact")
    elif exact is not None:
        n = hilbert.configurations().long()
        one_hot = torch.nn.functional.one_hot(n, hilbert.local_dim).double().mean(1)  # (dimension, d)
        weights = torch.from_numpy(np.abs(exact.state) ** 2)
        axes.plot(x, (weights @ one_hot).numpy(), "o", mfc="none", color=EXACT_COLOUR, label="exact")
    axes.set_xticks(x, hilbert.local_states)
    axes.set(xlabel="local state", ylabel="probability, mean over sites", yscale="log", ylim=(1e-6, 1.5))
    axes.legend(fontsize=8, frameon=False)
