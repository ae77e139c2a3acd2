"""Marshall's sign rule."""

# Shapes: B configurations, L sites.
import math
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class MarshallSign:
    """(-1)^(sum of S + m over sublattice A), exact for antiferromagnets whose bonds all join A and B.

    Marshall, Proc. R. Soc. A 232, 48 (1955); for any spin and bipartite lattice Lieb and Mattis, J. Math. Phys. 3, 749
    (1962). Local state k of a spin is S + m.

    Attributes:
        sublattice: 1 for each site of A, 0 for B: `tuple(lattice.sublattices().tolist())`.
    """

    sublattice: tuple[int, ...]
    capturable: ClassVar[bool] = True

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        on_a = _on_device(self.sublattice, n.device)
        return math.pi * ((n.long() * on_a).sum(1) % 2).double()


@cache  # without a limit: CUDA graphs read these
def _on_device(sublattice: tuple[int, ...], device: torch.device) -> Int64[Tensor, " L"]:
    """Copied once: at each copy the host would wait until a GPU has done all that it was asked for before."""
    return torch.tensor(sublattice, dtype=torch.int64, device=device)
