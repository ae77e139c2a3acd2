"""Small members of every family of Hamiltonians, drawn by hypothesis, and the same operators written with NetKet.

`test_hamiltonians.py` runs the contract over them. A recipe is a function that builds a Hamiltonian, not the result:
run-time type checkers use `random`, which hypothesis forbids while it draws. NetKet is imported only where it is used,
because GPU machines may have none.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from nqs.hamiltonians import (
    TJ,
    TV,
    BoseHubbard,
    FermiHubbard,
    Heisenberg,
    Integrals,
    Ising,
    LocalHamiltonian,
    Molecule,
    NetKetOperator,
    Operator,
    Rydberg,
    operators,
)
from nqs.lattice import Lattice, chain, from_edges, honeycomb, hypercubic, kagome, square, triangular

import readme

Recipe = Callable[[], Any]

LARGEST = 300  # dimension of the sectors that are drawn: their matrices are dense
COUPLINGS = st.integers(-30, 30).map(lambda k: k / 10)
ANGLES = st.integers(-60, 60).map(lambda k: k / 10)

LATTICES = [
    *(chain(n, boundary=word) for n in range(1, 7) for word in ("periodic", "open", "antiperiodic")),
    square(2, 2),
    square(2, 3),
    square(3, 3),
    square(3, 2, ["open", "antiperiodic"]),
    square(1, 3, "antiperiodic"),
    hypercubic((2, 2, 2), "open"),
    triangular(2, 2),
    triangular(3, 2, "open"),
    triangular(3, 3),
    honeycomb(1, 2),
    honeycomb(2, 2, ["periodic", "open"]),
    kagome(1, 1),
    kagome(1, 2, "open"),
    from_edges([(2, 0), (1, 2), (3, 2), (0, 3)], n_sites=5),  # bonds against the order of the sites
]
TINY = [lattice for lattice in LATTICES if lattice.n_sites <= 4]  # 8 orbitals of electrons


def one_each(length: int, values: st.SearchStrategy[float] = COUPLINGS) -> st.SearchStrategy[tuple[float, ...]]:
    return st.lists(values, min_size=length, max_size=length).map(tuple)


def by_place(draw: st.DrawFn, length: int) -> Any:
    """One number, or one for each bond or site."""
    return draw(COUPLINGS | one_each(length))


def each(coupling: Any, length: int) -> list[float]:
    """The numbers of all bonds or sites."""
    return list(coupling) if isinstance(coupling, tuple) else [coupling] * length


# ---- bosons ----------------------------------------------------------------------------------------


@functools.cache
def boson_sectors(n_sites: int) -> list[dict[str, int | None]]:
    """Canonical and grand-canonical sectors with and without a cutoff, up to LARGEST configurations."""
    sectors = []
    for n_particles, n_max in itertools.product([None, *range(7)], [None, 1, 2, 3, 5]):
        if None not in (n_particles, n_max):
            possible = n_particles <= n_max * n_sites
        else:
            possible = n_particles != n_max  # not both None
        if possible and boson_dimension(n_sites, n_particles, n_max) <= LARGEST:
            sectors.append({"n_particles": n_particles, "n_max": n_max})
    return sectors


def boson_dimension(n_sites: int, n_particles: int | None, n_max: int | None) -> int:
    """Without a space, which takes longer: the coefficient of x^N in (1 + x + .. + x^n_max)^L, or their sum."""
    one_site = [1] * ((n_particles if n_max is None else n_max) + 1)
    numbers = functools.reduce(np.convolve, [one_site] * n_sites, np.array([1]))
    return int(numbers.sum() if n_particles is None else numbers[n_particles])


@st.composite
def bose_hubbard(draw: st.DrawFn) -> Recipe:
    """Any couplings, site potentials and hopping phases."""
    lattice = draw(st.sampled_from(LATTICES))
    return functools.partial(
        BoseHubbard,
        lattice,
        **draw(st.sampled_from(BOSON_SECTORS[lattice.n_sites])),
        **{name: by_place(draw, lattice.n_sites) for name in ("U", "mu")},
        **{name: by_place(draw, len(lattice.bonds())) for name in ("J", "V")},
        potential=draw(st.none() | one_each(lattice.n_sites)),
        phases=draw(st.none() | one_each(len(lattice.bonds()))),
    )


BOSON_SECTORS = {lattice.n_sites: boson_sectors(lattice.n_sites) for lattice in LATTICES}


def bose_hubbard_in_netket(h: BoseHubbard) -> list[Any]:
    """nk.operator.BoseHubbard for the uniform terms, create and destroy operators where it has none."""
    import netket as nk

    create, destroy, number = (getattr(nk.operator.boson, name) for name in ("create", "destroy", "number"))
    fock = nk.hilbert.Fock(h.hilbert.local_dim - 1, h.lattice.n_sites, n_particles=h.n_particles)
    bonds = h.lattice.bonds().tolist()
    plain = {name: 0.0 if isinstance(getattr(h, name), tuple) else getattr(h, name) for name in ("U", "V", "J", "mu")}
    if h.phases is not None or "antiperiodic" in h.lattice.boundary:
        plain["J"] = 0.0
    edges = np.reshape(bonds, (-1, 2)).astype(int)
    operators = [nk.operator.BoseHubbardNumba(fock, edges, **plain)]
    rest = nk.operator.LocalOperatorNumba(fock, dtype=complex)
    for site in range(h.lattice.n_sites):
        U, mu = ((each(getattr(h, name), h.lattice.n_sites)[site] - plain[name]) for name in ("U", "mu"))
        n = number(fock, site, dtype=complex)
        rest += (each(h.potential or 0.0, h.lattice.n_sites)[site] - mu - U / 2) * n + U / 2 * n @ n
    angles = np.array(h.phases or np.zeros(len(bonds))) + np.pi * (h.lattice.signs().numpy() < 0)
    for (i, j), angle, J, V in zip(bonds, angles, each(h.J, len(bonds)), each(h.V, len(bonds)), strict=True):
        hop = np.exp(1j * angle) * create(fock, j, dtype=complex) @ destroy(fock, i, dtype=complex)
        rest += (plain["J"] - J) * (hop + hop.H)
        rest += (V - plain["V"]) * number(fock, i, dtype=complex) @ number(fock, j, dtype=complex)
    return [*operators, rest]


# ---- spins -----------------------------------------------------------------------------------------


@functools.cache
def shells(lattice: Lattice) -> int:
    """How many orders of bonds, up to 3, the lattice has without an ambiguous sign."""
    for order in (1, 2, 3):
        try:
            lattice.signs(order)
        except ValueError:
            return order - 1
    return 3


@st.composite
def heisenberg(draw: st.DrawFn, conserved: bool | None = None) -> Recipe:
    """XXX, XXZ, J1-J2-J3, fields, spins up to 3/2, in the whole space or a sector."""
    spin = draw(st.sampled_from([0.5, 1, 1.5]))
    lattice = draw(st.sampled_from([x for x in LATTICES if (2 * spin + 1) ** x.n_sites <= LARGEST]))
    orders = draw(st.integers(1, shells(lattice)))
    bonds = [len(lattice.bonds(order)) for order in range(1, orders + 1)]
    couplings = tuple(draw(COUPLINGS | one_each(n)) for n in bonds)
    if orders == bonds[0] > 1:  # one number for each bond, or for each shell?
        couplings = tuple(J if isinstance(J, tuple) else (J,) for J in couplings)
    elif orders == 1 and not isinstance(couplings[0], tuple) and draw(st.booleans()):
        (couplings,) = couplings
    Delta = draw(COUPLINGS) if draw(st.booleans()) else tuple(draw(COUPLINGS | one_each(n)) for n in bonds)
    total = round(2 * spin) * lattice.n_sites  # 2 Sz runs from -total to total in steps of 2
    sectors = st.integers(0, total).map(lambda k: (2 * k - total) / 2)
    sector = {None: st.none() | sectors, True: sectors, False: st.none()}[conserved]
    return functools.partial(
        Heisenberg, lattice, draw(sector), J=couplings, Delta=Delta, h=by_place(draw, lattice.n_sites), spin=spin
    )


def heisenberg_in_netket(h: Heisenberg) -> list[Any]:
    """From NetKet's own spin operators, which are 2 S^x, 2 S^y and 2 S^z for any spin."""
    import netket as nk

    space, cls = nk.hilbert.Spin(h.spin, h.lattice.n_sites, total_sz=h.total_sz), nk.operator.LocalOperatorNumba
    sigma = [getattr(nk.operator.spin, name) for name in ("sigmax", "sigmay", "sigmaz")]
    operator = cls(space, dtype=complex)
    for order, (J, Delta) in enumerate(zip(h.J, h.Delta, strict=True), start=1):
        bonds, signs = h.lattice.bonds(order).tolist(), h.lattice.signs(order).tolist()
        one, other = (each(x[0] if isinstance(x, tuple) and len(x) == 1 else x, len(bonds)) for x in (J, Delta))
        for (i, j), sign, J_ij, Delta_ij in zip(bonds, signs, one, other, strict=True):
            for factor, s in zip((sign, sign, Delta_ij), sigma, strict=True):
                product = s(space, i, dtype=complex, cls=cls) @ s(space, j, dtype=complex, cls=cls)
                operator += J_ij * factor / 4 * product
    for i, field in enumerate(each(h.h, h.lattice.n_sites)):
        operator += -field / 2 * sigma[2](space, i, dtype=complex, cls=cls)
    return [operator]


