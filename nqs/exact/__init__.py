"""Exact diagonalisation in the sector of a Hamiltonian, or in one of its symmetry sectors."""

from nqs.exact.diagonalisation import ExactGroundState, ground_state
from nqs.exact.levels import ExactLevels, lowest
from nqs.exact.projection import lowest_sector, projected_energies, weight_in_sector
from nqs.exact.sector_matrix import SectorMatrix, sparse_matrix

__all__ = [
    "ExactGroundState",
    "ExactLevels",
    "SectorMatrix",
    "ground_state",
    "lowest",
    "lowest_sector",
    "projected_energies",
    "sparse_matrix",
    "weight_in_sector",
]
