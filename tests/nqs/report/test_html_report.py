"""The page of nqs report: complete, self-contained, harmless whatever the archive says, fit for desktop and phone."""

import base64
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import VMC, Archive, exact
from nqs.archive import Checkpoint
from nqs.cli import main
from nqs.estimators.estimate import EnergyEstimate, with_error
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.samplers import TreeSampler
from nqs.vmc import loop

H = BoseHubbard(chain(3), 3, U=4.0)
GROUND = exact.ground_state(H)
VOID = {"meta", "img"}
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{"
CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """Parses a page strictly: every tag that is opened is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += f"{' '.join(data.split())}\n"

    def figures(self) -> dict[str, ET.Element]:
        """Every image by its title, parsed as SVG."""
        images = [attributes for tag, attributes in self.tags if tag == "img"]
        prefix = "data:image/svg+xml;base64,"
        assert all(str(image["src"]).startswith(prefix) for image in images)
        return {
            str(image["alt"]): ET.fromstring(base64.b64decode(str(image["src"]).removeprefix(prefix)))
            for image in images
        }


def run(path: Path, **options: Any) -> Path:
    hamiltonian = options.pop("hamiltonian", H)
    model = small_transformer(width=options.pop("width", 4), heads=1).build(hamiltonian.hilbert)
    vmc = VMC(hamiltonian, model, TreeSampler(n_samples=60), evaluation=TreeSampler(n_samples=500))
    vmc.run(6, archive=path, progress=False, **options)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.h5 and b.h5 of one Hamiltonian, c.h5 of another, of which no exact energy is stored, and their page."""
    folder = tmp_path_factory.mktemp("html")
    run(folder / "a.h5", exact=GROUND)
    run(folder / "b.h5", width=6)
    run(folder / "c.h5", hamiltonian=BoseHubbard(chain(3), 3, U=8.0))
    files = [str(folder / name) for name in ("a.h5", "b.h5", "c.h5")]
    main(["report", *files, "-o", str(folder / "all.html"), "--exact-limit", "10"])
    return folder


def test_page_of_one_run_says_all(folder: Path, tmp_path: Path) -> None:
    main(["report", str(folder / "a.h5"), "-o", str(tmp_path / "one.html")])
    page, archive = Page(tmp_path / "one.html"), Archive.open(folder / "a.h5")
    result = archive.result
    assert result is not None
    for text in (
        str(H),
        f"E = {with_error(result.energy, result.error)} J",
        "6 of 6 steps, finished",
        f"{GROUND.energy:.8f} J (dense, dimension 10)",
        f"{(result.energy - GROUND.energy) / abs(GROUND.energy):.1e}",
        f"evaluation after 6 steps: 500 samples, {result.n_distinct} distinct configurations",
        "retries after non-finite states",
        "perplexity",
        "condensate fraction",
        "one body density matrix",
        "3 × 3",
        "hamiltonian.n_particles",
    ):
        assert text in page.text, text
    assert list(page.figures()) == [
        "Energy", "Relative error", "Sampling", "Local states", "Densities", "Correlations", "Momentum",
    ]  # fmt: skip
    assert "Options that differ" not in page.text


def test_several_runs_stand_side_by_side(folder: Path) -> None:
    page = Page(folder / "all.html")
    energies = [Archive.open(folder / name).result for name in ("a.h5", "b.h5", "c.h5")]
    for result in energies:
        assert result is not None
        assert page.text.count(with_error(result.energy, result.error)) == 2  # in the table, and above the figures
    assert page.text.count(f"{GROUND.energy:.8f} J") == 3  # in the table, and of both runs
    found = Archive.open(folder / "c.h5").exact  # by the report, and stored
    assert found is not None
    assert page.text.count(f"{found['energy']:.8f} J") == 2
    assert {"Over steps", "Over time"} <= set(page.figures())
    differing = page.text.split("Options that differ")[1].split("finished")[0]
    assert "model.width" in differing
    assert "hamiltonian.U" in differing
    assert "run.seed" not in differing


def test_page_needs_nothing_from_elsewhere(folder: Path) -> None:
    page = Page(folder / "all.html")
    assert page.source.startswith("<!DOCTYPE html>")
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object", "embed", "base", "form", "a"}
    assert not re.search(r"url\(|@import|javascript:", page.source)
    policy = next(attributes["content"] for _, attributes in page.tags if "http-equiv" in attributes)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    for name, svg in page.figures().items():
        links = [value for e in svg.iter() for key, value in e.attrib.items() if key.endswith("href")]
        assert all(link.startswith(("#", "data:image/png")) for link in links), name


def hostile(path: Path) -> Path:
    """A sealed archive whose every text is an attack."""
    config = {"hamiltonian": {"type": EVIL}, EVIL: EVIL, "unit": EVIL, "run": {"steps": 2}}
    numbers = dict.fromkeys(("energy", "error", "variance", "v_score", "samples", "distinct", "seconds"), 1.0)
    with Archive.create(path, config=config, hamiltonian=EVIL, unit=EVIL, script=EVIL) as archive:
        for step in (0, 1):
            state = {EVIL: torch.zeros(1)}
            archive.record(
                {"step": step, **numbers}, step + 1, Checkpoint(state, state, torch.zeros(1, dtype=torch.uint8))
            )
        name = EVIL.replace("/", "|")  # of an HDF5 dataset
        for stem in (f"density_{name}", f"correlations_{name}"):
            values = np.ones((2, 2)) if stem.startswith("corr") else np.ones(2)
            archive.write_observable(stem, values)
            archive.write_observable(f"{stem}_error", values)
        archive.write_observable("local_state_probabilities", np.full((2, 2), 0.5))
        archive.write_result(EnergyEstimate(energy=1, error=0.1, variance=1, v_score=1, n_samples=1, n_distinct=1))
        archive._attributes[""]["created"] = archive._attributes[""]["package_version"] = EVIL
    return path


def test_archive_of_a_stranger_cannot_inject_anything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [hostile(tmp_path / f"{name}<img src=x onerror=alert(3)>$.h5") for name in "ab"]
    main(["report", *map(str, files), "-o", str(tmp_path / "page.html")])
    assert not capsys.readouterr().err
    page = Page(tmp_path / "page.html")
    assert " ".join(EVIL.split()) in page.text  # shown as it is
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "svg", "b"}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    figures = page.figures()  # and no other image
    assert {"Densities", "Over steps"} <= set(figures)
    for svg in figures.values():
        kinds = {element.tag.split("}")[1] for element in svg.iter() if isinstance(element.tag, str)}
        assert not kinds & {"script", "image", "foreignObject", "a"}


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("samples", "was not written by a run of nqs: its history lacks samples"),
        ("", r"cannot be drawn: its observable local_state_probabilities is of shape \(3,\), not \(L, d\)"),
    ],
)
def test_archive_that_nqs_did_not_fill_gives_one_clear_line(missing: str, message: str, tmp_path: Path) -> None:
    state = {"x": torch.zeros(1)}
    names = ("step", "energy", "error", "variance", "v_score", "samples", "distinct", "seconds")
    with Archive.create(tmp_path / "x.h5", config={"hamiltonian": {}}, hamiltonian="H", unit="J") as archive:
        numbers = {name: 1.0 for name in names if name != missing}
        archive.record(numbers, 1, Checkpoint(state, state, torch.zeros(1, dtype=torch.uint8)))
        archive.write_observable("local_state_probabilities", np.ones(3))
    with pytest.raises(SystemExit, match=rf"error: .*x\.h5 {message}"):
        main(["report", str(tmp_path / "x.h5"), "-o", str(tmp_path / "x.html")])
    assert not (tmp_path / "x.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.html"], "error: nqs report needs at least one archive: nqs report results/*.h5"),
        (["empty.h5", "-o", "x.html"], "error: empty.h5 holds no finished step: there is nothing to compare."),
        (["empty.h5", "-o", "empty.h5"], "error: output empty.h5: the name of a web page must end with .html or .htm."),
        (["none.h5", "-o", "x.html"], "error: none.h5: no such archive."),
        (["empty.h5", "-o", "no/x.html"], "error: output no/x.html: there is no folder no; make it first."),
    ],
)
def test_bad_input_gives_one_clear_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Archive.create("empty.h5", config={}, hamiltonian="H", unit="J").close()
    with pytest.raises(SystemExit) as end:
        main(["report", *arguments])
    usage = end.value.code == 2
    assert usage == ("no such archive" not in message and "holds no finished step" not in message)
    assert (capsys.readouterr().err.strip() if usage else end.value.code) == message
    assert {path.name for path in tmp_path.iterdir()} == {"empty.h5"}


