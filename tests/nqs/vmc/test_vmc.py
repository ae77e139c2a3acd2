"""Whole runs: convergence to the exact energy, what is recorded and printed, and interruption at every point."""

import dataclasses
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from optimisers import first_order, natural_gradient
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from nqs import VMC, Archive, ArchiveError, FlushPolicy, NonFiniteError, Result, RunConfig, exact, resume
from nqs.estimators.energy_scale import energy_scale
from nqs.estimators.estimate import EnergyEstimate, with_error
from nqs.estimators.local_energy import LocalEnergies
from nqs.exact import ExactGroundState
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import HilbertSpace, bosons
from nqs.lattice import Lattice, chain
from nqs.models import Transformer
from nqs.optimisation import NaturalGradient, OptimiserConfig, StepInfo, TorchOptimiser
from nqs.optimisation.exact_steps import ImaginaryTime
from nqs.protocols import Connected, Sampler
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.samplers.gumbel import GumbelSampling
from nqs.samplers.tree import TreeSampling
from nqs.samples import Samples
from nqs.vmc import loop

H = BoseHubbard(chain(4), 4, U=4.0)  # 35 configurations
SMALL = BoseHubbard(chain(3), 3, U=4.0)  # 10 configurations
STEPS = 5


@pytest.fixture(scope="module")
def ground_state() -> ExactGroundState:
    return exact.ground_state(H)


def vmc(
    hamiltonian: Any = SMALL,
    sampler: Sampler | None = None,
    optimiser: OptimiserConfig | None = None,
    *,
    evaluation: Sampler | None = None,
    **options: Any,
) -> VMC:
    """A tiny transformer, new every time, so that runs share nothing but their configuration."""
    model = Transformer(hamiltonian.hilbert, **{"width": 4, "layers": 1, "heads": 1, "mlp_ratio": 1} | options)
    return VMC(
        hamiltonian,
        model,
        sampler or TreeSampler(n_samples=40),
        optimiser,
        evaluation or TreeSampler(n_samples=300),
    )


def raising(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: BaseException) -> None:
    """owner.name raises at its call-th call, 0 for the first one."""
    original = getattr(owner, name)
    calls = iter(range(10**6))

    def method(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, method)


def assert_same_run(first: Path, second: Path) -> None:
    """All that two archives hold is equal bit for bit, except for wall times."""
    a, b = Archive.open(first), Archive.open(second)
    assert a.step == b.step
    assert a.config == b.config
    assert a.result == b.result
    for found, expected in zip(a.checkpoint()[:2], b.checkpoint()[:2], strict=True):
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name].dtype == expected[name].dtype
            assert found[name].numpy().tobytes() == expected[name].numpy().tobytes(), name
    assert torch.equal(a.checkpoint()[2], b.checkpoint()[2])
    for found, expected in ((a.history, b.history), (a.samples(), b.samples()), (a.observables(), b.observables())):
        assert found.keys() == expected.keys()
        for name in expected.keys() - {"seconds", "archive_seconds"}:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


# ------------------------------------------------------------------------------------------------- convergence


@pytest.mark.parametrize("phase", ["zero", "learned"])
def test_default_run_finds_the_exact_ground_state(phase: str, ground_state: ExactGroundState) -> None:
    model = small_transformer(phase=phase).build(H.hilbert)
    result = VMC(H, model).run(40, exact=ground_state, progress=False)
    estimate = result.estimate
    assert abs(result.relative_error) <= 1e-4
    assert estimate.variance < 1e-2
    assert estimate.v_score < 1e-3
    assert estimate.n_distinct <= H.hilbert.dimension
    assert estimate.energy >= ground_state.energy - 3 * estimate.error - 1e-12
    log_psi = model.log_psi(H.hilbert.configurations())
    psi = torch.polar(log_psi.log_modulus.exp(), log_psi.phase).detach().numpy()
    assert abs(ground_state.state @ psi) ** 2 == pytest.approx(1, abs=1e-3)
    assert_variational(psi, estimate)


def assert_variational(psi: np.ndarray, estimate: EnergyEstimate) -> None:
    """The quoted energy is <psi|H|psi> within its error bar, and so is its variance."""
    H_psi = exact.sparse_matrix(H) @ psi
    energy = np.vdot(psi, H_psi).real
    assert abs(estimate.energy - energy) <= 4 * estimate.error + 1e-12
    assert estimate.variance == pytest.approx(np.vdot(H_psi, H_psi).real - energy**2, rel=0.2, abs=1e-9)


