"""What the particles are is stated by the species of a space, not by names; sites of different kinds."""

import math
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import exact
from nqs.archive.serialise import differences, from_plain, to_plain
from nqs.archive.species_of_0_1 import with_species
from nqs.hamiltonians import FermiHubbard
from nqs.hilbert import (
    Charge,
    HilbertSpace,
    Species,
    bosons,
    fermions,
    product_space,
    spinful_fermions,
    spins,
)
from nqs.lattice import chain
from nqs.observables import (
    StateVector,
    densities,
    double_occupancy,
    exact_samples,
    one_body_density_matrix,
    renyi2_entropy,
    site_values,
    spin_correlations,
)
from nqs.observables.measure import measure
from nqs.protocols import has_boundary_phases, is_stoquastic, lattice_of, max_connected, unit_of
from nqs.samplers import ExhaustiveSampler
from nqs.symmetry import space_group, spin_flip

from matrices import dense

HUBBARD = FermiHubbard(chain(4, periodic=False), 2, 2, U=4.0)


def renamed(hilbert: HilbertSpace, *, species: bool) -> HilbertSpace:
    """The same space under names that say nothing."""
    charges = tuple(replace(c, name=f"Q{i}") for i, c in enumerate(hilbert.charges))
    known = tuple(replace(s, name=f"S{i}") for i, s in enumerate(hilbert.species)) if species else ()
    return HilbertSpace(hilbert.n_sites, tuple("abcdefgh"[: hilbert.local_dim]), charges, known)


# ---- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("hilbert", [spinful_fermions(3, 2, 1), fermions(4, 2), bosons(3, 3), spins(4, 0)], ids=str)
def test_observables_do_not_depend_on_names(hilbert: HilbertSpace) -> None:
    psi = np.random.default_rng(0).normal(size=hilbert.dimension)
    psi /= np.linalg.norm(psi)
    other = renamed(hilbert, species=True)
    found = [(exact_samples(h, psi), StateVector(h, psi)) for h in (hilbert, other)]
    functions = {"renyi": lambda samples, state: renyi2_entropy(samples, state, [0, 2])}
    if hilbert.of_kind("spin"):
        functions["spins"] = spin_correlations
    else:
        functions["one body"] = one_body_density_matrix
    if hilbert.local_dim == 4 and hilbert.of_kind("fermion"):
        functions["double"] = lambda samples, state: double_occupancy(samples, state.hilbert)
    for function in functions.values():
        values = [function(*pair).value for pair in found]
        torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-12)
    if not hilbert.of_kind("boson") and len(hilbert.species) != 1:
        assert spin_flip(other).maps == spin_flip(hilbert).maps


def test_a_space_without_species_is_not_guessed() -> None:
    hilbert = renamed(HUBBARD.hilbert, species=False)
    state = exact.ground_state(HUBBARD).state
    samples, psi = exact_samples(hilbert, state), StateVector(hilbert, state)
    for refused in (
        lambda: one_body_density_matrix(samples, psi),
        lambda: renyi2_entropy(samples, psi, [0, 2]),
        lambda: double_occupancy(samples, hilbert),
        lambda: spin_correlations(samples, psi),
        lambda: spin_flip(hilbert),
        lambda: space_group(HUBBARD.lattice, hilbert, fermions=True).orbits(hilbert),
    ):
        with pytest.raises(ValueError, match=r"species"):
            refused()
    with pytest.warns(UserWarning, match=r"states no species"):
        found = measure(samples, psi, HUBBARD)
    assert set(found) == {f"{kind}_{name}" for kind in ("density", "correlations") for name in ("Q0", "Q1")}


