r"""NetKet operators decomposed into local matrices, and NetKet spaces as sectors, for `NetKetOperator`.

    kind of operator                               becomes
    LocalOperator, GraphOperator, Heisenberg       its own matrices
    Ising, BoseHubbard                             matrices on sites and edges
    PauliStrings                                   a matrix on the sites that X and Y flip (flips if they are more than
                                                   FLIPS), signs for Z; strings that flip the same sites with the same
                                                   signs become one matrix
    FermionOperator2nd, FermiHubbardJax, the       a matrix on the orbitals that occur in a term, signs on those that
    particle-number conserving operators           its Jordan-Wigner strings pass, in the order of NetKet's orbitals
    sums, products, adjoints, squares of these     sums and products of these
    any other (permutations, user-defined)         one matrix on all sites, up to FALLBACK configurations of the sector

Terms on the same modes are added, so that cancelling elements vanish. On products of different spaces only
LocalOperator and sums of them are supported; continuous operators and superoperators are refused. NetKet is imported
only when a function of this file is called.
"""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from nqs.hamiltonians.local_terms import Digits
from nqs.hilbert import (
    MAX_LOCAL_STATES,
    Charge,
    HilbertSpace,
    Species,
    bosons,
    excluded_pairs,
    fermions,
    product_space,
    spins,
)

FLIPS = 6  # largest number of X and Y of a Pauli string that becomes a matrix
FALLBACK = 4096  # configurations of the sector of an operator of unknown structure
FALLBACK_STATES = 2**24  # configurations of its sites without a sector
HERMITIAN = 1e-10  # difference of equal elements, as a fraction of the largest one

# ---- spaces ------------------------------------------------------------------------------------------------


class Basis(NamedTuple):
    """How NetKet's local states become digits, and digits the local states of a sector.

    Attributes:
        sector: of nqs.
        modes: the modes of NetKet that each site holds.
        values: NetKet's local states by digit, ascending.
        levels: number of digits that occur in the sector; digit `levels` represents every larger one.
        reversed: of each mode, whether NetKet's matrices count its local states from the largest value.
        sizes: number of local states of each mode of a product of different spaces; None where all modes are alike.
    """

    sector: HilbertSpace
    modes: tuple[tuple[int, ...], ...]
    values: np.ndarray
    levels: int
    reversed: tuple[bool, ...]
    sizes: tuple[int, ...] | None = None

    def occurs(self, row: Digits) -> bool:
        """Whether some configuration of the sector can have these digits on some modes; True if that is not known."""
        if max(row, default=0) >= self.levels:
            return False
        if len(self.modes[0]) > 1:
            return True
        others = self.sector.n_sites - len(row)
        for charge in self.sector.charges:
            if charge.target is not None and charge.modulus is None:
                if self.sector.sites_differ:
                    continue  # the sites of the row are not known here
                values = self.sector.table(charge.values)[0].tolist()
                missing = charge.target - sum(values[digit] for digit in row)
                if not others * min(values) <= missing <= others * max(values):
                    return False
        return True


