"""A bound of the GPU memory of a run."""

import gc

import pytest
import torch

import nqs
from nqs.hamiltonians import Heisenberg
from nqs.lattice import chain
from nqs.runtime.memory import free_memory, using_gpu_memory

GIB = 2**30


@pytest.mark.parametrize(
    ("gib", "text"),
    [
        (-1.0, "gpu_memory=-1: give a positive number of GiB"),
        (float("nan"), "gpu_memory=nan: give a positive number of GiB"),
        (2.0, "gpu_memory=2 bounds the memory of a GPU, but the run is on a CPU"),
    ],
)
def test_impossible_bounds_are_refused_before_any_work(gib: float, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        nqs.ground_state(Heisenberg(chain(4), total_sz=0), device="cpu", gpu_memory=gib)
    plan = nqs.recipes.plan(Heisenberg(chain(4), total_sz=0), device="cpu")
    with pytest.raises(ValueError, match=text):
        nqs.driver.carry_out(plan, gpu_memory=gib)


@pytest.mark.parametrize("gpu", [torch.device("cuda", 0), torch.device("cuda")], ids=["numbered", "present"])
def test_free_memory_is_what_the_bound_leaves(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    # What needs a driver is replaced; torch's own functions check the devices that they are given.
    fractions = {0: 1.0}
    for name, value in {
        "mem_get_info": lambda device: (60 * GIB, 100 * GIB),
        "memory_allocated": lambda device: 4 * GIB,
        "memory_reserved": lambda device: 6 * GIB,
        "current_device": lambda: 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", fractions.__getitem__, raising=False)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda fraction, index: fractions.update({index: fraction}), raising=False
    )
    assert free_memory(gpu) == 62 * GIB
    with using_gpu_memory(10.0, gpu):
        assert free_memory(gpu) == 6 * GIB  # 4 of the 10 are allocated
        with using_gpu_memory(50.0, gpu):  # an inner bound is not larger
            assert free_memory(gpu) == 6 * GIB
        with using_gpu_memory(3.0, gpu):
            assert free_memory(gpu) == 0
    assert free_memory(gpu) == 62 * GIB


@pytest.mark.gpu
def test_a_run_stays_within_its_bound() -> None:
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    result = nqs.ground_state(
        Heisenberg(chain(40), total_sz=0), device="cuda", sampled=True, minutes=0.25, gpu_memory=4.0
    )
    assert torch.cuda.max_memory_reserved() <= 4 * GIB
    assert result.estimate.energy < 0
    with using_gpu_memory(4.0, "cuda"), pytest.raises(torch.OutOfMemoryError):
        torch.empty(5 * GIB, dtype=torch.uint8, device="cuda")
    assert torch.empty(5 * GIB, dtype=torch.uint8, device="cuda").numel() == 5 * GIB
