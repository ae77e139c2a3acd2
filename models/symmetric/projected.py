r"""A wavefunction projected on a symmetry sector: the sum of its images with their signs, for states with nodes.

    Psi(n) = sum_g c_g(n)^* psi(g n),    so that  Psi(g n) = c_g(n) Psi(n),

with c_g as in nqs.symmetry. Where the sector is that of the ground state, the projection removes all components of
other sectors, and with them their energy. An amplitude costs as many evaluations of the base as the group has elements;
optimisation steps may project on fewer (`trained`), and leave the others to the evaluation.

Projected variational states: Mizusaki and Imada, Phys. Rev. B 69, 125110 (2004); of neural networks: Nomura, J. Phys.:
Condens. Matter 33, 174003 (2021), arXiv:2009.14777. The result is not normalised and is sampled by Markov chains; for
positive states see nqs.models.symmetric.average.
"""

# Shapes: B configurations, G group elements, L sites.
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.models.finite_log import finite_log
from nqs.protocols import LogPsi, Wavefunction, WavefunctionConfig
from nqs.symmetry.group import Symmetry


@dataclass(frozen=True, kw_only=True)
class Projected:
    """A model in a symmetry sector: `Projected(base=DeterminantConfig(...), symmetry=...)`.

    Attributes:
        base: what is projected.
        symmetry: the group, and its character; `fermions=True` for fermions.
        trained: numbers of the elements, the identity (0) first, on which optimisation steps project: a subgroup. None
            for all.

    Raises:
        ValueError: those elements are no subgroup.
    """

    base: WavefunctionConfig
    symmetry: Symmetry
    trained: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _ = self.steps_over  # raises

    @cached_property
    def steps_over(self) -> Symmetry:
        """The group on whose sector optimisation steps project."""
        return self.symmetry.trained(self.trained)

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "ProjectedWavefunction":
        return ProjectedWavefunction(self, self.base.build(hilbert, device))


class ProjectedWavefunction(Wavefunction):
    """Projection of a wavefunction: on the sector of the configuration, or on that of a subgroup.

    Raises:
        ValueError: the symmetry is of another space, or the base has a symmetry already.
    """

    config: Projected
    normalised = False

    def __init__(self, config: Projected, base: Wavefunction, group: Symmetry | None = None) -> None:
        super().__init__()
        config.symmetry.check(base.hilbert)
        if base.symmetry is not None:
            raise ValueError(f"{type(base).__name__} has a symmetry already: project a model without one.")
        self.config, self.base, self.hilbert = config, base, base.hilbert
        self.group = config.symmetry if group is None else group
        self.n_images = self.group.order * base.n_images
        self.rowwise_layers, self.gradient_dtype = base.rowwise_layers, base.gradient_dtype
        self.capturable = base.capturable and not self.group.fermions  # signs of fermions go by chunks of free memory
        real = base.is_real or not base.has_phase
        self.is_real = real and self.group.has_real_characters
        self.has_phase = base.has_phase or not self.group.is_trivial

    def for_steps(self) -> Wavefunction:
        """The projection on the sector of `config.trained`, with the same parameters; the base for the identity."""
        if self.config.steps_over.order == 1:
            return self.base
        return ProjectedWavefunction(self.config, self.base, self.config.steps_over)

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        return self._summed(n, self.base.log_psi(self._images(n)))

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        return self._summed(n, self.base(self._images(n)))

    def _images(self, n: UInt8[Tensor, "B L"]) -> UInt8[Tensor, "BG L"]:
        return self.group.images(n).flatten(0, 1)

    def _summed(self, n: UInt8[Tensor, "B L"], images: LogPsi) -> LogPsi:
        shape = len(n), self.group.order
        log_modulus, phase = images.log_modulus.view(shape), images.phase.view(shape)
        element = torch.arange(self.group.order, device=n.device).repeat(len(n))
        turned = self.group.phases(n.repeat_interleave(self.group.order, 0), element, self.hilbert)
        phase = phase - turned.view(shape)
        largest = log_modulus.detach().amax(1, keepdim=True).clamp(min=-1e300)  # psi may vanish on all images
        modulus = (log_modulus - largest).exp()
        real, imaginary = (modulus * phase.cos()).sum(1), (modulus * phase.sin()).sum(1)
        if self.is_real:
            total, angle = real.abs(), math.pi * (real < 0).double()
        else:
            total, angle = torch.hypot(real, imaginary), torch.atan2(imaginary, real)
        return LogPsi(finite_log(total) + largest[:, 0], angle)

    @property
    def bytes_per_configuration(self) -> int:
        return self.group.order * (self.base.bytes_per_configuration + 64 + 4 * self.hilbert.n_sites)
