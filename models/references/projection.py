"""The symmetry sector of a ground state, from what is known of its phases.

A reference phase that obeys the symmetry names its one-dimensional irreducible representation (its symmetry sector). A
mean-field determinant need not: unrestricted Hartree-Fock breaks translations and spin symmetry to gain energy. Its
projections on the symmetry sectors,

    P_chi |D> = 1/G sum_g chi(g)^* g |D>,    E_chi = <D|P_chi H P_chi|D> / <D|P_chi|D>,

restore them, and the sector of lowest energy is where the ground state is looked for; the phases of that projection are
a better reference than those of |D>. Ring and Schuck, The Nuclear Many-Body Problem, chapter 11. The determinant of
lowest energy may have nothing in the sector of the ground state, so all mean-field solutions compete. Their energies
are compared after one Lanczos step: E_chi is replaced by the lowest energy in the span of P_chi |D> and H P_chi |D>.
"""

# Shapes: B configurations, G group elements, L sites, S sectors.
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float64, Num, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.models.references.determinant import SlaterDeterminant
from nqs.models.references.phase import ReferencePhase
from nqs.protocols import Hamiltonian
from nqs.runtime.memory import rows_that_fit
from nqs.symmetry.group import TURN, Symmetry

ROWS = 2**14  # configurations treated at once
PROBES = 64  # random configurations on which the phases of a reference are compared
MAX_DIMENSION = 4_000_000  # of a sector in which projected energies are summed exactly
TERMS = 2**18  # matrix elements applied at once
MAX_UNPROJECTED = 100_000  # dimension up to which representations of higher dimension are looked for
VANISHING = 1e-10  # amplitude, share of a state or of a variance that is nothing but rounding
TIE = 1e-9  # relative difference of energies that count as equal


@dataclass(frozen=True, kw_only=True)
class ProjectedDeterminant:
    """Phase of <n|P_chi|D>, 0 where that vanishes: a reference phase.

    Attributes:
        determinant: |D>.
        symmetry: the group with its character chi.
        hilbert: the sector of the particle numbers.
    """

    determinant: SlaterDeterminant
    symmetry: Symmetry
    hilbert: HilbertSpace

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        terms = [terms_of_projection(self, part).sum(1) for part in n.split(self._rows(n.device))]
        total = torch.cat(terms) if terms else n.new_zeros(0).double()
        return torch.where(total.abs() > VANISHING, torch.angle(total), 0.0)

    def _rows(self, device: torch.device) -> int:
        return rows_that_fit(16 * self.symmetry.order * (self.hilbert.n_sites + 2) ** 2, device)


def terms_of_projection(projected: ProjectedDeterminant, n: UInt8[Tensor, "B L"]) -> Num[Tensor, "B G"]:
    """c_g(n)^* <g n|D> for every element; their mean is <n|P_chi|D>. Real where determinant and characters are."""
    symmetry, G = projected.symmetry, projected.symmetry.order
    amplitude = projected.determinant.amplitude(symmetry.images(n).flatten(0, 1)).view(len(n), G)
    element = torch.arange(G, device=n.device).repeat(len(n))
    phases = symmetry.phases(n.repeat_interleave(G, dim=0), element, projected.hilbert).view(len(n), G)
    if all(angle in (0.0, 0.5) for angle in symmetry.angles):
        return amplitude * torch.cos(phases)
    return amplitude * torch.polar(torch.ones_like(phases), -phases)


def sector_of(reference: ReferencePhase, symmetry: Symmetry, hilbert: HilbertSpace) -> Symmetry:
    """The elements that change a reference phase by a constant, with the character that this constant gives."""
    n = hilbert.random(PROBES, torch.Generator().manual_seed(0))
    images = symmetry.images(n)
    phase = reference.phase(images.flatten(0, 1)).view(PROBES, symmetry.order) - reference.phase(n)[:, None]
    element = torch.arange(symmetry.order).repeat(PROBES)
    signs = symmetry.with_angles([0.0] * symmetry.order).phases(
        n.repeat_interleave(symmetry.order, 0), element, hilbert
    )
    turn = torch.polar(torch.ones_like(phase), phase - signs.view_as(phase))  # chi(g), if it is one
    constant = ((turn - turn[:1]).abs() < 1e-6).all(0)
    angles = (torch.angle(turn[0]) / TURN * 720).round() / 720 % 1.0
    angles = torch.where(constant, angles, 0.0)
    kept = symmetry.subgroup(constant.tolist())
    return kept.with_angles(angles[constant].tolist())


def weight_in_sector(symmetry: Symmetry, hilbert: HilbertSpace, state: np.ndarray) -> float:
    """|P_chi psi|^2 of a normalised state vector in lexicographic order; 1 if the state lies in the symmetry sector."""
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


