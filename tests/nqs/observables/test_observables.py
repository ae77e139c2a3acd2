"""Observables against dense operators in the full product space, closed forms, and their own error bars.

The dense operators are Kronecker products (Jordan-Wigner strings for fermions): they share nothing with local values,
signs from cumulative parities or the amplitude cache.
"""

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import small_transformer

from nqs import VMC, exact
from nqs.archive import Archive
from nqs.estimators.unseen import with_unseen
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard
from nqs.hilbert import HilbertSpace, bosons, fermions, spinful_fermions, spins
from nqs.lattice import chain, honeycomb, square
from nqs.models import Transformer
from nqs.observables import (
    Expectation,
    StateVector,
    allowed_momenta,
    condensate_fraction,
    correlations,
    densities,
    double_occupancy,
    exact_samples,
    fidelity,
    local_state_probabilities,
    momentum_distribution,
    one_body_density_matrix,
    renyi2_entropy,
    site_values,
    spin_correlations,
    structure_factor,
)
from nqs.protocols import Wavefunction
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.samples import Samples

SPACES = {
    "bosons": bosons(4, 3),
    "bosons with a cutoff": bosons(3, None, 2),
    "fermions": fermions(4, 2),
    "electrons": spinful_fermions(3, 2, 1),
    "spins 1": spins(3, 0, spin=1),
    "one site": bosons(1, 2),
}
every_space = pytest.mark.parametrize("hilbert", SPACES.values(), ids=SPACES)


def transformer(hilbert: HilbertSpace) -> Transformer:
    model = small_transformer(width=4, heads=1, seed=2).build(hilbert)
    with torch.no_grad():
        model.head.weight[: hilbert.local_dim] *= 20  # far from the uniform state
        model.head.weight[hilbert.local_dim :] *= 2
    return model


def weighted(n: torch.Tensor, weights: torch.Tensor) -> Samples:
    return Samples(configurations=n, weights=weights, log_modulus=weights.log() / 2, phase=torch.zeros_like(weights))


@every_space
def test_probabilities_are_sums_over_the_sector(hilbert: HilbertSpace) -> None:
    samples = ExhaustiveSampler().build(transformer(hilbert)).sample(torch.Generator())
    found = local_state_probabilities(samples, hilbert)
    n, p = hilbert.configurations().numpy(), samples.weights.numpy()
    expected = [[p[n[:, site] == k].sum() for k in range(hilbert.local_dim)] for site in range(hilbert.n_sites)]
    assert found.shape == (hilbert.n_sites, hilbert.local_dim)
    np.testing.assert_allclose(found, expected, atol=1e-15)
    torch.testing.assert_close(found.sum(1), torch.ones(hilbert.n_sites, dtype=torch.float64))


@every_space
def test_charges_of_the_sector_follow_from_them(hilbert: HilbertSpace) -> None:
    samples = TreeSampler(n_samples=50).build(transformer(hilbert)).sample(torch.Generator().manual_seed(1))
    probabilities = local_state_probabilities(samples, hilbert)
    for charge in hilbert.charges:
        if charge.target is not None:
            mean = (probabilities @ torch.tensor(charge.values, dtype=torch.float64)).sum()
            assert mean.item() == pytest.approx(charge.target)


def test_uniform_state_has_closed_form_probabilities() -> None:
    hilbert = bosons(2, 3)
    samples = weighted(hilbert.configurations(), torch.full((4,), 0.25, dtype=torch.float64))
    assert local_state_probabilities(samples, hilbert).tolist() == [[0.25] * 4] * 2


def test_single_configuration_gives_certainty() -> None:
    samples = weighted(torch.tensor([[0, 2, 1]], dtype=torch.uint8), torch.ones(1, dtype=torch.float64))
    expected = [[1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0]]
    assert local_state_probabilities(samples, bosons(3, 3)).tolist() == expected


@pytest.mark.parametrize("sampler", [TreeSampler(n_samples=20_000), GumbelSampler(n_distinct=18)], ids=repr)
def test_samples_estimate_the_exhaustive_values(sampler: TreeSampler | GumbelSampler) -> None:
    hilbert = SPACES["bosons"]
    model = transformer(hilbert)
    expected = local_state_probabilities(ExhaustiveSampler().build(model).sample(torch.Generator()), hilbert)
    found = local_state_probabilities(sampler.build(model).sample(torch.Generator().manual_seed(3)), hilbert)
    assert (found - expected).abs().max() < 5 * (0.25 / 20_000) ** 0.5  # five standard errors of the worst case