@pytest.mark.parametrize(
    "sampler", [TreeSampler(n_samples=2000), GumbelSampler(n_distinct=25)], ids=lambda s: type(s).__name__
)
@pytest.mark.usefixtures("unchecked")
def test_sampled_runs_agree_with_the_exact_energy_within_their_error(
    sampler: Sampler, ground_state: ExactGroundState
) -> None:
    # Many samples, because the rarest four configurations (1e-4 of the weight) carry most of the variance.
    result = vmc(H, sampler, evaluation=TreeSampler(n_samples=10**6), width=8, phase="zero").run(
        100, exact=ground_state, progress=False
    )
    assert abs(result.relative_error) <= 1e-3
    assert result.estimate.n_samples == 10**6
    assert result.estimate.energy >= ground_state.energy - 3 * result.estimate.error


def test_quoted_energy_comes_from_fresh_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    run = vmc(sampler=ExhaustiveSampler(), evaluation=GumbelSampler(n_distinct=6))
    drawn = []
    sample = GumbelSampling.sample

    def recording(*arguments: Any) -> Samples:
        drawn.append(sample(*arguments))
        return drawn[-1]

    monkeypatch.setattr(GumbelSampling, "sample", recording)
    result = run.run(2, progress=False)
    assert len(drawn) == 1
    assert result.estimate.n_distinct == drawn[0].n_distinct == 6
    assert result.history["distinct"].tolist() == [10, 10]


# ----------------------------------------------------------------------------------------------------- history


def test_history_has_one_row_a_step_with_and_without_an_archive(tmp_path: Path) -> None:
    on_disk = vmc().run(STEPS, archive=tmp_path / "run.h5", progress=False)
    in_memory = vmc().run(STEPS, progress=False)
    assert on_disk.archive == tmp_path / "run.h5"
    assert in_memory.archive is None
    assert on_disk.estimate == in_memory.estimate
    assert on_disk.history.keys() == in_memory.history.keys()
    for name, values in in_memory.history.items():
        assert values.shape == on_disk.history[name].shape == (STEPS,)
        if name not in ("seconds", "archive_seconds"):
            np.testing.assert_array_equal(on_disk.history[name], values, err_msg=name)
    assert in_memory.history["step"].tolist() == list(range(STEPS))
    assert (in_memory.history["samples"] == 40).all()
    assert in_memory.seconds == pytest.approx(in_memory.history["seconds"].sum())


def test_seed_changes_the_samples_and_nothing_else() -> None:
    first, again, other = (vmc().run(3, seed=seed, progress=False) for seed in (1, 1, 2))
    assert first.estimate == again.estimate
    assert first.estimate != other.estimate


def test_a_run_neither_reads_nor_moves_the_global_random_state() -> None:
    results = []
    for seed in (1, 2):
        run = vmc()
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        results.append(run.run(2, progress=False).estimate)
        assert torch.equal(torch.get_rng_state(), state)
    assert results[0] == results[1]


# --------------------------------------------------------------------------------------------------- annealing


@pytest.mark.parametrize(
    ("annealing", "expected"),
    [(0.5, [2.0, 1.5, 1.0, 0.5, 0.0, 0.0, 0.0, 0.0]), (1.0, [2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25])],
)
def test_temperature_falls_linearly_to_zero(annealing: float, expected: list[float]) -> None:
    run = RunConfig(steps=8, temperature=2.0, annealing=annealing)
    assert [run.temperature_at(step / 8) for step in range(8)] == pytest.approx(expected)
    assert run.temperature_at(1.0) == 0


def test_only_the_optimiser_sees_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    T = 1.5
    free_energies, entropies = [], []
    steps = {kind: kind.step for kind in (NaturalGradient, ImaginaryTime)}  # with and without temperature

    def recording(self: Any, samples: Samples, local: LocalEnergies, *rest: Any) -> StepInfo:
        free_energies.append((samples.weights @ local.values.real).item())
        entropies.append(-2 * (samples.weights @ samples.log_modulus).item())
        return steps[type(self)](self, samples, local, *rest)

    for kind in steps:
        monkeypatch.setattr(kind, "step", recording)
    run = vmc(H, ExhaustiveSampler(), evaluation=ExhaustiveSampler())
    history = run.run(8, temperature=T, annealing=0.5, progress=False).history
    np.testing.assert_allclose(history["temperature"], [T, 0.75 * T, 0.5 * T, 0.25 * T, 0, 0, 0, 0])
    expected = history["energy"] - history["temperature"] * np.array(entropies)
    np.testing.assert_allclose(run.energy_scale * np.array(free_energies), expected)
    np.testing.assert_allclose(history["perplexity"], np.exp(entropies))


def test_quoted_energy_of_an_annealed_run_holds_no_temperature() -> None:
    run = vmc(H, ExhaustiveSampler(), evaluation=ExhaustiveSampler())
    result = run.run(5, temperature=3.0, annealing=1.0, progress=False)
    log_psi = run.wavefunction.log_psi(H.hilbert.configurations())
    psi = torch.polar(log_psi.log_modulus.exp(), log_psi.phase).detach().numpy()
    assert result.estimate.energy == pytest.approx(np.vdot(psi, exact.sparse_matrix(H) @ psi).real, rel=1e-10)


