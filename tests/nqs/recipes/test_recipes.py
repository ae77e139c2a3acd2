"""Default choices: what is chosen depends on the size of the sector and on the device; plans say why."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from networks import small_convolutional, small_transformer
from optimisers import first_order

import nqs
from nqs import VMC, exact, recipes
from nqs.archive.serialise import from_plain, to_plain
from nqs.hamiltonians import TJ, TV, BoseHubbard, FermiHubbard, Heisenberg, Ising, staggered_potential
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import Lattice, chain, from_edges, square
from nqs.models import (
    MarshallSign,
    OnOrbits,
    Projected,
    ProjectedDeterminant,
    SlaterDeterminant,
    Symmetrised,
    Transformer,
    TransformerConfig,
    hartree_fock,
)
from nqs.models.symmetric.wavefunction import SymmetricWavefunction
from nqs.optimisation import Evaluation, ExactSteps, StochasticReconfiguration
from nqs.protocols import Connected, Hamiltonian, WavefunctionConfig
from nqs.recipes.model import network_of
from nqs.recipes.samplers import EXHAUSTIVE_ROWS
from nqs.recipes.sector import FEW_ORBITS
from nqs.recipes.stages import point_group
from nqs.recipes.steps import SUMMED_IMAGES
from nqs.runtime.interruption import TimeLimit
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry import symmetries_of, translations
from nqs.vmc.continuation import known_types
from nqs.vmc.evaluation import reserve

devices = pytest.mark.parametrize("device", ["cpu", torch.device("cuda", 0)])


def tiny(space: HilbertSpace) -> Transformer:
    return small_transformer(width=2, heads=1, mlp_ratio=1).build(space)


def one_boson(dimension: int) -> Transformer:
    """On as many sites as wished a single boson has any dimension."""
    return tiny(bosons(dimension, 1))


def all_of(sampler: TreeSampler | Evaluation) -> int:
    """Distinct configurations of a draw, or of all batches of an evaluation."""
    if isinstance(sampler, Evaluation):
        return sampler.batches * all_of(sampler.sampler)
    return sampler.n_distinct


# -------------------------------------------------------------------------------------------------------- samplers


@devices
def test_small_sectors_are_enumerated_and_large_ones_sampled(device: str | torch.device) -> None:
    rows = EXHAUSTIVE_ROWS[torch.device(device).type]
    small, large = one_boson(rows), one_boson(rows + 1)
    assert recipes.training_sampler(small, device) == ExhaustiveSampler()
    sampled = recipes.training_sampler(large, device)
    assert isinstance(sampled, TreeSampler)
    assert 0 < sampled.n_distinct < rows
    assert recipes.final_evaluation(large, device) == ExhaustiveSampler()  # once that is affordable


def test_of_symmetric_states_the_orbits_count() -> None:
    h = BoseHubbard(chain(8), 8, U=4.0)
    model = OnOrbits(base=BASE, symmetry=symmetries_of(h)).build(h.hilbert)
    assert recipes.training_sampler(tiny(h.hilbert), "cpu") != ExhaustiveSampler()
    assert recipes.training_sampler(model, "cpu") == ExhaustiveSampler()


@devices
def test_averages_have_fewer_samples_the_more_images_they_have(device: str | torch.device) -> None:
    h = BoseHubbard(chain(14), 14, U=4.0)
    group = translations(chain(14), h.hilbert)
    model = Symmetrised(base=small_transformer(width=2, heads=1), symmetry=group).build(h.hilbert)
    sampler, alone = recipes.training_sampler(model, device), recipes.training_sampler(tiny(h.hilbert), device)
    assert isinstance(sampler, TreeSampler)
    assert isinstance(alone, TreeSampler)
    assert alone.n_distinct < sampler.n_distinct * 14
    evaluation = recipes.final_evaluation(model, device)  # 20 million configurations are 1.4 million orbits
    assert sampler.n_distinct < all_of(evaluation) <= all_of(recipes.final_evaluation(tiny(h.hilbert), device))
    few, many = (
        recipes.steps_within(1.0, model, TreeSampler(n_distinct=sampler.n_distinct * images), device)[0]
        for images in (1, 100)
    )
    assert many < few <= recipes.steps(model, device, exact=False)


def test_averages_over_sectors_that_can_be_summed_are_evaluated_exactly() -> None:
    h = Ising(chain(18), h=1.0)  # of 3,914 orbits, few enough
    model, why = recipes.symmetrised(small_transformer(width=2, heads=1, phase="zero"), h, "cpu")
    assert isinstance(model, OnOrbits)
    h = Ising(chain(20), h=1.0)
    model, why = recipes.symmetrised(small_transformer(width=2, heads=1, phase="zero"), h, "cpu")
    assert isinstance(model, Symmetrised)
    assert why == "average over 80 symmetries (positive ground state), 20 of them in steps"
    vmc = VMC(h, model.build(h.hilbert))
    assert isinstance(vmc.sampler, TreeSampler)
    assert vmc.evaluation.sampler == ExhaustiveSampler()
    # Its time is not that of so many samples: 2^20 / 80 orbits, each of 80 images instead of 20, but a small part of a
    # sample with all it connects to.
    seconds = reserve(vmc, {"seconds": 1.0, "distinct": 100.0}, TimeLimit(None))
    assert seconds == pytest.approx(2**20 / 20 / 100 / SUMMED_IMAGES)


def test_sums_of_the_evaluation_count_all_images() -> None:
    h = Ising(chain(22), h=1.0)  # as many configurations as may be summed, but 88 images of 48,734 orbits are more
    model, _ = recipes.symmetrised(small_transformer(width=2, heads=1, phase="zero"), h, "cpu")
    assert isinstance(recipes.final_evaluation(model.build(h.hilbert), "cpu"), Evaluation)
    h = Heisenberg(square(4, 5), total_sz=0)  # 184,756 configurations
    group = symmetries_of(h)
    for images, summed in ((point_group(group, most=4), True), (group, False)):  # of each configuration
        projected = Projected(base=small_convolutional(width=2, layers=1, heads=2), symmetry=images).build(h.hilbert)
        assert isinstance(recipes.final_evaluation(projected, "cpu"), ExhaustiveSampler) == summed


def test_a_batch_of_averages_has_as_many_images_as_a_step() -> None:
    """One that is set by the number of batches would have one configuration, without an error bar."""
    h = Ising(chain(40), h=1.0)
    model, why = recipes.symmetrised(small_transformer(width=2, heads=1, phase="zero"), h, "cpu")
    assert why == "average over 160 symmetries (positive ground state), 20 of them in steps"
    psi = model.build(h.hilbert)
    step, evaluation = recipes.training_sampler(psi.for_steps(), "cpu"), recipes.final_evaluation(psi, "cpu")
    assert isinstance(evaluation, Evaluation)
    assert isinstance(step, TreeSampler)
    assert isinstance(evaluation.sampler, TreeSampler)
    assert evaluation.sampler.n_distinct == step.n_distinct * 20 // 160
    assert recipes.final_evaluation(psi, "cpu", TreeSampler(n_distinct=80)).sampler.n_distinct == 10
    plain = recipes.final_evaluation(psi.for_steps().base, "cpu")  # of as many configurations, without images
    assert isinstance(plain, Evaluation)
    images = 160 * evaluation.batches * evaluation.sampler.n_distinct
    assert 8 < images / (plain.batches * plain.sampler.n_distinct) <= 16


@devices
def test_evaluation_draws_independent_samples_with_more_distinct_ones(device: str | torch.device) -> None:
    large = tiny(bosons(20, 20))
    sampler, evaluation = recipes.training_sampler(large, device), recipes.final_evaluation(large, device)
    assert isinstance(sampler, TreeSampler)
    assert all_of(evaluation) > 4 * max(sampler.n_distinct, EXHAUSTIVE_ROWS[torch.device(device).type])


def test_a_gpu_gets_more_work_than_a_cpu() -> None:
    h = BoseHubbard(chain(14), 14, U=4.0)
    group = translations(chain(14), h.hilbert)
    averaged = Symmetrised(base=small_transformer(width=2, heads=1), symmetry=group).build(h.hilbert)
    for model in (tiny(bosons(20, 20)), averaged):
        for choose in (recipes.training_sampler, recipes.final_evaluation):
            assert all_of(choose(model, "cuda")) > all_of(choose(model, "cpu"))
        assert recipes.steps(model, "cuda", exact=False) > recipes.steps(model, "cpu", exact=False)
    assert EXHAUSTIVE_ROWS["cuda"] > EXHAUSTIVE_ROWS["cpu"]


# ----------------------------------------------------------------------------------------------------------- steps


@devices
def test_exact_runs_take_fewer_steps_where_parameters_suffice(device: str | torch.device) -> None:
    few, many = tiny(bosons(2, 2)), tiny(bosons(8, 8))  # 3 and 6,435 configurations
    quick, slow = recipes.steps(few, device, exact=True), recipes.steps(many, device, exact=True)
    assert quick < recipes.steps(few, device, exact=False)
    assert quick < slow
    parameters = sum(p.numel() for p in few.parameters())
    few.hilbert = bosons(parameters, 1)  # as many parameters as configurations, but not as amplitudes and phases
    assert recipes.steps(few, device, exact=True) == slow
    few.has_phase = False
    assert recipes.steps(few, device, exact=True) == quick


@pytest.mark.parametrize(
    ("hamiltonian", "most", "order"),
    [
        (Ising(chain(20), h=1.0), 80, None),  # all
        (Ising(chain(20), h=1.0), 72, 40),  # translations and the flip, without reflections
        (Ising(chain(20), h=1.0), 20, 20),  # by two sites
        (Ising(chain(20), h=1.0), 5, 4),  # by half of the ring; the flip is never left out
        (Heisenberg(square(6), 0.0), 72, 72),
        (Heisenberg(square(6), 0.0), 12, 8),  # by three sites in both directions
        (BoseHubbard(chain(13), 13, U=4.0), 12, 13),  # 13 is prime
        (Heisenberg(square(3, boundary="open"), None), 3, 2),  # nothing to move by
        (Heisenberg(square(3, 4), 0.0), 12, 12),  # every second column, since 3 is odd
    ],
    ids=str,
)
def test_symmetries_over_which_steps_average(hamiltonian: Hamiltonian, most: int, order: int | None) -> None:
    group = symmetries_of(hamiltonian)
    chosen = recipes.subgroup_of_steps(group, hamiltonian, most)
    assert (None if chosen is None else len(chosen)) == order
    averaged = Symmetrised(base=BASE, symmetry=group, trained=chosen).steps_over
    moves = {tuple(p) for p in hamiltonian.lattice.translations().tolist()}
    assert order is None or set(averaged.permutations) <= moves
    assert set(averaged.maps) == set(group.maps)


@pytest.mark.parametrize(("lattice", "order"), [(square(6), 8), (square(10), 8), (chain(40), 4)], ids=str)
def test_frustrated_spins_average_over_symmetries_that_keep_a_site(lattice: Lattice, order: int) -> None:
    """Where a step with as many images takes seconds at most."""
    h = Heisenberg(lattice, 0, J=(1.0, 0.5))
    known = recipes.signs(h)
    model = small_transformer(width=2, heads=1, phase=known.phase, reference=known.reference)
    averaged, why = recipes.symmetrised(model, h, "cuda")
    assert isinstance(averaged, Symmetrised)
    assert averaged.symmetry.order == order
    assert all(permutation[0] == 0 for permutation in averaged.symmetry.permutations)
    assert f"{order} symmetries" in why
    sampler = recipes.training_sampler(averaged.build(h.hilbert), "cuda")
    assert isinstance(sampler, TreeSampler)
    assert order * sampler.n_distinct * lattice.n_sites**2 <= 10**8
    assert recipes.symmetrised(model, h, "cpu")[0] == model


def test_without_a_lattice_steps_average_over_all() -> None:
    h = Ising(from_edges([(0, 1), (1, 2), (0, 2)]), h=1.0)
    assert recipes.subgroup_of_steps(symmetries_of(h), h, 2) is None


def test_vmc_takes_the_recipes() -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    vmc = VMC(h, tiny(h.hilbert))
    assert vmc.sampler == vmc.evaluation.sampler == ExhaustiveSampler()  # its energy has no error bar to make smaller
    assert vmc.default_steps == recipes.steps(vmc.wavefunction, "cpu", exact=True)
    large = BoseHubbard(chain(8), 8, U=4.0)
    vmc = VMC(large, tiny(large.hilbert))
    assert vmc.sampler == recipes.training_sampler(vmc.wavefunction, "cpu")
    assert vmc.evaluation.sampler == recipes.final_evaluation(vmc.wavefunction, "cpu")
    assert vmc.default_steps == recipes.steps(vmc.wavefunction, "cpu", exact=False)


# ------------------------------------------------------------------------------------------------------- optimiser


def test_optimisers_are_chosen_from_the_noise() -> None:
    exact_sums, sampled = recipes.optimiser(exact=True), recipes.optimiser(exact=False)
    averaged = recipes.optimiser(exact=False, images=36)
    assert isinstance(exact_sums, ExactSteps)
    for chosen in (sampled, averaged):
        assert isinstance(chosen, StochasticReconfiguration)
        assert None not in (chosen.learning_rate, chosen.final_learning_rate, chosen.max_step, chosen.momentum)
        assert recipes.optimiser(chosen, exact=True) == recipes.optimiser(chosen, exact=False) == chosen
    assert sampled.final_learning_rate < sampled.learning_rate < exact_sums.time
    assert averaged.learning_rate == pytest.approx(6 * sampled.learning_rate)  # the variance of 36 samples
    assert exact_sums.final_diagonal_shift < sampled.final_diagonal_shift < averaged.final_diagonal_shift
    assert recipes.optimiser(exact=True, images=36) == exact_sums


def test_wishes_for_the_optimiser_are_kept() -> None:
    wishes = recipes.OptimiserOptions(max_step=0.03, momentum=0.0, precision="float32")
    for images in (1, 36):
        chosen = recipes.optimiser(wishes, exact=False, images=images)
        assert (chosen.max_step, chosen.momentum, chosen.precision) == (0.03, 0.0, "float32")
        assert replace(chosen, **recipes.OptimiserOptions().given) == chosen
    adam = first_order(name="Adam")
    assert recipes.optimiser(adam, exact=False) is adam
    with pytest.raises(ValueError, match=r"learning_rate=-1\.0: it must be a positive number"):
        recipes.OptimiserOptions(learning_rate=-1.0)


# --------------------------------------------------------------------------------------------------------- network


@devices
def test_networks_that_are_averaged_are_narrow_on_a_cpu_and_rounded(device: str | torch.device) -> None:
    h = Heisenberg(square(6), 0.0)
    wishes, terms = recipes.NetworkOptions(), h.hilbert.dimension
    averaged = recipes.network(wishes, "zero", terms, h.hilbert, device, lattice=h.lattice, averaged=True)
    alone = recipes.network(wishes, "zero", 50_000, h.hilbert, device, lattice=h.lattice)  # orbits, not too many
    many = recipes.network(wishes, "zero", terms, h.hilbert, device, lattice=h.lattice)
    assert many == averaged  # large sectors are learned in the same way, averaged or not
    assert (averaged.width < alone.width) == (torch.device(device).type == "cpu")
    assert (averaged.dtype, averaged.attention) == ("float32", "factored")
    assert torch.equal(torch.tensor(averaged.displacements), h.lattice.displacements())
    assert (alone.dtype, alone.attention, alone.displacements) == ("mixed", "dot-product", None)
    nowhere = recipes.network(wishes, "zero", terms, h.hilbert, device, averaged=True)
    assert (nowhere.attention, nowhere.displacements) == ("factored", None)
    for network in (averaged, alone, nowhere):
        assert None not in (network.width, network.heads, network.attention, network.dtype)
    given = recipes.NetworkOptions(width=24, dtype="float64", attention="dot-product", layers=3, heads=3)
    found = recipes.network(given, "zero", terms, h.hilbert, device, lattice=h.lattice, averaged=True)
    assert {name: getattr(found, name) for name in given.given} == given.given


def test_wishes_for_the_network_are_checked() -> None:
    with pytest.raises(ValueError, match="is not divisible by heads=3"):
        recipes.NetworkOptions(width=8, heads=3)
    with pytest.raises(ValueError, match="layers=0: it must be at least 1"):
        recipes.NetworkOptions(layers=0)


# ----------------------------------------------------------------------------------------------------------- signs

TREE = from_edges([(0, 1), (1, 2), (1, 3)])


@pytest.mark.parametrize(
    ("hamiltonian", "phase", "reference"),
    [
        (BoseHubbard(chain(4), 4, U=4.0), "zero", None),
        (BoseHubbard(chain(4), 4, U=4.0, J=-1.0), "learned", None),
        (Ising(chain(4), h=1.0), "zero", None),
        (Ising(chain(4), h=-1.0), "learned", None),
        (Heisenberg(chain(4), 0.0), "zero", MarshallSign),
        (Heisenberg(TREE, 0.0), "zero", MarshallSign),
        (Heisenberg(chain(4), 0.0, J=-1.0), "zero", None),
        (Heisenberg(chain(8), 0.0, J=(1.0, 0.5)), "learned", MarshallSign),
        (Heisenberg(square(4), 0.0, J=(1.0, 0.5)), "learned", MarshallSign),
        (Heisenberg(chain(6), 0.0, J=(-1.0, 0.5)), "learned", None),  # ferromagnetic bonds between the sublattices
        (Heisenberg(chain(4, boundary="antiperiodic"), 0.0), "learned", MarshallSign),
        (Heisenberg(chain(5), 0.5), "learned", None),  # not bipartite
        (TV(chain(6), 3, V=1.0), "zero", None),
        (TV(chain(6), 2, V=1.0), "learned", SlaterDeterminant),
        (FermiHubbard(chain(4, boundary="open"), 2, 2, U=4.0), "zero", None),
        (FermiHubbard(chain(4), 2, 2, U=4.0), "learned", SlaterDeterminant),
        (TJ(chain(6), 2, 2, J=0.4), "learned", None),  # no determinant without double occupation
        (TJ(chain(6), 1, 1, J=0.4), "zero", None),
    ],
    ids=str,
)
def test_signs_follow_from_the_hamiltonian(hamiltonian: Hamiltonian, phase: str, reference: type | None) -> None:
    found = recipes.signs(hamiltonian)
    assert found.phase == phase
    assert (None if found.reference is None else type(found.reference)) == reference
    assert recipes.signs(hamiltonian, "none").phase == "learned"
    assert recipes.signs(hamiltonian, "none").reference is None
    learned = recipes.signs(hamiltonian, phase="learned")
    assert (learned.phase, learned.reference) == ("learned", found.reference)
    if phase == "zero":
        assert recipes.signs(hamiltonian, phase="zero") == found
    else:
        with pytest.raises(ValueError, match="no rule gives the exact signs of this ground state"):
            recipes.signs(hamiltonian, phase="zero")
    # Signs that are said to be exact are those of the exact ground state.
    if phase == "zero":
        psi = torch.from_numpy(exact.ground_state(hamiltonian).state).real
        angle = 0 if found.reference is None else found.reference.phase(hamiltonian.hilbert.configurations())
        signed = psi * torch.cos(torch.as_tensor(angle))
        assert (signed >= -1e-12).all() or (signed <= 1e-12).all()


def test_a_reference_of_ones_own_is_taken() -> None:
    h, mine = Heisenberg(chain(6), 0.0), MarshallSign(sublattice=(1, 0) * 3)
    assert recipes.signs(h, mine)[:2] == ("learned", mine)
    assert recipes.signs(h, mine, "zero")[:2] == ("zero", mine)
    config = recipes.plan(h, reference=mine, device="cpu").model
    assert network_of(config).reference == mine


def test_a_mean_field_that_does_not_converge_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(hamiltonian: Hamiltonian) -> None:
        raise RuntimeError("Hartree-Fock did not converge")

    monkeypatch.setattr("nqs.recipes.known_signs.hartree_fock", failing)
    found = recipes.signs(SIGNED)
    assert (found.phase, found.reference) == ("learned", None)
    assert found.why.splitlines() == [
        "Hartree-Fock did not converge",
        "Going on without it: a phase head learns all signs.",
    ]


# ----------------------------------------------------------------------------------------------------------- plans

PROBLEMS = [
    BoseHubbard(chain(4), 4, U=4.0),
    BoseHubbard(chain(9), 9, U=4.0),  # with a warm-up
    BoseHubbard(chain(12), 12, U=4.0),  # averages
    Heisenberg(square(4), 0.0, J=(1.0, 0.5)),
    FermiHubbard(square(2, 3), 2, 2, U=8.0),
    Ising(chain(24), h=1.0),
]


def open_fields(value: Any, name: str = "") -> list[str]:
    """Names of what is None in plain data."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in open_fields(item, f"{name}.{key}".lstrip("."))]
    if isinstance(value, list):
        return [found for item in value for found in open_fields(item, name)]
    return [name] if value is None else []


