"""Clipped local energies, a growing number of samples, and the control variate of the energy gradient."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs import VMC, Archive, RunConfig, exact, resume
from nqs.archive import FlushPolicy
from nqs.cli.commands.show import text
from nqs.estimators.energy import clipped, weighted_median
from nqs.estimators.local_energy import LocalEnergies, local_energies
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.optimisation import NaturalGradient, StepInfo, TorchOptimiser
from nqs.optimisation.jacobian import jacobian
from nqs.protocols import Sampler
from nqs.report.compare import compared
from nqs.report.page import html_report
from nqs.samplers import ExhaustiveSampler, GumbelSampler, TreeSampler
from nqs.samplers.tree import TreeSampling
from nqs.samples import Samples
from nqs.vmc.stages import with_share

H = BoseHubbard(chain(4), 4, U=4.0)  # 35 configurations
STEPS = 5


def vmc(sampler: Sampler | None = None, **options: Any) -> VMC:
    model = Transformer(H.hilbert, width=4, layers=1, heads=1, mlp_ratio=1)
    return VMC(H, model, sampler or TreeSampler(n_samples=200), evaluation=TreeSampler(n_samples=300), **options)


# -------------------------------------------------------------------------------------------------------- clipping


def test_weighted_median_is_that_of_repeated_values() -> None:
    rng = np.random.default_rng(0)
    values, counts = rng.standard_normal(9), rng.integers(1, 5, 9)
    repeated = np.sort(np.repeat(values, counts))
    expected = repeated[(len(repeated) - 1) // 2]
    found = weighted_median(torch.from_numpy(values), torch.from_numpy(counts / counts.sum()))
    assert found.item() == expected


def test_outliers_are_moved_to_so_many_median_deviations_in_their_direction() -> None:
    energies = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 30.0 + 40.0j, -100.0], dtype=torch.complex128)
    weights = torch.full((7,), 1 / 7, dtype=torch.float64)
    found, share = clipped(energies, weights, clip=5.0)  # around 0, median deviation 2
    expected = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0, 6.0 + 8.0j, -10.0], dtype=torch.complex128)
    torch.testing.assert_close(found, expected)
    assert share == pytest.approx(2 / 7)
    assert clipped(energies, weights, clip=100.0)[1] == 0
    assert torch.equal(clipped(energies, weights, clip=100.0)[0], energies)


def test_clipping_follows_the_weights_and_not_the_rows() -> None:
    energies = torch.tensor([0.0, 1.0, 9.0], dtype=torch.complex128)
    weights = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    moved, share = clipped(energies, weights, clip=1.0)  # around 1, median deviation 1
    torch.testing.assert_close(moved.real, torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    assert share == pytest.approx(0.4)


def test_nothing_is_clipped_where_one_configuration_has_half_of_the_weight() -> None:
    energies = torch.tensor([0.0, 5.0], dtype=torch.complex128)
    found, share = clipped(energies, torch.tensor([0.6, 0.4], dtype=torch.float64), clip=1.0)
    assert torch.equal(found, energies)
    assert share == 0


def test_only_the_optimiser_sees_clipped_energies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Energies, variances and the quoted energy are those of the unclipped local energies."""
    seen: list[tuple[Samples, Tensor]] = []
    step = NaturalGradient.step

    def recording(self: NaturalGradient, samples: Samples, local: LocalEnergies, *rest: Any) -> StepInfo:
        bare = local_energies(H, self.wavefunction, samples).values
        seen.append((samples, local.values))
        expected, share = clipped(bare, samples.weights, 1.5)
        torch.testing.assert_close(local.values, expected)
        shares.append(share)
        energies.append((samples.weights @ bare.real).item())
        return step(self, samples, local, *rest)

    shares: list[float] = []
    energies: list[float] = []
    monkeypatch.setattr(NaturalGradient, "step", recording)
    run = vmc(ExhaustiveSampler())
    run.evaluation = ExhaustiveSampler()
    result = run.run(STEPS, clip=1.5, progress=False)
    assert max(shares) > 0.01
    np.testing.assert_allclose(result.history["clipped"], shares)
    np.testing.assert_allclose(result.history["energy"], energies)
    means = [(samples.weights @ local.real).item() for samples, local in seen]
    assert means != pytest.approx(energies)
    log_modulus, phase = run.wavefunction.log_psi(H.hilbert.configurations())
    bare = torch.polar(log_modulus.exp(), phase).detach().numpy()
    assert result.estimate.energy == pytest.approx(np.vdot(bare, exact.sparse_matrix(H) @ bare).real, rel=1e-10)


def test_without_clipping_there_is_no_such_column() -> None:
    assert "clipped" not in vmc().run(1, progress=False).history


def test_the_share_that_was_clipped_is_shown(tmp_path: Path) -> None:
    vmc().run(2, clip=1.0, archive=tmp_path / "run.h5", progress=False)
    archive = Archive.open(tmp_path / "run.h5")
    share = archive.history["clipped"].mean()
    assert 0 < share < 1
    assert f"  clipped     {share:.2%} of the weight, on average over the steps, for the updates alone" in text(archive)
    page = html_report([archive], compared([archive], 0))
    assert f"{share:.2%}" in page
    assert "clipped for the updates" in page


