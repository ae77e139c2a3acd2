"""Wavefunctions and their parts."""

from nqs.models.references.determinant import SlaterDeterminant
from nqs.models.references.hartree_fock import HartreeFock, free_fermions, hartree_fock
from nqs.models.references.listed import ListedState
from nqs.models.references.marshall import MarshallSign
from nqs.models.references.phase import phase_agreement
from nqs.models.references.projection import ProjectedDeterminant, sector_of
from nqs.models.symmetric.average import Symmetrised
from nqs.models.symmetric.on_orbits import OnOrbits
from nqs.models.transformer import Transformer, TransformerConfig

__all__ = [
    "HartreeFock",
    "ListedState",
    "MarshallSign",
    "OnOrbits",
    "ProjectedDeterminant",
    "SlaterDeterminant",
    "Symmetrised",
    "Transformer",
    "TransformerConfig",
    "free_fermions",
    "hartree_fock",
    "phase_agreement",
    "sector_of",
]