@st.composite
def ising(draw: st.DrawFn) -> Recipe:
    lattice = draw(st.sampled_from([x for x in LATTICES if x.n_sites <= 8]))
    L = lattice.n_sites
    fields = {name: by_place(draw, L) for name in ("h", "g")}
    return functools.partial(Ising, lattice, J=by_place(draw, len(lattice.bonds())), **fields)


def ising_in_netket(h: Ising) -> list[Any]:
    """nk.operator.Ising, whose J has the opposite sign, for uniform couplings on the bonds inside and those over an
    antiperiodic edge; Pauli matrices for others."""
    import netket as nk

    space, cls = nk.hilbert.Spin(0.5, h.lattice.n_sites), nk.operator.LocalOperatorNumba
    bonds, signs = h.lattice.bonds().numpy().reshape(-1, 2), h.lattice.signs().numpy()
    x, z = (functools.partial(getattr(nk.operator.spin, name), space, dtype=complex, cls=cls)
            for name in ("sigmax", "sigmaz"))  # fmt: skip
    rest = cls(space, dtype=complex)
    for i, g in enumerate(each(h.g, h.lattice.n_sites)):
        rest += -g * z(i)
    if not isinstance(h.h, tuple) and not isinstance(h.J, tuple):
        return [nk.operator.IsingNumba(space, bonds[signs == s], h=h.h * (s > 0), J=-h.J * s) for s in (1.0, -1.0)] + [
            rest
        ]
    for i, field in enumerate(each(h.h, h.lattice.n_sites)):
        rest += -field * x(i)
    for (i, j), sign, J in zip(bonds.tolist(), signs, each(h.J, len(bonds)), strict=True):
        rest += -J * sign * z(i) @ z(j)
    return [rest]


