"""Projection of a state on the symmetry sector of a group, <n|P_chi|psi> = 1/G sum_g c_g(n)^* psi(g n)."""

# Shapes: B configurations, G group elements, L sites.
from collections.abc import Callable

import torch
from jaxtyping import Num, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.symmetry.group import Symmetry


def projection_terms(
    amplitude: Callable[[Tensor], Tensor], symmetry: Symmetry, hilbert: HilbertSpace, n: UInt8[Tensor, "B L"]
) -> Num[Tensor, "B G"]:
    """c_g(n)^* psi(g n) for every element, whose mean is <n|P_chi|psi>; real if amplitudes and characters are.

    Args:
        amplitude: psi of configurations (B, L), float64 or complex128.
    """
    G = symmetry.order
    amplitudes = amplitude(symmetry.images(n).flatten(0, 1)).view(len(n), G)
    element = torch.arange(G, device=n.device).repeat(len(n))
    phases = symmetry.phases(n.repeat_interleave(G, dim=0), element, hilbert).view(len(n), G)
    if symmetry.has_real_characters:
        return amplitudes * torch.cos(phases)
    return amplitudes * torch.polar(torch.ones_like(phases), -phases)
