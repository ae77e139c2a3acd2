"""Initial parameters of composed networks."""

import torch
from torch import nn

from nqs.models.factored_attention import Mixing
from nqs.models.parts.heads import SiteLinear

LOGITS = 0.1  # initial size


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Weights normal with variance 1 / inputs, embeddings 1/2, biases 0, norms 1; global random numbers are not used.

    Heads are scaled by the model: logits small, phases of order 1 (nqs.models.initialisation says why).
    """
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                parameter.zero_()
            elif isinstance(module, nn.LayerNorm):
                parameter.fill_(1.0)
            else:
                deviation = 0.5
                if isinstance(module, nn.Linear | SiteLinear):
                    deviation = parameter.shape[-1] ** -0.5
                elif isinstance(module, Mixing):
                    deviation = len(module.classes) ** -0.5
                parameter.normal_(0.0, deviation, generator=generator)
