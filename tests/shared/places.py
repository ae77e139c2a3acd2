"""Folders of the repository that tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
DOCS = ROOT / "docs"
SCRIPTS = ROOT / "scripts"
SHARED = ROOT / "tests" / "shared"
