"""Phase of the wavefunction: a number for each local state of every site, or one for the whole configuration."""

# Shapes: B configurations, T positions, L sites, D width, d local states.
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from nqs.models.parts.heads import Deembedding
from nqs.models.parts.initial import LOGITS
from nqs.models.parts.sizes import Sizes


@dataclass(frozen=True, kw_only=True)
class TokenPhase:
    """A linear map of the vector of every position; the phases of all tokens are added."""

    def build(self, sizes: Sizes, deembedding: Deembedding) -> nn.Module:
        return TokenPhases(deembedding.linear(sizes, sizes.local_dim))


class TokenPhases(nn.Module):
    """
    Attributes:
        gain: factor on the initial weights, so that phases of whole configurations are of order sqrt(L) at first.
    """

    gain = 1.0

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.head = linear

    def forward(self, x: Float[Tensor, "B T D"], logits: Float[Tensor, "B T d"], first: int) -> Float[Tensor, "B T d"]:
        return self.head(x, first=first)


@dataclass(frozen=True, kw_only=True)
class LastPhase:
    """From the last position alone, which has seen all other sites."""

    def build(self, sizes: Sizes, deembedding: Deembedding) -> nn.Module:
        return LastPhases(deembedding.linear(sizes, sizes.local_dim), sizes.n_sites)


class LastPhases(TokenPhases):
    def __init__(self, linear: nn.Module, n_sites: int) -> None:
        super().__init__(linear)
        self.n_sites, self.gain = n_sites, n_sites**0.5

    def forward(self, x: Float[Tensor, "B T D"], logits: Float[Tensor, "B T d"], first: int) -> Float[Tensor, "B T d"]:
        last = torch.arange(first, first + x.shape[1], device=x.device) == self.n_sites - 1
        return self.head(x, first=first) * last[:, None]


@dataclass(frozen=True, kw_only=True)
class LogitPhase:
    """A linear map of the logits of every position, d x d: no other way from the network to the phase."""

    def build(self, sizes: Sizes, deembedding: Deembedding) -> nn.Module:
        return LogitPhases(sizes.local_dim)


class LogitPhases(nn.Module):
    gain = 1 / LOGITS

    def __init__(self, local_dim: int) -> None:
        super().__init__()
        self.head = nn.Linear(local_dim, local_dim)

    def forward(self, x: Float[Tensor, "B T D"], logits: Float[Tensor, "B T d"], first: int) -> Float[Tensor, "B T d"]:
        return self.head(logits)


@dataclass(frozen=True, kw_only=True)
class SignPhase:
    """pi sigmoid(.) for each token: saturated, it is the sign + or - of a real wavefunction."""

    def build(self, sizes: Sizes, deembedding: Deembedding) -> nn.Module:
        return SignPhases(deembedding.linear(sizes, sizes.local_dim))


class SignPhases(TokenPhases):
    def forward(self, x: Float[Tensor, "B T D"], logits: Float[Tensor, "B T d"], first: int) -> Float[Tensor, "B T d"]:
        return math.pi * self.head(x, first=first).sigmoid()


@dataclass(frozen=True, kw_only=True)
class WholePhase:
    """A separate network over the whole configuration, without causal order: two hidden layers.

    Attributes:
        ratio: hidden width, in units of the width of the other network.
    """

    ratio: int = 1

    def build(self, sizes: Sizes, deembedding: Deembedding) -> nn.Module:
        return WholePhases(sizes, self.ratio * sizes.width)


class WholePhases(nn.Module):
    def __init__(self, sizes: Sizes, hidden: int) -> None:
        super().__init__()
        self.local_dim, self.gain = sizes.local_dim, 2 * sizes.n_sites**0.5
        self.inwards = nn.Linear(sizes.n_sites * sizes.local_dim, hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, n: UInt8[Tensor, "B L"]) -> Float[Tensor, " B"]:
        weight = self.head.weight
        one_hot = n[..., None] == torch.arange(self.local_dim, device=n.device)  # torch's one_hot has no batching rule
        x = one_hot.to(weight.dtype).flatten(1) * self.local_dim**0.5
        x = self.inner(nn.functional.gelu(self.inwards(x)))
        return self.head(nn.functional.gelu(x))[:, 0]

    def of_last_site(self, n: UInt8[Tensor, "B L"]) -> Float[Tensor, "B d"]:
        """For every local state of the last site, whatever it is in n."""
        d = self.local_dim
        completed = n.repeat_interleave(d, 0)
        completed[:, -1] = torch.arange(d, device=n.device, dtype=torch.uint8).repeat(len(n))
        return self(completed).view(len(n), d)
