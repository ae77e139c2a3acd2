"""Figures of runs: convergence of the energy, and observables of the final state."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from nqs.archive.archive import Archive
from nqs.exact.diagonalisation import ExactGroundState
from nqs.hilbert import HilbertSpace
from nqs.report.drawable import LARGEST, exact_energy_of, finite, history_of, observables_of
from nqs.report.files import write_figure
from nqs.report.panels import Arrays, draw_panels, has_panels, one_line, plain
from nqs.report.summary import energy_of, require_step

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VMC_COLOUR, EXACT_COLOUR = "#1f6f8b", "#d1495b"
TRANSIENT = 0.1  # fraction of the steps ignored when the range of the energy axis is chosen
TITLE_WIDTH, LONGEST_TITLE = 140, 1000  # characters
RASTERISED_FROM = 2000  # points of a curve from which it is rasterised in vector graphics


@np.errstate(all="ignore")
def plot_run(
    archive: str | Path, figure: str | Path, hilbert: HilbertSpace | None = None, exact: ExactGroundState | None = None
) -> None:
    """Energy, relative error (or variance), local states and observables of an archive, as PNG, PDF or SVG.

    Args:
        archive: HDF5 file of a run.
        figure: file to write; its ending chooses the format.
        hilbert: space of the run, for the names of the local states; None: those in the archive, or numbers.
        exact: exact ground state, for its local-state probabilities; by default its energy is that in the archive.

    Raises:
        ArchiveError: no readable archive, or a run without a finished step.
        ValueError: a format that matplotlib cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    run = Archive.open(archive)
    require_step(run, "plot")
    energy_exact = exact.energy if exact is not None else exact_energy_of(run)
    observables = observables_of(run)
    rows = 2 if has_panels(observables) else 1
    canvas = Figure(figsize=(11, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(canvas)
    canvas.suptitle(textwrap.fill(plain(run.attributes["hamiltonian"], LONGEST_TITLE), TITLE_WIDTH), fontsize=9)
    panels = canvas.subplots(rows, 3, squeeze=False)
    left, middle, right = panels[0]
    if rows == 2:
        draw_panels(tuple(panels[1]), observables)
        canvas.supxlabel(one_line(observables), fontsize=9)
    draw_energy(left, run, energy_exact)
    draw_accuracy(middle, run, energy_exact)
    draw_local_states(right, observables, hilbert, exact, run.state_names)
    write_figure(canvas, Path(figure))


@np.errstate(all="ignore")
def plot_runs(archives: Sequence[str | Path], figure: str | Path) -> None:
    """Convergence of several runs, over steps and over time, as PNG, PDF or SVG.

    Relative errors if all exact energies are known, else energies above the lowest one.

    Args:
        archives: HDF5 files of runs, of any Hamiltonians.
        figure: file to write; its ending chooses the format.

    Raises:
        ArchiveError: no readable archive, or a run without a finished step.
        ValueError: a format that matplotlib cannot write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    runs = list(Archive.open_all(archives))
    for run in runs:
        require_step(run, "plot")
    exact = [exact_energy_of(run) for run in runs]
    canvas = Figure(figsize=(9, 3.6), layout="constrained")
    FigureCanvasAgg(canvas)
    left, right = canvas.subplots(1, 2, sharey=True)
    draw_convergence(left, runs, exact, "step")
    draw_convergence(right, runs, exact, "seconds")
    left.get_legend().remove()
    right.set_ylabel("")
    write_figure(canvas, Path(figure))


def draw_convergence(
    axes: Axes, runs: Sequence[Archive], exact: Sequence[float | None], over: Literal["step", "seconds"]
) -> None:
    """Relative errors of several runs if all exact energies are known, else energies above the lowest one."""
    histories = [history_of(run) for run in runs]
    lowest = min((np.nanmin(history["energy"], initial=np.inf) for history in histories), default=0.0)
    for run, history, reference in zip(runs, histories, exact, strict=True):
        energy = history["energy"]
        y = finite(np.abs(energy / reference - 1) if reference and all(exact) else energy - lowest)
        x = history["step"] if over == "step" else history["elapsed"]
        axes.plot(x, y, ".-", ms=3, lw=0.6, label=plain(run.path.stem), rasterized=len(x) > RASTERISED_FROM)
    unit = plain(runs[0].attributes["unit"])
    label = "relative error |E - E₀| / |E₀|" if all(exact) else f"energy above the lowest ({unit})"
    axes.set(xlabel=over, ylabel=label)
    axes.set_yscale(_scale(line.get_ydata() for line in axes.get_lines()))
    axes.legend(fontsize=7, frameon=False)


def draw_energy(axes: Axes, run: Archive, exact: float | None) -> None:
    """Energy and its error bar over the steps, the exact energy, and the evaluation."""
    history, found = history_of(run), energy_of(run, exact)
    step, energy, error = history["step"], history["energy"], history["error"]
    axes.fill_between(step, energy - error, energy + error, color=VMC_COLOUR, alpha=0.3, lw=0)
    axes.plot(step, energy, color=VMC_COLOUR, lw=1, label="VMC")
    if exact is not None:
        axes.axhline(exact, color=EXACT_COLOUR, lw=1, ls="--", label="exact")
    value, bar = found.estimate.energy, found.estimate.error
    if found.evaluated and abs(value) < LARGEST and bar < LARGEST:
        axes.errorbar(found.step - 1, value, yerr=bar, fmt="o", ms=4, color=VMC_COLOUR, label="evaluation")
    _zoom(axes, energy, exact)
    axes.set(xlabel="step", ylabel=f"energy ({plain(found.unit)})")
    axes.legend(fontsize=8, frameon=False)
    axes.locator_params(axis="x", integer=True)


def draw_accuracy(axes: Axes, run: Archive, exact: float | None) -> None:
    """Relative error over the steps; the variance if no exact energy is known."""
    history, found = history_of(run), energy_of(run, exact)
    step, energy, error = history["step"], history["energy"], history["error"]
    if exact:  # no relative error of zero
        relative = finite(np.abs(energy - exact) / abs(exact))
        many = len(step) > RASTERISED_FROM
        axes.plot(step, relative, ".", ms=2, color=VMC_COLOUR, label="each step", rasterized=many)
        if np.nan_to_num(error).any():  # zero for exhaustive sums
            axes.plot(step, finite(error / abs(exact)), color="0.6", lw=0.8, label="error bar of a step")
        value, bar = abs(found.relative_error), found.estimate.error / abs(exact)
        if found.evaluated and value < LARGEST and bar < LARGEST:
            # The lower end of an error bar that includes zero cannot be drawn on a logarithmic axis.
            axes.errorbar(
                found.step - 1, value, yerr=[[min(bar, 0.9 * value)], [bar]], fmt="o", ms=4, color=EXACT_COLOUR,
                label=f"evaluation: {value:.1e}",
            )  # fmt: skip
        axes.set(xlabel="step", ylabel="relative error |E - E₀| / |E₀|")
    else:
        axes.plot(step, history["variance"], color=VMC_COLOUR, lw=1, label="variance")
        axes.set(xlabel="step", ylabel=f"variance ({plain(found.unit)}²)")
    axes.set_yscale(_scale(line.get_ydata() for line in axes.get_lines()))
    axes.legend(fontsize=8, frameon=False)
    axes.locator_params(axis="x", integer=True)


def _scale(values: Iterable[Any]) -> str:
    """Logarithmic, if a value is positive; errors and variances are zero on an exact eigenstate."""
    return "log" if any(np.greater(y, 0).any() for y in values) else "linear"


def _zoom(axes: Axes, energy: np.ndarray, exact: float | None) -> None:
    """Choose the range of the energy axis from the steps after the initial transient."""
    settled = energy[int(TRANSIENT * len(energy)) :]
    values = np.append(settled, exact) if exact is not None else settled
    values = values[np.isfinite(values)]
    if not len(values):
        return
    margin = 0.1 * np.ptp(values) or 1e-3 * abs(values[0]) or 1e-3
    axes.set_ylim(values.min() - margin, values.max() + margin)


def draw_sampling(axes: Axes, run: Archive) -> None:
    """Number of distinct configurations and perplexity of every step."""
    history = history_of(run)
    for name, label, colour in (("distinct", "distinct", VMC_COLOUR), ("perplexity", "perplexity", EXACT_COLOUR)):
        if name in history:  # format version 1 lacks some
            axes.plot(history["step"], history[name], lw=1, color=colour, label=label)
    axes.set(xlabel="step", ylabel="configurations", yscale=_scale(line.get_ydata() for line in axes.get_lines()))
    axes.locator_params(axis="x", integer=True)
    axes.legend(fontsize=8, frameon=False)


def draw_local_states(
    axes: Axes,
    observables: Arrays,
    hilbert: HilbertSpace | None = None,
    exact: ExactGroundState | None = None,
    names: Sequence[str] | None = None,
) -> None:
    """Probability of each local state, averaged over sites: bars for the run, circles for the exact state if unique.

    Args:
        hilbert: space of the run, for the names of the local states and for `exact`.
        exact: exact ground state.
        names: of the local states, where `hilbert` is None; None: they are numbered.
    """
    if "local_state_probabilities" not in observables:
        axes.set_axis_off()
        return
    probabilities = observables["local_state_probabilities"].mean(0)  # (d,)
    x = np.arange(len(probabilities))
    axes.bar(x, probabilities, color=VMC_COLOUR, alpha=0.7, label="VMC")
    if exact is None and "local_state_probabilities_exact" in observables:
        known = observables["local_state_probabilities_exact"].mean(0)
        axes.plot(x, known, "o", mfc="none", color=EXACT_COLOUR, label="exact")
    elif exact is not None and exact.multiplicity == 1 and hilbert is not None:
        n = hilbert.configurations().long()
        one_hot = torch.nn.functional.one_hot(n, hilbert.local_dim).double().mean(1)  # (dimension, d)
        weights = torch.from_numpy(np.abs(exact.state) ** 2)
        axes.plot(x, (weights @ one_hot).numpy(), "o", mfc="none", color=EXACT_COLOUR, label="exact")
    names = hilbert.state_names if hilbert is not None else names
    axes.set_xticks(x, [plain(name) for name in (names if names is not None and len(names) == len(x) else x)])
    axes.set(xlabel="local state", ylabel="probability, mean over sites", yscale=_scale([probabilities]))
    axes.set_ylim(1e-6, 1.5)
    axes.legend(fontsize=8, frameon=False)