def test_temperature_keeps_more_configurations_alive() -> None:
    optimiser = TorchOptimiser(name="SGD", learning_rate=0.017, final_learning_rate=0.017)
    cold, hot = (
        vmc(H, ExhaustiveSampler(), optimiser).run(20, temperature=T, annealing=1.0, progress=False).history
        for T in (0.0, 4.0)
    )
    assert cold["energy"][0] == hot["energy"][0]  # T enters with the first update
    assert (hot["perplexity"][1:15] > cold["perplexity"][1:15]).all()
    assert hot["perplexity"][10] > 1.2 * cold["perplexity"][10]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps=0: at least one step"),
        ({"steps": -3}, "steps=-3: at least one step"),
        ({"temperature": -0.1}, r"temperature=-0\.1: it must be 0 .* or positive"),
        ({"annealing": 0.0}, r"annealing=0\.0: give the fraction of the steps, above 0 and at most 1"),
        ({"annealing": 1.5}, r"annealing=1\.5: give the fraction"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(**({"annealing": 0.5} | options))
    with pytest.raises(ValueError, match=message):
        vmc().run(**({"steps": 3} | options), archive=tmp_path / "run.h5", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_wavefunction_of_another_sector_is_refused() -> None:
    model = small_transformer(width=4, heads=1).build(bosons(3, 2))
    with pytest.raises(ValueError, match=r"lives on .*particles = 2.*, the Hamiltonian on .*particles = 3.*hilbert"):
        VMC(SMALL, model)


# ---------------------------------------------------------------------------------------------------- printing


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-7.459791, 0.000031, "-7.459791(31)"),
        (-7.459791, 0.00031, "-7.45979(31)"),
        (-7.459791, 0.0301, "-7.460(30)"),
        (-7.459791, 0.1, "-7.46(10)"),
        (-7.459791, 0.94, "-7.46(94)"),
        (-7.459791, 1.0, "-7.5(10)"),
        (1.0, 0.25, "1.00(25)"),
        (-0.0004, 0.0012, "-0.0004(12)"),
        (12345.678, 12.0, "12346(12)"),
        (12345.678, 99.4, "12346(99)"),
        (12345.678, 250.0, "12346(250)"),
        (1e6, 12345.6, "1000000(12346)"),
        (-7.459791, 0.0, "-7.45979100"),
        (0.0, 0.0, "0.00000000"),
        (-7.459791, float("nan"), "-7.45979100(?)"),
        (-7.459791, float("inf"), "-7.45979100(?)"),
        (float("nan"), 0.1, "nan"),
        (float("inf"), 0.1, "inf"),
        (float("nan"), float("nan"), "nan"),
    ],
)
def test_numbers_are_printed_with_their_error_in_the_last_digits(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(-7.459791, 0.0996, "-7.46(10)"), (123.456, 9.96, "123(10)"), (-7.459791, 0.000996, "-7.4598(10)")],
)
def test_error_that_rounds_up_keeps_two_digits(value: float, error: float, text: str) -> None:
    assert with_error(value, error) == text


@pytest.mark.parametrize("error", [1e-17, 1e-25, 5e-324])
def test_no_digits_beyond_double_precision_are_printed(error: float) -> None:
    digits = re.fullmatch(r"-3\.(\d+)(\(\d+\))?", with_error(-3.97651301374205, error))
    assert digits is not None
    assert len(digits[1]) <= 16


def result_of(energy: float = -7.459791, error: float = 0.000031, known: float | None = -7.459812) -> Result:
    estimate = EnergyEstimate(
        energy=energy, error=error, variance=0.00123, v_score=1.77e-4, n_samples=1_000_000, n_distinct=6_435
    )
    return Result(estimate=estimate, n_sites=8, unit="J", history={}, seconds=61.4, exact=known)


def test_result_prints_energy_error_v_score_samples_and_comparison() -> None:
    assert str(result_of()) == (
        "E = -7.459791(31) J\n"
        "E / site = -0.9324739(39) J\n"
        "variance 1.23e-03, V-score 1.77e-04, 1,000,000 samples on 6,435 distinct configurations, optimised in 61 s\n"
        "exact -7.45981200 J: relative error 2.8e-06 (+2.10e-05 = +0.7 error bars)"
    )


def test_result_without_exact_energy_makes_no_comparison() -> None:
    result = result_of(known=None)
    assert "exact" not in str(result)
    assert math.isnan(result.relative_error)