def test_electrons_with_phonons() -> None:
    """The hop of an electron keeps the phonons: <c+_0 c_1> against Kronecker products."""
    P, rng = 3, np.random.default_rng(1)
    electron, phonons = np.divmod(np.arange(4 * P), P)
    up, down = electron & 1, electron >> 1
    species = (
        Species("up", "fermion", tuple(up.tolist()), tuple(up.tolist())),
        Species("down", "fermion", tuple(down.tolist()), tuple((-down).tolist())),
        Species("phonons", "boson", tuple(phonons.tolist())),
    )
    charges = (Charge("a", tuple(up.tolist()), 1), Charge("b", tuple(down.tolist()), 1))
    space = HilbertSpace(2, tuple(map(str, range(4 * P))), charges, species)
    state = rng.normal(size=(2, 2, P, P))  # site of the up electron, of the down electron, phonons on the two sites
    state /= np.linalg.norm(state)
    n = space.configurations().long().numpy()
    where = (
        np.where(up[n[:, 0]] == 1, 0, 1),
        np.where(down[n[:, 0]] == 1, 0, 1),
        phonons[n[:, 0]],
        phonons[n[:, 1]],
    )
    psi = state[where]
    expected = np.einsum("jkl,jkl->", state[0], state[1]) + np.einsum("ikl,ikl->", state[:, 0], state[:, 1])
    found = one_body_density_matrix(exact_samples(space, psi), StateVector(space, psi)).value
    assert found[0, 1].real.item() == pytest.approx(expected, abs=1e-12)
    assert found.trace().real.item() == pytest.approx(2, abs=1e-12)
    assert site_values(space, "phonons").tolist() == phonons.tolist()
    without = HilbertSpace(2, space.local_states, charges, species[:2])
    with pytest.raises(ValueError, match=r"several of the local states .* hold the same particles"):
        one_body_density_matrix(exact_samples(without, psi), StateVector(without, psi))


def test_entropy_of_electrons_in_the_order_of_netket() -> None:
    """The same modes as spinless orbitals, down first; where numbers are free, the order of the spins matters."""
    known = with_species(HilbertSpace(3, ("empty", "up", "down", "both"), (Charge("electrons", (0, 1, 1, 2), 3),)))
    assert [species.name for species in known.species] == ["down electrons", "up electrons"]
    space = HilbertSpace(3, known.local_states, (), known.species)
    orbitals = fermions(6)
    psi = np.random.default_rng(2).normal(size=space.dimension)
    psi /= np.linalg.norm(psi)
    n = space.configurations()
    phi = np.zeros(orbitals.dimension)
    phi[orbitals.rank(torch.cat([n >> 1, n & 1], dim=1)).numpy()] = psi
    for sites in ([0], [1], [0, 2]):
        found = renyi2_entropy(exact_samples(space, psi), StateVector(space, psi), sites).value
        modes = [*sites, *(3 + site for site in sites)]
        expected = renyi2_entropy(exact_samples(orbitals, phi), StateVector(orbitals, phi), modes).value
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    other = HilbertSpace(3, space.local_states, (), space.species[::-1])
    wrong = renyi2_entropy(exact_samples(other, psi), StateVector(other, psi), [1]).value
    right = renyi2_entropy(exact_samples(space, psi), StateVector(space, psi), [1]).value
    assert not torch.isclose(wrong, right, rtol=0, atol=1e-6)


