"""Parts of composed wavefunctions on a GPU: run where there is one, `pytest -m gpu`."""

import pytest
import torch
from parts_lists import on_gpu

from nqs.hamiltonians import BoseHubbard, Family
from nqs.hilbert import bosons
from nqs.lattice import chain
from nqs.models.parts import Attention, ComposedConfig, FamilyConfig, LatentConfig
from nqs.optimisation.jacobian import jacobian
from nqs.samplers import TreeSampler

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(
    "config", on_gpu(bosons(6, 6)), ids=lambda config: type(getattr(config, "mixer", config)).__name__
)
def test_parts_agree_with_the_cpu_whole_and_site_by_site(config: ComposedConfig | LatentConfig) -> None:
    hilbert = bosons(6, 6)
    n = hilbert.configurations()
    on_cpu, on_gpu = config.build(hilbert), config.build(hilbert, "cuda")
    for found, expected in zip(on_gpu.log_psi(n.cuda()), on_cpu.log_psi(n), strict=True):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-10, atol=1e-10)
    samples = TreeSampler(n_samples=1000, use_cuda_graph=False).build(on_gpu).sample(torch.Generator("cuda"))
    log_modulus = on_cpu.log_psi(samples.configurations.cpu()).log_modulus
    torch.testing.assert_close(samples.log_modulus.cpu(), log_modulus, rtol=1e-10, atol=1e-10)
    for found, expected in zip(jacobian(on_gpu, n[:9].cuda()), jacobian(on_cpu, n[:9]), strict=True):
        assert found is not None
        assert expected is not None
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_families_agree_with_the_cpu() -> None:
    members = tuple(BoseHubbard(chain(4), 4, U=U) for U in (1.0, 4.0))
    hilbert = Family(members).hilbert
    component = ComposedConfig(width=8, mixer=Attention(heads=2))
    config = FamilyConfig(component=component, sector=members[0].hilbert, couplings=((1.0,), (4.0,)))
    n = hilbert.configurations()
    for found, expected in zip(
        config.build(hilbert, "cuda").log_psi(n.cuda()), config.build(hilbert).log_psi(n), strict=True
    ):
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-10, atol=1e-10)
