"""Molecules from PySCF: a geometry, or any mean-field object; PySCF is imported only here, and only when it is used.

PySCF is optional: pip install 'nqs[molecules]'. Sun et al., J. Chem. Phys. 153, 024109 (2020).
"""

import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from nqs.hamiltonians.integrals import Integrals, pairs
from nqs.hamiltonians.one_electron import OneElectron, one_electron

DEPENDENT = 1e-7  # eigenvalue of the overlap matrix of a basis below which its functions are linearly dependent
CONVERGED = 1e-12  # Hartree, of the mean field: symmetries are found from the integrals that vanish

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
        import pyscf.data.elements
        import pyscf.fci
    except ImportError:
        raise PySCFMissing(
            "a geometry needs PySCF, which is not installed: pip install 'nqs[molecules]'. Integrals of another "
            "program can be read without it: Molecule.from_fcidump."
        ) from None
    return pyscf


class InOrbitals(NamedTuple):
    """Integrals and numbers of electrons."""

    integrals: Integrals
    n_up: int
    n_down: int
    name: str
    one_electron: OneElectron | None  # None for unrestricted orbitals


def from_geometry(
    atom: str,
    basis: str = "sto-3g",
    *,
    charge: int = 0,
    spin: int | None = None,
    bohr: bool = False,
    orbitals: Orbitals = "hartree-fock",
    unrestricted: bool = False,
) -> InOrbitals:
    """A molecule in its Hartree-Fock orbitals, which have the point group of the geometry (D2h or a subgroup).

    Args:
        atom: elements with positions, "N 0 0 0; N 0 0 1.1", in Angstrom.
        basis: name of a basis set that PySCF knows.
        charge: of the molecule, in elementary charges.
        spin: 2 S^z = n_up - n_down; None: 0 or 1.
        bohr: positions are in bohr.
        orbitals: "hartree-fock", in the order of their energies; "lowdin": symmetrically orthogonalised atomic ones.
        unrestricted: up and down electrons have orbitals of their own.

    Raises:
        PySCFMissing: PySCF is not installed.
        ValueError: a geometry, basis or spin that is impossible, a basis that is linearly dependent, or a mean field
            that does not converge.
    """
    package = pyscf()
    if orbitals not in ("hartree-fock", "lowdin"):
        raise ValueError(f"orbitals={orbitals!r}: choose 'hartree-fock' or 'lowdin'.")
    if orbitals == "lowdin" and unrestricted:
        raise ValueError("orbitals='lowdin': atomic orbitals are the same for both spins.")
    _check_elements(atom, package.data.elements.ELEMENTS)
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
    except (KeyError, RuntimeError, AssertionError, IndexError, TypeError) as error:
        raise ValueError(f"atom={atom!r}, basis={basis!r}: {' '.join(str(error).split())}") from None
    if orbitals == "lowdin":
        values, vectors = np.linalg.eigh(molecule.intor("int1e_ovlp"))
        C = vectors / np.sqrt(values) @ vectors.T
        return in_orbitals(molecule, C)
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
    return from_pyscf(mean_field)


def from_pyscf(mean_field: Any, coefficients: np.ndarray | Sequence[np.ndarray] | None = None) -> InOrbitals:
    """Integrals in the orbitals of a mean-field object, RHF, ROHF or UHF, or in given ones.

    Args:
        mean_field: of PySCF, with orbitals.
        coefficients: other orbitals, localised or natural ones for example, a column for each; for unrestricted
            orbitals those of up and of down.

    Raises:
        ValueError: complex orbitals, or a mean field without orbitals.
    """
    C: Any = mean_field.mo_coeff if coefficients is None else coefficients
    if C is None:
        raise ValueError("the mean field has no orbitals: call its kernel() first.")
    return in_orbitals(mean_field.mol, C, core_hamiltonian=mean_field.get_hcore())


def in_orbitals(
    molecule: Any,
    coefficients: np.ndarray | Sequence[np.ndarray],
    *,
    core_hamiltonian: np.ndarray | None = None,
) -> InOrbitals:
    """The integrals of a molecule of PySCF in given orbitals, a column of coefficients for each."""
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
    n_up, n_down = molecule.nelec
    return InOrbitals(
        Integrals(
            core=float(molecule.energy_nuc()),
            one_body=np.stack([c.T @ hcore @ c for c in by_spin]),
            two_body=np.stack(packed),
        ),
        int(n_up),
        int(n_down),
        _formula(molecule, molecule.basis),
        one_electron(molecule, by_spin[0]) if len(by_spin) == 1 else None,
    )


def _check_elements(atom: str, elements: Sequence[str]) -> None:
    """
    Raises:
        ValueError: no atoms, or one that is no element; PySCF takes "Xy" for a ghost of yttrium.
    """
    lines = [line.split() for line in re.split(r"[;\n]", atom) if line.strip() and not line.strip().startswith("#")]
    if not lines:
        raise ValueError(f'atom={atom!r} has no atoms: write elements with positions, "N 0 0 0; N 0 0 1.1".')
    for name, *_ in lines:
        symbol = re.match(r"(?:ghost[-_.:]?|x[-_.:])?([a-z]*)", name, re.IGNORECASE)
        if symbol and symbol.group(1) and symbol.group(1).capitalize() not in elements:
            raise ValueError(f'atom={atom!r}: {name!r} is no element; write "N 0 0 0; N 0 0 1.1".')


def _formula(molecule: Any, basis: Any) -> str:
    """'N2 sto-3g' from a molecule of PySCF."""
    symbols = [molecule.atom_pure_symbol(k) for k in range(molecule.natm)]
    counts = {symbol: symbols.count(symbol) for symbol in symbols}
    formula = "".join(symbol + (str(number) if number > 1 else "") for symbol, number in counts.items())
    charge = molecule.charge
    sign = "" if not charge else f"{abs(charge) if abs(charge) > 1 else ''}{'+' if charge > 0 else '-'}"
    return f"{formula}{sign} {basis}" if isinstance(basis, str) else f"{formula}{sign}"
