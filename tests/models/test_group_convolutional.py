"""Group convolutions: exact symmetry for every character, and the same sums written out."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from networks import small_group_convolutional

from nqs import VMC, exact
from nqs.hamiltonians import Heisenberg
from nqs.hilbert import HilbertSpace, bosons, fermions, spins
from nqs.lattice import Lattice, chain, honeycomb, kagome, square, triangular
from nqs.models import MarshallSign, sector_of
from nqs.models.abelian import characters, largest_abelian_subgroup, real_transform
from nqs.models.group_convolutional import GroupConvolutional
from nqs.models.group_layers import GroupConvolution, in_cosets
from nqs.symmetry import Symmetry, space_group, spin_flip, translations
from nqs.symmetry.of_hamiltonian import symmetries_of

RING, LATTICE = chain(6), square(2, 3)
SPINS = spins(6, 0)
LATTICES: list[Lattice] = [chain(6), square(4, 4), square(3, 2), triangular(3, 3), honeycomb(2, 2), kagome(2, 2)]


def marshall(lattice: Lattice) -> MarshallSign:
    return MarshallSign(sublattice=tuple(lattice.sublattices().tolist()))


def with_flip(lattice: Lattice, hilbert: HilbertSpace) -> Symmetry:
    return space_group(lattice, hilbert) @ spin_flip(hilbert)


GROUPS: dict[str, Callable[[], list[Symmetry]]] = {
    "all real characters of a ring with the spin flip": lambda: list(with_flip(RING, SPINS).real_characters()),
    "momenta": lambda: [translations(RING, SPINS, momentum=(m,)) for m in range(6)],
    "odd spin flip": lambda: [space_group(RING, SPINS) @ spin_flip(SPINS, odd=True)],
    "spins 1": lambda: [with_flip(chain(4), spins(4, 0, spin=1))],
    "bosons": lambda: [space_group(chain(4), bosons(4, 4))],
}


def check_symmetry(model: GroupConvolutional, symmetry: Symmetry) -> None:
    """psi(g n) = chi(g) psi(n) for all elements and some configurations."""
    n = model.hilbert.random(20, torch.Generator().manual_seed(1))
    G = symmetry.order
    element = torch.arange(G).repeat(len(n))
    n_of_each = n.repeat_interleave(G, 0)
    with torch.no_grad():
        one, other = model.log_psi(n_of_each), model.log_psi(symmetry.image(n_of_each, element))
    chi = torch.polar(torch.ones(len(element)).double(), symmetry.phases(n_of_each, element, model.hilbert))
    psi, image = (torch.polar(x.log_modulus.exp(), x.phase) for x in (one, other))
    torch.testing.assert_close(image, chi * psi, rtol=0, atol=1e-10)
    forbidden = symmetry.forbidden(n, model.hilbert)
    first = psi.abs().view(len(n), G)[:, 0]
    assert (first[forbidden] < 1e-10).all()
    assert (first[~forbidden] > 1e-10).all()


@pytest.mark.parametrize("phase", ["learned", "zero"])
@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_states_are_in_their_sector(groups: Callable[[], list[Symmetry]], phase: str) -> None:
    for symmetry in groups():
        d, L = len(symmetry.maps[0]), symmetry.n_sites
        hilbert = {2: spins(L, 0), 3: spins(L, 0, spin=1)}.get(d) or bosons(4, 4)
        config = small_group_convolutional(symmetry=symmetry, exponentials=2, phase=phase, seed=3)
        check_symmetry(config.build(hilbert), symmetry)


@pytest.mark.parametrize("phase", ["learned", "zero"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_an_odd_element_leaves_as_it_is_has_no_amplitude(dtype: str, phase: str) -> None:
    """Terms cancel there: a constant and not rounding errors, whose phases and gradients would be anything."""
    for symmetry in [space_group(RING, SPINS) @ spin_flip(SPINS, odd=True), *with_flip(RING, SPINS).real_characters()]:
        n = SPINS.configurations()
        forbidden = symmetry.forbidden(n, SPINS)
        if forbidden.all():  # no state at all
            continue
        for seed in range(3):
            config = small_group_convolutional(symmetry=symmetry, exponentials=2, phase=phase, dtype=dtype, seed=seed)
            model = config.build(SPINS)
            found = model.log_psi(n)
            gap = found.log_modulus.max() - found.log_modulus[forbidden]
            assert (gap > (25 if dtype == "float64" else 7)).all()
            with torch.no_grad():
                alone = torch.cat([model.log_psi(row[None]).phase for row in n[forbidden]]) if forbidden.any() else 0
            assert not torch.as_tensor(alone).any()
            (found.log_modulus.sum() + found.phase.sum()).backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_run_in_an_odd_sector() -> None:
    """The lowest state that is odd under the spin flip of six spins is the singlet."""
    hamiltonian = Heisenberg(RING, total_sz=0, J=(1.0, 0.5))
    (odd,) = [
        s
        for s in symmetries_of(hamiltonian).real_characters()
        if s.angles == sector_of(marshall(RING), symmetries_of(hamiltonian), hamiltonian.hilbert).angles
    ]
    psi = small_group_convolutional(symmetry=odd, seed=1).build(hamiltonian.hilbert)
    result = VMC(hamiltonian, psi).run(60, seed=0, progress=False)
    assert result.estimate.energy == pytest.approx(exact.ground_state(hamiltonian).energy, rel=1e-3)


@pytest.mark.parametrize("n_sites", [4, 6])
def test_signs_of_a_reference_are_part_of_the_character(n_sites: int) -> None:
    """Marshall's signs of a ring of six are odd under translations by one site, those of a ring of four even."""
    lattice, hilbert = chain(n_sites), spins(n_sites, 0)
    symmetry = sector_of(marshall(lattice), with_flip(lattice, hilbert), hilbert)
    assert any(symmetry.angles) == (n_sites == 6)
    config = small_group_convolutional(symmetry=symmetry, reference=marshall(lattice))
    check_symmetry(config.build(hilbert), symmetry)
    positive = small_group_convolutional(symmetry=symmetry, reference=marshall(lattice), phase="zero")
    assert not positive.build(hilbert).has_phase
    other = symmetry.with_angles([0.0] * symmetry.order)
    check_symmetry(small_group_convolutional(symmetry=other, reference=marshall(lattice)).build(hilbert), other)


