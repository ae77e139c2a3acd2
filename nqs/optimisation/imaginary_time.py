"""Evolution of a state in imaginary time where all of its amplitudes are known.

exp(-tau (H - E)) |psi> from the Krylov space of H and |psi>: with the Lanczos vectors V and the tridiagonal matrix T of
H in them, it is V exp(-tau (T - E)) e_1 to an accuracy that grows faster than any power with the number of vectors
(Hochbruck and Lubich, SIAM J. Numer. Anal. 34, 1911 (1997)).
"""

# Shapes: U configurations or orbits, m Lanczos vectors.
import numpy as np
import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.estimators.local_energy import Elements

KRYLOV = 40  # Lanczos vectors at most; tau times the width of the spectrum of 100 needs no more
ROUNDING = 1e-15  # of the largest energy: a residual that means nothing
SHORTER = 0.8  # factor on a time that leads too far


def evolved(
    root: Float64[Tensor, " U"],
    diagonal: Float64[Tensor, " U"],
    elements: Elements,
    time: float,
    max_step: float,
) -> tuple[float, Complex128[Tensor, " U"]]:
    """Change of a state by imaginary time.

    Args:
        root: the state, sqrt(w) in the basis of `elements`, normalised.
        diagonal: <n|H|n>.
        time: tau, in inverse units of the energy.
        max_step: the time is shortened until the state turns by an angle of at most this tangent.

    Returns:
        The time, and d orthogonal to the state with exp(-tau H) |psi> = c (|psi> + |d>).
    """
    vectors, alpha, beta = lanczos_vectors(root, diagonal, elements)
    energies, states = np.linalg.eigh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
    while True:
        # exp - 1, lest small changes drown in the rounding of 1.
        found = states @ (np.expm1(-time * (energies - alpha[0])) * states[0])
        turned = found[1:] / (1 + found[0])
        if np.linalg.norm(turned) <= max_step:
            break
        time *= SHORTER
    return time, torch.from_numpy(turned).to(vectors) @ vectors[1:] + 0j


def lanczos_vectors(
    root: Float64[Tensor, " U"], diagonal: Float64[Tensor, " U"], elements: Elements
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Orthonormal vectors (m, U) whose first is `root`, with the diagonal (m,) and the sides (m - 1,) of H in them."""
    rows, columns, values = elements
    values = values if values.imag.any() else values.real
    vectors = torch.zeros((min(KRYLOV, len(root)), len(root)), dtype=values.dtype, device=root.device)
    vectors[0] = root
    scale = torch.cat([diagonal.abs(), values.abs()]).max().item()
    alpha: list[float] = []
    beta: list[float] = []
    for m in range(1, len(vectors) + 1):
        x = vectors[m - 1]
        y = (diagonal * x).index_add_(0, rows, values * x[columns])
        alpha.append(torch.vdot(x, y).real.item())
        if m == len(vectors):
            break
        for _ in range(2):  # twice is enough (Parlett, The Symmetric Eigenvalue Problem, section 6.9)
            y -= (vectors[:m].conj() @ y) @ vectors[:m]
        length = torch.linalg.vector_norm(y).item()
        if length <= ROUNDING * scale:
            return vectors[:m], np.array(alpha), np.array(beta)
        beta.append(length)
        vectors[m] = y / length
    return vectors, np.array(alpha), np.array(beta)
