"""Constraints between pairs of sites: a Rydberg blockade, hard-core dimers, bosons with a hard core of finite range."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Exclusion:
    """Local states that the two sites of a pair do not have at the same time.

    A Rydberg blockade of nearest neighbours is `Exclusion(lattice.bonds().tolist())`. Hard-core dimers are links that
    exclude each other where they share a site. Exactly one dimer on each site is not an exclusion but a charge for each
    site, 1 on its links, with the target 1.

    Attributes:
        pairs: the sites (i, j), such as lattice.bonds().tolist(); kept as tuples.
        states: the excluded (state of i, state of j); by default both in the local state 1.
        name: used in messages.

    Raises:
        ValueError: a pair that is not two different sites, or no states.
    """

    pairs: Sequence[Sequence[int]]
    states: Sequence[Sequence[int]] = ((1, 1),)
    name: str = "blockade"

    def __post_init__(self) -> None:
        for field in ("pairs", "states"):
            rows = tuple(tuple(int(x) for x in row) for row in getattr(self, field))
            if any(len(row) != 2 or min(row) < 0 for row in rows):
                raise ValueError(f"{self.name}: {field} must hold pairs of integers of 0 or more; found {rows}.")
            object.__setattr__(self, field, rows)
        if not self.states:
            raise ValueError(f"{self.name} excludes no states: give pairs such as ((1, 1),).")
        for i, j in self.pairs:
            if i == j:
                raise ValueError(f"{self.name} pairs site {i} with itself: leave that local state out of the site.")

    def check(self, local_dims: Sequence[int]) -> None:
        """
        Raises:
            ValueError: a site or a local state that the space does not have.
        """
        for i, j in self.pairs:
            if max(i, j) >= len(local_dims):
                raise ValueError(
                    f"{self.name} names site {max(i, j)} of {len(local_dims)}: sites are 0 to {len(local_dims) - 1}."
                )
            for a, b in self.states:
                if a >= local_dims[i] or b >= local_dims[j]:
                    raise ValueError(
                        f"{self.name} excludes the local states {(a, b)} of the sites {(i, j)}, which have "
                        f"{local_dims[i]} and {local_dims[j]} of them, numbered from 0."
                    )

    def moved(self, start: int) -> "Exclusion":
        """The same with `start` sites in front."""
        return Exclusion(tuple((i + start, j + start) for i, j in self.pairs), self.states, self.name)


def excluded_pairs(exclusions: Sequence[Exclusion], local_dim: int) -> dict[tuple[int, int], np.ndarray]:
    """Which states, (d, d), the sites i < j of each pair may not have together; d is `local_dim`."""
    found: dict[tuple[int, int], np.ndarray] = {}
    for exclusion in exclusions:
        for i, j in exclusion.pairs:
            table = found.setdefault((min(i, j), max(i, j)), np.zeros((local_dim, local_dim), dtype=bool))
            for a, b in exclusion.states:
                table[(a, b) if i < j else (b, a)] = True
    return found
