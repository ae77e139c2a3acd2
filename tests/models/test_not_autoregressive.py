"""Every wavefunction that is not autoregressive: its sector, its gradients, its configuration, and a ground state.

A new model is one more line in MODELS, with a sector that it is for.
"""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from networks import small_convolutional, small_determinant, small_group_convolutional, small_rbm, small_vision
from optimisers import natural_gradient
from torch import Tensor

import nqs
from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg
from nqs.hilbert import HilbertSpace
from nqs.lattice import chain, square
from nqs.models import (
    JastrowConfig,
    ProductConfig,
    hartree_fock,
    on_patches,
)
from nqs.optimisation.jacobian import by_vmap, has_known_layers, jacobian, rounded_parameters
from nqs.protocols import Hamiltonian, Wavefunction, WavefunctionConfig
from nqs.runtime import memory
from nqs.samplers import ExhaustiveSampler
from nqs.symmetry import translations
from nqs.symmetry.of_hamiltonian import symmetries_of


class Case(NamedTuple):
    config: Callable[[int], WavefunctionConfig]  # of a seed
    hamiltonian: Hamiltonian


electrons = FermiHubbard(square(2, 3), 2, 2, U=4.0)
fermions = TV(square(2, 3), 3, V=2.0)
spins = Heisenberg(chain(6), total_sz=0)
bosons = BoseHubbard(chain(4), n_particles=4, U=2.0)
on_lattice = BoseHubbard(square(2, 3), n_particles=3, U=2.0)  # positive, as Jastrow factors are
orbitals = hartree_fock(electrons).determinant
classes = tuple(map(tuple, square(2, 3).displacements().tolist()))

MODELS: dict[str, Case] = {
    "determinant": Case(lambda seed: small_determinant(width=6, orbitals=orbitals, seed=seed), electrons),
    "determinants": Case(
        lambda seed: small_determinant(width=6, layers=2, determinants=3, heads=2, displacements=classes, seed=seed),
        electrons,
    ),
    "determinants of each spin": Case(
        lambda seed: small_determinant(determinants=2, spins="apart", seed=seed), electrons
    ),
    "determinant of spinless fermions": Case(lambda seed: small_determinant(seed=seed), fermions),
    "determinant without backflow": Case(lambda seed: small_determinant(width=0, seed=seed), electrons),
    "determinant, float32": Case(lambda seed: small_determinant(width=6, dtype="float32", seed=seed), electrons),
    "determinant, mixed": Case(lambda seed: small_determinant(width=6, dtype="mixed", seed=seed), electrons),
    "Jastrow": Case(lambda seed: JastrowConfig(initial=0.2, seed=seed), bosons),
    "Jastrow of displacements": Case(
        lambda seed: JastrowConfig(displacements=classes, initial=0.2, seed=seed), on_lattice
    ),
    "convolutions": Case(lambda seed: small_convolutional(width=6, seed=seed), bosons),
    "convolutions of displacements": Case(
        lambda seed: small_convolutional(layers=1, heads=2, displacements=classes, seed=seed), on_lattice
    ),
    "convolutions of sites that differ": Case(
        lambda seed: small_convolutional(layers=1, sites=(0, 1, 0, 1, 2, 2), seed=seed), on_lattice
    ),
    "convolutions, mixed": Case(lambda seed: small_convolutional(width=6, dtype="mixed", seed=seed), bosons),
    "group convolutions": Case(
        lambda seed: small_group_convolutional(symmetry=symmetries_of(spins), exponentials=2, seed=seed), spins
    ),
    "positive group convolutions of bosons": Case(
        lambda seed: small_group_convolutional(
            layers=1, symmetry=translations(chain(4), bosons.hilbert), phase="zero", seed=seed
        ),
        bosons,
    ),
    "group convolutions, mixed": Case(
        lambda seed: small_group_convolutional(symmetry=symmetries_of(spins), dtype="mixed", seed=seed), spins
    ),
    "RBM": Case(lambda seed: small_rbm(density=2, seed=seed), spins),
    "positive RBM": Case(lambda seed: small_rbm(initial=0.3, phase="zero", seed=seed), bosons),
    "vision transformer": Case(lambda seed: small_vision(places=True, seed=seed), spins),
    "positive vision transformer of patches": Case(
        lambda seed: small_vision(layers=2, phase="zero", seed=seed, **on_patches(chain(6))), spins
    ),
    "Slater-Jastrow": Case(
        lambda seed: ProductConfig(
            factors=(small_determinant(width=0, seed=seed), JastrowConfig(initial=0.2, seed=seed))
        ),
        electrons,
    ),
    "RBM and determinant": Case(
        lambda seed: ProductConfig(factors=(small_rbm(seed=seed), small_determinant(width=0, seed=seed))), fermions
    ),
}
every_model = pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)


def lively(case: Case, seed: int = 3) -> Wavefunction:
    """A model with all parameters away from their start."""
    model = case.config(seed).build(case.hamiltonian.hilbert)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
    return model


def product_space(space: HilbertSpace) -> Tensor:
    return torch.tensor(list(itertools.product(range(space.local_dim), repeat=space.n_sites)), dtype=torch.uint8)


