"""Per-configuration gradients against one backward pass per configuration and against closed forms."""

import pytest
import torch
from layers import Layers
from torch import nn

import nqs.runtime.memory
from nqs.hamiltonians import BoseHubbard
from nqs.hilbert import HilbertSpace, bosons, spinful_fermions, spins
from nqs.lattice import chain
from nqs.models import Transformer
from nqs.optimisation.jacobian import all_layers_known, jacobian
from nqs.protocols import LogPsi, Wavefunction

SECTORS = {
    "bosons": bosons(4, 3),
    "grand-canonical": bosons(3, n_max=2),
    "spinful fermions": spinful_fermions(3, 2, 1),
    "spins": spins(4, 0),
    "one configuration": bosons(3, 0),
}
every_sector = pytest.mark.parametrize("hilbert", SECTORS.values(), ids=SECTORS)


def transformer(hilbert: HilbertSpace, **options: int | str) -> Transformer:
    return Transformer(hilbert, width=4, layers=2, heads=2, mlp_ratio=1, seed=3, **options)


def one_by_one(wavefunction: Wavefunction, n: torch.Tensor, part: str) -> torch.Tensor:
    """A backward pass for every configuration, in the order of parameters()."""
    parameters = [p for p in wavefunction.parameters() if p.requires_grad]
    rows = []
    for row in n:
        value = getattr(wavefunction.log_psi(row[None]), part)[0]
        gradients = torch.autograd.grad(value, parameters, materialize_grads=True)
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    return torch.stack(rows)


class Exponential(Wavefunction):
    """psi = exp(f . a + i f . b) / norm with occupations f: log psi has the gradient f - <f>, and f for the phase."""

    has_phase = True

    def __init__(self, hilbert: HilbertSpace) -> None:
        super().__init__()
        self.hilbert = hilbert
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.randn(hilbert.n_sites, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(hilbert.n_sites, generator=generator, dtype=torch.float64))
        self.all = hilbert.configurations().double()

    def log_psi(self, n: torch.Tensor) -> LogPsi:
        f = n.double()
        return LogPsi(f @ self.a - (2 * self.all @ self.a).logsumexp(0) / 2, f @ self.b)

    @property
    def bytes_per_configuration(self) -> int:
        return 8 * self.hilbert.n_sites


