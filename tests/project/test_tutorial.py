"""The tutorial notebook runs, finds what it shows, and its results look well in a notebook."""

import ast
import contextlib
import io
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from places import DOCS

from nqs.estimators.estimate import EnergyEstimate
from nqs.exact import ExactGroundState
from nqs.runtime.notebook import html_table
from nqs.vmc import Result

from readme import assert_same_output

NOTEBOOK = DOCS / "tutorial.ipynb"
ESTIMATE = EnergyEstimate(energy=-2.5, error=0.0012, variance=0.01, v_score=2e-4, n_samples=10**6, n_distinct=321)


class Kernel:
    """Runs cells one after the other, as Jupyter does: what is printed, and the value of the last expression."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}

    def run(self, source: str) -> tuple[str, Any]:
        tree = ast.parse(source)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, str(NOTEBOOK), "exec"), self.names)
            value = None
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), self.names)
        return printed.getvalue(), value


@pytest.mark.usefixtures("unchecked")
def test_notebook_runs_and_finds_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    notebook = json.loads(NOTEBOOK.read_text())
    kernel, outputs = Kernel(), []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            printed, value = kernel.run("".join(cell["source"]))
            outputs.append((cell["outputs"], printed, value))
    for shown, printed, value in outputs:
        text = "".join(line for output in shown if output["output_type"] == "stream" for line in output["text"])
        assert_same_output(printed, text)
        results = [output["data"] for output in shown if output["output_type"] == "execute_result"]
        assert len(results) == (value is not None)
        for data in results:
            assert ("text/html" in data) == hasattr(value, "_repr_html_")
            if "text/html" in data:
                assert_same_output(lines_of_table(value._repr_html_()), lines_of_table("".join(data["text/html"])))
            else:
                assert_same_output(repr(value), "".join(data["text/plain"]))
    plt = kernel.names["plt"]
    images = [output for shown, *_ in outputs for output in shown if "image/png" in output.get("data", {})]
    assert len(images) == len(plt.get_fignums()) == 2
    plt.close("all")
    result = outputs[[type(value) for *_, value in outputs].index(Result)][2]
    assert abs(result.relative_error) < 1e-10


@pytest.mark.usefixtures("unchecked")
def test_notebook_of_nitrogen_runs_and_finds_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyscf")
    monkeypatch.chdir(tmp_path)
    kernel, cells = Kernel(), json.loads((DOCS / "nitrogen.ipynb").read_text())["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            printed, value = kernel.run("".join(cell["source"]))
            shown = "".join(line for output in cell["outputs"] for line in output["text"])
            assert value is None
            assert_same_output(printed, shown)


def lines_of_table(page: str) -> str:
    """The cells of an HTML table, one a line."""
    return "\n".join(Cells(page).cells)


# ------------------------------------------------------------------------------------------------------- results


def result(**options: Any) -> Result:
    return Result(estimate=ESTIMATE, n_sites=4, unit="J", history={"energy": np.zeros(9)}, seconds=12.3, **options)


def test_repr_of_a_result_is_one_line() -> None:
    assert repr(result()) == "<Result E = -2.5000(12) J, variance 1.0e-02, 321 distinct configurations>"
    assert repr(result(exact=-2.6, steps_left=1200)) == (
        "<Result E = -2.5000(12) J, variance 1.0e-02, 321 distinct configurations, relative error 3.8e-02, "
        "1,200 steps left>"
    )


def test_repr_of_an_exact_ground_state_leaves_the_vector_out() -> None:
    assert repr(exact(np.zeros(10**6))) == (
        "ExactGroundState(energy=-2.6, gap=0.5, dimension=1000000, method='Lanczos', seconds=1.5, multiplicity=1)"
    )


def exact(state: np.ndarray) -> ExactGroundState:
    return ExactGroundState(energy=-2.6, gap=0.5, state=state, dimension=len(state), method="Lanczos", seconds=1.5)


class Cells(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.cells.append(data)


@pytest.mark.parametrize(
    ("shown", "cells"),
    [
        (lambda: result(), ["E = -2.5000(12) J", "E / site", "-0.62500(30) J", "variance", "1.00e-02 J²", "V-score"]),
        (
            lambda: result(exact=-2.6, archive=Path("a<b>.h5"), steps_left=7),
            ["exact", "-2.60000000 J: relative error 3.8e-02 (+1.00e-01 = +83.3 error bars)", "archive", "a<b>.h5",
             "steps left", "7: resume to go on"],
        ),
        (lambda: exact(np.zeros(1234)), ["exact E = -2.6000000000", "gap", "0.500000", "dimension", "1,234", "method"]),
    ],
)  # fmt: skip
def test_html_of_results(shown: Callable[[], Any], cells: list[str]) -> None:
    page = Cells(shown()._repr_html_())
    start = page.cells.index(cells[0])
    assert page.cells[start : start + len(cells)] == cells
    assert page.tags == {"table", "caption", "b", "tbody", "tr", "th", "td"}


def test_html_tables_escape_what_they_hold() -> None:
    page = Cells(html_table("<script>", [("<i>", "a & <b>")]))
    assert page.cells == ["<script>", "<i>", "a & <b>"]
    assert not page.tags & {"script", "i"}
