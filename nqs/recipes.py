"""Default choices from the size of the problem and the device. Measured with scripts/bose_hubbard.py (see README)."""

from typing import Literal

import torch

from nqs.hilbert import HilbertSpace
from nqs.models import TransformerConfig
from nqs.protocols import Sampler
from nqs.samplers import ExhaustiveSampler, TreeSampler

# What a step of a small transformer affords in a fraction of a second: two CPU cores, one GPU.
EXHAUSTIVE_DIMENSION = {"cpu": 1_000, "cuda": 16_000}
DISTINCT = {"cpu": 1_500, "cuda": 8_000}
STEPS = {"cpu": 200, "cuda": 400}
EVALUATION_DISTINCT = {"cpu": 2**14, "cuda": 2**18}


def default_device() -> str:
    """ "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown: choose 'cpu' or 'cuda'.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} was asked for, but PyTorch finds {torch.cuda.device_count()} GPUs here: use 'cpu', or "
            "install a CUDA build of PyTorch and its driver."
        )
    return device


def steps(device: str | None = None) -> int:
    """Optimisation steps of a run: more where they are cheap."""
    return STEPS[torch.device(device or default_device()).type]


def transformer(phase: Literal["learned", "zero"] = "learned", device: str | None = None) -> TransformerConfig:
    """A small network for two CPU cores, a wider one for a GPU."""
    on_gpu = torch.device(device or default_device()).type == "cuda"
    return (
        TransformerConfig(width=32, heads=4, phase=phase)
        if on_gpu
        else TransformerConfig(width=16, heads=2, phase=phase)
    )


def training_sampler(hilbert: HilbertSpace, device: torch.device | str) -> Sampler:
    """Every configuration where the sector is small enough, else a tree with as many distinct ones as pay off."""
    kind = torch.device(device).type
    if hilbert.dimension <= EXHAUSTIVE_DIMENSION[kind]:
        return ExhaustiveSampler()
    return TreeSampler(n_distinct=DISTINCT[kind])


def evaluation_sampler(device: torch.device | str) -> Sampler:
    """Independent samples for the quoted energy: enough to reach many more distinct configurations than a step."""
    return TreeSampler(n_distinct=EVALUATION_DISTINCT[torch.device(device).type])
