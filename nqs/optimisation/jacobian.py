"""Per-configuration gradients of log psi, O_k(n) = d log psi(n) / d theta_k, and their products with vectors.

Two methods. If the input rows of every layer belong to the configurations in order, as in the models of nqs, one
backward pass of the whole batch gives the gradients g of the outputs of all layers, and the gradient of a parameter for
one configuration follows from g and the layer's input x: sum_t g_t x_t^T over its tokens t
for the weight of a linear layer (Goodfellow, arXiv:1510.01799). Log modulus and phase share the forward pass. Other
modules are differentiated with torch.func, which is slower.
"""

# Shapes: U configurations, T tokens of each (sites, times images of a symmetry), P parameters, parts: log modulus, and
# phase if there is one to learn.
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Num, UInt8
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nqs.protocols import Wavefunction
from nqs.runtime.memory import in_chunks, max_chunk_rows

ACTIVATION_COPIES = 8  # memory per configuration with gradients relative to that without

Jacobian = tuple[Float[Tensor, "U P"], Tensor | None]


def jacobian(wavefunction: Wavefunction, n: UInt8[Tensor, "U L"]) -> Jacobian:
    """Gradients of the log modulus and of the phase for each configuration, in `wavefunction.gradient_dtype`.

    Parameters are flattened in the order of `wavefunction.parameters()`. The phase part is None if the
    wavefunction has no phase with a gradient.
    """
    ones = torch.ones(len(n), dtype=torch.float64, device=n.device)
    parts = scaled_jacobian(wavefunction, n, ones).unbind()
    return parts[0], parts[1] if len(parts) == 2 else None


def scaled_jacobian(
    wavefunction: Wavefunction, n: UInt8[Tensor, "U L"], factor: Float64[Tensor, " U"]
) -> Float[Tensor, "parts U P"]:
    """factor(n) O_k(n), of the log modulus and of the phase if it is learned."""
    gradients = by_layers if has_known_layers(wavefunction) else by_vmap
    parameters = rounded_parameters(wavefunction)
    n_parameters = sum(p.numel() for p in parameters.values())
    like = next(iter(parameters.values()))
    parts = torch.empty((n_parts(wavefunction), len(n), n_parameters), dtype=like.dtype, device=n.device)

    def fill(index: Tensor) -> None:
        rows = slice(int(index[0]), int(index[-1]) + 1)
        gradients(wavefunction, parameters, n[rows], factor[rows], list(parts[:, rows]))

    in_chunks(fill, torch.arange(len(n)), rows_with_gradients(wavefunction, n.device))
    return parts


Parameters = dict[str, Tensor]  # by name, in the precision of the gradients


def rounded_parameters(wavefunction: Wavefunction, *, trainable: bool = True) -> Parameters:
    """Trainable parameters, or the frozen ones, in the precision of the gradients."""
    return {
        name: p.detach().to(wavefunction.gradient_dtype or p.dtype)
        for name, p in wavefunction.named_parameters()
        if p.requires_grad == trainable
    }


def n_parts(wavefunction: Wavefunction) -> int:
    """2: log modulus and phase; 1: the log modulus alone, where no phase is learned."""
    return 2 if wavefunction.has_phase and not wavefunction.is_real else 1


def rows_with_gradients(wavefunction: Wavefunction, device: torch.device) -> int:
    """Chunk size for forward and backward passes."""
    return max_chunk_rows(ACTIVATION_COPIES * wavefunction.bytes_per_configuration, device)


def by_vmap(
    wavefunction: Wavefunction,
    parameters: Parameters,
    n: UInt8[Tensor, "U L"],
    factor: Float64[Tensor, " U"],
    out: list[Tensor],
) -> None:
    """Fill `out` with factor(n) times the gradients of the log modulus (and phase); for any module."""

    frozen = rounded_parameters(wavefunction, trainable=False)

    def value(parameters: Parameters, n: Tensor, part: int) -> Tensor:
        return functional_call(wavefunction, {**frozen, **parameters}, (n[None],))[part][0]

    for part, target in enumerate(out):
        # The fused attention kernels have no batching rule: under vmap they would fall back to a loop.
        with sdpa_kernel(SDPBackend.MATH):
            gradients = vmap(grad(value), in_dims=(None, 0, None))(parameters, n, part)
        torch.cat([gradients[name].flatten(1) for name in parameters], dim=1, out=target)
        target *= factor.to(target.dtype)[:, None]


# --- products with vectors ------------------------------------------------------------------------------------------