@pytest.mark.parametrize("hamiltonian", PROBLEMS, ids=str)
def test_a_plan_is_resolved_stored_and_repeated(hamiltonian: Hamiltonian) -> None:
    plan = recipes.plan(hamiltonian, device="cpu", threads=1)
    assert recipes.plan(hamiltonian, device="cpu", threads=1) == plan
    plain = json.loads(json.dumps(to_plain(plan)))
    for part in ("model", "stages", "evaluation"):
        chosen = plain[part] if part != "model" else to_plain(network_of(plan.model))
        left = {name.split(".")[-1] for name in open_fields(chosen, part)}
        # Displacements have no meaning for queries and keys; a tree has samples or distinct configurations.
        assert left <= {"displacements", "n_samples", "max_frontier", "memory", "reference",
                        "up_imaginary", "down_imaginary", "modulus"}  # fmt: skip
    types = known_types() | {kind.__name__: kind for kind in (recipes.Plan, recipes.Reason)}
    assert from_plain(plain, types) == plan
    assert plan.steps in (None, sum(stage.steps for stage in plan.stages))
    assert plan.parameters == plan.model.build(hamiltonian.hilbert).n_parameters
    text = str(plan)
    assert text.startswith(str(hamiltonian))
    assert all(reason.text.split()[0] in text for reason in plan.why)
    assert {"signs", "symmetry", "network", "steps", "evaluation"} <= {reason.subject for reason in plan.why}
    assert max(map(len, text.splitlines()[1:])) <= 120


