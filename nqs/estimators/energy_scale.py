"""The scale of energy of a Hamiltonian, in which everything with the dimension of an energy is measured.

Rates and times of steps are in its inverse, thresholds of energies in the scale itself, so that a run for a H + b, with
numbers a > 0 and b, is the run for H in another unit. It is the root mean square of the off-diagonal elements that are
not zero, which is proportional to a, independent of b, and does not grow with the system: the size of one hop, exchange
or flip,

    t for fermions that hop with t, |h| for an Ising model in the transverse field h,
    J S for Heisenberg exchange J of spins S = 1/2 and 1,
    1.7 J to 2 J for bosons at one per site, whose hops J are enhanced by sqrt(n_i (n_j + 1)),
    a mean of both for models with several couplings (t-J, J1-J2).
"""

import math

import torch
from torch import Tensor

from nqs.protocols import Hamiltonian

WHOLE = 2**10  # dimension up to which all configurations are used
ROWS = 32  # random configurations in larger sectors
BITS = 20  # of the result: rounding errors, which differ between machines, do not change a stored configuration
NEGLIGIBLE = 1e-12  # off-diagonal elements below this fraction of the spread of the diagonal are rounding errors
SMALLEST, LARGEST = 1e-100, 1e100  # variances, squares of energies, are then far from the ends of double precision


def energy_scale(hamiltonian: Hamiltonian) -> float:
    """Root mean square of the off-diagonal elements <n|H|n'> != 0, in the Hamiltonian's unit, to six digits.

    Without off-diagonal elements: standard deviation of the diagonal over the root of the number of sites; 1 for a
    multiple of the identity. Large sectors are probed at random configurations, always the same ones.

    Raises:
        ValueError: energies so small or large that their squares leave the range of double precision.

    >>> from nqs.hamiltonians import FermiHubbard
    >>> from nqs.lattice import chain
    >>> energy_scale(FermiHubbard(chain(6), n_up=3, n_down=3, t=0.5, U=4.0))
    0.5
    """
    hilbert = hamiltonian.hilbert
    if hilbert.dimension <= WHOLE:
        n = hilbert.configurations()
    else:
        n = hilbert.random(ROWS, torch.Generator().manual_seed(0))
    diagonal = hamiltonian.diagonal(n).double()
    spread = _root_mean_square(diagonal - diagonal.mean()) / math.sqrt(hilbert.n_sites)
    if spread <= NEGLIGIBLE * diagonal.abs().max().item():
        spread = 0.0  # rounding errors of a constant
    elements = hamiltonian.connected(n).elements.abs().double()
    scale = _root_mean_square(elements[elements > NEGLIGIBLE * spread]) or spread or 1.0
    if not SMALLEST <= scale <= LARGEST:
        raise ValueError(
            f"the energies of {type(hamiltonian).__name__} are of the order {scale:.0e}: state its couplings in a unit "
            f"in which they lie between {SMALLEST:g} and {LARGEST:g}."
        )
    mantissa, exponent = math.frexp(scale)
    return math.ldexp(round(mantissa * 2**BITS), exponent - BITS)


def _root_mean_square(x: Tensor) -> float:
    """0 without elements. Squares of multiples of the largest one neither vanish nor overflow."""
    largest = x.abs().max().item() if len(x) else 0.0
    return largest * (x / largest).square().mean().sqrt().item() if largest else 0.0
