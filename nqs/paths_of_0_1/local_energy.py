"""Deprecated path of 0.1: import from nqs.estimators.local_energy and nqs.samples."""

from nqs.estimators.local_energy import local_energies
from nqs.samples import LocalEnergies

__all__ = ["LocalEnergies", "local_energies"]
