"""Toy runs of all kinds, for one rank or several (test_ranks.py); prints what they give as a line of JSON.

python tests/shared/ranks_cases.py [NAME ...]     in the environment of torchrun
"""

import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from chains import GRADIENT, TRAINING
from networks import small_rbm, small_transformer
from optimisers import exact_steps, first_order, natural_gradient
from torch.nn.utils import parameters_to_vector
from variants import variant

from nqs import VMC, exact
from nqs.hamiltonians import TV, BoseHubbard, FermiHubbard, Heisenberg, Ising
from nqs.lattice import chain, square
from nqs.models import OnOrbits, Symmetrised
from nqs.optimisation.cholesky import cholesky, split_factor
from nqs.pretraining import VectorTarget, fit
from nqs.runtime import ranks
from nqs.runtime.distributed import Communicator, communicator
from nqs.samplers import (
    CoverageSampler,
    ExhaustiveSampler,
    GumbelSampler,
    ImportanceSampler,
    IndependenceSampler,
    MetropolisSampler,
    NormConstrainedSampler,
    Proposal,
    QuestSampler,
    SequentialSampler,
    TreeSampler,
)
from nqs.samplers.cuda_graph import padded_draw
from nqs.samplers.moves import LocalMoves
from nqs.samplers.padded_decoding import PaddedDecoding
from nqs.symmetry import symmetries_of

STEPS = 10
TOY = small_transformer()
POSITIVE = replace(TOY, phase="zero")
# Shifts with which differences in rounding do not grow from step to step.
NATURAL = natural_gradient(diagonal_shift=1e-2, final_diagonal_shift=1e-2)
CASES: dict[str, Callable[[], Any]] = {}

Record = dict[str, Any]


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    CASES[function.__name__] = function
    return function


def run(hamiltonian: Any, model: Any, sampler: Any, optimiser: Any = NATURAL, **options: Any) -> Record:
    """Some steps, and a draw of the last state."""
    psi = model.build(hamiltonian.hilbert)
    if options.pop("rows_alone", False):
        psi.rowwise_layers = False  # as of a module whose layers are not known
    vmc = VMC(hamiltonian, psi, sampler, optimiser, evaluation=options.pop("evaluation", sampler), **options)
    result = vmc.run(STEPS, progress=False)
    samples = sampler.build(vmc.of_steps).sample(torch.Generator().manual_seed(7))
    numbers = samples.weights if samples.counts is None else samples.counts
    return {
        "energies": result.history["energy"].tolist(),
        "distinct": result.history["distinct"].tolist(),
        "estimate": [result.estimate.energy, result.estimate.error, result.estimate.variance],
        "parameters": parameters_to_vector(psi.parameters()).double().tolist(),
        "samples": hashlib.sha256(samples.configurations.numpy().tobytes()).hexdigest(),
        "weights": numbers.tolist(),
    }


@case
def bosons() -> Record:
    """Tree with n_distinct, cut frontier, phase head."""
    return run(BoseHubbard(chain(6), 6, U=8.0), TOY, TreeSampler(n_distinct=70, groups=8, max_frontier=32))


@case
def spins() -> Record:
    """Tree with n_samples, momentum, second moments."""
    optimiser = replace(NATURAL, momentum=0.9, second_moments=0.9)
    return run(Heisenberg(chain(10), 0.0), POSITIVE, TreeSampler(n_samples=1000, groups=8), optimiser)


@case
def fermions() -> Record:
    """Complex elements, a phase to learn; kernel streamed by layers."""
    optimiser = replace(NATURAL, memory=7e-5)
    return run(TV(chain(8), 4, V=2.0, twist=(0.4,)), TOY, TreeSampler(n_distinct=12, groups=8), optimiser)


@case
def electrons_without_replacement() -> Record:
    hamiltonian = FermiHubbard(square(2, 3, "open"), 2, 2, U=8.0)
    return run(hamiltonian, TOY, GumbelSampler(n_distinct=61, groups=8))


@case
def averaged() -> Record:
    """Average over a symmetry, in steps over the whole group; metric in parameter space."""
    hamiltonian = Ising(chain(8), h=1.0)
    model = Symmetrised(base=replace(POSITIVE, width=4, heads=1, mlp_ratio=1), symmetry=symmetries_of(hamiltonian))
    optimiser = variant(diagonal_shift=1e-2, final_diagonal_shift=1e-2, space="parameters")
    return run(hamiltonian, model, TreeSampler(n_samples=500, groups=8), optimiser)