def test_exact_state_has_the_potential_energy_of_its_occupations() -> None:
    """d E_0 / d epsilon_i = <n_i> (Hellmann and Feynman)."""
    epsilon, step = np.array([0.3, -0.2, 0.0, 0.5]), 1e-4

    def hamiltonian(shift: float) -> BoseHubbard:
        return BoseHubbard(chain(4), 3, U=2.0, potential=tuple(epsilon + shift * np.eye(4)[1]))

    state = exact.ground_state(hamiltonian(0.0)).state
    hilbert = hamiltonian(0.0).hilbert
    samples = weighted(hilbert.configurations(), torch.from_numpy(np.abs(state) ** 2))
    occupation = local_state_probabilities(samples, hilbert)[1] @ torch.arange(4, dtype=torch.float64)
    up, down = (exact.ground_state(hamiltonian(sign * step)).energy for sign in (1, -1))
    assert occupation.item() == pytest.approx((up - down) / (2 * step), abs=1e-6)


# ---- dense operators in the full product space -----------------------------------------------------

LOWER = np.array([[0.0, 1.0], [0.0, 0.0]])


def kron(factors: list[np.ndarray]) -> np.ndarray:
    return functools.reduce(np.kron, factors)


def on_site(matrix: np.ndarray, site: int, n_sites: int) -> np.ndarray:
    one = np.eye(len(matrix))
    return kron([matrix if k == site else one for k in range(n_sites)])


@functools.cache
def fermion_modes(n_modes: int) -> list[np.ndarray]:
    """c_k = Z x .. x Z x lower x 1 x .. x 1."""
    z, one = np.diag([1.0, -1.0]), np.eye(2)
    return [kron([z] * k + [LOWER] + [one] * (n_modes - k - 1)) for k in range(n_modes)]


def boson_modes(n_sites: int, d: int) -> list[np.ndarray]:
    lower = np.diag(np.sqrt(np.arange(1.0, d)), k=1)
    return [on_site(lower, site, n_sites) for site in range(n_sites)]


def full_vector(hilbert: HilbertSpace, state: np.ndarray) -> np.ndarray:
    """The state in the product of all local spaces; electrons in that of up orbitals, then down orbitals."""
    n = hilbert.configurations().numpy().astype(np.int64)
    d = hilbert.local_dim
    if hilbert.charges[0].name == "up electrons":
        n, d = np.hstack([n & 1, n >> 1]), 2
    full = np.zeros(d ** n.shape[1], dtype=complex)
    full[n @ d ** np.arange(n.shape[1])[::-1]] = state
    return full


def modes(hilbert: HilbertSpace) -> list[list[np.ndarray]]:
    """Annihilators of each kind of particle, by site."""
    L = hilbert.n_sites
    if hilbert.charges[0].name == "up electrons":
        c = fermion_modes(2 * L)
        return [c[:L], c[L:]]
    return [fermion_modes(L) if hilbert.local_states[0] == "empty" else boson_modes(L, hilbert.local_dim)]


def expect(psi: np.ndarray, operator: np.ndarray) -> complex:
    return complex(psi.conj() @ operator @ psi)


def vector(model: Wavefunction) -> np.ndarray:
    log_modulus, phase = model.log_psi(model.hilbert.configurations())
    return torch.polar(log_modulus.exp(), phase).detach().numpy()


