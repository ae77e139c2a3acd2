"""Orders of the orbitals of a molecule, on which autoregressive conditionals depend."""

from typing import Literal

import numpy as np
from jaxtyping import Float64

from nqs.hamiltonians.integrals import pair_numbers
from nqs.hamiltonians.molecule import Molecule

Order = Literal["given", "reversed", "energy", "fiedler"]


def reordered(molecule: Molecule, order: Order) -> Molecule:
    """The molecule with its orbitals in another order.

    - "given": as they are;
    - "reversed": the last one first;
    - "energy": by the diagonal of the Fock matrix of the peak, the lowest first;
    - "fiedler": by the Fiedler vector of the exchange integrals, which puts orbitals with large ones side by side
      (Barcza, Legeza, Marti, Reiher, Phys. Rev. A 83, 012508 (2011)).
    """
    M = molecule.integrals.n_orbitals
    if order == "given":
        return molecule
    if order == "reversed":
        return molecule.reordered(range(M - 1, -1, -1))
    if order == "energy":
        n = molecule.peak.numpy()
        occupied = [np.flatnonzero(n & 1).tolist(), np.flatnonzero(n >> 1).tolist()]
        fock = sum(molecule.integrals.mean_field(spin, occupied).diagonal() for spin in (0, 1))
        return molecule.reordered(np.argsort(fock, kind="stable").tolist())
    return molecule.reordered(np.argsort(fiedler_vector(molecule), kind="stable").tolist())


def fiedler_vector(molecule: Molecule) -> Float64[np.ndarray, " M"]:
    """Second eigenvector of the Laplacian of the exchange integrals (pq|pq) as weights; its first entry is negative."""
    pair = pair_numbers(molecule.integrals.n_orbitals)
    exchange = molecule.integrals.v(0, 0)[pair, pair]
    weights = np.abs(exchange) * (1 - np.eye(len(exchange)))
    vectors = np.linalg.eigh(np.diag(weights.sum(0)) - weights)[1]
    fiedler = vectors[:, min(1, len(exchange) - 1)]
    return -fiedler * (np.sign(fiedler[0]) or 1.0)
