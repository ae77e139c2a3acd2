"""Hamiltonians of nqs as operators of NetKet, the reverse of `NetKetOperator.from_netket`."""

import functools
from typing import Any

import numpy as np
import torch

from nqs.hamiltonians.bose_hubbard import BoseHubbard
from nqs.hamiltonians.couplings import values
from nqs.hamiltonians.fermi_hubbard import FermiHubbard
from nqs.hamiltonians.heisenberg import Heisenberg
from nqs.hamiltonians.ising import Ising
from nqs.hamiltonians.jordan_wigner import lattice_hops
from nqs.hamiltonians.netket.terms import basis_of, from_digits, hilbert_of, sector_constraint, to_digits
from nqs.hamiltonians.tv import TV
from nqs.hilbert import HilbertSpace
from nqs.protocols import Hamiltonian

Product = tuple[list[tuple[int, int]], complex]  # of (orbital, 1 for c+, 0 for c), with its weight


def to_netket(hamiltonian: Hamiltonian) -> Any:
    """The same operator in NetKet, on the space of NetKet with the same sector.

    BoseHubbard, Heisenberg and Ising on equal sites become a LocalOperator, TV and FermiHubbard a FermionOperator2nd;
    each is built from the couplings and bonds of the family, not from its matrix elements. Every other Hamiltonian,
    including user-defined ones, becomes an operator of NetKet that calls its `diagonal` and `connected` (torch on the
    CPU, not jitted).

    Local states as for `NetKetOperator`: spins are 2 S^z, occupation numbers themselves; electrons are on
    orbital i of the down block or i of the up block. The matrix elements are those of the Hamiltonian. Sectors that
    NetKet does not have, such as that of the t-J model, one spin with a free number, a parity, a blockade, or sites
    with different local states, become a constraint.
    """
    import netket as nk

    space = _space(hamiltonian.hilbert)
    if isinstance(hamiltonian, TV | FermiHubbard):
        terms, weights = zip(*_fermion_products(hamiltonian), strict=True)
        return nk.operator.FermionOperator2nd(space, terms, weights)
    if isinstance(hamiltonian, BoseHubbard | Heisenberg | Ising) and not hamiltonian.hilbert.states_differ:
        matrices = _local_matrices(hamiltonian)
        if isinstance(space, nk.hilbert.Spin):  # its matrices count from spin up
            matrices = [(sites, matrix[::-1, ::-1]) for sites, matrix in matrices]
        return nk.operator.LocalOperator(space, [m for _, m in matrices], [sites for sites, _ in matrices])
    return _elements_operator()(space, hamiltonian)


def _space(hilbert: HilbertSpace) -> Any:
    """The space of NetKet whose sector this is."""
    import netket as nk

    L, d = hilbert.n_sites, hilbert.local_dim
    numbers = {species.twice_sz: hilbert.number_of(species) for species in hilbert.species}  # of fermions by spin
    kinds = {species.kind for species in hilbert.species}
    fixed = [charge.target for charge in hilbert.charges if charge.target is not None]
    total = fixed[0] if len(fixed) == 1 else None
    space: Any = None
    if kinds == {"spin"}:
        space = nk.hilbert.Spin((d - 1) / 2, L, total_sz=None if total is None else total / 2)
    elif kinds == {"boson"}:
        space = nk.hilbert.Fock(d - 1, L, n_particles=total)
    elif kinds == {"fermion"} and d == 2:
        space = nk.hilbert.SpinOrbitalFermions(L, n_fermions=total)
    elif kinds == {"fermion"} and d == 4:
        down, up = (numbers.get(twice_sz) for twice_sz in ((0, 0, -1, -1), (0, 1, 0, 1)))
        if down is not None and up is not None:
            space = nk.hilbert.SpinOrbitalFermions(L, s=1 / 2, n_fermions_per_spin=(down, up))
        else:
            space = nk.hilbert.SpinOrbitalFermions(L, s=1 / 2, n_fermions=total)
    elif not fixed and d == 2:
        space = nk.hilbert.Qubit(L)
    if space is None or hilbert_of(space) != hilbert:
        constraint = sector_constraint()(hilbert)
        if kinds == {"fermion"} and d <= 4:  # the bits of a local state: occupied by up, by down
            return nk.hilbert.SpinOrbitalFermions(L, s=None if d == 2 else 1 / 2, constraint=constraint)
        return nk.hilbert.Fock(d - 1, L, constraint=constraint)
    return space


