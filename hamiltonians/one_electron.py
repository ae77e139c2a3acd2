r"""Dipole moment and charges of atoms, from the one-body density matrix rho of a run and the orbitals of a geometry.

    O = constant + sum_pq matrix_pq rho_pq,      rho_pq = sum_s <a+_ps a_qs>

with, in atomic units and for orbitals p = sum_m C_mp chi_m over basis functions with the overlap S,

    dipole moment       constant = sum_A Z_A R_A,   matrix = -<p|r|q>                                    e bohr
    Mulliken charges    constant = Z_A,             matrix = -sum_{m on A} [C_mp (S C)_mq + (S C)_mp C_mq] / 2
    Löwdin charges      constant = Z_A,             matrix = -sum_{m on A} (S^1/2 C)_mp (S^1/2 C)_mq

Szabo and Ostlund, Modern Quantum Chemistry, section 3.4.7. An FCIDUMP file holds neither positions nor basis functions,
so that these numbers do not follow from it.
"""

# Shapes: M orbitals, K numbers.
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class OneElectron:
    """Named quantities that are linear in the density matrix.

    Attributes:
        atoms: symbols of the atoms.
        names: "dipole_moment" (3 numbers), "mulliken_charges" and "lowdin_charges" (one for each atom).
        constants: of each quantity, (K,).
        matrices: of each quantity, (K, M, M), symmetric.
    """

    atoms: tuple[str, ...]
    names: tuple[str, ...]
    constants: tuple[np.ndarray, ...] = field(repr=False)
    matrices: tuple[np.ndarray, ...] = field(repr=False)

    def active(self, frozen: Sequence[int], kept: Sequence[int]) -> "OneElectron":
        """In an active space: doubly occupied `frozen` orbitals become part of the constants."""
        frozen, kept = list(frozen), list(kept)
        constants = (c + 2 * m[:, frozen, frozen].sum(1) for c, m in zip(self.constants, self.matrices, strict=True))
        return OneElectron(
            atoms=self.atoms,
            names=self.names,
            constants=tuple(constants),
            matrices=tuple(m[:, kept][:, :, kept] for m in self.matrices),
        )

    def reordered(self, order: Sequence[int]) -> "OneElectron":
        """Orbitals in another order."""
        return self.active((), order)

    def of(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """The quantities for a density matrix, (M, M)."""
        parts = zip(self.names, self.constants, self.matrices, strict=True)
        return {name: c + np.einsum("kpq,pq->k", m, matrix.real) for name, c, m in parts}


def one_electron(molecule: Any, coefficients: np.ndarray) -> OneElectron:
    """Of a molecule of PySCF with restricted orbitals, a column of coefficients for each."""
    C, S = coefficients, molecule.intor("int1e_ovlp")
    values, vectors = np.linalg.eigh(S)
    half = (vectors * np.sqrt(values)) @ vectors.T @ C
    Z, R = molecule.atom_charges().astype(float), molecule.atom_coords()  # bohr
    with molecule.with_common_orig((0.0, 0.0, 0.0)):
        r = molecule.intor_symmetric("int1e_r", comp=3)
    ranges = [slice(*row[2:]) for row in molecule.aoslice_by_atom()]
    mulliken = np.stack([C[part].T @ (S @ C)[part] for part in ranges])
    return OneElectron(
        atoms=tuple(molecule.atom_pure_symbol(k) for k in range(molecule.natm)),
        names=("dipole_moment", "mulliken_charges", "lowdin_charges"),
        constants=(Z @ R, Z, Z),
        matrices=(
            -np.einsum("mp,kmn,nq->kpq", C, r, C),
            -(mulliken + mulliken.swapaxes(1, 2)) / 2,
            -np.stack([half[part].T @ half[part] for part in ranges]),
        ),
    )
