"""Fits to states: gradients against autograd over all configurations, and how close tiny states come."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from optimisers import first_order
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from nqs import exact
from nqs.estimators.local_energy import LocalEnergies
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.hilbert import bosons
from nqs.lattice import chain, square
from nqs.models import (
    MarshallSign,
    ProjectedDeterminant,
    Symmetrised,
    Transformer,
    hartree_fock,
)
from nqs.optimisation import TorchOptimiser
from nqs.pretraining import FitObjective, MeanField, ProductState, VectorTarget, compare, fit
from nqs.pretraining.divergences import OBJECTIVES
from nqs.pretraining.fitting import Mixture
from nqs.pretraining.targets import target_log_psi
from nqs.protocols import LogPsi, Wavefunction
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.symmetry import symmetries_of, translations

HUBBARD = FermiHubbard(square(2, 2, "open"), 2, 2, U=4.0)  # 36 configurations
RING = Heisenberg(chain(4), total_sz=0)
CHAIN = FermiHubbard(chain(4, periodic=False), 2, 2, U=4.0)
objectives = pytest.mark.parametrize("objective", OBJECTIVES)


def tiny(hilbert: Any, **options: Any) -> Transformer:
    return small_transformer(**options).build(hilbert)


def dense(state: Any, hilbert: Any) -> np.ndarray:
    """Normalised amplitudes."""
    log_modulus, phase = state.log_psi(hilbert.configurations())
    psi = torch.polar(log_modulus.exp(), phase).detach().numpy()
    return psi / np.linalg.norm(psi)


def random_vector(dimension: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal(dimension) + 1j * rng.standard_normal(dimension)


def fidelity(a: Any, b: Any, hilbert: Any) -> float:
    return abs(np.vdot(dense(a, hilbert), dense(b, hilbert))) ** 2


# -------------------------------------------------------------------------------------------- values and gradients


def loss_by_enumeration(model: Wavefunction, phi: Tensor, objective: str, weight: float) -> Tensor:
    """The definition, differentiable."""
    log_modulus, phase = model.log_psi(model.hilbert.configurations())
    p, q = (2 * log_modulus).exp(), phi.abs().square()
    psi = torch.polar(log_modulus.exp(), phase)
    if objective == "infidelity":
        return 1 - (phi.conj() @ psi).abs().square()
    turn = torch.polar(torch.ones_like(phase), phase - phi.angle())
    if objective == "forward":
        return (q * (q / p).log()).sum() + weight * (1 - (q * turn).sum().abs().square())
    return (p * (p / q).log()).sum() + weight * (1 - (p * turn).sum().abs().square())


@objectives
@pytest.mark.parametrize("weight", [2.0, 0.7])
def test_loss_and_gradient_are_those_of_the_definition(objective: FitObjective, weight: float) -> None:
    model = tiny(HUBBARD.hilbert, seed=3)
    state = random_vector(36)
    samples = Mixture(model, VectorTarget(HUBBARD.hilbert, state), ExhaustiveSampler()).sample(torch.Generator())
    phi = VectorTarget(HUBBARD.hilbert, 5j * state).log_psi(samples.configurations)  # neither norm nor phase matter
    found = compare(samples, LogPsi(phi.log_modulus + 0.3, phi.phase), objective, weight)
    normalised = torch.from_numpy(state / np.linalg.norm(state))
    loss = loss_by_enumeration(model, normalised, objective, weight)
    assert found.loss == pytest.approx(loss.item(), rel=1e-12)
    assert found.fidelity == pytest.approx(1 - loss_by_enumeration(model, normalised, "infidelity", 0.0).item())
    assert found.forward == pytest.approx(loss_by_enumeration(model, normalised, "forward", 0.0).item())
    assert found.reverse == pytest.approx(loss_by_enumeration(model, normalised, "reverse", 0.0).item())
    assert (samples.weights @ found.local.real).item() == pytest.approx(found.loss)
    expected = parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))
    before = parameters_to_vector(model.parameters()).detach().clone()
    # Plain gradient descent moves the parameters by the gradient.
    optimiser = TorchOptimiser(name="SGD", learning_rate=1.0, final_learning_rate=1.0).build(model)
    optimiser.step(samples, LocalEnergies(values=found.local, diagonal=found.diagonal), 0.0)
    torch.testing.assert_close(before - parameters_to_vector(model.parameters()).detach(), expected)


def test_close_to_the_target_the_objectives_are_twice_the_infidelity() -> None:
    model = tiny(HUBBARD.hilbert)
    psi = dense(model, HUBBARD.hilbert)
    near = psi * np.exp(1e-4 * random_vector(36))
    samples = Mixture(model, model, ExhaustiveSampler()).sample(torch.Generator())
    phi = VectorTarget(HUBBARD.hilbert, near).log_psi(samples.configurations)
    forward, reverse, infidelity = (compare(samples, phi, objective).loss for objective in OBJECTIVES)
    assert forward == pytest.approx(2 * infidelity, rel=1e-3)
    assert reverse == pytest.approx(2 * infidelity, rel=1e-3)


# ------------------------------------------------------------------------------------------------------------ fits


@objectives
def test_an_exact_ground_state_is_reached(objective: FitObjective) -> None:
    ground_state = exact.ground_state(RING)
    model = tiny(RING.hilbert)
    target = VectorTarget(RING.hilbert, ground_state.state)
    result = fit(model, target, objective, steps=50, progress=False)
    assert result.fidelity > 0.99999
    assert result.fidelity == pytest.approx(fidelity(model, target, RING.hilbert))
    assert result.forward < 1e-4
    assert result.history["fidelity"][0] < 0.9
    assert len(result.history["loss"]) == result.steps + 1


@pytest.mark.parametrize(
    ("objective", "sampler"),
    [(o, TreeSampler(n_samples=1000)) for o in OBJECTIVES] + [("forward", GumbelSampler(n_distinct=25))],
    ids=str,
)
def test_another_model_is_reached_from_samples(objective: FitObjective, sampler: Any) -> None:
    space = bosons(4, 4)  # 35 configurations
    model, target = tiny(space), tiny(space, seed=1)
    with torch.no_grad():
        target.head.weight[: space.local_dim] *= 10
    before = fidelity(model, target, space)
    result = fit(model, target, objective, steps=25, sampler=sampler, progress=False)
    assert before < 0.8
    assert fidelity(model, target, space) > 0.99
    assert result.fidelity == pytest.approx(fidelity(model, target, space), abs=0.02)


def test_a_first_order_optimiser_works_too() -> None:
    target = VectorTarget(RING.hilbert, exact.ground_state(RING).state)
    optimiser = first_order(learning_rate=0.02, final_learning_rate=0.002)
    result = fit(tiny(RING.hilbert), target, optimiser=optimiser, steps=100, progress=False)
    assert result.fidelity > 0.99


def test_the_amplitudes_of_a_determinant_are_reached_and_not_only_its_signs() -> None:
    determinant = hartree_fock(HUBBARD).determinant
    target = MeanField(HUBBARD.hilbert, determinant)
    amplitudes = determinant.amplitude(HUBBARD.hilbert.configurations()).numpy()
    np.testing.assert_allclose(abs(dense(target, HUBBARD.hilbert)), abs(amplitudes) / np.linalg.norm(amplitudes))
    model = small_transformer(reference=determinant).build(HUBBARD.hilbert)
    assert fit(model, target, steps=40, progress=False).fidelity > 0.9999
    psi, H = dense(model, HUBBARD.hilbert), exact.sparse_matrix(HUBBARD)
    assert np.vdot(psi, H @ psi).real == pytest.approx(hartree_fock(HUBBARD).energy, abs=1e-2)


def test_a_product_state_is_projected_on_the_sector() -> None:
    rng = np.random.default_rng(0)
    space = bosons(3, 3)
    amplitudes = rng.standard_normal((3, space.local_dim)) + 1j * rng.standard_normal((3, space.local_dim))
    target = ProductState(space, amplitudes)
    n = space.configurations().numpy()
    product = np.prod([amplitudes[s, n[:, s]] for s in range(3)], axis=0)
    overlap = np.vdot(product / np.linalg.norm(product), dense(target, space))
    assert abs(overlap) == pytest.approx(1)
    assert fit(tiny(space), target, steps=60, progress=False).fidelity > 0.999


def test_a_fit_ends_at_the_fidelity_that_was_wanted() -> None:
    target = VectorTarget(RING.hilbert, exact.ground_state(RING).state)
    result = fit(tiny(RING.hilbert), target, fidelity=0.9, steps=50, progress=False)
    assert 0.9 <= result.fidelity < 0.999
    assert 0 < result.steps < 20


def test_no_steps_compare_only() -> None:
    model = tiny(RING.hilbert)
    before = parameters_to_vector(model.parameters()).detach().clone()
    result = fit(model, model, steps=0, progress=False)
    assert result.fidelity == pytest.approx(1)
    assert torch.equal(parameters_to_vector(model.parameters()), before)


def test_fits_repeat_with_their_generator() -> None:
    target = tiny(RING.hilbert, seed=1)
    runs = []
    for seed in (0, 0, 1):
        model = tiny(RING.hilbert)
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, Any] = {"sampler": TreeSampler(n_samples=20), "generator": generator, "progress": False}
        fit(model, target, steps=3, **options)
        runs.append(parameters_to_vector(model.parameters()).detach())
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


# -------------------------------------------------------------------------------------------------------- symmetry


def test_a_symmetric_wavefunction_is_fitted_to_the_projection() -> None:
    symmetry = translations(RING.lattice, RING.hilbert)
    config = Symmetrised(
        base=small_transformer(reference=MarshallSign(sublattice=(0, 1, 0, 1))),
        symmetry=symmetry,
    )
    model = config.build(RING.hilbert)
    state = random_vector(6)
    target = VectorTarget(RING.hilbert, state)
    n = RING.hilbert.configurations()
    turned = [state[RING.hilbert.rank(n[:, list(p)]).numpy()] for p in symmetry.permutations]
    projected = np.mean(turned, axis=0)  # all characters are 1
    log_modulus, phase = target_log_psi(target, n, model)
    found = torch.polar(log_modulus.exp(), phase).numpy()
    np.testing.assert_allclose(found / found[0], projected / projected[0])
    assert fit(model, target, steps=60, progress=False).fidelity > 0.999
    assert fidelity(model, VectorTarget(RING.hilbert, projected), RING.hilbert) > 0.999


def test_the_projection_of_a_determinant_is_that_of_its_sector() -> None:
    """By the group average here and by ProjectedDeterminant, fermionic signs included."""
    determinant = hartree_fock(CHAIN).determinant
    symmetry = symmetries_of(CHAIN, fermions=True)
    for sector in symmetry.real_characters():
        projected = ProjectedDeterminant(determinant=determinant, symmetry=sector, hilbert=CHAIN.hilbert)
        config = Symmetrised(base=small_transformer(width=4, heads=1), symmetry=sector)
        model = config.build(CHAIN.hilbert)
        n = CHAIN.hilbert.configurations()
        log_modulus, phase = target_log_psi(MeanField(CHAIN.hilbert, determinant), n, model)
        log_modulus_2, phase_2 = MeanField(CHAIN.hilbert, projected).log_psi(n)
        a = torch.polar(log_modulus.exp(), phase)
        b = torch.polar(log_modulus_2.exp(), phase_2)
        if b.abs().max() < 1e-9:
            assert a.abs().max() < 1e-9 * math.exp(1)
            continue
        scale = a[b.abs().argmax()] / b[b.abs().argmax()]
        torch.testing.assert_close(a, b * scale, atol=1e-9, rtol=1e-9)


def test_a_projected_determinant_is_not_projected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    determinant, symmetry = hartree_fock(CHAIN).determinant, symmetries_of(CHAIN, fermions=True)
    model = Symmetrised(base=small_transformer(width=4, heads=1), symmetry=symmetry).build(CHAIN.hilbert)
    projected = ProjectedDeterminant(determinant=determinant, symmetry=symmetry, hilbert=CHAIN.hilbert)
    target, n = MeanField(CHAIN.hilbert, projected), CHAIN.hilbert.configurations()
    once, _ = target_log_psi(target, n, model)
    monkeypatch.setattr("nqs.pretraining.targets.symmetry_of", lambda state: symmetry if state is model else None)
    twice, _ = target_log_psi(target, n, model)
    torch.testing.assert_close(once.exp(), twice.exp())


@pytest.mark.usefixtures("unchecked")
def test_models_of_one_symmetry_are_fitted_from_samples_of_both() -> None:
    symmetry = translations(chain(4), bosons(4, 4))
    model, target = (
        Symmetrised(base=small_transformer(seed=seed), symmetry=symmetry).build(bosons(4, 4)) for seed in (0, 1)
    )
    # Random phases of images interfere: more steps than phases of single configurations take.
    result = fit(model, target, steps=40, sampler=TreeSampler(n_samples=10**5), progress=False)
    assert result.fidelity > 0.999
    assert fidelity(model, target, bosons(4, 4)) > 0.999
    plain = tiny(bosons(4, 4))
    fit(plain, target, steps=40, sampler=TreeSampler(n_samples=10**5), progress=False)
    assert fidelity(plain, target, bosons(4, 4)) > 0.99


# --------------------------------------------------------------------------------------------------------- samples


@pytest.mark.parametrize("of_a_vector", [True, False])
def test_weights_of_mixed_samples_are_those_of_the_wavefunction(of_a_vector: bool) -> None:
    model, other = tiny(HUBBARD.hilbert), tiny(HUBBARD.hilbert, seed=5)
    target = VectorTarget(HUBBARD.hilbert, dense(other, HUBBARD.hilbert)) if of_a_vector else other
    p = abs(dense(model, HUBBARD.hilbert)) ** 2
    n_samples = 10**6
    samples = Mixture(model, target, TreeSampler(n_samples=n_samples)).sample(torch.Generator().manual_seed(0))
    rank = HUBBARD.hilbert.rank(samples.configurations).numpy()
    assert len(rank) == 36
    np.testing.assert_allclose(samples.weights.numpy(), p[rank], atol=5 * np.sqrt(p.max() / n_samples))


def test_samples_of_a_state_vector_have_its_probabilities() -> None:
    state = random_vector(36)
    p = abs(state) ** 2 / np.linalg.norm(state) ** 2
    n_samples = 20_000
    samples = VectorTarget(HUBBARD.hilbert, state).sample(n_samples, torch.Generator().manual_seed(0))
    assert samples.counts is not None
    counts = np.zeros(36)
    counts[HUBBARD.hilbert.rank(samples.configurations)] = samples.counts.numpy()
    chi_squared = ((counts - n_samples * p) ** 2 / (n_samples * p)).sum()
    assert chi_squared < 35 + 5 * math.sqrt(2 * 35)
    np.testing.assert_allclose((2 * samples.log_modulus).exp().numpy(), p[HUBBARD.hilbert.rank(samples.configurations)])


# ---------------------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_fitted_is_said() -> None:
    model = tiny(RING.hilbert)
    space = RING.hilbert
    with pytest.raises(ValueError, match=r"shape \(5,\), but the sector is .* give \(6,\) amplitudes"):
        VectorTarget(space, np.ones(5))
    with pytest.raises(ValueError, match="infinite or undefined amplitudes, or none that is not 0"):
        VectorTarget(space, np.zeros(6))
    with pytest.raises(ValueError, match=r"shape \(4, 3\); the sector has 4 sites with 2 local states"):
        ProductState(space, np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"the wavefunction lives on 4 sites .* the target on 4 sites"):
        fit(model, tiny(bosons(4, 4)), steps=1, progress=False)
    with pytest.raises(ValueError, match="steps=-1: it must be 0"):
        fit(model, model, steps=-1, progress=False)
    with pytest.raises(ValueError, match=r"phase_weight=-1\.0: it must be 0"):
        fit(model, model, steps=1, phase_weight=-1.0, progress=False)
    vanishing = VectorTarget(space, np.eye(6)[0])
    with pytest.raises(ValueError, match="the reverse divergence is infinite: use objective='forward'"):
        fit(model, vanishing, "reverse", steps=1, progress=False)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_objective_is_named() -> None:
    model = tiny(RING.hilbert)
    with pytest.raises(ValueError, match="objective='KL': choose 'forward', 'reverse' or 'infidelity'"):
        fit(model, model, "KL", steps=1, progress=False)  # type: ignore[arg-type]


def test_a_target_outside_the_symmetry_sector_is_refused() -> None:
    h = BoseHubbard(chain(3), 1, U=0.0)
    moving = np.exp(2j * np.pi * np.arange(3) / 3)  # momentum 2 pi / 3
    model = Symmetrised(base=small_transformer(width=4, heads=1), symmetry=translations(h.lattice, h.hilbert)).build(
        h.hilbert
    )
    with pytest.raises(ValueError, match="no weight in this"):
        fit(model, VectorTarget(h.hilbert, moving), steps=1, progress=False)