@st.composite
def rydberg(draw: st.DrawFn) -> Recipe:
    """With and without a blockade, interactions of all atoms or of near ones."""
    small = [x for x in LATTICES if x.n_sites <= 8 and "antiperiodic" not in x.boundary]
    return functools.partial(
        Rydberg,
        draw(st.sampled_from(small)),
        **{name: draw(COUPLINGS) for name in ("Omega", "Delta", "V")},
        blockade=draw(st.sampled_from([0.0, 1.0, 2.0])),
        reach=draw(st.sampled_from([None, 1.0, 3.0])),
    )


def rydberg_in_netket(h: Rydberg) -> list[Any]:
    """The formula on all 2^L states; it also leads to those that the blockade leaves out."""
    import netket as nk

    L, cls = h.lattice.n_sites, nk.operator.LocalOperatorNumba
    space, distances = nk.hilbert.Fock(1, L), h.lattice.distances().tolist()
    operator = cls(space, dtype=float)
    for i in range(L):
        operator += cls(space, [[0.0, h.Omega / 2], [h.Omega / 2, -h.Delta]], [i], dtype=float)
    for i, j in itertools.combinations(range(L), 2):
        if distances[i][j] < (math.inf if h.reach is None else h.reach + 0.01):
            operator += cls(space, np.diag([0.0, 0.0, 0.0, h.V / distances[i][j] ** 6]), [i, j], dtype=float)
    return [operator]


