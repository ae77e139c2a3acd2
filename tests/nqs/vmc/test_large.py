"""Runs of systems that nobody can sum over: length by measured time, evaluation in batches, mean-field starts."""

import math
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from chains import metropolis
from networks import small_transformer
from optimisers import natural_gradient

import nqs
from nqs import VMC, Archive, exact, recipes, resume
from nqs.cli.commands.evaluate import Evaluate
from nqs.estimators.energy import estimate_energy
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.models import Symmetrised, Transformer, hartree_fock
from nqs.optimisation import Evaluation, RunConfig
from nqs.protocols import Hamiltonian
from nqs.samplers import GumbelSampler, TreeSampler
from nqs.samples import LocalEnergies, Samples
from nqs.vmc.continuation import evaluate
from nqs.vmc.evaluation import Evaluator, merged
from nqs.vmc.guard import NOISE, WINDOW, Guard
from nqs.vmc.pace import Pace

RING = BoseHubbard(chain(5), n_particles=5, U=4.0)


def model(hamiltonian: Hamiltonian, **options: object) -> Transformer:
    return small_transformer(**options).build(hamiltonian.hilbert)


# ------------------------------------------------------------------------------------------------------------ plans


@pytest.mark.parametrize(
    "hamiltonian",
    [
        Heisenberg(square(10), total_sz=0),
        Ising(square(12, 12, "open"), h=3.0),
        FermiHubbard(square(4), 5, 5, U=8.0),
        TV(chain(32), 16, V=1.0),
    ],
    ids=str,
)
def test_large_systems_make_as_many_small_steps_as_fit(hamiltonian: Hamiltonian) -> None:
    plan = recipes.plan(hamiltonian, device="cpu", minutes=7, threads=1)
    assert plan.steps is None
    assert plan.run == RunConfig(total_minutes=7, annealing=0.5)
    assert isinstance(plan.evaluation, Evaluation)
    (stage,) = plan.stages
    assert plan.n_images == 1
    assert stage.optimiser.momentum > 0
    if isinstance(plan.model, Symmetrised):
        assert 1 < plan.model.symmetry.order <= 16
    longer = recipes.plan(hamiltonian, device="cpu", minutes=7, total_minutes=60, threads=1)
    assert longer.run == RunConfig(total_minutes=60, annealing=0.5)
    assert longer.minutes == 7


def test_small_systems_have_a_number_of_steps() -> None:
    assert recipes.plan(RING, device="cpu", minutes=7).steps is not None
    with pytest.raises(ValueError, match="total_minutes=60: only sampled runs"):
        recipes.plan(RING, device="cpu", total_minutes=60)
    with pytest.raises(ValueError, match="a run has a number of steps or a time"):
        RunConfig(steps=3, total_minutes=1.0, annealing=0.5)


# ------------------------------------------------------------------------------------------------------------- pace


def test_number_of_steps_follows_from_measured_costs() -> None:
    pace, step = Pace(RunConfig(total_minutes=10, annealing=0.5)), 0
    seconds, budget, found = 0.1, 100.0, []
    while not pace.ends(step):
        found.append(pace.progress(step))
        step += 1
        budget -= seconds
        pace.measured(step, seconds, budget)
        if step == 300:
            seconds = 0.2  # steps become longer: fewer fit
    assert step == pytest.approx(300 + 70 / 0.2, rel=0.1)
    assert found[0] == 0
    assert found == sorted(found)
    assert found[-1] == pytest.approx(1, abs=0.02)


def test_long_steps_are_planned_after_a_few() -> None:
    pace = Pace(RunConfig(total_minutes=2, annealing=0.5))
    for step in (1, 2, 3):
        assert not pace.ends(step - 1)
        pace.measured(step, 20.0, 90.0 - 20 * step)
    assert pace.total == 4
    pace = Pace(RunConfig(total_minutes=1, annealing=0.5))
    pace.measured(1, 40.0, 20.0)
    assert pace.total == 1


def test_a_long_first_step_is_not_the_measure() -> None:
    """It compiles, and thermalises Markov chains."""
    pace = Pace(RunConfig(total_minutes=2, annealing=0.5))
    pace.measured(1, 20.0, 100.0)
    for step in range(2, 22):
        assert not pace.ends(step)
        pace.measured(step, 0.5, 100.0 - 0.5 * (step - 1))
    assert pace.total == pytest.approx(1 + 100 / 0.5, abs=2)


