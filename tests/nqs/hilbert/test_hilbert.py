"""Hilbert spaces against enumeration of the whole product space, closed forms, and NetKet."""

import functools
import importlib
import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import jaxtyping
import netket as nk
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jaxtyping import Float, UInt8
from networks import small_transformer
from torch import Tensor

from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import Charge, HilbertSpace, bosons, fermions, spinful_fermions, spins
from nqs.lattice import chain
from nqs.samplers.tree import Frontier, grow, split_counts

CHI_SQUARE = 1e-4  # smallest p-value of a chi-square test

# ------------------------------------------------------------------------------------------ spaces by brute force


class Recipe(NamedTuple):
    """A Hilbert space and the same sector in the words of physics, on a product space small enough to visit."""

    build: Callable[[], HilbertSpace]
    n_sites: int
    local_dim: int
    inside: Callable[[tuple[int, ...]], bool]

    def everything(self) -> list[tuple[int, ...]]:
        """The whole product space, in lexicographic order."""
        return list(itertools.product(range(self.local_dim), repeat=self.n_sites))

    def sector(self) -> list[tuple[int, ...]]:
        return [n for n in self.everything() if self.inside(n)]


def boson_recipe(n_sites: int, n_particles: int | None, n_max: int | None) -> Recipe:
    local_dim = min(x for x in (n_particles, n_max) if x is not None) + 1
    return Recipe(
        functools.partial(bosons, n_sites, n_particles, n_max),
        n_sites,
        local_dim,
        lambda n: n_particles is None or sum(n) == n_particles,
    )


def fermion_recipe(n_orbitals: int, n_particles: int | None) -> Recipe:
    return Recipe(
        functools.partial(fermions, n_orbitals, n_particles),
        n_orbitals,
        2,
        lambda n: n_particles is None or n.count(1) == n_particles,
    )


def spinful_recipe(n_orbitals: int, n_up: int | None, n_down: int | None) -> Recipe:
    return Recipe(
        functools.partial(spinful_fermions, n_orbitals, n_up, n_down),
        n_orbitals,
        4,
        lambda n: (
            (n_up is None or n.count(1) + n.count(3) == n_up) and (n_down is None or n.count(2) + n.count(3) == n_down)
        ),
    )


def spin_recipe(n_sites: int, twice_total: int | None, twice_spin: int) -> Recipe:
    total, spin = None if twice_total is None else twice_total / 2, twice_spin / 2
    return Recipe(
        functools.partial(spins, n_sites, total, spin),
        n_sites,
        twice_spin + 1,
        lambda n: total is None or sum(Fraction(k) - Fraction(spin) for k in n) == Fraction(total),
    )


def charge_recipe(n_sites: int, charges: tuple[tuple[tuple[int, ...], int | None, int | None], ...]) -> Recipe:
    """`charges`: values, target and modulus of each."""
    local_dim = len(charges[0][0])

    def inside(n: tuple[int, ...]) -> bool:
        for values, target, modulus in charges:
            total = sum(values[k] for k in n)
            if target is not None and (total - target if modulus is None else (total - target) % modulus) != 0:
                return False
        return True

    def build() -> HilbertSpace:
        named = tuple(Charge(f"Q{i}", *charge) for i, charge in enumerate(charges))
        return HilbertSpace(n_sites, tuple("abcdef"[:local_dim]), named)

    return Recipe(build, n_sites, local_dim, inside)


def mixed_recipe(
    dims: tuple[int, ...], charges: tuple[tuple[tuple[tuple[int, ...], ...], int | None, int | None], ...]
) -> Recipe:
    """Sites with `dims` local states; `charges`: values by site, target and modulus of each."""

    def inside(n: tuple[int, ...]) -> bool:
        if any(k >= d for k, d in zip(n, dims, strict=True)):
            return False
        for values, target, modulus in charges:
            total = sum(row[k] for row, k in zip(values, n, strict=True))
            if target is not None and (total - target if modulus is None else (total - target) % modulus) != 0:
                return False
        return True

    def build() -> HilbertSpace:
        named = tuple(Charge(f"Q{i}", *charge) for i, charge in enumerate(charges))
        return HilbertSpace(len(dims), tuple(tuple("abcdef"[:d]) for d in dims), named)

    return Recipe(build, len(dims), max(dims), inside)


