"""Transformer over whole configurations in which every site attends to all others, by position (no causal order).

Its rows of one site depend on all local states: features for orbitals with backflow (nqs.models.determinant) or for
the amplitude of spins (nqs.models.vision). Attention weights by displacement: nqs.models.factored_attention.
"""

# Shapes: B configurations, T tokens (sites, or patches of sites), D width.
from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nqs.models.block import Block
from nqs.models.factored_attention import FactoredAttention
from nqs.models.normalisation import LayerNorm


class Encoder(nn.Module):
    """Features of every token of a configuration.

    Args:
        n_states: number of states of one token.
        n_tokens: tokens of a configuration.
        classes: class of every pair of tokens, as in nqs.models.factored_attention; pairs of a class share weights.
        places: tokens know their place; without, features follow translations of the configuration where the classes
            are displacements.
    """

    def __init__(
        self,
        n_states: int,
        n_tokens: int,
        *,
        width: int,
        layers: int,
        heads: int,
        mlp_ratio: int,
        classes: Sequence[Sequence[int]] | None,
        places: bool = True,
    ) -> None:
        super().__init__()
        self.width, self.hidden = width, mlp_ratio * width
        self.token = nn.Embedding(n_states, width)
        self.place = nn.Embedding(n_tokens, width) if places else None
        attention = (FactoredAttention(width, heads, n_tokens, classes, causal=False) for _ in range(layers))
        blocks = nn.ModuleList(Block(width, self.hidden, one) for one in attention)
        self.blocks = cast(list[Block[FactoredAttention]], blocks)
        self.norm = LayerNorm(width)

    def forward(self, tokens: Int64[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        x = self.token(tokens)
        if self.place is not None:
            # Places expanded per configuration: per-configuration gradients need the input rows of each.
            x = x + self.place(torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Weights normal with variance 1 / inputs, embeddings of size 1/2, biases 0, norms 1."""
        for name, parameter in self.named_parameters():
            if name in ("token.weight", "place.weight"):
                parameter.normal_(0.0, 0.5, generator=generator)
            elif name.endswith("mixing.weight"):
                mixing = self.get_submodule(name.removesuffix(".weight"))
                parameter.normal_(0.0, len(cast(Tensor, mixing.classes)) ** -0.5, generator=generator)
            elif parameter.ndim == 2:
                parameter.normal_(0.0, parameter.shape[1] ** -0.5, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)

    def bytes_per_configuration(self, n_tokens: int) -> int:
        """Memory of one forward pass: per token the residual, its normed copy and the hidden layer twice."""
        return n_tokens * (4 * self.width + 2 * self.hidden) * self.token.weight.element_size()
