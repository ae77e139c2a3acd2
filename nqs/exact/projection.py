"""The symmetry sector of a ground state from projected energies of mean-field determinants.

    P_chi |D> = 1/G sum_g chi(g)^* g |D>,    E_chi = <D|P_chi H P_chi|D> / <D|P_chi|D>.

The ground state is looked for in the sector of lowest energy. The determinant of lowest energy may have no component
in the sector of the ground state, so all mean-field solutions compete. Their energies are compared after one Lanczos
step: E_chi is replaced by the lowest energy in the span of P_chi |D> and H P_chi |D>.
"""

# Shapes: D determinants, S sectors, N orbits.
import math
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.estimators.energy import infinite_temperature_energy
from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.exact.sector_matrix import SectorMatrix, all_orbits
from nqs.hilbert import HilbertSpace
from nqs.protocols import Hamiltonian
from nqs.runtime.memory import max_chunk_rows, require_memory
from nqs.symmetry.group import Symmetry
from nqs.symmetry.projection import projection_terms

ROWS = 2**14  # configurations in a chunk
MAX_DIMENSION = 4_000_000  # of a sector in which projected energies are summed exactly
MAX_UNPROJECTED = 100_000  # dimension up to which representations of higher dimension are looked for
VANISHING = 1e-10  # fraction of a norm or of a variance below which only rounding errors are left
TIE = 1e-9  # difference of energies that count as equal, in units of the distance from the centre of the spectrum


