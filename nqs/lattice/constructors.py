"""Lattices by name: chain, square, hypercubic, triangular, honeycomb, kagome."""

import math
from collections.abc import Sequence

import numpy as np

from nqs.lattice.checks import FloatArray, boundary_words, nested_tuples, positive_integer
from nqs.lattice.lattice import Lattice

# ---- constructors ----------------------------------------------------------------------------------


def chain(n_sites: int, periodic: bool | None = None, boundary: str | None = None) -> Lattice:
    """Chain, periodic unless periodic=False or one of boundary="open", "antiperiodic" says otherwise.

    >>> chain(4).bonds().tolist()
    [[0, 1], [1, 2], [2, 3], [3, 0]]
    >>> chain(4, periodic=False).bonds(2).tolist()
    [[0, 2], [1, 3]]
    """
    if periodic is not None and not isinstance(periodic, bool):
        raise TypeError(f"periodic is {periodic!r}; it must be True or False. A word goes into boundary=.")
    word = {None: "periodic", True: "periodic", False: "open"}[periodic]
    if periodic is not None and boundary not in (None, word):
        raise ValueError(f"periodic={periodic} contradicts boundary={boundary!r}; give one of them.")
    return hypercubic((n_sites,), word if boundary is None else boundary)


def square(width: int, height: int | None = None, boundary: str | Sequence[str] = "periodic") -> Lattice:
    """Square lattice of width x height sites (height: as width); site x * height + y sits at (x, y)."""
    return hypercubic((width, width if height is None else height), boundary)


def hypercubic(shape: Sequence[int], boundary: str | Sequence[str] = "periodic") -> Lattice:
    """Chain, square, cubic, ... lattice; sites in row-major order, as in NetKet's nk.graph.Grid(shape).

    Args:
        shape: sites per direction.
        boundary: "open", "periodic" or "antiperiodic", one word for all directions or one per direction.
    """
    try:
        sizes = tuple(shape)
    except TypeError:
        raise TypeError(f"shape is {shape!r}; give one size per direction, such as hypercubic((4, 4)).") from None
    if not sizes:
        raise ValueError(f"shape is {shape!r}; give one size per direction, such as hypercubic((4, 4)).")
    kind = {1: "chain", 2: "square", 3: "cubic"}.get(len(sizes), "hypercubic")
    return crystal(kind, sizes, boundary, np.eye(len(sizes)), np.zeros((1, len(sizes))))


def triangular(width: int, height: int | None = None, boundary: str | Sequence[str] = "periodic") -> Lattice:
    """Triangular lattice, primitive vectors (1, 0) and (1/2, sqrt(3)/2), six neighbours per site."""
    return _hexagonal("triangular", width, height, boundary, 1.0, [(0.0, 0.0)])


def honeycomb(width: int, height: int | None = None, boundary: str | Sequence[str] = "periodic") -> Lattice:
    """Honeycomb lattice of width x height unit cells with two sites, three neighbours per site."""
    return _hexagonal("honeycomb", width, height, boundary, math.sqrt(3), [(1 / 3, 1 / 3), (2 / 3, 2 / 3)])


def kagome(width: int, height: int | None = None, boundary: str | Sequence[str] = "periodic") -> Lattice:
    """Kagome lattice of width x height unit cells with three sites, four neighbours per site."""
    return _hexagonal("kagome", width, height, boundary, 2.0, [(1 / 2, 0.0), (0.0, 1 / 2), (1 / 2, 1 / 2)])


# ---- checks and small helpers ----------------------------------------------------------------------


def _hexagonal(
    kind: str,
    width: int,
    height: int | None,
    boundary: str | Sequence[str],
    constant: float,  # length of the primitive vectors; neighbours are at distance 1
    fractions: list[tuple[float, float]],
) -> Lattice:
    vectors = constant * np.array([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    shape = (width, width if height is None else height)
    return crystal(kind, shape, boundary, vectors, np.array(fractions) @ vectors)


def crystal(
    kind: str, shape: Sequence[int], boundary: str | Sequence[str], vectors: FloatArray, basis: FloatArray
) -> Lattice:
    sizes = tuple(positive_integer(size, "a size of the lattice") for size in shape)
    words = boundary_words(boundary, len(sizes))
    text = words[0] if len(set(words)) == 1 else " x ".join(words)
    name = f"{kind}({' x '.join(map(str, sizes))}, {text})"
    return Lattice(name, sizes, words, nested_tuples(vectors.tolist()), nested_tuples(basis.tolist()))
