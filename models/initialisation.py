"""Initial parameters of a transformer."""

import torch
from torch import nn

from nqs.hilbert import HilbertSpace


@torch.no_grad()
def initialise(network: nn.Module, hilbert: HilbertSpace, seed: int, *, phases: float, logits: float = 1.0) -> None:
    """Weights normal with variance 1 / inputs, biases 0, norms 1; logits small, phases of the given size.

    A phase head of exactly zero is a stationary point of every real Hamiltonian and would never learn; a small one
    leaves it so slowly that wrong signs freeze in.

    Args:
        network: with a layer `head`, whose rows are logits, as many as local states, then phases if there are any.
        phases: typical size of the phase that a site adds, about.
        logits: factor on the initial logits.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 2:
            scale = 0.1 if name.startswith("head") else 0.5 if name in ("token.weight", "site.weight") else 1.0
            inputs = 1 if name in ("token.weight", "site.weight") else parameter.shape[1]
            inputs = hilbert.n_sites if name.endswith("mixing.weight") else inputs
            parameter.normal_(0.0, scale / inputs**0.5, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    head = network.get_parameter("head.weight")
    head[hilbert.local_dim :] *= 10.0 * phases
    head[: hilbert.local_dim] *= logits
