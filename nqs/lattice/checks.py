"""Checks of what lattices are built from."""

import operator
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

BOUNDARIES = ("open", "periodic", "antiperiodic")

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def checked_edges(edges: Iterable[Iterable[SupportsIndex]], n_sites: int) -> tuple[tuple[int, int], ...]:
    checked: list[tuple[int, int]] = []
    seen: set[frozenset[int]] = set()
    for edge in edges:
        ends = tuple(checked_integer(site, "a site of an edge") for site in edge)
        if len(ends) != 2:
            raise ValueError(f"edge {ends} has {len(ends)} ends; an edge is a pair of sites (i, j).")
        i, j = ends
        if not (0 <= i < n_sites and 0 <= j < n_sites):
            raise ValueError(
                f"edge {(i, j)} leaves the lattice: it has {n_sites} sites, so indices run from 0 to "
                f"{n_sites - 1}. Is n_sites right?"
            )
        if i == j:
            raise ValueError(f"edge {(i, j)} joins a site to itself; a bond joins two sites. Leave it out.")
        if frozenset((i, j)) in seen:
            raise ValueError(
                f"edge {(i, j)} is given twice, as it is or as {(j, i)}; each bond counts once. Leave one "
                f"out and give its bond the sum of the couplings, with one number per bond (J=[...] or t=[...])."
            )
        seen.add(frozenset((i, j)))
        checked.append((i, j))
    return tuple(checked)


def boundary_words(boundary: Any, n_directions: int) -> tuple[str, ...]:
    several = isinstance(boundary, Iterable) and not isinstance(boundary, str)
    words = tuple(boundary) if several else (boundary,) * n_directions
    for word in words:
        if word not in BOUNDARIES:
            raise ValueError(
                f"boundary {word!r} is unknown; use {', '.join(map(repr, BOUNDARIES))}: one word for all "
                f"directions, or one per direction."
            )
    if len(words) != n_directions:
        raise ValueError(
            f"boundary {words} has {len(words)} words for {n_directions} directions; give one word for all, "
            f"or one per direction."
        )
    return words


def checked_integer(value: Any, what: str) -> int:
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{what} is {value!r} ({type(value).__name__}); it must be an integer.") from None


def positive_integer(value: Any, what: str) -> int:
    number = checked_integer(value, what)
    if number < 1:
        raise ValueError(f"{what} is {number}; it must be at least 1.")
    return number


def nested_tuples(value: Any) -> Any:
    """Nested lists as nested tuples."""
    return tuple(map(nested_tuples, value)) if isinstance(value, list | tuple) else value


def distinct_rows(permutations: Sequence[IntArray] | IntArray) -> IntArray:
    """Distinct rows in lexicographic order, which puts the identity first."""
    rows = np.array(permutations, dtype=">i4")  # big-endian bytes sort as the numbers do
    joined = b"".join(sorted({row.tobytes() for row in rows}))
    return np.frombuffer(joined, dtype=">i4").reshape(-1, rows.shape[1]).astype(np.int64)
