"""Couplings of lattice models: checks, diagonal terms that several families share, and formulas for `repr`."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from nqs.lattice.lattice import Lattice


def checked_numbers(hamiltonian: Any, couplings: Sequence[str]) -> None:
    """Refuse couplings, and lists of energies or angles, that are not finite or do not fit; lists become tuples.

    Args:
        hamiltonian: a frozen dataclass with a `lattice`.
        couplings: names of its attributes that are single numbers. Of `potential` (one energy per site), `phases` (one
            angle per bond) and `twist` (one angle per direction) those that it has are checked.

    Raises:
        ValueError: numbers that are not finite, or a list of another length.
    """
    lattice: Lattice = hamiltonian.lattice
    for name in couplings:
        if not math.isfinite(getattr(hamiltonian, name)):
            raise ValueError(f"{name}={getattr(hamiltonian, name)}: it must be a finite number.")
    lists = (
        ("potential", "energies", "sites", lattice.n_sites),
        ("phases", "angles", "bonds", None),
        ("twist", "angles", "directions", len(lattice.shape)),
    )
    for name, things, places, length in lists:
        given = getattr(hamiltonian, name, None)
        if given is None:
            continue
        values = tuple(float(x) for x in given)
        length = len(lattice.bonds()) if length is None else length
        if len(values) != length:
            raise ValueError(
                f"{name} has {len(values)} {things}, but {lattice} has {length} {places}: give one for each."
            )
        if not all(map(math.isfinite, values)):
            raise ValueError(f"{name}={values}: all {things} must be finite numbers.")
        object.__setattr__(hamiltonian, name, values)


def neighbour_products(lattice: Lattice, x: Float64[Tensor, "B L"]) -> Float64[Tensor, " B"]:
    """sum_<ij> x_i x_j over nearest neighbours."""
    i, j = lattice.bonds().to(x.device).T
    return (x[:, i] * x[:, j]).sum(1)


def potential_energy(x: Float64[Tensor, "B L"], potential: Sequence[float] | Tensor | None) -> Float64[Tensor, " B"]:
    """sum_i epsilon_i x_i of occupation numbers x; 0 without a potential."""
    if potential is None:
        return x.new_zeros(len(x))
    return x @ torch.as_tensor(potential, dtype=torch.float64, device=x.device)


def signed_sum(terms: Iterable[tuple[float, str]]) -> str:
    """'-1 sum_i X_i + 0.5 sum_i Z_i' from factors and operators; terms with factor 0 are left out."""
    text = " + ".join(f"{factor:g} {operator}" for factor, operator in terms if factor)
    return text.replace("+ -", "- ") or "0"
