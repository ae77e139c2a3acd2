"""Header of an archive: package version, commit and time, Hamiltonian, unit, script."""

import functools
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from nqs.archive.contents import FORMAT, VERSION, Scalar


def new_header(*, hamiltonian: str, unit: str, script: str) -> dict[str, Scalar]:
    """Attributes of the root group except configuration and options."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "package_version": package_version(),
        "commit": _commit(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "hamiltonian": hamiltonian,
        "unit": unit,
        "script": script,
    }


def package_version() -> str:
    """Version of nqs, or that a source tree is used as it is."""
    try:
        return version("nqs")
    except PackageNotFoundError:
        return "not installed"


@functools.cache
def _commit() -> str:
    """Commit of the source tree that contains this file; "" if there is none. Later commits are not what runs."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