def random_state(hilbert: HilbertSpace, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((hilbert.dimension, 2)) @ np.array([1, 1j])
    return x / np.linalg.norm(x)


def exhaustive(model: Wavefunction) -> Samples:
    return ExhaustiveSampler().build(model).sample(torch.Generator())


def tree(model: Wavefunction, n_samples: int = 20_000, seed: int = 5) -> Samples:
    return TreeSampler(n_samples=n_samples).build(model).sample(torch.Generator().manual_seed(seed))


def assert_exact(found: Expectation, expected: np.ndarray | float) -> None:
    np.testing.assert_allclose(found.value, expected, rtol=0, atol=1e-10)
    assert (found.error == 0).all()


def assert_within_error_bars(found: Expectation, expected: Expectation) -> None:
    distance = (found.value - expected.value).abs()
    assert (found.error < 0.2).all()
    assert (distance <= 5 * found.error + 1e-9).all(), (distance / found.error).max()


PARTICLES = {
    "bosons": bosons(4, 3),
    "bosons with a cutoff": bosons(3, None, 2),
    "fermions": fermions(5, 2),
    "fermions of any number": fermions(4),
    "electrons": spinful_fermions(3, 2, 1),
    "electrons of any number": spinful_fermions(3),
}
every_particle = pytest.mark.parametrize("hilbert", PARTICLES.values(), ids=PARTICLES)
SPINS = {"Sz = 0": spins(4, 0), "any Sz": spins(4), "Sz = 1/2": spins(5, 0.5)}
every_spin = pytest.mark.parametrize("hilbert", SPINS.values(), ids=SPINS)


def test_states_of_these_tests_have_phases() -> None:
    for hilbert in [*PARTICLES.values(), *SPINS.values()]:
        phase = np.angle(vector(transformer(hilbert)))
        assert np.ptp(phase) > 0.3


# ---- diagonal observables --------------------------------------------------------------------------


@pytest.mark.parametrize("hilbert", [*SPACES.values(), *SPINS.values()], ids=[*SPACES, *SPINS])
def test_densities_and_correlations_are_sums_over_the_sector(hilbert: HilbertSpace) -> None:
    model = transformer(hilbert)
    p = np.abs(vector(model)) ** 2
    for charge in hilbert.charges:
        q = np.array(charge.values, dtype=float)[hilbert.configurations().numpy()]  # (dimension, L)
        mean, product = p @ q, np.einsum("u,ui,uj->ij", p, q, q)
        for samples in (exhaustive(model), exact_samples(hilbert, vector(model))):
            assert_exact(densities(samples, hilbert, charge.name), mean)
            assert_exact(correlations(samples, hilbert, charge.name), product)
            assert_exact(correlations(samples, hilbert, charge.name, connected=True), product - np.outer(mean, mean))
        drawn = tree(model)
        full = exhaustive(model)
        for connected in (False, True):
            assert_within_error_bars(
                correlations(drawn, hilbert, charge.name, connected=connected),
                correlations(full, hilbert, charge.name, connected=connected),
            )
        assert_within_error_bars(densities(drawn, hilbert, charge.name), densities(full, hilbert, charge.name))


def test_correlations_of_two_quantities() -> None:
    hilbert = SPACES["electrons"]
    model = transformer(hilbert)
    samples = exhaustive(model)
    psi, (up, down) = full_vector(hilbert, vector(model)), modes(hilbert)
    expected = [[expect(psi, a.T @ a @ b.T @ b).real for b in down] for a in up]
    found = correlations(samples, hilbert, "up electrons", "down electrons")
    assert_exact(found, np.array(expected))
    assert_exact(double_occupancy(samples, hilbert), np.diag(expected))
    assert_within_error_bars(double_occupancy(tree(model), hilbert), double_occupancy(samples, hilbert))
    means = [densities(samples, hilbert, name).value for name in ("up electrons", "down electrons")]
    connected = correlations(samples, hilbert, "up electrons", "down electrons", connected=True)
    assert_exact(connected, found.value.numpy() - np.outer(*means))


def test_site_values_by_name() -> None:
    assert site_values(spinful_fermions(2, 1, 1), "particles").tolist() == [0, 1, 1, 2]
    assert site_values(spinful_fermions(2, 1, 1), "Sz").tolist() == [0, 0.5, -0.5, 0]
    assert site_values(spins(2, spin=1), "Sz").tolist() == [-1, 0, 1]
    assert site_values(bosons(2, 2), "particles").tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"'spin' is no local quantity of this space, which has: 'particles'"):
        site_values(bosons(2, 2), "spin")


def test_quantity_given_by_its_values() -> None:
    hilbert = bosons(4, 3)
    samples = exhaustive(transformer(hilbert))
    squares = torch.tensor([0, 1, 4, 9])
    second = correlations(samples, hilbert, "particles").value.diagonal()
    assert_exact(densities(samples, hilbert, squares), second.numpy())
    with pytest.raises(ValueError, match=r"shape \(3,\): give one value for each of the 4 local states"):
        densities(samples, hilbert, squares[:3])


@pytest.mark.parametrize("connected", [False, True])
def test_structure_factor_is_the_transform_of_the_correlations(connected: bool) -> None:
    lattice, hilbert = square(2, 2), spins(4, 0)
    model = transformer(hilbert)
    samples = exhaustive(model)
    product = correlations(samples, hilbert, "Sz", connected=connected).value
    for k in (None, torch.tensor([[0.3, -1.2], [math.pi, 0.0]], dtype=torch.float64)):
        used = allowed_momenta(lattice) if k is None else k
        wave = torch.exp(1j * (used @ lattice.coordinates.T))
        expected = torch.einsum("ki,ij,kj->k", wave, product.to(wave.dtype), wave.conj()).real / 4
        found = structure_factor(samples, hilbert, lattice, "Sz", k, connected=connected)
        assert_exact(found, expected.numpy())
        drawn = structure_factor(tree(model), hilbert, lattice, "Sz", k, connected=connected)
        assert_within_error_bars(drawn, found)


