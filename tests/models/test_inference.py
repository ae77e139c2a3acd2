"""What is computed without gradients: faster ways, the same numbers, and the same samples from the same seed."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from nqs.amplitudes.prefixes import common_prefix
from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard, FermiHubbard, Heisenberg
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.models.inference import decoder
from nqs.models.inference import kernels as inference
from nqs.models.inference.causal_products import causal_attention, head_by_head
from nqs.models.inference.dense import DenseDecoder
from nqs.models.inference.kernels import gelu, softmax_
from nqs.protocols import Hamiltonian
from nqs.samplers import GumbelSampler, TreeSampler
from nqs.samples import Samples

every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


@every_dtype
@pytest.mark.parametrize("K", [9, inference.LONG_ROW])
def test_softmax_is_that_of_torch(K: int, dtype: torch.dtype) -> None:
    x = 30 * torch.randn((7, 3, K), dtype=dtype, generator=torch.Generator().manual_seed(0))
    x[0, 0, 2:5] = -torch.inf
    x[1] -= 1e4
    expected = x.softmax(-1)
    torch.testing.assert_close(softmax_(x), expected)


@every_dtype
def test_gelu_is_that_of_torch(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-12, 12, 1001, dtype=dtype), torch.tensor([-1e9, -50, 0, 50, 1e9], dtype=dtype)])
    before = x.clone()
    torch.testing.assert_close(gelu(x), torch.nn.functional.gelu(x, approximate="tanh"))
    assert torch.equal(x, before)


@every_dtype
@pytest.mark.parametrize(("T", "S"), [(1, 5), (3, 5), (5, 5), (35, 70), (70, 70)])
def test_attention_of_the_last_sites_is_that_of_torch(T: int, S: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((6, S, 4), dtype=dtype, generator=generator) for _ in range(3))
    expected = scaled_dot_product_attention(q, k, v, is_causal=True)[:, -T:]
    heads = 2

    def by_head(x: torch.Tensor) -> torch.Tensor:
        """(3 configurations x 2 heads, sites, E) as (3, sites, 2 E)."""
        return x.view(3, heads, -1, 4).transpose(1, 2).flatten(2)

    keys_values = torch.cat([by_head(k), by_head(v)], dim=2)
    for attention in (causal_attention, head_by_head):
        torch.testing.assert_close(attention(by_head(q[:, -T:]), keys_values, heads), by_head(expected))


SYSTEMS: dict[str, Hamiltonian] = {
    "spins": Heisenberg(chain(10)),
    "spins in a sector": Heisenberg(chain(12), 0.0),
    "electrons": FermiHubbard(chain(5), 2, 3, U=4.0),
    "bosons": BoseHubbard(chain(5), 4, U=2.0, n_max=3),
    "bosons on a site of many states": BoseHubbard(chain(6), 6, U=2.0),
}
every_system = pytest.mark.parametrize("h", SYSTEMS.values(), ids=SYSTEMS)
every_size = pytest.mark.parametrize(
    "size", [{"layers": 1, "heads": 1}, {"layers": 2, "heads": 2}], ids=["one layer", "two"]
)


def lively(h: Hamiltonian, size: dict[str, int], attention: str = "dot-product", phase: str = "learned") -> Transformer:
    model = Transformer(h.hilbert, width=8, seed=5, attention=attention, phase=phase, **size)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return model


def assert_same(one: Samples, other: Samples) -> None:
    assert torch.equal(one.configurations, other.configurations)
    for name in ("weights", "log_modulus", "phase"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-11, atol=1e-11)


@every_system
@every_size
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
def test_tables_of_the_first_block_change_nothing(
    h: Hamiltonian, size: dict[str, int], attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lively(h, size, attention)
    sampler = TreeSampler(n_samples=400)
    samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    energies = local_energies(h, model, samples).values
    assert (model.start(1).first is not None) == (h.hilbert.local_dim <= 4)
    monkeypatch.setattr(model.decoder, "first_tables", lambda: None)
    assert_same(sampler.build(model).sample(torch.Generator().manual_seed(0)), samples)
    torch.testing.assert_close(local_energies(h, model, samples).values, energies, rtol=1e-11, atol=1e-11)


def test_tables_serve_drawing_without_replacement(monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(SYSTEMS["electrons"], {"layers": 2, "heads": 2})
    sampler = GumbelSampler(n_distinct=40)
    samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    monkeypatch.setattr(decoder, "MAX_LOCAL_STATES", 0)
    assert model.start(1).first is None
    assert_same(sampler.build(model).sample(torch.Generator().manual_seed(0)), samples)


@every_system
@every_size
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
@pytest.mark.parametrize("phase", ["learned", "zero"])
def test_the_cached_decoder_is_the_dense_one(
    h: Hamiltonian, size: dict[str, int], attention: str, phase: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conditionals at every site, samples from the same seed, and amplitudes; the dense one against whole rows, too."""
    model = lively(h, size, attention, phase)
    dense = DenseDecoder(model)
    n = h.hilbert.random(30, torch.Generator().manual_seed(2))
    whole = model.conditionals(n)
    states = [way.start(len(n)) for way in (dense, model.decoder)]
    for site in range(h.hilbert.n_sites):
        tokens = n[:, site - 1] if site else None
        found = []
        for i, way in enumerate((dense, model.decoder)):
            step, states[i] = way.step(tokens, states[i])
            found.append(step)
        for naive, cached, expected in zip(*found, whole, strict=True):
            torch.testing.assert_close(naive, expected[:, site], rtol=1e-11, atol=1e-11)
            torch.testing.assert_close(cached, naive, rtol=1e-11, atol=1e-11)
    for sampler in (TreeSampler(n_samples=60), GumbelSampler(n_distinct=10)):
        samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
        energies = local_energies(h, model, samples).values
        with monkeypatch.context() as patched:
            patched.setattr(model, "decoder", dense)
            assert_same(sampler.build(model).sample(torch.Generator().manual_seed(0)), samples)
            torch.testing.assert_close(local_energies(h, model, samples).values, energies, rtol=1e-10, atol=1e-10)


