"""Hamiltonians, one model family per file.

docs/adding_hamiltonian.md shows how to write one; `nqs.estimators.hamiltonian_check` says what is checked before a run.
"""

from typing import TYPE_CHECKING

from nqs.runtime.lazy import on_first_use

if TYPE_CHECKING:
    from nqs.hamiltonians.bose_hubbard import BoseHubbard, harmonic_trap
    from nqs.hamiltonians.family import Family
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
    "Family",
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

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "bose_hubbard": "BoseHubbard harmonic_trap",
        "family": "Family",
        "fermi_hubbard": "FermiHubbard staggered_potential",
        "heisenberg": "Heisenberg",
        "integrals": "Integrals",
        "ising": "Ising",
        "local_hamiltonian": "LocalHamiltonian",
        "local_terms": "LocalTerms",
        "molecule": "Molecule",
        "netket.export": "to_netket",
        "netket.operator": "NetKetOperator",
        "one_electron": "OneElectron",
        "operators": "Operator",
        "rydberg": "Rydberg pxp",
        "tj": "TJ",
        "tv": "TV",
    },
)
