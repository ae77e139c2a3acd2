"""Signs of fermions in Jordan-Wigner order, |n> = c+_{s_1} c+_{s_2} .. |0> with occupied orbitals s_1 < s_2 < .. .

tests/hamiltonians/test_fermions.py compares the Hamiltonians made with them (nqs.hamiltonians.jordan_wigner) with dense
Jordan-Wigner matrices.
"""

from jaxtyping import Bool, Int64
from torch import Tensor, maximum, minimum


def fermions_between(
    occupied: Bool[Tensor, "B L"], parents: Int64[Tensor, " K"], i: Int64[Tensor, " K"], j: Int64[Tensor, " K"]
) -> Int64[Tensor, " K"]:
    """Number of occupied orbitals strictly between i and j; moving a fermion between them has the sign (-1)^number.

    Args:
        occupied: which orbitals of one species are occupied in each configuration.
        parents: row of `occupied` of each move.
        i, j: the two orbitals, different ones in any order.
    """
    up_to = occupied.cumsum(1)  # (B, L), int64
    return up_to[parents, maximum(i, j) - 1] - up_to[parents, minimum(i, j)]
