"""A Hamiltonian written as a sum of products of local operators."""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property

from jaxtyping import Num, UInt8
from torch import Tensor

from nqs.hamiltonians.operator_elements import OperatorElements
from nqs.hamiltonians.operators import Operator
from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected


@dataclass(frozen=True)
class LocalHamiltonian:
    """An `Operator` on a sector, with the contract of every family: VMC, exact diagonalisation, archives.

    Args:
        hilbert: the sector, with the species that the operator is about.
        operator: see nqs.hamiltonians.operators.
        lattice: of the sites, if they are on one, for symmetries and momenta. Its bonds play no role for the elements.
        unit: of the energies.
        name: used in print.

    Raises:
        ValueError: a site or a species that the space does not have, a term that changes a conserved charge, or a
            lattice with another number of sites.

    >>> from nqs import exact
    >>> from nqs.hamiltonians.operators import exchange
    >>> from nqs.hilbert import spins
    >>> ring = sum(exchange(i, (i + 1) % 4) for i in range(4))
    >>> print(f"{exact.ground_state(LocalHamiltonian(spins(4, total_sz=0), ring)).energy:.6f}")
    -2.000000
    """

    hilbert: HilbertSpace
    operator: Operator
    _: KW_ONLY
    lattice: Lattice | None = None
    unit: str = "J"
    name: str = ""

    def __post_init__(self) -> None:
        if self.lattice is not None and self.lattice.n_sites != self.hilbert.n_sites:
            raise ValueError(f"the lattice {self.lattice} has another number of sites than the space: {self.hilbert}.")
        found = self._elements.leaving()
        if found is not None:
            term, charge = found
            raise ValueError(
                f"the term {Operator((term,))} changes {charge.name!r}, which the sector fixes: {self.hilbert}. Leave "
                "that charge open (None), or leave the term out."
            )

    @cached_property
    def _elements(self) -> OperatorElements:
        return self.operator.on(self.hilbert)

    @property
    def max_connected(self) -> int:
        """Number of different off-diagonal terms."""
        return self._elements.max_connected

    @property
    def is_stoquastic(self) -> bool:
        """No term has a positive or complex off-diagonal element; False where the terms one by one do not prove it."""
        return self._elements.is_stoquastic

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        """<n|H|n>; rounding of its imaginary part is left out."""
        values = self._elements.diagonal(n)
        return values.real.clone() if self._elements.is_hermitian else values

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """All n' != n with <n|H|n'> != 0, none twice.

        Raises:
            ValueError: a term leaves the sector.
        """
        found = self._elements.connected(n)
        outside = (~self.hilbert.contains(found.configurations)).nonzero()[:, 0]
        if len(outside):
            k = int(outside[0])
            raise ValueError(
                f"{self} leaves the sector: it leads from {n[found.parents[k]].tolist()} to "
                f"{found.configurations[k].tolist()} with the element {found.elements[k].item():g}; the sector is "
                f"{self.hilbert}. Leave out that term, or project it on the sector."
            )
        return found

    def __str__(self) -> str:
        return f"{self.name or self.operator}, {self.hilbert}"

    __repr__ = __str__
