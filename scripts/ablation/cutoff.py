"""Largest occupation of a site: what a cutoff does to the ground state, and what a trained model puts into high states.

Bosons on a ring of six sites. Exact: the energy with the cutoff above that without one, and the weight of the ground
state without a cutoff on configurations beyond it. Trained: a transformer with the cutoff, from samples; its energy
above the exact one with the same cutoff, and the weight on configurations with the largest occupation n_max; both exact
and trained.
"""

import torch

from nqs import exact, recipes
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.models import TransformerConfig
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.scripts.ablation.jobs import Column, Job, Row
from nqs.vmc.loop import VMC

SITES, STEPS, SAMPLES = 6, 60, 1_000
CUTOFFS = {f"n_max={n}": n for n in (2, 3, 4, 6)}
PROBLEMS = {f"U={U}": float(U) for U in (1, 4, 16)}
COLUMNS = (
    Column("cut", "exact: energy above no cutoff"),
    Column("beyond", "exact: weight beyond"),
    Column("error", "trained: relative error"),
    Column("highest", "exact: weight of n_max", ".1e"),
    Column("placed", "trained: weight of n_max", ".1e"),
)


def hamiltonian(U: float, n_max: int) -> BoseHubbard:
    return BoseHubbard(chain(SITES), SITES, U=U, n_max=n_max)


def run(job: Job) -> Row:
    U, n_max = PROBLEMS[job.problem], CUTOFFS[job.variant]
    free, cut = hamiltonian(U, SITES), hamiltonian(U, n_max)
    of_free, of_cut = exact.ground_state(free), exact.ground_state(cut)
    beyond = (free.hilbert.configurations() > n_max).any(1)
    weight = torch.from_numpy(of_free.state).abs().square().double()
    psi = TransformerConfig(width=16, layers=2, heads=4, mlp_ratio=2, phase="zero", seed=job.seed).build(cut.hilbert)
    run = VMC(cut, psi, TreeSampler(n_samples=SAMPLES), recipes.optimiser(exact=False), ExhaustiveSampler())
    result = run.run(STEPS, seed=job.seed, progress=False)
    n = cut.hilbert.configurations()
    highest = (n == n_max).any(1)
    exactly = torch.from_numpy(of_cut.state).abs().square().double()[highest].sum().item()
    with torch.no_grad():
        found = (2 * psi.log_psi(n[highest]).log_modulus).exp().sum().item()
    return {
        "cut": (of_cut.energy - of_free.energy) / abs(of_free.energy),
        "beyond": weight[beyond].sum().item(),
        "error": (result.estimate.energy - of_cut.energy) / abs(of_cut.energy),
        "highest": exactly,
        "placed": found,
    }