class Determinant(Protocol):
    """A state with known amplitudes, such as a Slater determinant; it need not be normalised."""

    def amplitude(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        """<n|D>, float64 or complex128."""


D = TypeVar("D", bound=Determinant)


def weight_in_sector(symmetry: Symmetry, hilbert: HilbertSpace, state: np.ndarray) -> float:
    """|P_chi psi|^2 of a normalised state vector in lexicographic order: 1 where the state lies in the sector."""
    psi = torch.from_numpy(np.ascontiguousarray(state)).to(torch.complex128)
    weight = 0.0
    for start in range(0, hilbert.dimension, ROWS):
        n = hilbert.configurations(start, min(start + ROWS, hilbert.dimension))
        projected = torch.zeros(len(n), dtype=torch.complex128)
        for g in range(symmetry.order):
            element = torch.full((len(n),), g)
            phases = symmetry.phases(n, element, hilbert)
            projected += torch.polar(torch.ones_like(phases), -phases) * psi[hilbert.rank(symmetry.image(n, element))]
        weight += projected.abs().square().sum().item() / symmetry.order**2
    return weight


def projected_energies(
    hamiltonian: Hamiltonian,
    symmetry: Symmetry,
    determinants: Sequence[Determinant],
    *,
    device: torch.device | str = "cpu",
    check: bool = True,
) -> Float64[Tensor, "D 2 S"]:
    """Energies of determinants in the sectors of all real characters of a group, in the order of `real_characters`.

    Sums over the sector are sums over representatives of the orbits.

    Args:
        check: False for a Hamiltonian that `check_hamiltonian` has accepted before.

    Returns:
        E_chi and the same after one Lanczos step; infinite where a determinant has no component in the sector.

    Raises:
        ValueError: `check_hamiltonian` refuses the Hamiltonian, or the projections do not fit into memory.
    """
    if check:
        check_hamiltonian(hamiltonian)
    hilbert = hamiltonian.hilbert
    representatives, sizes = all_orbits(hilbert, symmetry, device)
    sectors = symmetry.real_characters()
    require_memory(
        16 * len(sizes) * len(sectors) * len(determinants),
        f"the projections of {len(determinants)} determinants on {len(sizes):,} orbits and {len(sectors)} characters",
        "name the sector yourself (Symmetry.with_angles), or do without symmetries",
        sizes.device,
    )
    projections = [_projections(determinant, sectors, hilbert, representatives, sizes) for determinant in determinants]
    energies = torch.full((len(determinants), 2, len(sectors)), math.inf, dtype=torch.float64)
    for s, (inside, matrix) in enumerate(SectorMatrix.of_real_characters(hamiltonian, symmetry, device=device)):
        for found, (psi, whole) in zip(energies, projections, strict=True):
            x = psi[inside, s] * matrix.sizes.double().sqrt()
            norm = torch.linalg.vector_norm(x).item()
            if norm**2 > VANISHING * whole:
                found[:, s] = torch.tensor(_one_lanczos_step(matrix, x / norm), dtype=torch.float64)
    return energies


def _projections(
    determinant: Determinant,
    sectors: Sequence[Symmetry],
    hilbert: HilbertSpace,
    representatives: UInt8[Tensor, "N L"],
    sizes: Int64[Tensor, " N"],
) -> tuple[Num[Tensor, "N S"], float]:
    """<r|P_chi|D> for all real characters, and <D|D>."""
    even = sectors[0]
    signs = torch.tensor([[1 - 4 * a for a in s.angles] for s in sectors], device=sizes.device).double()
    rows = max_chunk_rows(32 * even.order * (hilbert.n_sites + 2) ** 2, sizes.device)
    projections, whole = [], 0.0
    for part, size in zip(representatives.split(rows), sizes.split(rows), strict=True):
        terms = projection_terms(determinant.amplitude, even, hilbert, part)
        projections.append(terms @ signs.T.to(terms.dtype) / even.order)
        whole += (size.double() @ terms.abs().square().mean(1)).item()
    return torch.cat(projections), whole


def _one_lanczos_step(matrix: SectorMatrix, x: Num[Tensor, " N"]) -> tuple[float, float]:
    """Energy of a normalised state, and the lowest one in the span of x and H x."""
    H_x = matrix.apply(x) - matrix.lowest_diagonal * x  # without a constant in H, which would hide the variance
    mean = torch.vdot(x.to(H_x.dtype), H_x).real.item()
    energy = matrix.lowest_diagonal + mean
    # The next Lanczos vector u, H u, and the 2 x 2 matrix of H.
    u = H_x - mean * x
    variance = u.abs().square().sum().item()
    if variance <= VANISHING * H_x.abs().square().sum().item():
        return energy, energy  # an eigenstate
    u /= math.sqrt(variance)
    other = torch.vdot(u, matrix.apply(u)).real.item()
    return energy, (energy + other) / 2 - math.hypot((energy - other) / 2, math.sqrt(variance))


def lowest_sector(
    hamiltonian: Hamiltonian,
    symmetry: Symmetry,
    determinants: Sequence[D],
    *,
    device: torch.device | str = "cpu",
    check: bool = True,
) -> tuple[D, Symmetry, float]:
    """The sector of real characters with the lowest energy of a projected determinant after one Lanczos step.

    A ground state of a representation of higher dimension is in no such sector of the whole group. Then no projection
    has an energy as low as the determinants themselves, and subgroups of index 2, in which that representation may
    split, are tried.

    Args:
        determinants: mean-field solutions, such as `HartreeFock.solutions`.
        check: as in `projected_energies`.

    Returns:
        The determinant and the sector whose projection has the lowest energy, and this energy E_chi.

    Raises:
        ValueError: the sector has more than MAX_DIMENSION configurations.
    """
    hilbert = hamiltonian.hilbert
    if hilbert.dimension > MAX_DIMENSION:
        raise ValueError(
            f"projected energies are summed over {MAX_DIMENSION:,} configurations at most; the sector has "
            f"{hilbert.dimension:,}: name the characters yourself (Symmetry.with_angles)."
        )
    if check:
        check_hamiltonian(hamiltonian)
    identity = symmetry.subgroup([True] + [False] * (symmetry.order - 1))
    bound = math.inf  # of the determinants themselves, where that is cheap: without symmetry there are many orbits
    if hilbert.dimension <= MAX_UNPROJECTED:
        bound = projected_energies(hamiltonian, identity, determinants, device=device, check=False)[:, 1].min().item()
    groups, centre = [symmetry], infinite_temperature_energy(hamiltonian)
    while True:
        sectors = [sector for group in groups for sector in group.real_characters()]
        found = [projected_energies(hamiltonian, group, determinants, device=device, check=False) for group in groups]
        energies, improved = torch.cat(found, dim=2).unbind(1)  # (determinants, sectors of all groups)
        lowest = improved.min().item()
        tie = TIE * abs(lowest - centre)
        if lowest < math.inf and lowest <= bound + tie:
            # The first of equal sectors, independent of rounding: the trivial characters come first.
            chosen = int((improved.amin(0) <= lowest + tie).long().argmax())
            best = int(energies[:, chosen].argmin())
            return determinants[best], sectors[chosen], energies[best, chosen].item()
        kernels = [(group, s) for group in groups for s in group.real_characters()[1:]]
        groups = [group.subgroup([angle == 0 for angle in s.angles]) for group, s in kernels] or [identity]
