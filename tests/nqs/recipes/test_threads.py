"""Threads: one for small steps, as many as asked for, nothing at import, and all as it was after a run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from networks import small_transformer

import nqs
from nqs import recipes
from nqs.hamiltonians import Heisenberg, Ising
from nqs.hilbert import spins
from nqs.lattice import chain
from nqs.models import Symmetrised, Transformer
from nqs.protocols import Sampler
from nqs.recipes.threads import LARGE_JACOBIAN, SMALL_NETWORK, jacobian_entries
from nqs.runtime.threads import usable_cores, usable_threads, using_threads
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.symmetry import translations

SMALL, LARGE = (small_transformer(layers=2).build(spins(L, 0)) for L in (6, 20))
P_SMALL, P_LARGE = (sum(p.numel() for p in model.parameters()) for model in (SMALL, LARGE))


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two threads, in a process whose idle ones sleep."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("sampler", "model", "entries"),
    [
        (ExhaustiveSampler(), SMALL, 20 * P_SMALL),
        (TreeSampler(n_samples=7), SMALL, 7 * P_SMALL),
        (TreeSampler(n_samples=10**6), SMALL, 20 * P_SMALL),
        (TreeSampler(n_distinct=600), LARGE, 600 * P_LARGE),
        (GumbelSampler(n_distinct=300), LARGE, 300 * P_LARGE),
    ],
)
def test_one_thread_for_small_steps(sampler: Sampler, model: Transformer, entries: int) -> None:
    assert jacobian_entries(sampler, model) == entries
    assert recipes.threads(sampler, model) == (1 if entries < LARGE_JACOBIAN else 2)
    assert torch.get_num_threads() == 2  # a choice alone changes nothing


def test_one_thread_for_averages_of_small_networks() -> None:
    h = Ising(chain(20), h=1.0)
    group = translations(chain(20), h.hilbert)
    for width, threads in ((32, 2), (16, 1)):
        base = small_transformer(width=width, layers=2, heads=4, phase="zero")
        assert (sum(p.numel() for p in base.build(h.hilbert).parameters()) < SMALL_NETWORK) == (threads == 1)
        model = Symmetrised(base=base, symmetry=group).build(h.hilbert)
        assert jacobian_entries(TreeSampler(n_distinct=150), model) > LARGE_JACOBIAN
        assert recipes.threads(TreeSampler(n_distinct=150), model) == threads


def test_a_sampler_of_ones_own_keeps_what_torch_has() -> None:
    class Mine:
        def sample(self, wavefunction: object, generator: object) -> None: ...

    assert recipes.threads(Mine(), SMALL) == 2


def test_a_number_is_obeyed_and_checked() -> None:
    with using_threads(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 2
    with pytest.raises(ValueError, match="threads=0: at least one"), using_threads(0):
        pass
    with pytest.raises(ValueError, match="threads=0: at least one"):
        recipes.plan(Heisenberg(chain(4), 0.0), threads=0, device="cpu")
    assert recipes.plan(Heisenberg(chain(4), 0.0), threads=3, device="cpu").threads == 3


def test_where_idle_threads_spin_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_threads() == 2
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert usable_threads() == recipes.threads(TreeSampler(n_distinct=600), LARGE) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # whoever sets it knows
    assert usable_threads() == 2


@pytest.mark.usefixtures("unchecked")
def test_a_run_uses_the_threads_of_its_plan_and_leaves_them_as_they_were() -> None:
    seen = []

    class Look:
        def step(self, row: object) -> None:
            seen.append(torch.get_num_threads())

        def close(self) -> None: ...

    options = {"steps": 2, "device": "cpu", "progress": False, "exact": None, "watch": [Look()]}
    nqs.ground_state(Heisenberg(chain(4), 0.0), **options)
    nqs.ground_state(Heisenberg(chain(4), 0.0), threads=3, **options)
    assert seen == [1, 1, 3, 3]
    assert torch.get_num_threads() == 2


def test_the_command_line_lets_idle_threads_sleep_and_an_import_changes_nothing(tmp_path: Path) -> None:
    """Heeded only where it is set before torch is imported."""
    program = """
import os, sys
os.environ.pop("OMP_WAIT_POLICY", None)
import nqs, nqs.cli
print(os.environ.get("OMP_WAIT_POLICY"), "torch" in sys.modules)
try:
    nqs.cli.main(["show"])
except SystemExit:
    pass
print(os.environ.get("OMP_WAIT_POLICY"))
import torch
del os.environ["OMP_WAIT_POLICY"]
before = torch.get_num_threads()
import nqs.driver
from nqs.runtime.threads import let_idle_threads_sleep
let_idle_threads_sleep()  # too late
print(os.environ.get("OMP_WAIT_POLICY"), torch.get_num_threads() == before)
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["None False", "passive", "None True"], done.stderr


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinities")
def test_a_pinned_process_counts_its_own_cores() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)
