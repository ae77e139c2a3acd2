"""Ground state of a molecule by variational Monte Carlo, beside the energies of quantum chemistry.

    python scripts/molecule.py --fcidump n2.fcidump                        integrals of another program (or .gz)
    python scripts/molecule.py --atom "N 0 0 0; N 0 0 1.1"                 a geometry in Angstrom (needs PySCF)
    python scripts/molecule.py --atom "O 0 0 0; O 0 0 1.2" --spin 2        open shells: spin = n_up - n_down
    python scripts/molecule.py --fcidump n2.fcidump --frozen 2             two orbitals stay doubly occupied
    python scripts/molecule.py --fcidump n2.fcidump --determinants dice.out  start from the list of another program
    python scripts/molecule.py --help                                      every option

Energies are in Hartree. The wavefunction starts from a list of selected determinants. With PySCF installed,
Hartree-Fock, CCSD(T) and, for up to 1e7 determinants, full configuration interaction are shown beside the result;
without it the exact energy of small sectors. The run does not use them. Perturbation theory (PT2) and extrapolation in
the variance are estimates of their own, not upper bounds.

A repeated command continues an interrupted run, or shows the result of a finished one.
"""

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from nqs import Archive, Result
from nqs.cli.options import CommonOptions, Options, command_line
from nqs.estimators.estimate import with_decimals, with_error
from nqs.estimators.extrapolation import zero_variance
from nqs.estimators.second_order import second_order
from nqs.exact import ground_state
from nqs.hamiltonians import Molecule
from nqs.hamiltonians.determinant_list import read_determinants
from nqs.hamiltonians.orbital_order import reordered
from nqs.hamiltonians.reference_energies import Energies
from nqs.models import ListedState
from nqs.recipes.peaked import from_list

LANCZOS = 6e7  # elements of the matrix of the sector: a gigabyte
PERTURBED = 2**22  # connected determinants of the second-order correction: seconds
FCI_IN_A_MINUTE = 200_000  # determinants of full configuration interaction within a time limit, for a tenth of it


@dataclass(frozen=True, kw_only=True)
class Config:
    """H = E_core + sum h_pq a+_ps a_qs + 1/2 sum (pq|rs) a+_ps a+_rt a_st a_qs."""

    fcidump: str | None = None  # file with the integrals
    atom: str | None = None  # elements and positions, "N 0 0 0; N 0 0 1.1"
    basis: str = "sto-3g"  # of a geometry
    charge: int = 0  # of a geometry
    spin: int | None = None  # n_up - n_down; None: that of the file, of a geometry 0 or 1
    bohr: bool = False  # positions are in bohr instead of Angstrom
    orbitals: Literal["hartree-fock", "lowdin"] = "hartree-fock"  # of a geometry
    unrestricted: bool = False  # orbitals of their own for up and down electrons, of a geometry
    frozen: int = 0  # number of the first orbitals that stay doubly occupied
    active: int | None = None  # number of orbitals after these; None: all
    order: Literal["given", "reversed", "energy", "fiedler"] = "given"  # order of the orbitals
    parities: bool = True  # restrict the sector to the orbital irreps of the ground state
    cutoff: float = 1e-12  # integrals and matrix elements up to this modulus are left out, Hartree
    sampled_elements: int | None = None  # of a determinant in local energies on average, for large bases; None: all
    spin_penalty: float = 0.0  # w of w [S^2 - s (s + 1)], s = |n_up - n_down| / 2, Hartree: no higher total spin
    # determinants and amplitudes of another program to start from: text of Dice or block2, or .npz
    determinants: Path | None = None
    fci: int = 10_000_000  # determinants of full configuration interaction, at most; fewer within a time limit; 0: none

    options: CommonOptions = field(default_factory=Options)