def test_neel_state_has_one_peak() -> None:
    """S(pi) = L/4 and zero elsewhere."""
    hilbert = spins(4, 0)
    n = torch.tensor([[0, 1, 0, 1]], dtype=torch.uint8)
    found = structure_factor(weighted(n, torch.ones(1, dtype=torch.float64)), hilbert, chain(4, periodic=True), "Sz")
    np.testing.assert_allclose(found.value, [0, 0, 1, 0], atol=1e-14)


def test_allowed_momenta() -> None:
    lattice = chain(4, boundary="antiperiodic")
    np.testing.assert_allclose(allowed_momenta(lattice)[:, 0], np.pi / 2 * (np.arange(4) + 0.5))
    np.testing.assert_allclose(allowed_momenta(lattice, antiperiodic=False)[:, 0], np.pi / 2 * np.arange(4))
    torus = honeycomb(3, 2)
    winding = allowed_momenta(torus) @ (torch.tensor(torus.vectors, dtype=torch.float64) * torch.tensor([[3], [2]])).T
    np.testing.assert_allclose(torch.exp(1j * winding), 1, atol=1e-12)
    assert len(allowed_momenta(torus)) == 6
    with pytest.raises(ValueError, match=r"has no allowed momenta: .* Give wave_vectors"):
        allowed_momenta(chain(4, boundary="open"))


# ---- one-body density matrix -----------------------------------------------------------------------


@every_particle
def test_one_body_matrix_equals_dense_operators(hilbert: HilbertSpace) -> None:
    model = transformer(hilbert)
    for state in (vector(model), random_state(hilbert)):
        psi = full_vector(hilbert, state)
        expected = [np.array([[expect(psi, a.T @ b) for b in kind] for a in kind]) for kind in modes(hilbert)]
        wavefunction = StateVector(hilbert, state)
        samples = exact_samples(hilbert, state)
        assert_exact(one_body_density_matrix(samples, wavefunction), sum(expected))
        if len(expected) == 2:
            for spin, matrix in zip(("up", "down"), expected, strict=True):
                assert_exact(one_body_density_matrix(samples, wavefunction, spin=spin), matrix)
    full = one_body_density_matrix(exhaustive(model), model)
    np.testing.assert_allclose(full.value, one_body_density_matrix(exact_samples(hilbert, vector(model)), model).value)
    drawn = one_body_density_matrix(tree(model), model)
    assert_within_error_bars(drawn, full)
    torch.testing.assert_close(drawn.value, drawn.value.mH)


def test_one_body_matrix_without_double_occupation() -> None:
    """t-J: the operators of the Hubbard space between states without doubly occupied sites."""
    hilbert = TJ(chain(3), 1, 1, J=0.5).hilbert
    state = random_state(hilbert)
    psi = full_vector(hilbert, state)
    expected = sum(np.array([[expect(psi, a.T @ b) for b in kind] for a in kind]) for kind in modes(hilbert))
    assert_exact(one_body_density_matrix(exact_samples(hilbert, state), StateVector(hilbert, state)), expected)


def test_amplitudes_that_are_zero_do_no_harm() -> None:
    hilbert = fermions(5, 2)
    state = random_state(hilbert)
    state[[0, 3, 4, 8]] = 0
    state /= np.linalg.norm(state)
    psi, (c,) = full_vector(hilbert, state), modes(hilbert)
    samples = exact_samples(hilbert, state)
    assert samples.n_distinct == 6
    expected = np.array([[expect(psi, a.T @ b) for b in c] for a in c])
    assert_exact(one_body_density_matrix(samples, StateVector(hilbert, state)), expected)


@pytest.mark.parametrize("word", ["periodic", "antiperiodic"])
def test_free_fermions_fill_the_lowest_momenta(word: str) -> None:
    N = 3 if word == "periodic" else 2  # closed shells
    hamiltonian = TV(chain(6, boundary=word), N, V=0.0)
    state = exact.ground_state(hamiltonian).state
    samples, psi = exact_samples(hamiltonian.hilbert, state), StateVector(hamiltonian.hilbert, state)
    energies = -2 * np.cos(allowed_momenta(hamiltonian.lattice)[:, 0].numpy())
    filled = np.zeros(6)
    filled[np.argsort(energies)[:N]] = 1
    assert_exact(momentum_distribution(samples, psi, hamiltonian.lattice), filled)
    occupations = np.linalg.eigvalsh(one_body_density_matrix(samples, psi).value)
    np.testing.assert_allclose(occupations, np.sort(filled), atol=1e-9)


