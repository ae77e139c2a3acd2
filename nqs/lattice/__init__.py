"""Lattices: sites, bonds and their symmetries."""

from nqs.lattice.constructors import chain, honeycomb, hypercubic, kagome, square, triangular
from nqs.lattice.graphs import from_edges, from_netket, from_networkx
from nqs.lattice.lattice import Lattice

__all__ = [
    "Lattice",
    "chain",
    "from_edges",
    "from_netket",
    "from_networkx",
    "honeycomb",
    "hypercubic",
    "kagome",
    "square",
    "triangular",
]
