"""Sites of different kinds and constraints between sites, against brute force, closed forms and dense matrices."""

import functools
import itertools
import json
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from networks import small_transformer

import nqs
from nqs import exact
from nqs.archive.serialise import differences, from_plain, to_plain
from nqs.cli import main
from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard, Heisenberg, Ising, NetKetOperator, Rydberg, pxp, to_netket
from nqs.hilbert import Charge, Exclusion, HilbertSpace, Species, bosons, product_space, spins
from nqs.lattice import Lattice, chain, hypercubic, square
from nqs.models import OnOrbits
from nqs.observables import StateVector, exact_samples, one_body_density_matrix, renyi2_entropy
from nqs.protocols import Connected, Hamiltonian
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.symmetry import space_group, symmetries_of
from nqs.vmc.continuation import known_types

import readme
from matrices import assert_same, dense

CHI_SQUARE = 1e-4  # smallest p-value of a chi-square test

# ---------------------------------------------------------------------------------------------- helpers


def atoms(lattice: Lattice, blockade: bool = True) -> HilbertSpace:
    return HilbertSpace(
        lattice.n_sites,
        ("g", "r"),
        (Charge("excitations", (0, 1)),),
        (Species("excitations", "other", (0, 1)),),
        (Exclusion(lattice.bonds().tolist()),) if blockade else (),
    )


def dimers(width: int, height: int, boundary: str, *, exactly: bool) -> HilbertSpace:
    """Dimers on the bonds of a square lattice: exactly one on every site, or at most one."""
    lattice = square(width, height, boundary)
    links = lattice.bonds().tolist()
    if not exactly:
        pairs = [(k, m) for k, m in itertools.combinations(range(len(links)), 2) if set(links[k]) & set(links[m])]
        return HilbertSpace(len(links), ("empty", "dimer"), exclusions=(Exclusion(pairs, name="hard core"),))
    on = [tuple((0, int(site in link)) for link in links) for site in range(lattice.n_sites)]
    return HilbertSpace(
        len(links), ("empty", "dimer"), tuple(Charge(f"dimers on site {s}", rows, 1) for s, rows in enumerate(on))
    )


def allowed(space: HilbertSpace) -> list[tuple[int, ...]]:
    """The sector in lexicographic order, from the statements of the constraints alone."""

    def inside(n: tuple[int, ...]) -> bool:
        for charge in space.charges:
            rows = charge.values if isinstance(charge.values[0], tuple) else [charge.values] * space.n_sites
            total = sum(row[k] for row, k in zip(rows, n, strict=True))
            if charge.target is not None and (total - charge.target) % (charge.modulus or 10**9):
                return False
        return not any((n[i], n[j]) == tuple(both) for e in space.exclusions for i, j in e.pairs for both in e.states)

    return [n for n in itertools.product(*map(range, space.local_dims)) if inside(n)]


SPACES = {
    "blockaded ring": atoms(chain(7)),
    "blockaded torus": atoms(square(3, 3)),
    "two kinds of exclusion": HilbertSpace(
        6,
        ("a", "b", "c"),
        exclusions=(Exclusion(chain(6).bonds().tolist(), ((1, 2), (2, 1), (0, 0))), Exclusion([(5, 2)], ((2, 0),))),
    ),
    "bosons with a hard core": replace(
        bosons(6, 5, n_max=3),
        exclusions=(
            Exclusion(chain(6).bonds().tolist(), ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 3), (2, 3), (3, 2))),
        ),
    ),
    "parity under a blockade": replace(
        atoms(chain(8)), charges=(Charge("parity", (0, 1), 1, modulus=2), Charge("excitations", (0, 1)))
    ),
    "mixed spins with exclusions": replace(
        spins(6, 0.5, spin=(0.5, 1, 0.5, 1.5, 1, 1)),
        exclusions=(Exclusion([(0, 3), (5, 1), (1, 4)], ((1, 1), (0, 1))),),
    ),
    "dimer coverings": dimers(2, 4, "open", exactly=True),
    "dimers and monomers": dimers(2, 3, "open", exactly=False),
    "sublattice numbers and a blockade": replace(
        atoms(hypercubic((2, 4), "open")),
        charges=(Charge("even", ((0, 1), (0, 0)) * 4, 1), Charge("odd", ((0, 0), (0, 1)) * 4, 2)),
    ),
}
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