class OrbitHamiltonian:
    """A Hamiltonian between the orbits of a group, for every real character at once.

    Attributes:
        representatives: of all orbits, also of those that some sectors forbid.
        sizes: members of each.
        signs: real characters of every sector.
    """

    def __init__(self, hamiltonian: Hamiltonian, symmetry: Symmetry, device: torch.device | str = "cpu") -> None:
        hilbert, self.sectors = hamiltonian.hilbert, symmetry.real_characters()
        even = self.sectors[0]
        self.hilbert = hilbert
        self.signs = torch.tensor([[1 - 4 * a for a in s.angles] for s in self.sectors], device=device).double()
        self.representatives, self.sizes = replace(even, fermions=False).orbits(hilbert, device)
        n, ranks = self.representatives, hilbert.rank(self.representatives)
        self.diagonal = hamiltonian.diagonal(n)
        self.rows = rows_that_fit(32 * symmetry.order * (hilbert.n_sites + 2) ** 2, torch.device(device))
        # <r|H|n'> psi(n') with psi(n') = psi(r') c_g(n')^*, g n' = r'.
        parents, others, elements, values = [], [], [], []
        for start, part in zip(range(0, len(n), self.rows), n.split(self.rows), strict=True):
            connected = hamiltonian.connected(part)
            g = even.canonical(connected.configurations)
            parents.append(start + connected.parents)
            others.append(torch.searchsorted(ranks, hilbert.rank(even.image(connected.configurations, g))))
            elements.append(g)
            values.append(connected.elements * torch.cos(even.phases(connected.configurations, g, hilbert)))
        self._parents, self._others, self._elements, self._values = map(torch.cat, (parents, others, elements, values))

    def __call__(self, x: Num[Tensor, "N S"]) -> Num[Tensor, "N S"]:
        """H x on the representatives."""
        y = self.diagonal[:, None] * x.to(torch.promote_types(x.dtype, self._values.dtype))
        terms = zip(*(t.split(TERMS) for t in (self._parents, self._others, self._elements, self._values)), strict=True)
        for parent, other, element, value in terms:
            y.index_add_(0, parent, (value[:, None] * self.signs.T[element] * x[other]).to(y.dtype))
        return y


def projected_energies(matrix: OrbitHamiltonian, determinant: SlaterDeterminant) -> Float64[Tensor, "2 S"]:
    """Energies in each of the sectors of a matrix; infinite where nothing of the determinant is in the sector.

    Sums over the sector are sums over representatives of the orbits.

    Returns:
        E_chi, and below it the same after one Lanczos step.
    """
    even = ProjectedDeterminant(determinant=determinant, symmetry=matrix.sectors[0], hilbert=matrix.hilbert)
    weights = matrix.sizes.double()[:, None]
    projections, whole = [], 0.0
    for part, size in zip(matrix.representatives.split(matrix.rows), matrix.sizes.split(matrix.rows), strict=True):
        terms = terms_of_projection(even, part)
        projections.append(terms @ matrix.signs.T.to(terms.dtype) / even.symmetry.order)
        whole += (size.double() @ terms.abs().square().mean(1)).item()  # <D|D>
    psi = torch.cat(projections)  # (orbits, S)
    norm = (weights * psi.abs().square()).sum(0)
    empty = norm <= VANISHING * whole
    psi = psi / torch.where(empty, 1.0, norm.sqrt())
    H_psi = matrix(psi)
    energy = (weights * psi.conj() * H_psi).real.sum(0)
    # The next Lanczos vector u, H u, and the 2 x 2 matrix of H.
    u = H_psi - energy * psi
    variance = (weights * u.abs().square()).sum(0)
    eigenstate = variance <= VANISHING * (weights * H_psi.abs().square()).sum(0).max()
    u = u / torch.where(eigenstate, math.inf, variance.sqrt())
    other = (weights * u.conj() * matrix(u)).real.sum(0)
    lower = (energy + other) / 2 - torch.hypot((energy - other) / 2, variance.sqrt())
    improved = torch.where(eigenstate, energy, lower)
    return torch.stack([energy, improved]).masked_fill(empty, math.inf)


def lowest_sector(
    hamiltonian: Hamiltonian,
    symmetry: Symmetry,
    determinants: Sequence[SlaterDeterminant],
    *,
    device: torch.device | str = "cpu",
) -> tuple[ProjectedDeterminant, float]:
    """The sector of real characters with the lowest energy of a projected determinant after one Lanczos step.

    A ground state of a representation of higher dimension is in no such sector of the whole group. Then no projection
    is as low as the determinants themselves, and subgroups of index 2, in which that representation may split, are
    tried.

    Args:
        determinants: mean-field solutions, such as `HartreeFock.solutions`.

    Returns:
        The projection, and its energy E_chi.

    Raises:
        ValueError: the space of configurations is too large to sum over.
    """
    hilbert = hamiltonian.hilbert
    if hilbert.dimension > MAX_DIMENSION:
        raise ValueError(
            f"projected energies are summed over {MAX_DIMENSION:,} configurations at most; the sector has "
            f"{hilbert.dimension:,}: name the characters yourself (Symmetry.with_angles)."
        )
    identity = symmetry.subgroup([True] + [False] * (symmetry.order - 1))
    bound = math.inf  # of the determinants themselves, where that is cheap: without symmetry there are many orbits
    if hilbert.dimension <= MAX_UNPROJECTED:
        matrix = OrbitHamiltonian(hamiltonian, identity, device)
        bound = min(projected_energies(matrix, d)[1, 0].item() for d in determinants)
    groups = [symmetry]
    while True:
        sectors = [sector for group in groups for sector in group.real_characters()]
        found = []  # (determinants, 2, sectors) of each group
        for group in groups:
            matrix = OrbitHamiltonian(hamiltonian, group, device)
            found.append(torch.stack([projected_energies(matrix, determinant) for determinant in determinants]))
        energies, improved = torch.cat(found, dim=2).unbind(1)
        lowest = improved.min().item()
        if lowest < math.inf and lowest <= bound + TIE * abs(bound):
            # Of equal sectors the first, whatever rounding says: there the trivial characters are.
            chosen = int((improved.amin(0) <= lowest + TIE * abs(lowest)).long().argmax())
            best = int(energies[:, chosen].argmin())
            projected = ProjectedDeterminant(determinant=determinants[best], symmetry=sectors[chosen], hilbert=hilbert)
            return projected, energies[best, chosen].item()
        kernels = [(group, s) for group in groups for s in group.real_characters()[1:]]
        groups = [group.subgroup([angle == 0 for angle in s.angles]) for group, s in kernels] or [identity]
