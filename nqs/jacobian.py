"""Per-configuration gradients of log psi, O_k(n) = d log psi(n) / d theta_k.

Two ways. Where the rows of every layer's input belong to the configurations one after another, as in the models of
nqs, one backward pass of the whole batch gives the gradients g with respect to the outputs of all layers, and the
gradient of a parameter for one configuration follows from g and the layer's input x: sum_t g_t x_t^T over its tokens t
for the weight of a linear layer (Goodfellow, arXiv:1510.01799). Log modulus and phase share the forward pass. Any other
module is differentiated with torch.func, which is slower.
"""

# Shapes: U configurations, T tokens of each (sites, times images of a symmetry), P parameters.
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nqs.chunks import in_pieces, rows_that_fit
from nqs.models.normalisation import LayerNorm, normalised
from nqs.protocols import Wavefunction

ACTIVATION_COPIES = 8  # memory of a configuration with gradients, in units of one without

Jacobian = tuple[Float[Tensor, "U P"], Tensor | None]


def jacobian(wavefunction: Wavefunction, n: UInt8[Tensor, "U L"]) -> Jacobian:
    """Gradients of the log modulus and of the phase for each configuration, in `wavefunction.gradient_dtype`.

    Parameters are flattened in the order of `wavefunction.parameters()`. The phase part is None where the
    wavefunction has no phase to learn.
    """
    gradients = by_layers if wavefunction.rowwise_layers and all_layers_known(wavefunction) else by_vmap
    n_parts = 2 if wavefunction.has_phase else 1
    rows = rows_that_fit(ACTIVATION_COPIES * wavefunction.bytes_per_configuration, n.device)
    parameters = {
        name: p.detach().to(wavefunction.gradient_dtype or p.dtype)
        for name, p in wavefunction.named_parameters()
        if p.requires_grad
    }
    n_parameters = sum(p.numel() for p in parameters.values())
    like = next(iter(parameters.values()))
    parts = [torch.empty((len(n), n_parameters), dtype=like.dtype, device=n.device) for _ in range(n_parts)]

    def fill(index: Tensor) -> None:
        first, last = int(index[0]), int(index[-1]) + 1
        gradients(wavefunction, parameters, n[first:last], [part[first:last] for part in parts])

    in_pieces(fill, torch.arange(len(n)), rows)
    return parts[0], parts[1] if wavefunction.has_phase else None


Parameters = dict[str, Tensor]  # the trainable ones by name, in the precision of the gradients


def by_vmap(wavefunction: Wavefunction, parameters: Parameters, n: UInt8[Tensor, "U L"], out: list[Tensor]) -> None:
    """Fills the gradients of the log modulus, and of the phase if wanted; for any module."""

    def value(parameters: Parameters, n: Tensor, part: int) -> Tensor:
        return functional_call(wavefunction, parameters, (n[None],))[part][0]

    for part, target in enumerate(out):
        # The fused attention kernels have no batching rule: under vmap they would fall back to a loop.
        with sdpa_kernel(SDPBackend.MATH):
            gradients = vmap(grad(value), in_dims=(None, 0, None))(parameters, n, part)
        torch.cat([gradients[name].flatten(1) for name in parameters], dim=1, out=target)


# --- layer by layer -------------------------------------------------------------------------------------------------


def linear_gradients(layer: nn.Module, x: Tensor, g: Float[Tensor, "U T out"]) -> Iterator[tuple[str, Tensor]]:
    x = x.reshape(*g.shape[:2], -1)  # (U, T, in)
    yield "weight", g.mT @ x
    yield "bias", g.sum(1)


def norm_gradients(layer: nn.Module, x: Tensor, g: Float[Tensor, "U T D"]) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(layer, nn.LayerNorm)
    yield "weight", (g * normalised(x, layer.eps).reshape(g.shape)).sum(1)
    yield "bias", g.sum(1)


def embedding_gradients(layer: nn.Module, x: Tensor, g: Float[Tensor, "U T D"]) -> Iterator[tuple[str, Tensor]]:
    assert isinstance(layer, nn.Embedding)
    U, (tokens, D) = len(g), layer.weight.shape
    row = (x.reshape(U, -1) + tokens * torch.arange(U, device=x.device)[:, None]).flatten()
    yield "weight", g.new_zeros((U * tokens, D)).index_add_(0, row, g.flatten(0, 1)).view(U, tokens, D)


GRADIENTS: dict[type[nn.Module], Callable[[nn.Module, Tensor, Tensor], Iterator[tuple[str, Tensor]]]] = {
    nn.Linear: linear_gradients,
    nn.LayerNorm: norm_gradients,
    LayerNorm: norm_gradients,
    nn.Embedding: embedding_gradients,
}


def all_layers_known(wavefunction: Wavefunction) -> bool:
    """Whether every trainable parameter belongs to a kind of layer whose gradient is known here in closed form."""
    return all(type(layer) in GRADIENTS and _plain(layer) for layer in _trainable_layers(wavefunction))


def _plain(layer: nn.Module) -> bool:
    """Without options of torch that change the gradient."""
    if isinstance(layer, nn.Embedding):
        return layer.padding_idx is None and layer.max_norm is None and not layer.scale_grad_by_freq
    return not isinstance(layer, nn.LayerNorm) or len(layer.normalized_shape) == 1


def _trainable_layers(wavefunction: Wavefunction) -> list[nn.Module]:
    return [m for m in wavefunction.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """A list that grows by (layer, input, output) at every call of one of the layers."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].detach(), output))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def by_layers(wavefunction: Wavefunction, parameters: Parameters, n: UInt8[Tensor, "U L"], out: list[Tensor]) -> None:
    """Fills the gradients of the log modulus, and of the phase if wanted; for wavefunctions with rowwise layers."""
    columns, start = {}, 0
    for parameter in wavefunction.parameters():
        if parameter.requires_grad:
            columns[parameter] = slice(start, start + parameter.numel())
            start += parameter.numel()
    with torch.enable_grad(), _recorded(_trainable_layers(wavefunction)) as calls:
        variables = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        totals = [part.sum() for part in functional_call(wavefunction, variables, (n,))]
    outputs = [output for _, _, output in calls]
    for part, target in enumerate(out):
        keep = part + 1 < len(out)
        gradients = torch.autograd.grad(totals[part], outputs, retain_graph=keep, materialize_grads=True)
        filled: set[nn.Parameter] = set()
        with torch.no_grad():
            for (layer, x, _), g in zip(calls, gradients, strict=True):
                tokens = g.reshape(len(n), -1, g.shape[-1])
                for name, gradient in GRADIENTS[type(layer)](layer, x, tokens):
                    parameter = getattr(layer, name)
                    if parameter is None or not parameter.requires_grad:
                        continue
                    column = target[:, columns[parameter]]
                    # A parameter may serve several layers, or a layer several times.
                    (column.add_ if parameter in filled else column.copy_)(gradient.flatten(1))
                    filled.add(parameter)
        for parameter in columns.keys() - filled:  # not called at all
            target[:, columns[parameter]] = 0.0
