"""Lattices: sites, bonds and their symmetries."""

from nqs.lattice.constructors import chain, honeycomb, hypercubic, kagome, square, triangular
from nqs.lattice.graphs import edge_colors, edge_weights, from_edges, from_netket, from_networkx
from nqs.lattice.lattice import Lattice

__all__ = [
    "Lattice",
    "chain",
    "edge_colors",
    "edge_weights",
    "from_edges",
    "from_netket",
    "from_networkx",
    "honeycomb",
    "hypercubic",
    "kagome",
    "square",
    "triangular",
]
