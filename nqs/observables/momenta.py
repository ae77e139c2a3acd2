"""Wave vectors of a lattice and structure factors."""

# Shapes: L sites, K wave vectors, D dimensions.
import numpy as np
import torch
from jaxtyping import Complex128, Float64
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
from nqs.observables.densities import is_conserved, reach_of, table_on_sites
from nqs.observables.expectation import Expectation, means
from nqs.observables.species import at_sites
from nqs.samples import Samples


def allowed_momenta(lattice: Lattice, *, antiperiodic: bool = True) -> Float64[Tensor, "K D"]:
    """Wave vectors k = sum_d (m_d / N_d) b_d of the torus, m_d = 0 .. N_d - 1 in row-major order.

    b_d are the reciprocal vectors of the lattice; wave vectors are in units of 1 / its unit of length.

    Args:
        lattice: all its directions are periodic or antiperiodic.
        antiperiodic: antiperiodic directions have m_d + 1/2, as plane waves of the particles do; densities and their
            correlations are periodic there too.

    Raises:
        ValueError: an open direction, or a lattice without directions: momentum is not conserved.
    """
    if not lattice.shape or "open" in lattice.boundary:
        raise ValueError(
            f"{lattice} has no allowed momenta: they need periodic (or antiperiodic) boundaries in all directions. "
            "Give wave_vectors."
        )
    shift = [0.5 if antiperiodic and word == "antiperiodic" else 0.0 for word in lattice.boundary]
    steps = np.indices(lattice.shape).reshape(len(lattice.shape), -1).T + np.array(shift)  # (K, D)
    reciprocal = 2 * np.pi * np.linalg.inv(np.array(lattice.vectors)).T  # rows b_d
    return torch.from_numpy(steps / np.array(lattice.shape) @ reciprocal)


def plane_waves(
    lattice: Lattice, hilbert: HilbertSpace, wave_vectors: Tensor | np.ndarray | None, antiperiodic: bool
) -> Complex128[Tensor, "K L"]:
    """exp(i k r_j) / sqrt(L)."""
    if lattice.n_sites != hilbert.n_sites:
        raise ValueError(f"{lattice} has {lattice.n_sites} sites, the state has {hilbert.n_sites}: they must agree.")
    if wave_vectors is None:
        k = allowed_momenta(lattice, antiperiodic=antiperiodic)
    else:
        k = torch.as_tensor(wave_vectors, dtype=torch.float64).cpu()
    r = lattice.coordinates
    if k.ndim != 2 or k.shape[1] != r.shape[1]:
        raise ValueError(
            f"wave_vectors have shape {tuple(k.shape)}: give one row of {r.shape[1]} components for each of them."
        )
    angle = k @ r.T
    return torch.polar(torch.full_like(angle, lattice.n_sites**-0.5), angle)


def structure_factor(
    samples: Samples,
    hilbert: HilbertSpace,
    lattice: Lattice,
    quantity: str | Tensor,
    wave_vectors: Tensor | np.ndarray | None = None,
    *,
    connected: bool = False,
) -> Expectation:
    """S(k) = 1/L sum_ij exp(i k (r_i - r_j)) <q_i q_j>, (K,), or of the connected correlations.

    Args:
        samples: of the state.
        hilbert: their space.
        lattice: coordinates of the sites.
        quantity: q, as in `densities`.
        wave_vectors: (K, D); by default the allowed momenta of the periodic lattice.
        connected: use <q_i q_j> - <q_i><q_j>.

    Raises:
        ValueError: no such quantity, a lattice of another size, or open boundaries and no wave vectors.
    """
    values = table_on_sites(hilbert, quantity)
    q = at_sites(values, samples.configurations)
    mean = samples.mean(q) if connected else torch.zeros_like(q[0])
    # |sum_i q_i e^ikr|^2 / L <= sum_i q_i^2, and at k = 0 the sum itself may be conserved.
    q, reach = q - mean, reach_of(values, mean).square().sum().item()
    waves = plane_waves(lattice, hilbert, wave_vectors, antiperiodic=False).to(q.device)
    at_zero = (waves - waves[:, :1]).abs().amax(1) < 1e-12
    return means(
        samples,
        lambda rows: (q[rows].to(waves.dtype) @ waves.T).abs().square(),
        48 * len(waves) + 64,
        reach=torch.where(at_zero & is_conserved(hilbert, values), 0.0, reach),
    )
