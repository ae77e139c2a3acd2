"""Problems on which variants are trained."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.lattice.lattice import Lattice
from nqs.protocols import Hamiltonian, ReferencePhase
from nqs.recipes.known_signs import signs


@dataclass(frozen=True)
class Problem:
    """
    Attributes:
        lattice: sites row by row.
        hamiltonian: of the lattice, whose sites may be numbered in another order.
        energy: exact ground-state energy; None: not known.
        shape: rows and columns.
    """

    lattice: Lattice
    hamiltonian: Callable[[Lattice], Any]
    energy: float | None
    shape: tuple[int, int]


def ising_ring(n_sites: int, h: float) -> float:
    """Exact energy of H = -sum Z Z - h sum X on an even ring: free fermions. Pfeuty, Ann. Phys. 57, 79 (1970)."""
    momenta = (math.pi * (2 * k + 1) / n_sites for k in range(n_sites))
    return -sum(math.sqrt(1 + h * h - 2 * h * math.cos(k)) for k in momenta)


# Hubbard 3x4: exact diagonalisation of all 627,264 configurations, `nqs.exact`. Bosons on 4x4 sites (300,540,195
# configurations): of 2,419,731 orbits of 128 symmetries. Heisenberg 6x6: -0.6788721 per site, Schulz, Ziman, Poilblanc,
# J. Phys. I 6, 675 (1996); 8x8: -0.673487(4), quantum Monte Carlo, Sandvik, Phys. Rev. B 56, 11678 (1997).
PROBLEMS: dict[str, Problem] = {
    "bose-hubbard-4x4": Problem(square(4, 4), lambda lattice: BoseHubbard(lattice, 16, U=8.0), -26.8251673549, (4, 4)),
    "hubbard-3x4": Problem(
        square(3, 4), lambda lattice: FermiHubbard(lattice, 5, 5, U=8.0), -10.76537911051295, (3, 4)
    ),
    "heisenberg-6x6": Problem(square(6, 6), lambda lattice: Heisenberg(lattice, total_sz=0), 36 * -0.6788721, (6, 6)),
    "heisenberg-8x8": Problem(square(8, 8), lambda lattice: Heisenberg(lattice, total_sz=0), 64 * -0.673487, (8, 8)),
    "ising-32": Problem(chain(32), lambda lattice: Ising(lattice, h=0.8), ising_ring(32, 0.8), (1, 32)),
    "ising-16-ordered": Problem(chain(16), lambda lattice: Ising(lattice, h=0.5), ising_ring(16, 0.5), (1, 16)),
    "bose-hubbard-3x4": Problem(square(3, 4), lambda lattice: BoseHubbard(lattice, 12, U=8.0), None, (3, 4)),
    # Small ones, for tests and for the measurements without training.
    "bose-hubbard-6": Problem(chain(6), lambda lattice: BoseHubbard(lattice, 6, U=4.0), -5.6901934005844454, (1, 6)),
    "heisenberg-8": Problem(chain(8), lambda lattice: Heisenberg(lattice, total_sz=0), -3.6510934089371756, (1, 8)),
    "hubbard-2x2": Problem(
        square(2, 2), lambda lattice: FermiHubbard(lattice, 2, 1, U=4.0), -2.7521579565770296, (2, 2)
    ),
}


# Where the size may matter; measured if named.
ON_REQUEST = frozenset({"heisenberg-8x8"})


def known_signs(hamiltonian: Hamiltonian) -> tuple[str, ReferencePhase | None]:
    """Whether a phase is "learned" or "zero", and the reference, as nqs.recipes finds them."""
    found = signs(hamiltonian, "auto", None, unit="")
    return found.phase, found.reference