def hard_squares(length: int, width: int) -> int:
    """Configurations of a torus without occupied neighbours, by a transfer matrix of Python integers."""
    rows = [r for r in range(2**width) if not any(r >> k & 1 and r >> (k + 1) % width & 1 for k in range(width))]
    transfer = np.array([[int(not a & b) for b in rows] for a in rows], dtype=object)
    return int(np.trace(functools.reduce(np.dot, [transfer] * length)))


def matching_numbers(width: int) -> int:
    """Sets of disjoint bonds of an open square lattice, by removing one site after the other."""

    @functools.cache
    def count(sites: frozenset[tuple[int, int]]) -> int:
        if not sites:
            return 1
        x, y = min(sites)
        rest = sites - {(x, y)}
        return count(rest) + sum(count(rest - {other}) for other in ((x + 1, y), (x, y + 1)) if other in rest)

    return count(frozenset(itertools.product(range(width), repeat=2)))


# ---------------------------------------------------------------------------------------------- sectors


@every_space
def test_configurations_are_those_that_brute_force_finds(space: HilbertSpace) -> None:
    expected = allowed(space)
    n = space.configurations()
    assert [tuple(row) for row in n.tolist()] == expected
    assert space.dimension == len(expected)
    assert torch.equal(space.rank(n), torch.arange(len(n)))
    every = torch.tensor(list(itertools.product(range(space.local_dim), repeat=space.n_sites)), dtype=torch.uint8)
    assert space.contains(every).sum() == len(n)
    assert space.contains(n).all()


@every_space
def test_no_prefix_is_a_dead_end_and_uniform_conditionals_are_exact(space: HilbertSpace) -> None:
    """P(next | prefix) = completions of the longer prefix / completions of the prefix, 0 where there are none."""
    expected, tables = allowed(space), space.tables("cpu")
    for length in range(space.n_sites):
        prefixes = sorted({n[:length] for n in expected})
        probe = torch.zeros((len(prefixes), space.n_sites), dtype=torch.uint8)
        probe[:, :length] = torch.tensor(prefixes, dtype=torch.uint8).view(len(prefixes), length)
        remainder = space.remainders(probe)[:, length]
        found = tables.log_uniform[length, remainder].exp()
        for prefix, row in zip(prefixes, found.tolist(), strict=True):
            completions = [n for n in expected if n[:length] == prefix]
            for token, p in enumerate(row):
                assert p == pytest.approx(sum(n[length] == token for n in completions) / len(completions), abs=1e-14)


@every_space
def test_random_configurations_are_uniform(space: HilbertSpace) -> None:
    n = space.random(40 * space.dimension, torch.Generator().manual_seed(3))
    counts = torch.bincount(space.rank(n), minlength=space.dimension).numpy()
    assert scipy.stats.chisquare(counts).pvalue > CHI_SQUARE


def test_rings_and_chains_under_a_blockade_are_counted_by_lucas_and_fibonacci_numbers() -> None:
    fibonacci, lucas = [0, 1], [2, 1]
    for _ in range(200):
        fibonacci.append(sum(fibonacci[-2:]))
        lucas.append(sum(lucas[-2:]))
    for L in (2, 3, 4, 5, 10, 37, 100):
        assert atoms(chain(L)).dimension == lucas[L]
        assert atoms(chain(L, periodic=False)).dimension == fibonacci[L + 2]


