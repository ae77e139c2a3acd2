"""Per-configuration gradients of log psi, O_k(n) = d log psi(n) / d theta_k."""

# Shapes: U configurations, P parameters.
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from nqs.chunks import rows_that_fit
from nqs.protocols import Wavefunction

ACTIVATION_COPIES = 8  # memory of a configuration with gradients, in units of one without


def jacobian(wavefunction: Wavefunction, n: UInt8[Tensor, "U L"]) -> tuple[Float[Tensor, "U P"], Tensor | None]:
    """Gradients of the log modulus and of the phase for each configuration, in the precision of the parameters.

    Parameters are flattened in the order of `wavefunction.parameters()`. The phase part is None where the
    wavefunction has no phase to learn.
    """
    parameters = {k: p.detach() for k, p in wavefunction.named_parameters() if p.requires_grad}

    def gradient_of(part: Callable) -> Tensor:
        def value(parameters: dict[str, Tensor], n: Tensor) -> Tensor:
            return part(functional_call(wavefunction, parameters, (n[None],)))[0]

        rows = rows_that_fit(ACTIVATION_COPIES * wavefunction.bytes_per_configuration, n.device)
        # The fused attention kernels have no batching rule: under vmap they would fall back to a loop.
        with sdpa_kernel(SDPBackend.MATH):
            gradients = vmap(grad(value), in_dims=(None, 0), chunk_size=rows)(parameters, n)
        return torch.cat([gradients[name].flatten(1) for name in parameters], dim=1)

    log_modulus = gradient_of(lambda psi: psi.log_modulus)
    return log_modulus, gradient_of(lambda psi: psi.phase) if wavefunction.has_phase else None
