r"""Network that is equivariant under a symmetry group, made of group convolutions: for frustrated spins.

    psi(n) = s(n) sum_{g k} c_g^* exp(f_{g k}(n)),    f_{g k}(h n) = f_{g h, k}(n),

with the phase s of a reference, and c_g the character of psi over that of s, so that psi(h n) = chi(h) psi(n) for every
element h of the group and any parameters. Features of the group elements are made from those of the sites:

    x_g = a(sum_s w_s . sigma((g n)_s)),             a lift from sites to group elements,
    x_g <- x_g + sum_k W_k gelu(x_{k g}) + b,        residual group convolutions,
    f_g = U x_g,                                     real and imaginary part each with a row of U.

sigma is -1 or +1 for two local states, else a unit vector. Where the reversal of two local states is an element with
c = 1 the lift is even, a(z) = z tanh(z) without a bias, and convolutions go over the other elements alone.

Group convolutions: Cohen and Welling, ICML 2016, arXiv:1602.07576; as quantum states, with this sum of exponentials:
Roth and MacDonald, arXiv:2104.05085; residual ones, and phases on top of Marshall's rule: Roth, Szabo and MacDonald,
Phys. Rev. B 108, 054410 (2023), arXiv:2211.07749. The state is not normalised and is sampled by Markov chains.
"""

# Shapes: B configurations, L sites, d local states, J local features of all sites, G group elements, D width.
import math
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.finite_log import finite_log
from nqs.models.group_layers import GroupConvolution, Lift, in_cosets
from nqs.models.references.projection import sector_of
from nqs.protocols import LogPsi, ReferencePhase, Wavefunction
from nqs.runtime.defaults import float32_by_default
from nqs.runtime.options import check_fields
from nqs.symmetry.group import Symmetry

CANCELLED = 64.0  # relative rounding errors within which a sum of exponentials may be zero


@dataclass(frozen=True, kw_only=True)
class GroupConvolutionalConfig:
    """Symmetry, size, precision and seed.

    Sizes have no defaults: `nqs.ground_state` chooses them for each problem, and `nqs.recipes.NetworkOptions` changes
    single ones.

    Attributes:
        symmetry: the group, and the character chi of psi.
        width: features of a group element, D.
        layers: number of group convolutions.
        exponentials: number of exponentials of a group element.
        phase: "learned" for complex f, "zero" for real f.
        initial_phases: standard deviation of the imaginary part of the initial f, relative to that of the real part.
        reference: fixed phase of every configuration, such as `MarshallSign`, which changes by a constant under every
            element of the group.
        dtype: precision of the network. "mixed" is float64 for samples and energies and float32 for the natural
            gradient.
        seed: of the initial parameters.

    Raises:
        TypeError: a size is missing.
        ValueError: a value that is not allowed.
    """

    symmetry: Symmetry
    width: int
    layers: int
    exponentials: int = 1
    phase: Literal["learned", "zero"] = "learned"
    initial_phases: float = 1.0
    reference: ReferencePhase | None = None
    dtype: Literal["float64", "float32", "mixed"] = "float64"
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = dict.fromkeys(("width", "layers", "exponentials"), 1)
        check_fields(self, positive=("initial_phases",), at_least=sizes)

    @property
    def summary(self) -> str:
        layers = f"{self.layers} layer{'s' * (self.layers > 1)}"
        return f"convolutions over {self.symmetry.order} symmetries, width {self.width}, {layers}, {self.dtype}"

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "GroupConvolutional":
        return GroupConvolutional(hilbert, self, device=device)


