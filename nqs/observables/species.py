"""Local quantities and particles of a Hilbert space, derived from its charges and species."""

# Shapes: L sites, d local states.
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64, Shaped, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace, Species, Values


def quantities(hilbert: HilbertSpace) -> dict[str, Float64[Tensor, "*L d"]]:
    """The local quantities of a space by name: values in every local state, (d,), or (L, d) if they depend on the site.

    These are its charges; the numbers of its bosons and fermions, species by species; and, where there are several
    species of fermions, their total number "particles" and, where they have a spin, "Sz".
    """
    found = {charge.name: values_of(hilbert, charge.values) for charge in hilbert.charges}
    for species in hilbert.of_kind("boson") + hilbert.of_kind("fermion"):
        found.setdefault(species.name, values_of(hilbert, species.occupation))
    fermions = hilbert.of_kind("fermion")
    if len(fermions) > 1:
        found["particles"] = _total(hilbert, [species.occupation for species in fermions])
        if any(species.twice_sz is not None for species in fermions):
            found["Sz"] = _sz(hilbert, fermions)
    return found


def site_values(hilbert: HilbertSpace, quantity: str) -> Float64[Tensor, "*L d"]:
    """Value of a quantity in every local state, (d,), or (L, d) if it depends on the site.

    Args:
        hilbert: the space.
        quantity: the name of one of its charges or species, such as "particles", "up electrons" or "2 Sz"; also "Sz"
            of spins and electrons, and "particles" of electrons.

    Raises:
        ValueError: the space has no such quantity; the message lists those it has.
    """
    known = quantities(hilbert)
    if "Sz" not in known and hilbert.of_kind("spin"):
        known["Sz"] = _sz(hilbert, hilbert.species)
    if quantity not in known:
        names = ", ".join(map(repr, known)) or "none"
        raise ValueError(
            f"{quantity!r} is no local quantity of this space, which has: {names}. Give one of them, or a tensor with "
            f"one value for each of the {hilbert.local_dim} local states."
        )
    return known[quantity]


def values_of(hilbert: HilbertSpace, values: Values) -> Float64[Tensor, "*L d"]:
    """Values of a charge or species as a tensor: (d,), or (L, d) where they depend on the site."""
    table = torch.from_numpy(hilbert.table(values).astype(float))
    return table if hilbert.states_differ or not isinstance(values[0], int) else table[0]


def at_sites(values: Shaped[Tensor, "*L d"], n: UInt8[Tensor, "B L"]) -> Shaped[Tensor, "B L"]:
    """The values (d,) or (L, d) of the local states of configurations."""
    values, index = values.to(n.device), n.long()
    return values[index] if values.ndim == 1 else values[torch.arange(len(values), device=n.device), index]


def _total(hilbert: HilbertSpace, values: Sequence[Values]) -> Float64[Tensor, "*L d"]:
    parts = [values_of(hilbert, part) for part in values]
    return torch.stack(torch.broadcast_tensors(*parts)).sum(0)


def _sz(hilbert: HilbertSpace, species: Sequence[Species]) -> Float64[Tensor, "*L d"]:
    return _total(hilbert, [one.twice_sz for one in species if one.twice_sz is not None]) / 2


# ---- kinds of spaces -------------------------------------------------------------------------------


def localised_spins(hilbert: HilbertSpace) -> Species | None:
    """The species of localised spins, if there is exactly one."""
    spins = [species for species in hilbert.of_kind("spin") if species.twice_sz is not None]
    return spins[0] if len(spins) == 1 else None


def up_and_down(hilbert: HilbertSpace) -> tuple[Species, Species] | None:
    """The two species of spin-1/2 fermions, if these are all fermions of the space."""
    fermions = hilbert.of_kind("fermion")
    by_spin = {}
    for species in fermions:
        if species.twice_sz is not None:
            twice_sz, number = hilbert.table(species.twice_sz), hilbert.table(species.occupation)
            for spin, sign in (("up", 1), ("down", -1)):
                if (twice_sz == sign * number).all():
                    by_spin[spin] = species
    return (by_spin["up"], by_spin["down"]) if len(by_spin) == len(fermions) == 2 else None


def electrons_of(hilbert: HilbertSpace, what: str) -> tuple[Species, Species]:
    """Up and down electrons.

    Raises:
        ValueError: the particles are no electrons.
    """
    electrons = up_and_down(hilbert)
    if electrons is None:
        raise ValueError(
            f"{what} needs electrons with spin (spinful_fermions); the space is {hilbert}{species_hint(hilbert)}."
        )
    return electrons


def species_hint(hilbert: HilbertSpace) -> str:
    """Addition to error messages about a space without species: how to give them."""
    return (
        "" if hilbert.species else " (it states no species: give HilbertSpace(.., species=..) what its particles are)"
    )


def mobile(hilbert: HilbertSpace) -> tuple[Species, ...]:
    """The particles of the one-body density matrix: the fermions, or the bosons if there are no fermions."""
    return hilbert.of_kind("fermion") or hilbert.of_kind("boson")


