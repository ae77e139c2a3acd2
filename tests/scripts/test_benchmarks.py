"""The benchmark scripts at toy size: a table, ratios, and one JSON line that a program can read."""

import json
import re
import runpy
import sys
from typing import Any

import pytest
from places import SCRIPTS


def call(name: str, *options: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("problem", ["heisenberg", "bose-hubbard", "fermi-hubbard"])
def test_benchmark_against_the_naive_version(
    problem: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    L = "4 6" if problem == "heisenberg" else "4"
    options = f"--problem {problem} --L {L} --samples 50 --model.width 4 --repeats 1 --against naive --naive-samples 7"
    out = call("benchmark.py", *options.split(), "--device", "cpu", capsys=capsys, monkeypatch=monkeypatch)
    report = json.loads(out.splitlines()[-1])
    assert [size["L"] for size in report["sizes"]] == [int(size) for size in L.split()]
    for size in report["sizes"]:
        assert set(size["parts"]) == {"sampler", "local energy", "gradient", "step"}
        assert all(part["seconds"] > 0 and part["copy_fraction"] > 0 for part in size["parts"].values())
        assert size["evaluated"] <= size["connected"]
        assert all(ratio > 0 for ratio in size["naive"].values())
        assert size["peak_memory"] > 0
    assert ("exponent" in report) == (L == "4 6")
    differences = [float(line.split()[-1]) for line in out.splitlines() if line.startswith("largest difference")]
    assert len(differences) == len(report["sizes"])
    assert max(differences) < 1e-10


@pytest.mark.usefixtures("unchecked")
def test_benchmark_at_a_fixed_number_of_distinct_configurations(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = "--L 8 --distinct 33 --model.width 4 --repeats 1 --parts sampler step --device cpu --profile"
    options += " --breakdown --rounding"
    out = call("benchmark.py", *options.split(), capsys=capsys, monkeypatch=monkeypatch)
    report = json.loads(out.splitlines()[-1])
    size = report["sizes"][0]
    assert size["distinct"] == 33
    assert size["parts"]["step"]["operations"].keys() == {"float64"}
    share = size["parts"]["step"]["operations"]["float64"] / report["limits"]["float64"]
    assert size["parts"]["step"]["matmul_fraction"] == pytest.approx(share / size["parts"]["step"]["seconds"])
    assert size["breakdown"]["kernel"] > 0
    assert min(size["breakdown"]["update ratio"], size["breakdown"]["step ratio"]) > 0
    assert "natural gradient costs" in out
    assert size["rounding"].keys() == {"float32", "tf32"}
    assert 0 < max(size["rounding"]["float32"]) < 0.5
    assert "%  aten::" in out
    assert set(size["parts"]) == {"sampler", "step"}


@pytest.mark.usefixtures("unchecked")
def test_parts_of_a_step_of_a_molecule(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    options = "--lattice-size 6 --step --distinct 30 --minutes 0.1"
    out = call("benchmark_molecule.py", *options.split(), "--device", "cpu", capsys=capsys, monkeypatch=monkeypatch)
    report = json.loads(out.splitlines()[-1])
    parts = report["parts"]
    assert {"draw", "update: Jacobian", "update: kernel", "update: solve"} < parts.keys()
    assert {f"local energies: {part}" for part in ("elements", "look-up", "distinct", "evaluations")} < parts.keys()
    assert min(parts.values()) > 0
    assert 0 < report["evaluations"] < sum(seconds for part, seconds in parts.items() if part.startswith("local"))
    assert 0 < report["evaluated"] < report["connected"]
    assert abs(report["distinct"] - 30) < 15  # three standard deviations: draws vary about the wanted number


def test_start_benchmark_names_unknown_cases(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark_start.py", "--cases", "first-leap"])
    with pytest.raises(SystemExit, match=r"^2$"):
        runpy.run_path(str(SCRIPTS / "benchmark_start.py"), run_name="__main__")
    assert re.search(r"first-leap.*choose among first-step", capsys.readouterr().err)