class GroupConvolutional(Wavefunction):
    """Group convolutions over the local states of a sector.

    Raises:
        ValueError: the symmetry is of another space, has signs of fermions, or is none of the reference.
    """

    config: GroupConvolutionalConfig
    normalised = False
    rowwise_layers = True
    sigma: Tensor  # (d, features)
    angles: Tensor  # (G, 1), arg c_g in radians

    def __init__(
        self, hilbert: HilbertSpace, config: GroupConvolutionalConfig, *, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        if config.symmetry.fermions:
            raise ValueError("symmetry: its fermions=True, but group convolutions have no signs of reordered fermions.")
        self.hilbert, self.config = hilbert, config
        with torch.device("cpu"):  # numbers are needed also where parameters are on "meta"
            config.symmetry.check(hilbert)
            group, turns = config.symmetry, relative_angles(config.symmetry, config.reference, hilbert)
        two = hilbert.local_dim == 2
        self.even = two and has_even_reversal(group, turns)
        if self.even:
            kept = np.array(group.maps)[:, 0] == 0
            group, turns = group.subgroup(kept), turns[kept]
        order, n_abelian = in_cosets(group)
        permutations, maps = np.array(group.permutations)[order], np.array(group.maps)[order]
        rank = np.argsort(order)
        products = rank[group.products[np.ix_(order, order)]]
        learned = config.phase == "learned"
        self.has_phase = learned or bool(turns.any())
        self.is_real = not learned and self.has_phase and bool(np.isin(turns, (0.0, 0.5)).all())
        sigma = torch.tensor([[-1.0], [1.0]]) if two else torch.eye(hilbert.local_dim)
        self.register_buffer("sigma", sigma, persistent=False)
        self.register_buffer("angles", math.tau * torch.from_numpy(turns[order])[:, None], persistent=False)
        with torch.random.fork_rng(devices=[]), float32_by_default():
            self.lift = Lift(permutations, maps, config.width, bias=not self.even)
            layers = (GroupConvolution(config.width, products, n_abelian) for _ in range(config.layers))
            self.layers = cast(list[GroupConvolution], nn.ModuleList(layers))
            self.out = nn.Linear(config.width, config.exponentials * (2 if learned else 1), bias=False)
        self.to(torch.float64)
        self._initialise(torch.Generator().manual_seed(config.seed))
        self.gradient_dtype = torch.float32 if config.dtype == "mixed" else None
        self.capturable = config.reference is None or getattr(config.reference, "capturable", False)
        self.to(device=device, dtype=torch.float32 if config.dtype == "float32" else torch.float64)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Weights normal with variance 1 / inputs, no biases."""
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
                continue
            inputs = self.hilbert.n_sites if name == "lift.weight" else math.prod(parameter.shape[1:])
            parameter.normal_(0.0, inputs**-0.5, generator=generator)
        self.out.weight[self.config.exponentials :] *= self.config.initial_phases

    # --- amplitudes -------------------------------------------------------------------------------------------------

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_modulus, phase = self(n)
        reference = self.config.reference
        if reference is None:
            return LogPsi(log_modulus, phase)
        return LogPsi(log_modulus, phase + reference.phase(n) if self.has_phase else reference.phase(n))

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """log psi without the parameter-free reference phase."""
        tokens = n.long().clamp(max=self.hilbert.local_dim - 1)
        sigma = self.sigma[tokens].flatten(1).to(self.lift.weight.dtype)
        # As many rows as results: per-configuration gradients go by rows.
        lifted = self.lift(sigma[:, None].expand(-1, len(self.angles), -1))
        x = lifted * torch.tanh(lifted) if self.even else lifted
        for layer in self.layers:
            x = x + layer(nn.functional.gelu(x, approximate="tanh"))
        f, F = self.out(x), self.config.exponentials
        angle = self.angles.to(f.dtype)
        turned = f[..., F:] - angle if f.shape[-1] > F else (-angle).expand(f.shape)
        largest = f[..., :F].detach().amax((1, 2), keepdim=True)
        modulus = (f[..., :F] - largest).exp()
        real: Float64[Tensor, " B"] = (modulus * turned.cos()).sum((1, 2)).double()
        if not self.has_phase:
            total, phase = real, torch.zeros_like(real)
        else:
            imaginary = torch.zeros_like(real) if self.is_real else (modulus * turned.sin()).sum((1, 2)).double()
            # Where all terms cancel, as on configurations that an odd element does not change, only rounding errors are
            # left, which depend on the batch and have no gradient: a bound of them instead.
            least = CANCELLED * torch.finfo(f.dtype).eps * modulus.detach().sum((1, 2)).double()
            cancelled = (real.detach().abs() <= least) & (imaginary.detach().abs() <= least)
            real, imaginary = torch.where(cancelled, least, real), imaginary.masked_fill(cancelled, 0.0)
            if self.is_real:
                total, phase = real.abs(), math.pi * (real < 0).double()
            else:
                total, phase = torch.hypot(real, imaginary), torch.atan2(imaginary, real)
        log_modulus = finite_log(total) + largest[:, 0, 0].double()
        return LogPsi(log_modulus.masked_fill(~self.hilbert.contains(n), -math.inf), phase)

    @property
    def bytes_per_configuration(self) -> int:
        each = 8 * self.config.width + 6 * self.config.exponentials
        return len(self.angles) * each * self.out.weight.element_size()


def relative_angles(symmetry: Symmetry, reference: ReferencePhase | None, hilbert: HilbertSpace) -> np.ndarray:
    """Character of a group over that of a reference phase, as arguments in units of 2 pi, (G,).

    Raises:
        ValueError: an element changes the reference by no constant.
    """
    angles = np.array(symmetry.angles)
    if reference is None:
        return angles
    own = sector_of(reference, symmetry, hilbert)
    if own.order != symmetry.order:
        raise ValueError(
            f"the reference {type(reference).__name__} changes by a constant under {own.order} of the "
            f"{symmetry.order} symmetries: take sector_of(reference, symmetry, hilbert)."
        )
    found: np.ndarray = (angles - np.array(own.angles)).round(9) % 1.0
    return found


def has_even_reversal(group: Symmetry, angles: np.ndarray) -> bool:
    """Whether the exchange of two local states on all sites is an element, with the character 1."""
    in_place = (np.array(group.permutations) == np.arange(group.n_sites)).all(1)
    reversal = in_place & (np.array(group.maps)[:, 0] == 1)
    return bool(reversal.any()) and not angles[reversal].any()
