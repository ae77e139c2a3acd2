"""Hamiltonians, one model family per file."""

from nqs.hamiltonians.bose_hubbard import BoseHubbard, harmonic_trap
from nqs.hamiltonians.fermi_hubbard import FermiHubbard, staggered_potential
from nqs.hamiltonians.heisenberg import Heisenberg
from nqs.hamiltonians.integrals import Integrals
from nqs.hamiltonians.ising import Ising
from nqs.hamiltonians.local_hamiltonian import LocalHamiltonian
from nqs.hamiltonians.local_terms import LocalTerms
from nqs.hamiltonians.molecule import Molecule
from nqs.hamiltonians.netket.export import to_netket
from nqs.hamiltonians.netket.operator import NetKetOperator
from nqs.hamiltonians.one_electron import OneElectron
from nqs.hamiltonians.operators import Operator
from nqs.hamiltonians.rydberg import Rydberg, pxp
from nqs.hamiltonians.tj import TJ
from nqs.hamiltonians.tv import TV

__all__ = [
    "TJ",
    "TV",
    "BoseHubbard",
    "FermiHubbard",
    "Heisenberg",
    "Integrals",
    "Ising",
    "LocalHamiltonian",
    "LocalTerms",
    "Molecule",
    "NetKetOperator",
    "OneElectron",
    "Operator",
    "Rydberg",
    "harmonic_trap",
    "pxp",
    "staggered_potential",
    "to_netket",
]
