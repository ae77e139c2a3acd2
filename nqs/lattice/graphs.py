"""Lattices from lists of edges, networkx and NetKet graphs.

A lattice holds no couplings: weights and colours of edges are refused unless the caller takes them, as numbers by bond
in the order of `lattice.bonds()`, to the couplings of a Hamiltonian (`edge_weights`, `edge_colors`).
"""

from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from nqs.lattice.checks import checked_edges, checked_integer, nested_tuples, positive_integer
from nqs.lattice.constructors import crystal
from nqs.lattice.lattice import Lattice


def from_edges(
    edges: Iterable[Iterable[SupportsIndex]],
    n_sites: int | None = None,
    positions: ArrayLike | None = None,
) -> Lattice:
    """Any graph, its edges kept in the order and orientation given.

    Args:
        edges: pairs of sites, each pair once.
        n_sites: number of sites; as many as positions, or else up to the largest site in edges, if left out.
        positions: (L, 2) or any other number of coordinates, for plots only: distances count edges.
    """
    return _graph("edges", edges, n_sites, positions)


def from_networkx(graph: Any, *, ignore_weights: bool = False) -> Lattice:
    """A networkx graph. Site i is the i-th node in sorted order; node attributes "pos" become positions.

    Edges of undirected graphs are sorted, i < j; those of directed graphs keep their direction.

    Args:
        ignore_weights: accept edges with an attribute "weight" other than 1, which the lattice does not hold:
            Ising(from_networkx(graph, ignore_weights=True), h=1.0, J=edge_weights(graph)).

    Raises:
        ValueError: edges with weights; an edge that is given twice, or joins a node to itself.
        TypeError: nodes that cannot be sorted.
    """
    nodes, site = _numbered(graph)
    edges = [_pair(graph, site, a, b) for a, b in graph.edges()]
    weighted = [(a, b, weight) for a, b, weight in graph.edges(data="weight") if weight is not None and weight != 1]
    if weighted and not ignore_weights:
        a, b, weight = weighted[0]
        raise ValueError(
            f"the edges of this graph have weights, {weight!r} between {a!r} and {b!r}, which a lattice does not hold: "
            "pass ignore_weights=True, and edge_weights(graph) as couplings by bond, such as J=edge_weights(graph) "
            "(Heisenberg: J=[edge_weights(graph)])."
        )
    placed = bool(nodes) and all("pos" in graph.nodes[node] for node in nodes)
    positions = [graph.nodes[node]["pos"] for node in nodes] if placed else None
    return _graph("networkx", sorted(edges), len(nodes), positions)


def edge_weights(graph: Any, attribute: str = "weight") -> tuple[float, ...]:
    """An attribute of the edges of a networkx graph, in the order of `from_networkx(graph).bonds()`.

    Raises:
        ValueError: an edge without it, or with one that is no number.
    """
    _, site = _numbered(graph)
    found = {_pair(graph, site, a, b): ((a, b), value) for a, b, value in graph.edges(data=attribute)}
    wrong = [(edge, value) for edge, value in found.values() if not isinstance(value, Real)]
    if wrong:
        raise ValueError(f"{attribute}={wrong[0][1]!r} of the edge {wrong[0][0]}: every edge needs a number.")
    bonds = from_networkx(graph, ignore_weights=True).bonds().tolist()
    return tuple(float(found[i, j][1]) for i, j in bonds)


