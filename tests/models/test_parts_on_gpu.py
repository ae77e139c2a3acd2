"""Parts of composed wavefunctions on a GPU: run where there is one, `pytest -m gpu`."""

import pytest
import torch

from nqs.hilbert import bosons
from nqs.models.parts import (
    Attention,
    ByPosition,
    ComposedConfig,
    Deembedding,
    GlobalEmbedding,
    GridPositions,
    Groups,
    LastPhase,
    LatentConfig,
    LinearRecurrence,
    LogitPhase,
    MaskedMLP,
    NoPositions,
    OneHot,
    Ordinal,
    Recurrence,
    Retention,
    RotaryAttention,
    SignPhase,
    Sinusoidal,
    WholePhase,
)
from nqs.optimisation.jacobian import jacobian
from nqs.samplers import TreeSampler

pytestmark = pytest.mark.gpu

PARTS = [
    ComposedConfig(mixer=ByPosition(), patch=2, tokens=OneHot()),
    ComposedConfig(mixer=Retention(), tokens=Groups(), positions=Sinusoidal(), deembedding=Deembedding(per_site=True)),
    ComposedConfig(mixer=LinearRecurrence(), positions=NoPositions(), phase=LogitPhase(), whole=GlobalEmbedding()),
    ComposedConfig(mixer=Recurrence(grid=True), shape=(2, 3), tokens=Ordinal(), positions=GridPositions()),
    ComposedConfig(mixer=RotaryAttention(), phase=WholePhase(), deembedding=Deembedding(pooled=True)),
    ComposedConfig(mixer=MaskedMLP(), phase=SignPhase()),
    ComposedConfig(mixer=Attention(), phase=LastPhase()),
    LatentConfig(latents=3),
]


@pytest.mark.parametrize("config", PARTS, ids=lambda config: type(getattr(config, "mixer", config)).__name__)
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