def test_momentum_distribution_is_the_transform_of_the_matrix() -> None:
    hamiltonian = FermiHubbard(square(2, 2), 2, 1, U=4.0)
    model = transformer(hamiltonian.hilbert)
    samples = exhaustive(model)
    for spin, number in (("up", 2), ("down", 1), (None, 3)):
        matrix = one_body_density_matrix(samples, model, spin=spin).value
        wave = torch.exp(1j * (allowed_momenta(hamiltonian.lattice) @ hamiltonian.lattice.coordinates.T))
        found = momentum_distribution(samples, model, hamiltonian.lattice, spin=spin)
        assert_exact(found, (torch.einsum("ki,ij,kj->k", wave, matrix, wave.conj()).real / 4).numpy())
        assert found.value.sum().item() == pytest.approx(number)
        assert_within_error_bars(momentum_distribution(tree(model), model, hamiltonian.lattice, spin=spin), found)


def test_free_bosons_condense() -> None:
    hamiltonian = BoseHubbard(chain(4, periodic=True), 3, U=0.0)
    state = exact.ground_state(hamiltonian).state
    samples, psi = exact_samples(hamiltonian.hilbert, state), StateVector(hamiltonian.hilbert, state)
    assert condensate_fraction(samples, psi).value.item() == pytest.approx(1)
    np.testing.assert_allclose(momentum_distribution(samples, psi, hamiltonian.lattice).value, [3, 0, 0, 0], atol=1e-9)


def test_condensate_fraction_of_samples() -> None:
    model = transformer(PARTICLES["bosons with a cutoff"])
    full = condensate_fraction(exhaustive(model), model)
    matrix = one_body_density_matrix(exhaustive(model), model).value
    assert_exact(full, (torch.linalg.eigvalsh(matrix)[-1] / matrix.trace().real).item())
    found = condensate_fraction(tree(model), model)
    assert found.error > 0
    assert_within_error_bars(found, full)


# ---- spins -----------------------------------------------------------------------------------------


@every_spin
def test_spin_correlations_equal_dense_operators(hilbert: HilbertSpace) -> None:
    L = hilbert.n_sites
    # Local state 0 is down: S+ takes state 0 to state 1.
    components = [(LOWER.T + LOWER) / 2, (LOWER.T - LOWER) / 2j, np.diag([-0.5, 0.5])]
    s = [[on_site(c, site, L) for site in range(L)] for c in components]
    model = transformer(hilbert)
    for state in (vector(model), random_state(hilbert)):
        psi = full_vector(hilbert, state)
        expected = [[sum(expect(psi, c[i] @ c[j]) for c in s).real for j in range(L)] for i in range(L)]
        assert_exact(spin_correlations(exact_samples(hilbert, state), StateVector(hilbert, state)), np.array(expected))
    full = spin_correlations(exhaustive(model), model)
    assert_within_error_bars(spin_correlations(tree(model), model), full)


def test_singlet() -> None:
    hilbert = spins(2, 0)
    state = np.array([1, -1]) / math.sqrt(2)
    found = spin_correlations(exact_samples(hilbert, state), StateVector(hilbert, state))
    assert_exact(found, np.array([[0.75, -0.75], [-0.75, 0.75]]))


# ---- fidelity --------------------------------------------------------------------------------------


@every_space
def test_fidelity(hilbert: HilbertSpace) -> None:
    model = transformer(hilbert)
    rng = np.random.default_rng(1)
    near = vector(model) + 0.2 * random_state(hilbert) * np.exp(1j * rng.uniform())
    near /= np.linalg.norm(near)
    for phi in (near, random_state(hilbert, 2)):
        expected = abs(np.vdot(vector(model), phi)) ** 2
        assert_exact(fidelity(exhaustive(model), hilbert, phi), expected)
        assert_exact(fidelity(exact_samples(hilbert, vector(model)), hilbert, phi), expected)
    assert_within_error_bars(
        fidelity(tree(model), hilbert, near), fidelity(exhaustive(model), hilbert, torch.from_numpy(near))
    )
    same = fidelity(tree(model, 100), hilbert, vector(model))
    assert same.value.item() == pytest.approx(1)
    assert same.error.item() < 1e-10


