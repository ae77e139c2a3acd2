"""Kernels for short rows: where they are missing torch's serve, and on a GPU both agree."""

import sys
from collections.abc import Iterator

import pytest
import torch
from networks import small_transformer
from torch import nn

from nqs.hilbert import spins
from nqs.models import short_rows
from nqs.models.attention import CausalSelfAttention
from nqs.models.inference.cached_attention import CachedDotProduct
from nqs.models.normalisation import LayerNorm

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def unknown() -> Iterator[None]:
    """Nothing is known of kernels, before and after."""
    short_rows.kernels.cache_clear()
    yield
    short_rows.kernels.cache_clear()


def test_there_are_none_without_triton(unknown: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nqs.models.triton_kernels.HAS_TRITON", False)
    assert short_rows.kernels(CPU) is None


def test_there_are_none_without_a_compiler(unknown: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr("nqs.models.triton_kernels.HAS_TRITON", True)
    monkeypatch.setattr("nqs.models.triton_kernels.layer_norm", failing)
    assert short_rows.kernels(CPU) is None


def test_there_are_none_where_triton_cannot_be_imported(unknown: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "nqs.models.triton_kernels", raising=False)
    monkeypatch.delattr("nqs.models.triton_kernels", raising=False)
    monkeypatch.setitem(sys.modules, "nqs.models.triton_kernels", None)
    assert short_rows.kernels(CPU) is None


def test_a_cpu_needs_none() -> None:
    with torch.no_grad():
        assert short_rows.without_gradients(torch.ones(2, 2)) is None


# ------------------------------------------------------------------------------------------------------------- GPU

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@pytest.mark.gpu
@torch.no_grad()
@every_dtype
@pytest.mark.parametrize("shape", [(1, 16), (1000, 24), (7, 5, 3), (0, 16), (2**17, 32), (6, 1), (3, 200)], ids=str)
def test_norms_are_those_of_torch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    kernels, generator = short_rows.kernels(GPU), torch.Generator("cuda").manual_seed(1)
    assert kernels is not None
    x = 2 + 3 * torch.randn(shape, generator=generator, device="cuda", dtype=dtype)
    weight, bias = torch.randn((2, shape[-1]), generator=generator, device="cuda", dtype=dtype)
    wanted = nn.functional.layer_norm(x.double(), shape[-1:], weight.double(), bias.double(), 1e-5)
    found = kernels.layer_norm(x, weight, bias, 1e-5)
    torch.testing.assert_close(found.double(), wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    shift = torch.randn(shape[-1], generator=generator, device="cuda", dtype=dtype)
    shifted = x.clone()
    found_too = kernels.layer_norm(shifted, weight, bias, 1e-5, shift)
    torch.testing.assert_close(shifted, x + shift, rtol=0, atol=0)
    of_sum = kernels.layer_norm(x + shift, weight, bias, 1e-5)  # of another kernel, which may round otherwise
    torch.testing.assert_close(found_too, of_sum, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    if len(shape) == 3:  # not contiguous
        of_columns = kernels.layer_norm(x.transpose(0, 1), weight, bias, 1e-5)
        torch.testing.assert_close(of_columns, found.transpose(0, 1), rtol=0, atol=0)


@pytest.mark.gpu
@torch.no_grad()
@every_dtype
@pytest.mark.parametrize(("heads", "width"), [(2, 16), (1, 5), (4, 24)])
def test_attention_of_a_site_is_that_of_torch(
    heads: int, width: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    L, B, generator = 20, 300, torch.Generator("cuda").manual_seed(1)
    cached = CachedDotProduct(CausalSelfAttention(width, heads).to("cuda", dtype))
    inputs = torch.randn((L, B, width), generator=generator, device="cuda", dtype=dtype)
    found = []
    for kernels in (short_rows.kernels(GPU), None):
        assert kernels is not None or found
        monkeypatch.setattr(
            "nqs.models.inference.cached_attention.without_gradients", lambda x, kernels=kernels: kernels
        )
        storage = cached.storage(B + 3, L).zero_()  # with more rows than configurations
        outputs = [cached.step(x, storage, site) for site, x in enumerate(inputs)]
        found.append([*outputs, storage])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.gpu
def test_gradients_are_those_of_torch() -> None:
    layer = LayerNorm(16).to("cuda")
    x = torch.randn((5, 16), device="cuda", requires_grad=True)
    wanted = nn.functional.layer_norm(x, (16,), layer.weight, layer.bias, layer.eps)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), x) for y in (layer(x), wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@torch.no_grad()
@every_dtype
def test_a_state_is_the_same_with_and_without(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    name = str(dtype).removeprefix("torch.")
    model = small_transformer(layers=2, width=16, dtype=name).build(spins(10, 0), "cuda")
    n = model.hilbert.configurations().to("cuda")
    with_kernels = model.log_psi(n)
    monkeypatch.setattr(short_rows, "kernels", lambda device: None)
    for one, other in zip(with_kernels, model.log_psi(n), strict=True):
        torch.testing.assert_close(one, other, rtol=TOLERANCE[dtype], atol=10 * TOLERANCE[dtype])
