"""Observables that are diagonal in the configurations: densities and their correlations."""

# Shapes: U samples, L sites, d local states.
import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.error_bars import CANCELLED, ErrorWeights, combined
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


def table_on_sites(hilbert: HilbertSpace, quantity: str | Tensor) -> Float64[Tensor, "*L d"]:
    """Value of a quantity in every local state.

    Raises:
        ValueError: no such quantity.
    """
    values = site_values(hilbert, quantity) if isinstance(quantity, str) else quantity.double()
    if values.shape not in ((hilbert.local_dim,), (hilbert.n_sites, hilbert.local_dim)):
        raise ValueError(
            f"the local quantity has shape {tuple(values.shape)}: give one value for each of the {hilbert.local_dim} "
            f"local states {hilbert.local_states}."
        )
    return values


def reach_of(values: Float64[Tensor, "*L d"], mean: Float64[Tensor, " L"]) -> Float64[Tensor, " L"]:
    """Largest |q_i - mean_i| over the local states."""
    low, high = values.to(mean.device).aminmax(dim=-1)
    return torch.maximum(high - mean, mean - low)


def is_conserved(hilbert: HilbertSpace, values: Float64[Tensor, "*L d"]) -> bool:
    """The sum of a quantity over the sites is a charge with a target."""
    targets = [charge.values for charge in hilbert.charges if charge.target is not None and charge.modulus is None]
    return any(values_of(hilbert, of_charge).double().equal(values) for of_charge in targets)


def densities(samples: Samples, hilbert: HilbertSpace, quantity: str | Tensor) -> Expectation:
    """<q_i> of every site, (L,).

    Args:
        samples: of the state.
        hilbert: their space.
        quantity: name of a local quantity, see `site_values`, or its value in every local state, (d,).

    Raises:
        ValueError: no such quantity.
    """
    values = table_on_sites(hilbert, quantity)
    q = at_sites(values, samples.configurations)
    return means_of_values(samples, q, reach_of(values, samples.mean(q)))


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
    of_q, of_p = (table_on_sites(hilbert, quantity if name is None else name) for name in (None, other))
    q, p = (at_sites(values, samples.configurations) for values in (of_q, of_p))
    means = [samples.mean(q), samples.mean(p)]
    if connected:  # to first order, the error is that of <(q - <q>) (p - <p>)> with the means held fixed
        q, p = q - means[0], p - means[1]
    reach = reach_of(of_q, means[0])[:, None] * reach_of(of_p, means[1])
    if not connected:
        reach = reach_of(of_q, 0 * means[0])[:, None] * reach_of(of_p, 0 * means[1])
    return products(samples, q, p, reach)


def products(
    samples: Samples, q: Float64[Tensor, "U L"], p: Float64[Tensor, "U L"], reach: Float64[Tensor, "L L"]
) -> Expectation:
    """Means of q_i p_j with errors; sums over samples of their powers are matrix products.

    Args:
        reach: largest |q_i p_j| of any configuration.
    """
    weights = ErrorWeights(samples)

    def moment(w: Tensor, power: int) -> Tensor:
        return (w[:, None] * q**power).T @ p**power

    def central(w: Tensor) -> Tensor:
        square = moment(w, 2)
        found = square - 2 * mean * moment(w, 1) + w.sum() * mean.square()
        # The variance of a conserved product is zero up to machine precision.
        return torch.where(found > CANCELLED * square, found, 0.0).flatten()

    mean = moment(samples.weights, 1)
    if samples.is_exhaustive:
        return Expectation(mean, torch.zeros_like(mean))
    first, second, third, fourth = (moment(weights.events, power) for power in (1, 2, 3, 4))
    fourth = fourth - 4 * mean * third + 6 * mean**2 * second - 4 * mean**3 * first + weights.events.sum() * mean**4
    reach = reach + mean.abs()
    error = combined(
        weights,
        mean.flatten(),
        central(samples.error_weights),
        fourth.clamp(min=0).flatten(),
        central(weights.known),
        (central(weights.rare), reach.flatten().square()),
        reach=reach.flatten(),
    )
    return Expectation(mean, error.view_as(mean))


def double_occupancy(samples: Samples, hilbert: HilbertSpace) -> Expectation:
    """<n_up n_down> of every site, (L,).

    Raises:
        ValueError: no space of spinful fermions.
    """
    up, down = (values_of(hilbert, s.occupation) for s in electrons_of(hilbert, "double occupancy"))
    return densities(samples, hilbert, up * down)
