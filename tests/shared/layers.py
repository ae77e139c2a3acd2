"""A wavefunction whose layers are used in every way that per-configuration gradients must know."""

import torch
from torch import nn

from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction


class Layers(Wavefunction):
    """Layers used in every way: twice, with tied weights, without a bias, not at all, frozen."""

    has_phase = True
    rowwise_layers = True

    def __init__(self, hilbert: HilbertSpace, extra: nn.Module | None = None) -> None:
        super().__init__()
        self.hilbert = hilbert
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding(hilbert.local_dim, 3)
        self.twice = nn.Linear(3, 3)
        self.tied = nn.Linear(3, 3, bias=False)
        self.tied.weight = self.twice.weight
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Linear(3, 3)
        self.norm = nn.LayerNorm(3)
        self.extra = extra or nn.Identity()
        self.double()
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)
        self.frozen.requires_grad_(False)

    def log_psi(self, n: torch.Tensor) -> LogPsi:
        x = self.embedding(n.long())
        x = self.twice(x).tanh() + self.twice(x[:, 0])[:, None].sin()
        x = self.norm(self.extra(self.frozen(self.tied(x).tanh())))
        return LogPsi(x.square().sum((1, 2)), x[..., 0].exp().sum(1))

    @property
    def bytes_per_configuration(self) -> int:
        return 100 * self.hilbert.n_sites
