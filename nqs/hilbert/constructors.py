"""Hilbert spaces of bosons, fermions and spins, and products of them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np

from nqs.hilbert.charges import Charge, Kind, Species, Values, rows_of
from nqs.hilbert.space import HilbertSpace, check_sites

T = TypeVar("T")


def bosons(n_sites: int, n_particles: int | None = None, n_max: int | Sequence[int] | None = None) -> HilbertSpace:
    """Bosons with occupation numbers 0 .. n_max per site.

    Args:
        n_sites: number of sites.
        n_particles: conserved total number; None for the grand-canonical space.
        n_max: largest occupation of a site, one number or one for each site; None for no cutoff, which needs
            n_particles.

    Raises:
        ValueError: negative numbers, a cutoff below the filling, or neither a number nor a cutoff.

    >>> space = bosons(2, 3)
    >>> space.dimension
    4
    >>> space.configurations().tolist()
    [[0, 3], [1, 2], [2, 1], [3, 0]]
    """
    if n_particles is None and n_max is None:
        raise ValueError("bosons without a fixed n_particles need a cutoff: give n_max, such as n_max=4.")
    check_sites(n_sites)
    if n_particles is not None and n_particles < 0:
        raise ValueError(f"n_particles={n_particles}: a number of particles is 0 or more.")
    most = one_for_each(n_particles if n_max is None else n_max, n_sites, "n_max")
    if n_max is not None and min(most) < 1:
        raise ValueError(f"n_max={n_max}: at least one boson must fit on a site, n_max >= 1.")
    if n_particles is not None and n_particles > sum(most):
        enough = f" to at least {-(-n_particles // n_sites)}" if isinstance(n_max, int) else ""
        raise ValueError(
            f"n_max={n_max} on {n_sites} sites holds at most {sum(most)} bosons, but n_particles={n_particles}: "
            f"raise n_max{enough} or lower n_particles."
        )
    rows = [tuple(range((k if n_particles is None else min(k, n_particles)) + 1)) for k in most]
    numbers, names = _shared(rows), _shared([tuple(map(str, row)) for row in rows])
    particles, species = Charge("particles", numbers, n_particles), Species("particles", "boson", numbers)
    return HilbertSpace(n_sites, names, (particles,), (species,))


def fermions(n_orbitals: int, n_particles: int | None = None) -> HilbertSpace:
    """Spinless fermions, or spin-orbitals: each orbital is empty (0) or occupied (1)."""
    particles, species = Charge("particles", (0, 1), n_particles), Species("particles", "fermion", (0, 1))
    return HilbertSpace(n_orbitals, ("empty", "occupied"), (particles,), (species,))


def spinful_fermions(n_orbitals: int, n_up: int | None = None, n_down: int | None = None) -> HilbertSpace:
    """Spin-1/2 fermions: each orbital is empty (0), up (1), down (2) or doubly occupied (3)."""
    return electrons(n_orbitals, ("empty", "up", "down", "both"), n_up, n_down)


def electrons(
    n_orbitals: int, local_states: tuple[str, ...], n_up: int | None = None, n_down: int | None = None
) -> HilbertSpace:
    """Spin-1/2 fermions with the first of the local states empty (0), up (1), down (2), doubly occupied (3).

    Jordan-Wigner order: all up orbitals in the order of the sites, then all down orbitals.
    """
    states = range(len(local_states))
    up, down = tuple(k & 1 for k in states), tuple(k >> 1 for k in states)
    charges = (Charge("up electrons", up, n_up), Charge("down electrons", down, n_down))
    species = (
        Species("up electrons", "fermion", up, up),
        Species("down electrons", "fermion", down, tuple(-n for n in down)),
    )
    return HilbertSpace(n_orbitals, local_states, charges, species)


def spins(n_sites: int, total_sz: float | None = None, spin: float | Sequence[float] = 0.5) -> HilbertSpace:
    """Spins of length `spin`: local state k has S^z = k - spin, so that 0 is fully down.

    Args:
        n_sites: number of spins.
        total_sz: conserved total S^z, a multiple of 1/2; None where it is not conserved.
        spin: 1/2, 1, 3/2, ..., one length or one for each site.

    Raises:
        ValueError: spin or total_sz is no multiple of 1/2, or total_sz cannot be reached.

    >>> spins(4, 0, spin=(0.5, 1, 0.5, 1)).dimension
    10
    """
    check_sites(n_sites)
    lengths = [_doubled("spin", s) for s in one_for_each(spin, n_sites, "spin")]
    if min(lengths) < 1:
        raise ValueError(f"spin={spin}: the length of a spin is 1/2, 1, 3/2, ...")
    rows = [tuple(2 * k - twice for k in range(twice + 1)) for twice in lengths]
    values, names = _shared(rows), _shared([tuple(str(Fraction(v, 2)) for v in row) for row in rows])
    target = None if total_sz is None else _doubled("total_sz", total_sz)
    most = sum(lengths)
    if target is not None and (abs(target) > most or (target - most) % 2):
        kinds = " or ".join(sorted({str(Fraction(twice, 2)) for twice in lengths}))
        raise ValueError(
            f"total_sz={Fraction(target, 2)} is impossible for {n_sites} spins of length {kinds}: it can be "
            f"{Fraction(-most, 2)} to {Fraction(most, 2)} in steps of 1."
        )
    species = Species("spins", "spin", _shared([(1,) * len(row) for row in rows]), values)
    return HilbertSpace(n_sites, names, (Charge("2 Sz", values, target),), (species,))


def one_for_each(value: Any, n_sites: int, name: str) -> list[Any]:
    """One number for each site, from one number or a list.

    Raises:
        ValueError: a list of another length.
    """
    values = np.asarray(value).tolist()
    values = values if isinstance(values, list) else [values] * n_sites
    if len(values) != n_sites:
        raise ValueError(f"{name} has {len(values)} values for {n_sites} sites: give one number, or one for each site.")
    return values


def _shared(rows: Sequence[tuple[T, ...]]) -> tuple[T, ...] | tuple[tuple[T, ...], ...]:
    """The rows of all sites, or the one row that they share."""
    return rows[0] if len(set(rows)) == 1 else tuple(rows)


def _doubled(name: str, value: float) -> int:
    """2 * value as an integer, refusing what is no multiple of 1/2."""
    if not math.isfinite(value) or 2 * value != round(2 * value):
        raise ValueError(f"{name}={value}: it must be a multiple of 1/2.")
    return round(2 * value)


def product_space(*spaces: HilbertSpace) -> HilbertSpace:
    """The sites of several spaces one after the other, such as spins beside bosons.

    Each space keeps what it conserves. Free charges and species of the same name are those of all sites together.

    >>> product_space(spins(1), bosons(2, 3)).dimension
    8
    """
    dims = [d for space in spaces for d in space.local_dims]
    starts = itertools.accumulate((space.n_sites for space in spaces[:-1]), initial=0)
    charges: dict[tuple[str, int | None], Charge] = {}
    species: dict[tuple[str, Kind], Species] = {}
    exclusions = []
    for space, start in zip(spaces, starts, strict=True):

        def placed(values: Values, space: HilbertSpace = space, start: int = start) -> np.ndarray:
            table = np.zeros((len(dims), max(dims)), dtype=np.int64)
            table[start : start + space.n_sites, : space.local_dim] = space.table(values)
            return table

        exclusions += [exclusion.moved(start) for exclusion in space.exclusions]
        for charge in space.charges:
            free = charge.target is None
            name = charge.name if free else f"{charge.name} of the sites {start} to {start + space.n_sites - 1}"
            before = charges.get((name, charge.modulus))
            table = placed(charge.values) + (0 if before is None else _padded(before.values, dims))
            charges[name, charge.modulus] = replace(charge, name=name, values=_row_by_row(table, dims))
        for one in space.species:
            other = species.get((one.name, one.kind))
            occupation = placed(one.occupation) + (0 if other is None else _padded(other.occupation, dims))
            spin = [placed(one.twice_sz)] if one.twice_sz is not None else []
            spin += [_padded(other.twice_sz, dims)] if other is not None and other.twice_sz is not None else []
            species[one.name, one.kind] = replace(
                one,
                occupation=_row_by_row(occupation, dims),
                twice_sz=_row_by_row(np.sum(spin, axis=0), dims) if spin else None,
            )
    states = tuple(space.states_at(site) for space in spaces for site in range(space.n_sites))
    known = tuple(species.values()) if all(space.species for space in spaces) else ()
    return HilbertSpace(len(dims), states, tuple(charges.values()), known, tuple(exclusions))


def _row_by_row(table: np.ndarray, dims: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row[:d]) for row, d in zip(table.tolist(), dims, strict=True))


def _padded(values: Values, dims: Sequence[int]) -> np.ndarray:
    table = np.zeros((len(dims), max(dims)), dtype=np.int64)
    for row, numbers in zip(table, rows_of(values), strict=True):
        row[: len(numbers)] = numbers
    return table