def basis_of(operator: Any, hilbert: Any = None) -> Basis:
    """The sector of an operator: that of its space, or `hilbert`, a space of nqs or of NetKet.

    Raises:
        TypeError: no discrete operator.
        ValueError: a space or a constraint that nqs does not have, or a sector that does not fit the operator.
    """
    import netket as nk

    known = any(kind.__name__ in KINDS for kind in type(operator).__mro__)
    if not (known or isinstance(operator, nk.operator.DiscreteOperator)) or isinstance(
        operator, nk.operator.AbstractSuperOperator
    ):
        raise TypeError(
            f"{type(operator).__name__} is no operator of NetKet on discrete states: continuous operators and "
            "superoperators have no counterpart here."
        )
    space = operator.hilbert
    if isinstance(space, nk.hilbert.TensorHilbert) and isinstance(space, nk.hilbert.DiscreteHilbert):
        return _basis_of_product(operator, hilbert)
    if not isinstance(space, nk.hilbert.HomogeneousHilbert):
        raise ValueError(
            f"the operator acts on {space}: only spaces with the same local states on every site, such as "
            "Spin, Fock, Qubit or SpinOrbitalFermions, and products of these are supported."
        )
    if isinstance(hilbert, HilbertSpace):
        sector = hilbert if hilbert.species else replace(hilbert, species=species_of(space, hilbert.local_dim))
    elif hilbert is None or isinstance(hilbert, nk.hilbert.HomogeneousHilbert):
        sector = hilbert_of(space if hilbert is None else hilbert)
    else:
        raise TypeError(f"hilbert is a {type(hilbert).__name__}: give a HilbertSpace of nqs, or a space of NetKet.")

    components = 1  # modes per site
    if isinstance(space, nk.hilbert.SpinOrbitalFermions) and sector.local_dim > 2:
        components = (sector.local_dim - 1).bit_length()
    sites = space.size // components
    fits = components > 1 or sector.local_dim == space.local_size
    if isinstance(space, nk.hilbert.Fock):  # a sector may have fewer occupation numbers
        fits = sector.local_dim <= space.local_size
    if not fits or sector.n_sites != sites or sites * components != space.size:
        raise ValueError(
            f"the operator acts on {space}, {space.size} degrees of freedom of {space.local_size} states each, which "
            f"does not fit the sector: {sector}."
        )
    if MAX_LOCAL_STATES == sector.local_dim < space.local_size:
        raise ValueError(
            f"{space} has {space.local_size} local states, more than {MAX_LOCAL_STATES}: give a sector with at most "
            f"{MAX_LOCAL_STATES - 1} of them; found {sector}."
        )
    modes = tuple(tuple(block * sites + i for block in reversed(range(components))) for i in range(sites))
    levels = sector.local_dim if components == 1 else 2
    if isinstance(space, nk.hilbert.Fock):  # perhaps without a cutoff
        return Basis(sector, modes, np.arange(min(space.local_size, levels + 1)), levels, (False,) * space.size)
    values = np.array(space.local_states)
    return Basis(sector, modes, np.sort(values)[: levels + 1], levels, (bool(values[0] > values[-1]),) * space.size)


def _basis_of_product(operator: Any, hilbert: Any) -> Basis:
    """The sector of an operator on a product of different spaces."""
    space = operator.hilbert
    if not _is_local(operator):
        raise ValueError(
            f"{type(operator).__name__} acts on the product {space}: on products of different spaces only "
            "LocalOperator and sums of them are supported."
        )
    sector = hilbert if isinstance(hilbert, HilbertSpace) else hilbert_of(space if hilbert is None else hilbert)
    sizes = tuple(int(size) for size in space.shape)
    if sector.local_dims != sizes:
        raise ValueError(f"the operator acts on {space}, whose sites have {sizes} states; the sector is {sector}.")
    states = [space.states_at_index(site) for site in range(space.size)]
    reversed_modes = tuple(bool(values[0] > values[-1]) for values in states)
    modes = tuple((site,) for site in range(space.size))
    return Basis(sector, modes, np.arange(max(sizes)), max(sizes), reversed_modes, sizes)


def _is_local(operator: Any) -> bool:
    kinds = {kind.__name__ for kind in type(operator).__mro__}
    return all(map(_is_local, operator.operators)) if "SumOperator" in kinds else "LocalOperatorBase" in kinds


def hilbert_of(space: Any) -> HilbertSpace:
    """A space of NetKet as a sector of nqs."""
    import netket as nk

    if isinstance(space, nk.hilbert.TensorHilbert):
        if any(isinstance(part, nk.hilbert.SpinOrbitalFermions) for part in space.subspaces):
            raise ValueError(f"{space}: fermions cannot be a part of a product of spaces.")
        return product_space(*map(hilbert_of, space.subspaces))
    if isinstance(space.constraint, sector_constraint()):
        return space.constraint.sector
    total, per_spin = _conserved(space)
    L = space.size
    if isinstance(space, nk.hilbert.Spin):
        return spins(L, None if total is None else total / 2, (space.local_size - 1) / 2)
    if isinstance(space, nk.hilbert.Fock):
        if total is None and space.local_size > MAX_LOCAL_STATES:
            raise ValueError(f"{space} has no cutoff: give it n_max, at most {MAX_LOCAL_STATES - 1}, or n_particles.")
        return bosons(L, total, space.n_max or None)
    if not isinstance(space, nk.hilbert.SpinOrbitalFermions):
        values = sorted(int(value) for value in space.local_states)
        total_only = () if total is None else (Charge("sum of local states", tuple(values), total),)
        return HilbertSpace(L, tuple(map(str, values)), total_only, species_of(space, len(values)))
    components = space.n_spin_subsectors
    if components == 1:
        return fermions(L, total)
    species = species_of(space, 2**components)
    # A site counts the highest spin first, whose orbitals NetKet lists last.
    charges = tuple(
        Charge(s.name, s.occupation, target) for s, target in zip(species[::-1], per_spin[::-1], strict=True)
    )
    if total is not None:
        charges = (Charge("electrons", tuple(map(sum, zip(*(s.occupation for s in species), strict=True))), total),)
    names = tuple(f"{k:0{components}b}" for k in range(2**components))
    if components == 2:
        names = ("empty", "up", "down", "both")
    return HilbertSpace(space.n_orbitals, names, charges, species)


