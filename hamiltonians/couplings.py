"""Couplings of lattice models: one number, or one for each bond or site; diagonal terms and formulas for `repr`."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.lattice.lattice import Lattice

# As users give them; kept as a number, or a tuple of numbers.
Numbers = Sequence[float] | Tensor | np.ndarray
Coupling = float | Numbers
LISTS = ("potential", "phases", "twist")  # never one number for all places


def checked_couplings(
    hamiltonian: Any, *, bonds: Sequence[str] = (), second: Sequence[str] = (), sites: Sequence[str] = ()
) -> None:
    """Refuse couplings, and lists of energies or angles, that are not finite or do not fit; lists become tuples.

    Args:
        hamiltonian: a frozen dataclass with a `lattice`.
        bonds: names of its attributes that are one number, or one for each bond in the order of `lattice.bonds()`.
        second: names of those that are one number, or one for each bond of `lattice.bonds(2)`.
        sites: names of those that are one number, or one for each site. Of `potential` (one energy per site), `phases`
            (one angle per bond) and `twist` (one angle per direction) those that it has are checked.

    Raises:
        ValueError: numbers that are not finite, or a list of another length.
        TypeError: neither a number nor a list of numbers.
    """
    lattice: Lattice = hamiltonian.lattice
    places: list[tuple[Sequence[str], str, Callable[[], int]]] = [
        ((*bonds, "phases"), "bonds", lambda: len(lattice.bonds())),
        (second, "second-neighbour bonds", lambda: len(lattice.bonds(2))),
        ((*sites, "potential"), "sites", lambda: lattice.n_sites),
        (("twist",), "directions", lambda: len(lattice.shape)),
    ]
    for names, where, number in places:
        for name in names:
            given = getattr(hamiltonian, name, None)
            if given is None:
                continue
            value = checked_coupling(name, given, number, f"{lattice}", where)
            if isinstance(value, Real) and name in LISTS:
                raise TypeError(f"{name}={value}: give a list with one number for each of the {number()} {where}.")
            object.__setattr__(hamiltonian, name, value)


def checked_coupling(name: str, given: Any, number: Callable[[], int], lattice: str, where: str) -> Any:
    """The coupling as the number that it is, or as a tuple of `number()` floats, one for each of the places `where`.

    Raises:
        ValueError, TypeError: as `checked_couplings`.
    """
    if isinstance(given, Real):  # kept as it is
        if not math.isfinite(given):
            raise ValueError(f"{name}={given}: it must be a finite number.")
        return given
    try:
        array = np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given, dtype=float)
    except (TypeError, ValueError):
        array = np.zeros((0, 0))
    if array.ndim == 0:
        return checked_coupling(name, array.item(), number, lattice, where)
    if array.ndim != 1:
        raise TypeError(f"{name}={given!r}: it must be one number, or a list with one number for each of the {where}.")
    if len(array) != number():
        raise ValueError(
            f"{name} has {len(array)} numbers, but {lattice} has {number()} {where}: give one for each"
            f"{', in the order of lattice.bonds()' if where == 'bonds' else ''}."
        )
    if not np.isfinite(array).all():
        k = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{k}]={array[k]}: all numbers must be finite.")
    return tuple(array.tolist())


def values(coupling: Any, n: int) -> Float64[Tensor, " n"]:
    """A coupling as n numbers, of the bonds or sites."""
    if isinstance(coupling, Real):
        return torch.full((n,), float(coupling), dtype=torch.float64)
    return torch.as_tensor(coupling, dtype=torch.float64)


def is_zero(coupling: Any) -> bool:
    """Whether a coupling vanishes everywhere."""
    return not np.any(coupling)


def weighted_sum(coupling: Any, x: Float64[Tensor, "B K"]) -> Float64[Tensor, " B"]:
    """sum_k c_k x_k over bonds or sites, with a number or one for each; 0 without a coupling (None)."""
    if coupling is None or is_zero(coupling):
        return x.new_zeros(len(x))
    return float(coupling) * x.sum(1) if isinstance(coupling, Real) else x @ values(coupling, x.shape[1]).to(x.device)


def neighbour_energy(lattice: Lattice, V: Any, x: Float64[Tensor, "B L"]) -> Float64[Tensor, " B"]:
    """sum_<ij> V_ij x_i x_j over nearest neighbours."""
    if is_zero(V):
        return x.new_zeros(len(x))
    i, j = lattice.bonds().to(x.device).T
    return weighted_sum(V, x[:, i] * x[:, j])


def signed_sum(terms: Iterable[tuple[float, Any, str, str]], *, inner: Mapping[str, Any] | None = None) -> str:
    """'-1 sum_i X_i + 0.5 sum_i Z_i' from (factor, coupling, symbol, operator); terms that vanish are left out.

    Couplings by bond or site are shown by their symbol and their range: '-1 sum_i h_i X_i with h_i from 0.5 to 1'.

    Args:
        inner: symbols inside the operators, with their couplings by bond or site.
    """
    parts: list[str] = []
    lists: dict[str, Any] = {}
    for factor, coupling, symbol, operator in terms:
        if is_zero(coupling):
            continue
        if isinstance(coupling, Real):
            parts.append(f"{factor * coupling:g} {operator}")
        else:
            lists[symbol] = coupling
            parts.append(f"{factor:g} {operator.replace(' ', f' {symbol} ', 1)}")
    lists |= inner or {}
    ranges = [f"{symbol} from {min(x) + 0.0:g} to {max(x) + 0.0:g}" for symbol, x in lists.items() if len(x)]
    text = " + ".join(parts).replace("+ -", "- ") or "0"
    return f"{text} with {', '.join(ranges)}" if ranges else text
