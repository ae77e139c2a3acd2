"""Default choices: what is chosen depends on the size of the sector and on the device."""

import re

import pytest
import torch

from nqs import VMC, exact, recipes
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, Ising, staggered_potential
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import chain, square
from nqs.models import (
    MarshallSign,
    ProjectedDeterminant,
    Symmetrised,
    Transformer,
    TransformerConfig,
    WithReference,
    hartree_fock,
)
from nqs.protocols import Hamiltonian, SymmetricWavefunction, WavefunctionConfig
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry import translations

devices = pytest.mark.parametrize("device", ["cpu", "cuda", torch.device("cpu"), torch.device("cuda", 0)], ids=str)


def tiny(space: HilbertSpace) -> Transformer:
    return Transformer(space, width=2, layers=1, heads=1, mlp_ratio=1)


@devices
def test_small_sectors_are_enumerated_and_large_ones_sampled(device: str | torch.device) -> None:
    kind = torch.device(device).type
    # One boson on as many sites as wished has any dimension.
    small, large = (bosons(1000, 1), bosons(1001, 1)) if kind == "cpu" else (bosons(8, 8), bosons(10, 10))
    assert recipes.affords_sum(small, device)
    assert not recipes.affords_sum(large, device)
    assert recipes.training_sampler(tiny(small), device) == ExhaustiveSampler()
    assert recipes.training_sampler(tiny(large), device) == TreeSampler(n_distinct=recipes.DISTINCT[kind])


@devices
def test_symmetries_make_sums_affordable_up_to_the_evaluations_they_cost(device: str | torch.device) -> None:
    kind = torch.device(device).type
    rows, evaluations = recipes.EXHAUSTIVE_ROWS[kind], recipes.EXHAUSTIVE_DIMENSION[kind]
    assert not recipes.affords_sum(bosons(rows + 1, 1), device)
    assert recipes.affords_sum(bosons(rows + 1, 1), device, order=2)
    if kind == "cpu":
        assert recipes.affords_sum(bosons(evaluations, 1), device, order=100)
        assert not recipes.affords_sum(bosons(evaluations + 1, 1), device, order=100)


def test_samples_of_a_symmetric_state_cost_as_much_as_others() -> None:
    h = BoseHubbard(chain(10), 10, U=4.0)
    model = Symmetrised(base=TransformerConfig(width=2, layers=1, heads=1), symmetry=translations(chain(10), h.hilbert))
    assert recipes.training_sampler(model.build(h.hilbert), "cpu") == TreeSampler(n_distinct=150)


@devices
def test_steps_are_fewer_where_they_are_dear(device: str | torch.device) -> None:
    kind = torch.device(device).type
    most = recipes.EXACT_STEPS
    assert recipes.steps(device) == recipes.STEPS[kind]
    assert recipes.steps(device, 1) == most
    assert recipes.steps(device, recipes.EVALUATIONS[kind] // (most - 50)) == most - 50
    assert recipes.steps(device, 10**12) == recipes.FEWEST_STEPS < most


@devices
def test_evaluation_draws_independent_samples_with_more_distinct_ones(device: str | torch.device) -> None:
    kind = torch.device(device).type
    evaluation = recipes.evaluation_sampler(device)
    assert isinstance(evaluation, TreeSampler)
    assert evaluation.n_distinct is not None
    assert evaluation.n_distinct > 4 * max(recipes.DISTINCT[kind], recipes.EXHAUSTIVE_ROWS[kind])


def test_a_gpu_gets_more_work_than_a_cpu() -> None:
    for numbers in (
        recipes.EXHAUSTIVE_DIMENSION,
        recipes.EXHAUSTIVE_ROWS,
        recipes.DISTINCT,
        recipes.STEPS,
        recipes.EVALUATIONS,
        recipes.EVALUATION_DISTINCT,
    ):
        assert set(numbers) == {"cpu", "cuda"}
        assert numbers["cuda"] > numbers["cpu"]
    assert recipes.transformer(device="cuda").width > recipes.transformer(device="cpu").width


@pytest.mark.parametrize("phase", ["learned", "zero"])
@pytest.mark.parametrize("device", ["cpu", "cuda", None])
def test_network_has_the_phase_that_was_asked_for(phase: str, device: str | None) -> None:
    assert recipes.transformer(phase=phase, device=device).phase == phase


def test_vmc_takes_the_recipes() -> None:
    h = BoseHubbard(chain(3), 3, U=4.0)
    vmc = VMC(h, tiny(h.hilbert))
    assert vmc.sampler == vmc.evaluation == ExhaustiveSampler()  # its energy has no error bar to make smaller
    assert vmc.default_steps == recipes.steps("cpu", h.hilbert.dimension)
    large = BoseHubbard(chain(8), 8, U=4.0)
    vmc = VMC(large, tiny(large.hilbert))
    assert vmc.sampler == recipes.training_sampler(vmc.wavefunction, "cpu")
    assert vmc.evaluation == recipes.evaluation_sampler("cpu")
    assert vmc.default_steps == recipes.steps("cpu")


# ------------------------------------------------------------------------------------------------ symmetries

RING, LADDER = chain(6), square(2, 3)
SIGNED = FermiHubbard(LADDER, 2, 2, U=8.0)
BASE = TransformerConfig(width=4, layers=1, heads=1)


def determinant(h: Hamiltonian) -> WavefunctionConfig:
    return WithReference(base=BASE, reference=hartree_fock(h).determinant)


def marshall(sites: int) -> WavefunctionConfig:
    return WithReference(base=BASE, reference=MarshallSign(sublattice=tuple(s % 2 for s in range(sites))))


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
        (BoseHubbard(chain(3), 3, U=1.0, potential=(0.1, 0.2, 0.5)), BASE, 1, "no symmetry used: 1 elements leave too"),
        (BoseHubbard(chain(10), 10, U=4.0), BASE, 1, "no symmetry used: the dimension is over 16,000"),
        (
            BoseHubbard(chain(8, periodic=False), 8, U=4.0),
            BASE,
            1,
            "no symmetry used: 2 elements leave too many orbits",
        ),
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
    assert isinstance(chosen, Symmetrised)
    assert chosen.symmetry.order == order
    if isinstance(chosen.base, WithReference) and isinstance(hamiltonian, FermiHubbard):
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
        assert recipes.transformer() == recipes.transformer(device=expected)


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
