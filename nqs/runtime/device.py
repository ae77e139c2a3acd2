"""The device of a run."""

import torch


def default_device() -> str:
    """ "cuda" if there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: an unknown device, or one that this machine lacks.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown: choose 'cpu' or 'cuda'.") from None
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r} cannot run nqs, which needs float64: choose 'cpu' or 'cuda'.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} was asked for, but PyTorch finds {torch.cuda.device_count()} GPUs here: use 'cpu', or "
            "install a CUDA build of PyTorch and its driver."
        )
    return device