def tolerance(model: Wavefunction) -> float:
    return 1e-10 if next(model.parameters()).dtype == torch.float64 else 1e-4


@every_model
def test_finite_on_the_sector_and_zero_outside(case: Case) -> None:
    model = lively(case)
    n = product_space(model.hilbert)
    with torch.no_grad():
        log_modulus, phase = model.log_psi(n)
    inside = model.hilbert.contains(n)
    assert log_modulus.dtype == phase.dtype == torch.float64
    assert log_modulus[inside].isfinite().all()
    assert log_modulus[inside].std() > 0.1  # far from uniform: checks on a flat state would be blind
    assert (log_modulus[~inside] == -math.inf).all()
    assert phase.isfinite().all()
    assert not model.normalised


@every_model
def test_phases_are_what_the_model_says(case: Case) -> None:
    model = lively(case)
    phase = model.log_psi(model.hilbert.configurations()).phase.detach()
    if not model.has_phase:
        assert not phase.any()
    elif model.is_real:
        assert set(phase.tolist()) == {0.0, math.pi}
    else:
        assert phase.remainder(math.pi).std() > 0.01


@every_model
def test_rows_of_a_batch_do_not_see_each_other_and_chunks_may_have_any_size(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively(case)
    n = model.hilbert.configurations()
    whole = log_psi_in_chunks(model, n)
    monkeypatch.setattr(memory, "CPU_BYTES", 3 * model.bytes_per_configuration)
    parts = log_psi_in_chunks(model, n.flip(0))
    for one, other in zip(parts, whole, strict=True):
        torch.testing.assert_close(one.flip(0), other, rtol=tolerance(model), atol=tolerance(model))


@every_model
def test_gradients_are_finite_differences(case: Case) -> None:
    model = lively(case)
    if next(model.parameters()).dtype != torch.float64:
        pytest.skip("finite differences need double precision")
    n, generator = model.hilbert.configurations(), torch.Generator().manual_seed(0)
    weights = torch.randn((2, len(n)), dtype=torch.float64, generator=generator)

    def loss() -> Tensor:
        log_modulus, phase = model.log_psi(n)
        # Phases of real states have no gradient; those of others enter as numbers on the circle.
        return weights[0] @ log_modulus + (0.0 if model.is_real else weights[1] @ phase.cos())

    loss().backward()
    for parameter in model.parameters():
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        values = []
        with torch.no_grad():
            for step in (1e-6, -2e-6):
                parameter += step * direction
                values.append(loss().item())
            parameter += 1e-6 * direction
        assert parameter.grad is not None
        slope = (parameter.grad * direction).sum().item()
        assert (values[0] - values[1]) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-4)


@every_model
def test_gradients_layer_by_layer_are_those_of_torch_func(case: Case) -> None:
    """Also where only some parameters are trained; one row a configuration for real states."""
    model = lively(case)
    assert has_known_layers(model)
    n = model.hilbert.configurations()[::3]
    parts = 2 if model.has_phase and not model.is_real else 1
    found = jacobian(model, n)
    parameters = rounded_parameters(model)
    size = sum(p.numel() for p in parameters.values())
    expected = [torch.empty((len(n), size), dtype=next(iter(parameters.values())).dtype) for _ in range(parts)]
    by_vmap(model, parameters, n, torch.ones(len(n), dtype=torch.float64), expected)
    assert (found[1] is None) == (parts == 1)
    near = 1e-9 if expected[0].dtype == torch.float64 else 1e-2
    for one, other in zip(found, expected, strict=False):
        assert one is not None
        torch.testing.assert_close(one, other, rtol=near, atol=near * other.abs().max().item())


@every_model
def test_parameters_follow_the_seed_and_nothing_else(case: Case) -> None:
    hilbert = case.hamiltonian.hilbert
    n = hilbert.configurations()
    before = torch.get_rng_state()
    one = case.config(1).build(hilbert).log_psi(n)
    assert torch.get_rng_state().equal(before), "building or evaluating the model"
    torch.manual_seed(12345)
    again, other = case.config(1).build(hilbert).log_psi(n), case.config(2).build(hilbert).log_psi(n)
    assert one.log_modulus.equal(again.log_modulus)
    assert one.phase.equal(again.phase)
    assert not one.log_modulus.isclose(other.log_modulus, rtol=1e-9).all()
    assert case.config(1) == case.config(1)
    assert hash(case.config(1)) == hash(case.config(1))


@every_model
@pytest.mark.usefixtures("unchecked")
def test_energy_falls_to_that_of_the_ground_state(case: Case) -> None:
    """With sums over the sector; the models with fewer parameters come as close as they can."""
    exact = nqs.exact.ground_state(case.hamiltonian).energy
    model = case.config(0).build(case.hamiltonian.hilbert)
    vmc = nqs.VMC(
        case.hamiltonian,
        model,
        ExhaustiveSampler(),
        natural_gradient(learning_rate=0.3, final_learning_rate=0.3, momentum=0.5, max_step=0.3),
    )
    start = nqs.VMC(case.hamiltonian, model, ExhaustiveSampler()).run(1, progress=False).history["energy"][0]
    found = vmc.run(20, progress=False).estimate.energy
    assert found > exact - 1e-9 * abs(exact)
    assert found < exact + 0.5 * (start - exact)
