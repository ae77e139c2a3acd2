"""The weighted, centred Jacobian streamed through memory against the whole matrix, in every precision."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from held import Held
from layers import Layers
from networks import small_transformer
from optimisers import natural_gradient
from variants import variant

from nqs.estimators.local_energy import local_energies
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import bosons
from nqs.lattice import chain
from nqs.models import Symmetrised
from nqs.optimisation import kernel as tangents
from nqs.optimisation.jacobian import combined, directional, jacobian
from nqs.optimisation.kernel import DenseJacobian, StreamedJacobian, add_gram, centred_jacobian
from nqs.protocols import Wavefunction
from nqs.runtime.memory import free_memory
from nqs.samplers import ExhaustiveSampler
from nqs.samples import Samples
from nqs.symmetry import symmetries_of

H = BoseHubbard(chain(4), 3, U=2.0)
every_phase = pytest.mark.parametrize("phase", ["learned", "zero"])


def models(phase: str) -> dict[str, Wavefunction]:
    config = small_transformer(width=4, layers=2, phase=phase, seed=3)
    frozen = config.build(H.hilbert)
    frozen.blocks[0].requires_grad_(False)
    classes = tuple(map(tuple, H.lattice.displacements().tolist()))
    factored = replace(config, attention="factored", displacements=classes)
    func = config.build(H.hilbert)
    func.rowwise_layers = False  # differentiated with torch.func
    return {
        "transformer": config.build(H.hilbert),
        "symmetric": Symmetrised(base=config, symmetry=symmetries_of(H)).build(H.hilbert),
        "partly frozen": frozen,
        "factored": Symmetrised(base=factored, symmetry=symmetries_of(H)).build(H.hilbert),
        "torch.func": func,
    }


def some_samples(model: Wavefunction) -> Samples:
    """All configurations with weights of their own, as no state needs to have them."""
    n = model.hilbert.configurations()
    generator = torch.Generator().manual_seed(5)
    weights = torch.rand(len(n), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        log_modulus, phase = model.log_psi(n)
    return Samples(configurations=n, weights=weights / weights.sum(), log_modulus=log_modulus, phase=phase)


def check(model: Wavefunction, memory: int, *, metric: bool = False) -> None:
    samples = some_samples(model)
    generator = torch.Generator().manual_seed(3)
    factor = torch.rand(samples.n_distinct, generator=generator, dtype=torch.float64)
    factor[2], samples.weights[2] = 0.0, 0.0
    dense, columns = centred_jacobian(model, samples, factor), None
    assert isinstance(dense, DenseJacobian)
    if metric:  # a factor of each column
        columns = torch.rand(dense.shape[1], generator=generator, dtype=torch.float64)
        dense = DenseJacobian(dense.X * columns)
        assert centred_jacobian(model, samples, factor, columns=columns).X.equal(dense.X)
    streamed = StreamedJacobian(model, samples, factor, memory, columns=columns)
    assert streamed.shape == dense.shape
    for found, wanted in ((streamed.gram(), dense.gram()), (streamed.metric(), dense.metric())):
        torch.testing.assert_close(found.tril(), wanted.tril())
    for X in (dense, streamed):
        torch.testing.assert_close(X.squared_norm(), dense.X.square().sum())
    R, P = dense.shape
    v, y = (torch.randn(k, generator=generator, dtype=torch.float64) for k in (P, R))
    torch.testing.assert_close(streamed.matvec(v), dense.matvec(v))
    torch.testing.assert_close(streamed.rmatvec(y), dense.rmatvec(y))


@every_phase
@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("memory", [100_000, 2**30])
@pytest.mark.parametrize("name", ["transformer", "symmetric", "partly frozen", "factored"])
def test_streamed_rows_are_those_in_memory(name: str, phase: str, memory: int, *, metric: bool) -> None:
    check(models(phase)[name], memory, metric=metric)


@every_phase
@pytest.mark.parametrize("metric", [False, True])
def test_streamed_rows_of_other_modules(phase: str, *, metric: bool) -> None:
    check(models(phase)["torch.func"], 100_000, metric=metric)


@pytest.mark.parametrize("metric", [False, True])
@pytest.mark.parametrize("memory", [1, 10_000])
def test_layers_that_are_shared_tied_unused_or_frozen(memory: int, *, metric: bool) -> None:
    check(Layers(bosons(3, 3)), memory, metric=metric)


@every_phase
def test_products_with_vectors_are_those_of_the_jacobian(phase: str) -> None:
    model = models(phase)["transformer"]
    n = model.hilbert.configurations()
    gradients = torch.stack([O for O in jacobian(model, n) if O is not None])  # (parts, U, P)
    generator = torch.Generator().manual_seed(3)
    v = torch.randn(gradients.shape[2], generator=generator, dtype=torch.float64)
    c = torch.randn(gradients.shape[:2], generator=generator, dtype=torch.float64)
    torch.testing.assert_close(directional(model, n, v), gradients @ v)
    torch.testing.assert_close(combined(model, n, c), torch.einsum("qu,quk->k", c, gradients))
    assert all(p.grad is None for p in model.parameters())


@every_phase
def test_memory_decides_whether_rows_are_streamed(phase: str) -> None:
    model = models(phase)["transformer"]
    samples = some_samples(model)
    factor = torch.ones(samples.n_distinct, dtype=torch.float64)
    R, P = centred_jacobian(model, samples, factor).shape
    assert isinstance(centred_jacobian(model, samples, factor, 8 * R * P), DenseJacobian)
    streamed = centred_jacobian(model, samples, factor, 8 * R * P - 1)
    assert isinstance(streamed, StreamedJacobian)
    assert len(list(streamed.row_blocks())) > 1


@every_phase
def test_each_gradient_is_made_once_and_memory_is_bounded(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models(phase)["transformer"]
    samples = some_samples(model)
    U, evaluated, forward = samples.n_distinct, [], model.forward

    def counted(n: torch.Tensor) -> Any:
        evaluated.append(len(n))
        return forward(n)

    for memory in (100_000, 10**9):
        streamed = StreamedJacobian(model, samples, torch.ones(U, dtype=torch.float64), memory)
        groups = streamed.groups()
        for group in groups:
            assert (
                sum(call.nbytes for call in streamed._collected(group)) <= streamed.memory_for_calls or len(group) == 1
            )
        assert sum(block.shape[1] for block in streamed.column_blocks()) == streamed.shape[1]
        monkeypatch.setattr(model, "forward", counted)
        evaluated.clear()
        streamed.gram()
        monkeypatch.undo()
        assert sum(evaluated) == len(groups) * U
        assert (len(groups) > 1) == (memory < 10**9)


def test_bytes_are_counted_while_tensors_exist() -> None:
    with Held() as held:
        a = torch.zeros(1000, dtype=torch.float64)
        view = a[:500]
        b = view + 1
        del a, b
        assert held.now == 8000
        del view
    assert (held.now, held.peak) == (0, 12_000)


@pytest.mark.usefixtures("unchecked")  # for speed
@every_phase
@pytest.mark.parametrize("memory", [2**23, 2**25])
def test_no_more_memory_is_held_than_allowed(phase: str, memory: int) -> None:
    model = small_transformer(width=16, layers=4, phase=phase).build(bosons(8, 3))
    samples = some_samples(model)
    streamed = StreamedJacobian(model, samples, samples.weights.sqrt(), memory)
    R = streamed.shape[0]
    with Held() as held:
        streamed.gram()
    matrix = 8 * R**2 + 8 * R * (R // 8)  # and the product of a block of rows
    assert held.peak - matrix <= memory
    assert held.peak - matrix >= min(memory, 2**24) // 2
    assert (len(streamed.groups()) > 1) == (memory < 2**24)


@every_phase
@pytest.mark.parametrize("sites", [1, 6])
def test_kept_is_the_smaller_of_factors_and_gradients(sites: int, phase: str) -> None:
    """Few tokens: less than the weights that they give a gradient to."""
    model = small_transformer(phase=phase).build(bosons(sites, 2))
    samples = some_samples(model)
    streamed = StreamedJacobian(model, samples, samples.weights.sqrt(), 10**9)
    found = set()
    for one in streamed.calls_of_one:
        factors = one.x.nbytes + sum(g.nbytes for g in one.gradients)
        gradients = 8 * streamed.parts * sum(p.numel() for p in one.layer.parameters())
        kept = tangents.layer_factors(one)
        assert kept.nbytes == min(factors, gradients)
        assert bool(kept.names) == (gradients < factors)
        found.add(bool(kept.names))
    assert found == {True, False}


@pytest.mark.parametrize("dtype", ["float64", "float32", "mixed"])
@pytest.mark.parametrize("precision", ["float64", "float32", "tf32"])
def test_streamed_steps_are_those_in_memory_in_every_precision(dtype: str, precision: str) -> None:
    def step(precision: str, memory: float | None) -> torch.Tensor:
        model = small_transformer(seed=2, dtype=dtype).build(H.hilbert)
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().double()
        samples = ExhaustiveSampler().build(model).sample(torch.Generator())
        local = local_energies(H, model, samples)
        optimiser = variant(
            diagonal_shift=1e-3, momentum=0.5, precision=precision, memory=memory, space="samples"
        ).build(model)
        optimiser.step(samples, local, 0.0)
        return torch.nn.utils.parameters_to_vector(model.parameters()).detach().double() - before

    exact, whole, streamed = step("float64", None), step(precision, None), step(precision, 1e-4)
    tolerance = 1e-9 if dtype == precision == "float64" else 1e-2
    for other in (whole, streamed):
        assert (other - exact).norm() <= tolerance * exact.norm()


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("precision", ["float64", "float32", "tf32"])
def test_gram_adds_up_in_float64(rows: int, precision: str) -> None:
    dtype = torch.float64 if precision == "float64" else torch.float32
    A = torch.randn(rows, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    gram = torch.ones((rows, rows), dtype=torch.float64)
    before = torch.get_float32_matmul_precision()
    add_gram(gram, A, precision)
    assert torch.get_float32_matmul_precision() == before
    wanted = 1 + A.double() @ A.double().T
    tolerance = 1e-13 if precision == "float64" else 1e-5
    torch.testing.assert_close(gram.tril(), wanted.tril(), rtol=tolerance, atol=tolerance)


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-5), ("float32", 1e-5), ("tf32", 2e-3)])
def test_precision_of_the_kernel_on_a_gpu(precision: str, tolerance: float) -> None:
    h = BoseHubbard(chain(6), 6, U=4.0)
    found = []
    for device, dtype in (("cpu", "float64"), ("cuda", "float32")):
        model = small_transformer(width=32, layers=2, heads=4, dtype=dtype).build(h.hilbert, device)
        samples = ExhaustiveSampler().build(model).sample(torch.Generator(device))
        streamed = StreamedJacobian(
            model, samples, samples.weights.sqrt(), 2**24, precision if device == "cuda" else "float64"
        )
        found.append(streamed.gram().tril().cpu())
    exact, rounded = found
    size = exact.diagonal().sqrt()
    assert ((rounded - exact).abs() / (size[:, None] * size)).max() < tolerance
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.gpu
@every_phase
@pytest.mark.parametrize("precision", ["float64", "tf32"])
def test_no_more_memory_of_a_gpu_is_held_than_allowed(precision: str, phase: str) -> None:
    model = small_transformer(width=64, layers=4, heads=4, phase=phase, dtype="mixed").build(bosons(8, 4), "cuda")
    samples = ExhaustiveSampler().build(model).sample(torch.Generator("cuda"))
    memory, blocks = 2**26, 4 if precision == "tf32" else 8
    streamed = StreamedJacobian(model, samples, samples.weights.sqrt(), memory, precision)
    R = streamed.shape[0]
    for _ in range(2):  # at first with the work space of torch's libraries
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        streamed.gram()
    matrix = 8 * R**2 + 8 * R * (R // blocks + 1)
    assert torch.cuda.max_memory_allocated() - before - matrix <= memory
    assert len(streamed.groups()) > 1


@pytest.mark.gpu
def test_memory_that_torch_holds_without_use_counts_as_free() -> None:
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    before = free_memory(device)
    x = torch.empty(2**30, dtype=torch.uint8, device=device)
    assert free_memory(device) <= before - 2**29
    del x
    assert free_memory(device) >= before - 2**29


@pytest.mark.usefixtures("unchecked")
def test_unknown_precision_or_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"precision='bfloat16'.*'tf32'"):
        natural_gradient(precision="bfloat16")
    with pytest.raises(ValueError, match="memory=0: it must be a positive number"):
        natural_gradient(memory=0)
