"""Marshall's sign rule."""

# Shapes: B configurations, L sites.
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64, UInt8
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

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        on_a = torch.tensor(self.sublattice, device=n.device)
        return math.pi * ((n.long() * on_a).sum(1) % 2).double()
