"""Lattices from lists of edges, networkx and NetKet graphs."""

from collections.abc import Iterable
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


def from_networkx(graph: Any) -> Lattice:
    """A networkx graph. Site i is the i-th node in sorted order; node attributes "pos" become positions.

    Edges of undirected graphs are sorted, i < j; those of directed graphs keep their direction.
    """
    try:
        nodes = sorted(graph.nodes)
    except TypeError as error:
        raise TypeError(
            f"nodes of {graph} cannot be sorted ({error}), so that sites have no definite numbers. "
            f"Relabel them with networkx.convert_node_labels_to_integers first."
        ) from error
    site = {node: i for i, node in enumerate(nodes)}
    edges = [(site[a], site[b]) for a, b in graph.edges()]
    if not graph.is_directed():
        edges = [(min(edge), max(edge)) for edge in edges]
    placed = bool(nodes) and all("pos" in graph.nodes[node] for node in nodes)
    positions = [graph.nodes[node]["pos"] for node in nodes] if placed else None
    return _graph("networkx", sorted(edges), len(nodes), positions)


def from_netket(graph: Any) -> Lattice:
    """A NetKet graph, sites numbered as there; edge colours are not kept.

    An nk.graph.Lattice whose edges join its nearest neighbours keeps its geometry and NetKet's lengths. Any
    other, such as one with max_neighbor_order > 1, becomes a lattice made from edges, sorted with i < j.
    """
    edges = sorted((min(edge), max(edge)) for edge in graph.edges())
    positions = getattr(graph, "positions", None)
    if all(hasattr(graph, field) for field in ("basis_vectors", "site_offsets", "extent", "pbc")):
        words = ["periodic" if periodic else "open" for periodic in graph.pbc]
        lattice = crystal("netket", graph.extent.tolist(), words, graph.basis_vectors, graph.site_offsets)
        nearest = sorted((min(pair), max(pair)) for pair in lattice.bonds().tolist())
        if edges == nearest and np.allclose(graph.positions, lattice.coordinates.numpy()):
            return lattice
    return _graph("netket", edges, graph.n_nodes, positions)


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
