"""Wavefunctions and their parts."""

from typing import TYPE_CHECKING

from nqs.runtime.lazy import on_first_use

if TYPE_CHECKING:
    from nqs.models.convolutional import Convolutional, ConvolutionalConfig
    from nqs.models.determinant import Determinant, DeterminantConfig
    from nqs.models.group_convolutional import GroupConvolutional, GroupConvolutionalConfig
    from nqs.models.jastrow import Jastrow, JastrowConfig
    from nqs.models.product import Product, ProductConfig
    from nqs.models.rbm import RBM, RBMConfig
    from nqs.models.references.determinant import SlaterDeterminant
    from nqs.models.references.hartree_fock import HartreeFock, free_fermions, hartree_fock
    from nqs.models.references.listed import ListedState
    from nqs.models.references.marshall import MarshallSign
    from nqs.models.references.phase import phase_agreement
    from nqs.models.references.projected_energy import projected_mean_field, projected_on_few
    from nqs.models.references.projection import ProjectedDeterminant, sector_of
    from nqs.models.symmetric.average import Symmetrised
    from nqs.models.symmetric.on_orbits import OnOrbits
    from nqs.models.symmetric.projected import Projected
    from nqs.models.transformer import Transformer, TransformerConfig
    from nqs.models.vision import Vision, VisionConfig, on_patches

__all__ = [
    "RBM",
    "Convolutional",
    "ConvolutionalConfig",
    "Determinant",
    "DeterminantConfig",
    "GroupConvolutional",
    "GroupConvolutionalConfig",
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
    "projected_on_few",
    "sector_of",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "convolutional": "Convolutional ConvolutionalConfig",
        "determinant": "Determinant DeterminantConfig",
        "group_convolutional": "GroupConvolutional GroupConvolutionalConfig",
        "jastrow": "Jastrow JastrowConfig",
        "product": "Product ProductConfig",
        "rbm": "RBM RBMConfig",
        "references.determinant": "SlaterDeterminant",
        "references.hartree_fock": "HartreeFock free_fermions hartree_fock",
        "references.listed": "ListedState",
        "references.marshall": "MarshallSign",
        "references.phase": "phase_agreement",
        "references.projected_energy": "projected_mean_field projected_on_few",
        "references.projection": "ProjectedDeterminant sector_of",
        "symmetric.average": "Symmetrised",
        "symmetric.on_orbits": "OnOrbits",
        "symmetric.projected": "Projected",
        "transformer": "Transformer TransformerConfig",
        "vision": "Vision VisionConfig on_patches",
    },
)
