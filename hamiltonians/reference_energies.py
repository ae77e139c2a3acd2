"""Energies of a molecule by other methods of quantum chemistry, by PySCF, to show beside a result.

Restricted integrals are handed to PySCF as a mean-field problem whose atomic orbitals are those of the integrals.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from nqs.hamiltonians.molecule import Molecule
from nqs.hamiltonians.quantum_chemistry import CONVERGED, PySCFMissing, pyscf

MAX_DETERMINANTS = 10**7  # of full configuration interaction


def pyscf_mean_field(molecule: Molecule) -> Any:
    """A mean-field object of PySCF whose atomic orbitals are those of the integrals, restricted ones.

    Raises:
        PySCFMissing: PySCF is not installed.
        ValueError: unrestricted orbitals.
    """
    package = pyscf()
    integrals, M = molecule.integrals, molecule.integrals.n_orbitals
    if not integrals.is_restricted:
        raise ValueError("coupled cluster here needs restricted orbitals.")
    fake = package.gto.M(verbose=0)
    fake.nelectron, fake.spin = molecule.n_up + molecule.n_down, molecule.n_up - molecule.n_down
    fake.incore_anyway, fake.nao = True, M
    fake.energy_nuc = lambda *_: integrals.core
    method = (package.scf.RHF if fake.spin == 0 else package.scf.UHF)(fake)
    method.get_hcore = lambda *_: integrals.h(0)
    method.get_ovlp = lambda *_: np.eye(M)
    method._eri = package.ao2mo.restore(8, integrals.four_index(), M)
    method.conv_tol = CONVERGED
    return method


def coupled_cluster(molecule: Molecule) -> tuple[float, float, float]:
    """Energies of Hartree-Fock (UHF for open shells), CCSD and CCSD(T) for the integrals; nan where not converged.

    Raises:
        PySCFMissing, ValueError: as `pyscf_mean_field`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        method = pyscf_mean_field(molecule)
        n = molecule.lowest_determinant.numpy()
        up, down = (n & 1).astype(float), (n >> 1).astype(float)
        density = np.diag(up + down) if molecule.n_up == molecule.n_down else np.stack([np.diag(up), np.diag(down)])
        method.kernel(dm0=density)
        if not method.converged:
            return math.nan, math.nan, math.nan
        cc = pyscf().cc.CCSD(method)
        cc.max_cycle = 200
        cc.kernel()
        if not cc.converged:
            return float(method.e_tot), math.nan, math.nan
        return float(method.e_tot), float(cc.e_tot), float(cc.e_tot + cc.ccsd_t())


def full_ci(molecule: Molecule) -> float:
    """Lowest energy of all determinants of n_up and n_down electrons (without regard to parities), by PySCF.

    Raises:
        PySCFMissing: PySCF is not installed.
        RuntimeError: the diagonalisation did not converge.
    """
    fci = pyscf().fci
    integrals, M = molecule.integrals, molecule.integrals.n_orbitals
    numbers = (molecule.n_up, molecule.n_down)
    if integrals.is_restricted:
        solver: Any = fci.direct_spin1.FCI()
        h: Any = integrals.h(0)
        v: Any = integrals.four_index()
    else:
        solver = fci.direct_uhf.FCISolver()
        h = (integrals.h(0), integrals.h(1))
        v = tuple(integrals.four_index(s, t) for s, t in ((0, 0), (0, 1), (1, 1)))
    solver.conv_tol, solver.max_cycle, solver.verbose = 1e-11, 300, 0
    energy, _ = solver.kernel(h, v, M, numbers, ecore=integrals.core)
    if not np.all(solver.converged):
        raise RuntimeError("full configuration interaction of PySCF did not converge.")
    return float(energy)


@dataclass(frozen=True, kw_only=True)
class Energies:
    """Energies of a molecule by other methods, nan where they are not known.

    Attributes:
        determinant: of the determinant with the lowest energy in the sector.
        hartree_fock, ccsd, ccsd_t: by PySCF, of the same integrals.
        fci: full configuration interaction, over all determinants by PySCF; or of the sector by other means.
        missing: why energies are not known, one line each.
    """

    determinant: float
    hartree_fock: float = math.nan
    ccsd: float = math.nan
    ccsd_t: float = math.nan
    fci: float = math.nan
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, molecule: Molecule, max_determinants: int = MAX_DETERMINANTS) -> "Energies":
        """All that are affordable; without PySCF only the first one."""
        determinant = molecule.diagonal(molecule.peak[None]).item()
        M = molecule.integrals.n_orbitals
        number = math.comb(M, molecule.n_up) * math.comb(M, molecule.n_down)
        found: dict[str, float] = {}
        missing = []
        try:
            found |= dict(zip(("hartree_fock", "ccsd", "ccsd_t"), coupled_cluster(molecule), strict=True))
        except PySCFMissing:
            missing.append("no CCSD(T): pip install 'nqs[molecules]' for PySCF")
            max_determinants, number = 0, 0
        except ValueError as error:
            missing.append(f"no CCSD(T): {error}")
        if 0 < number <= max_determinants:
            found["fci"] = full_ci(molecule)
        elif number:
            missing.append(f"no FCI: {number:,} determinants are more than {max_determinants:,}")
        return cls(determinant=determinant, missing=tuple(missing), **found)

    @property
    def known(self) -> dict[str, float]:
        """By name."""
        names = {"Hartree-Fock": self.hartree_fock, "CCSD": self.ccsd, "CCSD(T)": self.ccsd_t, "FCI": self.fci}
        known = {name: energy for name, energy in names.items() if not math.isnan(energy)}
        return known if "Hartree-Fock" in known else {"determinant": self.determinant} | known

    def __str__(self) -> str:
        lines = [f"{name:<14}{energy:.8f} Hartree" for name, energy in self.known.items()]
        return "\n".join([*lines, *self.missing])

    def beside(self, energy: float, error: float) -> str:
        """One line: the energy in mHartree above or below each of the others."""
        parts = [f"{1000 * (energy - other):+.4f} to {name}" for name, other in self.known.items()]
        return f"in mHartree, ± {1000 * error:.1g}: {', '.join(parts)}"
