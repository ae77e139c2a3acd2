"""Particles of a Hilbert space."""

# Shapes: U samples, L sites, d local states, K wave vectors, D dimensions, M moves or pairs.
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nqs.hilbert import HilbertSpace

UP, DOWN = "up electrons", "down electrons"  # names of the charges


def site_values(hilbert: HilbertSpace, quantity: str) -> Float64[Tensor, " d"]:
    """The value of a quantity in every local state.

    Args:
        hilbert: the space.
        quantity: the name of one of its charges, such as "particles", "up electrons" or "2 Sz"; also "Sz" of spins and
            electrons, and "particles" of electrons.

    Raises:
        ValueError: the space has no such quantity; the message lists those it has.
    """
    known = {charge.name: torch.tensor(charge.values, dtype=torch.float64) for charge in hilbert.charges}
    if "2 Sz" in known:
        known["Sz"] = known["2 Sz"] / 2
    if UP in known and DOWN in known:
        known["particles"] = known[UP] + known[DOWN]
        known["Sz"] = (known[UP] - known[DOWN]) / 2
    if quantity not in known:
        names = ", ".join(map(repr, known)) or "none"
        raise ValueError(
            f"{quantity!r} is no local quantity of this space, which has: {names}. Give one of them, or a tensor with "
            f"one value for each of the {hilbert.local_dim} local states."
        )
    return known[quantity]


# ---- one-body density matrix -----------------------------------------------------------------------


class _Species(NamedTuple):
    """One kind of particle: its number in every local state, and where adding or removing one leads (-1: nowhere)."""

    occupation: Float64[Tensor, " d"]
    lowered: Int64[Tensor, " d"]
    raised: Int64[Tensor, " d"]
    is_fermion: bool


def _is_electrons(hilbert: HilbertSpace) -> bool:
    return {UP, DOWN} <= {charge.name for charge in hilbert.charges}


def _is_spinless(hilbert: HilbertSpace) -> bool:
    return hilbert.local_states == ("empty", "occupied")


def _is_bosons(hilbert: HilbertSpace) -> bool:
    values = tuple(range(hilbert.local_dim))
    return not _is_spinless(hilbert) and any(c.name == "particles" and c.values == values for c in hilbert.charges)


def _require_electrons(hilbert: HilbertSpace, what: str) -> None:
    if not _is_electrons(hilbert):
        raise ValueError(f"{what} needs electrons with spin (spinful_fermions); the space is {hilbert}.")


def _species(hilbert: HilbertSpace, spin: str | None = None) -> list[_Species]:
    """The particles of a space; of electrons those with one spin, or both."""
    if spin not in (None, "up", "down"):
        raise ValueError(f"spin={spin!r}: choose 'up', 'down', or None for both.")
    if spin is not None:
        _require_electrons(hilbert, f"spin={spin!r}")
    if _is_electrons(hilbert):
        names = [UP, DOWN]
    elif _is_spinless(hilbert) or _is_bosons(hilbert):
        names = ["particles"]
    else:
        raise ValueError(
            f"the one-body density matrix needs bosons, fermions or spinful_fermions; the space is {hilbert}."
        )
    numbers = torch.stack([site_values(hilbert, name) for name in names]).T.long()  # (d, species)
    index = {tuple(row): state for state, row in enumerate(numbers.tolist())}
    species = []
    for s, name in enumerate(names):
        if spin is not None and not name.startswith(spin):
            continue
        step = torch.zeros(len(names), dtype=torch.int64)
        step[s] = 1
        species.append(
            _Species(
                occupation=numbers[:, s].double(),
                lowered=torch.tensor([index.get(tuple(row), -1) for row in (numbers - step).tolist()]),
                raised=torch.tensor([index.get(tuple(row), -1) for row in (numbers + step).tolist()]),
                is_fermion=not _is_bosons(hilbert),
            )
        )
    return species