def _local_matrices(hamiltonian: BoseHubbard | Heisenberg | Ising) -> list[tuple[list[int], np.ndarray]]:
    """Sites and bonds of a family with their matrices, local states in the order of nqs."""
    lattice, d = hamiltonian.lattice, hamiltonian.hilbert.local_dim
    L, bonds = lattice.n_sites, lattice.bonds().tolist()
    matrices: list[tuple[list[int], np.ndarray]] = []
    if isinstance(hamiltonian, BoseHubbard):
        b, number = np.diag(np.sqrt(np.arange(1.0, d)), 1), np.diag(np.arange(float(d)))
        numbers = _numbers(len(bonds), hamiltonian.J, hamiltonian.V, hamiltonian.phases)
        for bond, sign, (J, V, theta) in zip(bonds, lattice.signs().tolist(), numbers, strict=True):
            hop = -J * sign * (np.exp(1j * theta) if theta else 1.0) * np.kron(b, b.T)
            matrices.append((bond, hop + hop.conj().T + V * np.kron(number, number)))
        for i, (U, mu, energy) in enumerate(_numbers(L, hamiltonian.U, hamiltonian.mu, hamiltonian.potential)):
            matrices.append(([i], U / 2 * number @ (number - np.eye(d)) + (energy - mu) * number))
    elif isinstance(hamiltonian, Heisenberg):
        sz = np.diag(np.arange(d) - (d - 1) / 2)
        raising = np.diag(np.sqrt([(n + 1) * (d - 1 - n) for n in range(d - 1)]), -1)
        exchange = np.kron(raising, raising.T) / 2
        for i, j, J, J_z in zip(*(part.tolist() for part in hamiltonian.bond_couplings), strict=True):
            matrices.append(([i, j], J * (exchange + exchange.T) + J_z * np.kron(sz, sz)))
        matrices += [([i], -h * sz) for i, (h,) in enumerate(_numbers(L, hamiltonian.h))]
    else:
        x, z = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([-1.0, 1.0])
        for bond, sign, (J,) in zip(bonds, lattice.signs().tolist(), _numbers(len(bonds), hamiltonian.J), strict=True):
            matrices.append((bond, -J * sign * np.kron(z, z)))
        matrices += [([i], -h * x - g * z) for i, (h, g) in enumerate(_numbers(L, hamiltonian.h, hamiltonian.g))]
    return matrices


def _fermion_products(hamiltonian: FermiHubbard | TV) -> list[Product]:
    """A family as weighted products of (orbital, 1 for c+, 0 for c), orbitals in the order of NetKet."""
    lattice, L = hamiltonian.lattice, hamiltonian.lattice.n_sites
    t: tuple[Any, ...] = (hamiltonian.t,)
    blocks = {0: 0.0}  # first orbital of each spin, and the sign of its Zeeman energy
    U: Any = 0.0
    h: Any = 0.0
    if isinstance(hamiltonian, FermiHubbard):
        t, U, h = (hamiltonian.t, hamiltonian.t2), hamiltonian.U, hamiltonian.h
        blocks = {0: 0.5, L: -0.5}
    products: list[Product] = []
    for i, j, amplitude in zip(*(part.tolist() for part in lattice_hops(lattice, t, hamiltonian.twist)), strict=True):
        products += [([(i + block, 1), (j + block, 0)], amplitude) for block in blocks]
    bonds = lattice.bonds().tolist()
    for (i, j), (V,) in zip(bonds, _numbers(len(bonds), hamiltonian.V), strict=True):
        products += [(_number(i + a) + _number(j + b), V) for a in blocks for b in blocks]
    for i, (energy, mu, u, field) in enumerate(_numbers(L, hamiltonian.potential, hamiltonian.mu, U, h)):
        products += [(_number(i + block), energy - mu + sign * field) for block, sign in blocks.items()]
        if len(blocks) == 2:
            products.append((_number(i) + _number(i + L), u))
    return products


def _numbers(n: int, *couplings: Any) -> list[tuple[float, ...]]:
    """The numbers of n bonds or sites; 0 for None."""
    lists = [values(0.0 if coupling is None else coupling, n).tolist() for coupling in couplings]
    return list(zip(*lists, strict=True))


def _number(orbital: int) -> list[tuple[int, int]]:
    return [(orbital, 1), (orbital, 0)]


@functools.cache
def _elements_operator() -> type:
    """A class of NetKet operators whose elements come from a Hamiltonian of nqs."""
    import netket as nk

    class ElementsOperator(nk.operator.DiscreteOperator):
        """A Hamiltonian of nqs with the interface of NetKet's discrete operators."""

        def __init__(self, space: Any, hamiltonian: Hamiltonian) -> None:
            super().__init__(space)
            self.hamiltonian = hamiltonian
            self._basis = basis_of(self)
            self._dtype = hamiltonian.connected(hamiltonian.hilbert.configurations(0, 1)).elements.numpy().dtype

        @property
        def dtype(self) -> Any:
            return self._dtype

        @property
        def is_hermitian(self) -> bool:
            return True

        def get_conn_flattened(self, x: Any, sections: np.ndarray, pad: bool = False) -> tuple[np.ndarray, np.ndarray]:
            """<x|H|x'>: the diagonal first, then the others; with `pad` equally many for each x, elements 0 added."""
            basis, x = self._basis, np.asarray(x)
            n = from_digits(torch.from_numpy(np.searchsorted(basis.values, x).astype(np.uint8)), basis.modes)
            n_prime, elements, parents = self.hamiltonian.connected(n)
            counts = 1 + np.bincount(parents.numpy(), minlength=len(x))
            order = np.argsort(parents.numpy(), kind="stable")
            width = np.full_like(counts, counts.max(initial=1)) if pad else counts
            ends = np.cumsum(width)
            start = ends - width
            within = np.arange(len(order)) - np.repeat(np.cumsum(counts - 1) - counts + 1, counts - 1)
            where = np.repeat(start + 1, counts - 1) + within
            connected, mels = np.repeat(x, width, axis=0), np.zeros(ends[-1] if len(x) else 0, dtype=self._dtype)
            connected[where] = basis.values[to_digits(n_prime, basis.modes).numpy()[order]]
            mels[start], mels[where] = self.hamiltonian.diagonal(n).numpy(), elements.numpy()[order]
            sections[:] = ends
            return connected, mels

        def __repr__(self) -> str:
            return f"{type(self).__name__}({self.hamiltonian})"

    return ElementsOperator
