"""nqs show: origin, progress, energy and configuration of runs."""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nqs.archive.errors import ArchiveError
from nqs.cli.errors import errors_to_exit_codes
from nqs.cli.files import Files, at_least_one
from nqs.runtime.text import printable

if TYPE_CHECKING:
    from nqs.archive.archive import Archive

LONGEST = 10_000  # characters of a line


@dataclass(frozen=True, kw_only=True)
class Show:
    """Show origin, progress, energy with error bar, and configuration of runs, also while they are running."""

    files: Files = ()
    toml: bool = False  # print the options as TOML, for nqs run NAME --config
    json: bool = False  # print everything except arrays as JSON

    def __call__(self) -> None:
        from nqs.archive.archive import Archive

        with errors_to_exit_codes():
            at_least_one(self.files, "show")
            if self.toml and self.json:
                raise ValueError("give --toml or --json, not both.")
            for number, archive in enumerate(Archive.open_all(self.files)):
                if self.toml:
                    print(_toml(archive), end="")
                elif self.json:
                    print(json.dumps(plain_data(archive)).replace("\x7f", "\\u007f"))  # the one that JSON lets through
                else:
                    print("\n" * bool(number) + text(archive))


def plain_data(archive: "Archive") -> dict[str, Any]:
    """Everything except arrays, as plain data."""
    result = archive.result
    history = archive.history
    return {
        **archive.attributes,
        "file": str(archive.path),
        "step": archive.step,
        "steps": archive.steps,
        "finished": archive.finished,
        "result": None if result is None else _finite(vars(result)) | {"step": archive.result_step},
        "last": _finite({name: values[-1].item() for name, values in history.items() if len(values)}),
        "exact": archive.exact,
        "diagnostics": _finite(archive.diagnostics),
        "size": archive.size,
        "options": archive.options,
        "config": archive.config,
    }


def _finite(numbers: dict[str, float]) -> dict[str, float | None]:
    """JSON knows no nan: null for what is not determinable."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def text(archive: "Archive") -> str:
    """Several lines of text."""
    import numpy as np

    with np.errstate(all="ignore"):
        lines = _lines(archive)
    return "\n".join(printable(line, longest=LONGEST) for line in lines)


def _lines(archive: "Archive") -> list[str]:
    from nqs.archive.lock import writer_of
    from nqs.estimators.estimate import error_text, with_decimals
    from nqs.report.summary import energy_of, of_conjugate_gradient, of_samples, origin_of

    history = archive.history
    writer = writer_of(archive.path)
    if writer is not None:
        state = f"running ({writer})"
    else:
        state = "finished" if archive.finished else f"stopped; continue with: nqs resume {archive.path}"
    lines = [
        f"{archive.path}: {archive.attributes['hamiltonian']}",
        f"  started     {origin_of(archive)}",
        f"  progress    {archive.step:,} of {archive.steps:,} steps, {state}",
    ]
    found = energy_of(archive) if archive.step else None
    if found is not None:
        lines.append(f"  energy      {found} ({found.source})")
        lines.append(f"              variance {found.estimate.variance:.2e}, V-score {found.estimate.v_score:.2e}")
        if found.estimate.remark:
            lines.append(f"              {found.estimate.remark}")
    if archive.diagnostics:
        lines += [f"  {'sampling' if not row else '':<11} {line}" for row, line in enumerate(of_samples(archive))]
    if archive.exact is not None:
        exact, origin = archive.exact["energy"], f"{archive.exact['method']}, dimension {archive.exact['dimension']:,}"
        relative = "" if found is None else f", {error_text(found.estimate.energy, exact)}"
        lines.append(f"  exact       {with_decimals(exact)} {archive.attributes['unit']} ({origin}){relative}")
    if archive.step:
        seconds = history["seconds"].sum()
        lines.append(f"  time        {seconds:,.0f} s, {seconds / archive.step:.2g} s per step{_writing(history)}")
        if "retries" in history and history["retries"].sum():
            lines.append(f"  retries     {history['retries'].sum():.0f} after non-finite energies or parameters")
        if (solver := of_conjugate_gradient(history)) is not None:
            lines.append(f"  systems     {solver}")
        if "clipped" in history:
            clipped = history["clipped"].mean()
            lines.append(f"  clipped     {clipped:.2%} of the weight in the updates, mean over the steps")
    lines.append(f"  size        {archive.size:,} bytes{_size_of_a_step(archive)}")
    for session in archive.sessions:
        lines.append(f"  computed    {_session(session)}")
    for name, part in archive.config.items():
        if name not in ("hamiltonian", "unit"):  # shown in the first line
            lines.append(f"  {name:<11} {_short(part)}")
    return lines


def _session(session: dict[str, Any]) -> str:
    """Versions, device and threads of a process that made steps."""
    threads = session.get("threads")
    begin = f"from step {session['step']}: " if session.get("step") else ""
    return f"{begin}torch {session.get('torch')} on {session.get('device')}, {threads} thread{'s' * (threads != 1)}"


def _writing(history: dict[str, Any]) -> str:
    """Time for writing the archive, relative to the whole run."""
    if "archive_seconds" not in history:
        return ""
    import numpy as np

    writing = np.nansum(history["archive_seconds"])  # nan in the first steps of a run begun in format version 1
    return f"; writing the archive {writing / (writing + history['seconds'].sum()):.2%} of the whole"


def _size_of_a_step(archive: "Archive") -> str:
    """Bytes of the history per step, before compression."""
    if not archive.step:
        return ""
    return f", {sum(values.nbytes for values in archive.history.values()) / archive.step:.0f} per step for the history"


def _short(part: Any) -> str:
    """One line of a configuration: BoseHubbard(n_particles=8, U=4.0)."""
    if isinstance(part, dict):
        values = [f"{name}={_short(value)}" for name, value in part.items() if name != "type" and value is not None]
        return f"{part.get('type', '')}({', '.join(values)})"
    if isinstance(part, list) and part and all(isinstance(row, list) and len(row) == len(part[0]) for row in part):
        return f"[{len(part)} x {len(part[0])}]"
    if isinstance(part, list):
        inner = [_short(item) for item in part[:6]]
        return f"[{', '.join(inner)}{f', … {len(part)} in all' if len(part) > 6 else ''}]"
    return f"{part:.6g}" if isinstance(part, float) and len(str(part)) > 8 else str(part)


def _toml(archive: "Archive") -> str:
    from nqs.cli.toml import to_toml

    script = str(archive.attributes["script"])
    if not script:
        raise ArchiveError(
            f"{archive.path} was started from Python, not by nqs run: it has no options. "
            "nqs show --json prints its configuration."
        )
    return to_toml(script, archive.options)
