"""nqs.expect and spin correlations against dense vectors and matrices."""

from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from operator_matrices import elements

import nqs
from nqs import VMC, exact
from nqs.hamiltonians import BoseHubbard, Heisenberg, LocalHamiltonian, operators
from nqs.hamiltonians.operators import b, b_dag, c, c_dag, diagonal, exchange, number, product, sminus, splus, sz
from nqs.hilbert import HilbertSpace, bosons, product_space, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import OnOrbits
from nqs.observables import StateVector, exact_samples, spin_correlations
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry import translations


def vector(hilbert: HilbertSpace, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    psi = rng.standard_normal(hilbert.dimension) + 1j * rng.standard_normal(hilbert.dimension)
    return psi / np.linalg.norm(psi)


@pytest.mark.parametrize(
    ("hilbert", "operator"),
    [
        (bosons(3, 3), b_dag(0) * b(2)),
        (bosons(3, 3), 1j * b_dag(0) * b(2) + b(1)),  # b leads out of the sector
        (spinful_fermions(3, 2, 1), c_dag(0, "up") * c(2, "up") * number(1, "down")),
        (spins(4, 0, 1), splus(0) * sminus(3) + diagonal(1, [-1, 1, -1])),
    ],
)
def test_expectation_of_any_operator(hilbert: HilbertSpace, operator: Any) -> None:
    psi = vector(hilbert)
    found = nqs.expect(operator, StateVector(hilbert, psi))
    assert found.value.item() == pytest.approx(psi.conj() @ elements(operator, hilbert) @ psi, abs=1e-12)
    assert found.error.item() == 0


def test_hermitian_operators_and_hamiltonians_have_real_values() -> None:
    hilbert = bosons(4, 3)
    psi, h = vector(hilbert), BoseHubbard(chain(4), 3, U=2.0)
    hop = b_dag(0) * b(1)
    state = StateVector(hilbert, psi)
    assert not nqs.expect(hop + hop.dagger(), state).value.is_complex()
    found = nqs.expect(h, state)
    assert found.value.item() == pytest.approx((psi.conj() @ exact.sparse_matrix(h) @ psi).real)
    several = nqs.expect([h, hop], state)
    assert several.value.shape == several.error.shape == (2,)
    assert several.value[1].item() == pytest.approx(psi.conj() @ elements(hop, hilbert) @ psi)


@pytest.mark.parametrize("kind", ["bosons", "electrons", "another state of the same sector"])
def test_elements_between_two_states(kind: str) -> None:
    if kind == "electrons":
        bra, ket, operator = spinful_fermions(3, 1, 2), spinful_fermions(3, 2, 2), c(1, "up") + 2j * c(0, "up")
    elif kind == "bosons":
        bra, ket, operator = bosons(3, 3), bosons(3, 4), b(1) + number(0) * b(2)
    else:
        bra = ket = bosons(3, 3)
        operator = b_dag(0) * b(1) + number(1)
    models = [small_transformer(heads=1, seed=k).build(space) for k, space in enumerate((bra, ket))]
    phi, psi = (
        torch.polar(x.log_modulus.exp(), x.phase).detach().numpy()
        for x in (model.log_psi(model.hilbert.configurations()) for model in models)
    )
    expected = phi.conj() @ elements(operator, bra, ket) @ psi
    assert abs(expected) > 0.01
    assert nqs.expect(operator, models[1], bra=models[0]).value.item() == pytest.approx(expected, abs=1e-12)
    sampled = nqs.expect(operator, models[1], 4000, bra=models[0])
    assert 0 < sampled.error < 0.1
    assert abs(sampled.value.item() - expected) < 4 * sampled.error


def test_sampled_values_lie_within_their_error_bars() -> None:
    hilbert = bosons(4, 4)
    model = small_transformer(heads=1, seed=1).build(hilbert)
    operator = b_dag(0) * b(2)
    right = nqs.expect(operator, model).value
    sampler, generator = TreeSampler(n_samples=300).build(model), torch.Generator().manual_seed(0)
    found = [nqs.expect(operator, model, sampler.sample(generator)) for _ in range(100)]
    distance = torch.tensor([abs(value - right) for value, _ in found])
    errors = torch.tensor([error for _, error in found])
    mean = torch.stack([value for value, _ in found]).mean()
    assert abs(mean - right) < 4 * errors.mean() / 10
    assert 0.8 < (distance.square().mean().sqrt() / errors.mean()).item() < 1.25


def test_symmetric_states_are_not_symmetric_about_the_operator() -> None:
    """<n_0 n_1> + i <b+_0 b_1> of a state with momentum, whose samples are representatives of orbits."""
    hilbert = bosons(4, 3)
    symmetry = translations(chain(4), hilbert, momentum=(1,))
    model = OnOrbits(base=small_transformer(heads=1, seed=2), symmetry=symmetry).build(hilbert)
    x = model.log_psi(hilbert.configurations())
    psi = torch.polar(x.log_modulus.exp(), x.phase).detach().numpy()
    operator = number(0) * number(1) + 1j * b_dag(0) * b(1)
    expected = psi.conj() @ elements(operator, hilbert) @ psi
    assert abs(expected.real) > 0.01
    for samples, error in ((ExhaustiveSampler(), 1e-12), (20_000, 0.05)):
        assert abs(nqs.expect(operator, model, samples).value.item() - expected) < error


@pytest.mark.usefixtures("unchecked")
def test_the_state_of_an_archive(tmp_path: Any) -> None:
    h = BoseHubbard(chain(4), 4, U=4.0)
    model = small_transformer(heads=1).build(h.hilbert)
    path = tmp_path / "run.h5"
    result = VMC(h, model).run(3, archive=path, progress=False)
    found = nqs.expect([h, number(0)], path)
    assert found.value[0].item() == pytest.approx(result.estimate.energy, abs=1e-10)
    assert nqs.expect(number(0), nqs.Archive.open(path)).value.item() == pytest.approx(found.value[1].item())


class Lowering:
    """An operator of a user's own that is not Hermitian, b_0 b+_1 of hard-core bosons."""

    def __init__(self, hermitian: bool) -> None:
        self.hilbert = bosons(2, 1)
        if not hermitian:
            self.is_hermitian = False

    def diagonal(self, n: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(n), dtype=torch.float64)

    def connected(self, n: torch.Tensor) -> Any:
        parents = (n[:, 0] == 1).nonzero()[:, 0]
        return nqs.protocols.Connected(n[parents].flip(1), torch.ones(len(parents), dtype=torch.float64), parents)


def test_operators_of_ones_own_say_whether_they_are_hermitian() -> None:
    state = StateVector(bosons(2, 1), np.array([0.6, 0.8j]))
    assert nqs.expect(Lowering(hermitian=False), state).value.item() == pytest.approx(-0.48j)
    with pytest.raises(ValueError, match="is_hermitian = False"):
        nqs.expect(Lowering(hermitian=True), state)


def test_what_does_not_fit_is_refused() -> None:
    state = StateVector(bosons(2, 1), np.array([0.6, 0.8]))
    with pytest.raises(ValueError, match="the operator acts on"):
        nqs.expect(BoseHubbard(chain(3), 1, U=1.0), state)
    with pytest.raises(TypeError, match="int is no operator"):
        nqs.expect(3, state)


def test_module_paths_of_0_1_lead_to_the_same_functions() -> None:
    from nqs import local_energy, progress, statistics
    from nqs.estimators import energy
    from nqs.estimators import local_energy as now
    from nqs.runtime import progress as runtime

    assert local_energy.local_energies is now.local_energies
    assert statistics.estimate_energy is energy.estimate_energy
    assert progress.TensorBoard is runtime.TensorBoard


# ---- spins of any length ---------------------------------------------------------------------------


def test_spin_correlations_of_a_ring_of_spins_1() -> None:
    h = Heisenberg(chain(6), 0, spin=1)
    found = exact.ground_state(h)
    samples, psi = exact_samples(h.hilbert, found.state), StateVector(h.hilbert, found.state)
    correlations = spin_correlations(samples, psi).value
    assert correlations[0, 1].item() == pytest.approx(found.energy / 6)
    torch.testing.assert_close(correlations.sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-10, rtol=0)  # singlet


@pytest.mark.parametrize(
    "hilbert",
    [
        spins(4, 0.0, 0.5),
        spins(3, None, 1.5),
        product_space(spins(2, None, 1), spins(1, None, 0.5), bosons(1, None, 2)),
    ],
    ids=["1/2", "3/2", "mixed, beside bosons"],
)
def test_spin_correlations_of_any_spins(hilbert: HilbertSpace) -> None:
    psi = vector(hilbert)
    found = spin_correlations(exact_samples(hilbert, psi), StateVector(hilbert, psi)).value
    has_spin = [len(hilbert.of_kind("boson")) == 0 or site < 3 for site in range(hilbert.n_sites)]
    for i in range(hilbert.n_sites):
        for j in range(hilbert.n_sites):
            expected = 0.0
            if has_spin[i] and has_spin[j]:
                expected = (psi.conj() @ elements(exchange(i, j), hilbert) @ psi).real
            assert found[i, j].item() == pytest.approx(expected, abs=1e-12)


def test_sampled_spin_correlations_have_error_bars() -> None:
    hilbert = spins(5, 0, 1)
    model = small_transformer(heads=1, seed=3).build(hilbert)
    samples = TreeSampler(n_samples=3000).build(model).sample(torch.Generator().manual_seed(1))
    right = nqs.expect(exchange(0, 3), model).value
    value, error = (x[0, 3] for x in spin_correlations(samples, model))
    assert 0 < error < 0.1
    assert abs(value - right) < 4 * error


def test_spins_that_are_none_are_refused() -> None:
    psi = vector(bosons(2, 1))
    with pytest.raises(ValueError, match="need localised spins"):
        spin_correlations(exact_samples(bosons(2, 1), psi), StateVector(bosons(2, 1), psi))


# ---- worked examples with known values --------------------------------------------------------------


def test_string_order_of_the_aklt_state() -> None:
    """-4/9 at any distance in the open chain; den Nijs and Rommelse, Phys. Rev. B 40, 4709 (1989)."""
    L = 6
    space = spins(L, 0, 1)
    bonds = [exchange(i, i + 1) + exchange(i, i + 1) ** 2 / 3 for i in range(L - 1)]
    levels = exact.lowest(LocalHamiltonian(space, sum(bonds)), 2)
    assert levels.energies[:2] == pytest.approx(-2 / 3 * (L - 1))
    states = levels.states
    flip = product(diagonal(k, [-1, 1, -1]) for k in range(2, 4))
    string = elements(sz(1) * flip * sz(4), space)
    ground = states @ string @ states.T
    assert np.linalg.eigvalsh(ground)[0] == pytest.approx(-4 / 9, abs=0.01)


def test_current_of_a_ring_with_flux_is_the_derivative_of_its_energy() -> None:
    """I = <dH / dphi> = dE / dphi for hops exp(i phi / L), Hellmann-Feynman."""
    L, flux, step = 4, 0.8, 1e-4
    space = spinful_fermions(L, 1, 2)

    def hops(angle: float) -> operators.Operator:
        turn = -np.exp(1j * angle / L)
        return sum(turn * c_dag((i + 1) % L, s) * c(i, s) for i in range(L) for s in ("up", "down"))

    def ring(angle: float) -> Any:
        interaction = 2.0 * sum(number(i, "up") * number(i, "down") for i in range(L))
        return LocalHamiltonian(space, hops(angle) + hops(angle).dagger() + interaction)

    state = StateVector(space, exact.ground_state(ring(flux)).state)
    above, below = (exact.ground_state(ring(flux + sign * step)).energy for sign in (1, -1))
    current = 1j / L * hops(flux)
    value = nqs.expect(current + current.dagger(), state).value.item()
    assert value == pytest.approx((above - below) / (2 * step), rel=1e-6)
    assert abs(value) > 1e-3


def test_vectors_of_sectors_that_are_too_large_for_a_sum_by_default() -> None:
    """The sum has all of its 48,620 terms, also where a wavefunction that can be drawn from would be sampled."""
    h = Heisenberg(chain(18), 0)
    psi = vector(h.hilbert)
    assert h.hilbert.dimension == 48_620
    found = nqs.expect([h, sz(0) * sz(5)], StateVector(h.hilbert, psi))
    right = [psi.conj() @ (exact.sparse_matrix(h) @ psi), (abs(psi) ** 2) @ elements_of_sz(h.hilbert, 0, 5)]
    assert found.value.tolist() == pytest.approx([x.real for x in right], abs=1e-12)
    assert found.error.tolist() == [0, 0]


def elements_of_sz(hilbert: HilbertSpace, i: int, j: int) -> np.ndarray:
    n = hilbert.configurations().double().numpy() - 0.5
    return n[:, i] * n[:, j]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("state", "message"),
    [
        (np.ones(20) / 20**0.5, r"a vector of shape \(20,\) does not say .*: give nqs\.observables\.StateVector"),
        (torch.ones(20), r"a vector of shape \(20,\) does not say"),
        (3, r"int is no state: give a wavefunction, the archive of a run or its path"),
        (None, r"NoneType is no state"),
    ],
)
def test_what_is_no_state_is_named(state: Any, message: str) -> None:
    for arguments in ({"state": state}, {"state": StateVector(bosons(3, 3), vector(bosons(3, 3))), "bra": state}):
        if arguments.get("bra", 0) is None:
            continue  # no bra
        with pytest.raises(TypeError, match=message):
            nqs.expect(number(0), **arguments)