def combined(
    wavefunction: Wavefunction, n: UInt8[Tensor, "U L"], coefficients: Float64[Tensor, "parts U"]
) -> Float64[Tensor, " P"]:
    """sum_n c(n) O(n), with coefficients for log modulus and phase: one backward pass, for any module."""
    variables = {name: p.requires_grad_() for name, p in rounded_parameters(wavefunction).items()}
    frozen = rounded_parameters(wavefunction, trainable=False)
    total = coefficients.new_zeros(sum(p.numel() for p in variables.values()))

    def add(index: Tensor) -> None:
        first, last = int(index[0]), int(index[-1]) + 1
        with torch.enable_grad():
            values = functional_call(wavefunction, {**frozen, **variables}, (n[first:last],))
            value = sum(c @ part for c, part in zip(coefficients[:, first:last], values, strict=False))
        gradients = torch.autograd.grad(value, list(variables.values()), materialize_grads=True)
        total.add_(torch.cat([gradient.flatten() for gradient in gradients]))

    in_chunks(add, torch.arange(len(n)), rows_with_gradients(wavefunction, n.device))
    return total


def directional(
    wavefunction: Wavefunction, n: UInt8[Tensor, "U L"], v: Float64[Tensor, " P"]
) -> Float64[Tensor, "parts U"]:
    """O(n) v for each configuration, for wavefunctions with known layers.

    Layers are linear in their parameters: with v in place of these a layer returns the change of its output.
    """
    parameters, layers = rounded_parameters(wavefunction), trainable_layers(wavefunction)
    trainable = [p for p in wavefunction.parameters() if p.requires_grad]
    directions = {
        p: part.view_as(p).to(parameters[name].dtype)
        for (name, part), p in zip(
            zip(parameters, v.split([p.numel() for p in trainable]), strict=True), trainable, strict=True
        )
    }

    def products(part: Tensor) -> Float64[Tensor, "parts r"]:
        result = v.new_zeros((n_parts(wavefunction), len(part)))
        ones = v.new_ones(len(part))
        for layer, x, gradients in layer_calls(wavefunction, parameters, part, ones, layers):
            changes = {
                name: directions[p] if p.requires_grad else torch.zeros_like(p, dtype=gradients[0].dtype)
                for name, p in layer.named_parameters(recurse=False)
            }
            change = functional_call(layer, changes, (x,))
            for total, g in zip(result, gradients, strict=True):
                total += (g * change).sum((1, 2))
        return result

    return torch.cat(in_chunks(products, n, rows_with_gradients(wavefunction, n.device)), dim=1)


# --- layer by layer -------------------------------------------------------------------------------------------------


class Call(NamedTuple):
    """One call of a layer in a forward pass."""

    layer: nn.Module
    x: Num[Tensor, "U T *in"]  # its input, by configuration
    gradients: tuple[Float[Tensor, "U T out"], ...]  # of each part times the factor, with respect to the output


def outer_products(layer: nn.Module, x: Float[Tensor, "U T in"], g: Float[Tensor, "U T out"]) -> Tensor:
    return g.mT @ x  # (U, out, in)


def sums(layer: nn.Module, x: Tensor, g: Float[Tensor, "U T D"]) -> Float[Tensor, "U D"]:
    return g.sum(1)


def scales(layer: nn.Module, x: Tensor, g: Float[Tensor, "U T D"]) -> Float[Tensor, "U D"]:
    assert isinstance(layer, nn.LayerNorm)
    return (g * nn.functional.layer_norm(x, x.shape[-1:], eps=layer.eps)).sum(1)


def sums_by_token(layer: nn.Module, x: Tensor, g: Float[Tensor, "U T D"]) -> Float[Tensor, "U tokens D"]:
    assert isinstance(layer, nn.Embedding)
    U, (tokens, D) = len(g), layer.weight.shape
    row = (x + tokens * torch.arange(U, device=x.device)[:, None]).flatten()
    return g.new_zeros((U * tokens, D)).index_add_(0, row, g.flatten(0, 1)).view(U, tokens, D)


GradientFormula = Callable[[nn.Module, Tensor, Tensor], Tensor]  # of layer, input, gradients of the output

# For layers of torch, by parameter; other layers state theirs in a class attribute `parameter_gradients`.
OF_TORCH: dict[type[nn.Module], dict[str, GradientFormula]] = {
    nn.Linear: {"weight": outer_products, "bias": sums},
    nn.LayerNorm: {"weight": scales, "bias": sums},
    nn.Embedding: {"weight": sums_by_token},
}


def parameter_gradients(layer: nn.Module) -> Mapping[str, GradientFormula] | None:
    """Formulas of the per-configuration gradients of a layer's parameters by name; None if unknown.

    Not inherited: a subclass may compute something else and states its own.
    """
    own: Mapping[str, GradientFormula] | None = vars(type(layer)).get("parameter_gradients")
    return own or OF_TORCH.get(type(layer))