def test_bad_vectors_are_refused() -> None:
    hilbert = bosons(3, 2)
    with pytest.raises(ValueError, match=r"shape \(5,\); give one amplitude for each of the 6"):
        exact_samples(hilbert, np.ones(5))
    for use in (lambda x: StateVector(hilbert, x), lambda x: exact_samples(hilbert, x)):
        with pytest.raises(ValueError, match=r"has norm 2.4494897: normalise it to 1"):
            use(np.ones(6))
    with pytest.raises(ValueError, match=r"norm nan"):
        exact_samples(hilbert, np.full(6, np.nan))


def test_state_vector_is_a_wavefunction() -> None:
    hilbert = bosons(3, 2)
    state = random_state(hilbert)
    wavefunction = StateVector(hilbert, state)
    np.testing.assert_allclose(vector(wavefunction), state)
    outside = torch.tensor([[2, 2, 0], [1, 1, 0]], dtype=torch.uint8)
    assert wavefunction.log_psi(outside).log_modulus.isneginf().tolist() == [True, False]
    samples = exhaustive(wavefunction)
    np.testing.assert_allclose(samples.weights, exact_samples(hilbert, state).weights)


# ---- Renyi entropy ---------------------------------------------------------------------------------


def dense_renyi2(hilbert: HilbertSpace, state: np.ndarray, sites: tuple[int, ...]) -> float:
    psi = full_vector(hilbert, state).reshape([hilbert.local_dim] * hilbert.n_sites)
    matrix = np.moveaxis(psi, sites, range(len(sites))).reshape(hilbert.local_dim ** len(sites), -1)
    rho = matrix @ matrix.conj().T
    return -math.log(np.trace(rho @ rho).real)


def majorana_renyi2(hilbert: HilbertSpace, state: np.ndarray, sites: tuple[int, ...]) -> float:
    """rho_A = 2^-|A| sum_S <gamma_S>^* gamma_S over products of the Majorana operators of A."""
    psi = full_vector(hilbert, state)
    c = [kind[site] for kind in modes(hilbert) for site in sites]
    majoranas = [m for a in c for m in (a + a.T, 1j * (a - a.T))]
    total = 0.0
    for chosen in itertools.product([0, 1], repeat=len(majoranas)):
        x = psi
        for m, use in zip(majoranas, chosen, strict=True):
            x = m @ x if use else x
        total += abs(np.vdot(psi, x)) ** 2
    return -math.log(total / 2 ** len(c))


ENTANGLED = {
    "bosons": (bosons(4, 3), (1, 3), dense_renyi2),
    "bosons with a cutoff": (bosons(3, None, 2), (2,), dense_renyi2),
    "spins": (spins(4, 0), (0, 2), dense_renyi2),
    "spins 1": (spins(3, None, spin=1), (0, 1), dense_renyi2),
    "fermions": (fermions(5, 2), (1, 3), majorana_renyi2),
    "electrons": (spinful_fermions(4, 2, 1), (0, 2), majorana_renyi2),
}


@pytest.mark.parametrize(("hilbert", "sites", "reference"), ENTANGLED.values(), ids=ENTANGLED)
def test_renyi_entropy(hilbert: HilbertSpace, sites: tuple[int, ...], reference: Callable[..., float]) -> None:
    model = transformer(hilbert)
    for state in (vector(model), random_state(hilbert)):
        samples = exact_samples(hilbert, state)
        found = renyi2_entropy(samples, StateVector(hilbert, state), sites)
        assert_exact(found, reference(hilbert, state, sites))
        others = [site for site in range(hilbert.n_sites) if site not in sites]
        assert_exact(renyi2_entropy(samples, StateVector(hilbert, state), others), found.value.item())
    full = renyi2_entropy(exhaustive(model), model, sites)
    drawn = renyi2_entropy(tree(model, 60_000), model, sites)
    assert drawn.error > 0
    assert_within_error_bars(drawn, full)
    # Random amplitudes are far from a product; the samples are drawn by hand.
    wavefunction = StateVector(hilbert, random_state(hilbert))
    p = exact_samples(hilbert, random_state(hilbert))
    counts = torch.from_numpy(np.random.default_rng(3).multinomial(10**9, p.weights.numpy()))
    many = Samples(
        configurations=p.configurations,
        weights=counts.double() / 10**9,
        log_modulus=p.log_modulus,
        phase=p.phase,
        counts=counts,
    )
    assert_within_error_bars(
        renyi2_entropy(many, wavefunction, sites, n_pairs=20_000), renyi2_entropy(p, wavefunction, sites)
    )


