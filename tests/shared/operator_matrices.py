"""Operators on spaces as dense matrices."""

import numpy as np

from nqs.hamiltonians import Operator
from nqs.hilbert import HilbertSpace


def elements(operator: Operator, bra: HilbertSpace, ket: HilbertSpace | None = None) -> np.ndarray:
    """<n|O|n'>, rows in the space of the bra and columns in that of the ket."""
    ket = bra if ket is None else ket
    found, n = operator.on(bra, ket), bra.configurations()
    k, values, parents = found.connected(n)
    inside = ket.contains(k)
    dense = np.zeros((len(n), ket.dimension), dtype=complex)
    np.add.at(dense, (parents[inside].numpy(), ket.rank(k[inside]).numpy()), values[inside].numpy())
    if found.square:
        dense += np.diag(found.diagonal(n).numpy())
    return dense
