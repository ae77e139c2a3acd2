"""Unrestricted Hartree-Fock on a lattice: the self-consistent determinant whose sign serves as a reference phase.

    H_MF,s = h_s + U diag(<n_{-s}>),   <n_is> = sum over occupied orbitals |phi_is|^2,

with h_s the one-body part of the Hamiltonian for spin s. Up and down densities may differ (unrestricted), which lets
the determinant break the spin symmetry into the antiferromagnet that a repulsive Hubbard model favours at half filling.
Szabo and Ostlund, Modern Quantum Chemistry, section 3.8, on a lattice.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.linalg import eigh

from nqs.models.reference import SlaterDeterminant


@dataclass(frozen=True, kw_only=True)
class HartreeFock:
    """A mean-field solution.

    Attributes:
        determinant: its reference phase.
        energy: mean-field energy, an upper bound of the ground-state energy.
        n_up, n_down: densities, (L,) each.
        iterations: until convergence.
    """

    determinant: SlaterDeterminant
    energy: float
    n_up: np.ndarray
    n_down: np.ndarray
    iterations: int


def hartree_fock(
    hamiltonian: Any,
    *,
    start: Literal["staggered", "random"] = "staggered",
    symmetry_breaking: float = 0.5,
    mixing: float = 0.5,
    tolerance: float = 1e-10,
    max_iterations: int = 2000,
    seed: int = 0,
) -> HartreeFock:
    """Solve the mean-field equations of a spinful lattice model with on-site interaction U.

    Args:
        hamiltonian: with fields lattice, n_up, n_down, U, such as `FermiHubbard`; further interactions are left out.
        start: spin pattern of the first densities: alternating between sublattices, or random.
        symmetry_breaking: its amplitude.
        mixing: share of the new densities in the next iteration.
        tolerance: largest change of a density at convergence.
        max_iterations: give up after so many.
        seed: of the random start.

    Raises:
        ValueError: electron numbers that are not fixed, or a lattice without two sublattices for the staggered start.
        RuntimeError: no convergence.
    """
    L, n_up, n_down, U = hamiltonian.lattice.n_sites, hamiltonian.n_up, hamiltonian.n_down, hamiltonian.U
    if n_up is None or n_down is None:
        raise ValueError(f"Hartree-Fock needs fixed electron numbers; found n_up={n_up}, n_down={n_down}.")
    one_body = [_one_body(hamiltonian, n_up=1, n_down=0), _one_body(hamiltonian, n_up=0, n_down=1)]
    if start == "staggered":
        pattern = 1.0 - 2.0 * hamiltonian.lattice.sublattices().numpy()
    else:
        pattern = np.random.default_rng(seed).uniform(-1, 1, L)
    densities = [
        np.full(L, n_up / L) + symmetry_breaking * pattern,
        np.full(L, n_down / L) - symmetry_breaking * pattern,
    ]
    for iteration in range(1, max_iterations + 1):
        levels, orbitals = [], []
        for spin, filling in enumerate((n_up, n_down)):
            energies, states = eigh(one_body[spin] + U * np.diag(densities[1 - spin]))
            levels.append(energies[:filling].sum())
            orbitals.append(states[:, :filling])
        found = [np.square(np.abs(states)).sum(1) for states in orbitals]
        change = max(np.abs(new - old).max() for new, old in zip(found, densities, strict=True))
        if change < tolerance:
            return HartreeFock(
                determinant=SlaterDeterminant.from_orbitals(*orbitals),
                energy=float(sum(levels) - U * (found[0] @ found[1])),
                n_up=found[0],
                n_down=found[1],
                iterations=iteration,
            )
        densities = [(1 - mixing) * old + mixing * new for new, old in zip(found, densities, strict=True)]
    raise RuntimeError(
        f"Hartree-Fock did not converge in {max_iterations} iterations (densities still change by {change:.1e}): "
        "try a smaller mixing, another start or a larger tolerance."
    )


def free_fermions(hamiltonian: Any) -> SlaterDeterminant:
    """Determinant of the lowest one-particle levels of a spinless model with n_particles fixed, such as `TV`."""
    levels = eigh(_one_body(hamiltonian, n_particles=1))[1]
    return SlaterDeterminant.from_orbitals(levels[:, : hamiltonian.n_particles])


def _one_body(hamiltonian: Any, **sector: int) -> np.ndarray:
    """(L, L) matrix of a single particle: the Hamiltonian itself in a one-particle sector."""
    alone = replace(hamiltonian, **sector)
    n = alone.hilbert.configurations()  # lexicographic: the particle on the last site first
    connected = alone.connected(n)
    matrix = torch.diag(alone.diagonal(n)).to(connected.elements.dtype)
    matrix[connected.parents, alone.hilbert.rank(connected.configurations)] = connected.elements
    return matrix.flip(0, 1).numpy()
