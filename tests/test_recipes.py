"""Default choices: what is chosen depends on the size of the sector and on the device."""

import re
from dataclasses import replace

import pytest
import torch

from nqs import VMC, exact, recipes
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, Ising, staggered_potential
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import chain, from_edges, square
from nqs.models import (
    MarshallSign,
    OnOrbits,
    ProjectedDeterminant,
    Symmetrised,
    Transformer,
    TransformerConfig,
    hartree_fock,
)
from nqs.models.symmetric.wavefunction import SymmetricWavefunction
from nqs.protocols import Hamiltonian, WavefunctionConfig
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry import symmetries_of, translations

devices = pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cpu"), torch.device("cuda", 0)], ids=str)


def tiny(space: HilbertSpace) -> Transformer:
    return Transformer(space, width=2, layers=1, heads=1, mlp_ratio=1)


@devices
def test_small_sectors_are_enumerated_and_large_ones_sampled(device: str | torch.device) -> None:
    kind = torch.device(device).type
    # One boson on as many sites as wished has any dimension.
    small, large = bosons(recipes.EXHAUSTIVE_ROWS[kind], 1), bosons(recipes.EXHAUSTIVE_ROWS[kind] + 1, 1)
    assert recipes.training_sampler(tiny(small), device) == ExhaustiveSampler()
    assert recipes.training_sampler(tiny(large), device) == TreeSampler(n_distinct=recipes.DISTINCT[kind])
    assert recipes.evaluation_sampler(tiny(large), device) == ExhaustiveSampler()  # once that is affordable


def test_of_symmetric_states_the_orbits_count() -> None:
    h = BoseHubbard(chain(8), 8, U=4.0)
    model = OnOrbits(base=BASE, symmetry=symmetries_of(h)).build(h.hilbert)
    assert h.hilbert.dimension > recipes.EXHAUSTIVE_ROWS["cpu"]
    assert recipes.training_sampler(model, "cpu") == ExhaustiveSampler()


@devices
def test_averages_have_fewer_samples_the_more_images_they_have(device: str | torch.device) -> None:
    kind = torch.device(device).type
    h = BoseHubbard(chain(14), 14, U=4.0)
    group = translations(chain(14), h.hilbert)
    model = Symmetrised(base=TransformerConfig(width=2, layers=1, heads=1), symmetry=group).build(h.hilbert)
    n_distinct = recipes.ALL_IMAGES[kind] // 14
    assert recipes.training_sampler(model, device) == TreeSampler(n_distinct=n_distinct)
    assert recipes.steps(model, device, exact=False) == recipes.AVERAGED_STEPS[kind]
    evaluation = recipes.evaluation_sampler(model, device)
    if kind == "cpu":
        assert isinstance(evaluation, TreeSampler)
        assert n_distinct < evaluation.n_distinct <= recipes.EVALUATION_DISTINCT[kind]
    else:  # 20 million configurations are 1.4 million orbits, evaluated as a tree of prefixes
        assert evaluation == TreeSampler(n_distinct=recipes.EVALUATION_DISTINCT[kind])
    times = {
        images: recipes.steps_within(1.0, model, TreeSampler(n_distinct=n_distinct * images), device)[0]
        for images in (1, 100)
    }
    assert times[100] < times[1] <= recipes.AVERAGED_STEPS[kind]


def test_averages_over_sectors_that_can_be_summed_are_evaluated_exactly() -> None:
    h = Ising(chain(18), h=1.0)  # of 3,914 orbits, few enough
    model, why = recipes.symmetrised(TransformerConfig(width=2, layers=1, heads=1, phase="zero"), h, "cpu")
    assert isinstance(model, OnOrbits)
    h = Ising(chain(20), h=1.0)
    model, why = recipes.symmetrised(TransformerConfig(width=2, layers=1, heads=1, phase="zero"), h, "cpu")
    assert isinstance(model, Symmetrised)
    assert why == "average over 80 symmetries (positive ground state), 20 of them in steps"
    vmc = VMC(h, model.build(h.hilbert))
    assert isinstance(vmc.sampler, TreeSampler)
    assert vmc.evaluation == ExhaustiveSampler()
    # Its time is not that of so many samples: 2^20 / 80 orbits, each of 80 images instead of 20, but a small part of a
    # sample with all it connects to.
    seconds = vmc._evaluation_seconds({"seconds": 1.0, "distinct": 100.0})
    assert seconds == pytest.approx(2**20 / 20 / 100 / recipes.SHARED_PREFIXES)


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
    chosen = recipes.choices._trained(group, hamiltonian, most)
    assert (None if chosen is None else len(chosen)) == order
    averaged = Symmetrised(base=BASE, symmetry=group, trained=chosen).steps_over
    moves = {tuple(p) for p in hamiltonian.lattice.translations().tolist()}
    assert order is None or set(averaged.permutations) <= moves
    assert set(averaged.maps) == set(group.maps)


def test_without_a_lattice_steps_average_over_all() -> None:
    h = Ising(from_edges([(0, 1), (1, 2), (0, 2)]), h=1.0)
    assert recipes.choices._trained(symmetries_of(h), h, 2) is None


