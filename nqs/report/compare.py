"""Tables that compare runs with the exact energy in their archives, and with each other.

The exact energy of an archive is used for that run alone: another archive may claim any. Nothing is rebuilt or computed
from an archive, unless the caller asks for exact energies.
"""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isnan
from typing import TYPE_CHECKING, Any

from nqs.archive.archive import Archive, ArchiveError
from nqs.estimators.estimate import with_decimals, with_error
from nqs.report.summary import energy_of, require_step
from nqs.runtime.text import printable

if TYPE_CHECKING:  # importing torch takes seconds; a table with known exact energies does not need it
    from nqs.protocols import Hamiltonian


@dataclass(frozen=True, kw_only=True)
class Row:
    """A run in the table; energies in `unit`.

    Attributes:
        evaluated: the energy is from an evaluation, not from the last step.
        excess: energy minus the lowest energy of the same Hamiltonian.
        relative: (E - E_exact) / |E_exact|; None if E_exact is unknown or 0.
    """

    file: str
    hamiltonian: str
    unit: str
    step: int
    evaluated: bool
    energy: float
    error: float
    excess: float
    exact: float | None
    relative: float | None
    variance: float
    v_score: float
    distinct: int
    seconds: float


def compared(archives: Sequence[Archive], exact_limit: int) -> list[Row]:
    """One row per run, grouped by Hamiltonian, the lowest energy first.

    Args:
        exact_limit: largest dimension for which an unknown exact energy is computed, and stored in the archives; 0:
            none is computed.

    Raises:
        ArchiveError: a run without a finished step, or an archive that nqs did not write.
    """
    groups: dict[str, list[Archive]] = {}
    for archive in archives:
        require_step(archive, "compare")
        groups.setdefault(json.dumps(archive.config.get("hamiltonian"), sort_keys=True), []).append(archive)
    return [row for group in groups.values() for row in _rows(group, exact_limit)]


def _rows(group: Sequence[Archive], exact_limit: int) -> list[Row]:
    computed = _computed(group, exact_limit)
    found = [
        (archive, energy_of(archive, computed if archive.exact is None else archive.exact["energy"]))
        for archive in group
    ]
    found.sort(key=lambda pair: pair[1].estimate.energy)
    lowest = found[0][1].estimate.energy
    return [
        Row(
            file=str(archive.path),
            hamiltonian=str(archive.attributes["hamiltonian"]),
            unit=run.unit,
            step=archive.step,
            evaluated=run.evaluated,
            energy=run.estimate.energy,
            error=run.estimate.error,
            excess=run.estimate.energy - lowest,
            exact=run.exact,
            relative=run.relative_error if run.exact else None,
            variance=run.estimate.variance,
            v_score=run.estimate.v_score,
            distinct=run.estimate.n_distinct,
            seconds=float(archive.history["seconds"].sum()),
        )
        for archive, run in found
    ]


def _computed(group: Sequence[Archive], limit: int) -> float | None:
    """The exact energy for archives that hold none, if the dimension allows it; stored in them."""
    # Runs for states above the lowest have another energy to compare with.
    unknown = [archive for archive in group if archive.exact is None and "orthogonal_to" not in archive.config]
    if not unknown or limit <= 0:
        return None
    try:
        hamiltonian = hamiltonian_of(unknown[0])
    except ValueError as error:
        print(printable(f"no exact energy of {unknown[0].path}: {error}"), file=sys.stderr)
        return None
    if hamiltonian.hilbert.dimension > limit:
        return None
    from nqs import exact

    ground_state = exact.ground_state(hamiltonian)
    for archive in unknown:
        try:
            with Archive.open(archive.path, "a") as file:
                file.write_exact(ground_state)
                file.flush()
        except ArchiveError as error:  # another process writes it, or its folder is read-only
            print(f"the exact energy was not stored: {error}", file=sys.stderr)
    return ground_state.energy