def species_of(space: Any, local_dim: int) -> tuple[Species, ...]:
    """The particles of a space of NetKet, for sites of `local_dim` local states.

    Fermions are in NetKet's Jordan-Wigner order, the orbitals of the lowest S^z first.
    """
    import netket as nk

    states = range(local_dim)
    if isinstance(space, nk.hilbert.SpinOrbitalFermions):
        components = space.n_spin_subsectors
        if local_dim <= 2:  # a site is an orbital
            return (Species("particles", "fermion", tuple(states)),)
        species = []
        for bit in reversed(range(components)):
            occupation, twice_sz = tuple(k >> bit & 1 for k in states), components - 1 - 2 * bit
            name = (
                {0: "up electrons", 1: "down electrons"}[bit] if components == 2 else f"electrons (2 Sz = {twice_sz})"
            )
            species.append(Species(name, "fermion", occupation, tuple(twice_sz * n for n in occupation)))
        return tuple(species)
    if isinstance(space, nk.hilbert.Spin):
        return (Species("spins", "spin", (1,) * local_dim, tuple(2 * k - local_dim + 1 for k in states)),)
    if isinstance(space, nk.hilbert.Fock):
        return (Species("particles", "boson", tuple(states)),)
    return (Species("local states", "other", (1,) * local_dim),)


