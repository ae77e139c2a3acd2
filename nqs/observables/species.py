"""Particles of a Hilbert space, as its species state them."""

# Shapes: U samples, L sites, d local states, K wave vectors, D dimensions, M moves or pairs.
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from nqs.hilbert import HilbertSpace, Species


def quantities(hilbert: HilbertSpace) -> dict[str, Float64[Tensor, " d"]]:
    """The local quantities of a space by name, each with its value in every local state.

    These are its charges; the numbers of its bosons and fermions, species by species; and, where there are several
    species of fermions, their total number "particles" and, where they have a spin, "Sz".
    """
    found = {charge.name: torch.tensor(charge.values, dtype=torch.float64) for charge in hilbert.charges}
    for species in hilbert.of_kind("boson") + hilbert.of_kind("fermion"):
        found.setdefault(species.name, torch.tensor(species.occupation, dtype=torch.float64))
    fermions = hilbert.of_kind("fermion")
    if len(fermions) > 1:
        found["particles"] = _total([species.occupation for species in fermions])
        if any(species.twice_sz is not None for species in fermions):
            found["Sz"] = _sz(fermions)
    return found


def site_values(hilbert: HilbertSpace, quantity: str) -> Float64[Tensor, " d"]:
    """The value of a quantity in every local state.

    Args:
        hilbert: the space.
        quantity: the name of one of its charges or species, such as "particles", "up electrons" or "2 Sz"; also "Sz"
            of spins and electrons, and "particles" of electrons.

    Raises:
        ValueError: the space has no such quantity; the message lists those it has.
    """
    known = quantities(hilbert)
    if "Sz" not in known and hilbert.of_kind("spin"):
        known["Sz"] = _sz(hilbert.species)
    if quantity not in known:
        names = ", ".join(map(repr, known)) or "none"
        raise ValueError(
            f"{quantity!r} is no local quantity of this space, which has: {names}. Give one of them, or a tensor with "
            f"one value for each of the {hilbert.local_dim} local states."
        )
    return known[quantity]


def _total(values: Sequence[tuple[int, ...]]) -> Float64[Tensor, " d"]:
    return torch.tensor(values, dtype=torch.float64).sum(0)


def _sz(species: Sequence[Species]) -> Float64[Tensor, " d"]:
    return _total([one.twice_sz for one in species if one.twice_sz is not None]) / 2


# ---- kinds of spaces -------------------------------------------------------------------------------


def spins_half(hilbert: HilbertSpace) -> bool:
    """Every site is one spin 1/2: local state 0 is down, 1 up."""
    return [(s.kind, s.twice_sz) for s in hilbert.species] == [("spin", (-1, 1))]


def up_and_down(hilbert: HilbertSpace) -> tuple[Species, Species] | None:
    """The two species of spin-1/2 fermions, if these are all fermions of the space."""
    fermions = hilbert.of_kind("fermion")
    by_spin = {}
    for species in fermions:
        if species.twice_sz == species.occupation:
            by_spin["up"] = species
        elif species.twice_sz == tuple(-n for n in species.occupation):
            by_spin["down"] = species
    return (by_spin["up"], by_spin["down"]) if len(by_spin) == len(fermions) == 2 else None


def electrons_of(hilbert: HilbertSpace, what: str) -> tuple[Species, Species]:
    """Up and down electrons.

    Raises:
        ValueError: the particles are no electrons.
    """
    electrons = up_and_down(hilbert)
    if electrons is None:
        raise ValueError(
            f"{what} needs electrons with spin (spinful_fermions); the space is {hilbert}{_hint(hilbert)}."
        )
    return electrons


def _hint(hilbert: HilbertSpace) -> str:
    return (
        "" if hilbert.species else " (it states no species: give HilbertSpace(.., species=..) what its particles are)"
    )


def mobile(hilbert: HilbertSpace) -> tuple[Species, ...]:
    """The particles that a one-body density matrix is about: the fermions, or bosons where there are none."""
    return hilbert.of_kind("fermion") or hilbert.of_kind("boson")


# ---- one-body density matrix -----------------------------------------------------------------------


class Ladder(NamedTuple):
    """One species: its number in every local state, and where adding or removing a particle leads (-1: nowhere)."""

    occupation: Float64[Tensor, " d"]
    lowered: Int64[Tensor, " d"]
    raised: Int64[Tensor, " d"]
    is_fermion: bool


def ladders(hilbert: HilbertSpace, spin: str | None = None) -> list[Ladder]:
    """The particles of a space; of electrons those with one spin, or both.

    Raises:
        ValueError: neither bosons nor fermions, a spin where there is none, or local states that the species do not
            tell apart.
    """
    if spin not in (None, "up", "down"):
        raise ValueError(f"spin={spin!r}: choose 'up', 'down', or None for both.")
    kinds = mobile(hilbert)
    if spin is not None:
        up, down = electrons_of(hilbert, f"spin={spin!r}")
        kinds = (up,) if spin == "up" else (down,)
    if not kinds:
        raise ValueError(
            f"the one-body density matrix needs bosons, fermions or spinful_fermions; the space is {hilbert}"
            f"{_hint(hilbert)}."
        )
    content = [_content(hilbert, state, None, 0) for state in range(hilbert.local_dim)]
    if len(set(content)) < len(content):
        raise ValueError(
            f"the species of the space do not tell its local states {hilbert.local_states} apart: where a particle is "
            "added or removed is not known."
        )
    index = {row: state for state, row in enumerate(content)}
    return [
        Ladder(
            occupation=torch.tensor(species.occupation, dtype=torch.float64),
            lowered=torch.tensor([index.get(_content(hilbert, k, species, -1), -1) for k in range(hilbert.local_dim)]),
            raised=torch.tensor([index.get(_content(hilbert, k, species, 1), -1) for k in range(hilbert.local_dim)]),
            is_fermion=species.kind == "fermion",
        )
        for species in kinds
    ]


def _content(hilbert: HilbertSpace, state: int, changed: Species | None, by: int) -> tuple[tuple[int, int], ...]:
    """Numbers of all species in a local state, of one of them changed; with 2 S^z where that does not follow."""
    return tuple(
        (s.occupation[state] + (by if s is changed else 0), s.twice_sz[state] if s.kind == "spin" and s.twice_sz else 0)
        for s in hilbert.species
    )