@case
def on_orbits() -> Record:
    """Exact steps, sums over all orbits."""
    hamiltonian = BoseHubbard(chain(5), 5, U=4.0)
    model = OnOrbits(base=POSITIVE, symmetry=symmetries_of(hamiltonian))
    optimiser = exact_steps(diagonal_shift=1e-2, final_diagonal_shift=1e-2)
    return run(hamiltonian, model, ExhaustiveSampler(), optimiser)


@case
def padded() -> Record:
    """Shapes that CUDA graphs need, of electrons with a phase, without a graph."""
    model = TOY.build(FermiHubbard(chain(5), 2, 2, U=1.0).hilbert)
    decoding = PaddedDecoding(model, 90, communicator(), deal_at=2)
    with torch.no_grad():
        leaves = padded_draw(decoding, torch.tensor([400]), torch.Generator().manual_seed(1))
    number = int(leaves.number)
    assert int(leaves.most) <= decoding.share
    return {
        "energies": leaves.log_p[:number].tolist(),
        "distinct": leaves.sizes.tolist(),
        "parameters": leaves.phase[:number].tolist(),
        "samples": hashlib.sha256(leaves.tokens[:number].numpy().tobytes()).hexdigest(),
        "weights": leaves.counts[:number].tolist(),
    }


@case
def conjugate_gradients() -> Record:
    """The linear system without its matrix; bosons with momentum, rows in memory."""
    optimiser = replace(NATURAL, momentum=0.9, dense_rows=0, solver_tolerance=1e-5)
    sampler = TreeSampler(n_distinct=14, groups=8)
    return run(BoseHubbard(chain(6), 6, U=8.0), POSITIVE, sampler, optimiser)


@case
def conjugate_gradients_streamed() -> Record:
    """Complex elements, a phase to learn; rows computed for each product; solutions of a few iterations."""
    optimiser = replace(NATURAL, memory=2e-5, dense_rows=0, solver_iterations=4)
    return run(TV(chain(6), 3, V=2.0, twist=(0.4,)), TOY, TreeSampler(n_distinct=6, groups=8), optimiser)


@case
def one_configuration() -> Record:
    """Ranks without any work."""
    return run(Heisenberg(chain(6), 0.0), POSITIVE, TreeSampler(n_samples=2, groups=2))


@case
def chains() -> Record:
    """Metropolis of a network whose layers are not known, its Jacobian streamed by rows."""
    optimiser = replace(NATURAL, memory=4.4e-5)
    sampler = MetropolisSampler(n_samples=24, n_chains=12, powers=(1.0, 0.5), n_discarded=2)
    return run(Ising(chain(8), h=1.0), small_rbm(), sampler, optimiser, rows_alone=True)


@dataclass(frozen=True)
class WalkersTogether:
    """Moves that do not say that walkers are independent: all ranks move all of them."""

    def build(self, hilbert: Any, device: torch.device) -> Any:
        proposer = LocalMoves().build(hilbert, device)
        return lambda n, generator: proposer(n, generator)


@case
def messages_of_chains() -> Record:
    """A draw of four rounds: ranks bring the amplitudes of the start, and the walkers of each round, together."""
    psi, generator = small_rbm().build(Ising(chain(8), h=1.0).hilbert), torch.Generator().manual_seed(3)
    sampler = MetropolisSampler(n_samples=40, n_chains=10, powers=(1.0, 0.6, 0.3), n_discarded=2).build(psi)
    sampler.sample(generator)
    with patch.object(Communicator, "gather_padded", autospec=True, side_effect=Communicator.gather_padded) as sent:
        samples = sampler.sample(generator)
    assert sent.call_count <= 1 + 4
    of_others = [
        MetropolisSampler(n_samples=8, n_chains=2, n_discarded=2),  # fewer chains than ranks
        MetropolisSampler(n_samples=12, n_chains=6, n_discarded=2, moves=(WalkersTogether(),)),
    ]
    others = [config.build(psi).sample(generator).log_modulus for config in of_others]
    return {
        "energies": [sampler.acceptance, *samples.log_modulus.tolist(), *torch.cat(others).tolist()],
        "distinct": [samples.n_distinct],
        "parameters": samples.phase.tolist(),
        "samples": hashlib.sha256(samples.configurations.numpy().tobytes()).hexdigest(),
        "weights": samples.weights.tolist(),
    }