@functools.cache
def sector_constraint() -> Any:
    """A class of NetKet constraints that hold any sector of nqs: `sector_constraint()(hilbert)`.

    For spaces of occupation numbers 0, 1, ..; the orbitals of electrons lie in blocks, those of spin down first.
    """
    import jax.numpy as jnp
    import netket as nk
    from netket.utils import struct

    class SectorConstraint(nk.hilbert.constraint.DiscreteHilbertConstraint):
        """The configurations of a sector of nqs."""

        sector: HilbertSpace = struct.field(pytree_node=False)

        def __init__(self, sector: HilbertSpace) -> None:
            self.sector = sector

        def __call__(self, x: Any) -> Any:
            sector, blocks = self.sector, jnp.split(jnp.asarray(x), x.shape[-1] // self.sector.n_sites, axis=-1)
            n = sum(block.astype(int) << bit for bit, block in enumerate(reversed(blocks)))
            inside = (n < jnp.array(sector.local_dims)).all(axis=-1)
            for charge in sector.charges:
                if charge.target is not None:
                    values = jnp.array(sector.table(charge.values))
                    missing = values[jnp.arange(sector.n_sites), n].sum(axis=-1) - charge.target
                    inside &= (missing % charge.modulus if charge.modulus else missing) == 0
            for (i, j), excluded in excluded_pairs(sector.exclusions, sector.local_dim).items():
                inside &= ~jnp.array(excluded)[n[..., i], n[..., j]]
            return inside

        def __hash__(self) -> int:
            return hash(("SectorConstraint", self.sector))

        def __eq__(self, other: object) -> bool:
            return isinstance(other, SectorConstraint) and other.sector == self.sector

        def __repr__(self) -> str:
            return f"SectorConstraint({self.sector})"

    return SectorConstraint


def _conserved(space: Any) -> tuple[int | None, tuple[int | None, ...]]:
    """The total over all sites, or the numbers of fermions of each spin, that a constraint fixes."""
    from netket.hilbert.constraint import SumConstraint, SumOnPartitionConstraint

    constraint = space.constraint
    per_spin: tuple[int | None, ...] = tuple(getattr(space, "n_fermions_per_spin", ()))
    free: tuple[int | None, ...] = (None,) * len(per_spin)
    if constraint is None:
        return None, free
    if isinstance(constraint, SumConstraint):
        return int(constraint.sum_value), free
    if isinstance(constraint, SumOnPartitionConstraint) and per_spin == constraint.sum_values:
        return None, per_spin
    raise ValueError(
        f"the constraint {constraint!r} of {space} is not one that nqs knows (a total, or a number for each spin): "
        "give the sector as `hilbert`, a HilbertSpace of nqs with the conserved charges of the operator."
    )


def to_digits(n: UInt8[Tensor, "B L"], modes: tuple[tuple[int, ...], ...]) -> UInt8[Tensor, "B M"]:
    """The modes of NetKet from the local states of the sites."""
    order = torch.tensor(modes, device=n.device)  # (L, bits)
    bits = torch.arange(order.shape[1], dtype=torch.uint8, device=n.device)
    digits = ((n[..., None] >> bits) & 1).flatten(1) if len(bits) > 1 else n
    return torch.empty_like(digits).index_copy_(1, order.flatten(), digits)


def from_digits(x: UInt8[Tensor, "K M"], modes: tuple[tuple[int, ...], ...]) -> UInt8[Tensor, "K L"]:
    """The inverse of `to_digits`."""
    order = torch.tensor(modes, device=x.device)
    bits = torch.arange(order.shape[1], dtype=torch.uint8, device=x.device)
    return (x[:, order] << bits).sum(2, dtype=torch.uint8)


# ---- terms -------------------------------------------------------------------------------------------------


class Support(NamedTuple):
    """Where a product of local operators acts: M on modes (ascending), Z on signs, X on flips, Z to the left of X."""

    modes: tuple[int, ...]
    signs: frozenset[int] = frozenset()
    flips: frozenset[int] = frozenset()


Matrix = dict[tuple[Digits, Digits], complex]  # elements by row and column
Terms = dict[Support, Matrix]


def terms_of(operator: Any, basis: Basis) -> Terms:
    """The operator as a sum of local ones, without rows that no configuration of the sector has.

    Raises:
        TypeError: an operator of unknown structure on a large sector.
    """
    terms: Terms = {}
    occurs: dict[Digits, bool] = {}
    for support, matrix in _terms(operator, basis).items():
        for (row, column), element in matrix.items():
            if row not in occurs:
                occurs[row] = basis.occurs(row)
            if occurs[row]:
                _add(terms, support, row, tuple(min(digit, basis.levels) for digit in column), element)
    return terms


def _terms(operator: Any, basis: Basis) -> Terms:
    """Decomposition by the most specific known class of the operator."""
    for kind in type(operator).__mro__:
        if kind.__name__ in KINDS:
            return KINDS[kind.__name__](operator, basis)
    return _from_elements(operator, basis)


def _is_known(operator: Any) -> bool:
    """Whether the operator, with all its parts, can be decomposed."""
    kinds = {kind.__name__ for kind in type(operator).__mro__}
    if kinds & {"SumOperator", "ProductOperator"}:
        return all(map(_is_known, operator.operators))
    return bool(kinds & KINDS.keys())


def _from_matrices(matrices: Iterable[tuple[Iterable[int], Any]], basis: Basis) -> Terms:
    """Sites and matrices, dense or sparse, in NetKet's order of the local states, the first site most significant.

    Rows beyond the digits of the sector are left out here, because cutoffs can be much larger.
    """
    from scipy import sparse  # here, because it takes long to import

    terms: Terms = {}
    for sites, matrix in matrices:
        modes = np.array(list(sites), dtype=int)
        order = modes.argsort()
        support = Support(tuple(modes[order].tolist()))
        coo = sparse.coo_array(matrix)
        sizes = [round(coo.shape[0] ** (1 / len(modes)))] * len(modes)
        if basis.sizes is not None:
            sizes = [basis.sizes[mode] for mode in modes.tolist()]
        digits = np.indices(sizes).reshape(len(modes), -1)  # (modes, rows)
        for place, (mode, size) in enumerate(zip(modes.tolist(), sizes, strict=True)):
            if basis.reversed[mode]:
                digits[place] = size - 1 - digits[place]
        digits = digits[order].T
        inside = np.all(digits < basis.levels, axis=1)
        names = list(map(tuple, np.minimum(digits, basis.levels).tolist()))
        for row, column, element in zip(coo.row, coo.col, coo.data, strict=True):
            if inside[row]:
                _add(terms, support, names[row], names[column], complex(element))
    return terms


def _local_operator(operator: Any, basis: Basis) -> Terms:
    terms = _from_matrices(zip(operator.acting_on, operator.operators, strict=True), basis)
    _add(terms, Support(()), (), (), complex(operator.constant))
    return terms


def _ising(operator: Any, basis: Basis) -> Terms:
    """-h sum X + J sum Z Z."""
    x, zz = np.array([[0, 1], [1, 0]]), np.diag([1, -1, -1, 1])
    sites = [((i,), -operator.h.item() * x) for i in range(operator.hilbert.size)]
    return _from_matrices([*sites, *((edge, operator.J.item() * zz) for edge in operator.edges.tolist())], basis)


def _bose_hubbard(operator: Any, basis: Basis) -> Terms:
    """-J sum (b+_i b_j + h.c.) + V sum n_i n_j + sum [U/2 n (n - 1) - mu n], not from to_local_operator:
    that builds matrices of the full cutoff, and NetKet 3.23 leaves V out there if J = 0."""
    from scipy import sparse

    U, V, J, mu = (getattr(operator, name).item() for name in ("U", "V", "J", "mu"))
    size = len(basis.values)
    b = sparse.diags_array(np.sqrt(np.arange(1, size)), offsets=1, shape=(size, size))
    number = sparse.diags_array(np.arange(size, dtype=float))
    hop = sparse.kron(b.T, b)
    bond = -J * (hop + hop.T) + V * sparse.kron(number, number)
    site = sparse.diags_array([U / 2 * n * (n - 1) - mu * n for n in range(size)])
    edges = [(edge, bond) for edge in operator.edges.tolist()]
    return _from_matrices([*edges, *(((i,), site) for i in range(operator.hilbert.size))], basis)


def _pauli_strings(operator: Any, basis: Basis) -> Terms:
    """X, Y and Z in NetKet's order of the two local states, -Z and -Y in the order of digits where that is opposite."""
    terms: Terms = {}
    for string, weight in zip(operator.operators, np.asarray(operator.weights).tolist(), strict=True):
        at = {letter: [i for i, other in enumerate(string) if other == letter] for letter in "XYZ"}
        flipped = sorted(at["X"] + at["Y"])
        weight = weight * (-1 if basis.reversed[0] else 1) ** (len(at["Y"]) + len(at["Z"]))
        if len(flipped) > FLIPS:  # Y = -i Z X
            support = Support((), frozenset(at["Y"] + at["Z"]), frozenset(flipped))
            _add(terms, support, (), (), weight * (-1j) ** len(at["Y"]))
            continue
        for row in itertools.product((0, 1), repeat=len(flipped)):
            phase: complex = 1
            for site, digit in zip(flipped, row, strict=True):
                if string[site] == "Y":
                    phase = phase * (1j if digit else -1j)
            support = Support(tuple(flipped), frozenset(at["Z"]))
            _add(terms, support, row, tuple(1 - digit for digit in row), weight * phase)
    return terms


def _fermions(products: Iterable[tuple[Iterable[tuple[int, int]], complex]]) -> Terms:
    """Sums of products of (orbital, 1 for c+, 0 for c), Jordan-Wigner transformed in the order of the orbitals."""
    terms: Terms = {}
    for product, weight in products:
        ladder = [(int(orbital), int(dagger)) for orbital, dagger in product]
        modes = sorted({orbital for orbital, _ in ladder})
        passed = Counter(m for orbital, _ in ladder for m in range(orbital) if m not in modes)
        support = Support(tuple(modes), frozenset(m for m, times in passed.items() if times % 2))
        pattern = tuple((modes.index(orbital), dagger) for orbital, dagger in ladder)
        for row, column, sign in _jordan_wigner(pattern):
            _add(terms, support, row, column, sign * complex(weight))
    return terms


@functools.lru_cache(maxsize=4096)
def _jordan_wigner(ladder: tuple[tuple[int, int], ...]) -> list[tuple[Digits, Digits, int]]:
    """Elements <row|product|column> of a product of c+ and c on the orbitals 0, 1, ... of this product."""
    elements = []
    for column in itertools.product((0, 1), repeat=1 + max((orbital for orbital, _ in ladder), default=-1)):
        row, sign = list(column), 1
        for orbital, dagger in reversed(ladder):
            if row[orbital] == dagger:
                break
            sign *= (-1) ** sum(row[:orbital])
            row[orbital] = dagger
        else:
            elements.append((tuple(row), column, sign))
    return elements


def _fermion_operator(operator: Any, basis: Basis) -> Terms:
    return _fermions(zip(operator.terms, operator.weights, strict=True))


def _conserving_fermions(operator: Any, basis: Basis) -> Terms:
    """NetKet's particle-number conserving operators and FermiHubbardJax, which store index tables.

    A table lists terms w c+_k1 .. c+_km c_l1 .. c_lm by k, with 0 for no term. Keys of spinful operators name the
    spins, or in the groups "mixed" the pairs of spins, that share a table; there the terms are w c+_k1 c_l1 c+_k2 c_l2.
    """
    orbitals = operator.hilbert.n_orbitals
    products: list[tuple[list[tuple[int, int]], complex]] = []
    for group, tables in operator._operator_data.items():
        for key, (index, created, weights) in tables.items():
            order, spins = key if isinstance(key, tuple) else (key, (0,))
            weights = _dense(weights)
            if order == 0:
                products.append(([], complex(weights.sum())))
                continue
            if index is None:  # k and l are the same
                entries = [(k, k, weights[tuple(k)]) for k in np.argwhere(weights).tolist()]
            else:
                index, created = _dense(index), _dense(created)
                entries = [
                    (k, l, weight)
                    for k in np.argwhere(index).tolist()
                    for l, weight in zip(created[index[tuple(k)]].tolist(), weights[index[tuple(k)]], strict=True)
                ]
            for spin, (k, l, weight) in itertools.product(spins, entries):
                product = [(m, 1) for m in k] + [(m, 0) for m in l]
                shifts = np.multiply(orbitals, spin)
                if group.startswith("mixed"):  # c+_k c_l of one spin, times the same of another
                    product, shifts = [product[i] for i in (0, 2, 1, 3)], shifts.repeat(2)
                shifted = np.broadcast_to(shifts, len(product)).tolist()
                products.append(
                    ([(m + s, dagger) for (m, dagger), s in zip(product, shifted, strict=True)], complex(weight))
                )
    return _fermions(products)


def _dense(array: Any) -> np.ndarray:
    return np.asarray(array.todense() if hasattr(array, "todense") else array)


def _sum(operator: Any, basis: Basis) -> Terms:
    terms: Terms = {}
    for part, coefficient in zip(operator.operators, np.asarray(operator.coefficients).tolist(), strict=True):
        for support, matrix in _terms(part, basis).items():
            for (row, column), element in matrix.items():
                _add(terms, support, row, column, coefficient * element)
    return terms


def _product(operator: Any, basis: Basis) -> Terms:
    states = operator.hilbert.local_size
    if states > MAX_LOCAL_STATES:
        raise ValueError(
            f"{operator.hilbert} has {states} local states: too many for a product of operators, set n_max."
        )
    if not _is_known(operator):  # factors of unknown structure have no elements outside the sector
        return _from_elements(operator, basis)
    if basis.levels < states:  # intermediate states may lie outside the sector
        basis = basis._replace(levels=states, values=np.arange(states))
    result: Terms = {Support(()): {((), ()): complex(operator.coefficient.item())}}
    for factor in operator.operators:
        result = _multiply(result, _terms(factor, basis))
    return result


def _multiply(left: Terms, right: Terms) -> Terms:
    """The product, term by term; signs and flips of a factor on modes of the other's matrix enter the new matrix."""
    terms: Terms = {}
    for (a, b), (A, B) in zip(
        itertools.product(left, right), itertools.product(left.values(), right.values()), strict=True
    ):
        modes = tuple(sorted({*a.modes, *b.modes}))
        # Z^s X^f Z^s' X^f' = (-1)^(f . s') Z^(s + s') X^(f + f') on all other modes.
        outside = (-1) ** len((a.flips & b.signs) - set(modes))
        support = Support(modes, (a.signs ^ b.signs) - set(modes), (a.flips ^ b.flips) - set(modes))
        for ((row, middle_a), x), ((middle_b, column), y) in itertools.product(A.items(), B.items()):
            at_a, at_b = (dict(zip(s.modes, m, strict=True)) for s, m in ((a, middle_a), (b, middle_b)))
            if any(at_b[m] != digit for m, digit in at_a.items() if m in at_b):
                continue
            rows, columns = dict(zip(a.modes, row, strict=True)), dict(zip(b.modes, column, strict=True))
            sign = outside
            for m, digit in at_b.items():
                if m not in at_a:  # the left factor is Z^s X^f there
                    rows[m] = digit ^ (m in a.flips)
                    sign *= (-1) ** (rows[m] * (m in a.signs))
            for m, digit in at_a.items():
                if m not in at_b:  # the right factor is
                    columns[m] = digit ^ (m in b.flips)
                    sign *= (-1) ** (digit * (m in b.signs))
            _add(terms, support, tuple(rows[m] for m in modes), tuple(columns[m] for m in modes), sign * x * y)
    return terms


def _collected(operator: Any, basis: Basis) -> Terms:
    """Adjoint, Transpose, Squared: evaluated by NetKet."""
    return _terms(operator.collect(), basis)


def _from_elements(operator: Any, basis: Basis) -> Terms:
    """An operator of unknown structure: all its elements in the sector as one matrix on all sites."""
    n_modes = sum(map(len, basis.modes))
    if basis.sector.dimension > FALLBACK or basis.levels**n_modes > FALLBACK_STATES:
        known = ", ".join(KINDS).replace("Base", "")
        raise TypeError(
            f"{type(operator).__name__} cannot be decomposed into local terms (known are {known}), and its sector is "
            f"too large to list all elements: {basis.sector}; the limit is {FALLBACK} configurations. Write it as a "
            "sum or product of known operators."
        )
    terms: Terms = {}
    digits = to_digits(basis.sector.configurations(), basis.modes).numpy()
    x = basis.values[digits].astype(np.int8 if basis.values.max() < 128 else np.int16)
    connected, elements = operator.get_conn_padded(x)
    columns = np.searchsorted(basis.values, np.asarray(connected)).clip(max=basis.levels)
    for row, places, values in zip(digits.tolist(), columns.tolist(), np.asarray(elements).tolist(), strict=True):
        for column, element in zip(places, values, strict=True):
            if element:
                _add(terms, Support(tuple(range(n_modes))), tuple(row), tuple(column), element)
    return terms


KINDS: dict[str, Callable[[Any, Basis], Terms]] = {
    "LocalOperatorBase": _local_operator,
    "IsingBase": _ising,
    "BoseHubbardBase": _bose_hubbard,
    "PauliStringsBase": _pauli_strings,
    "FermionOperator2ndBase": _fermion_operator,
    "ParticleNumberConservingFermioperator2nd": _conserving_fermions,
    "ParticleNumberAndSpinConservingFermioperator2nd": _conserving_fermions,
    "SumOperator": _sum,
    "ProductOperator": _product,
    "WrappedOperator": _collected,
}


def _add(terms: Terms, support: Support, row: Digits, column: Digits, element: complex) -> None:
    matrix = terms.setdefault(support, {})
    matrix[row, column] = matrix.get((row, column), 0) + element


def formally_hermitian(terms: Terms) -> bool:
    """Every local operator is Hermitian by itself. If not, the sum still may be."""
    for support, matrix in terms.items():
        sign = (-1) ** len(support.signs & support.flips)  # (Z X)+ = X Z
        scale = HERMITIAN * max(abs(x) for x in matrix.values())
        if any(abs(sign * matrix.get((b, a), 0) - x.conjugate()) > scale for (a, b), x in matrix.items()):
            return False
    return True