def test_exhaustive_result_has_no_error_bars() -> None:
    text = str(result_of(error=0.0))
    assert text.startswith("E = -7.45979100 J\n")
    assert text.endswith("relative error 2.8e-06 (+2.10e-05)")


def test_results_compare_with_numbers_and_ground_states(ground_state: ExactGroundState) -> None:
    result = result_of(energy=-3.0, error=0.5, known=None)
    assert result.compare(ground_state) == result.compare(ground_state.energy)
    assert "= +2.0 error bars" in result.compare(-4.0)
    assert "relative error -2.5e-01 (-1.00e+00 = -2.0 error bars)" in result_of(energy=-5.0, error=0.5).compare(-4.0)


def test_run_prints_all_of_it(ground_state: ExactGroundState) -> None:
    text = str(vmc(H).run(2, exact=ground_state, progress=False))
    number = r"-?\d+\.\d+\(\d\d\)"
    assert re.fullmatch(
        rf"E = {number} J\nE / site = {number} J\nvariance \S+, V-score \S+, 300 samples on \d+ distinct "
        rf"configurations, optimised in \d+ s\nexact -3\.97651301 J: relative error \S+ \(\S+ = \S+ error bars\)",
        text,
    )


@pytest.mark.parametrize("known", [0.0, None])
def test_exact_energy_of_zero_has_no_relative_error_but_is_compared(
    known: float | None, capfd: pytest.CaptureFixture[str]
) -> None:
    frozen = dataclasses.replace(SMALL, J=0.0)  # a Mott state: E = 0
    result = vmc(frozen).run(2, exact=exact.ground_state(frozen) if known is None else known, progress=True)
    assert "exact 0.0" in str(result)
    assert math.isnan(result.relative_error)


def test_progress_bar_shows_what_matters(ground_state: ExactGroundState, capfd: pytest.CaptureFixture[str]) -> None:
    vmc(H).run(2, exact=ground_state, progress=True)
    captured = capfd.readouterr()
    assert captured.out == ""
    last = captured.err.strip().split("\r")[-1]
    assert "2/2" in last
    assert re.search(r"E = \S+\(\d\d\), var \S+, V \S+, \d+ distinct, rel\. error \d\.\de[+-]\d\d", last)


def test_progress_bar_without_exact_energy_shows_no_relative_error(capfd: pytest.CaptureFixture[str]) -> None:
    vmc().run(1, progress=True)
    err = capfd.readouterr().err
    assert "distinct" in err
    assert "rel. error" not in err


def test_silent_run_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vmc().run(2, archive=tmp_path / "run.h5", progress=False)
    resume(tmp_path / "run.h5", progress=False)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------------------------------- not a number