@pytest.mark.parametrize("reach", [2, 3, 30])
def test_a_blockade_of_some_range_on_a_long_chain(reach: int) -> None:
    """F(L) = F(L - 1) + F(L - 1 - reach): the last atom is in its ground state, or blocks `reach` atoms before it."""
    numbers = [1]
    for L in range(1, 101):
        numbers.append(numbers[L - 1] + (numbers[L - 1 - reach] if reach < L else 1))
    pairs = [(i, j) for i in range(100) for j in range(i + 1, min(100, i + 1 + reach))]
    space = HilbertSpace(100, ("g", "r"), exclusions=(Exclusion(pairs),))
    assert space.dimension == numbers[100]
    assert space.n_remainders == reach + 1


def test_hard_squares_and_dimers_on_square_lattices() -> None:
    """Independent sets of the 4x4 and 6x6 torus by transfer matrices; dimer coverings by Kasteleyn's formula."""
    for W in (4, 6):
        assert atoms(square(W)).dimension == hard_squares(W, W)
        cosines = [2 * math.cos(math.pi * k / (W + 1)) for k in range(1, W + 1)]
        coverings = math.prod((a * a + b * b) ** 0.25 for a in cosines for b in cosines)
        assert dimers(W, W, "open", exactly=True).dimension == round(coverings)
    assert dimers(4, 4, "periodic", exactly=True).dimension == 272
    assert dimers(4, 4, "open", exactly=False).dimension == matching_numbers(4) == 10012


def test_constraints_that_no_table_holds_are_refused_with_its_size() -> None:
    pairs = random.Random(0).sample(list(itertools.combinations(range(80), 2)), 160)
    with pytest.raises(
        ValueError, match=r"table of at least 80 sites x [\d,]+ states .* x 2 .* the limit is 1\.7e\+07"
    ) as error:
        HilbertSpace(80, ("g", "r"), exclusions=(Exclusion(pairs),))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="narrower lattice"):
        pxp(square(20))
    assert pxp(hypercubic((20, 5))).hilbert.dimension == hard_squares(20, 5)  # the longest direction first


def test_impossible_constraints_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match=r"no configuration of 5 sites with excitations = 3 .*blockade"):
        replace(atoms(chain(5)), charges=(Charge("excitations", (0, 1), 3),))
    with pytest.raises(ValueError, match="names site 5 of 5"):
        HilbertSpace(5, ("g", "r"), exclusions=(Exclusion([(0, 5)]),))
    with pytest.raises(ValueError, match=r"local states \(1, 2\) of the sites \(0, 1\)"):
        HilbertSpace(5, ("g", "r"), exclusions=(Exclusion([(0, 1)], ((1, 2),)),))
    with pytest.raises(ValueError, match="pairs site 2 with itself"):
        Exclusion([(2, 2)])
    with pytest.raises(ValueError, match="n_max has 3 values for 4 sites"):
        bosons(4, 2, n_max=(1, 2, 3))


def test_products_keep_the_constraints_of_their_parts() -> None:
    space = product_space(spins(2), atoms(chain(4)))
    assert space.dimension == 4 * 7
    assert [tuple(row) for row in space.configurations().tolist()] == allowed(space)


def test_spins_and_bosons_that_differ_by_site() -> None:
    space = spins(4, 0, spin=(0.5, 1, 0.5, 1))
    assert [tuple(row) for row in space.configurations().tolist()] == allowed(space)
    assert bosons(3, 4, n_max=(1, 3, 2)).dimension == len(allowed(bosons(3, 4, n_max=(1, 3, 2)))) == 5
    assert spins(3, 1, spin=(1, 1, 1)) == spins(3, 1, spin=1)
    assert bosons(3, 2, n_max=(2, 5, 7)) == bosons(3, 2)  # more than two bosons do not occur


# ---------------------------------------------------------------------------------------------- models and samplers


