"""Symmetry groups of configurations with one-dimensional irreducible representations (characters)."""

from nqs.symmetry.constructors import particle_hole, space_group, spin_flip, translations
from nqs.symmetry.group import Orbits, Symmetry
from nqs.symmetry.of_hamiltonian import commuting, symmetries_of

__all__ = [
    "Orbits",
    "Symmetry",
    "commuting",
    "particle_hole",
    "space_group",
    "spin_flip",
    "symmetries_of",
    "translations",
]
