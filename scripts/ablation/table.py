"""Tables and figures of rows: medians and ranges over the seeds."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from nqs.scripts.ablation.jobs import Column, Question, Row

Groups = dict[tuple[str, str], list[Row]]  # by problem and variant


def with_errors(rows: Sequence[Row]) -> list[Row]:
    """Rows of training with relative errors and error bars; without an exact energy above the lowest of all rows."""
    lowest: dict[str, float] = {}
    for row in rows:
        if row.get("error") is None and "energy" in row:
            lowest[row["problem"]] = min(row["energy"], lowest.get(row["problem"], math.inf))
    complete = [
        row | {"error": (row["energy"] - E) / abs(E)}
        if row.get("error") is None and "energy" in row and (E := lowest[row["problem"]])
        else row
        for row in rows
    ]
    return [
        row | {"error_bar": _relative_error_bar(row)} if row.get("energy_error") is not None else row
        for row in complete
    ]


def _relative_error_bar(row: Row) -> float:
    """Of the energy, in units of the |E0| that its error is relative to; E and E0 have the same sign."""
    E: float = row["energy"]
    return float(row["energy_error"] * (1 + math.copysign(1, E) * row["error"]) / abs(E))


def grouped(rows: Iterable[Row], name: str, question: Question) -> Groups:
    """Rows of a question that did not fail, in the order of its problems and variants."""
    found: Groups = {}
    for row in rows:
        if row["question"] == name and "failed" not in row:
            found.setdefault((row["problem"], row["variant"]), []).append(row)
    places = {(p, v): i for i, (p, v) in enumerate((p, v) for p, vs in question.variants.items() for v in vs)}
    return dict(sorted(found.items(), key=lambda item: places.get(item[0], len(places))))


def numbers(rows: Sequence[Row], column: str) -> list[float]:
    values = (row.get(column) for row in rows)
    return [float(value) for value in values if value is not None and math.isfinite(value)]


def cell(rows: Sequence[Row], column: Column) -> str:
    """Median and range."""
    values = numbers(rows, column.name)
    if not values:
        return "-"
    middle = format(median(values), column.form)
    low, high = format(min(values), column.form), format(max(values), column.form)
    return middle if low == high else f"{middle} ({low} to {high})"


def table(rows: Sequence[Row], name: str, question: Question) -> str:
    """Markdown, a line for each problem and variant; "" without rows."""
    groups = grouped(rows, name, question)
    if not groups:
        return ""
    columns = [c for c in question.columns if any(numbers(group, c.name) for group in groups.values())]
    seconds = len({row["seconds"] for group in groups.values() for row in group}) > 1
    head = ["problem", "variant", *(["limit / s"] if seconds else []), *(c.title for c in columns), "seeds"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for (problem, variant), group in groups.items():
        for limit in sorted({row["seconds"] for row in group}):
            same = [row for row in group if row["seconds"] == limit]
            name_ = variant if variant in question.variants.get(problem, ()) else f"{variant} (removed)"
            cells = [problem, name_, *([f"{limit:g}"] if seconds else []), *(cell(same, c) for c in columns)]
            lines.append(f"| {' | '.join(cells)} | {len({row['seed'] for row in same})} |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], name: str, question: Question, path: Path) -> None:
    """A figure with the first column of the table: a mark for each row, a bar at the median."""
    from matplotlib.figure import Figure

    from nqs.report.files import write_figure

    groups, column = grouped(rows, name, question), question.columns[0]
    problems = list(dict.fromkeys(problem for problem, _ in groups))
    figure = Figure(figsize=(5.5 * len(problems), 1 + 0.34 * max(map(len, _by_problem(groups).values()))))
    for axes, problem in zip(figure.subplots(1, len(problems), squeeze=False)[0], problems, strict=True):
        variants = _by_problem(groups)[problem]
        for place, variant in enumerate(variants):
            values = numbers(groups[problem, variant], column.name)
            axes.plot(values, [place] * len(values), "o", color="C0", alpha=0.6)
            if values:
                axes.plot([median(values)], [place], "|", color="C3", markersize=16, markeredgewidth=2)
        positive = [v for variant in variants for v in numbers(groups[problem, variant], column.name) if v > 0]
        if positive and max(positive) > 5 * min(positive):
            axes.set_xscale("log")
        axes.set_yticks(range(len(variants)), variants)
        axes.invert_yaxis()
        axes.set_title(problem)
        axes.set_xlabel(column.title)
        axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path)


def _by_problem(groups: Groups) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for problem, variant in groups:
        found.setdefault(problem, []).append(variant)
    return found
