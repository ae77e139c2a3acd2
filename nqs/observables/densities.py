"""Observables that are diagonal in the configurations: densities and their correlations."""

# Shapes: U samples, L sites, d local states.
import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.observables.expectation import Expectation, means_of_values
from nqs.observables.species import at_sites, electrons_of, site_values, values_of
from nqs.samples import Samples


def local_state_probabilities(samples: Samples, hilbert: HilbertSpace) -> Float64[Tensor, "L d"]:
    """Probability of every local state on every site."""
    L, d = hilbert.n_sites, hilbert.local_dim
    index = samples.configurations.long() + d * torch.arange(L, device=samples.weights.device)  # (U, L)
    weights = samples.weights[:, None].expand(-1, L)
    return torch.bincount(index.flatten(), weights.flatten(), minlength=L * d).view(L, d)


def on_sites(samples: Samples, hilbert: HilbertSpace, quantity: str | Tensor) -> Float64[Tensor, "U L"]:
    values = site_values(hilbert, quantity) if isinstance(quantity, str) else quantity.double()
    if values.shape not in ((hilbert.local_dim,), (hilbert.n_sites, hilbert.local_dim)):
        raise ValueError(
            f"the local quantity has shape {tuple(values.shape)}: give one value for each of the {hilbert.local_dim} "
            f"local states {hilbert.local_states}."
        )
    return at_sites(values, samples.configurations)


def densities(samples: Samples, hilbert: HilbertSpace, quantity: str | Tensor) -> Expectation:
    """<q_i> of every site, (L,).

    Args:
        samples: of the state.
        hilbert: their space.
        quantity: name of a local quantity, see `site_values`, or its value in every local state, (d,).

    Raises:
        ValueError: no such quantity.
    """
    return means_of_values(samples, on_sites(samples, hilbert, quantity))


def correlations(
    samples: Samples,
    hilbert: HilbertSpace,
    quantity: str | Tensor,
    other: str | Tensor | None = None,
    *,
    connected: bool = False,
) -> Expectation:
    """<q_i p_j> of every pair of sites, (L, L), or <q_i p_j> - <q_i><p_j> if connected.

    Args:
        samples: of the state.
        hilbert: their space.
        quantity: q, as in `densities`.
        other: p; by default q.
        connected: subtract the product of the means.

    Raises:
        ValueError: no such quantity.
    """
    q = on_sites(samples, hilbert, quantity)
    p = q if other is None else on_sites(samples, hilbert, other)
    c = samples.error_weights  # (U,)
    if connected:  # to first order, the error is that of <(q - <q>) (p - <p>)> with the means held fixed
        q, p = q - samples.mean(q), p - samples.mean(p)
    # Sums over samples of q_i p_j and of its square are matrix products.
    mean = (samples.weights[:, None] * q).T @ p
    first = (c[:, None] * q).T @ p
    second = (c[:, None] * q.square()).T @ p.square()
    square = second - 2 * mean * first + c.sum() * mean.square()
    # The variance of a conserved product is zero up to machine precision.
    return Expectation(mean, torch.where(square > 1e-14 * second, square, 0.0).sqrt())


def double_occupancy(samples: Samples, hilbert: HilbertSpace) -> Expectation:
    """<n_up n_down> of every site, (L,).

    Raises:
        ValueError: no space of spinful fermions.
    """
    up, down = (values_of(hilbert, s.occupation) for s in electrons_of(hilbert, "double occupancy"))
    return densities(samples, hilbert, up * down)