def test_bell_pair() -> None:
    hilbert = spins(2, 0)
    state = np.array([1, -1]) / math.sqrt(2)
    assert_exact(renyi2_entropy(exact_samples(hilbert, state), StateVector(hilbert, state), [0]), math.log(2))


def test_product_state_has_no_entropy() -> None:
    hilbert = spins(4)
    rng = np.random.default_rng(0)
    local = [x / np.linalg.norm(x) for x in rng.standard_normal((4, 2, 2)) @ np.array([1, 1j])]
    state = functools.reduce(np.kron, local)
    samples = exact_samples(hilbert, state)
    assert_exact(renyi2_entropy(samples, StateVector(hilbert, state), [0, 2]), 0.0)
    correlation = correlations(samples, hilbert, "Sz", connected=True).value
    np.testing.assert_allclose(correlation - correlation.diag().diag(), 0, atol=1e-12)
    # every swap of a product state has the ratio 1: no noise at all
    counts = torch.ones(len(samples.weights), dtype=torch.int64)
    drawn = Samples(
        configurations=samples.configurations,
        weights=counts.double() / counts.sum(),
        log_modulus=samples.log_modulus,
        phase=samples.phase,
        counts=counts,
    )
    found = renyi2_entropy(drawn, StateVector(hilbert, state), [0, 2])
    assert found.value.item() == pytest.approx(0, abs=1e-12)
    assert found.error.item() < 1e-12


@pytest.mark.parametrize("sites", [(0, 1), (1, 4), (0, 3, 4)])
def test_entropy_of_free_fermions(sites: tuple[int, ...]) -> None:
    """S_2 = - sum ln(x^2 + (1 - x)^2) over the eigenvalues x of the one-body matrix of A (Peschel)."""
    hamiltonian = TV(chain(6, periodic=True), 3, V=0.0)
    state = exact.ground_state(hamiltonian).state
    samples, psi = exact_samples(hamiltonian.hilbert, state), StateVector(hamiltonian.hilbert, state)
    matrix = one_body_density_matrix(samples, psi).value[list(sites)][:, list(sites)]
    x = np.linalg.eigvalsh(matrix)
    found = renyi2_entropy(samples, psi, sites)
    np.testing.assert_allclose(found.value, -np.log(x**2 + (1 - x) ** 2).sum(), atol=1e-8)


# ---- error bars ------------------------------------------------------------------------------------

BOSONS = bosons(4, 3)
RING = chain(4, periodic=True)
ESTIMATES: dict[str, Callable[[Samples, Transformer], Expectation]] = {
    "density": lambda s, m: densities(s, BOSONS, "particles"),
    "connected correlations": lambda s, m: correlations(s, BOSONS, "particles", connected=True),
    "structure factor": lambda s, m: structure_factor(
        s, BOSONS, RING, "particles", allowed_momenta(RING)[1:], connected=True
    ),
    "one-body matrix": lambda s, m: one_body_density_matrix(s, m),
    "momentum distribution": lambda s, m: momentum_distribution(s, m, RING),
    "condensate fraction": lambda s, m: condensate_fraction(s, m),
    "fidelity": lambda s, m: fidelity(s, BOSONS, NEAR),
    "entropy": lambda s, m: renyi2_entropy(s, m, [0, 1]),
}
NEAR = vector(transformer(BOSONS)) + 0.3 * random_state(BOSONS)
NEAR /= np.linalg.norm(NEAR)


@pytest.fixture(scope="module")
def repeated() -> list[Samples]:
    """A hundred draws from one model."""
    model, generator = transformer(BOSONS), torch.Generator().manual_seed(7)
    return [TreeSampler(n_samples=2_000).build(model).sample(generator) for _ in range(100)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ESTIMATES)
