"""Conserved charges, and the species of particles that local states hold."""

from dataclasses import dataclass
from typing import Literal, get_args

Values = tuple[int, ...] | tuple[tuple[int, ...], ...]  # of each local state, or a row of them for each site
Kind = Literal["boson", "fermion", "spin", "other"]


@dataclass(frozen=True)
class Charge:
    """An additive quantum number: a configuration n carries sum_s values[n_s], or sum_s values[s][n_s].

    Attributes:
        name: used in messages, such as "particles".
        values: charge of every local state, d integers; L rows of them where it depends on the site, such as the number
            of particles on one sublattice, or a momentum.
        target: its value in the sector; None where it is not conserved.
        modulus: conserved only modulo this integer (2 for a parity); None for an exact target.
    """

    name: str
    values: Values
    target: int | None = None
    modulus: int | None = None


@dataclass(frozen=True)
class Species:
    """One kind of particle: what it is and how many of it each local state holds. Names carry no physics.

    Attributes:
        name: used in messages and in the names of observables.
        kind: "boson"; "fermion", whose operators on different sites anticommute; "spin", localised on its site;
            "other" if it is only known that operators on different sites commute.
        occupation: number of these particles in each local state, or a row for each site; 0 or 1 for fermions, 1 for a
            localised spin.
        twice_sz: their 2 S^z, in the same form; None for particles without spin.

    Raises:
        ValueError: an unknown kind, or more than one fermion of a species in a local state.
    """

    name: str
    kind: Kind
    occupation: Values
    twice_sz: Values | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"species {self.name!r} has the kind {self.kind!r}: choose one of {get_args(Kind)}.")
        numbers = [number for row in rows_of(self.occupation) for number in row]
        if min(numbers, default=0) < 0 or (self.kind == "fermion" and max(numbers, default=0) > 1):
            raise ValueError(
                f"species {self.name!r} has the occupation numbers {self.occupation}: they are 0 or more, for fermions "
                "0 or 1 (a species for each spin)."
            )


def depends_on_site(values: Values) -> bool:
    """Whether the values are given as a row for each site."""
    return any(not isinstance(row, int) for row in values)


def rows_of(values: Values) -> list[tuple[int, ...]]:
    """The rows of all sites, or the one row that all sites share."""
    rows = [row for row in values if not isinstance(row, int)]
    return rows or [tuple(row for row in values if isinstance(row, int))]