@every_space
def test_a_model_is_normalised_and_both_samplers_draw_from_it(space: HilbertSpace) -> None:
    model = small_transformer(seed=2).build(space)
    log_modulus = model.log_psi(space.configurations()).log_modulus.detach()
    p = (2 * log_modulus).exp()
    assert p.sum().item() == pytest.approx(1.0, abs=1e-12)
    samples = TreeSampler(n_samples=50_000).build(model).sample(torch.Generator().manual_seed(1))
    counts = np.zeros(space.dimension)
    counts[space.rank(samples.configurations).numpy()] = samples.counts.numpy()
    assert scipy.stats.chisquare(counts, 50_000 * p.numpy() / p.sum().item()).pvalue > CHI_SQUARE
    drawn = GumbelSampler(n_distinct=5).build(model).sample(torch.Generator().manual_seed(1))
    torch.testing.assert_close(drawn.log_modulus, log_modulus[space.rank(drawn.configurations)])
    outside = 1 - space.configurations()[:1] if space.local_dim == 2 else None
    if outside is not None and not space.contains(outside).any():
        assert model.log_psi(outside).log_modulus.item() == -math.inf


@pytest.mark.parametrize("lattice", [chain(100), square(10, 10)], ids=str)
def test_samples_of_a_hundred_atoms_obey_the_blockade(lattice: Lattice) -> None:
    space = atoms(lattice)
    model = small_transformer(seed=2).build(space)
    i, j = lattice.bonds().T
    for sampler in (TreeSampler(n_samples=300), GumbelSampler(n_distinct=200)):
        samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
        n = samples.configurations
        assert not (n[:, i] & n[:, j]).any()
        assert n.any(1).all()
        torch.testing.assert_close(model.log_psi(n).log_modulus.detach(), samples.log_modulus)


# ---------------------------------------------------------------------------------------------- symmetries


def test_symmetries_that_change_constraints_or_kinds_of_sites_are_left_out() -> None:
    assert symmetries_of(pxp(chain(8))).order == 16
    assert symmetries_of(Heisenberg(chain(8), 0, spin=(0.5, 1) * 4)).order == 8  # by two sites, with reflections
    assert symmetries_of(BoseHubbard(chain(4), 2, U=1.0, n_max=(2, 1, 2, 1))).order == 4
    cut = replace(atoms(chain(60)), exclusions=(Exclusion(chain(60).bonds().tolist()[1:]),))  # one pair of 60 is free
    group = space_group(chain(60), cut)
    assert group.keeps_sites(cut).sum() == 2  # the identity, and the reflection of that bond
    with pytest.raises(ValueError, match="leaves the sector"):
        group.check(cut)


def test_orbits_of_the_blockaded_ring() -> None:
    """By Burnside's lemma the translations have as many orbits as binary necklaces without neighbouring ones."""
    space, group = atoms(chain(9)), space_group(chain(9), atoms(chain(9)))
    n = space.configurations()
    images = group.images(n)  # (B, G, L)
    fixed = (images == n[:, None]).all(2).sum().item()
    assert group.number_of_orbits(space) == fixed // group.order
    model = OnOrbits(base=small_transformer(), symmetry=group).build(space)
    p = (2 * model.log_psi(n).log_modulus).exp()
    assert p.sum().item() == pytest.approx(1.0, abs=1e-12)


# ---------------------------------------------------------------------------------------------- Rydberg atoms


def rydberg_matrix(h: Rydberg) -> np.ndarray:
    """From Kronecker products, with the rows of excluded states removed."""
    L, distances = h.lattice.n_sites, h.lattice.distances().numpy()
    x, number = np.array([[0.0, 1.0], [1.0, 0.0]]), np.diag([0.0, 1.0])

    def at(operator: np.ndarray, site: int) -> np.ndarray:
        return np.kron(np.kron(np.eye(2**site), operator), np.eye(2 ** (L - 1 - site)))

    matrix, kept = np.zeros((2**L, 2**L)), np.ones(2**L, dtype=bool)
    for i in range(L):
        matrix += h.Omega / 2 * at(x, i) - h.Delta * at(number, i)
        for j in range(i):
            both = at(number, i) @ at(number, j)
            if distances[i, j] < h.blockade + 0.01:
                kept &= np.diag(both) == 0
            else:
                matrix += h.V / distances[i, j] ** 6 * both
    return matrix[np.ix_(kept, kept)]


