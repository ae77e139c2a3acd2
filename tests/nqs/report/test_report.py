"""Figures of runs: what is drawn where, in every format, without touching matplotlib's global state."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from networks import small_transformer

from nqs import VMC, Archive, ArchiveError, exact
from nqs.exact import ExactGroundState
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain, from_edges, square
from nqs.report.figures import plot_run, plot_runs
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.vmc import loop

H = BoseHubbard(chain(3), 3, U=4.0)
GROUND = exact.ground_state(H)
STEPS = 12
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}


def run(path: Path, **options: Any) -> Path:
    hamiltonian = options.pop("hamiltonian", H)
    model = small_transformer(width=4, heads=1).build(hamiltonian.hilbert)
    sampler = options.pop("sampler", TreeSampler(n_samples=60))
    steps = options.pop("steps", STEPS)
    vmc = VMC(hamiltonian, model, sampler, evaluation=TreeSampler(n_samples=500))
    vmc.run(steps, archive=path, progress=False, **options)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def with_exact(folder: Path) -> Path:
    return run(folder / "with_exact.h5", exact=GROUND)


@pytest.fixture(scope="module")
def without_exact(folder: Path) -> Path:
    return run(folder / "without_exact.h5")


@pytest.fixture(scope="module")
def without_result(folder: Path) -> Path:
    """As a killed run leaves it."""
    path = folder / "without_result.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "evaluate_best", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    return path


def interrupt(*arguments: Any, **options: Any) -> None:
    raise KeyboardInterrupt


def drawn(
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    ground_state: ExactGroundState | None = None,
    hilbert: HilbertSpace = H.hilbert,
) -> list[Axes]:
    """All panels, not rendered: three of the run, three of the observables."""
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *arguments, **options: figures.append(figure))
    plot_run(archive, archive.with_suffix(".png"), hilbert, ground_state)
    assert len(figures) == 1
    return figures[0].axes


def lines(axes: Axes) -> dict[Any, Any]:
    return {line.get_label(): line for line in axes.get_lines()}


def legend(axes: Axes) -> list[str]:
    entries = axes.get_legend()
    assert entries is not None
    return [text.get_text() for text in entries.get_texts()]


# ------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        ("with_exact", "png"),
        ("with_exact", "pdf"),
        ("with_exact", "svg"),
        ("without_exact", "png"),
        ("without_result", "png"),
    ],
)
def test_every_format_is_written(kind: str, ending: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    archive = request.getfixturevalue(kind)
    before = archive.read_bytes()
    figure = tmp_path / f"figure.{ending}"
    plot_run(str(archive), str(figure), H.hilbert, GROUND if kind == "with_exact" else None)
    data = figure.read_bytes()
    assert data.startswith(SIGNATURES[ending])
    assert len(data) > 5_000
    assert archive.read_bytes() == before


def test_unknown_ending_is_refused(with_exact: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Format 'xyz' is not supported"):
        plot_run(with_exact, tmp_path / "figure.xyz", H.hilbert)


def test_archive_without_a_step_is_refused(tmp_path: Path) -> None:
    Archive.create(tmp_path / "new.h5", config={}, hamiltonian="", unit="J")
    with pytest.raises(ArchiveError, match=r"new\.h5 holds no finished step"):
        plot_run(tmp_path / "new.h5", tmp_path / "figure.png", H.hilbert)
    assert not (tmp_path / "figure.png").exists()


def test_missing_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no such archive"):
        plot_run(tmp_path / "none.h5", tmp_path / "figure.png", H.hilbert)


def test_pyplot_and_the_backend_are_left_alone(with_exact: Path, tmp_path: Path) -> None:
    """Also when nqs is imported, matplotlib itself is not: it would cost every script half a second."""
    script = (
        "import sys; from nqs.hilbert import bosons; from nqs.report.figures import plot_run\n"
        "assert not any(name.split('.')[0] == 'matplotlib' for name in sys.modules)\n"
        f"plot_run({str(with_exact)!r}, {str(tmp_path / 'figure.png')!r}, bosons(3, 3))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-P", "-c", script], check=True)
    assert (tmp_path / "figure.png").exists()


def test_settings_of_matplotlib_are_left_alone(with_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = dict(mpl.rcParams)
    drawn(with_exact, monkeypatch, GROUND)
    assert dict(mpl.rcParams) == before


# ------------------------------------------------------------------------------------------------------ panels


def test_energy_panel(with_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, _, _, *_ = drawn(with_exact, monkeypatch)
    history = Archive.open(with_exact).history
    shown = lines(left)
    np.testing.assert_array_equal(shown["VMC"].get_xdata(), np.arange(STEPS))
    np.testing.assert_array_equal(shown["VMC"].get_ydata(), history["energy"])
    assert list(shown["exact"].get_ydata()) == [GROUND.energy, GROUND.energy]
    assert legend(left) == ["VMC", "exact", "evaluation"]
    assert left.get_xlabel() == "step"
    assert left.get_ylabel() == "energy (J)"
    low, high = left.get_ylim()
    assert low < GROUND.energy < high
    assert low < history["energy"][-1] < high
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx((history["energy"] + history["error"]).max())


def test_relative_error_panel(with_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, middle, _, *_ = drawn(with_exact, monkeypatch)
    archive = Archive.open(with_exact)
    relative = np.abs(archive.history["energy"] / GROUND.energy - 1)
    np.testing.assert_allclose(lines(middle)["each step"].get_ydata(), relative)
    np.testing.assert_allclose(
        lines(middle)["error bar of a step"].get_ydata(), archive.history["error"] / -GROUND.energy
    )
    assert middle.get_yscale() == "log"
    assert middle.get_ylabel() == "relative error |E - E₀| / |E₀|"
    assert archive.result is not None
    final = abs(archive.result.energy / GROUND.energy - 1)
    assert legend(middle) == ["each step", "error bar of a step", f"evaluation: {final:.1e}"]


def test_variance_panel_where_no_exact_energy_is_known(without_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, middle, _, *_ = drawn(without_exact, monkeypatch)
    assert legend(left) == ["VMC", "evaluation"]
    np.testing.assert_array_equal(
        lines(middle)["variance"].get_ydata(), Archive.open(without_exact).history["variance"]
    )
    assert middle.get_ylabel() == "variance (J²)"
    assert middle.get_yscale() == "log"


def test_exact_state_given_to_the_plot_is_enough(without_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, middle, right, *_ = drawn(without_exact, monkeypatch, GROUND)
    assert "exact" in legend(left)
    assert middle.get_ylabel().startswith("relative error")
    assert sorted(legend(right)) == ["VMC", "exact"]


def test_local_state_panel(with_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, right, *_ = drawn(with_exact, monkeypatch, GROUND)
    heights = [bar.get_height() for bar in right.patches]
    stored = Archive.open(with_exact).observables()["local_state_probabilities"]
    np.testing.assert_allclose(heights, stored.mean(0))
    assert sum(heights) == pytest.approx(1)
    n = H.hilbert.configurations().numpy()
    expected = [((n == k).mean(1) * GROUND.state**2).sum() for k in range(4)]
    np.testing.assert_allclose(lines(right)["exact"].get_ydata(), expected)
    assert [tick.get_text() for tick in right.get_xticklabels()] == ["0", "1", "2", "3"]
    assert right.get_xlabel() == "local state"
    assert right.get_ylabel() == "probability, mean over sites"


def test_archive_without_result_shows_the_steps_only(without_result: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, middle, right = drawn(without_result, monkeypatch)
    assert legend(left) == ["VMC"]
    assert legend(middle) == ["variance"]
    assert not right.axison


def test_exhaustive_run_has_no_error_bars(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = run(folder / "exhaustive.h5", sampler=ExhaustiveSampler(), exact=GROUND, steps=3)
    _, middle, _, *_ = drawn(archive, monkeypatch)
    assert legend(middle)[0] == "each step"
    assert "error bar of a step" not in legend(middle)


def test_single_step_can_be_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, _, _, *_ = drawn(run(folder / "single.h5", steps=1), monkeypatch, GROUND)
    assert len(lines(left)["VMC"].get_xdata()) == 1
    low, high = left.get_ylim()
    assert low < GROUND.energy < 0 < lines(left)["VMC"].get_ydata()[0] < high  # far apart, and both in sight


def test_exact_energy_of_zero_has_no_relative_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Archive.open(run(folder / "zero.h5", steps=2), "a") as archive:
        zero = ExactGroundState(energy=0.0, gap=1.0, state=GROUND.state, dimension=10, method="", seconds=0.0)
        archive.write_exact(zero)
        archive.flush()
    left, middle, _, *_ = drawn(archive.path, monkeypatch)
    assert "exact" in legend(left)
    assert middle.get_ylabel() == "variance (J²)"


def test_exact_eigenstate_is_drawn_without_a_logarithm(folder: Path, tmp_path: Path) -> None:
    archive = run(folder / "one.h5", hamiltonian=BoseHubbard(chain(3), 3, U=4.0, n_max=1), steps=2)  # 1 configuration
    assert not Archive.open(archive).history["variance"].any()
    plot_run(archive, tmp_path / "figure.png", BoseHubbard(chain(3), 3, U=4.0, n_max=1).hilbert)


# ------------------------------------------------------------------------------------------------------ layout


def boxes(figure: Figure) -> list[Any]:
    """What may not overlap: panels with their labels, and the title."""
    renderer = figure.canvas.get_renderer()
    panels = [axes.get_tightbbox(renderer) for axes in figure.axes]
    return [*panels, *(text.get_window_extent(renderer) for text in figure.texts)]


@pytest.mark.parametrize("words", [1, 15])
def test_nothing_overlaps_or_is_cut_off(words: int, with_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = Archive.open(with_exact)
    monkeypatch.setattr(Archive, "attributes", property(lambda self: header))
    header = {"unit": "J", "hamiltonian": " + ".join(["3 sum_<ij> n_i n_j"] * words)}
    assert long.attributes == header
    figure = drawn(with_exact, monkeypatch, GROUND)[0].get_figure()
    assert isinstance(figure, Figure)
    figure.canvas.draw()  # runs the layout; its warnings are errors
    found = boxes(figure)
    whole = figure.bbox
    for i, box in enumerate(found):
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= whole.x1 + 1
        assert box.y1 <= whole.y1 + 1
        assert not any(box.overlaps(other) for other in found[:i])


def test_steps_are_labelled_with_whole_numbers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for axes in drawn(run(folder / "two.h5", steps=2), monkeypatch)[:2]:
        ticks = axes.get_xticks()
        np.testing.assert_array_equal(ticks, np.round(ticks))


# ------------------------------------------------------------------------------------------------- observables


def test_observable_panels(with_exact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, density, correlation, momentum = drawn(with_exact, monkeypatch, GROUND)
    found = Archive.open(with_exact).observables()
    assert legend(density) == ["exact", "particles"]
    np.testing.assert_array_equal(lines(density)["exact"].get_ydata(), found["density_particles_exact"])
    points = density.containers[0].lines[0]
    np.testing.assert_array_equal(points.get_ydata(), found["density_particles"])
    (bars,) = density.containers[0].lines[2]
    lengths = [segment[1, 1] - segment[0, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(lengths, 2 * found["density_particles_error"], atol=1e-12)
    pairs = found["correlations_particles_exact"]
    np.testing.assert_allclose(lines(correlation)["exact"].get_ydata(), [pairs[~np.eye(3, dtype=bool)].mean()])
    assert momentum.get_xlabel() == "k / π"
    assert legend(momentum) == ["exact", "n(k)", "S(k), particles"]
    text = density.get_figure().get_supxlabel()
    assert text.startswith("fidelity 0.")
    assert f"(exact {found['condensate_fraction_exact']:.4f})" in text


@pytest.mark.parametrize(
    ("hamiltonian", "label"),
    [
        (FermiHubbard(square(2, 2), 1, 1, U=4.0), "kx / π"),
        (TV(chain(4, periodic=False), 2, V=1.0), "distance"),
        (Heisenberg(chain(4), 0), "k / π"),
        (Ising(from_edges([(0, 1), (1, 2)]), h=1.0), ""),
    ],
    ids=["electrons", "open", "spins", "edges"],
)
def test_every_family_has_panels(hamiltonian: Any, label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = run(tmp_path / "run.h5", hamiltonian=hamiltonian, steps=1, exact=exact.ground_state(hamiltonian))
    plot_run(archive, tmp_path / "run.png", hamiltonian.hilbert)
    panels = drawn(archive, monkeypatch, hilbert=hamiltonian.hilbert)
    assert lines(panels[2])["exact"].get_ydata().sum() == pytest.approx(1.0)  # from the archive
    assert panels[5].get_xlabel() == label
    assert panels[4].get_xlabel() == "distance"
    assert panels[5].axison == bool(label)


# -------------------------------------------------------------------------------------------------- several runs


def test_several_runs_share_two_axes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: figures.append(self))
    runs = [run(folder / f"several-{steps}.h5", steps=steps) for steps in (2, 4)]
    plot_runs(runs, folder / "several.png")
    (figure,) = figures
    over_steps, over_time = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "seconds"]
    assert legend(over_time) == ["several-2", "several-4"]
    for path, line, timed in zip(runs, over_steps.get_lines(), over_time.get_lines(), strict=True):
        archive = Archive.open(path)
        assert archive.exact is None
        np.testing.assert_array_equal(line.get_xdata(), archive.history["step"])
        np.testing.assert_array_equal(timed.get_xdata(), archive.history["seconds"].cumsum())
    lowest = min(Archive.open(path).history["energy"].min() for path in runs)
    np.testing.assert_allclose(line.get_ydata(), Archive.open(runs[1]).history["energy"] - lowest)
    assert over_steps.get_ylabel() == "energy above the lowest (J)"

    for path in runs:
        with Archive.open(path, "a") as archive:
            archive.write_exact(GROUND)
            archive.flush()
    plot_runs(runs, folder / "several.png")
    line = figures[1].axes[0].get_lines()[1]
    np.testing.assert_allclose(line.get_ydata(), abs(Archive.open(runs[1]).history["energy"] / GROUND.energy - 1))
    assert figures[1].axes[0].get_ylabel() == "relative error |E - E₀| / |E₀|"
