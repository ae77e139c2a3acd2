"""One self-contained web page about runs: figures, tables and text; no scripts, no external resources.

The template is `page.html`. Jinja escapes all text, control characters are shown as such, and a content security policy
forbids scripts: pages of untrusted archives are safe. Nothing is rebuilt or computed from their configurations.
"""

import base64
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from nqs.archive.archive import Archive
from nqs.archive.lock import writer_of
from nqs.estimators.estimate import with_decimals
from nqs.report import figures as report
from nqs.report.compare import COLUMNS, Row, notes, tables
from nqs.report.drawable import LARGEST, exact_energy_of, observables_of
from nqs.report.files import save
from nqs.report.panels import Arrays, draw_panels, has_panels, scalars
from nqs.report.summary import energy_of, of_conjugate_gradient, of_samples, origin_of, require_step
from nqs.runtime.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LEAVES = 2_000  # lines of a configuration
PANEL = (4.6, 3.3)  # inches; fonts match those of the page at a width of 440 pixels
OVER: dict[str, Literal["step", "seconds"]] = {"Over steps": "step", "Over time": "seconds"}
# Colours in light mode and in dark mode, by the colour in the figure.
COLOURS = {"#000000": ("#1d2129", "#e4e6eb"), report.VMC_COLOUR: ("#1f6f8b", "#58b4d3")}


class Panel(NamedTuple):
    """A figure as a data URL."""

    title: str
    image: str


Table = list[tuple[str, str]]  # names and values


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """Contents of the page about one run."""

    name: str
    hamiltonian: str
    state: str
    energy: str
    facts: Table
    panels: list[Panel]
    observables: list[tuple[str, str, str]]  # name, value with error, exact value
    arrays: Table
    sampler: Table
    configuration: Table


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs of the same Hamiltonian: their table, and the convergence of several runs."""

    hamiltonian: str
    exact: str
    cells: list[tuple[str, ...]]
    panels: list[Panel]


@np.errstate(all="ignore")
def html_report(archives: Sequence[Archive], rows: Sequence[Row]) -> str:
    """HTML text of the page.

    Args:
        archives: at least one, with a finished step each.
        rows: result of `nqs.report.compare.compared` for the same archives.

    Raises:
        ArchiveError: an archive without a finished step, or contents that cannot be drawn.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    exact = {row.file: row.exact for row in rows}
    pages = []
    for archive in archives:
        require_step(archive, "report")
        pages.append(_page(archive, exact[str(archive.path)]))
    environment = Environment(
        loader=PackageLoader("nqs.report", "."),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=pages[0].hamiltonian if len({page.hamiltonian for page in pages}) == 1 else f"{len(pages)} runs",
        columns=COLUMNS,
        groups=_groups(archives, rows),
        note=". ".join(notes(rows)),
        pages=pages,
        differences=_differences(archives),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        version=archives[0].attributes["package_version"],
    )


def _page(archive: Archive, exact: float | None) -> RunPage:
    found = energy_of(archive, exact)
    energy, error, unit = found.estimate.energy, found.estimate.error, found.unit
    facts = [
        ("found by", found.source),
        ("variance", f"{found.estimate.variance:.2e} {unit}²"),
        ("V-score", f"{found.estimate.v_score:.2e}"),
    ]
    if found.estimate.remark:
        facts.append(("error", found.estimate.remark))
    if exact is not None:
        stored = archive.exact
        origin = f" ({stored['method']}, dimension {stored['dimension']:,})" if stored is not None else ""
        facts.append(("exact energy", f"{with_decimals(exact)} {unit}{origin}"))
        bars = f" = {(energy - exact) / error:+.1f} error bars" if error > 0 else ""
        facts.append(("difference", f"{energy - exact:+.2e} {unit}{bars}"))
        if exact:
            facts.append(("relative error", f"{found.relative_error:.1e}"))
    facts.append(("started", origin_of(archive)))
    observables = observables_of(archive)
    return RunPage(
        name=str(archive.path),
        hamiltonian=str(archive.attributes["hamiltonian"]),
        state=_state(archive),
        energy=str(found),
        facts=facts,
        panels=list(_panels(archive, observables, exact)),
        observables=[
            (name, _value(value, error), _number(exact, "{:.6g}")) for name, value, error, exact in scalars(observables)
        ],
        arrays=[
            (name.replace("_", " "), " × ".join(map(str, values.shape)))
            for name, values in observables.items()
            if values.ndim and not name.endswith(("_error", "_exact"))
        ],
        sampler=_sampler(archive),
        configuration=list(islice(_leaves(archive.config), MAX_LEAVES)),
    )


def _value(value: float, error: float | None) -> str:
    if error is None:
        return f"{value:.4f}"
    return f"{value:.6g} ± {error:.1g}" if error > 0 else f"{value:.6g}"  # zero for exhaustive sums


def _state(archive: Archive) -> str:
    progress = f"{archive.step:,} of {archive.steps:,} steps"
    if (writer := writer_of(archive.path)) is not None:
        return f"{progress}, running ({writer})"
    return f"{progress}, {'finished' if archive.finished else 'stopped'}"


