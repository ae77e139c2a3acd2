"""Classes of sites, and of pairs of sites, that a network may treat alike."""

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from nqs.lattice.lattice import Lattice
from nqs.symmetry.group import Symmetry


def classes_of_pairs(lattice: Lattice) -> Int64[Tensor, "L L"]:
    """Class of every pair: equal displacements; on lattices made from edges, which have none, equal distances."""
    if lattice.edges is None:
        return lattice.displacements()
    _, number = lattice.distances().unique(return_inverse=True)
    return number


def classes_of_sites(lattice: Lattice, symmetry: Symmetry) -> Int64[Tensor, " L"]:
    """Class of every site, numbered from 0: those that the permutations of a symmetry turn into each other."""
    permutations = np.array(symmetry.permutations)  # (G, L)
    return torch.from_numpy(np.unique(permutations.min(0), return_inverse=True)[1].reshape(-1))