def test_determinants_are_projected_and_not_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.FEW_ORBITS, "cpu", 1)
    fixed = replace(BASE, phase="zero", reference=hartree_fock(SIGNED).determinant)
    chosen, why = recipes.symmetrised(fixed, SIGNED, "cpu")
    assert isinstance(chosen, OnOrbits)
    assert "projected Hartree-Fock" in why


@devices
def test_networks_that_are_averaged_are_narrow_on_a_cpu_and_rounded(device: str | torch.device) -> None:
    h = Heisenberg(square(6), 0.0)
    group = translations(square(6), h.hilbert)
    reference = MarshallSign(sublattice=tuple(square(6).sublattices().tolist()))
    model = Symmetrised(base=replace(recipes.transformer("zero"), reference=reference), symmetry=group)
    sized = recipes.sized(model, h.hilbert.dimension, 36, device, lattice=h.lattice).base
    width = recipes.NARROW if torch.device(device).type == "cpu" else recipes.WIDE
    assert (sized.width, sized.dtype, sized.attention) == (width, "float32", "factored")
    assert torch.equal(torch.tensor(sized.displacements), h.lattice.displacements())
    alone = recipes.sized(recipes.transformer("zero"), h.hilbert.dimension, 36, device, lattice=h.lattice)
    assert (alone.width, alone.dtype, alone.attention) == (recipes.WIDTH, "mixed", "dot-product")
    nowhere = recipes.sized(model, h.hilbert.dimension, 36, device).base
    assert (nowhere.attention, nowhere.displacements) == ("factored", None)
    given = replace(recipes.transformer("zero"), width=24, dtype="float64", attention="dot-product")
    assert recipes.sized(replace(model, base=given), h.hilbert.dimension, 36, device, lattice=h.lattice).base == given


@devices
def test_exact_runs_take_fewer_steps_where_parameters_suffice(device: str | torch.device) -> None:
    kind = torch.device(device).type
    few, many = tiny(bosons(2, 2)), tiny(bosons(8, 8))  # 3 and 6,435 configurations
    assert recipes.steps(few, device, exact=False) == recipes.STEPS[kind]
    assert recipes.steps(few, device, exact=True) == recipes.EXACT_STEPS[kind] < recipes.STEPS[kind]
    assert recipes.steps(many, device, exact=True) == recipes.SLOW_STEPS
    parameters = sum(p.numel() for p in few.parameters())
    few.hilbert = bosons(parameters, 1)  # as many parameters as configurations, but not as amplitudes and phases
    assert recipes.steps(few, device, exact=True) == recipes.SLOW_STEPS
    few.has_phase = False
    assert recipes.steps(few, device, exact=True) == recipes.EXACT_STEPS[kind]


@devices
def test_evaluation_draws_independent_samples_with_more_distinct_ones(device: str | torch.device) -> None:
    kind = torch.device(device).type
    large = tiny(bosons(recipes.EVALUATION_DISTINCT[kind] + 1, 1))
    evaluation = recipes.evaluation_sampler(large, device)
    assert isinstance(evaluation, TreeSampler)
    assert evaluation.n_distinct is not None
    assert evaluation.n_distinct > 4 * max(recipes.DISTINCT[kind], recipes.EXHAUSTIVE_ROWS[kind])


def test_a_gpu_gets_more_work_than_a_cpu() -> None:
    for numbers in (
        recipes.EXHAUSTIVE_ROWS,
        recipes.DISTINCT,
        recipes.STEPS,
        recipes.EXACT_STEPS,
        recipes.FEW_ORBITS,
        recipes.LISTED,
        recipes.ALL_IMAGES,
        recipes.AVERAGED_STEPS,
        recipes.EVALUATION_DISTINCT,
    ):
        assert set(numbers) == {"cpu", "cuda"}
        assert numbers["cuda"] > numbers["cpu"]


@pytest.mark.parametrize("phase", ["learned", "zero"])
def test_network_has_the_phase_that_was_asked_for(phase: str) -> None:
    assert recipes.transformer(phase=phase).phase == phase


def test_vmc_takes_the_recipes() -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    vmc = VMC(h, tiny(h.hilbert))
    assert vmc.sampler == vmc.evaluation == ExhaustiveSampler()  # its energy has no error bar to make smaller
    assert vmc.default_steps == recipes.steps(vmc.wavefunction, "cpu", exact=True)
    large = BoseHubbard(chain(8), 8, U=4.0)
    vmc = VMC(large, tiny(large.hilbert))
    assert vmc.sampler == recipes.training_sampler(vmc.wavefunction, "cpu")
    assert vmc.evaluation == recipes.evaluation_sampler(vmc.wavefunction, "cpu")
    assert vmc.default_steps == recipes.steps(vmc.wavefunction, "cpu", exact=False)


# ------------------------------------------------------------------------------------------------ symmetries

RING, LADDER = chain(6), square(2, 3)
SIGNED = FermiHubbard(LADDER, 2, 2, U=8.0)
LARGE = FermiHubbard(chain(14), 7, 7, U=8.0)
BASE = TransformerConfig(width=4, layers=1, heads=1)


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
