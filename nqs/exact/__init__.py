"""Exact diagonalisation in the sector of a Hamiltonian."""

from nqs.exact.diagonalisation import ExactGroundState, ground_state
from nqs.exact.sector_matrix import sparse_matrix

__all__ = ["ExactGroundState", "ground_state", "sparse_matrix"]
