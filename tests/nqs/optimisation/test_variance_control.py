"""The control variate of the energy gradient."""

import torch
from networks import small_transformer
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nqs import VMC
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard
from nqs.lattice import chain
from nqs.optimisation import TorchOptimiser
from nqs.optimisation.jacobian import jacobian
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.samples import Samples

H = BoseHubbard(chain(4), 4, U=4.0)  # 35 configurations


def test_subtracting_the_energy_lowers_the_variance_of_the_gradient_and_leaves_its_mean() -> None:
    """Close to the ground state, where local energies are nearly equal; the bare estimator is 2 <E_loc O>."""
    model = small_transformer(phase="zero").build(H.hilbert)
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
