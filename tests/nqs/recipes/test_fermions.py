"""Which network recipes choose for fermions, and runs of it from the call and from the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from chains import metropolis
from networks import small_determinant, small_transformer

import nqs
from nqs.hamiltonians import TV, FermiHubbard, Heisenberg
from nqs.lattice import chain, square
from nqs.models import DeterminantConfig, OnOrbits, ProjectedDeterminant, Symmetrised, TransformerConfig
from nqs.models.references.hartree_fock import hartree_fock
from nqs.protocols import Hamiltonian
from nqs.recipes import NetworkOptions, plan
from nqs.recipes.known_signs import FEW_WRONG_SIGNS, has_nodes, positive_hopping
from nqs.recipes.model import network_of
from nqs.recipes.sector import averaged_with_nodes
from nqs.runtime.interruption import TimeLimit
from nqs.samplers import ExhaustiveSampler, MetropolisSampler, TreeSampler
from nqs.vmc.evaluation import reserve

LARGE = FermiHubbard(square(3, 4), 5, 5, U=8.0)


def test_sampled_fermions_with_signs_get_determinants() -> None:
    chosen = plan(LARGE, device="cpu")
    assert isinstance(chosen.model, DeterminantConfig)
    assert chosen.model.orbitals == hartree_fock(LARGE).determinant
    assert chosen.model.displacements == tuple(map(tuple, LARGE.lattice.displacements().tolist()))
    (stage,) = chosen.stages
    assert isinstance(stage.sampler, MetropolisSampler)
    assert chosen.run.total_minutes == 5
    assert "backflow determinants" in chosen.reason("model")
    assert "Markov chains" in str(chosen)


def test_sums_and_positive_states_keep_the_transformer() -> None:
    assert isinstance(plan(FermiHubbard(square(2, 3), 3, 3, U=4.0), device="cpu").model, OnOrbits)
    positive = plan(TV(chain(26, boundary="open"), 13, V=1.0), device="cpu")
    assert not isinstance(positive.model, DeterminantConfig)
    ring = plan(TV(chain(26), 14, V=1.0), device="cpu")  # no nodes in one dimension, whatever the boundary
    assert isinstance(ring.model, TransformerConfig)
    assert ring.model.start == "reference"
    for options in ({"reference": "none"}, {"model": small_transformer()}, {"distinct": 100}):
        assert isinstance(network_of(plan(LARGE, device="cpu", **options).model), TransformerConfig)
    twisted = FermiHubbard(square(3, 4), 5, 5, U=8.0, twist=(0.3, 0.0))
    assert isinstance(plan(twisted, device="cpu").model, TransformerConfig)


def test_wishes_are_followed() -> None:
    transformer = plan(LARGE, device="cpu", model=NetworkOptions(network="transformer"))
    assert isinstance(network_of(transformer.model), TransformerConfig)
    assert isinstance(transformer.stages[-1].sampler, TreeSampler)
    small = FermiHubbard(square(2, 3), 3, 3, U=4.0)
    wishes = NetworkOptions(network="determinant", width=8, determinants=2, dtype="mixed", seed=4)
    chosen = plan(small, device="cpu", model=wishes, distinct=64)
    assert isinstance(chosen.model, DeterminantConfig)
    assert (chosen.model.width, chosen.model.determinants, chosen.model.dtype, chosen.model.seed) == (8, 2, "mixed", 4)
    assert chosen.stages[0].sampler == metropolis(n_samples=64, n_chains=64)


def test_transformers_average_where_fermions_have_nodes() -> None:
    """Beyond lists of orbits; not in one dimension, nor without symmetry, nor in large systems."""
    wishes = {"device": "cpu", "model": NetworkOptions(network="transformer")}
    doped = FermiHubbard(square(4), 5, 5, U=8.0)
    averaged = plan(doped, **wishes)
    assert isinstance(averaged.model, Symmetrised)
    assert averaged.n_images == averaged.model.symmetry.order == 4
    assert averaged.model.base.start == "reference"
    assert averaged.model.base.reference == hartree_fock(doped).determinant
    assert averaged.run.total_minutes == 5
    assert "average over 4 symmetries (projected Hartree-Fock E = -14.253" in averaged.reason("symmetry")
    for hamiltonian, more in (
        (doped, {"symmetry": "none"}),
        (TV(chain(32), 16, V=1.0), {}),
        (FermiHubbard(square(4, 8), 14, 14, U=8.0), {}),  # images of large systems cost too much
    ):
        assert isinstance(plan(hamiltonian, **wishes, **more).model, TransformerConfig)


@pytest.mark.parametrize(
    "hamiltonian",
    [FermiHubbard(square(2, 3), 3, 3, U=4.0), TV(square(4), 5, V=10.0)],
)
def test_nodes_are_found_from_as_many_draws_as_their_fraction_needs(hamiltonian: FermiHubbard | TV) -> None:
    """Of the second 64 draws find 1.0e-2, 16 find 3.2e-3."""
    hilbert, reference = hamiltonian.hilbert, hartree_fock(hamiltonian).determinant
    n = hilbert.configurations()
    log_uniform = hilbert.tables(n.device).log_uniform[torch.arange(hilbert.n_sites), hilbert.remainders(n)]
    log_p = reference.conditionals(hilbert.local_dim).of(n, log_uniform).log_softmax(-1)
    p = log_p.gather(-1, n.long()[..., None]).sum((1, 2)).exp()
    assert p.sum() == pytest.approx(1)
    connected = hamiltonian.connected(n)
    sign = torch.cos(reference.phase(connected.configurations) - reference.phase(n)[connected.parents])
    weighted = p[connected.parents] * connected.elements.real
    exact = float((weighted * sign).clamp(min=0).sum() / weighted.abs().sum())
    fraction, error = positive_hopping(hamiltonian, reference)
    assert abs(fraction - exact) < 4 * error
    assert exact - FEW_WRONG_SIGNS > error
    assert fraction - FEW_WRONG_SIGNS > 2.5 * error
    assert has_nodes(hamiltonian, reference)


def test_a_charge_density_wave_has_no_nodes() -> None:
    """2.0e-3 of its hopping is positive: transformers end lower than determinants."""
    hamiltonian = TV(square(4), 8, V=10.0)
    assert not has_nodes(hamiltonian, hartree_fock(hamiltonian).determinant)


@pytest.mark.parametrize(
    ("hamiltonian", "device", "most"),
    [
        (FermiHubbard(square(4), 5, 5, U=8.0), "cuda", 16),
        (FermiHubbard(square(4, 8), 14, 14, U=8.0), "cuda", 4),
        (TV(square(6), 13, V=1.0), "cpu", 2),  # a closed shell: no projection changes the determinant
    ],
    ids=["4x4", "4x8", "6x6"],
)
def test_larger_systems_have_fewer_images(hamiltonian: Hamiltonian, device: str, most: int) -> None:
    sector = averaged_with_nodes(hamiltonian, hartree_fock(hamiltonian).determinant, device)
    assert sector is not None
    assert sector.symmetry is not None
    assert sector.symmetry.order == most


def test_averages_begin_with_the_phases_of_projected_hartree_fock() -> None:
    hamiltonian = FermiHubbard(square(2, 4), 3, 3, U=8.0)
    orbitals = hartree_fock(hamiltonian).determinant
    base = TransformerConfig(width=4, layers=1, heads=1, mlp_ratio=1, reference=orbitals, start="reference")
    sector = averaged_with_nodes(hamiltonian, orbitals, "cpu")
    assert sector is not None
    model = sector.restrict(replace(base, initial_phases=1e-9))
    n = hamiltonian.hilbert.configurations()
    projected = ProjectedDeterminant(determinant=orbitals, symmetry=model.symmetry, hilbert=hamiltonian.hilbert)
    phase = model.build(hamiltonian.hilbert).log_psi(n).phase.detach()
    weights = projected.amplitude(n).square()
    weights /= weights.sum()
    # Conditionals of the determinant hold a thousandth of the uniform distribution, so that nodes move a little.
    assert weights @ torch.cos(phase - projected.phase(n)) > 1 - 1e-3
    assert weights @ torch.cos(orbitals.phase(n) - projected.phase(n)) < 0.99


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": "rbm"}, "network='rbm': choose 'transformer', 'determinant', 'convolutional' or 'group-conv"),
        ({"network": "transformer", "determinants": 2}, "determinants=2: a transformer has none"),
        ({"network": "determinant", "attention": "dot-product"}, "the backflow of determinants has 'factored'"),
        ({"network": "determinant", "phase": "zero"}, "phase='zero': the signs of determinants are learned"),
        ({"network": "determinant", "determinants": 0}, "determinants=0: it must be at least 1"),
    ],
)
def test_impossible_wishes_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetworkOptions(**options)


def test_determinants_need_a_mean_field_of_fermions() -> None:
    with pytest.raises(ValueError, match="network='determinant' needs the real orbitals of a mean field"):
        plan(Heisenberg(chain(4), total_sz=0), device="cpu", model=NetworkOptions(network="determinant"))


def test_the_call_makes_the_run_of_its_parts(tmp_path: Path) -> None:
    hamiltonian = TV(square(3, 3), 4, V=2.0)
    wishes = NetworkOptions(network="determinant", width=4, determinants=2)
    result = nqs.ground_state(
        hamiltonian, model=wishes, distinct=50, steps=8, device="cpu", progress=False, archive=tmp_path / "run.h5"
    )
    config = plan(hamiltonian, model=wishes, device="cpu").model
    sampler = metropolis(n_samples=50, n_chains=50)
    same = nqs.VMC(hamiltonian, config.build(hamiltonian.hilbert), sampler).run(8, progress=False)
    assert result.history["energy"].tolist() == same.history["energy"].tolist()
    assert result.estimate.energy == same.estimate.energy


def test_time_reserved_for_a_sum_after_steps_of_few_distinct_configurations() -> None:
    """Chains of a peaked state meet in few configurations, but each step evaluates the proposals of all walkers."""
    hamiltonian = TV(square(4, 4), 5, V=10.0)
    model = small_determinant().build(hamiltonian.hilbert)
    sampler = metropolis(n_samples=20, n_chains=20)
    vmc = nqs.VMC(hamiltonian, model, sampler, evaluation=ExhaustiveSampler())
    seconds = reserve(vmc, {"distinct": 2.0, "samples": 20.0, "seconds": 1.0}, TimeLimit(10.0))
    assert 1 <= seconds < 30  # 4,368 evaluations, 320 and more in a step
