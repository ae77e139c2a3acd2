"""Default choices: what is chosen depends on the size of the sector and on the device."""

import pytest
import torch

from nqs import VMC, recipes
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.samplers import ExhaustiveSampler, TreeSampler

devices = pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cpu"), torch.device("cuda", 0)], ids=str)


def spaces_of(limit: int) -> tuple[HilbertSpace, HilbertSpace]:
    """One boson on as many sites as wished: the largest sector within the limit, and the next one."""
    return bosons(limit, 1), bosons(limit + 1, 1)


@devices
def test_small_sectors_are_enumerated_and_large_ones_sampled(device: str | torch.device) -> None:
    kind = torch.device(device).type
    small, large = spaces_of(recipes.EXHAUSTIVE_DIMENSION[kind]) if kind == "cpu" else (bosons(8, 8), bosons(10, 10))
    assert recipes.training_sampler(small, device) == ExhaustiveSampler()
    assert recipes.training_sampler(large, device) == TreeSampler(n_distinct=recipes.DISTINCT[kind])


@devices
def test_evaluation_draws_independent_samples_with_more_distinct_ones(device: str | torch.device) -> None:
    kind = torch.device(device).type
    evaluation = recipes.evaluation_sampler(device)
    assert isinstance(evaluation, TreeSampler)
    assert evaluation.n_distinct is not None
    assert evaluation.n_distinct > 4 * max(recipes.DISTINCT[kind], recipes.EXHAUSTIVE_DIMENSION[kind])


def test_a_gpu_gets_more_work_than_a_cpu() -> None:
    for numbers in (recipes.EXHAUSTIVE_DIMENSION, recipes.DISTINCT, recipes.EVALUATION_DISTINCT):
        assert set(numbers) == {"cpu", "cuda"}
        assert numbers["cuda"] > numbers["cpu"]
    assert recipes.transformer(device="cuda").width > recipes.transformer(device="cpu").width


@pytest.mark.parametrize("phase", ["learned", "zero"])
@pytest.mark.parametrize("device", ["cpu", "cuda", None])
def test_network_has_the_phase_that_was_asked_for(phase: str, device: str | None) -> None:
    assert recipes.transformer(phase=phase, device=device).phase == phase


def test_vmc_takes_the_recipes() -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    vmc = VMC(h, Transformer(h.hilbert, width=4, layers=1, heads=1))
    assert vmc.sampler == recipes.training_sampler(h.hilbert, "cpu")
    assert vmc.evaluation == recipes.evaluation_sampler("cpu")


def test_default_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert recipes.default_device() == expected
        assert recipes.transformer() == recipes.transformer(device=expected)


@pytest.mark.parametrize(
    ("name", "n_gpus", "message"),
    [
        ("cpu", 0, None),
        ("cuda", 1, None),
        ("cuda:1", 2, None),
        ("cuda", 0, "device 'cuda' was asked for, but PyTorch finds 0 GPUs here: use 'cpu'"),
        ("cuda:1", 1, "device 'cuda:1' was asked for, but PyTorch finds 1 GPUs here"),
        ("gpu", 1, "device 'gpu' is unknown: choose 'cpu' or 'cuda'"),
        ("", 1, "device '' is unknown"),
    ],
)
def test_devices_are_checked_by_name(
    name: str, n_gpus: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    if message is None:
        assert recipes.checked_device(name) == torch.device(name)
    else:
        with pytest.raises(ValueError, match=message):
            recipes.checked_device(name)
