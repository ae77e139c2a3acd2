"""scripts/scaling.py at toy size: measurement of a rank, table, figure, and the balance of groups that are dealt."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from nqs.hilbert import spins
from nqs.models import Transformer
from nqs.runtime.distributed import Communicator
from nqs.samplers import TreeSampler
from nqs.scripts import scaling


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return {"row": "toy", "gpus": 1} | scaling.measured(scaling.PROBLEMS["toy"], "cpu", 0.0)


def test_parts_of_a_step(one: dict[str, Any]) -> None:
    parts = [one[part] for part in ("sampling", "local energy", "kernel", "solve")]
    assert min(parts) > 0
    assert sum(parts) <= one["step"]
    assert 400 < one["distinct"] < 600
    assert one["communication"] < 0.1 * one["step"]  # there are no other ranks


def test_parts_of_a_step_with_chains() -> None:
    found = scaling.measured(scaling.PROBLEMS["toy-chains"], "cpu", 0.0)
    assert min(found[part] for part in ("sampling", "local energy", "kernel", "solve")) > 0
    assert 100 < found["distinct"] <= 200


@pytest.mark.gpu
def test_chains_with_and_without_a_graph() -> None:
    # The fastest of all steps within two seconds, which other work on the GPU disturbs least.
    with_graph, without = (scaling.measured(scaling.PROBLEMS[row], "cuda", 2.0) for row in ("chains", "chains-eager"))
    assert with_graph["sampling"] < without["sampling"]


def test_table_and_figure(
    one: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    drawn_figures: None,
) -> None:
    def run(config: Any, gpus: int, rows: tuple[str, ...]) -> Iterator[dict[str, Any]]:
        for row in rows:
            distinct = one["distinct"] * (gpus if "weak" in row else 1)
            faster = 1.0 if "weak" in row else 0.5
            yield one | {"row": row, "gpus": gpus, "distinct": distinct, "step": one["step"] * faster ** (gpus > 1)}

    monkeypatch.setattr(scaling, "run", run)
    rows = ("toy", "toy-weak")
    scaling.main(scaling.Config(rows=rows, gpus=(1, 2), device="cpu", figure=tmp_path / "scaling.png"))
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith("toy")]
    assert [("2.00" in line, "100%" in line) for line in lines] == [(False, True)] * 2 + [(True, True)] * 2
    assert (tmp_path / "scaling.png").stat().st_size > 10_000
    report = json.loads(out.splitlines()[-1])
    assert len(report["measured"]) == 4
    assert report["balance"]["1"]["balance"]["512"] == 1


def test_unknown_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="--rows ring: choose from heisenberg"):
        scaling.Config(rows=("ring",))


def test_widths_are_those_of_the_tree() -> None:
    """Against distinct prefixes counted one by one."""
    model = Transformer(spins(10), width=8, heads=2, seed=0)
    samples = TreeSampler(n_distinct=200).build(model).sample(torch.Generator().manual_seed(0))
    n = samples.configurations
    of_groups, leaves, dealt_at = scaling.widths(n, 16)
    prefixes = [len({tuple(row[: site + 1]) for row in n.tolist()}) for site in range(10)]
    assert of_groups.sum(0).tolist() == prefixes
    assert len(leaves) == prefixes[dealt_at] >= 16 > prefixes[dealt_at - 1]
    assert int(leaves.sum()) == len(n)
    assert scaling.balance(of_groups, leaves, dealt_at, 1) == 1
    assert 0.3 < scaling.balance(of_groups, leaves, dealt_at, 2) < 1
    assert scaling.balance(of_groups, leaves, dealt_at, 1000) < 0.01


def test_repeated_evaluations_are_those_of_the_shares() -> None:
    """Against sets of configurations, rank by rank."""
    hamiltonian, psi, _ = scaling.toy("cpu")
    samples = TreeSampler(n_distinct=100).build(psi).sample(torch.Generator().manual_seed(0))
    n = samples.configurations
    known = {tuple(row) for row in n.tolist()}

    def evaluated(part: torch.Tensor) -> int:
        return len({tuple(row) for row in hamiltonian.connected(part).configurations.tolist()} - known)

    once, found = scaling.repeats(hamiltonian, psi, samples, (1, 3))
    assert once == evaluated(n)
    assert found[1] == (0, 1, 1)
    shares = [n[Communicator(rank, 3).share(len(n))] for rank in range(3)]
    assert found[3].added == pytest.approx(sum(map(evaluated, shares)) / once - 1)
    assert found[3].added > 0
    assert 1 < found[3].cost < found[3].cost_dealt  # prefixes are shared by neighbours


def test_cost_is_the_number_of_distinct_prefixes() -> None:
    n = torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [1, 0, 0, 0]], dtype=torch.uint8)
    prefixes = {tuple(row[:length]) for row in n.tolist() for length in range(1, 5)}
    assert scaling.cost(n) == pytest.approx(scaling.SITE_COST * len(prefixes))
    assert scaling.cost(n[[0, 3]]) == 8  # nothing is shared


def test_table_of_repeated_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    scaling.main(scaling.Config(rows=("toy",), repeats=(50, 100), steps=1, device="cpu"))
    *_, first, second, report = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["toy", "1", "50"]
    assert second.split()[:3] == ["toy", "1", "100"]
    assert [set(row["ranks"]) for row in json.loads(report)] == [{"2", "4", "8"}] * 2
