"""Tables that compare runs with the exact energy, computed once and stored in the archives, and with each other."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any

from nqs.archive.archive import Archive, ArchiveError
from nqs.estimators.estimate import with_error
from nqs.report.summary import energy_of, require_step

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
        exact_limit: largest dimension for which an unknown exact energy is computed, and stored in the archives.

    Raises:
        ArchiveError: a run without a finished step, or an archive that nqs did not write.
    """
    groups: dict[str, list[Archive]] = {}
    for archive in archives:
        require_step(archive, "compare")
        groups.setdefault(json.dumps(archive.config["hamiltonian"], sort_keys=True), []).append(archive)
    return [row for group in groups.values() for row in _rows(group, exact_limit)]


def _rows(group: Sequence[Archive], exact_limit: int) -> list[Row]:
    exact = _exact(group, exact_limit)
    found = sorted(
        ((archive, energy_of(archive, exact)) for archive in group), key=lambda pair: pair[1].estimate.energy
    )
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
            exact=exact,
            relative=run.relative_error if exact else None,
            variance=run.estimate.variance,
            v_score=run.estimate.v_score,
            distinct=run.estimate.n_distinct,
            seconds=float(archive.history["seconds"].sum()),
        )
        for archive, run in found
    ]


def _exact(group: Sequence[Archive], limit: int) -> float | None:
    """The exact energy from one of the archives, or computed now and stored in all of them."""
    known = next((archive.exact["energy"] for archive in group if archive.exact is not None), None)
    if known is not None:
        return float(known)
    try:
        hamiltonian = hamiltonian_of(group[0])
    except ValueError as error:
        print(f"no exact energy of {group[0].path}: {error}", file=sys.stderr)
        return None
    if hamiltonian.hilbert.dimension > limit:
        return None
    from nqs import exact

    ground_state = exact.ground_state(hamiltonian)
    for archive in group:
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
    from nqs.archive.serialise import from_plain
    from nqs.vmc.continuation import known_types

    hamiltonian: Any = from_plain(archive.config.get("hamiltonian"), known_types())
    if not hasattr(hamiltonian, "hilbert"):
        raise ValueError(f"the configuration of {archive.path} holds no Hamiltonian of nqs.")
    return hamiltonian


# --------------------------------------------------------------------------------------------------------- formats

COLUMNS = ("run", "steps", "energy", "above lowest", "relative error", "variance", "V-score", "distinct", "seconds")


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.file,
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
    """Hamiltonian, text of the exact energy, and rows of cells, for every group."""
    groups: dict[tuple[str, str, float | None], list[tuple[str, ...]]] = {}
    for row in rows:
        groups.setdefault((row.hamiltonian, row.unit, row.exact), []).append(_cells(row))
    return [
        (name, "exact energy not known" if exact is None else f"exact E = {exact:.8f} {unit}", cells)
        for (name, unit, exact), cells in groups.items()
    ]


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
        lines += [f"**{name}**, {exact}", "", "| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
        lines.append("")
    lines += [note.replace("*", "\\*") for note in notes(rows)]
    return "\n".join(lines).rstrip("\n") + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """CSV with every digit, one line per run."""
    names = list(Row.__dataclass_fields__)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([getattr(row, name) for name in names] for row in rows)
    return file.getvalue()


WRITERS = {"text": text, "csv": comma_separated, "markdown": markdown}