@every_sector
def test_both_parts_against_a_backward_pass_per_configuration(hilbert: HilbertSpace) -> None:
    model = transformer(hilbert)
    n = hilbert.configurations()
    log_modulus, phase = jacobian(model, n)
    assert log_modulus.shape == phase.shape == (len(n), sum(p.numel() for p in model.parameters()))
    torch.testing.assert_close(log_modulus, one_by_one(model, n, "log_modulus"), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(phase, one_by_one(model, n, "phase"), rtol=1e-11, atol=1e-13)


def test_closed_form_of_an_exponential_state() -> None:
    state = Exponential(bosons(3, 4))
    n = state.hilbert.configurations()
    f = n.double()
    p = (2 * state.log_psi(n).log_modulus).exp().detach()
    assert p.sum().item() == pytest.approx(1.0)
    log_modulus, phase = jacobian(state, n)
    nothing = torch.zeros_like(f)
    torch.testing.assert_close(log_modulus, torch.cat([f - p @ f, nothing], dim=1))
    torch.testing.assert_close(phase, torch.cat([nothing, f], dim=1))


def test_normalised_states_have_gradients_of_zero_mean() -> None:
    """<d log |psi|> = 0, because the norm does not depend on the parameters."""
    model = transformer(bosons(4, 3))
    n = model.hilbert.configurations()
    with torch.no_grad():
        p = (2 * model.log_psi(n).log_modulus).exp()
    assert (p @ jacobian(model, n)[0]).abs().max() < 1e-12


def test_no_phase_part_without_a_phase() -> None:
    model = transformer(bosons(4, 3), phase="zero")
    n = model.hilbert.configurations()
    log_modulus, phase = jacobian(model, n)
    assert phase is None
    torch.testing.assert_close(log_modulus, one_by_one(model, n, "log_modulus"), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("budget", [1, 100_000])
def test_chunks_do_not_change_the_result(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(bosons(4, 3))
    n = model.hilbert.configurations()
    whole = jacobian(model, n)
    monkeypatch.setattr(nqs.runtime.memory, "CPU_BYTES", budget)
    for pieces, reference in zip(jacobian(model, n), whole, strict=True):
        torch.testing.assert_close(pieces, reference, rtol=1e-11, atol=1e-13)


def test_rows_follow_the_configurations() -> None:
    model = transformer(bosons(4, 3))
    n = model.hilbert.configurations()
    index = torch.tensor([7, 7, 0, 19])
    for some, every in zip(jacobian(model, n[index]), jacobian(model, n), strict=True):
        torch.testing.assert_close(some, every[index], rtol=1e-11, atol=1e-13)


def test_frozen_parameters_are_left_out() -> None:
    model = transformer(bosons(4, 3))
    n = model.hilbert.configurations()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    log_modulus, phase = jacobian(model, n)
    assert log_modulus.shape[1] == sum(p.numel() for p in model.head.parameters())
    torch.testing.assert_close(log_modulus, one_by_one(model, n, "log_modulus"), rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(phase, one_by_one(model, n, "phase"), rtol=1e-11, atol=1e-13)


def test_single_precision_stays_single_and_close() -> None:
    hilbert = bosons(4, 3)
    single, double = transformer(hilbert, dtype="float32"), transformer(hilbert)
    double.load_state_dict(single.state_dict())  # copied into float64
    n = hilbert.configurations()
    for low, high in zip(jacobian(single, n), jacobian(double, n), strict=True):
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), high, rtol=1e-3, atol=1e-5)


def test_the_wavefunction_is_left_alone() -> None:
    h = BoseHubbard(chain(3), 2, U=1.0)
    model = transformer(h.hilbert)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = jacobian(model, h.hilbert.configurations())
    assert not any(part.requires_grad for part in parts)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# --------------------------------------------------------------------------------------------- layer by layer


@every_sector
@pytest.mark.parametrize("phase", ["learned", "zero"])
@pytest.mark.parametrize("attention", ["dot-product", "factored"])
def test_layer_by_layer_and_torch_func_agree(hilbert: HilbertSpace, phase: str, attention: str) -> None:
    model = transformer(hilbert, phase=phase, attention=attention)
    assert model.rowwise_layers
    assert all_layers_known(model)
    with torch.no_grad():  # as the optimisers call it
        layered = jacobian(model, hilbert.configurations())
    assert not layered[0].requires_grad
    model.rowwise_layers = False
    general = jacobian(model, hilbert.configurations())
    for one, other in zip(layered, general, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_layers_that_are_shared_tied_unused_or_frozen() -> None:
    model = Layers(bosons(3, 3))
    n = model.hilbert.configurations()
    assert all_layers_known(model)
    found = jacobian(model, n)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for part, name in zip(found, ("log_modulus", "phase"), strict=True):
        rows = []
        for row in n:
            value = getattr(model.log_psi(row[None]), name)[0]
            gradients = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        torch.testing.assert_close(part, torch.stack(rows), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "extra", [nn.PReLU(), nn.Bilinear(3, 3, 3), nn.LayerNorm((3, 3)), nn.Embedding(4, 3, padding_idx=0)], ids=str
)
def test_other_layers_are_left_to_torch_func(extra: nn.Module) -> None:
    assert not all_layers_known(Layers(bosons(3, 3), extra))


def test_unknown_layers_have_gradients_too() -> None:
    model = Layers(bosons(3, 3), nn.PReLU())
    model.unused.requires_grad_(False)  # torch.func wants every parameter to be used
    n = model.hilbert.configurations()
    log_modulus, phase = jacobian(model, n)
    torch.testing.assert_close(log_modulus, one_by_one(model, n, "log_modulus"), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(phase, one_by_one(model, n, "phase"), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rowwise", [True, False])
def test_mixed_precision_rounds_the_gradients_alone(rowwise: bool) -> None:
    exact, mixed = transformer(bosons(4, 3)), transformer(bosons(4, 3), dtype="mixed")
    exact.rowwise_layers = mixed.rowwise_layers = rowwise
    n = exact.hilbert.configurations()
    assert mixed.log_psi(n).log_modulus.equal(exact.log_psi(n).log_modulus)
    for rounded, reference in zip(jacobian(mixed, n), jacobian(exact, n), strict=True):
        assert rounded.dtype == torch.float32
        torch.testing.assert_close(rounded.double(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rowwise", [True, False])
def test_mixed_precision_rounds_frozen_parameters_too(rowwise: bool) -> None:
    exact, mixed = transformer(bosons(4, 3)), transformer(bosons(4, 3), dtype="mixed")
    for model in (exact, mixed):
        model.token.requires_grad_(False)
        model.rowwise_layers = rowwise
    n = exact.hilbert.configurations()
    for rounded, reference in zip(jacobian(mixed, n), jacobian(exact, n), strict=True):
        torch.testing.assert_close(rounded.double(), reference, rtol=1e-4, atol=1e-5)


def test_lack_of_memory_halves_the_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(bosons(4, 3))
    n = model.hilbert.configurations()
    whole, forward = jacobian(model, n), model.forward

    def limited(n: torch.Tensor) -> LogPsi:
        if len(n) > 6:
            raise torch.OutOfMemoryError("too large")
        return forward(n)

    monkeypatch.setattr(model, "forward", limited)
    for pieces, reference in zip(jacobian(model, n), whole, strict=True):
        torch.testing.assert_close(pieces, reference, rtol=1e-11, atol=1e-13)