# ---- one-body density matrix -----------------------------------------------------------------------


class Ladder(NamedTuple):
    """One species: its number in every local state, and the local state with one particle fewer or more (-1: none).

    Tables are (d,), or (L, d) where sites differ.
    """

    occupation: Float64[Tensor, "*L d"]
    lowered: Int64[Tensor, "*L d"]
    raised: Int64[Tensor, "*L d"]
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
            f"{species_hint(hilbert)}."
        )
    tables = [values_of(hilbert, values) for s in hilbert.species for values in (s.occupation, s.twice_sz) if values]
    by_site = any(table.ndim == 2 for table in tables)
    found = []
    for species in kinds:
        sites = [_ladder_at(hilbert, species, site) for site in range(hilbert.n_sites if by_site else 1)]
        occupation, lowered, raised = (torch.stack(parts) for parts in zip(*sites, strict=True))
        if not by_site:
            occupation, lowered, raised = occupation[0], lowered[0], raised[0]
        found.append(Ladder(occupation.double(), lowered, raised, species.kind == "fermion"))
    return found


def _ladder_at(
    hilbert: HilbertSpace, species: Species, site: int
) -> tuple[Int64[Tensor, " d"], Int64[Tensor, " d"], Int64[Tensor, " d"]]:
    """Occupation numbers of a species in the local states of a site, and the local states with one fewer or more."""
    d, states = hilbert.local_dim, hilbert.states_at(site)
    # Content of a local state: the number of every species, and S^z of the localised spins.
    columns = [hilbert.table(s.occupation)[site] for s in hilbert.species]
    columns += [hilbert.table(s.twice_sz)[site] for s in hilbert.of_kind("spin") if s.twice_sz is not None]
    content = [tuple(int(column[state]) for column in columns) for state in range(len(states))]
    if len(set(content)) < len(content):
        raise ValueError(
            f"several of the local states {states} hold the same particles: the species of the space do not determine "
            "the local state with one particle more or fewer. Give species that tell local states apart."
        )
    index = {row: state for state, row in enumerate(content)}
    place = hilbert.species.index(species)
    ladder = torch.full((3, d), -1)
    ladder[0] = torch.from_numpy(columns[place].copy())
    for state, row in enumerate(content):
        for k, change in ((1, -1), (2, 1)):
            ladder[k, state] = index.get((*row[:place], row[place] + change, *row[place + 1 :]), -1)
    return ladder[0], ladder[1], ladder[2]


# ---- localised spins -------------------------------------------------------------------------------


class SpinLadder(NamedTuple):
    """Localised spins by site and local state, (L, d); zeros at sites without a spin.

    Attributes:
        sz, square: S^z and S (S + 1).
        raised, lowered: local state with S^z one higher or lower; -1: none.
        raising, lowering: elements of S+ and S- to these.
    """

    sz: Float64[Tensor, "L d"]
    square: Float64[Tensor, "L d"]
    raised: Int64[Tensor, "L d"]
    lowered: Int64[Tensor, "L d"]
    raising: Float64[Tensor, "L d"]
    lowering: Float64[Tensor, "L d"]


def spin_ladder(hilbert: HilbertSpace) -> SpinLadder:
    """S^z, S+ and S- of every local state.

    Raises:
        ValueError: not exactly one species of localised spins, or local states that the species do not tell apart.
    """
    species = localised_spins(hilbert)
    if species is None or species.twice_sz is None:
        raise ValueError(f"spin correlations need localised spins; the space is {hilbert}{species_hint(hilbert)}.")
    number, twice_sz = (torch.from_numpy(hilbert.table(v).copy()) for v in (species.occupation, species.twice_sz))
    sites = torch.arange(hilbert.local_dim) < torch.tensor(hilbert.local_dims)[:, None]  # (L, d): the state exists
    m = twice_sz.double().masked_fill(~sites, 0) / 2
    S = (m * (number > 0)).abs().amax(1, keepdim=True)
    square = torch.where((number > 0) & sites, S * (S + 1), 0)
    moved = torch.full((2, *m.shape), -1)
    others = torch.stack([torch.from_numpy(hilbert.table(s.occupation).copy()) for s in hilbert.species], dim=-1)
    for k, step in enumerate((2, -2)):
        same = (others[:, :, None] == others[:, None, :]).all(-1) & (number > 0)[:, :, None]
        there = same & (twice_sz[:, None, :] == twice_sz[:, :, None] + step) & sites[:, :, None] & sites[:, None, :]
        if (there.sum(-1) > 1).any():
            raise ValueError(f"several local states of {hilbert} hold the same particles and S^z.")
        moved[k] = torch.where(there.any(-1), there.double().argmax(-1), -1)
    raising, lowering = ((square - m * (m + step)).clamp(min=0).sqrt() for step in (1, -1))
    return SpinLadder(m, square, moved[0], moved[1], raising, lowering)