def test_error_bars_are_calibrated(name: str, repeated: list[Samples]) -> None:
    """Over repeated draws, the deviations in units of their error bars have mean square 1."""
    model = transformer(BOSONS)
    expected = ESTIMATES[name](exhaustive(model), model)
    draws = [ESTIMATES[name](samples, model) for samples in repeated]
    z = torch.stack([((x.value - expected.value).abs() / x.error).flatten() for x in draws])  # (draws, elements)
    np.testing.assert_allclose(z.square().mean(0), 1, atol=0.55)  # standard deviation sqrt(2 / 100) each


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("name", "least"), [("density", 0.6), ("one-body matrix", 0.4)])
def test_error_bars_without_replacement(name: str, least: float) -> None:
    """Of moves, the variance that is quoted is an upper bound."""
    model, hamiltonian = transformer(BOSONS), BoseHubbard(RING, 3, U=1.0)
    expected = ESTIMATES[name](exhaustive(model), model)
    generator = torch.Generator().manual_seed(8)
    sampling = GumbelSampler(n_distinct=14).build(model)
    samples = [with_unseen(hamiltonian, model, sampling.sample(generator)) for _ in range(100)]
    draws = [ESTIMATES[name](s, model) for s in samples]
    square = torch.stack([(x.value - expected.value).abs().square() for x in draws]).mean(0)
    claimed = torch.stack([x.error.square() for x in draws]).mean(0)
    ratio = (square / claimed).flatten()
    assert least < ratio.mean() < 1.6  # a few configurations carry all of it: the estimate itself is rough
    assert ratio.max() < 3


# ---- wrong kinds of space --------------------------------------------------------------------------


def test_wrong_spaces_are_refused() -> None:
    def both(hilbert: HilbertSpace) -> tuple[Samples, StateVector]:
        state = random_state(hilbert)
        return exact_samples(hilbert, state), StateVector(hilbert, state)

    spin, boson, fermion = both(spins(4, 0)), both(bosons(4, 2)), both(fermions(4, 2))
    with pytest.raises(
        ValueError, match=r"one-body density matrix needs bosons, fermions or spinful_fermions; the space is 4 sites"
    ):
        one_body_density_matrix(*spin)
    with pytest.raises(ValueError, match=r"spin='up' needs electrons with spin"):
        one_body_density_matrix(*boson, spin="up")
    with pytest.raises(ValueError, match=r"spin='sideways': choose 'up', 'down', or None"):
        one_body_density_matrix(*boson, spin="sideways")
    with pytest.raises(ValueError, match=r"condensate fraction needs bosons"):
        condensate_fraction(*fermion)
    for kind in (boson, fermion, both(spinful_fermions(3, 1, 1))):
        with pytest.raises(ValueError, match=r"spin correlations need localised spins; the space is"):
            spin_correlations(*kind)
    with pytest.raises(ValueError, match=r"double occupancy needs electrons with spin"):
        double_occupancy(fermion[0], fermions(4, 2))
    with pytest.raises(ValueError, match=r"has 5 sites, the state has 4"):
        momentum_distribution(*boson, chain(5, periodic=True))
    with pytest.raises(ValueError, match=r"give one row of 1 components for each"):
        structure_factor(boson[0], bosons(4, 2), RING, "particles", torch.zeros(3, 2))
    for sites in ([], [0, 1, 2, 3], [0, 0], [4], [-1]):
        with pytest.raises(ValueError, match=r"give different sites between 0 and 3, at least one and not all"):
            renyi2_entropy(*boson, sites)
    model = transformer(bosons(4, 2))
    with pytest.raises(ValueError, match=r"drawn without replacement: use TreeSampler"):
        renyi2_entropy(GumbelSampler(n_distinct=5).build(model).sample(torch.Generator().manual_seed(0)), model, [0])
    with pytest.raises(ValueError, match=r"give at least 4 samples"):
        renyi2_entropy(tree(model, 3), model, [0])


# ---- the archive -----------------------------------------------------------------------------------


def test_run_stores_the_statistics_of_its_charges(tmp_path: Path) -> None:
    hamiltonian = FermiHubbard(chain(3), 2, 1, U=4.0)
    path = tmp_path / "run.h5"
    vmc = VMC(hamiltonian, transformer(hamiltonian.hilbert), evaluation=TreeSampler(n_samples=100))
    vmc.run(steps=1, archive=path, progress=False)
    stored = Archive.open(path).observables()
    names = {f"{kind}_{spin}_electrons" for kind in ("density", "correlations") for spin in ("up", "down")}
    assert names | {f"{name}_error" for name in names} <= set(stored)
    assert stored["density_up_electrons"].sum() == pytest.approx(2)
    np.testing.assert_allclose(stored["density_up_electrons"], stored["local_state_probabilities"][:, [1, 3]].sum(1))
    assert stored["correlations_down_electrons"].shape == (3, 3)
    np.testing.assert_allclose(stored["correlations_down_electrons"].sum(1), 0, atol=1e-12)  # a conserved number
    assert (stored["density_up_electrons_error"] > 0).all()