@pytest.mark.parametrize("lattice", [chain(7), chain(6, periodic=False), square(3, 3)], ids=str)
@pytest.mark.parametrize("blockade", [0.0, 1.0, 1.5, 2.0])
def test_rydberg_atoms_equal_kronecker_products(lattice: Lattice, blockade: float) -> None:
    h = Rydberg(lattice, Omega=1.3, Delta=0.7, V=3.1, blockade=blockade)
    assert_same(dense(h), rydberg_matrix(h))
    check_hamiltonian(h)


def test_pxp_on_four_atoms_by_hand() -> None:
    """Ring of 4: 7 states; on the symmetric ones |0>, |1>, |2> the elements of sum P X P are 2 and sqrt 2."""
    energy = exact.ground_state(pxp(chain(4))).energy
    assert energy == pytest.approx(-math.sqrt(6.0), abs=1e-12)


@pytest.mark.parametrize("L", [6, 8, 12])
def test_known_ground_state_under_a_blockade(L: int) -> None:
    """w^2 = U V2 + 3 V2^2: amplitudes (V2 / w)^(number of excited atoms), energy -V2 L (Lesanovsky 2011)."""
    w, V2 = 1.1, 0.7
    U = (w**2 - 3 * V2**2) / V2
    h = Rydberg(chain(L), Omega=-2 * w, Delta=-U, V=64 * V2, blockade=1.0, reach=2.0)
    found = exact.ground_state(h)
    assert found.energy == pytest.approx(-V2 * L, abs=1e-11)
    product = (V2 / w) ** h.hilbert.configurations().sum(1).double().numpy()
    assert abs(product @ np.asarray(found.state)) / np.linalg.norm(product) == pytest.approx(1.0, abs=1e-10)