@case
def gradient_chains() -> Record:
    sampler = NormConstrainedSampler(n_samples=32, n_chains=16, n_tries=2, n_discarded=10, **GRADIENT)
    return run(Ising(chain(6), h=1.0), small_rbm(), sampler)


@case
def independence() -> Record:
    """Independence Metropolis with a trained proposal."""
    proposal = Proposal(model=replace(POSITIVE, width=4, heads=1), **(TRAINING | {"n_first": 3}))
    sampler = IndependenceSampler(n_samples=40, n_chains=20, proposal=proposal, n_discarded=6)
    return run(Heisenberg(chain(8), 0.0), POSITIVE, sampler)


@case
def quest() -> Record:
    return run(Heisenberg(chain(8), 0.0), POSITIVE, QuestSampler(n_samples=67, n_chains=67, n_discarded=12))


@case
def importance() -> Record:
    sampler = ImportanceSampler(n_samples=200, n_batches=8, proposal=Proposal(power=0.7))
    return run(Heisenberg(chain(8), 0.0), POSITIVE, sampler)


@case
def sequential() -> Record:
    """Particles of several islands, resampled; psi and the proposal are decoded side by side."""
    proposal = Proposal(model=replace(POSITIVE, width=4, heads=1), power=0.7, **(TRAINING | {"n_first": 3}))
    sampler = SequentialSampler(n_samples=198, n_batches=8, n_islands=9, resample_below=0.9, proposal=proposal)
    return run(Heisenberg(chain(8), 0.0), POSITIVE, sampler)


@case
def covered() -> Record:
    sampler = CoverageSampler(n_distinct=50, groups=8)
    return run(Heisenberg(chain(10), 0.0), POSITIVE, sampler, first_order(name="AdamW"))


@case
def excited() -> Record:
    """Penalties on a known state."""
    hamiltonian = Heisenberg(chain(6), 0.0)
    below = POSITIVE.build(hamiltonian.hilbert)
    return run(hamiltonian, TOY, TreeSampler(n_samples=500, groups=4), orthogonal_to=[below])


@case
def fitted() -> Record:
    hamiltonian = Heisenberg(chain(8), 0.0)
    psi = TOY.build(hamiltonian.hilbert)
    target = VectorTarget(hamiltonian.hilbert, exact.ground_state(hamiltonian).state)
    sampler = TreeSampler(n_samples=200, groups=8)
    found = fit(psi, target, steps=STEPS, sampler=sampler, optimiser=NATURAL, progress=False)
    return {
        "energies": found.history["loss"].tolist(),
        "parameters": parameters_to_vector(psi.parameters()).double().tolist(),
    }


@case
def factor() -> Record:
    """Cholesky factor by blocks of columns, of a positive definite matrix and of another one."""
    x = torch.randn((50, 60), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix, ranks = x @ x.T, communicator()
    if ranks.size == 1:
        found = torch.linalg.cholesky(matrix)
    else:
        found = split_factor(matrix.tril(), ranks, block=7).tril()
        assert torch.equal(cholesky(matrix, least_rows=1)[0].tril(), torch.linalg.cholesky(matrix))  # one block
        matrix[30, 30] = -1.0
        assert cholesky(matrix, least_rows=1)[1]
        assert not split_factor(matrix, ranks, block=7).diagonal().isfinite().all()
    return {"energies": found.diagonal()[:STEPS].tolist(), "parameters": found.flatten().tolist()}


def main(names: Sequence[str] = ()) -> None:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    ranks.start("cpu")
    found = {name: CASES[name]() for name in names or CASES}
    all_parameters = torch.tensor([x for one in found.values() for x in one["parameters"]])
    of_first = all_parameters.clone()
    communicator().from_first(of_first)
    assert torch.equal(all_parameters, of_first), "the parameters of the ranks differ"
    if communicator().is_first:
        print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
