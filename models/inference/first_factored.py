"""Factored attention of the first block from lookup tables.

The first block reads embeddings, of a site and of the local state before it, and its heads are sums over earlier
sites with fixed weights. Embedding plus attention is therefore linear in the one-hot occupations of the prefix: one
product of a 0/1 matrix, the only storage of a growing prefix, with a table.
"""

# Shapes: B configurations, S sites so far, T last of them, L all sites, d local states, D width, H heads, E = D / H.
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nqs.models.factored_attention import FactoredAttention
from nqs.models.normalisation import LayerNorm


class FirstFactored(NamedTuple):
    """Tables of all sites; at the first site the rows of all local states are equal."""

    outputs: Float[Tensor, "L L*d D"]  # at a site, from each one up to it and the local state before that
    present: Float[Tensor, "d d"]  # 1 where two local states agree, else 0

    @classmethod
    def of(cls, embedded: Float[Tensor, "L d D"], norm: LayerNorm, attention: FactoredAttention) -> "FirstFactored":
        L, d, D = embedded.shape
        A = attention.mixing.matrices()  # (H, L, L)
        values = attention.values(norm(embedded)).view(L * d, len(A), -1).transpose(0, 1)  # (H, L d, E)
        weight = attention.out.weight.mT.reshape(len(A), -1, D)  # (H, E, D)
        of_values = (values @ weight).view(len(A), L, d * D)  # of each head and value alone
        outputs = torch.einsum("hij,hjx->ijx", A, of_values).reshape(L, L, d, D)
        outputs.diagonal().add_((embedded + attention.out.bias).permute(1, 2, 0))  # the site itself
        present = torch.eye(d, dtype=embedded.dtype, device=embedded.device)
        return cls(outputs=outputs.reshape(L, L * d, D), present=present)

    def after_prefix(self, rows: Int64[Tensor, "B S"], T: int) -> Float[Tensor, "B T D"]:
        """Residual stream plus attention for the last T of S sites."""
        B, S = rows.shape
        d, D = len(self.present), self.outputs.shape[2]
        held = self.outputs.new_zeros((B, S * d)).scatter_(1, rows, 1.0)
        table = self.outputs[S - T : S, : S * d].transpose(0, 1).reshape(S * d, T * D)
        return (held @ table).view(B, T, D)

    def at(self, site: int) -> "FirstFactoredAt":
        """Tables for a step at a site."""
        return FirstFactoredAt(self.outputs[site, : (site + 1) * len(self.present)], self.present)


class FirstFactoredAt(NamedTuple):
    """Tables of one site and the S - 1 sites before it."""

    outputs: Float[Tensor, "S*d D"]
    present: Float[Tensor, "d d"]

    def step(self, previous: Int64[Tensor, " B"], storage: Float[Tensor, "1 B 1 L d"]) -> Float[Tensor, "B D"]:
        """Residual stream plus attention of the new site.

        Args:
            previous: local state before the site, 0 at the first one. It is written to the storage, which holds 1 for
                the local state before a site and 0 for the others.
        """
        d, columns = len(self.present), len(self.outputs)
        held = storage[0, :, 0].flatten(1)[:, :columns]  # (B, S d)
        held[:, columns - d :] = self.present.index_select(0, previous)
        return held @ self.outputs