def test_run_that_was_killed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "evaluate_best", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.h5")
    main(["report", str(tmp_path / "a.h5"), "-o", str(tmp_path / "a.html"), "--exact-limit", "0"])
    page = Page(tmp_path / "a.html")
    assert "6 of 6 steps, stopped" in page.text
    assert "last step: 60 samples, " in page.text
    assert "exact energy not known" in page.text
    assert "* of the last step: the run has not been evaluated yet" in page.text
    assert list(page.figures()) == ["Energy", "Variance", "Sampling"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium on PATH")
def test_browser_shows_it_at_desktop_and_phone_width(folder: Path) -> None:
    """No sideways scrolling of the page, and every figure is drawn."""
    (folder / "frames.html").write_text(
        """<body><iframe src="all.html" width="1280"></iframe><iframe src="all.html" width="390"></iframe><p></p>
        <script>
        const measured = frame => {
            const page = frame.contentDocument, images = [...page.images];
            const drawn = images.filter(image => image.naturalWidth > 300);
            return [page.documentElement.scrollWidth, images.length, drawn.length].join(" ");
        };
        onload = () => {
            const frames = [...document.querySelectorAll("iframe")];
            document.querySelector("p").textContent = frames.map(measured).join(";");
        };
        </script>"""
    )
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={folder / 'chromium'}", "--virtual-time-budget=5000", "--window-size=1400,900"]
    done = subprocess.run(
        [*command, "--dump-dom", f"file://{folder}/frames.html"], capture_output=True, text=True, timeout=120
    )
    answer = re.search(r"<p>(.*)</p>", done.stdout)
    assert answer is not None, done.stderr
    desktop, phone = ([int(number) for number in part.split()] for part in answer[1].split(";"))
    for (width, images, drawn), allowed in ((desktop, 1280), (phone, 390)):
        assert 0.9 * allowed < width <= allowed
        assert images == drawn == 23