def gradient_of(layer: nn.Module, name: str, x: Tensor, g: Float[Tensor, "U T out"]) -> Tensor:
    """Gradients of a parameter of a layer, (U, *shape), one for each of U configurations."""
    formulas = parameter_gradients(layer)
    assert formulas is not None
    return formulas[name](layer, x, g)


def has_known_layers(wavefunction: Wavefunction) -> bool:
    """Whether gradients can be found layer by layer."""
    return wavefunction.rowwise_layers and all_layers_known(wavefunction)


def all_layers_known(wavefunction: Wavefunction) -> bool:
    """Whether every trainable parameter belongs to a layer with a known gradient formula."""
    return all(parameter_gradients(layer) and _plain(layer) for layer in trainable_layers(wavefunction))


def _plain(layer: nn.Module) -> bool:
    """Without options that change the gradient formula."""
    if isinstance(layer, nn.Embedding):
        return layer.padding_idx is None and layer.max_norm is None and not layer.scale_grad_by_freq
    return not isinstance(layer, nn.LayerNorm) or len(layer.normalized_shape) == 1


def trainable_layers(wavefunction: Wavefunction) -> list[nn.Module]:
    return [m for m in wavefunction.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]


@contextmanager
def _recorded(layers: list[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor, Tensor]]]:
    """List of (layer, input, output) of every call of one of the layers."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []

    def record(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].detach(), output))

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def layer_calls(
    wavefunction: Wavefunction,
    parameters: Parameters,
    n: UInt8[Tensor, "U L"],
    factor: Float64[Tensor, " U"],
    layers: list[nn.Module],
) -> list[Call]:
    """Calls of some layers in the forward pass of n, in order; the backward pass ends at the first of them.

    Args:
        parameters: from `rounded_parameters`.
        factor: of the gradients of each configuration.
    """
    wanted = {p for layer in layers for p in layer.parameters(recurse=False) if p.requires_grad}
    trainable = [p for p in wavefunction.parameters() if p.requires_grad]
    with torch.enable_grad(), _recorded(layers) as recorded:
        variables = {
            name: value.detach().requires_grad_(p in wanted)
            for (name, value), p in zip(parameters.items(), trainable, strict=True)
        }
        frozen = rounded_parameters(wavefunction, trainable=False)
        values = functional_call(wavefunction, {**frozen, **variables}, (n,))
        totals = [factor @ values[part] for part in range(n_parts(wavefunction))]
    outputs = [output for _, _, output in recorded]
    gradients = []
    for part, total in enumerate(totals):
        keep = part + 1 < len(totals)
        if outputs and total.requires_grad:
            gradients.append(torch.autograd.grad(total, outputs, retain_graph=keep, materialize_grads=True))
        else:
            gradients.append(tuple(torch.zeros_like(output) for output in outputs))
    U = len(n)
    return [
        Call(
            layer,
            x.reshape(U, -1) if isinstance(layer, nn.Embedding) else x.reshape(U, -1, x.shape[-1]),
            tuple(g.reshape(U, -1, g.shape[-1]) for g in of_parts),
        )
        for (layer, x, _), *of_parts in zip(recorded, *gradients, strict=True)
    ]


def parameter_users(layers: list[nn.Module]) -> dict[nn.Parameter, list[tuple[int, str]]]:
    """For each trainable parameter the indices of the layers (or layer calls) that use it, and its name there.

    Its gradient is the sum over these uses.
    """
    found: dict[nn.Parameter, list[tuple[int, str]]] = defaultdict(list)
    for i, layer in enumerate(layers):
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.requires_grad:
                found[parameter].append((i, name))
    return found


def by_layers(
    wavefunction: Wavefunction,
    parameters: Parameters,
    n: UInt8[Tensor, "U L"],
    factor: Float64[Tensor, " U"],
    out: list[Tensor],
) -> None:
    """The same as `by_vmap`, for wavefunctions with rowwise layers."""
    calls = layer_calls(wavefunction, parameters, n, factor, trainable_layers(wavefunction))
    users = parameter_users([call.layer for call in calls])
    start = 0
    with torch.no_grad():
        for parameter in wavefunction.parameters():
            if not parameter.requires_grad:
                continue
            columns = slice(start, start + parameter.numel())
            start = columns.stop
            for part, target in enumerate(out):
                column = target[:, columns]
                if parameter not in users:  # not called at all
                    column.zero_()
                for k, (i, name) in enumerate(users.get(parameter, [])):
                    layer, x, gradients = calls[i]
                    gradient = gradient_of(layer, name, x, gradients[part]).flatten(1)
                    (column.add_ if k else column.copy_)(gradient)
