"""Pictures of other programs are not replaced by the figure of a run, and figures of nqs are."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from nqs.report.files import figure_beside, is_free, refuse_foreign, write_figure


def drawn() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot([0, 1])
    return figure


@pytest.mark.parametrize("kind", ["png", "pdf", "svg", "eps", "PNG"])
def test_figures_say_that_nqs_wrote_them(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"figure.{kind}"
    assert is_free(path)
    drawn().savefig(path)
    assert not is_free(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=rf"figure\.{kind} exists and is no figure that nqs wrote: give another name"):
        refuse_foreign(path)
    assert path.read_bytes() == before
    write_figure(drawn(), path)
    assert is_free(path)
    refuse_foreign(path)


def test_png_has_the_documented_entry(tmp_path: Path) -> None:
    from PIL import Image

    write_figure(drawn(), tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.info["Software"] == "nqs, neural quantum states"


def test_a_large_file_is_read_at_its_ends_only(tmp_path: Path) -> None:
    path = tmp_path / "figure.png"
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte of nothing
    assert not is_free(path)


def test_figure_of_a_run_goes_beside_the_picture_of_another_program(tmp_path: Path) -> None:
    archive = tmp_path / "run.h5"
    assert figure_beside(archive) == tmp_path / "run.png"
    write_figure(drawn(), tmp_path / "run.png")
    assert figure_beside(archive) == tmp_path / "run.png"
    (tmp_path / "run.png").write_bytes(b"\x89PNG of my holidays")
    assert figure_beside(archive) == tmp_path / "run-nqs.png"
    (tmp_path / "run-nqs.png").mkdir()
    assert figure_beside(archive) == tmp_path / "run-nqs-nqs.png"


def test_mode_and_link_of_a_figure_are_kept(tmp_path: Path) -> None:
    write_figure(drawn(), tmp_path / "real.png")
    (tmp_path / "real.png").chmod(0o640)
    (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
    write_figure(drawn(), tmp_path / "link.png")
    assert (tmp_path / "link.png").is_symlink()
    assert (tmp_path / "real.png").stat().st_mode & 0o777 == 0o640


def test_name_without_an_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"figure .*figure: its name must end with \.png, \.pdf or \.svg"):
        write_figure(drawn(), tmp_path / "figure")