def molecule_of(config: Config) -> Molecule:
    """
    Raises:
        ValueError: neither a file nor a geometry, or both.
        PySCFMissing: a geometry without PySCF.
    """
    if (config.fcidump is None) == (config.atom is None):
        raise ValueError('give either --fcidump FILE or --atom "N 0 0 0; N 0 0 1.1", and not both.')
    space: dict[str, Any] = {
        "spin": config.spin,
        "frozen": config.frozen,
        "active": config.active,
        "cutoff": config.cutoff,
        "sampled_elements": config.sampled_elements,
        "spin_penalty": config.spin_penalty,
    }
    irreps = "auto" if config.parities else "none"
    if config.fcidump is not None:
        molecule = Molecule.from_fcidump(config.fcidump, irreps=irreps, **space)
    else:
        molecule = Molecule.from_geometry(
            config.atom or "", config.basis, charge=config.charge, bohr=config.bohr, orbitals=config.orbitals,
            unrestricted=config.unrestricted, irreps=irreps, **space,
        )  # fmt: skip
    return reordered(molecule, config.order)


def main(config: Config) -> Result:
    molecule = molecule_of(config)
    reference = None if config.determinants is None else listed_in(config.determinants, config.order, molecule)
    minutes = config.options.minutes
    fci = config.fci if minutes is None else min(config.fci, int(FCI_IN_A_MINUTE * minutes))
    energies = with_lanczos(molecule, Energies.of(molecule, fci), fci)
    print(energies)
    name = "molecule-" + "".join(letter if letter.isalnum() else "-" for letter in molecule.name)
    result = config.options.ground_state(molecule, name=name, reference=reference)
    begin = config.options.begin
    if minutes is None or begin is None or time.monotonic() < begin + 60 * minutes:
        for line in estimates(molecule, result):
            print(line)
    print(energies.beside(result.estimate.energy, result.estimate.error))
    return result


def listed_in(path: Path, order: str, molecule: Molecule) -> ListedState:
    """The list of a file as a start; its energy is printed.

    Raises:
        ValueError: orbitals that are reordered, or as `read_determinants`.
    """
    if order != "given":
        raise ValueError(f"--order {order}: determinants of a file have the orbitals as given; leave --order out.")
    found, line = from_list(molecule, *read_determinants(path, molecule), molecule.unit)
    print(f"{path}: {line}")
    return found


def with_lanczos(molecule: Molecule, energies: Energies, most: int) -> Energies:
    """The lowest energy of the sector by our own Lanczos iteration, where PySCF is missing and the matrix is small."""
    dimension = molecule.hilbert.dimension
    small = dimension <= most and dimension * molecule.max_connected <= LANCZOS
    if not (math.isnan(energies.fci) and math.isnan(energies.hartree_fock) and small):
        return energies
    return replace(energies, fci=ground_state(molecule, max_dimension=dimension).energy)


def estimates(molecule: Molecule, result: Result) -> list[str]:
    """Perturbation theory and extrapolation, one line each: estimates besides the energy, no upper bounds."""
    lines, unit = [], molecule.unit
    samples = {} if result.archive is None else Archive.open(result.archive).samples()
    if samples:
        most = np.argsort(-samples["log_modulus"])[: max(1, PERTURBED // molecule.max_connected)]
        amplitudes = np.exp(samples["log_modulus"][most] + 1j * samples["phase"][most])
        found = second_order(molecule, torch.from_numpy(samples["configurations"][most]), torch.from_numpy(amplitudes))
        lines.append(
            f"PT2, no bound: {with_decimals(found.energy + found.correction)} {unit} = "
            f"{with_decimals(found.energy)} of the {found.n_configurations:,} sampled determinants with the largest "
            f"weights, and {with_decimals(found.correction)} in second order"
        )
    line = zero_variance(result.history["energy"], result.history["variance"])
    if line is not None:
        text = with_error(line.energy, line.error)
        lines.append(f"extrapolated to zero variance, no bound: {text} {unit}")
    return lines


if __name__ == "__main__":
    command_line(main, Config, __doc__)