def from_netket(graph: Any, *, ignore_colors: bool = False) -> Lattice:
    """A NetKet graph, sites numbered as there.

    An nk.graph.Lattice keeps its geometry and NetKet's lengths if its edges join nearest neighbours, or, with
    max_neighbor_order > 1, if the colours of its edges are shells of neighbours: color k - 1 is then `bonds(k)`. Any
    other graph becomes a lattice made from edges, sorted with i < j.

    Args:
        ignore_colors: accept other edges of several colours, all of which become bonds of order 1; the couplings of the
            colours can be given by bond: J=[couplings[color] for color in edge_colors(graph)].

    Raises:
        ValueError: edges of several colours that are no shells of neighbours.
    """
    by_color: dict[int, list[tuple[int, int]]] = {}
    for i, j, color in graph.edges(return_color=True):
        by_color.setdefault(color, []).append((min(i, j), max(i, j)))
    edges = sorted(edge for colored in by_color.values() for edge in colored)
    colors = sorted(by_color)
    if all(hasattr(graph, field) for field in ("basis_vectors", "site_offsets", "extent", "pbc")):
        words = ["periodic" if periodic else "open" for periodic in graph.pbc]
        lattice = crystal("netket", graph.extent.tolist(), words, graph.basis_vectors, graph.site_offsets)
        if np.allclose(graph.positions, lattice.coordinates.numpy()):
            shells = [sorted(by_color[color]) for color in colors]
            if shells == [_sorted_bonds(lattice, k) for k in range(1, len(shells) + 1)]:
                return lattice
            if ignore_colors and edges == _sorted_bonds(lattice, 1):
                return lattice
    if len(colors) > 1 and not ignore_colors:
        raise ValueError(
            f"the edges of this graph have the colours {', '.join(map(str, colors))}, which a lattice does not hold: "
            "pass ignore_colors=True, and couplings by bond from edge_colors(graph), such as "
            "J=[couplings[color] for color in edge_colors(graph)] (Heisenberg: a list that holds this list)."
        )
    return _graph("netket", edges, graph.n_nodes, getattr(graph, "positions", None))


def edge_colors(graph: Any) -> tuple[int, ...]:
    """Colours of the edges of a NetKet graph, in the order of `from_netket(graph, ignore_colors=True).bonds()`."""
    colors = {(min(i, j), max(i, j)): color for i, j, color in graph.edges(return_color=True)}
    bonds = from_netket(graph, ignore_colors=True).bonds().tolist()
    return tuple(colors[min(bond), max(bond)] for bond in bonds)


def _sorted_bonds(lattice: Lattice, order: int) -> list[tuple[int, int]]:
    try:
        return sorted((min(pair), max(pair)) for pair in lattice.bonds(order).tolist())
    except ValueError:  # no such shell
        return []


def _numbered(graph: Any) -> tuple[list[Any], dict[Any, int]]:
    """Nodes of a networkx graph in sorted order, and their numbers."""
    try:
        nodes = sorted(graph.nodes)
    except TypeError as error:
        raise TypeError(
            f"nodes of {graph} cannot be sorted ({error}), so that sites have no definite numbers. "
            f"Relabel them with networkx.convert_node_labels_to_integers first."
        ) from error
    return nodes, {node: i for i, node in enumerate(nodes)}


def _pair(graph: Any, site: Mapping[Any, int], a: Any, b: Any) -> tuple[int, int]:
    i, j = site[a], site[b]
    return (i, j) if graph.is_directed() else (min(i, j), max(i, j))


def _graph(kind: str, edges: Iterable[Iterable[SupportsIndex]], n_sites: int | None, positions: Any) -> Lattice:
    given = [tuple(edge) for edge in edges]
    places = None if positions is None else np.array(positions, dtype=float)
    if n_sites is None:
        largest = max((checked_integer(site, "a site of an edge") for edge in given for site in edge), default=-1)
        n_sites = largest + 1 if places is None else len(places)
    n_sites = positive_integer(n_sites, "n_sites")
    if places is not None and (places.ndim != 2 or len(places) != n_sites):
        raise ValueError(
            f"positions have shape {places.shape} for {n_sites} sites; give one row of coordinates per site, "
            f"or no positions."
        )
    basis = ((),) * n_sites if places is None else nested_tuples(places.tolist())
    pairs = checked_edges(given, n_sites)
    return Lattice(f"{kind}({n_sites} sites, {len(pairs)} edges)", (), (), (), basis, pairs)