def test_impossible_atoms_are_refused() -> None:
    for wrong in ({"blockade": -1.0}, {"Omega": math.nan}, {"V": math.inf}, {"reach": 0.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Rydberg(chain(4), **wrong)
    with pytest.raises(ValueError, match="antiperiodic"):
        Rydberg(chain(4, boundary="antiperiodic"))


@dataclass(frozen=True)
class FreeSpinsUnderABlockade:
    """Flips every atom, whatever its neighbours do: wrong, for the check at the door."""

    lattice: Lattice

    @property
    def hilbert(self) -> HilbertSpace:
        return atoms(self.lattice)

    def diagonal(self, n: torch.Tensor) -> torch.Tensor:
        return n.double().sum(1)

    def connected(self, n: torch.Tensor) -> Connected:
        return Ising(self.lattice, h=1.0).connected(n)


def test_terms_that_break_a_constraint_are_refused_at_the_door() -> None:
    with pytest.raises(ValueError, match=r"sites \(\d+, \d+\) that exclude each other"):
        check_hamiltonian(FreeSpinsUnderABlockade(chain(6)))


# ---------------------------------------------------------------------------------------------- mixed sites


def spin_matrices(spin: float) -> tuple[np.ndarray, ...]:
    m = np.arange(round(2 * spin) + 1) - spin  # 0 is fully down
    raising = np.diag(np.sqrt(spin * (spin + 1) - m[:-1] * (m[:-1] + 1)), -1)
    return (raising + raising.T) / 2, (raising - raising.T) / 2j, np.diag(m)


def product_of(operators: dict[int, np.ndarray], dims: tuple[int, ...]) -> np.ndarray:
    return functools.reduce(np.kron, [operators.get(site, np.eye(d)) for site, d in enumerate(dims)])


def test_mixed_spins_equal_kronecker_products() -> None:
    lattice, lengths = chain(5), (0.5, 1, 1.5, 1, 0.5)
    h = Heisenberg(lattice, J=1.3, Delta=0.8, h=0.3, spin=lengths)
    dims, matrix = h.hilbert.local_dims, 0
    assert dims == (2, 3, 4, 3, 2)
    for i, j in lattice.bonds().tolist():
        for factor, a, b in zip((1, 1, 0.8), spin_matrices(lengths[i]), spin_matrices(lengths[j]), strict=True):
            matrix = matrix + 1.3 * factor * product_of({i: a, j: b}, dims)
    for i, spin in enumerate(lengths):
        matrix = matrix - 0.3 * product_of({i: spin_matrices(spin)[2]}, dims)
    assert_same(dense(h), matrix)
    check_hamiltonian(h)
    sector = replace(h, total_sz=1.5)
    lowest = np.linalg.eigvalsh(matrix[np.ix_(*[_rows_with(h.hilbert, sector.hilbert)] * 2)])[0]
    assert exact.ground_state(sector).energy == pytest.approx(lowest, abs=1e-11)


def _rows_with(space: HilbertSpace, sector: HilbertSpace) -> np.ndarray:
    return sector.contains(space.configurations()).numpy().nonzero()[0]


def test_bosons_with_cutoffs_by_site_equal_kronecker_products() -> None:
    lattice, most = chain(4), (1, 3, 2, 4)
    h = BoseHubbard(lattice, U=2.0, V=0.3, mu=0.4, n_max=most)
    dims, matrix = h.hilbert.local_dims, 0
    b = [np.diag(np.sqrt(np.arange(1.0, d)), 1) for d in dims]
    n = [np.diag(np.arange(float(d))) for d in dims]
    for i, j in lattice.bonds().tolist():
        hop = product_of({i: b[i].T, j: b[j]}, dims)
        matrix = matrix - hop - hop.T + 0.3 * product_of({i: n[i], j: n[j]}, dims)
    for i in range(4):
        matrix = matrix + product_of({i: 2.0 / 2 * n[i] @ (n[i] - np.eye(dims[i])) - 0.4 * n[i]}, dims)
    assert_same(dense(h), matrix)
    check_hamiltonian(replace(h, n_particles=5))


def jaynes_cummings_hubbard(cavities: int, n_max: int, polaritons: int) -> tuple[NetKetOperator, np.ndarray]:
    """H = sum_c [w n + e s+ s- + g (a s+ + a+ s-)] - J sum_<cd> (a+_c a_d + h.c.): an atom and a mode a cavity."""
    nk = pytest.importorskip("netket")
    parts = [part for _ in range(cavities) for part in (nk.hilbert.Spin(0.5, 1), nk.hilbert.Fock(n_max, 1))]
    space, dims = nk.hilbert.TensorHilbert(*parts), (2, n_max + 1) * cavities
    w, e, g, J = 1.0, 0.8, 0.9, 0.3
    a, number = np.diag(np.sqrt(np.arange(1.0, n_max + 1)), 1), np.diag(np.arange(n_max + 1.0))
    operator, matrix = nk.operator.LocalOperator(space, dtype=float), 0
    raising = np.array([[0.0, 0.0], [1.0, 0.0]])  # in the order down, up; NetKet lists up first
    flipped = raising[::-1, ::-1]
    for c in range(cavities):
        atom, mode, other = 2 * c, 2 * c + 1, (2 * c + 3) % (2 * cavities)
        local = nk.operator.LocalOperator
        operator += local(space, w * number, [mode]) + local(space, np.diag([e, 0.0]), [atom])
        operator += local(space, g * (np.kron(flipped, a) + np.kron(flipped.T, a.T)), [atom, mode])
        operator += local(space, -J * (np.kron(a, a.T) + np.kron(a.T, a)), [mode, other])
        coupling, hop = product_of({atom: raising, mode: a}, dims), product_of({mode: a.T, other: a}, dims)
        matrix = matrix + w * product_of({mode: number}, dims) + e * product_of({atom: np.diag([0.0, 1.0])}, dims)
        matrix = matrix + g * (coupling + coupling.T) - J * (hop + hop.T)
    rows = tuple((0, 1) if site % 2 == 0 else tuple(range(n_max + 1)) for site in range(2 * cavities))
    sites = product_space(*[part for _ in range(cavities) for part in (spins(1), bosons(1, n_max=n_max))])
    sector = replace(sites, charges=(*sites.charges, Charge("polaritons", rows, polaritons)))
    kept = [k for k, n in enumerate(itertools.product(*map(range, dims))) if sum(n) == polaritons]
    return NetKetOperator.from_netket(operator, sector, name="Jaynes-Cummings-Hubbard"), matrix[np.ix_(kept, kept)]


def test_cavities_with_atoms_equal_kronecker_products() -> None:
    h, matrix = jaynes_cummings_hubbard(3, n_max=2, polaritons=3)
    assert_same(dense(h), matrix)
    check_hamiltonian(h)


def test_netket_spaces_of_different_sites_and_under_a_blockade() -> None:
    pytest.importorskip("netket")
    for h in (
        Heisenberg(chain(4), 0, spin=(0.5, 1, 0.5, 1)),
        pxp(chain(6)),
        BoseHubbard(chain(3), 3, U=1.0, n_max=(1, 3, 2)),
    ):
        operator = to_netket(h)
        np.testing.assert_allclose(
            np.linalg.eigvalsh(operator.to_dense()), np.linalg.eigvalsh(dense(h)), rtol=0, atol=1e-12
        )
        assert NetKetOperator.from_netket(operator).hilbert == h.hilbert


# ---------------------------------------------------------------------------------------------- from end to end


CASES: dict[str, Any] = {
    "pxp": lambda: pxp(chain(10)),
    "atoms that interact": lambda: Rydberg(chain(8, periodic=False), Delta=0.8, V=4.0, blockade=1.0),
    "mixed spins": lambda: Heisenberg(chain(6), 0.5, spin=(0.5, 1, 0.5, 1, 0.5, 1)),
    "cutoffs by site": lambda: BoseHubbard(chain(5), 4, U=3.0, n_max=(1, 3, 2, 1, 4)),
    "atoms in cavities": lambda: jaynes_cummings_hubbard(2, n_max=2, polaritons=2)[0],
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_whole_run_ends_at_the_dense_ground_state(case: Any, tmp_path: Path, drawn_figures: None) -> None:
    h: Hamiltonian = case()
    matrix = dense(h)
    path = tmp_path / "run.h5"
    result = nqs.ground_state(h, archive=path, steps=20, progress=False, figure=True)
    lowest = np.linalg.eigvalsh(matrix)[0]
    assert result.estimate.energy == pytest.approx(lowest, rel=1e-4)
    observables = nqs.Archive.open(path).observables()
    pairs = [name for name in observables if f"{name}_exact" in observables]
    assert len(pairs) >= 3
    for name in pairs:
        np.testing.assert_allclose(observables[name], observables[f"{name}_exact"], rtol=0, atol=0.02)
    again = nqs.resume(path, progress=False)
    assert again.estimate == result.estimate
    assert path.with_suffix(".png").exists()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_all_samplers_estimate_the_energy_of_the_model(case: Any) -> None:
    h: Hamiltonian = case()
    space, matrix = h.hilbert, dense(h)
    model = small_transformer(seed=5).build(space)
    log_modulus, phase = (t.detach() for t in model.log_psi(space.configurations()))
    psi = torch.polar(log_modulus.exp(), phase).numpy()
    expected = (psi.conj() @ matrix @ psi).real
    for sampler, sigmas in (
        (ExhaustiveSampler(), 0),
        (TreeSampler(n_samples=20_000), 5),
        (GumbelSampler(n_distinct=space.dimension // 2), 5),
    ):
        samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
        local = local_energies(h, model, samples).values.real
        error = samples.standard_error(local).item()
        assert abs(samples.mean(local).item() - expected) < sigmas * error + 1e-10
        assert error > 0 or not sigmas


@dataclass(frozen=True)
class HardCoreBosons:
    """-sum_<ij> (b+_i b_j + h.c.) for bosons that are never neighbours."""

    lattice: Lattice
    n_particles: int

    @functools.cached_property
    def hilbert(self) -> HilbertSpace:
        bonds = self.lattice.bonds().tolist()
        return replace(bosons(self.lattice.n_sites, self.n_particles, n_max=1), exclusions=(Exclusion(bonds),))

    def diagonal(self, n: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(n), dtype=torch.float64, device=n.device)

    def connected(self, n: torch.Tensor) -> Connected:
        free = BoseHubbard(self.lattice, self.n_particles, U=0.0, n_max=1).connected(n)
        inside = self.hilbert.contains(free.configurations)
        return Connected(*(part[inside] for part in free))

    is_stoquastic = True


@pytest.mark.parametrize("orbits", [False, True])
def test_observables_of_a_model_under_a_constraint_are_those_of_its_amplitudes(orbits: bool) -> None:
    h = HardCoreBosons(chain(8), 3)
    space = h.hilbert
    model: Any = small_transformer(seed=1).build(space)
    if orbits:
        model = OnOrbits(base=model.config, symmetry=symmetries_of(h)).build(space)
    log_modulus, phase = (t.detach() for t in model.log_psi(space.configurations()))
    state = StateVector(space, torch.polar(log_modulus.exp(), phase))
    reference = exact_samples(space, torch.polar(log_modulus.exp(), phase))
    # moves that lead out of the space have the amplitude 0, never nan
    found = one_body_density_matrix(
        TreeSampler(n_samples=10**12).build(model).sample(torch.Generator().manual_seed(0)),
        model,
        permutations=chain(8).translations(),
    )
    expected = one_body_density_matrix(reference, state, permutations=chain(8).translations())
    torch.testing.assert_close(found.value, expected.value, rtol=0, atol=1e-4)
    psi = np.zeros((2,) * 8, dtype=complex)
    for n, log, angle in zip(space.configurations().tolist(), log_modulus.tolist(), phase.tolist(), strict=True):
        psi[tuple(n)] = np.exp(log + 1j * angle)
    entropy = -math.log(np.square(np.linalg.svd(psi.reshape(16, 16), compute_uv=False) ** 2).sum())
    assert renyi2_entropy(reference, state, [0, 1, 2, 3]).value.item() == pytest.approx(entropy, abs=1e-10)


def test_the_page_about_spaces_prints_what_it_shows(capsys: pytest.CaptureFixture[str], unchecked: None) -> None:
    exec("\n".join(readme.page_blocks("spaces.md", "python")), {})
    assert capsys.readouterr().out == "".join(readme.page_blocks("spaces.md", "text"))


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, unchecked: None) -> None:
    """`nqs run` for atoms and for alternating spins; one line for what does not fit, and for a large torus."""
    monkeypatch.chdir(tmp_path)
    toy = ["--steps", "6", "--model.width", "8"]
    main(["run", "rydberg", "--shape", "8", "--Delta", "0.4", "--V", "3", *toy])
    atoms_energy = exact.ground_state(Rydberg(chain(8), Omega=2.0, Delta=0.4, V=3.0, blockade=1.0)).energy
    assert f"exact {atoms_energy:.8f} Omega" in capsys.readouterr().out
    main(["run", "heisenberg", "--shape", "4", "--spin", "0.5", "1", *toy])
    energy = exact.ground_state(Heisenberg(chain(4), 0, spin=(0.5, 1, 0.5, 1))).energy
    assert f"exact {energy:.8f} J" in capsys.readouterr().out
    for wrong, message in (
        (["heisenberg", "--shape", "5", "--spin", "0.5", "1"], "5 sites are no multiple of 2"),
        (["rydberg", "--shape", "20", "20"], "the limit is"),
    ):
        with pytest.raises(SystemExit, match=r"^2$"):
            main(["run", *wrong])
        found = capsys.readouterr().err.strip()
        assert message in found
        assert "\n" not in found


# ---------------------------------------------------------------------------------------------- archives


def test_constraints_are_stored_and_change_no_older_configuration() -> None:
    plain, blocked = atoms(chain(6), blockade=False), atoms(chain(6))
    assert "exclusions" not in to_plain(plain)  # as in archives of versions without constraints
    for space in (plain, blocked):
        again = from_plain(json.loads(json.dumps(to_plain(space))), known_types())
        assert again == space
        assert again.exclusions == space.exclusions
    assert plain != blocked
    assert any("exclusions" in line for line in differences(to_plain(plain), to_plain(blocked)))