def test_a_plan_of_a_smaller_run() -> None:
    h = Ising(chain(12), h=1.0)
    usual, short = recipes.plan(h, device="cpu"), recipes.plan(h, device="cpu", minutes=0.1)
    assert short.steps < usual.steps
    assert short.seconds < 6.0 < usual.seconds
    shortened = f"{short.steps} steps instead of {usual.steps}, as far as fits into 0.1 minutes"
    assert short.reason("shortened") == shortened
    assert recipes.plan(h, device="cpu", steps=7).steps == 7
    long = recipes.plan(BoseHubbard(chain(9), 9, U=4.0), device="cpu", steps=10)
    assert [stage.name for stage in long.stages] == ["warm-up", "main"]
    assert long.steps == 10
    assert [stage.name for stage in recipes.plan(long.hamiltonian, device="cpu", steps=1).stages] == ["main"]


def test_distinct_configurations_are_drawn_without_a_symmetry() -> None:
    plan = recipes.plan(PROBLEMS[0], device="cpu", distinct=20)
    assert plan.stages[-1].sampler == TreeSampler(n_distinct=20)
    assert isinstance(plan.model, TransformerConfig)
    assert plan.reason("symmetry") == ""


def test_a_model_is_taken_as_far_as_it_is_given() -> None:
    h = Heisenberg(chain(6), 0.0)
    width = recipes.plan(h, model=recipes.NetworkOptions(width=12), device="cpu")
    network = network_of(width.model)
    assert (network.width, network.phase, type(network.reference)) == (12, "zero", MarshallSign)
    given = small_transformer(width=12, layers=2, heads=3, phase="learned", dtype="float64")
    network = network_of(recipes.plan(h, model=given, device="cpu").model)
    assert (replace(network, reference=None), type(network.reference)) == (
        given,
        MarshallSign,
    )
    mine = MarshallSign(sublattice=(1, 0) * 3)
    given_both = replace(given, reference=mine)
    assert network_of(recipes.plan(h, model=given_both, device="cpu").model) == given_both
    whole = OnOrbits(base=given, symmetry=translations(chain(6), h.hilbert))
    assert recipes.plan(h, model=whole, device="cpu").model == whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrain": "nothing"}, "pretrain='nothing': choose 'none', 'mean-field' or 'exact'"),
        ({"pretrain": "mean-field"}, "pretrain='mean-field' fits to the determinant that gives the model its signs"),
        ({"symmetry": "some"}, "symmetry='some': choose 'auto' or 'none'"),
        ({"steps": 0}, "steps=0: at least one step"),
        ({"device": "tpu"}, "device 'tpu' is unknown"),
        ({"distinct": 0}, "n_distinct=0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_plans_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipes.plan(PROBLEMS[0], **{"device": "cpu"} | options)


@dataclass(frozen=True)
class Duck:
    """A Hamiltonian with nothing but the contract: a spin that hops on a ring of four, as in Heisenberg's."""

    n_sites: int = 4

    @property
    def hilbert(self) -> HilbertSpace:
        return Heisenberg(chain(self.n_sites), 0.0).hilbert

    def diagonal(self, n: torch.Tensor) -> torch.Tensor:
        return Heisenberg(chain(self.n_sites), 0.0).diagonal(n)

    def connected(self, n: torch.Tensor) -> Connected:
        return Heisenberg(chain(self.n_sites), 0.0).connected(n)


def test_a_hamiltonian_without_optional_members_is_planned_and_solved() -> None:
    plan = recipes.plan(Duck(), device="cpu")
    assert plan.unit == "J"
    assert plan.reason("signs") == "a phase head learns all signs"
    assert plan.reason("symmetry").startswith("no symmetry used")
    result = nqs.ground_state(Duck(), steps=40, device="cpu", progress=False)
    assert result.estimate.energy == pytest.approx(-2.0, abs=1e-6)


# ------------------------------------------------------------------------------------------------ symmetries

RING, LADDER = chain(6), square(2, 3)
SIGNED = FermiHubbard(LADDER, 2, 2, U=8.0)
LARGE = FermiHubbard(chain(14), 7, 7, U=8.0)
BASE = small_transformer(width=4, heads=1)


def determinant(h: Hamiltonian) -> WavefunctionConfig:
    return replace(BASE, reference=hartree_fock(h).determinant)


def marshall(sites: int) -> WavefunctionConfig:
    return replace(BASE, reference=MarshallSign(sublattice=tuple(s % 2 for s in range(sites))))


@pytest.mark.parametrize(
    ("hamiltonian", "model", "order", "reason"),
    [
        # Translations, reflections; spins or full and empty sites also exchanged.
        (BoseHubbard(RING, 6, U=4.0), BASE, 12, r"12 symmetries, all even \(positive ground state\)"),
        (BoseHubbard(RING, 6, U=4.0, potential=staggered_potential(RING, 0.3)), BASE, 6, "6 symmetries, all even"),
        (Ising(RING, h=1.0), BASE, 24, r"24 symmetries, all even \(positive ground state\)"),
        (TV(RING, 3, V=1.0), BASE, 24, r"24 symmetries, all even \(positive ground state\)"),
        (Heisenberg(RING, 0.0), marshall(6), 24, r"24 symmetries, 12 of them odd \(sector of the reference phase\)"),
        (SIGNED, determinant(SIGNED), 24, r"24 symmetries, .* \(projected Hartree-Fock E = -\d"),
        (Heisenberg(chain(5), 0.5), BASE, 1, "no symmetry used: the sector of the ground state is not known"),
        (BoseHubbard(chain(3), 3, U=1.0, potential=(0.1, 0.2, 0.5)), BASE, 1, "no symmetry used: there is none"),
        (BoseHubbard(chain(20), 20, U=4.0), BASE, 1, "no symmetry used: 68,923,264,410 / 40 orbits are over 20,000"),
        (LARGE, determinant(LARGE), 1, "no symmetry used: projected energies need dimensions up to 4,000,000"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str | int) else "",
)
def test_sector_of_the_ground_state(
    hamiltonian: Hamiltonian, model: WavefunctionConfig, order: int, reason: str
) -> None:
    chosen, why = recipes.symmetrised(model, hamiltonian, "cpu")
    assert re.match(reason, why)
    if order == 1:
        assert chosen == model
        return
    assert isinstance(chosen, OnOrbits)
    assert chosen.symmetry.order == order
    if isinstance(hamiltonian, FermiHubbard):
        assert isinstance(chosen.base.reference, ProjectedDeterminant)
        assert chosen.base.reference.symmetry == chosen.symmetry
    else:
        assert chosen.base == model
    # The exact ground state, on its representatives: <r|H|psi> = E <r|psi>, with psi from them alone.
    ground = exact.ground_state(hamiltonian)
    assert ground.gap > 1e-6
    psi = torch.from_numpy(ground.state)
    n = hamiltonian.hilbert.configurations()
    symmetric = chosen.build(hamiltonian.hilbert)
    assert isinstance(symmetric, SymmetricWavefunction)
    representatives, angle = symmetric.fold(n)
    of_representative = psi[hamiltonian.hilbert.rank(representatives)]
    torch.testing.assert_close(of_representative * angle.cos(), psi.real, rtol=0, atol=1e-8)


def test_determinants_are_projected_and_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEW_ORBITS, "cpu", 1)
    fixed = replace(BASE, phase="zero", reference=hartree_fock(SIGNED).determinant)
    chosen, why = recipes.symmetrised(fixed, SIGNED, "cpu")
    assert isinstance(chosen, OnOrbits)
    assert "projected Hartree-Fock" in why


def test_default_device_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert recipes.default_device() == expected


@pytest.mark.parametrize(
    ("name", "n_gpus", "message"),
    [
        ("cpu", 0, None),
        ("cuda", 1, None),
        ("cuda:1", 2, None),
        ("cuda", 0, "device 'cuda' was asked for, but PyTorch finds 0 GPUs here: use 'cpu'"),
        ("cuda:1", 1, "device 'cuda:1' was asked for, but PyTorch finds 1 GPUs here"),
        ("gpu", 1, "device 'gpu' is unknown: choose 'cpu' or 'cuda'"),
        ("", 1, "device '' is unknown"),
    ],
)
def test_devices_are_checked_by_name(
    name: str, n_gpus: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    if message is None:
        assert recipes.checked_device(name) == torch.device(name)
    else:
        with pytest.raises(ValueError, match=message):
            recipes.checked_device(name)
