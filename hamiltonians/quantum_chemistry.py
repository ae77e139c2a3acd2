"""Molecules from PySCF: a geometry, or any mean-field object; PySCF is imported only here, and only when it is used.

PySCF is optional: pip install 'nqs[molecules]'. Sun et al., J. Chem. Phys. 153, 024109 (2020).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nqs.hamiltonians.integrals import Integrals, pairs

if TYPE_CHECKING:
    from nqs.hamiltonians.molecule import Molecule

DEPENDENT = 1e-7  # eigenvalue of the overlap matrix of a basis below which its functions are linearly dependent
CONVERGED = 1e-12  # Hartree, of the mean field: symmetries are found from the integrals that vanish
MAX_DETERMINANTS = 10**7  # of full configuration interaction

Orbitals = Literal["hartree-fock", "lowdin"]


class PySCFMissing(ImportError, ValueError):
    """PySCF is not installed; commands end with this one line."""


def pyscf() -> Any:
    """The package.

    Raises:
        PySCFMissing: it is not installed.
    """
    try:
        import pyscf
        import pyscf.cc
        import pyscf.fci
    except ImportError:
        raise PySCFMissing(
            "a geometry needs PySCF, which is not installed: pip install 'nqs[molecules]'. Integrals of another "
            "program can be read without it: Molecule.from_fcidump."
        ) from None
    return pyscf


def from_geometry(
    atom: str,
    basis: str = "sto-3g",
    *,
    charge: int = 0,
    spin: int | None = None,
    bohr: bool = False,
    orbitals: Orbitals = "hartree-fock",
    unrestricted: bool = False,
    frozen: int = 0,
    active: int | None = None,
    **options: Any,
) -> "Molecule":
    """A molecule in its Hartree-Fock orbitals, which have the point group of the geometry (D2h or a subgroup).

    Args:
        atom: elements with positions, "N 0 0 0; N 0 0 1.1", in Angstrom.
        basis: name of a basis set that PySCF knows.
        charge: of the molecule, in elementary charges.
        spin: 2 S^z = n_up - n_down; None: 0 or 1.
        bohr: positions are in bohr.
        orbitals: "hartree-fock", in the order of their energies; "lowdin": symmetrically orthogonalised atomic ones.
        unrestricted: up and down electrons have orbitals of their own.
        frozen, active: as `Molecule.active_space`, of Hartree-Fock orbitals.
        options: of `Molecule`: `symmetry`, `cutoff`, `name`.

    Raises:
        PySCFMissing: PySCF is not installed.
        ValueError: a geometry, basis or spin that is impossible, a basis that is linearly dependent, or a mean field
            that does not converge.
    """
    package = pyscf()
    if orbitals not in ("hartree-fock", "lowdin"):
        raise ValueError(f"orbitals={orbitals!r}: choose 'hartree-fock' or 'lowdin'.")
    if orbitals == "lowdin" and (frozen or active is not None or unrestricted):
        raise ValueError("orbitals='lowdin': atomic orbitals are not frozen, and the same for both spins.")
    given: dict[str, Any] = {"atom": atom, "basis": basis, "charge": charge, "unit": "Bohr" if bohr else "Angstrom"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to install more basis sets
            probe = package.gto.M(**given, spin=None, verbose=0)
        twice_sz = probe.nelectron % 2 if spin is None else spin
        if (probe.nelectron - twice_sz) % 2 or abs(twice_sz) > probe.nelectron:
            raise ValueError(
                f"spin={twice_sz}: {probe.nelectron} electrons have n_up - n_down = {probe.nelectron % 2}, "
                f"{probe.nelectron % 2 + 2}, ..."
            )
        smallest = np.linalg.eigvalsh(probe.intor("int1e_ovlp"))[0]
        if smallest < DEPENDENT:
            raise ValueError(
                f"the basis {basis!r} is linearly dependent at this geometry, its overlap matrix has an eigenvalue "
                f"{smallest:.0e}: choose a smaller basis, or atoms further apart."
            )
        molecule = package.gto.M(**given, spin=twice_sz, symmetry=orbitals == "hartree-fock", verbose=0)
    except (KeyError, RuntimeError, AssertionError, IndexError) as error:
        raise ValueError(f"atom={atom!r}, basis={basis!r}: {' '.join(str(error).split())}") from None
    options = {"name": _formula(molecule, basis)} | options
    if orbitals == "lowdin":
        values, vectors = np.linalg.eigh(molecule.intor("int1e_ovlp"))
        C = vectors / np.sqrt(values) @ vectors.T
        return in_orbitals(molecule, C, molecule.nelec, **options)
    mean_field = (package.scf.UHF if unrestricted else package.scf.ROHF if twice_sz else package.scf.RHF)(molecule)
    mean_field.conv_tol, mean_field.max_cycle = CONVERGED, 300
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mean_field.kernel()
        if not mean_field.converged:
            mean_field = mean_field.newton()
            mean_field.conv_tol = CONVERGED
            mean_field.kernel()
    if not mean_field.converged:
        raise ValueError(
            f"Hartree-Fock did not converge for {atom!r} in {basis!r}: converge it with PySCF, and use from_pyscf."
        )
    return from_pyscf(mean_field, frozen=frozen, active=active, **options)


def from_pyscf(
    mean_field: Any,
    *,
    coefficients: np.ndarray | Sequence[np.ndarray] | None = None,
    frozen: int | Sequence[int] = 0,
    active: int | Sequence[int] | None = None,
    **options: Any,
) -> "Molecule":
    """The molecule of a mean-field object, RHF, ROHF or UHF, in its orbitals or given ones.

    Args:
        mean_field: of PySCF, with orbitals.
        coefficients: other orbitals, localised or natural ones for example, a column for each; for unrestricted
            orbitals those of up and of down.
        frozen: number of the first orbitals, or a list of orbitals, that stay doubly occupied.
        active: number of orbitals after them, or a list of orbitals, that are kept; None: all others.
        options: of `Molecule`: `symmetry`, `cutoff`, `name`.

    Raises:
        ValueError: complex orbitals, a mean field without orbitals, or an impossible active space.
    """
    C: Any = mean_field.mo_coeff if coefficients is None else coefficients
    if C is None:
        raise ValueError("the mean field has no orbitals: call its kernel() first.")
    options = {"name": _formula(mean_field.mol, mean_field.mol.basis)} | options
    molecule = in_orbitals(mean_field.mol, C, mean_field.mol.nelec, core_hamiltonian=mean_field.get_hcore(), **options)
    if isinstance(frozen, int) and (active is None or isinstance(active, int)):
        return molecule if not frozen and active is None else molecule.active_space(frozen, active)
    M = molecule.integrals.n_orbitals
    held = list(range(frozen)) if isinstance(frozen, int) else list(frozen)
    others = [orbital for orbital in range(M) if orbital not in held]
    kept = others[:active] if active is None or isinstance(active, int) else list(active)
    return molecule.reordered([*held, *kept, *(x for x in others if x not in kept)]).active_space(len(held), len(kept))


def in_orbitals(
    molecule: Any,
    coefficients: np.ndarray | Sequence[np.ndarray],
    electrons: tuple[int, int],
    *,
    core_hamiltonian: np.ndarray | None = None,
    **options: Any,
) -> "Molecule":
    """The integrals of a molecule of PySCF in given orbitals, a column of coefficients for each."""
    from nqs.hamiltonians.molecule import Molecule

    C = np.asarray(coefficients)
    if np.iscomplexobj(C):
        raise ValueError("the orbitals are complex: use a mean field with real orbitals.")
    by_spin = [C] if C.ndim == 2 else list(C)
    ao2mo = pyscf().ao2mo
    hcore = molecule.intor("int1e_kin") + molecule.intor("int1e_nuc") if core_hamiltonian is None else core_hamiltonian
    if molecule.has_ecp() and core_hamiltonian is None:
        hcore = hcore + molecule.intor("ECPscalar")
    M = by_spin[0].shape[1]
    T = len(pairs(M)[0])
    eri = molecule.intor("int2e", aosym="s8")
    combinations = [(0, 0), (1, 1), (0, 1)] if len(by_spin) == 2 else [(0, 0)]
    two = [
        ao2mo.restore(1, ao2mo.general(eri, [by_spin[s]] * 2 + [by_spin[t]] * 2, compact=True), M).reshape(M * M, -1)
        if s == t
        else ao2mo.general(eri, [by_spin[s]] * 2 + [by_spin[t]] * 2, compact=True)
        for s, t in combinations
    ]
    p, q = pairs(M)
    rows = p * M + q
    packed = [v if v.shape == (T, T) else v[rows][:, rows] for v in two]
    return Molecule(
        Integrals(
            core=float(molecule.energy_nuc()),
            one_body=np.stack([c.T @ hcore @ c for c in by_spin]),
            two_body=np.stack(packed),
        ),
        int(electrons[0]),
        int(electrons[1]),
        **options,
    )


def _formula(molecule: Any, basis: Any) -> str:
    """'N2 sto-3g' from a molecule of PySCF."""
    symbols = [molecule.atom_pure_symbol(k) for k in range(molecule.natm)]
    counts = {symbol: symbols.count(symbol) for symbol in symbols}
    formula = "".join(symbol + (str(number) if number > 1 else "") for symbol, number in counts.items())
    charge = molecule.charge
    sign = "" if not charge else f"{abs(charge) if abs(charge) > 1 else ''}{'+' if charge > 0 else '-'}"
    return f"{formula}{sign} {basis}" if isinstance(basis, str) else f"{formula}{sign}"


# ---------------------------------------------------------------------------------------- energies by other methods


def pyscf_mean_field(molecule: "Molecule") -> Any:
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


def coupled_cluster(molecule: "Molecule") -> tuple[float, float, float]:
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


def full_ci(molecule: "Molecule") -> float:
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
        fci: full configuration interaction by PySCF, over all determinants.
        missing: why energies are not known, one line each.
    """

    determinant: float
    hartree_fock: float = math.nan
    ccsd: float = math.nan
    ccsd_t: float = math.nan
    fci: float = math.nan
    missing: tuple[str, ...] = ()

    @classmethod
    def of(cls, molecule: "Molecule", max_determinants: int = MAX_DETERMINANTS) -> "Energies":
        """All that are affordable; without PySCF only the first one."""
        determinant = molecule.diagonal(molecule.peak[None]).item()
        M = molecule.integrals.n_orbitals
        number = math.comb(M, molecule.n_up) * math.comb(M, molecule.n_down)
        found: dict[str, float] = {}
        missing = []
        try:
            found |= dict(zip(("hartree_fock", "ccsd", "ccsd_t"), coupled_cluster(molecule), strict=True))
        except PySCFMissing:
            missing.append("no CCSD(T) and FCI: pip install 'nqs[molecules]' for PySCF")
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
        return known or {"determinant": self.determinant}

    def __str__(self) -> str:
        lines = [f"{name:<14}{energy:.8f} Hartree" for name, energy in self.known.items()]
        return "\n".join([*lines, *self.missing])

    def beside(self, energy: float, error: float) -> str:
        """One line: the energy in mHartree above or below each of the others."""
        parts = [f"{1000 * (energy - other):+.4f} to {name}" for name, other in self.known.items()]
        return f"in mHartree, ± {1000 * error:.1g}: {', '.join(parts)}"
