"""Wavefunctions and their parts."""

from nqs.models.hartree_fock import HartreeFock, free_fermions, hartree_fock
from nqs.models.on_orbits import OnOrbits
from nqs.models.reference import MarshallSign, SlaterDeterminant, WithReference, phase_agreement
from nqs.models.sectors import ProjectedDeterminant, lowest_sector, sector_of, weight_in_sector
from nqs.models.symmetrised import Symmetrised
from nqs.models.transformer import Transformer, TransformerConfig

__all__ = [
    "HartreeFock",
    "MarshallSign",
    "OnOrbits",
    "ProjectedDeterminant",
    "SlaterDeterminant",
    "Symmetrised",
    "Transformer",
    "TransformerConfig",
    "WithReference",
    "free_fermions",
    "hartree_fock",
    "lowest_sector",
    "phase_agreement",
    "sector_of",
    "weight_in_sector",
]
