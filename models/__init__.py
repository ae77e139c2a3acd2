"""Wavefunctions and their parts."""

from nqs.models.determinant import Determinant, DeterminantConfig
from nqs.models.jastrow import Jastrow, JastrowConfig
from nqs.models.product import Product, ProductConfig
from nqs.models.rbm import RBM, RBMConfig
from nqs.models.references.determinant import SlaterDeterminant
from nqs.models.references.hartree_fock import HartreeFock, free_fermions, hartree_fock
from nqs.models.references.listed import ListedState
from nqs.models.references.marshall import MarshallSign
from nqs.models.references.phase import phase_agreement
from nqs.models.references.projected_energy import projected_mean_field
from nqs.models.references.projection import ProjectedDeterminant, sector_of
from nqs.models.symmetric.average import Symmetrised
from nqs.models.symmetric.on_orbits import OnOrbits
from nqs.models.symmetric.projected import Projected
from nqs.models.transformer import Transformer, TransformerConfig
from nqs.models.vision import Vision, VisionConfig, on_patches

__all__ = [
    "RBM",
    "Determinant",
    "DeterminantConfig",
    "HartreeFock",
    "Jastrow",
    "JastrowConfig",
    "ListedState",
    "MarshallSign",
    "OnOrbits",
    "Product",
    "ProductConfig",
    "Projected",
    "ProjectedDeterminant",
    "RBMConfig",
    "SlaterDeterminant",
    "Symmetrised",
    "Transformer",
    "TransformerConfig",
    "Vision",
    "VisionConfig",
    "free_fermions",
    "hartree_fock",
    "on_patches",
    "phase_agreement",
    "projected_mean_field",
    "sector_of",
]
