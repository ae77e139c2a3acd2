"""Expectation values of diagonal observables from samples."""

import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.samples import Samples


def local_state_probabilities(samples: Samples, hilbert: HilbertSpace) -> Float64[Tensor, "L d"]:
    """Probability of every local state on every site."""
    L, d = hilbert.n_sites, hilbert.local_dim
    index = samples.configurations.long() + d * torch.arange(L, device=samples.weights.device)  # (U, L)
    weights = samples.weights[:, None].expand(-1, L)
    return torch.bincount(index.flatten(), weights.flatten(), minlength=L * d).view(L, d)