# ---- fermions --------------------------------------------------------------------------------------

INTERACTION = {FermiHubbard: "U", TV: "V", TJ: "J"}  # the coupling without a default
OTHERS = {FermiHubbard: ("V", "mu", "h"), TV: ("mu",), TJ: ()}


@functools.cache
def accepts(lattice: Lattice, order: int, twisted: bool) -> bool:
    """Whether the lattice has bonds of that order, each with one definite sign and phase."""
    try:
        lattice.signs(order)
        lattice.twist_phases([0.7 * twisted] * len(lattice.shape), order)  # the answer is that of any angle
    except ValueError:
        return False
    return True


@functools.cache
def fillings(family: Callable[..., Any], lattice: Lattice) -> list[tuple[int | None, ...]]:
    """Numbers of particles, None too, with at most LARGEST configurations."""
    numbers = [None, *range(lattice.n_sites + 1)]
    found = []
    for filling in itertools.product(numbers, repeat=1 if family is TV else 2):
        if 0 < fermion_dimension(family, lattice.n_sites, filling) <= LARGEST:
            found.append(filling)
    return found


def fermion_dimension(family: Callable[..., Any], n_sites: int, filling: tuple[int | None, ...]) -> int:
    """Without a space, which takes longer: ways to place one spin after the other, in t-J on the sites left over."""
    if not filling:
        return 1
    numbers = range(n_sites + 1) if filling[0] is None else filling[:1]
    return sum(
        math.comb(n_sites, n) * fermion_dimension(family, max(0, n_sites - n * (family is TJ)), filling[1:])
        for n in numbers
    )


@st.composite
def fermions(draw: st.DrawFn, family: Callable[..., Any], lattices: list[Lattice] = LATTICES) -> Recipe:
    """Any couplings, fillings, potentials and twists that the lattice accepts; t = +-1 half the time."""
    lattice = draw(st.sampled_from(lattices))
    L, K = lattice.n_sites, len(lattice.bonds())
    names = (INTERACTION[family], *OTHERS[family])
    values: dict[str, Any] = {name: by_place(draw, L if name in ("U", "mu", "h") else K) for name in names}
    values["t"] = draw(st.sampled_from([1.0, 1.0, -1.0]) | COUPLINGS | one_each(K))
    values["potential"] = draw(st.none() | one_each(lattice.n_sites))
    twists = st.none() | one_each(len(lattice.shape), ANGLES)
    values["twist"] = draw(twists) if accepts(lattice, 1, True) else None
    if family is FermiHubbard and accepts(lattice, 2, values["twist"] is not None):
        values["t2"] = draw(st.just(0.0) | COUPLINGS | one_each(len(lattice.bonds(2))))
    return functools.partial(family, lattice, *draw(st.sampled_from(FILLINGS[family, lattice])), **values)


FILLINGS = {(family, lattice): fillings(family, lattice) for family in INTERACTION for lattice in LATTICES}