@every_system
def test_work_in_parts_changes_nothing(h: Hamiltonian, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively(h, {"layers": 2, "heads": 2})
    sampler = TreeSampler(n_samples=300)
    samples = sampler.build(model).sample(torch.Generator().manual_seed(0))
    energies = local_energies(h, model, samples).values
    monkeypatch.setattr(inference, "TOKENS", 11)
    assert_same(sampler.build(model).sample(torch.Generator().manual_seed(0)), samples)
    torch.testing.assert_close(local_energies(h, model, samples).values, energies, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("system", ["spins", "spins in a sector"])
def test_prefix_lengths_rounded_as_on_a_gpu_change_nothing(system: str) -> None:
    """Sites that are computed again although they are there."""
    h = SYSTEMS[system]
    model = lively(h, {"layers": 2, "heads": 2})
    n = h.hilbert.configurations()[::7][:90]
    shared = torch.nn.functional.pad(common_prefix(n[1:], n[:-1]), (1, 0))
    exact = model.log_psi(n)
    for length in (shared, shared // 2 * 2, shared // 3 * 3):
        for one, other in zip(model.log_psi_in_order(n, length), exact, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_a_determined_last_site_is_not_evaluated() -> None:
    """Unless it has a phase."""
    h = SYSTEMS["spins in a sector"]
    assert h.hilbert.last_is_determined
    assert not SYSTEMS["spins"].hilbert.last_is_determined
    for phase, evaluated in (("zero", 11), ("learned", 12)):
        model = Transformer(h.hilbert, width=8, heads=2, phase=phase)
        sites = []
        model.norm.register_forward_hook(lambda module, inputs, output, sites=sites: sites.append(len(output)))
        TreeSampler(n_samples=10).build(model).sample(torch.Generator().manual_seed(0))
        assert len(sites) == evaluated
