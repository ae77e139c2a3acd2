"""Per-configuration gradients of log psi, O_k(n) = d log psi(n) / d theta_k.

The gradient of a sum over configurations passes through every layer as one batch; what each configuration contributes
to the gradient of a weight is the product of its own inputs and output gradients of that layer (Goodfellow,
arXiv:1510.01799). One forward pass and a backward pass each for modulus and phase give all of them as matrix products.
Models with other layers than those below go through torch.func.vmap.
"""

# Shapes: U configurations, P parameters, T tokens of one configuration, D width.
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import layer_norm, one_hot

from nqs.chunks import rows_that_fit
from nqs.protocols import Wavefunction

ACTIVATION_COPIES = 8  # memory of a configuration with gradients, in units of one without


def jacobian(wavefunction: Wavefunction, n: UInt8[Tensor, "U L"]) -> tuple[Float[Tensor, "U P"], Tensor | None]:
    """Gradients of the log modulus and of the phase for each configuration, in the precision of the parameters.

    Parameters are flattened in the order of `wavefunction.parameters()`. The phase part is None where the
    wavefunction has no phase to learn.
    """
    rows = rows_that_fit(ACTIVATION_COPIES * wavefunction.bytes_per_configuration, n.device)
    if wavefunction.layerwise:
        parts = [layerwise_jacobian(wavefunction, chunk) for chunk in n.split(rows)]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]) if wavefunction.has_phase else None
    log_modulus = vmapped_jacobian(wavefunction, n, lambda psi: psi.log_modulus, rows)
    if not wavefunction.has_phase:
        return log_modulus, None
    return log_modulus, vmapped_jacobian(wavefunction, n, lambda psi: psi.phase, rows)


def vmapped_jacobian(
    wavefunction: Wavefunction, n: UInt8[Tensor, "U L"], part: Callable[[Any], Tensor], rows: int
) -> Float[Tensor, "U P"]:
    """Gradients of one part of log psi, for any differentiable model."""
    parameters = {k: p.detach() for k, p in wavefunction.named_parameters() if p.requires_grad}

    def value(parameters: dict[str, Tensor], n: Tensor) -> Tensor:
        return part(functional_call(wavefunction, parameters, (n[None],)))[0]

    # The fused attention kernels have no batching rule: under vmap they would fall back to a loop.
    with sdpa_kernel(SDPBackend.MATH):
        gradients = vmap(grad(value), in_dims=(None, 0), chunk_size=rows)(parameters, n)
    return torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)


def layerwise_jacobian(wavefunction: Wavefunction, n: UInt8[Tensor, "U L"]) -> tuple[Tensor, Tensor]:
    """Gradients of modulus and phase, (U, P) each, of a model that keeps the promise of `Wavefunction.layerwise`."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: calls.append((module, inputs[0].detach(), output)))
        for module in wavefunction.modules()
        if any(p.requires_grad for p in module.parameters(recurse=False))
    ]
    try:
        with torch.enable_grad():
            psi = wavefunction(n)
            totals = [part.sum() for part in (psi if wavefunction.has_phase else psi[:1])]
    finally:
        for hook in hooks:
            hook.remove()
    outputs = [output for _, _, output in calls]
    names = {p: name for name, p in wavefunction.named_parameters() if p.requires_grad}
    jacobians = []
    for total in totals:
        gradients = torch.autograd.grad(total, outputs, retain_graph=True, materialize_grads=True)
        rows: dict[str, Tensor] = {}
        for (module, inputs, _), gradient in zip(calls, gradients, strict=True):
            for parameter, row in _contributions(module, inputs, gradient, len(n)):
                if parameter in names:
                    rows[names[parameter]] = rows[names[parameter]] + row if names[parameter] in rows else row
        jacobians.append(torch.cat([rows[name].flatten(1) for name in names.values()], dim=1))
    return jacobians[0], jacobians[-1]


def _contributions(
    module: nn.Module, inputs: Tensor, gradient: Tensor, configurations: int
) -> list[tuple[nn.Parameter, Tensor]]:
    """Gradients of the parameters of one layer, (U, *shape) each; its batch lists the tokens of each configuration."""
    d = gradient.reshape(configurations, -1, gradient.shape[-1])  # (U, T, D_out)
    if isinstance(module, nn.Embedding):
        chosen = one_hot(inputs.reshape(configurations, -1), module.num_embeddings).to(d.dtype)  # (U, T, entries)
        return [(module.weight, chosen.transpose(1, 2) @ d)]
    x = inputs.reshape(configurations, -1, inputs.shape[-1])  # (U, T, D_in)
    if isinstance(module, nn.Linear):
        found = [(module.weight, d.transpose(1, 2) @ x)]
    elif isinstance(module, nn.LayerNorm):
        found = [(module.weight, (d * layer_norm(x, module.normalized_shape, eps=module.eps)).sum(1))]
    else:
        raise TypeError(f"layerwise gradients know Linear, LayerNorm and Embedding; found {type(module).__name__}.")
    return [*found, (module.bias, d.sum(1))] if module.bias is not None else found
