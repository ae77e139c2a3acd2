"""Conjugate gradients on kernels of sampled steps: iterations with and without their two refinements, and seconds.

    python scripts/solver_study.py                                        three problems, about three minutes of a core
    python scripts/solver_study.py --problems heisenberg-6x6 --steps 0    a network before its first step

After some steps with the recipes' transformer and optimiser a larger batch is drawn, and its linear system solved with
the matrix and by conjugate gradients to a relative residual. A line for each diagonal shift: iterations of
nqs.optimisation.conjugate_gradient, which keeps residuals orthogonal, with the diagonal as a preconditioner besides,
and of both without orthogonal residuals (">" where --most were not enough); the relative difference of the updates of
the first from those with the matrix, and seconds of both ways, the matrix included.
"""

import time
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.cli.options import command_line
from nqs.estimators.local_energy import local_energies
from nqs.optimisation.kernel import DenseJacobian, centred_jacobian
from nqs.optimisation.solve import linear_system
from nqs.optimisation.solver import SOLVER, Solver
from nqs.optimisation.targets import residual
from nqs.recipes import NetworkOptions, plan
from nqs.samplers import TreeSampler
from nqs.scripts.ablation.problems import PROBLEMS

FEWER = 4  # times as many configurations in the system as in the steps before


@dataclass(frozen=True, kw_only=True)
class Config:
    problems: tuple[str, ...] = ("heisenberg-6x6", "bose-hubbard-4x4", "hubbard-3x4")
    distinct: int = 800  # configurations of the system
    steps: int = 30
    shifts: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    tolerance: float = SOLVER.tolerance
    most: int = 4000  # iterations


def system_of(problem: str, config: Config) -> tuple[DenseJacobian, Float64[Tensor, " R"]]:
    """Rows X and residual e of a step."""
    chosen = PROBLEMS[problem]
    hamiltonian = chosen.hamiltonian(chosen.lattice)
    found = plan(hamiltonian, model=NetworkOptions(network="transformer"), sampled=True, device="cpu", threads=1)
    psi = found.model.build(hamiltonian.hilbert).for_steps()
    optimiser, scale = found.stages[-1].optimiser.build(psi), hamiltonian.hilbert.n_sites
    generator = torch.Generator().manual_seed(0)
    sampler = TreeSampler(n_distinct=max(1, config.distinct // FEWER)).build(psi)
    for _ in range(config.steps):
        samples = sampler.sample(generator)
        optimiser.step(samples, local_energies(hamiltonian, psi, samples).in_units_of(scale), 0.3)
    samples = TreeSampler(n_distinct=config.distinct).build(psi).sample(generator)
    local = local_energies(hamiltonian, psi, samples).in_units_of(scale)
    X = centred_jacobian(psi, samples, samples.weights.sqrt(), memory=2**40)
    assert isinstance(X, DenseJacobian)
    return X, residual(samples.weights, local.values - samples.mean(local.values.real), X.shape[0])


def iterations(
    A: Float64[Tensor, "n n"], b: Float64[Tensor, " n"], config: Config, *, orthogonal: bool, diagonal: bool
) -> str:
    """Of textbook conjugate gradients with a matrix, preconditioned with its diagonal or not."""
    root = A.diagonal().rsqrt() if diagonal else torch.ones_like(b)  # of the preconditioner
    A = root[:, None] * A * root  # the same iteration as that with the preconditioner
    r, basis = root * b, []
    p = r.clone()
    for k in range(1, config.most + 1):
        basis.append(r / r.norm())
        Ap, square = A @ p, r @ r
        r = r - square / (p @ Ap) * Ap
        if orthogonal:
            before = torch.stack(basis)
            for _ in range(2):
                r = r - before.T @ (before @ r)
        if (r / root).norm() <= config.tolerance * b.norm():
            return f"{k:,}"
        p = r + r @ r / square * p
    return f">{config.most:,}"


def main(config: Config) -> None:
    kinds = ((True, True), (False, False), (False, True))
    print(
        "                                          iterations, orthogonal      without            relative    seconds"
    )
    print(
        "problem             rows  parameters  shift    plain  diagonal    plain  diagonal    difference  matrix    CG"
    )
    for problem in config.problems:
        X, e = system_of(problem, config)
        lower = X.gram().tril()
        K = lower + lower.tril(-1).T
        for shift in config.shifts:
            A = K + shift * K.trace() / min(X.shape) * torch.eye(len(K), dtype=K.dtype)
            counts = [iterations(A, e, config, orthogonal=one, diagonal=two) for one, two in kinds]
            begin = time.perf_counter()
            dense = linear_system(X, "samples").solve(e, shift).update
            middle = time.perf_counter()
            solver = Solver(dense_rows=0, tolerance=config.tolerance, iterations=config.most)
            found = linear_system(X, "samples", solver).solve(e, shift)
            end = time.perf_counter()
            difference = ((found.update - dense).norm() / dense.norm()).item()
            print(
                f"{problem:18} {X.shape[0]:5,} {X.shape[1]:11,}  {shift:5.0e} "
                f"{found.iterations:8,} {counts[0]:>9} {counts[1]:>8} {counts[2]:>9} {difference:13.0e} "
                f"{middle - begin:7.2f} {end - middle:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    command_line(main, Config, __doc__)