def test_shapes_are_known_without_memory() -> None:
    """As where an archive is read: a default device on which tensors have no numbers."""
    hilbert = spins(8, 0)  # of no other test: groups keep what they have checked
    symmetry = sector_of(marshall(chain(8)), with_flip(chain(8), hilbert), hilbert)
    config = small_group_convolutional(symmetry=symmetry, reference=marshall(chain(8)))
    expected = {name: parameter.shape for name, parameter in config.build(hilbert).named_parameters()}
    for _ in range(20):
        with torch.device("meta"):
            model = config.build(hilbert, "meta")
        assert {name: parameter.shape for name, parameter in model.named_parameters()} == expected


def test_an_even_lift_replaces_the_spin_flip() -> None:
    even = small_group_convolutional(symmetry=with_flip(RING, SPINS)).build(SPINS)
    odd = small_group_convolutional(symmetry=space_group(RING, SPINS) @ spin_flip(SPINS, odd=True)).build(SPINS)
    assert (len(even.angles), len(odd.angles)) == (12, 24)
    assert even.even
    assert not odd.even


@pytest.mark.parametrize("lattice", LATTICES, ids=str)
def test_convolutions_are_sums_over_the_group(lattice: Lattice) -> None:
    group = space_group(lattice, spins(lattice.n_sites, None))
    order, n_abelian = in_cosets(group)
    products = np.argsort(order)[group.products[np.ix_(order, order)]]
    layer, D, G = GroupConvolution(2, products, n_abelian).double(), 2, group.order
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(generator=generator)
    x = torch.randn(3, G, D, dtype=torch.float64, generator=generator)
    expected = layer.bias.expand(3, G, D).clone()
    for k in range(G):
        expected += x[:, products[k]] @ layer.weight[:, k].mT
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("lattice", "order"), [(chain(6), 6), (square(4, 4), 16), (triangular(6, 6), 36)], ids=str)
def test_the_abelian_subgroup_is_as_large_as_the_translations(lattice: Lattice, order: int) -> None:
    group = space_group(lattice, spins(lattice.n_sites, None))
    unmoved = (np.array(group.permutations) == np.arange(group.n_sites)).sum(1)
    found = largest_abelian_subgroup(group.products, np.argsort(unmoved, kind="stable"))
    products = group.products[np.ix_(found, found)]
    assert found[0] == 0
    assert len(found) == len(set(found.tolist())) >= order
    assert set(products.flatten().tolist()) == set(found.tolist())
    assert (products == products.T).all()


def cyclic_products(*orders: int) -> np.ndarray:
    digits = np.indices(orders).reshape(len(orders), -1)
    total = (digits[:, :, None] + digits[:, None]) % np.array(orders)[:, None, None]
    found: np.ndarray = np.ravel_multi_index(tuple(total), orders)
    return found


@pytest.mark.parametrize("orders", [(1,), (2,), (5,), (4, 4), (6, 6), (2, 3, 4), (2, 2, 2)])
def test_characters_of_abelian_groups(orders: tuple[int, ...]) -> None:
    products = cyclic_products(*orders)
    T, angles = len(products), characters(products)
    chi = np.exp(2j * math.pi * angles)
    np.testing.assert_allclose(chi @ chi.conj().T, T * np.eye(T), atol=1e-9)
    np.testing.assert_allclose(chi[:, :, None] * chi[:, None], chi[:, products], atol=1e-9)
    cosine, sine, number = real_transform(angles)
    assert number.sum() == T
    x = np.random.default_rng(0).normal(size=T)
    back = (number[:, None] * (cosine * (cosine @ x)[:, None] + sine * (sine @ x)[:, None])).sum(0) / T
    np.testing.assert_allclose(back, x, atol=1e-9)


@pytest.mark.parametrize(
    ("hilbert", "options", "message"),
    [
        (
            fermions(4, 2),
            {"symmetry": translations(chain(4), fermions(4, 2), fermions=True)},
            "group convolutions have no signs of reordered fermions",
        ),
        (
            SPINS,
            {
                "symmetry": space_group(RING, SPINS),
                "reference": MarshallSign(sublattice=(1, 1, 0, 0, 0, 0)),
            },
            "changes by a constant under",
        ),
        (spins(4, 0), {"symmetry": space_group(RING, SPINS)}, "the symmetry acts on 6 sites"),
    ],
)
def test_impossible_states_are_refused(hilbert: HilbertSpace, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small_group_convolutional(**options).build(hilbert)


def test_frustrated_lattices_have_all_symmetries_of_marshalls_signs() -> None:
    """6 x 6 sites: translations by one site exchange the sublattices, which changes the signs of 18 + 18 spins by 1."""
    lattice = square(6, 6)
    hamiltonian = Heisenberg(lattice, total_sz=0, J=(1.0, 0.5))
    symmetry = sector_of(marshall(lattice), symmetries_of(hamiltonian), hamiltonian.hilbert)
    assert symmetry.order == 576
    assert symmetry.is_trivial