def only_steps_see_the_diagonal(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the infinite-temperature energy: a broken one is not noticed before the steps."""
    scale = energy_scale(SMALL)
    monkeypatch.setattr("nqs.vmc.loop.check_hamiltonian", lambda hamiltonian: None)
    monkeypatch.setattr("nqs.vmc.loop.energy_scale", lambda hamiltonian: scale)


def not_finite_at(monkeypatch: pytest.MonkeyPatch, step: int, value: float, times: int = 1) -> None:
    """The diagonal of H is `value` on one configuration, from that step on, so many times."""
    only_steps_see_the_diagonal(monkeypatch)
    diagonal = BoseHubbard.diagonal
    calls = iter(range(-1, 10**6))  # the first call is for the infinite-temperature energy

    def broken(self: BoseHubbard, n: Tensor) -> Tensor:
        energy = diagonal(self, n)
        if step <= next(calls) < step + times:
            energy[0] = value
        return energy

    monkeypatch.setattr(BoseHubbard, "diagonal", broken)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e200])
def test_energy_that_is_not_finite_stops_the_run_at_the_last_good_state(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    run = vmc()
    with monkeypatch.context() as patch:
        not_finite_at(patch, 3, value, 6)  # the variance of 1e200 overflows
        message = r"step 3: energy .*is not finite, .* halved 5 times.*run\.h5\. Try a smaller learning"
        with pytest.raises(NonFiniteError, match=message):
            run.run(STEPS, archive=path, progress=False)
    archive = Archive.open(path)
    assert archive.step == 3
    assert archive.result is None
    assert all(np.isfinite(values).all() for values in archive.history.values())
    for name, tensor in archive.checkpoint()[0].items():
        assert torch.equal(run.wavefunction.state_dict()[name], tensor)
    run.run(STEPS, archive=path, progress=False)
    vmc().run(STEPS, archive=tmp_path / "reference.h5", progress=False)
    assert_same_run(path, tmp_path / "reference.h5")


@pytest.mark.parametrize("optimiser", [natural_gradient(momentum=0.5), first_order()], ids=repr)
def test_run_goes_on_from_the_last_good_state_with_half_the_step(
    optimiser: OptimiserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    run = vmc(optimiser=optimiser)
    parameters = []
    sample = TreeSampling.sample

    def recording(*arguments: Any) -> Samples:
        parameters.append(parameters_to_vector(run.wavefunction.parameters()).clone())
        return sample(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TreeSampling, "sample", recording)
        not_finite_at(patch, 3, math.nan, 2)
        result = run.run(8, archive=path, progress=False)
    # Steps 0 1 2 and a bad 3; twice again from where step 2 began.
    assert torch.equal(parameters[4], parameters[2])
    assert torch.equal(parameters[5], parameters[2])
    assert not torch.equal(parameters[3], parameters[2])
    assert result.history["retries"].tolist() == [0, 0, 0, 2, 0, 0, 0, 0]
    assert np.isfinite(result.estimate.energy)
    reference = vmc(optimiser=optimiser).run(8, progress=False)
    rates = result.history["learning_rate"] / reference.history["learning_rate"]
    if isinstance(optimiser, TorchOptimiser):  # the other one depends on the samples
        np.testing.assert_allclose(rates, [1, 1, 1, *(0.25 * 1.1**k for k in range(5))])


def test_damped_update_is_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two retries the first-order step from the same state is a quarter as long."""
    lengths = {}
    for retries in (0, 2):
        run = vmc(sampler=ExhaustiveSampler(), optimiser=first_order(name="SGD", learning_rate=0.1))
        before = parameters_to_vector(run.wavefunction.parameters()).clone()
        with monkeypatch.context() as patch:
            not_finite_at(patch, 0, math.inf, retries)
            history = run.run(1, progress=False).history
        lengths[retries] = (parameters_to_vector(run.wavefunction.parameters()) - before).norm().item()
        assert history["update_norm"][0] == pytest.approx(lengths[retries])
    assert lengths[2] == pytest.approx(lengths[0] / 4)


@pytest.mark.usefixtures("unchecked")
def test_rollback_survives_an_interruption_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the bad step is the first one after resuming: the archive keeps the last good state."""
    optimiser = natural_gradient(momentum=0.5)
    for name, stops in (("reference.h5", []), ("before.h5", [3]), ("after.h5", [4]), ("both.h5", [3, 4, 5])):
        done = 0
        for stop in [*stops, STEPS + 1]:
            with monkeypatch.context() as patch:
                if done <= 3:
                    not_finite_at(patch, 3 - done, math.nan)
                if stop <= STEPS:
                    retry = done <= 3 < stop
                    raising(patch, TreeSampling, "sample", stop - done + retry, KeyboardInterrupt())
                    with pytest.raises(KeyboardInterrupt):
                        vmc(optimiser=optimiser).run(STEPS + 1, archive=tmp_path / name, progress=False)
                    done = stop
                else:
                    vmc(optimiser=optimiser).run(STEPS + 1, archive=tmp_path / name, progress=False)
        assert Archive.open(tmp_path / name).history["retries"].tolist() == [0, 0, 0, 1, 0, 0]
        assert_same_run(tmp_path / name, tmp_path / "reference.h5")


def test_retries_end_also_where_every_other_step_is_good(monkeypatch: pytest.MonkeyPatch) -> None:
    only_steps_see_the_diagonal(monkeypatch)
    diagonal = BoseHubbard.diagonal
    calls = iter(range(-1, 10**6))

    def broken(self: BoseHubbard, n: Tensor) -> Tensor:
        return diagonal(self, n) / (0.0 if next(calls) % 2 else 1.0)

    monkeypatch.setattr(BoseHubbard, "diagonal", broken)
    with pytest.raises(NonFiniteError):
        vmc().run(100, progress=False)
    assert next(calls) < 20


@pytest.mark.parametrize("optimiser", [NaturalGradient, None], ids=["with archive", "without"])
def test_update_that_is_not_finite_is_undone(
    optimiser: type | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = vmc()
    before: list[Tensor] = []
    step = NaturalGradient.step

    def broken(self: NaturalGradient, *arguments: Any) -> StepInfo:
        before.append(parameters_to_vector(run.wavefunction.parameters()).clone())
        info = step(self, *arguments)
        if len(before) >= 3:
            with torch.no_grad():
                run.wavefunction.head.bias[0] = math.nan
        return info

    monkeypatch.setattr(NaturalGradient, "step", broken)
    path = tmp_path / "run.h5" if optimiser else None
    with pytest.raises(
        NonFiniteError, match=r"step 2: .*run\.h5" if path else "step 2: .*state before it was restored"
    ):
        run.run(STEPS, archive=path, progress=False)
    assert torch.equal(parameters_to_vector(run.wavefunction.parameters()), before[2])
    if path:
        assert Archive.open(path).step == 2


@pytest.mark.parametrize(
    "sampler",
    [
        ExhaustiveSampler(),
        TreeSampler(n_samples=50),
        TreeSampler(n_distinct=5),
        GumbelSampler(n_distinct=5),
    ],
    ids=repr,
)
def test_network_that_overflows_is_reported_for_every_sampler(sampler: Sampler) -> None:
    run = vmc(sampler=sampler)
    with torch.no_grad():
        for parameter in run.wavefunction.parameters():
            parameter *= 1e200
    with pytest.raises(NonFiniteError, match="is not finite"):
        run.run(2, progress=False)


def test_final_energy_that_is_not_finite_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    with monkeypatch.context() as patch:
        not_finite_at(patch, STEPS, math.nan, 2)
        with pytest.raises(NonFiniteError):
            vmc().run(STEPS, archive=path, progress=False)
    assert Archive.open(path).result is None


def test_last_step_is_undone_where_its_energy_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And a run that is interrupted around that ends in the same way."""
    path, interrupted = tmp_path / "run.h5", tmp_path / "interrupted.h5"
    run = vmc()
    with monkeypatch.context() as patch:
        not_finite_at(patch, STEPS, math.nan)
        result = run.run(STEPS, archive=path, progress=False)
    archive = Archive.open(path)
    assert archive.result == result.estimate
    last_good = archive.checkpoint().last_good
    assert last_good is not None
    np.testing.assert_array_equal(parameters_to_vector(run.wavefunction.parameters()).detach(), last_good)
    for name, values in archive.parameters().items():
        np.testing.assert_array_equal(values, run.wavefunction.state_dict()[name])
    assert archive.history["retries"].tolist() == [0, 0, 0, 0, 1]

    with monkeypatch.context() as patch:
        not_finite_at(patch, STEPS, math.nan)
        raising(patch, TreeSampling, "sample", STEPS + 1, KeyboardInterrupt())  # in the second evaluation
        with pytest.raises(KeyboardInterrupt):
            vmc().run(STEPS, archive=interrupted, progress=False)
    resume(interrupted, progress=False)
    assert_same_run(interrupted, path)


# ----------------------------------------------------------------------------------- interruption and resuming

SAMPLERS = [TreeSampler(n_samples=40), TreeSampler(n_distinct=6), GumbelSampler(n_distinct=6), ExhaustiveSampler()]
OPTIMISERS = [
    natural_gradient(momentum=0.9),
    first_order(name="Adam", learning_rate=1e-2),
    first_order(name="SGD", learning_rate=1e-2),
]
COMBINATIONS = [(sampler, natural_gradient()) for sampler in SAMPLERS]
COMBINATIONS += [(sampler, optimiser) for sampler in SAMPLERS[1:3] for optimiser in OPTIMISERS]


def named(item: Any) -> str:
    shown = ("name", "momentum", "n_samples", "n_distinct")
    return "-".join([type(item).__name__, *(f"{name}={getattr(item, name)}" for name in shown if hasattr(item, name))])


def the_same_object(path: Path, run: VMC) -> Result:
    return run.run(STEPS, archive=path, progress=False)


def a_new_object(path: Path, run: VMC) -> Result:
    fresh = vmc(run.hamiltonian, run.sampler, run.optimiser, **dataclasses.asdict(run.wavefunction.config))
    return fresh.run(STEPS, archive=path, progress=False)


def the_archive_alone(path: Path, run: VMC) -> Result:
    return resume(path, progress=False)


@pytest.mark.parametrize(("sampler", "optimiser"), COMBINATIONS, ids=named)
@pytest.mark.usefixtures("unchecked")
def test_interrupted_runs_end_bit_for_bit_like_uninterrupted_ones(
    sampler: Sampler, optimiser: OptimiserConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Continued from the archive alone; for one combination, from objects that are still there, too."""
    reference = vmc(SMALL, sampler, optimiser).run(STEPS, archive=tmp_path / "reference.h5", progress=False)
    every = (sampler, optimiser) == COMBINATIONS[1]
    for continued in (the_same_object, a_new_object, the_archive_alone) if every else (the_archive_alone,):
        path = tmp_path / f"{continued.__name__}.h5"
        run = vmc(SMALL, sampler, optimiser)
        with monkeypatch.context() as patch:
            raising(patch, type(sampler.build(vmc().wavefunction)), "sample", 3, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                run.run(STEPS, archive=path, progress=False)
        assert Archive.open(path).step == 3
        result = continued(path, run)
        assert result.estimate == reference.estimate
        np.testing.assert_array_equal(result.history["energy"], reference.history["energy"])
        assert_same_run(path, tmp_path / "reference.h5")


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"phase": "zero"}, {"seed": 5, "layers": 2}], ids=str)
def test_every_model_option_survives_an_interruption(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vmc(**options).run(3, archive=tmp_path / "reference.h5", progress=False, temperature=1.0, seed=4)
    with monkeypatch.context() as patch:
        raising(patch, TreeSampling, "sample", 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            vmc(**options).run(3, archive=tmp_path / "run.h5", progress=False, temperature=1.0, seed=4)
    resume(tmp_path / "run.h5", progress=False)
    assert_same_run(tmp_path / "run.h5", tmp_path / "reference.h5")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `vmc()` without an interruption."""
    path = tmp_path_factory.mktemp("uninterrupted") / "reference.h5"
    torch.use_deterministic_algorithms(True)  # module fixtures are made before `deterministic` of a test
    vmc().run(STEPS, archive=path, progress=False)
    return path


PLACES: dict[str, tuple[Callable[[pytest.MonkeyPatch], None], int]] = {
    "before the first step": (lambda patch: raising(patch, TreeSampling, "sample", 0, KeyboardInterrupt()), 0),
    "in the update": (lambda patch: raising(patch, NaturalGradient, "step", 2, KeyboardInterrupt()), 2),
    "before the record": (lambda patch: raising(patch, Archive, "record", 2, KeyboardInterrupt()), 2),
    "in the flush": (lambda patch: raising(patch, os, "fsync", 3, KeyboardInterrupt()), 3),
    "after the last step": (lambda patch: raising(patch, loop, "evaluate_best", 0, KeyboardInterrupt()), STEPS),
    "in the evaluation": (lambda patch: raising(patch, TreeSampling, "sample", STEPS, KeyboardInterrupt()), STEPS),
    "before the result": (lambda patch: raising(patch, Archive, "write_result", 0, KeyboardInterrupt()), STEPS),
}


@pytest.mark.parametrize("continued", [the_same_object, the_archive_alone], ids=lambda function: function.__name__)
@pytest.mark.parametrize("place", PLACES)
def test_no_place_of_interruption_matters(
    place: str, continued: Callable, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.h5"
    run = vmc()
    interrupt, finished_steps = PLACES[place]
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises((KeyboardInterrupt, ArchiveError)):
            run.run(STEPS, archive=path, progress=False, flush=FlushPolicy(longest=0))
    assert Archive.open(path).step == finished_steps
    if place == "before the first step" or continued is the_archive_alone:
        resume(path, progress=False)
    else:
        continued(path, run)
    assert_same_run(path, uninterrupted)


def test_interruption_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    optimiser = natural_gradient(momentum=0.5)
    vmc(optimiser=optimiser).run(STEPS, archive=tmp_path / "reference.h5", progress=False)
    path = tmp_path / "run.h5"
    for step in range(STEPS):
        with monkeypatch.context() as patch:
            raising(patch, TreeSampling, "sample", 1 if step else 0, KeyboardInterrupt())
            with pytest.raises(KeyboardInterrupt):
                vmc(optimiser=optimiser).run(STEPS, archive=path, progress=False)
        assert Archive.open(path).step == step
    resume(path, progress=False)
    assert_same_run(path, tmp_path / "reference.h5")


def test_finished_run_is_returned_without_new_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    run = vmc()
    first = run.run(STEPS, archive=path, progress=False)
    before = path.read_bytes()
    for owner, name in ((TreeSampling, "sample"), (NaturalGradient, "step")):
        raising(monkeypatch, owner, name, 0, AssertionError("a step was made"))
    for result in (run.run(STEPS, archive=path, progress=False), resume(path, progress=False)):
        assert result.estimate == first.estimate
        assert str(result) == str(first)
        assert result.history.keys() == first.history.keys()
        for name, values in first.history.items():
            np.testing.assert_array_equal(result.history[name], values)
    assert path.read_bytes() == before


def test_finished_run_brings_its_parameters_back(tmp_path: Path) -> None:
    run = vmc()
    run.run(STEPS, archive=tmp_path / "run.h5", progress=False)
    again = vmc()
    again.run(STEPS, archive=tmp_path / "run.h5", progress=False)
    for name, tensor in run.wavefunction.state_dict().items():
        assert torch.equal(again.wavefunction.state_dict()[name], tensor)


def test_exact_energy_given_later_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    vmc().run(2, archive=path, progress=False)
    vmc().run(2, archive=path, exact=exact.ground_state(SMALL), progress=False)
    stored = Archive.open(path).exact
    assert stored is not None
    assert stored["energy"] == exact.ground_state(SMALL).energy


def test_exact_energy_in_the_archive_is_compared_with(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    first = vmc().run(2, archive=path, exact=exact.ground_state(SMALL), progress=False)
    assert str(resume(path, progress=False)) == str(first)


def test_archive_of_another_run_is_refused_with_the_differences(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    vmc().run(2, archive=path, progress=False)
    before = path.read_bytes()
    other = vmc(dataclasses.replace(SMALL, U=8.0), GumbelSampler(n_distinct=5), natural_gradient(max_step=0.05), seed=3)
    with pytest.raises(ArchiveError, match=r"run\.h5 holds another run; in the archive / now") as error:
        other.run(4, archive=path, seed=7, temperature=0.5, progress=False)
    text = str(error.value)
    for line in (
        "hamiltonian.U: 4.0 / 8.0",
        "sampler.type: TreeSampler / GumbelSampler",
        "sampler.n_distinct: None / 5",
        "optimiser.max_step: 0.1 / 0.05",
        "model.seed: 0 / 3",
        "run.steps: 2 / 4",
        "run.seed: 0 / 7",
        "run.temperature: 0.0 / 0.5",
    ):
        assert f"\n  {line}\n" in text
    assert "hamiltonian.J" not in text
    assert "Choose another archive, move this file away, or use the options it was started with" in text
    assert path.read_bytes() == before


def test_file_that_is_no_archive_is_refused_and_left(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    path.write_text("my notes")
    for call in (lambda: vmc().run(2, archive=path, progress=False), lambda: resume(path)):
        with pytest.raises(ArchiveError, match="is no readable archive"):
            call()
    assert path.read_text() == "my notes"
    with pytest.raises(ArchiveError, match="no such archive"):
        resume(tmp_path / "none.h5")


# -------------------------------------------------------------------------------------------- classes of one's own


@dataclass(frozen=True)
class Mine:
    """A Hamiltonian that nqs does not know: hard-core bosons in a field."""

    lattice: Lattice
    field: float = 0.3

    @cached_property
    def hilbert(self) -> HilbertSpace:
        return bosons(self.lattice.n_sites, None, 1)

    @cached_property
    def bosons(self) -> BoseHubbard:
        return BoseHubbard(self.lattice, None, U=0.0, mu=self.field, n_max=1)

    def diagonal(self, n: Tensor) -> Tensor:
        return self.bosons.diagonal(n)

    def connected(self, n: Tensor) -> Connected:
        return self.bosons.connected(n)


@dataclass(frozen=True)
class MySampler:
    n: int = 20

    def build(self, wavefunction: Any) -> "MySampling":
        return MySampling(TreeSampler(n_samples=self.n), wavefunction)


class MySampling(TreeSampling):
    def sample(self, generator: torch.Generator) -> Samples:
        return super().sample(generator)


def test_classes_of_ones_own_are_resumed_when_they_are_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, mine = tmp_path / "run.h5", Mine(chain(3), field=0.7)
    expected = vmc(mine, MySampler()).run(STEPS, archive=tmp_path / "reference.h5", progress=False)
    with monkeypatch.context() as patch:
        raising(patch, MySampling, "sample", 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            vmc(mine, MySampler()).run(STEPS, archive=path, progress=False)
    with pytest.raises(ValueError, match=r"'Mine' is none of the classes .*BoseHubbard.* --module file.py"):
        resume(path, progress=False)
    with pytest.raises(ValueError, match="'MySampler' is none of the classes"):
        resume(path, types={"Mine": Mine}, progress=False)
    result = resume(path, types={"Mine": Mine, "MySampler": MySampler}, progress=False)
    assert result.estimate == expected.estimate
    assert_same_run(path, tmp_path / "reference.h5")


def test_objects_that_no_archive_can_hold_are_refused_before_the_run(tmp_path: Path) -> None:
    class Callback:
        def build(self, wavefunction: Any) -> "Callback":
            return self

        def sample(self, wavefunction: Any, generator: torch.Generator) -> Samples:
            raise AssertionError("no step may be made")

    with pytest.raises(TypeError, match=r"Callback\) cannot be written to an archive: use dataclasses"):
        vmc(sampler=Callback()).run(2, archive=tmp_path / "run.h5", progress=False)
    assert list(tmp_path.iterdir()) == []


def test_resume_needs_nothing_of_the_first_run_but_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.h5"
    options: dict[str, Any] = {"temperature": 0.5, "annealing": 0.25, "seed": 9}
    first = VMC(
        SMALL, small_transformer(width=4, seed=3).build(SMALL.hilbert), unit="t",
        evaluation=ExhaustiveSampler(),
    ).run(3, archive=path, progress=False, **options)  # fmt: skip
    moved = tmp_path / "moved.h5"
    path.rename(moved)
    result = resume(str(moved), progress=False, exact=-3.0)
    assert result.estimate == first.estimate
    assert result.unit == "t"
    assert result.archive == moved
    assert result.exact == -3.0