def hop_terms(h: Any) -> list[tuple[int, int, complex]]:
    """(i, j, x) for every x c+_j c_i + h.c. of the Hamiltonian."""
    terms = []
    for order, t in ((1, h.t), (2, getattr(h, "t2", 0.0))):
        if not np.any(t):
            continue
        angles = h.lattice.twist_phases(list(h.twist), order) if h.twist is not None else h.lattice.signs(order) * 0
        bonds, signs = h.lattice.bonds(order).tolist(), h.lattice.signs(order)
        for (i, j), sign, angle, t_ij in zip(bonds, signs, angles, each(t, len(bonds)), strict=True):
            terms.append((i, j, -t_ij * sign.item() * np.exp(1j * angle.item())))
    return terms


def fermions_in_netket(h: FermiHubbard | TV | TJ) -> list[Any]:
    """The formulas of the docstrings as products of NetKet's creation and annihilation operators.

    Those of the t-J model also lead to doubly occupied sites, which its space does not have.
    """
    import netket as nk

    L, spinful = h.lattice.n_sites, not isinstance(h, TV)
    blocks = (0, L) if spinful else (0,)  # first orbital of each spin; NetKet lists down, then up
    space = nk.hilbert.SpinOrbitalFermions(L, s=1 / 2 if spinful else None)
    terms: list[tuple[tuple[tuple[int, int], ...], complex]] = []

    def number(orbital: int) -> tuple[tuple[int, int], ...]:
        return ((orbital, 1), (orbital, 0))

    for i, j, x in hop_terms(h):
        for s in blocks:
            terms += [(((j + s, 1), (i + s, 0)), x), (((i + s, 1), (j + s, 0)), np.conj(x))]
    for i, energy in enumerate(h.potential or (0.0,) * L):
        for s in blocks:
            mu, field = (each(getattr(h, name, 0.0), L)[i] for name in ("mu", "h"))
            zeeman = field * (0.5 if s == 0 else -0.5) if spinful else 0.0
            terms.append((number(i + s), energy - mu + zeeman))
        if isinstance(h, FermiHubbard):
            terms.append((number(i) + number(i + L), each(h.U, L)[i]))
    bonds = h.lattice.bonds().tolist()
    couplings = each(h.J if isinstance(h, TJ) else h.V, len(bonds))
    for ((i, j), x), s, r in itertools.product(zip(bonds, couplings, strict=True), blocks, blocks):
        if isinstance(h, TJ):  # S^z_i S^z_j - n_i n_j / 4 = -1/2 for opposite spins, (S+_i S-_j + h.c.) / 2
            if s != r:
                terms.append((number(i + s) + number(j + r), -x / 2))
                terms.append((((i + r, 1), (i + s, 0), (j + s, 1), (j + r, 0)), x / 2))
        else:
            terms.append((number(i + s) + number(j + r), x))
    products, weights = zip(*terms, strict=True)
    return [nk.operator.FermionOperator2ndNumba(space, products, weights, dtype=complex)]


# ---- the example of docs/adding_hamiltonian.md ----------------------------------------------------------


@st.composite
def dipolar_bosons(draw: st.DrawFn) -> Recipe:
    lattice = draw(st.sampled_from(LATTICES))
    numbers = [n for n in range(lattice.n_sites + 1) if math.comb(lattice.n_sites, n) <= LARGEST]
    t = draw(COUPLINGS.filter(bool))
    n_particles, V = draw(st.sampled_from(numbers)), draw(COUPLINGS)
    return functools.partial(readme.dipolar_bosons().DipolarBosons, lattice, n_particles, V, t)


def dipolar_bosons_in_netket(h: Any) -> list[Any]:
    """Sums of NetKet's create, destroy and number operators."""
    import netket as nk

    create, destroy, number = (getattr(nk.operator.boson, name) for name in ("create", "destroy", "number"))
    L, distances = h.lattice.n_sites, h.lattice.distances().tolist()
    space = nk.hilbert.Fock(1, L, n_particles=h.n_particles)
    operator = nk.operator.LocalOperatorNumba(space, dtype=float)
    for (i, j), sign in zip(h.lattice.bonds().tolist(), h.lattice.signs().tolist(), strict=True):
        hop = create(space, i) @ destroy(space, j)
        operator += -h.t * sign * (hop + hop.H)
    for i, j in itertools.combinations(range(L), 2):
        operator += h.V / distances[i][j] ** 3 * number(space, i) @ number(space, j)
    return [operator]


