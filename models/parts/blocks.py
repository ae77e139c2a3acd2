"""The backbone: residual blocks, each a mixer of positions and a feed-forward part."""

# Shapes: B configurations, T positions from the first one, D width.
from jaxtyping import Float
from torch import Tensor, nn

from nqs.models.normalisation import LayerNorm
from nqs.models.parts.attention import Attention, ByPosition, RotaryAttention
from nqs.models.parts.linear_recurrence import LinearRecurrence
from nqs.models.parts.masked_mlp import MaskedMLP
from nqs.models.parts.recurrent import Recurrence
from nqs.models.parts.retention import Retention
from nqs.models.parts.sizes import Sizes

MixerPart = Attention | RotaryAttention | ByPosition | Retention | LinearRecurrence | Recurrence | MaskedMLP


class MixerBlock(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)); a causal mixer sees a position and those before it."""

    def __init__(self, mixer: MixerPart, sizes: Sizes, mlp_ratio: int) -> None:
        super().__init__()
        D = sizes.width
        self.norm1, self.mixer, self.norm2 = LayerNorm(D), mixer.build(sizes), LayerNorm(D)
        self.mlp = nn.Sequential(nn.Linear(D, mlp_ratio * D), nn.GELU(approximate="tanh"), nn.Linear(mlp_ratio * D, D))

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        x = x + self.mixer(self.norm1(x))
        return x + self.mlp(self.norm2(x))