def test_species_are_checked() -> None:
    with pytest.raises((ValueError, jaxtyping.TypeCheckError), match=r"'anyon'"):
        Species("x", "anyon", (0, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"for fermions 0 or 1"):
        Species("x", "fermion", (0, 2))
    with pytest.raises(ValueError, match=r"species 'x' has 3 values for 2 local states"):
        HilbertSpace(2, ("a", "b"), (), (Species("x", "boson", (0, 1, 2)),))


# ---- archives --------------------------------------------------------------------------------------


TYPES = {"HilbertSpace": HilbertSpace, "Charge": Charge, "Species": Species}


@pytest.mark.parametrize(
    "hilbert", [spinful_fermions(3, 2, 1), spinful_fermions(3), fermions(4, 2), bosons(3, 3), bosons(3, n_max=2),
                spins(4, 1), spins(3, spin=1)], ids=str,
)  # fmt: skip
def test_spaces_in_archives(hilbert: HilbertSpace) -> None:
    """Species are kept; those of version 0.1, which kept none, are found again, and are no difference."""
    plain = to_plain(hilbert)
    assert from_plain(plain, TYPES) == hilbert
    assert from_plain(plain, TYPES).species == hilbert.species
    old = {name: value for name, value in plain.items() if name != "species"}
    assert from_plain(old, TYPES).species == hilbert.species
    assert differences(old, plain) == []
    assert with_species(renamed(hilbert, species=False)).species == ()


# ---- sites of different kinds ----------------------------------------------------------------------


def test_product_spaces() -> None:
    space = product_space(spins(2), bosons(2, 2), spins(1, spin=1))
    assert space.local_dims == (2, 2, 3, 3, 3)
    assert space.dimension == 4 * 3 * 3
    assert site_values(space, "Sz")[:2, :2].tolist() == [[-0.5, 0.5]] * 2
    assert site_values(space, "Sz")[4].tolist() == [-1, 0, 1]
    assert space.configurations()[:, 2:4].sum(1).unique().tolist() == [2]
    samples = exact_samples(space, np.full(space.dimension, space.dimension**-0.5))
    particles = densities(samples, space, "particles").value
    torch.testing.assert_close(particles, torch.tensor([0, 0, 1, 1, 0]).double())
    together = product_space(bosons(2, n_max=1), bosons(2, n_max=1))
    assert together.configurations().equal(bosons(4, n_max=1).configurations())
    with pytest.raises(ValueError, match=r"lists 2 sites of 3"):
        HilbertSpace(3, (("a", "b"), ("a",)))
    with pytest.raises(ValueError, match=r"charge 'Q' has 2 rows"):
        HilbertSpace(3, ("a", "b"), (Charge("Q", ((0, 1), (0, 1))),))


def test_one_body_matrix_with_cutoffs_by_site() -> None:
    """Against matrices by Kronecker products, cut off where the sites are."""
    space = product_space(bosons(1, n_max=1), bosons(2, n_max=3))
    psi = np.random.default_rng(0).normal(size=space.dimension)
    psi /= np.linalg.norm(psi)
    b = [np.diag(np.sqrt(np.arange(1.0, d)), 1) for d in (2, 4, 4)]

    def on(site: int, matrix: np.ndarray) -> np.ndarray:
        whole = np.eye(1)
        for s, d in enumerate((2, 4, 4)):
            whole = np.kron(whole, matrix if s == site else np.eye(d))
        return whole

    expected = [[psi @ on(i, b[i].T) @ on(j, b[j]) @ psi for j in range(3)] for i in range(3)]
    found = one_body_density_matrix(exact_samples(space, psi), StateVector(space, psi)).value
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(
    "space",
    [
        product_space(spins(2), spins(2, spin=1)),
        HilbertSpace(
            4,
            (("-1/2", "1/2"), ("-1", "0", "1")) * 2,
            (Charge("2 Sz", ((-1, 1), (-2, 0, 2)) * 2, 0),),
        ),
        HilbertSpace(4, ("0", "1"), (Charge("even", ((0, 1), (0, 0)) * 2, 1), Charge("odd", ((0, 0), (0, 1)) * 2, 1))),
    ],
    ids=str,
)
def test_models_are_normalised_and_decode_the_sites(space: HilbertSpace) -> None:
    model = small_transformer().build(space)
    log_modulus = model.log_psi(space.configurations()).log_modulus
    assert (2 * log_modulus).exp().sum().item() == pytest.approx(1, abs=1e-6)
    everything = torch.cartesian_prod(*[torch.arange(space.local_dim)] * 4).to(torch.uint8)
    outside = everything[~space.contains(everything)]
    assert (model.log_psi(outside).log_modulus == -math.inf).all()
    drawn = ExhaustiveSampler().build(model).sample(torch.Generator().manual_seed(0))
    assert drawn.weights.sum().item() == pytest.approx(1, abs=1e-6)
    conditionals, state = model.step(None, model.start(space.dimension))
    log_p = torch.zeros(space.dimension).double()
    n = space.configurations()
    for site in range(4):
        log_p += conditionals.log_p.gather(1, n[:, site : site + 1].long())[:, 0]
        if site < 3:
            conditionals, state = model.step(n[:, site].contiguous(), state)
    torch.testing.assert_close(log_p / 2, log_modulus.double(), rtol=0, atol=1e-5)


# ---- optional members of a Hamiltonian -------------------------------------------------------------


class Bare:
    """Nothing but what a Hamiltonian must have."""

    hilbert = spins(5)


def test_defaults_of_optional_members() -> None:
    bare = Bare()
    assert lattice_of(bare) is None  # type: ignore[arg-type]
    assert is_stoquastic(bare) is False  # type: ignore[arg-type]
    assert unit_of(bare) == "J"  # type: ignore[arg-type]
    assert max_connected(bare) == 20  # type: ignore[arg-type]
    assert has_boundary_phases(bare) is False  # type: ignore[arg-type]


def test_members_of_a_family() -> None:
    twisted = FermiHubbard(chain(4), 2, 2, U=4.0, twist=(0.3,))
    assert (lattice_of(twisted), unit_of(twisted)) == (chain(4), "t")
    assert has_boundary_phases(twisted)
    assert not has_boundary_phases(HUBBARD)
    assert is_stoquastic(HUBBARD)
    assert max_connected(HUBBARD) == (np.abs(dense(HUBBARD) - np.diag(np.diag(dense(HUBBARD)))) > 0).sum(1).max()