# ---- sums of products of local operators -----------------------------------------------------------------


def at(coupling: Any, place: int) -> float:
    """A coupling at a bond or site: one number, alone or in a list, or one for each."""
    numbers = np.atleast_1d(coupling)
    return float(numbers[place] if len(numbers) > 1 else numbers[0])


def as_operator(h: Any) -> Operator:
    """The formula of a family, written with the operators of its particles."""
    op = operators
    if isinstance(h, BoseHubbard):
        angles = np.array(h.phases or np.zeros(len(h.lattice.bonds()))) + np.pi * (h.lattice.signs().numpy() < 0)
        sites = range(h.lattice.n_sites)
        energy = sum(at(h.U, i) / 2 * op.number(i) * (op.number(i) - 1) - at(h.mu, i) * op.number(i) for i in sites)
        for k, ((i, j), angle) in enumerate(zip(h.lattice.bonds().tolist(), angles, strict=True)):
            hop = -at(h.J, k) * np.exp(1j * angle) * op.b_dag(j) * op.b(i)
            energy += hop + hop.dagger() + at(h.V, k) * op.number(i) * op.number(j)
        return energy + sum(energy * op.number(i) for i, energy in enumerate(h.potential or ()))
    if isinstance(h, Heisenberg):
        energy = -sum(at(h.h, i) * op.sz(i) for i in range(h.lattice.n_sites))
        for order, shells in enumerate(zip(h.J, h.Delta, strict=True), start=1):
            bonds, signs = h.lattice.bonds(order).tolist(), h.lattice.signs(order).tolist()
            for k, ((i, j), sign) in enumerate(zip(bonds, signs, strict=True)):
                J, Delta = (at(shell, k) for shell in shells)
                exchange, ising = (0.0, J) if Delta == math.inf else (J, J * Delta)
                energy += exchange * sign * (op.sx(i) * op.sx(j) + op.sy(i) * op.sy(j)) + ising * op.sz(i) * op.sz(j)
        return energy
    spins = (None,) if isinstance(h, TV) else ("up", "down")
    energy = sum(x * op.c_dag(j, s) * op.c(i, s) for i, j, x in hop_terms(h) for s in spins)
    energy = energy + energy.dagger() if hop_terms(h) else 0 * op.identity()
    for i, potential in enumerate(h.potential or (0.0,) * h.lattice.n_sites):
        energy += (potential - at(getattr(h, "mu", 0.0), i)) * op.number(i)
        if isinstance(h, FermiHubbard):
            energy += at(h.U, i) * op.number(i, "up") * op.number(i, "down")
        if len(spins) == 2:
            energy -= at(getattr(h, "h", 0.0), i) / 2 * (op.number(i, "up") - op.number(i, "down"))
    for k, (i, j) in enumerate(h.lattice.bonds().tolist()):
        if isinstance(h, TJ):
            flip = [op.c_dag(site, "up") * op.c(site, "down") for site in (i, j)]
            z = [(op.number(site, "up") - op.number(site, "down")) / 2 for site in (i, j)]
            energy += at(h.J, k) / 2 * (flip[0] * flip[1].dagger() + flip[1] * flip[0].dagger())
            energy += at(h.J, k) * (z[0] * z[1] - op.number(i) * op.number(j) / 4)
        else:
            energy += at(h.V, k) * op.number(i) * op.number(j)
    return energy


WRITTEN: dict[LocalHamiltonian, Any] = {}  # the members of families that were written with operators


@st.composite
def local_hamiltonians(draw: st.DrawFn) -> Recipe:
    families = [bose_hubbard(), heisenberg(), fermions(TV, TINY), fermions(TJ, TINY), fermions(FermiHubbard, TINY)]
    recipe = draw(st.one_of(families))

    def build() -> LocalHamiltonian:
        h = recipe()
        local = LocalHamiltonian(h.hilbert, as_operator(h), lattice=h.lattice, unit=h.unit, name=str(h))
        WRITTEN[local] = h
        return local

    return build