# Strategies draw numbers only; tests build the spaces. Run-time type checkers use `random`, which hypothesis forbids
# in strategies. The ranges hold impossible sectors too.


@st.composite
def boson_recipes(draw: st.DrawFn) -> Recipe:
    n_sites = draw(st.integers(1, 4))
    n_max = draw(st.none() | st.integers(1, 4))
    numbers = st.integers(0, 5) if n_max is None else st.none() | st.integers(0, n_max * n_sites)
    n_particles = draw(numbers)
    return boson_recipe(n_sites, n_particles, n_max)


@st.composite
def charge_recipes(draw: st.DrawFn) -> Recipe:
    n_sites, local_dim = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    values = st.tuples(*[st.integers(-3, 3)] * local_dim)
    charge = st.tuples(values, st.none() | st.integers(-5, 5), st.none() | st.integers(1, 4))
    return charge_recipe(n_sites, tuple(draw(st.lists(charge, min_size=1, max_size=3))))


@st.composite
def mixed_recipes(draw: st.DrawFn) -> Recipe:
    dims = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    values = st.tuples(*(st.tuples(*[st.integers(-3, 3)] * d) for d in dims))
    charge = st.tuples(values, st.none() | st.integers(-5, 5), st.none() | st.integers(1, 4))
    return mixed_recipe(dims, tuple(draw(st.lists(charge, max_size=3))))


RECIPES = st.one_of(
    boson_recipes(),
    st.builds(fermion_recipe, st.integers(1, 7), st.none() | st.integers(-1, 8)),
    st.builds(spinful_recipe, st.integers(1, 4), st.none() | st.integers(-1, 5), st.none() | st.integers(-1, 5)),
    st.builds(spin_recipe, st.integers(1, 5), st.none() | st.integers(-7, 7), st.integers(1, 3)),
    charge_recipes(),
    mixed_recipes(),
)
MODULAR = charge_recipe(4, (((0, 1, 1, 2), 2, 3), ((0, 1, -1, 0), 0, None)))  # electrons modulo 3, and 2 Sz
SEVERAL = charge_recipe(4, (((0, 1, 0, 1), 2, None), ((0, 0, 1, 1), 1, 3), ((2, -1, 0, 1), None, None)))
MIXED_SPINS = mixed_recipe((2, 3, 2, 3), ((((-1, 1), (-2, 0, 2)) * 2, 0, None),))  # 1/2 and 1, total S^z = 0
MOMENTUM = mixed_recipe(
    (4,) * 4, ((((0, 1, 2, 3),) * 4, 3, None), (tuple((0, k, 2 * k, 3 * k) for k in range(4)), 0, 4))
)
ALWAYS = [
    MIXED_SPINS,
    MOMENTUM,
    mixed_recipe((1, 4, 2), ()),
    boson_recipe(3, 4, None),
    boson_recipe(4, 5, 2),
    boson_recipe(3, None, 3),
    boson_recipe(3, 0, None),  # one local state
    fermion_recipe(5, 2),
    fermion_recipe(5, None),
    spinful_recipe(4, 2, 1),
    spinful_recipe(3, 2, None),
    spin_recipe(5, 1, 1),
    spin_recipe(4, -2, 2),
    spin_recipe(4, 2, 3),
    spin_recipe(3, None, 2),
    MODULAR,
    SEVERAL,
]


