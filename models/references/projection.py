"""Mean-field determinants projected on a symmetry sector, and the sector that a reference phase obeys.

A reference phase that obeys the symmetry names its one-dimensional irreducible representation (its symmetry sector). A
mean-field determinant need not: unrestricted Hartree-Fock breaks translations and spin symmetry to gain energy. Its
projections on the symmetry sectors,

    P_chi |D> = 1/G sum_g chi(g)^* g |D>,

restore them, and their phases are a better reference than those of |D>. Ring and Schuck, The Nuclear Many-Body Problem,
chapter 11. Which sector has the lowest energy: nqs.exact.projection.
"""

# Shapes: B configurations, G group elements, L sites.
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Num, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.models.references.determinant import SlaterDeterminant
from nqs.protocols import ReferencePhase
from nqs.runtime.memory import max_chunk_rows
from nqs.symmetry.group import Symmetry
from nqs.symmetry.projection import projection_terms

PROBES = 64  # random configurations on which the phases of a reference are compared
VANISHING = 1e-10  # modulus of an amplitude below which it is rounding error


@dataclass(frozen=True, kw_only=True)
class ProjectedDeterminant:
    """Phase of <n|P_chi|D>, 0 where that vanishes: a reference phase.

    Attributes:
        determinant: |D>.
        symmetry: the group with its character chi.
        hilbert: the sector of the particle numbers.
    """

    determinant: SlaterDeterminant
    symmetry: Symmetry
    hilbert: HilbertSpace

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        total = self._sum(n)
        return torch.where(total.abs() > VANISHING, torch.angle(total), 0.0)

    def amplitude(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        """<n|P_chi|D>."""
        return self._sum(n) / self.symmetry.order

    def _sum(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        rows = max_chunk_rows(16 * self.symmetry.order * (self.hilbert.n_sites + 2) ** 2, n.device)
        return torch.cat([self.terms(part).sum(1) for part in n.split(rows)])

    def terms(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, "B G"]:
        """c_g(n)^* <g n|D> for every element; their mean is <n|P_chi|D>."""
        return projection_terms(self.determinant.amplitude, self.symmetry, self.hilbert, n)


def sector_of(reference: ReferencePhase, symmetry: Symmetry, hilbert: HilbertSpace) -> Symmetry:
    """The subgroup that changes a reference phase by a constant, with that constant as its character."""
    n = hilbert.random(PROBES, torch.Generator().manual_seed(0))
    images = symmetry.images(n)
    phase = reference.phase(images.flatten(0, 1)).view(PROBES, symmetry.order) - reference.phase(n)[:, None]
    element = torch.arange(symmetry.order).repeat(PROBES)
    signs = symmetry.with_angles([0.0] * symmetry.order).phases(
        n.repeat_interleave(symmetry.order, 0), element, hilbert
    )
    character = torch.polar(torch.ones_like(phase), phase - signs.view_as(phase))  # chi(g), if it is one
    constant = ((character - character[:1]).abs() < 1e-6).all(0)
    angles = (torch.angle(character[0]) / math.tau * 720).round() / 720 % 1.0
    angles = torch.where(constant, angles, 0.0)
    kept = symmetry.subgroup(constant.tolist())
    return kept.with_angles(angles[constant].tolist())