def test_a_plan_from_measured_costs_is_continued() -> None:
    pace, copy = Pace(RunConfig(total_minutes=10, annealing=0.5)), Pace(RunConfig(total_minutes=10, annealing=0.5))
    for step in range(1, 60):
        pace.measured(step, 0.1, 100 - 0.1 * step)
    copy.load_state_dict(pace.state_dict())
    assert [copy.progress(step) for step in range(59, 90)] == [pace.progress(step) for step in range(59, 90)]


def test_timed_run_holds_its_time_and_is_resumed(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    sampler = TreeSampler(n_samples=50)
    vmc = VMC(RING, model(RING), sampler, evaluation=Evaluation(sampler=sampler, batches=4, error=1e-9))

    class Stop:
        def step(self, row: dict[str, float]) -> None:
            if row["step"] == 24:
                raise KeyboardInterrupt

        def close(self) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        vmc.run(total_minutes=0.15, archive=path, progress=False, watch=[Stop()])
    archive = Archive.open(path)
    assert archive.step == 25
    assert archive.steps > 25
    assert not archive.finished
    result = resume(path, progress=False)
    assert result.steps_left == 0
    assert Archive.open(path).finished
    assert result.seconds < 1.2 * 9
    assert resume(path, progress=False).estimate == result.estimate


# ------------------------------------------------------------------------------------------------------- convergence


def test_a_run_stops_when_it_has_converged(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    small = model(RING, width=16, phase="zero")
    result = VMC(RING, small).run(60, archive=path, progress=False, until=lambda row: row["variance"] < 1e-6)
    steps = len(result.history["energy"])
    assert steps < 60
    assert result.history["variance"][-1] < 1e-6 <= result.history["variance"][-2]
    assert result.steps_left == 0
    archive = Archive.open(path)
    assert archive.finished
    assert archive.steps == steps
    assert resume(path, progress=False).estimate == result.estimate


def test_a_drift_leads_back_to_the_best_state() -> None:
    weights = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    guard = Guard([weights])

    def window(energy: float) -> list[bool]:
        """Outcome of a window of steps whose energies scatter around a mean."""
        values = torch.tensor([-1.0, 1.0], dtype=torch.float64) + energy
        samples = Samples(
            configurations=torch.tensor([[0], [1]], dtype=torch.uint8), weights=torch.full((2,), 0.5).double(),
            log_modulus=torch.zeros(2).double(), phase=torch.zeros(2).double(), counts=torch.tensor([50, 50]),
        )  # fmt: skip
        local = LocalEnergies(values=values.to(torch.complex128), diagonal=values)
        return [guard.rose(samples, local, 0.5) for _ in range(WINDOW)]

    assert not any(window(-3.0))
    with torch.no_grad():
        weights += 1
    error = 1 / math.sqrt(99 * WINDOW)
    assert not any(window(-3.0 + error))  # within the noise
    assert weights.tolist() == [1, 1]
    assert window(-3.0 + 3 * NOISE * error)[-1]
    assert weights.tolist() == [0, 0]
    copy, stored = Guard([weights]), guard.state_dict()
    copy.load_state_dict(stored, None, 1.0)
    assert (copy.lowest, copy.noise_of_lowest) == (guard.lowest, guard.noise_of_lowest)
    for strange in (torch.zeros(3).double(), torch.full((2,), math.nan).double()):
        with pytest.raises(ValueError, match="an earlier state in the checkpoint"):
            copy.load_state_dict(stored | {"guard.best": strange}, None, 1.0)


# -------------------------------------------------------------------------------------------------------- evaluation


def test_batches_are_one_sample_of_all() -> None:
    wavefunction, generator = model(RING), torch.Generator().manual_seed(3)
    parts = []
    for number in (300, 500):
        samples = TreeSampler(n_samples=number).build(wavefunction).sample(generator)
        parts.append((samples, local_energies(RING, wavefunction, samples)))
    samples, local = merged(RING.hilbert, parts)
    assert samples.n_samples == 800
    assert len(torch.unique(samples.configurations, dim=0)) == samples.n_distinct
    direct = sum(part.n_samples * part.mean(values.values.real) for part, values in parts) / 800
    assert samples.mean(local.values.real).item() == pytest.approx(direct.item(), abs=1e-12)
    torch.testing.assert_close(local.values, local_energies(RING, wavefunction, samples).values)
    drawn = GumbelSampler(n_distinct=5).build(wavefunction).sample(generator)
    with pytest.raises(ValueError, match="independent draws"):
        merged(RING.hilbert, [parts[0], (drawn, local_energies(RING, wavefunction, drawn))])


def test_errors_of_batches_fall_with_their_number() -> None:
    evaluator = Evaluator(RING, model(RING), TreeSampler(n_samples=200), 0.0)
    generator = torch.Generator().manual_seed(0)
    errors = [evaluator.add(generator).error for _ in range(16)]
    assert errors[-1] == pytest.approx(errors[0] / 4, rel=0.3)
    _, estimate = evaluator.all()
    assert estimate.error == pytest.approx(errors[-1], rel=0.1)
    assert estimate.n_samples == 3200


def test_stored_states_are_evaluated_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.h5"
    vmc = VMC(RING, model(RING), TreeSampler(n_samples=50), evaluation=TreeSampler(n_samples=100))
    first = vmc.run(3, archive=path, progress=False)
    before = Archive.open(path).parameters()
    found = evaluate(path, error=first.estimate.error / 5, progress=False)
    assert found.error <= first.estimate.error / 5
    assert abs(found.energy - first.estimate.energy) < 5 * math.hypot(found.error, first.estimate.error)
    archive = Archive.open(path)
    assert archive.result == found
    assert archive.step == 3
    assert all(np.array_equal(before[name], values) for name, values in archive.parameters().items())
    assert Evaluate(file=path, error=2 * found.error, seed=1, device="cpu")() == 0
    assert "E = " in capsys.readouterr().out
    refined = Archive.open(path).result
    assert refined is not None
    assert evaluate(path, error=2 * refined.error, progress=False) == refined  # nothing to do
    with pytest.raises(ValueError, match="error=-1"):
        evaluate(path, error=-1)


def test_an_interrupted_evaluation_keeps_its_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, batches = tmp_path / "run.h5", []
    real = Evaluator.add

    def add(self: Evaluator, generator: torch.Generator) -> object:
        batches.append(real(self, generator))
        if len(batches) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return batches[-1]

    monkeypatch.setattr(Evaluator, "add", add)
    sampler = TreeSampler(n_samples=50)
    vmc = VMC(RING, model(RING), sampler, evaluation=Evaluation(sampler=sampler, batches=100, error=1e-9))
    with pytest.raises(nqs.Interrupted, match="the energy from 150 samples is kept"):
        vmc.run(20, archive=path, progress=False)  # far below the start, which is no candidate then
    assert Archive.open(path).result == batches[-1]
    assert resume(path, progress=False).estimate == batches[-1]


# ------------------------------------------------------------------------------------------- start from a determinant


@pytest.mark.parametrize(
    "hamiltonian", [FermiHubbard(square(2, 3), 2, 1, U=8.0), TV(chain(7), 3, V=1.0, twist=(0.3,))], ids=str
)
def test_zero_logits_are_the_determinant(hamiltonian: Hamiltonian) -> None:
    """Conditionals of the determinant against sums of its enumerated probabilities."""
    determinant, hilbert = hartree_fock(hamiltonian).determinant, hamiltonian.hilbert
    n = hilbert.configurations()
    p = determinant.amplitude(n).abs().square()
    p = p / p.sum()
    log_uniform = torch.full((len(n), hilbert.n_sites, hilbert.local_dim), -30.0, dtype=torch.float64)
    found = determinant.conditionals(hilbert.local_dim).of(n, log_uniform).log_softmax(-1).exp()
    for site in range(hilbert.n_sites):
        for row in range(0, len(n), 7):
            prefix = (n[:, :site] == n[row, :site]).all(1)
            if p[prefix].sum() < 1e-9:
                continue
            right = [p[prefix & (n[:, site] == k)].sum() / p[prefix].sum() for k in range(hilbert.local_dim)]
            torch.testing.assert_close(found[row, site], torch.stack(right), atol=1e-9, rtol=0)


@pytest.mark.parametrize("attention", ["dot-product", "factored"])
def test_a_network_starts_at_the_mean_field_energy(attention: str) -> None:
    hamiltonian = FermiHubbard(square(2, 3), 2, 2, U=8.0)
    mean_field = hartree_fock(hamiltonian)
    wavefunction = model(
        hamiltonian, attention=attention, heads=8, reference=mean_field.determinant, start="reference",
        initial_phases=1e-3,
    )  # fmt: skip
    with torch.no_grad():
        wavefunction.head.weight[: hamiltonian.hilbert.local_dim] = 0.0
    n = hamiltonian.hilbert.configurations()
    log_modulus, phase = wavefunction.log_psi(n)
    psi = torch.polar(log_modulus.exp(), phase).detach()
    assert psi.abs().square().sum().item() == pytest.approx(1, abs=1e-12)
    matrix = torch.from_numpy(exact.sparse_matrix(hamiltonian).toarray()).to(psi.dtype)
    energy = (psi.conj() @ matrix @ psi).real.item()
    assert energy == pytest.approx(mean_field.energy, abs=0.02)  # but for a thousandth of the uniform distribution
    samples = TreeSampler(n_samples=10**5).build(wavefunction).sample(torch.Generator().manual_seed(0))
    again = wavefunction.log_psi(samples.configurations)
    torch.testing.assert_close(samples.log_modulus, again.log_modulus.detach())
    torch.testing.assert_close(samples.phase, again.phase.detach())


def test_a_start_without_a_determinant_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a SlaterDeterminant"):
        model(RING, start="reference")
    with pytest.raises(ValueError, match=r"initial_phases=0\.0: it must be a positive number"):
        model(RING, initial_phases=0.0)


def test_sampled_fermions_stay_below_their_mean_field() -> None:
    """A sampled run from the determinant ends below Hartree-Fock, where one from the uniform state was far above."""
    hamiltonian = FermiHubbard(square(3, 4), 5, 5, U=8.0)
    mean_field = hartree_fock(hamiltonian)
    wavefunction = model(
        hamiltonian, width=16, attention="factored", heads=16, dtype="float32", reference=mean_field.determinant,
        start="reference", initial_phases=0.1,
    )  # fmt: skip
    vmc = VMC(
        hamiltonian, wavefunction, TreeSampler(n_distinct=100), nqs.recipes.optimiser(exact=False, large=True),
        evaluation=TreeSampler(n_samples=2000),
    )  # fmt: skip
    result = vmc.run(15, progress=False)
    assert result.estimate.energy + 3 * result.estimate.error < mean_field.energy


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_that_only_rises_ends_with_its_start(resumed: bool, tmp_path: Path) -> None:
    """With the parameters that it began with, not those that its configuration would give."""
    hamiltonian, path = TV(square(3, 4), 6, V=10.0), tmp_path / "run.h5"
    wavefunction = nqs.recipes.plan(
        hamiltonian, device="cpu", model=nqs.recipes.NetworkOptions(network="determinant", width=4)
    ).model.build(hamiltonian.hilbert)
    batches = Evaluation(sampler=metropolis(n_samples=1000, n_chains=100), batches=4, error=1e-9)

    def disturb(size: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in wavefunction.parameters():
                parameter += size * torch.randn(parameter.shape, generator=generator).to(parameter)

    disturb(0.02, 0)
    samples = batches.sampler.build(wavefunction).sample(torch.Generator().manual_seed(1))
    begun = estimate_energy(samples, local_energies(hamiltonian, wavefunction, samples).values, energy_infinity=0.0)

    class Disturbance:
        def step(self, row: dict[str, float]) -> None:
            disturb(0.7, 1)
            if resumed and row["step"] == 1:
                raise KeyboardInterrupt

        def close(self) -> None: ...

    vmc = VMC(hamiltonian, wavefunction, batches.sampler, natural_gradient(learning_rate=1e-6), evaluation=batches)
    if resumed:
        with pytest.raises(KeyboardInterrupt):
            vmc.run(3, progress=False, watch=[Disturbance()], archive=path)
        result = resume(path, progress=False)
    else:
        result = vmc.run(3, progress=False, watch=[Disturbance()])
    assert result.history["energy"][-1] > begun.energy + 1
    assert abs(result.estimate.energy - begun.energy) < 5 * math.hypot(begun.error, result.estimate.error)


def test_a_run_that_falls_forgets_its_start(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    vmc = VMC(RING, model(RING), TreeSampler(n_samples=500), evaluation=TreeSampler(n_samples=100))
    vmc.run(20, archive=path, progress=False)
    assert not any("start" in name for name in Archive.open(path).checkpoint().optimiser)