def _sampler(archive: Archive) -> Table:
    history = archive.history
    last = {name: float(values[-1]) for name, values in history.items()}
    seconds = float(history["seconds"].sum())
    retries = float(history["retries"].sum()) if "retries" in history else None
    rows = [
        ("samples of the last step", f"{last['samples']:,.0f}"),
        ("distinct configurations", f"{last['distinct']:,.0f}"),
        ("perplexity", _number(last.get("perplexity"), "{:,.1f}")),
        ("amplitudes reused", _number(last.get("share_saved"), "{:.1%}")),
        ("retries after non-finite states", _number(retries, "{:.0f}")),
        ("optimisation", f"{seconds:,.0f} s, {seconds / archive.step:.2g} s per step"),
    ]
    if (solver := of_conjugate_gradient(history)) is not None:
        rows.append(("linear systems", solver))
    if "clipped" in history:
        rows.append(("clipped weight in the updates, mean over the steps", f"{history['clipped'].mean():.2%}"))
    rows += [("final samples", line) for line in of_samples(archive)]
    if "archive_seconds" in history:
        writing = float(np.nansum(history["archive_seconds"]))
        rows.append(("writing the archive", f"{writing:.2g} s, {writing / (writing + seconds):.2%} on top"))
    return rows


def _number(value: float | None, style: str) -> str:
    return "-" if value is None or math.isnan(value) else style.format(value)


# ---------------------------------------------------------------------------------------------------------- figures


def _panels(archive: Archive, observables: Arrays, exact: float | None) -> Iterator[Panel]:
    exact = None if exact is None or not abs(exact) < LARGEST else exact
    yield _drawn("Energy", lambda axes: report.draw_energy(axes, archive, exact))
    accuracy = "Relative error" if exact else "Variance"
    yield _drawn(accuracy, lambda axes: report.draw_accuracy(axes, archive, exact))
    yield _drawn("Sampling", lambda axes: report.draw_sampling(axes, archive))
    if "local_state_probabilities" in observables:
        names = archive.state_names
        yield _drawn("Local states", lambda axes: report.draw_local_states(axes, observables, names=names))
    if has_panels(observables):
        figures = [_figure() for _ in range(3)]
        draw_panels((figures[0], figures[1], figures[2]), observables)
        titles = ("Densities", "Correlations", "Momentum" if "wave_vectors" in observables else "Coherence")
        yield from (_saved(title, axes) for title, axes in zip(titles, figures, strict=True) if axes.axison)


def _drawn(title: str, draw: "Callable[[Axes], None]") -> Panel:
    axes = _figure()
    draw(axes)
    return _saved(title, axes)


def _figure() -> "Axes":
    from matplotlib.figure import Figure

    return Figure(figsize=PANEL, layout="constrained").add_subplot()


def _saved(title: str, axes: "Axes") -> Panel:
    """The figure as an SVG image that follows the light or dark mode of the browser."""
    file = io.StringIO()
    figure = axes.get_figure(root=True)
    assert figure is not None
    save(figure, file, format="svg", transparent=True, dpi=200, metadata={"Date": None, "Creator": None})
    head, tag, body = file.getvalue().partition("<defs>")
    for number, colour in enumerate(COLOURS):
        body = body.replace(f": {colour}", f": var(--c{number})")
    light, dark = ("".join(f"--c{i}:{pair[mode]};" for i, pair in enumerate(COLOURS.values())) for mode in (0, 1))
    style = f"<style>svg{{fill:var(--c0);{light}}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    return Panel(title, "data:image/svg+xml;base64," + base64.b64encode((head + style + tag + body).encode()).decode())


# ----------------------------------------------------------------------------------------------------- side by side


def _groups(archives: Sequence[Archive], rows: Sequence[Row]) -> list[Group]:
    by_name = {str(archive.path): archive for archive in archives}
    groups, taken = [], 0
    for hamiltonian, line, cells in tables(rows):
        members = rows[taken : taken + len(cells)]
        taken += len(cells)
        runs = [by_name[row.file] for row in members]
        exact = [exact_energy_of(run) for run in runs]
        panels = []
        if len(runs) > 1:
            for title, over in OVER.items():
                axes = _figure()
                report.draw_convergence(axes, runs, exact, over)
                panels.append(_saved(title, axes))
        groups.append(Group(hamiltonian=hamiltonian, exact=line, cells=cells, panels=panels))
    return groups


def _differences(archives: Sequence[Archive]) -> list[tuple[str, list[str]]]:
    """Options that differ between the runs: name, and value in each run."""
    leaves = [dict(islice(_leaves(archive.config), MAX_LEAVES)) for archive in archives]
    names = dict.fromkeys(name for one in leaves for name in one)
    values = ((name, [one.get(name, "-") for one in leaves]) for name in names)
    return [(name, found) for name, found in values if len(set(found)) > 1]


def _leaves(config: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Options by their path: ("hamiltonian.lattice.shape", "[8]")."""
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _leaves(value, f"{path}.{name}".lstrip("."))
    elif isinstance(config, list) and any(isinstance(item, (Mapping, list)) for item in config):
        text = str(config) if len(config) <= 80 else ""
        yield path, text if 0 < len(text) <= 80 else f"{len(config)} rows"
    else:
        text = ", ".join(map(str, config[:200])) if isinstance(config, list) else str(config)
        yield path, text if len(text) <= 200 else f"{text[:200]} …"