def on_small_spaces(test: Callable) -> Callable:
    """Runs a test of (space, recipe) on drawn recipes, and on those above.

    A sector is refused exactly where brute force finds nothing in it.
    """

    def wrapper(recipe: Recipe) -> None:
        if recipe.sector():
            test(recipe.build(), recipe)
        else:
            with pytest.raises(ValueError, match=r"impossible|at the same time"):
                recipe.build()

    wrapper.__name__ = wrapper.__qualname__ = test.__name__
    wrapper.__doc__ = test.__doc__
    for recipe in ALWAYS:
        wrapper = example(recipe=recipe)(wrapper)
    return settings(max_examples=70)(given(recipe=RECIPES)(wrapper))


def label(value: object) -> str | None:
    """Name of a space in the list of tests."""
    value = value.build() if isinstance(value, Recipe) else value
    return str(value) if isinstance(value, HilbertSpace) else None


def tensor(rows: list[tuple[int, ...]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


# ----------------------------------------------------------------------------------------- dimension, enumeration


@on_small_spaces
def test_enumeration_is_the_sector_in_lexicographic_order(space: HilbertSpace, recipe: Recipe) -> None:
    sector = recipe.sector()
    assert (space.n_sites, space.local_dim) == (recipe.n_sites, recipe.local_dim)
    assert type(space.dimension) is int
    assert space.dimension == len(sector)
    configurations = space.configurations()
    assert configurations.dtype == torch.uint8
    assert configurations.tolist() == [list(n) for n in sector]
    start, stop = len(sector) // 3, len(sector) - len(sector) // 4
    assert space.configurations(start, stop).tolist() == [list(n) for n in sector[start:stop]]
    assert space.configurations(stop, stop).shape == (0, recipe.n_sites)


@on_small_spaces
def test_rank_and_unrank_are_inverse(space: HilbertSpace, recipe: Recipe) -> None:
    shuffled = torch.randperm(space.dimension, generator=torch.Generator().manual_seed(1))
    n = space.unrank(shuffled)
    assert n.tolist() == [list(recipe.sector()[i]) for i in shuffled.tolist()]
    assert space.rank(n).equal(shuffled)


@on_small_spaces
def test_contains_knows_the_sector_in_the_product_space(space: HilbertSpace, recipe: Recipe) -> None:
    everything = recipe.everything()
    assert space.contains(tensor(everything)).tolist() == [recipe.inside(n) for n in everything]


@on_small_spaces
def test_contains_refuses_what_is_no_local_state(space: HilbertSpace, recipe: Recipe) -> None:
    """Also where clamping or wrapping it to a local state would put it into the sector."""
    for wrong in (recipe.local_dim, 2 * recipe.local_dim - 1, 255):
        n = space.configurations()
        n[:, -1] = wrong
        assert not space.contains(n).any()


# ------------------------------------------------------------------------------------- remainders and feasibility


@on_small_spaces
def test_log_uniform_is_finite_exactly_where_the_sector_can_be_reached(space: HilbertSpace, recipe: Recipe) -> None:
    sector = recipe.sector()
    tables = space.tables("cpu")
    prefixes = {n[:length] for n in sector for length in range(recipe.n_sites + 1)}
    completions = {prefix: sum(n[: len(prefix)] == prefix for n in sector) for prefix in prefixes}
    for prefix in prefixes:
        if len(prefix) == recipe.n_sites:
            continue
        remainder = torch.tensor([space.start])
        for site, state in enumerate(prefix):
            remainder = tables.after(site, remainder, torch.tensor([state]))
        conditionals = tables.log_uniform[len(prefix), remainder[0]].exp()
        expected = [completions.get((*prefix, state), 0) / completions[prefix] for state in range(recipe.local_dim)]
        np.testing.assert_allclose(conditionals, expected, rtol=1e-12, atol=0)
        assert conditionals.sum().item() == pytest.approx(1, rel=1e-12)


@on_small_spaces
def test_product_of_uniform_conditionals_is_one_over_the_dimension(space: HilbertSpace, recipe: Recipe) -> None:
    """And zero, never nan, outside the sector: what cannot be reached is cut once, and later rows leave it so."""
    n = tensor(recipe.everything())
    rows = space.tables("cpu").log_uniform[torch.arange(recipe.n_sites), space.remainders(n)]
    log_p = rows.gather(-1, n.long()[..., None]).sum((1, 2))
    inside = torch.tensor([recipe.inside(m) for m in recipe.everything()])
    torch.testing.assert_close(log_p[inside], torch.full_like(log_p[inside], -math.log(len(recipe.sector()))))
    assert (log_p[~inside] == -math.inf).all()
    cut = rows.gather(-1, n.long()[..., None])[..., 0].isinf()
    assert (cut.sum(1) == (~inside).long()).all()
    later = cut.cumsum(1) - cut.long() > 0
    assert not rows[later].any()


@on_small_spaces
def test_remainders_are_a_walk_through_the_table(space: HilbertSpace, recipe: Recipe) -> None:
    n = tensor(recipe.everything())
    tables = space.tables("cpu")
    walk = [torch.full((len(n),), space.start)]
    for site in range(recipe.n_sites - 1):
        walk.append(tables.after(site, walk[-1], n[:, site].long()))
    assert space.remainders(n).equal(torch.stack(walk, dim=1))


@on_small_spaces
def test_remainders_sink_once_a_charge_has_overshot(space: HilbertSpace, recipe: Recipe) -> None:
    """A charge has overshot if even its smallest value on all further sites leads beyond the target.

    So has a prefix with a local state that its site does not have.
    """
    dims = space.local_dims
    exact = [charge for charge in space.charges if charge.target is not None and charge.modulus is None]
    tables = [(c.target, space.table(c.values).tolist()) for c in exact]
    rows = [(target, [row[:d] for row, d in zip(table, dims, strict=True)]) for target, table in tables]
    sunk = [
        [
            any(k >= d for k, d in zip(n[:site], dims, strict=False))
            or any(
                sum(row[k] for row, k in zip(values, n[:site], strict=False)) + sum(map(min, values[site:])) > target
                for target, values in rows
            )
            for site in range(recipe.n_sites)
        ]
        for n in recipe.everything()
    ]
    remainders = space.remainders(tensor(recipe.everything()))
    assert (remainders == space.n_remainders).tolist() == sunk
    assert ((remainders >= 0) & (remainders <= space.n_remainders)).all()
    assert (space.tables("cpu").advance[..., -1, :] == space.n_remainders).all()


def test_tables_are_made_once_a_device() -> None:
    space = bosons(3, 3)
    assert space.tables("cpu") is space.tables(torch.device("cpu"))
    assert space == bosons(3, 3)
    assert hash(space) == hash(bosons(3, 3))
    assert space != bosons(3, 2)


# -------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    "space",
    [bosons(5, 5), fermions(100, 50), spinful_fermions(40, 20, 20), spins(100, 0, spin=1), bosons(20, None, 200)],
    ids=label,
)
def test_keys_tell_configurations_apart(space: HilbertSpace) -> None:
    """A configuration and all that differ from it on one site: every site must count in its own way."""
    n = space.random(1, torch.Generator().manual_seed(3))
    rows = {tuple(n[0].tolist())}
    for site in range(space.n_sites):
        for state in range(space.local_dim):
            other = n.clone()
            other[0, site] = state
            rows.add(tuple(other[0].tolist()))
    assert len(rows) == 1 + space.n_sites * (space.local_dim - 1)
    keys = space.keys(tensor(sorted(rows)))
    assert len(torch.unique(keys, dim=0)) == len(rows)
    assert space.keys(n).equal(space.keys(n.clone()))


@on_small_spaces
def test_keys_are_one_word_in_lexicographic_order(space: HilbertSpace, recipe: Recipe) -> None:
    keys = space.keys(tensor(recipe.everything()))
    assert keys.shape == (recipe.local_dim**recipe.n_sites, 1)
    assert (keys[1:, 0] > keys[:-1, 0]).all()


@pytest.mark.parametrize("local_dim", [1, 2, 3, 4, 5, 7, 8, 10, 16, 64, 100, 128, 200, 255, 256])
def test_keys_fill_words_without_overflow(local_dim: int) -> None:
    space = HilbertSpace(130, tuple(map(str, range(local_dim))))
    largest = torch.full((1, 130), local_dim - 1, dtype=torch.uint8)
    keys = space.keys(torch.cat([largest, torch.zeros_like(largest)]))
    assert (keys >= 0).all()
    assert not keys[1].any()
    sites_per_word = next(k for k in itertools.count(1) if local_dim ** (k + 1) > 2**63 or k == 63)
    assert keys.shape[1] == -(-130 // sites_per_word)
    assert keys[0, 0] == local_dim**sites_per_word - 1  # the largest number of that many digits


# ------------------------------------------------------------------------------------------------------ random


@pytest.mark.parametrize(
    "recipe",
    [
        boson_recipe(4, 4, None),
        boson_recipe(4, 5, 2),
        fermion_recipe(6, 3),
        spinful_recipe(3, 2, 1),
        spin_recipe(4, 0, 2),
        MODULAR,
        boson_recipe(2, None, 3),
    ],
    ids=label,
)
@pytest.mark.parametrize("seed", [0, 1])
def test_random_configurations_are_uniform_over_the_sector(recipe: Recipe, seed: int) -> None:
    space = recipe.build()
    n = space.random(200 * space.dimension, torch.Generator().manual_seed(seed))
    assert n.dtype == torch.uint8
    assert all(recipe.inside(tuple(row)) for row in torch.unique(n, dim=0).tolist())
    position = {row: i for i, row in enumerate(recipe.sector())}
    counts = np.bincount([position[tuple(row)] for row in n.tolist()], minlength=len(position))
    assert scipy.stats.chisquare(counts).pvalue > CHI_SQUARE


def test_random_configurations_follow_the_generator_alone() -> None:
    space = bosons(6, 6)
    torch_state = torch.get_rng_state()
    first, second, other = (space.random(50, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert first.equal(second)
    assert not first.equal(other)
    assert torch.get_rng_state().equal(torch_state)
    assert space.random(0, torch.Generator()).shape == (0, 6)


# ------------------------------------------------------------------------------------------ closed forms, NetKet


@pytest.mark.parametrize(
    ("space", "dimension"),
    [
        (bosons(100, 100), math.comb(199, 100)),
        (bosons(1, 254), 1),
        (bosons(50, 0), 1),
        (bosons(60, None, 5), 6**60),
        (bosons(40, 30, 1), math.comb(40, 30)),
        # Inclusion and exclusion of sites with more than 3 bosons.
        (bosons(30, 40, 3), sum((-1) ** k * math.comb(30, k) * math.comb(69 - 4 * k, 29) for k in range(11))),
        (fermions(200, 100), math.comb(200, 100)),
        (fermions(130), 2**130),
        (spinful_fermions(64, 30, 34), math.comb(64, 30) * math.comb(64, 34)),
        (spinful_fermions(64, 30), math.comb(64, 30) * 2**64),
        (spinful_fermions(50), 4**50),
        (spins(300, 0), math.comb(300, 150)),
        (spins(100, -20), math.comb(100, 30)),
        (spins(80, None, spin=1.5), 4**80),
        # Coefficient of x^0 in (1/x + 1 + x)^L: central trinomial coefficient.
        (spins(60, 0, spin=1), sum(math.comb(60, 2 * k) * math.comb(2 * k, k) for k in range(31))),
        (HilbertSpace(90, ("0", "1"), (Charge("parity", (0, 1), 1, 2),)), 2**89),
    ],
    ids=label,
)
def test_dimensions_of_large_spaces_are_exact(space: HilbertSpace, dimension: int) -> None:
    assert space.dimension == dimension
    n = space.random(20, torch.Generator().manual_seed(0))
    space.check(n)
    rows = space.tables("cpu").log_uniform[torch.arange(space.n_sites), space.remainders(n)]
    log_p = rows.gather(-1, n.long()[..., None]).sum((1, 2))
    np.testing.assert_allclose(log_p, -math.log(dimension), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("space", [spins(62), fermions(66, 33), bosons(34, 33), spinful_fermions(31)], ids=label)
def test_rank_and_unrank_reach_the_end_of_64_bits(space: HilbertSpace) -> None:
    assert 2**61 < space.dimension < 2**63
    index = torch.randint(space.dimension, (200,), generator=torch.Generator().manual_seed(0))
    index = torch.cat([index, torch.tensor([0, 1, space.dimension - 2, space.dimension - 1])])
    n = space.unrank(index)
    space.check(n)
    assert space.rank(n).equal(index)
    assert space.configurations(space.dimension - 2).equal(n[-2:])


def test_rank_of_free_spins_is_their_binary_number() -> None:
    space = spins(62)
    n = space.random(20, torch.Generator().manual_seed(0))
    assert space.rank(n).tolist() == [int("".join(map(str, row)), 2) for row in n.tolist()]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (bosons(5, 6, 3), lambda: nk.hilbert.Fock(3, 5, n_particles=6)),
        (bosons(4, None, 2), lambda: nk.hilbert.Fock(2, 4)),
        (fermions(8, 3), lambda: nk.hilbert.SpinOrbitalFermions(8, n_fermions=3)),
        (spinful_fermions(5, 2, 3), lambda: nk.hilbert.SpinOrbitalFermions(5, s=0.5, n_fermions_per_spin=(2, 3))),
        (spins(8, 1), lambda: nk.hilbert.Spin(0.5, 8, total_sz=1)),
        (spins(7, -0.5), lambda: nk.hilbert.Spin(0.5, 7, total_sz=-0.5)),
        (spins(5, 2, spin=1), lambda: nk.hilbert.Spin(1, 5, total_sz=2)),
        (spins(4, spin=1.5), lambda: nk.hilbert.Spin(1.5, 4)),
    ],
    ids=label,
)
def test_netket_counts_the_same_states(ours: HilbertSpace, theirs: Callable) -> None:
    assert ours.dimension == theirs().n_states


# ------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: fermions(0, 0), r"n_sites=0: .* at least one site"),
        (lambda: bosons(0, 2, 3), r"n_sites=0: .* at least one site"),
        (lambda: bosons(2, 256), r"257 local states per site: 1 to 256 .* n_max <= 255"),
        (lambda: HilbertSpace(2, ()), r"0 local states per site"),
        (lambda: HilbertSpace(2, ("a", "b"), (Charge("Q", (1, 2, 3)),)), r"'Q' has 3 values for 2 local states"),
        (lambda: HilbertSpace(2, ("a", "b"), (Charge("Q", (1, 2), 0, 0),)), r"'Q' has modulus 0: .* at least 1"),
        # Impossible sectors name what is possible.
        (lambda: fermions(4, 5), r"particles = 5 is impossible on 4 sites; reachable values are 0 to 4\."),
        (lambda: fermions(4, -1), r"particles = -1 is impossible on 4 sites; reachable values are 0 to 4\."),
        (lambda: spinful_fermions(3, 1, 4), r"down electrons = 4 is impossible on 3 .* 0 to 3\."),
        (
            lambda: spins(4, 0.5),
            r"total_sz=1/2 is impossible for 4 spins of length 1/2: it can be -2 to 2 in steps",
        ),
        (
            lambda: spins(3, 1),
            r"total_sz=1 is impossible for 3 spins of length 1/2: it can be -3/2 to 3/2 in",
        ),
        (
            lambda: spins(3, 4, spin=1),
            r"total_sz=4 is impossible for 3 spins of length 1: it can be -3 to 3 in",
        ),
        (lambda: spins(2, 0, spin=(0.5, 1)), r"total_sz=0 .* 2 spins of length 1 or 1/2: it can be -3/2 to 3/2 in"),
        (lambda: HilbertSpace(2, ("a", "b"), (Charge("Q", (0, 2), 1, 4),)), r"Q = 1 .* reachable values are 0, 2\."),
        (
            lambda: HilbertSpace(9, ("a", "b", "c"), (Charge("Q", (0, 1, 100), 50),)),
            r"reachable values are 0, 1, 2, 3, 4, \.\.\., 701, 702, 800, 801, 900\.",
        ),
        (
            lambda: HilbertSpace(3, ("a", "b"), (Charge("Q", (0, 1), 1), Charge("P", (0, 1), 0, 2))),
            r"no configuration of 3 sites has Q = 1, P = 0 at the same time, .* possible alone",
        ),
        # Bosons.
        (lambda: bosons(4), r"need a cutoff: give n_max"),
        (lambda: bosons(4, -2), r"n_particles=-2: .* 0 or more"),
        (lambda: bosons(4, 2, 0), r"n_max=0: .* n_max >= 1"),
        (lambda: bosons(4, 9, 2), r"n_max=2 on 4 sites holds at most 8 bosons, but n_particles=9: .* at least 3 "),
        # Spins.
        (lambda: spins(4, spin=0), r"spin=0: .* 1/2, 1, 3/2"),
        (lambda: spins(4, spin=-0.5), r"spin=-0.5: .* 1/2, 1, 3/2"),
        (lambda: spins(4, spin=0.3), r"spin=0.3: it must be a multiple of 1/2"),
        (lambda: spins(4, 0.25), r"total_sz=0.25: it must be a multiple of 1/2"),
        (lambda: spins(4, math.nan), r"total_sz=nan: it must be a multiple of 1/2"),
        (lambda: spins(4, math.inf), r"total_sz=inf: it must be a multiple of 1/2"),
        # Too large to be ranked.
        (lambda: spins(63).configurations(0, 1), r"dimension 9.223e\+18 does not fit .* Sample it instead"),
        (lambda: bosons(100, 100).rank(torch.zeros(1, 100, dtype=torch.uint8)), r"dimension 4.527e\+58 does not fit"),
        (lambda: bosons(100, 100).unrank(torch.zeros(1, dtype=torch.int64)), r"dimension 4.527e\+58 does not fit"),
        # Configurations.
        (lambda: fermions(3, 1).check(torch.zeros(2, 3)), r"uint8 .* \(batch, 3\); found float32 of shape \(2, 3\)"),
        (lambda: fermions(3, 1).check(tensor([(0, 1)])), r"\(batch, 3\); found uint8 of shape \(1, 2\)"),
        (lambda: fermions(3, 1).check(tensor([(0, 1, 0)])[0]), r"found uint8 of shape \(3,\)"),
        (
            lambda: fermions(3, 1).check(tensor([(0, 1, 0), (0, 1, 1), (0, 0, 2)])),
            r"2 of 3 configurations lie outside the sector, the first one \[0, 1, 1\]; .* particles = 1, dimension 3\.",
        ),
    ],
)
def test_errors_say_what_is_wrong_and_what_to_do(build: Callable, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


def test_check_accepts_the_sector() -> None:
    space = spinful_fermions(3, 1, 2)
    space.check(space.configurations())
    space.check(space.configurations(0, 0))


def test_as_many_local_states_as_a_byte_holds() -> None:
    space = bosons(2, None, 255)
    assert space.dimension == 256**2
    n = space.configurations(255, 258)
    assert n.tolist() == [[0, 255], [1, 0], [1, 1]]
    assert space.contains(n).all()
    assert space.rank(n).tolist() == [255, 256, 257]


def test_text_names_the_sector() -> None:
    assert str(bosons(4, 4)) == "4 sites x 5 local states, particles = 4, dimension 35"
    assert str(spins(20)) == "20 sites x 2 local states, no conserved charge, dimension 1,048,576"
    assert str(bosons(100, 100)).endswith("particles = 100, dimension 4.527e+58")
    assert "Q0 = 2 (mod 3), Q1 = 0, dimension" in str(MODULAR.build())
    assert spins(2, spin=1.5).local_states == ("-3/2", "-1/2", "1/2", "3/2")


# ----------------------------------------------------------------------------------- annotations are executed


def test_every_module_has_its_annotations_executed() -> None:
    """What tests/conftest.py installs; it would be easy to lose it without a sign."""
    packages = [importlib.import_module(name) for name in ("nqs", "nqs.hamiltonians", "nqs.models", "nqs.samplers")]
    modules = [
        importlib.import_module(".".join((package.__name__, *file.relative_to(folder).with_suffix("").parts)))
        for package in packages
        for folder in (Path(package.__file__).parent,)
        for file in folder.rglob("*.py")
        if not file.stem.startswith("_")
    ]
    assert len(modules) > 15
    loaders = {module.__name__: type(module.__spec__.loader).__name__ for module in packages + modules}
    assert set(loaders.values()) == {"_JaxtypingLoader"}, loaders


def test_wrong_shapes_and_types_are_noticed_in_every_folder() -> None:
    hamiltonian = BoseHubbard(chain(3), 2, U=1.0)
    space = hamiltonian.hilbert
    n, generator = space.configurations(), torch.Generator()
    model = small_transformer(width=4, layers=2, heads=1).build(space)
    one, two = torch.zeros(1).double(), torch.zeros(2).double()
    unequal = Frontier(n[:1, :0], one.long(), one, two, model.start(1))  # the fields of a named tuple
    for wrong in (
        lambda: space.rank(n[0]),
        lambda: hamiltonian.diagonal(n.long()),
        lambda: model.conditionals(n[0]),
        lambda: grow(model, unequal, generator, 10),
        lambda: split_counts(torch.ones(3, dtype=torch.int64), torch.ones(2, 4).double(), generator),
    ):
        with pytest.raises(jaxtyping.TypeCheckError):
            wrong()


def test_results_of_another_shape_are_noticed_in_later_calls_too() -> None:
    """Calls with tensors of the same shapes as before are not checked again, but for what they return."""
    results = [torch.zeros(3), torch.zeros(3), torch.zeros(4)]

    def weights(n: UInt8[Tensor, "B L"]) -> Float[Tensor, " B"]:
        return results.pop(0)

    checked = HilbertSpace.rank.__globals__["execute"](weights)  # of conftest.py
    n = torch.zeros((3, 2), dtype=torch.uint8)
    assert checked(n).equal(checked(n))
    with pytest.raises(jaxtyping.TypeCheckError, match="weights: return"):
        checked(n)
    assert not results


def test_functions_inside_functions_are_checked_in_every_call() -> None:
    """They share what is known of calls, since they are made from the same lines."""

    def made(result: Tensor) -> tuple[Any, Any]:
        def inner(n: UInt8[Tensor, "B L"]) -> Float[Tensor, " B"]:
            return result

        def listed(n: list[int]) -> list[str]:  # values decide, not their kinds
            return [str(x) for x in n] if sum(n) else n  # type: ignore[return-value]

        return execute(inner), execute(listed)

    execute = HilbertSpace.rank.__globals__["execute"]
    n = torch.zeros((3, 2), dtype=torch.uint8)
    for _ in range(2):
        right, listed = made(torch.zeros(3))
        assert right(n).shape == (3,)
        with pytest.raises(jaxtyping.TypeCheckError, match="inner: return"):
            made(torch.zeros(4))[0](n)
        with pytest.raises(jaxtyping.TypeCheckError, match="inner: n"):
            right(n.long())
        assert listed([1]) == ["1"]
        with pytest.raises(jaxtyping.TypeCheckError, match="listed: return"):
            listed([0])
        with pytest.raises(jaxtyping.TypeCheckError, match="listed: n"):
            listed(["x"])
