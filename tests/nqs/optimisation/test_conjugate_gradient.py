"""Linear systems without their matrix: against the dense solution, and what a run says where they do not converge."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_transformer
from optimisers import exact_steps, natural_gradient
from torch.nn.utils import parameters_to_vector
from variants import variant

from nqs import VMC, Archive
from nqs.cli import main
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import TV, BoseHubbard, Heisenberg, Ising
from nqs.lattice import chain
from nqs.models import OnOrbits, Symmetrised
from nqs.optimisation import StochasticReconfiguration, kernel
from nqs.optimisation.conjugate_gradient import conjugate_gradient
from nqs.optimisation.kernel import DenseJacobian
from nqs.optimisation.solve import linear_system
from nqs.optimisation.solver import Solver
from nqs.report.summary import of_conjugate_gradient
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry import symmetries_of

TOY = small_transformer(seed=1)
POSITIVE = replace(TOY, phase="zero")
NARROW = replace(POSITIVE, width=4, heads=1, mlp_ratio=1)
ISING = Ising(chain(8), h=1.0)
PROBLEMS: dict[str, tuple[Any, Any, int]] = {
    "bosons": (BoseHubbard(chain(5), 5, U=8.0), POSITIVE, 20),
    "spins": (Heisenberg(chain(8), 0.0), POSITIVE, 20),
    "fermions, complex phase": (TV(chain(8), 4, V=2.0, twist=(0.4,)), TOY, 12),
    "average over a symmetry": (ISING, Symmetrised(base=NARROW, symmetry=symmetries_of(ISING)), 20),
    "orbits of a symmetry": (ISING, OnOrbits(base=POSITIVE, symmetry=symmetries_of(ISING)), 20),
}
without_matrix = {"dense_rows": 0, "solver_tolerance": 1e-12}


def rows(n_rows: int, n_parameters: int, decades: float) -> torch.Tensor:
    """Rows with singular values over so many decades."""
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(n_rows, n_parameters, generator=generator, dtype=torch.float64)
    U, S, V = torch.linalg.svd(X, full_matrices=False)
    return U * torch.logspace(0, -decades, len(S), dtype=torch.float64) @ V


@pytest.mark.parametrize("shape", [(7, 30), (30, 7), (12, 12), (1, 5), (150, 200)])
@pytest.mark.parametrize("shift", [1e-1, 1e-4, 1e-7])
@pytest.mark.parametrize("space", ["auto", "samples", "parameters"])
def test_solution_is_that_of_the_matrix(shape: tuple[int, int], shift: float, space: str) -> None:
    X = rows(*shape, decades=4.0)
    e = torch.randn(shape[0], generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = X.numpy()
    s = shift * (x**2).sum() / min(shape)
    wanted = np.linalg.solve(x.T @ x + s * np.eye(shape[1]), x.T @ e.numpy())
    found = linear_system(DenseJacobian(X), space, Solver(dense_rows=0, tolerance=1e-13)).solve(e, shift)
    assert found.converged
    assert np.linalg.norm(found.update.numpy() - wanted) < 1e-8 * np.linalg.norm(wanted)


def test_iterations_end_with_the_dimension() -> None:
    """As without rounding: 150 eigenvalues over eight decades, of which conjugate gradients alone lose count."""
    X = DenseJacobian(rows(150, 200, decades=4.0))
    e = torch.randn(150, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = linear_system(X, solver=Solver(dense_rows=0, tolerance=1e-10)).solve(e, 1e-7)
    assert found.iterations is not None
    assert found.iterations <= 151


@pytest.mark.parametrize("in_samples", [True, False])
def test_right_hand_sides_that_are_zero_or_not_finite(in_samples: bool) -> None:
    X = DenseJacobian(rows(5, 5, decades=1.0))
    options: dict[str, Any] = {"in_samples": in_samples, "tolerance": 1e-8, "iterations": 50}
    shift, b = torch.tensor(0.1, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    assert conjugate_gradient(X, b, shift, **options) == (pytest.approx(0.0), 0, 0.0)
    for number in (torch.inf, torch.nan):
        b[2] = number
        found = conjugate_gradient(X, b, shift, **options)
        assert found.x.isnan().all()
        assert not found.residual <= 1e-8


# ------------------------------------------------------------------------------------------------------------- steps


def updates(problem: str, config: StochasticReconfiguration, steps: int = 2) -> list[torch.Tensor]:
    """Changes of the parameters in some steps, with momentum or second moments as the optimiser has them."""
    hamiltonian, model, distinct = PROBLEMS[problem]
    psi = model.build(hamiltonian.hilbert)
    optimiser, generator = config.build(psi), torch.Generator().manual_seed(0)
    found = []
    for _ in range(steps):
        sampler = ExhaustiveSampler() if problem.startswith("orbits") else TreeSampler(n_distinct=distinct)
        samples = sampler.build(psi).sample(generator)
        before = parameters_to_vector(psi.parameters()).detach().clone()
        info = optimiser.step(samples, local_energies(hamiltonian, psi, samples), 0.0)
        assert (info.cg_converged is True) == (config.dense_rows == 0)
        found.append(parameters_to_vector(psi.parameters()).detach() - before)
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"space": "parameters"},
        {"momentum": 0.9},
        {"momentum": 0.9, "memory": 2e-5},
        {"momentum": 0.5, "second_moments": 0.9, "memory": 2e-5},
    ],
    ids=str,
)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.usefixtures("unchecked")
def test_steps_are_those_with_the_matrix(
    problem: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = variant(diagonal_shift=1e-2, **options)
    wanted = updates(problem, config)
    for kind in (kernel.DenseJacobian, kernel.StreamedJacobian):
        for name in ("gram", "metric"):
            monkeypatch.delattr(kind, name)
    found = updates(problem, replace(config, **without_matrix))
    for one, other in zip(found, wanted, strict=True):
        assert (one - other).norm() < 1e-7 * other.norm()


def test_default_tolerance_follows_the_matrix() -> None:
    config = variant(diagonal_shift=1e-3, space="samples")
    for one, other in zip(updates("bosons", replace(config, dense_rows=0)), updates("bosons", config), strict=True):
        assert (one - other).norm() < 1e-6 * other.norm()


def test_exact_steps() -> None:
    """Gain ratio and adaptive shift need no matrix."""
    found = []
    hamiltonian = PROBLEMS["bosons"][0]
    for options in ({}, without_matrix):
        config = exact_steps(diagonal_shift=1e-2, final_diagonal_shift=1e-3, **options)
        vmc = VMC(hamiltonian, POSITIVE.build(hamiltonian.hilbert), ExhaustiveSampler(), config)
        result = vmc.run(6, progress=False)
        assert ("cg_iterations" in result.history) == bool(options)
        found.append(result.history["energy"])
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


# ------------------------------------------------------------------------------------------------------------ record


@pytest.mark.parametrize(("iterations", "missed"), [(1000, 0), (3, 5)])
def test_the_record_says_what_did_not_converge(
    iterations: int, missed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hamiltonian, model, distinct = PROBLEMS["spins"]
    config = natural_gradient(dense_rows=0, solver_iterations=iterations)
    vmc = VMC(hamiltonian, model.build(hamiltonian.hilbert), TreeSampler(n_distinct=distinct), config)
    path = tmp_path / "run.h5"
    history = vmc.run(5, archive=path, progress=False).history
    assert history["cg_unconverged"].sum() == missed
    assert (history["cg_residual"] > 1e-8).sum() == missed
    assert (history["cg_iterations"] <= iterations).all()
    main(["show", str(path)])
    shown = capsys.readouterr().out
    assert "5 steps by conjugate gradients" in shown
    assert ("NOT CONVERGED in 5 of them: relative residuals up to" in shown) == bool(missed)
    assert ("all within the tolerance" in shown) == (not missed)
    if missed:
        main(["report", str(path), "-o", str(tmp_path / "page.html"), "--exact-limit", "10"])
        assert "NOT CONVERGED in 5 of them" in (tmp_path / "page.html").read_text()
    assert Archive.open(path).config["optimiser"]["dense_rows"] == 0


def test_runs_with_the_matrix_say_nothing() -> None:
    assert of_conjugate_gradient({"energy": np.zeros(3)}) is None
    nan = np.full(2, np.nan)
    assert of_conjugate_gradient(dict.fromkeys(("cg_iterations", "cg_residual", "cg_unconverged"), nan)) is None
