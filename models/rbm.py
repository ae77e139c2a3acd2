r"""Restricted Boltzmann machine,

    log psi(n) = sum_i a_i[n_i] + sum_j log cosh(b_j + sum_i W_ji[n_i]),

with one weight for every local state of a site, and complex weights where phases are learned.

Carleo and Troyer, Science 355, 602 (2017), arXiv:1606.02318.
"""

# Shapes: B configurations, L sites, d local states, M hidden units.
import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.options import check_fields


@dataclass(frozen=True, kw_only=True)
class RBMConfig:
    """Size and seed.

    Sizes have no defaults, and no recipe has this network: `nqs.ground_state` chooses another one, and its sizes
    (`nqs.recipes.NetworkOptions`).

    Attributes:
        density: hidden units per site.
        phase: "learned" for complex weights, "zero" for real ones and a positive wavefunction.
        initial: typical size of the initial weights.
        seed: of the initial parameters.

    Raises:
        TypeError: the density, or the size of the initial weights, is missing.
        ValueError: a value that is not allowed.
    """

    density: int
    phase: Literal["learned", "zero"] = "learned"
    initial: float
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, positive=("initial",), at_least={"density": 1})  # zero weights are never learned

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "RBM":
        return RBM(hilbert, self, device=device)


class RBM(Wavefunction):
    """Restricted Boltzmann machine over the local states of any sector."""

    config: RBMConfig
    normalised = False
    rowwise_layers = True
    capturable = True

    def __init__(self, hilbert: HilbertSpace, config: RBMConfig, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config
        self.has_phase = config.phase == "learned"
        inputs, hidden = hilbert.n_sites * hilbert.local_dim, config.density * hilbert.n_sites
        parts = ("real", "imaginary") if self.has_phase else ("real",)
        generator = torch.Generator().manual_seed(config.seed)
        with torch.random.fork_rng(devices=[]), float32_by_default(), torch.no_grad():
            self.visible = nn.ModuleDict(
                {part: nn.Linear(inputs, 1, bias=False, dtype=torch.float64) for part in parts}
            )
            self.hidden = nn.ModuleDict({part: nn.Linear(inputs, hidden, dtype=torch.float64) for part in parts})
            for parameter in self.parameters():
                parameter.normal_(0.0, config.initial, generator=generator)
        self.to(device)

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        dtype = next(self.parameters()).dtype
        states = torch.arange(self.hilbert.local_dim, device=n.device)
        one_hot = (n[:, :, None] == states).flatten(1).to(dtype)  # (B, L d)
        log_modulus = self.visible["real"](one_hot)[:, 0]
        x = self.hidden["real"](one_hot)
        if self.has_phase:
            of_hidden = log_cosh(x, self.hidden["imaginary"](one_hot))
            log_modulus = log_modulus + of_hidden.log_modulus
            phase = self.visible["imaginary"](one_hot)[:, 0] + of_hidden.phase
        else:
            log_modulus = log_modulus + log_cosh(x).log_modulus
            phase = torch.zeros_like(log_modulus)
        inside = self.hilbert.contains(n)
        return LogPsi(log_modulus.double().masked_fill(~inside, -math.inf), phase.double())

    @property
    def bytes_per_configuration(self) -> int:
        L, d = self.hilbert.n_sites, self.hilbert.local_dim
        return 8 * L * (2 * d + 8 * self.config.density)


def log_cosh(x: Float64[Tensor, "B M"], y: Float64[Tensor, "B M"] | None = None) -> LogPsi:
    """sum_j log cosh(x_j + i y_j), without overflow."""
    modulus = x.abs() + nn.functional.softplus(-2 * x.abs()) - math.log(2)
    if y is None:
        return LogPsi(modulus.sum(1), torch.zeros_like(modulus[:, 0]))
    # |cosh(x + i y)|^2 = cosh^2 x (cos^2 y + tanh^2 x sin^2 y)
    tangent = torch.tanh(x) * torch.sin(y)
    modulus = modulus + (torch.cos(y).square() + tangent.square()).log() / 2
    return LogPsi(modulus.sum(1), torch.atan2(tangent, torch.cos(y)).sum(1))