# ---------------------------------------------------------------------------------------------------------- growth


def test_samples_grow_geometrically_to_all_of_them() -> None:
    run = RunConfig(steps=5, first_samples=0.0016)
    assert [run.share_of_samples(step) for step in range(5)] == pytest.approx([0.0016, 0.008, 0.04, 0.2, 1.0])
    assert RunConfig(steps=1, first_samples=0.5).share_of_samples(0) == 0.5
    assert [RunConfig(steps=3).share_of_samples(step) for step in range(3)] == [1.0, 1.0, 1.0]
    history = vmc(TreeSampler(n_samples=1000)).run(4, first_samples=0.008, progress=False).history
    assert history["samples"].tolist() == [8, 40, 200, 1000]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (TreeSampler(n_distinct=100, max_frontier=50), TreeSampler(n_distinct=25, max_frontier=50)),
        (TreeSampler(n_samples=100), TreeSampler(n_samples=25)),
        (GumbelSampler(n_distinct=1), GumbelSampler(n_distinct=1)),
    ],
)
def test_every_sampler_with_a_size_can_start_small(sampler: Sampler, expected: Sampler) -> None:
    assert with_share(sampler, 0.25) == expected


def test_a_sum_over_the_sector_cannot_grow(tmp_path: Path) -> None:
    archive = tmp_path / "run.h5"
    with pytest.raises(
        ValueError, match=r"first_samples=0\.1, but ExhaustiveSampler has no number of samples that could"
    ):
        vmc(ExhaustiveSampler()).run(STEPS, first_samples=0.1, archive=archive, progress=False)
    assert not archive.exists()


# ------------------------------------------------------------------------------------------------- both, and errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, r"clip=0\.0: it must be a positive number of deviations, or None"),
        ({"clip": float("inf")}, "clip=inf: it must be a positive number"),
        ({"first_samples": 0.0}, r"first_samples=0\.0: give the share of the samples, above 0 and at most 1"),
        ({"first_samples": 1.5}, r"first_samples=1\.5: give the share"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(steps=3, **options)


@pytest.mark.parametrize("stop", [1, 3])
def test_runs_with_both_resume_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    options: dict[str, Any] = {"clip": 2.0, "first_samples": 0.1, "progress": False, "flush": FlushPolicy(share=1.0)}
    whole = vmc().run(STEPS, archive=tmp_path / "whole.h5", **options)
    sample, calls = TreeSampling.sample, iter(range(100))

    def interrupted(*arguments: Any) -> Samples:
        if next(calls) == stop:
            raise KeyboardInterrupt
        return sample(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TreeSampling, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            vmc().run(STEPS, archive=tmp_path / "stopped.h5", **options)
    assert Archive.open(tmp_path / "stopped.h5").step == stop
    continued = resume(tmp_path / "stopped.h5", progress=False)
    assert continued.estimate == whole.estimate
    for name in whole.history.keys() - {"seconds", "archive_seconds"}:
        np.testing.assert_array_equal(continued.history[name], whole.history[name], err_msg=name)
    one, other = (Archive.open(tmp_path / f"{name}.h5").parameters() for name in ("whole", "stopped"))
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values)


# ------------------------------------------------------------------------------------------------ control variate


def test_subtracting_the_energy_lowers_the_variance_of_the_gradient_and_leaves_its_mean() -> None:
    """Close to the ground state, where local energies are nearly equal; the bare estimator is 2 <E_loc O>."""
    model = Transformer(H.hilbert, width=8, layers=1, heads=2, phase="zero")
    VMC(H, model, ExhaustiveSampler()).run(30, progress=False)
    start = parameters_to_vector(model.parameters()).detach().clone()
    generator = torch.Generator().manual_seed(0)

    def gradient(samples: Samples, subtracted: bool) -> Tensor:
        local = local_energies(H, model, samples)
        if not subtracted:
            return 2 * (samples.weights * local.values.real) @ jacobian(model, samples.configurations)[0]
        sgd = TorchOptimiser(name="SGD", learning_rate=1.0, final_learning_rate=1.0)
        sgd.build(model).step(samples, local, 0.0)
        change = start - parameters_to_vector(model.parameters()).detach()
        vector_to_parameters(start.clone(), model.parameters())
        return change

    every = ExhaustiveSampler().build(model).sample(generator)
    torch.testing.assert_close(gradient(every, True), gradient(every, False))  # <O> = 0
    bare, corrected = [], []
    for _ in range(20):
        samples = TreeSampler(n_samples=100).build(model).sample(generator)
        bare.append(gradient(samples, False))
        corrected.append(gradient(samples, True))
    assert torch.stack(corrected).var(0).sum() < 0.1 * torch.stack(bare).var(0).sum()