def as_its_family_in_netket(local: LocalHamiltonian) -> list[Any]:
    h = WRITTEN[local]
    for kind, in_netket in ((BoseHubbard, bose_hubbard_in_netket), (Heisenberg, heisenberg_in_netket)):
        if isinstance(h, kind):
            return in_netket(h)
    return fermions_in_netket(h)


# ---- NetKet ----------------------------------------------------------------------------------------


@functools.cache
def wrapped(kind: str) -> NetKetOperator:
    """An operator of `netket_operators.py`, under its name there."""
    from netket_operators import operator

    return NetKetOperator.from_netket(operator(kind), name=kind)


@st.composite
def netket_operators(draw: st.DrawFn) -> Recipe:
    pytest.importorskip("netket")
    from netket_operators import OPERATORS

    return functools.partial(wrapped, draw(st.sampled_from(list(OPERATORS))))


def as_it_was_in_netket(h: NetKetOperator) -> list[Any]:
    from netket_operators import operator

    return [operator(h.name)]


# ---- molecules -------------------------------------------------------------------------------------


@st.composite
def molecules(draw: st.DrawFn) -> Recipe:
    """Random integrals over few orbitals, restricted and unrestricted, some with orbitals of different parities."""
    M = draw(st.integers(1, 4))
    unrestricted = draw(st.booleans())
    signs = draw(st.lists(st.sampled_from([1, -1]), min_size=M, max_size=M))
    seed = draw(st.integers(0, 10**6))
    numbers = draw(st.tuples(st.integers(0, M), st.integers(0, M)))
    symmetry = draw(st.sampled_from(["auto", "none"]))
    return functools.partial(random_molecule, M, numbers, unrestricted, tuple(signs), seed, symmetry)


def random_molecule(
    M: int, numbers: tuple[int, int], unrestricted: bool, signs: tuple[int, ...], seed: int, symmetry: str
) -> Molecule:
    """Integrals with the symmetries of real orbitals, zero where the product of the signs of the orbitals is -1."""
    random, s = np.random.default_rng(seed), np.array(signs)
    h = random.normal(size=(2, M, M))
    h = (h + h.swapaxes(1, 2)) * (np.multiply.outer(s, s) > 0)
    v = random.normal(size=(3, M, M, M, M))
    v = v + v.swapaxes(1, 2)
    v = v + v.swapaxes(3, 4)
    v[:2] += v[:2].transpose(0, 3, 4, 1, 2)
    v *= np.einsum("p,q,r,s->pqrs", s, s, s, s) > 0
    if not unrestricted:
        h, v = h[0], v[0]
    return Molecule(Integrals.dense(random.normal(), h, v), *numbers, irreps=symmetry)


def molecule_in_netket(molecule: Molecule) -> list[Any]:
    """Every term of the second-quantised Hamiltonian, with four indices and two spins; orbitals of down come first."""
    import netket as nk

    M = molecule.integrals.n_orbitals
    space = nk.hilbert.SpinOrbitalFermions(M, s=1 / 2, n_fermions_per_spin=(molecule.n_down, molecule.n_up))
    terms: list[Any] = [()]
    weights = [molecule.integrals.core]
    place = {0: M, 1: 0}  # of the orbitals of up and down
    for s in (0, 1):
        for p, q in itertools.product(range(M), repeat=2):
            terms.append(((p + place[s], 1), (q + place[s], 0)))
            weights.append(molecule.integrals.h(s)[p, q])
        for t in (0, 1):
            v = molecule.integrals.four_index(s, t)
            for a, b, c, d in itertools.product(range(M), repeat=4):
                if v[a, b, c, d]:
                    orbitals = (a + place[s], c + place[t], d + place[t], b + place[s])
                    terms.append(tuple(zip(orbitals, (1, 1, 0, 0), strict=True)))
                    weights.append(v[a, b, c, d] / 2)
    return [nk.operator.FermionOperator2nd(space, terms, weights)]
