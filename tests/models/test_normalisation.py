"""The layer norm of GPUs, made of plain operations, against that of torch."""

import pytest
import torch
from networks import small_transformer
from torch import nn

from nqs.hilbert import bosons
from nqs.models.normalisation import LayerNorm, normalised
from nqs.optimisation.jacobian import jacobian


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nqs.models.normalisation.fused_is_fast", lambda x: False)


@pytest.mark.parametrize("shape", [(3,), (5, 8), (2, 7, 16), (0, 4)])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
def test_values_and_gradients_are_those_of_torch(shape: tuple[int, ...], scale: float, plain: None) -> None:
    generator = torch.Generator().manual_seed(1)
    x = scale * torch.randn(shape, generator=generator, dtype=torch.float64) + 3 * scale
    ours, theirs = LayerNorm(shape[-1]).double(), nn.LayerNorm(shape[-1]).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    theirs.load_state_dict(ours.state_dict())
    downstream = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = []
    for layer in (ours, theirs):
        variable = x.clone().requires_grad_()
        y = layer(variable)
        gradients = torch.autograd.grad((downstream * y).sum(), [variable, *layer.parameters()])
        found.append([y.detach(), *gradients])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * max(1.0, 1 / scale))
    torch.testing.assert_close(normalised(x, 1e-5), nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5))


def test_equal_inputs_stay_finite(plain: None) -> None:
    x = torch.full((2, 4), 7.0, dtype=torch.float64, requires_grad=True)
    normalised(x, 1e-5).sum().backward()
    assert x.grad is not None
    assert not x.grad.isnan().any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_model_and_its_gradients_are_the_same(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    space = bosons(4, 4)
    model = small_transformer(layers=2, dtype=dtype).build(space)
    n = space.configurations()
    found = []
    for fused in (True, False):
        monkeypatch.setattr("nqs.models.normalisation.fused_is_fast", lambda x, fused=fused: fused)
        with torch.no_grad():
            found.append([*model.log_psi(n), *jacobian(model, n)])
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
