"""Files of figures: nqs replaces the figures that it wrote, and no others."""

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nqs.archive.storage import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AUTHOR = "nqs, neural quantum states"
KEYS = {"png": "Software", "pdf": "Creator", "svg": "Creator", "ps": "Creator", "eps": "Creator"}  # of the metadata
MARKS = [before + AUTHOR.encode() for before in (b"Software\0", b"/Creator (", b"<dc:title>", b"%%Creator: ")]
ENDS = 65536  # bytes at the beginning and the end of a file, where metadata are


def write_figure(figure: "Figure", path: Path) -> None:
    """Write a figure, with nqs as its author; its ending chooses the format.

    Raises:
        ValueError: a format that matplotlib cannot write.
        OSError: the file cannot be written; an old one stays.
    """
    kind = path.suffix[1:].lower()
    if not kind:
        raise ValueError(f"figure {path}: its name must end with .png, .pdf or .svg.")
    image = io.BytesIO()
    save(figure, image, format=kind, dpi=150, metadata={KEYS[kind]: AUTHOR} if kind in KEYS else None)
    replace_file(path, image.getvalue())


def save(figure: "Figure", target: Any, **options: Any) -> None:
    """Write a figure; characters that the font lacks are boxes, without a warning for each."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        figure.savefig(target, **options)


def is_free(path: Path) -> bool:
    """Whether a figure may be written there: no file, or a figure that nqs wrote."""
    if not path.exists():
        return True
    try:
        with path.open("rb") as file:
            head = file.read(ENDS)
            file.seek(max(0, path.stat().st_size - ENDS))
            tail = file.read(ENDS)
    except OSError:
        return False
    return any(mark in head or mark in tail for mark in MARKS)


def refuse_foreign(path: Path) -> None:
    """Raises ValueError: another program's file is there."""
    if not is_free(path):
        raise ValueError(f"{path} exists and is no figure that nqs wrote: give another name, or move it away.")


def figure_beside(archive: Path) -> Path:
    """File of the figure of a run: run.png beside run.h5, or run-nqs.png where run.png is of another program."""
    figure = archive.with_suffix(".png")
    while not is_free(figure):
        figure = figure.with_name(f"{figure.stem}-nqs.png")
    return figure