def hamiltonian_of(archive: Archive) -> "Hamiltonian":
    """The Hamiltonian of a run.

    Raises:
        ValueError: it contains classes that are not in nqs, or impossible values.
    """
    from nqs.vmc.continuation import rebuild

    hamiltonian: Any = rebuild(archive.config, only=("hamiltonian",))["hamiltonian"]
    return hamiltonian


# --------------------------------------------------------------------------------------------------------- formats

LONGEST = 2_000  # characters of a Hamiltonian
SAME = 1e-9  # relative difference of exact energies of one Hamiltonian
COLUMNS = ("run", "steps", "energy", "above lowest", "relative error", "variance", "V-score", "distinct", "seconds")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        printable(row.file),
        f"{row.step:,}",
        with_error(row.energy, row.error) + ("" if row.evaluated else " *"),
        f"{row.excess:.1e}" if row.excess else "-",
        "-" if row.relative is None else f"{row.relative:.1e}",
        f"{row.variance:.1e}",
        f"{row.v_score:.1e}",
        f"{row.distinct:,}",
        f"{row.seconds:,.0f}",
    )


def tables(rows: Sequence[Row]) -> list[tuple[str, str, list[tuple[str, ...]]]]:
    """Hamiltonian, text of the exact energy, and rows of cells, for every group of consecutive rows."""
    groups = [list(group) for _, group in groupby(rows, lambda row: (row.hamiltonian, row.unit))]
    return [
        (printable(group[0].hamiltonian, longest=LONGEST), _exact_text(group), [_cells(row) for row in group])
        for group in groups
    ]


def _exact_text(group: Sequence[Row]) -> str:
    known = {row.exact for row in group if row.exact is not None}
    if not known:
        return "exact energy not known"
    unit = printable(group[0].unit, longest=LONGEST)
    if max(known) - min(known) > SAME * max(map(abs, known)):
        return f"the archives hold different exact energies, {min(known):.8f} to {max(known):.8f} {unit}"
    return f"exact E = {with_decimals(min(known))} {unit}"


NOTE = "* of the last step: the run has not been evaluated yet"
UNDETERMINED = "(?) error bar not determinable: too few distinct configurations were drawn"


def notes(rows: Sequence[Row]) -> list[str]:
    """Explanations of the marks that occur in the rows."""
    marks = (NOTE, not all(row.evaluated for row in rows)), (UNDETERMINED, any(isnan(row.error) for row in rows))
    return [note for note, occurs in marks if occurs]


def text(rows: Sequence[Row]) -> str:
    """Aligned columns."""
    lines = []
    for name, exact, cells in tables(rows):
        widths = [max(map(len, column)) for column in zip(COLUMNS, *cells, strict=True)]
        lines += [name, exact]
        lines += [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in (COLUMNS, *cells)
        ]
        lines.append("")
    lines += notes(rows)
    return "\n".join(lines).rstrip("\n") + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """Markdown tables."""
    lines = []
    for name, exact, cells in tables(rows):
        lines += [
            f"**{_markdown(name)}**, {_markdown(exact)}",
            "",
            "| " + " | ".join(COLUMNS) + " |",
            "|---|" + "---:|" * (len(COLUMNS) - 1),
        ]
        lines += ["| " + " | ".join(map(_markdown, row)) + " |" for row in cells]
        lines.append("")
    lines += [note.replace("*", "\\*") for note in notes(rows)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _markdown(text: str) -> str:
    """Text in which "<" begins no HTML and "|" no column."""
    return text.replace("<", "&lt;").replace("|", "\\|")


def comma_separated(rows: Sequence[Row]) -> str:
    """CSV with every digit, one line per run."""
    names = list(Row.__dataclass_fields__)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow([printable(value) if isinstance(value, str) else value for value in values])
    return file.getvalue()


WRITERS = {"text": text, "csv": comma_separated, "markdown": markdown}
