"""Draws that are replayed from a CUDA graph, beside the same draws computed."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from nqs.models import Transformer


def check_replays(
    model: Transformer,
    replayed: Callable[[Transformer, int, torch.Generator], Iterable[Any]],
    computed: Callable[[int, torch.Generator], Iterable[Any]],
    numbers: Iterable[int],
) -> None:
    """Equal bit for bit for so many samples, each time with other parameters, and the same random numbers afterwards.

    Args:
        computed: by the model.
    """
    device = next(model.parameters()).device
    one, other = (torch.Generator(device).manual_seed(5) for _ in range(2))
    for n_samples in numbers:
        with torch.no_grad():
            wanted = computed(n_samples, one)
            for part, reference in zip(replayed(model, n_samples, other), wanted, strict=True):
                assert torch.equal(part, reference)
            for parameter in model.parameters():  # moved, and at another address
                parameter.data = parameter * 1.1
        assert torch.equal(*(torch.rand(3, generator=generator, device=device) for generator in (one, other)))
