"""Exact diagonalisation: the lowest eigenstates of a Hamiltonian in its sector, or in one of its symmetry sectors.

The matrix comes from the Hamiltonian's own diagonal and connected configurations (nqs.exact.sector_matrix), in the
lexicographic basis of its Hilbert space; Lanczos finds the lowest states.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nqs.estimators.estimate import with_decimals
from nqs.exact.lanczos import dot, lanczos
from nqs.exact.sector_matrix import MAX_DIMENSION, ROWS, SectorMatrix
from nqs.hilbert import HilbertSpace
from nqs.protocols import Hamiltonian
from nqs.runtime.memory import require_memory
from nqs.runtime.notebook import html_table
from nqs.symmetry.group import Symmetry

DENSE_DIMENSION = 64  # below this dense diagonalisation is immediate
TOLERANCE = 1e-12  # of the Lanczos residual, in units of the width of the spectrum
DEGENERATE = 1e-11  # difference in the same units below which energies count as equal
ROUNDING = 16 * sys.float_info.epsilon  # of either, in units of the lowest diagonal element: a large constant in H
DENSE_LEVELS = 2**11  # the same where Lanczos would count too many states of the lowest level
MAX_COUNTED = 16  # states of the lowest level at most that are counted: each takes a Lanczos run


@dataclass(frozen=True, kw_only=True)
class ExactGroundState:
    """Ground state of a Hamiltonian in its sector.

    Attributes:
        energy: E_0, in the Hamiltonian's unit.
        gap: E_1 - E_0 in the same sector, 0 for a degenerate ground state; nan in a sector of one configuration.
        state: normalised eigenvector in lexicographic order, (dimension,); in a symmetry sector the amplitudes of the
            normalised sums over orbits, see `full_state`.
        dimension: of the sector; the number of orbits in a symmetry sector.
        method: "dense" or "Lanczos".
        seconds: wall time of the search.
        multiplicity: number of states with the energy E_0; Lanczos counts at most MAX_COUNTED.
        level: orthonormal states with the energy E_0, (multiplicity, dimension), `state` first; None where not all of
            them are known.
        symmetry: of the symmetry sector that was diagonalised; None for the whole sector of the Hamiltonian.
    """

    energy: float
    gap: float
    state: np.ndarray = field(repr=False)
    dimension: int
    method: str
    seconds: float
    multiplicity: int = 1
    level: np.ndarray | None = field(default=None, repr=False)
    symmetry: Symmetry | None = field(default=None, repr=False)

    def __str__(self) -> str:
        orbits = "" if self.symmetry is None else f" orbits of {self.symmetry.order} symmetries"
        dimension = f"dimension {self.dimension:,}{orbits} ({self.method})"
        return f"exact E = {with_decimals(self.energy, 10)}, {self._level}, {dimension}"

    def _repr_html_(self) -> str:
        """For notebooks."""
        rows = [
            ("gap", self._level.removeprefix("gap ")),
            ("dimension", f"{self.dimension:,}"),
            ("method", f"{self.method}, {self.seconds:.2g} s"),
        ]
        return html_table(f"exact E = {with_decimals(self.energy, 10)}", rows)

    @property
    def _level(self) -> str:
        if self.multiplicity == 1:
            return f"gap {with_decimals(self.gap, 6)}"
        more = " or more" if self.method != "dense" and self.multiplicity >= MAX_COUNTED else ""
        return f"gap {with_decimals(self.gap, 6)} ({self.multiplicity}{more} degenerate states)"

    def full_state(self, hilbert: HilbertSpace) -> np.ndarray:
        """The eigenvector on all configurations of the sector in lexicographic order, normalised.

        Raises:
            ValueError: it does not fit into memory.
        """
        return on_sector(self.state, self.symmetry, hilbert)


def on_sector(state: np.ndarray, symmetry: Symmetry | None, hilbert: HilbertSpace) -> np.ndarray:
    """A vector on the orbits of a symmetry on all configurations of the sector, both normalised.

    Raises:
        ValueError: it does not fit into memory.
    """
    if symmetry is None:
        return state
    require_memory(
        hilbert.dimension * 40,
        f"the state vector on all {hilbert.dimension:,} configurations",
        "use the amplitudes of the orbits",
    )
    representatives, sizes = symmetry.orbits(hilbert)
    ranks = hilbert.rank(representatives)
    amplitudes = torch.from_numpy(state).to(torch.complex128) / sizes.double().sqrt()
    parts = []
    for start in range(0, hilbert.dimension, ROWS):
        n = hilbert.configurations(start, min(start + ROWS, hilbert.dimension))
        g = symmetry.canonical(n)
        found = hilbert.rank(symmetry.image(n, g))
        place = torch.searchsorted(ranks, found).clamp(max=len(ranks) - 1)
        angle = -symmetry.phases(n, g, hilbert)
        factor = torch.polar(torch.ones_like(angle), angle)
        parts.append(torch.where(ranks[place] == found, amplitudes[place] * factor, 0))
    psi = torch.cat(parts)
    real = not np.iscomplexobj(state) and symmetry.has_real_characters
    return (psi.real if real else psi).numpy()


def ground_state(
    hamiltonian: Hamiltonian,
    max_dimension: int = MAX_DIMENSION,
    *,
    symmetry: Symmetry | None = None,
    device: torch.device | str = "cpu",
    check: bool = True,
) -> ExactGroundState:
    """Lowest eigenstate and gap in the Hamiltonian's sector.

    Args:
        max_dimension: refuse larger matrices.
        symmetry: look in this symmetry sector alone: the matrix is smaller by the order of the group. The state of
            lowest energy may be in another sector (nqs.symmetry, `Symmetry.real_characters`).
        device: where the matrix is built and applied.
        check: False for a Hamiltonian that `nqs.estimators.hamiltonian_check` has accepted before.

    Raises:
        ValueError: as `SectorMatrix.of`.

    >>> from nqs.hamiltonians import BoseHubbard
    >>> from nqs.lattice import chain
    >>> print(ground_state(BoseHubbard(chain(4), n_particles=4, U=4.0)))
    exact E = -3.9765130137, gap 4.006330, dimension 35 (dense)
    """
    begin = time.perf_counter()
    matrix = SectorMatrix.of(hamiltonian, symmetry, device=device, max_dimension=max_dimension, check=check)
    dimension, constant = len(matrix), abs(matrix.lowest_diagonal)
    equal = DEGENERATE * (matrix.width or constant or 1.0) + ROUNDING * constant
    if dimension > DENSE_DIMENSION:
        energies, found = lowest_states(matrix)
        states, method = np.stack(found), "Lanczos"
    if dimension <= DENSE_DIMENSION or (dimension <= DENSE_LEVELS and energies[-1] <= energies[0] + equal):
        energies, vectors = np.linalg.eigh(matrix.to_scipy().toarray())
        states, method = vectors.T, "dense"
    above = energies[energies > energies[0] + equal]
    multiplicity = len(energies) - len(above)
    gap = 0.0 if multiplicity > 1 else float(above[0] - energies[0]) if len(above) else float("nan")
    return ExactGroundState(
        energy=float(energies[0]),
        gap=gap,
        state=states[0],
        dimension=dimension,
        method=method,
        seconds=time.perf_counter() - begin,
        multiplicity=multiplicity,
        level=states[:multiplicity] if len(above) or multiplicity == dimension else None,
        symmetry=symmetry,
    )


def lowest_states(
    matrix: SectorMatrix, n_states: int | None = None, known: Sequence[np.ndarray] = ()
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Lowest energies in order, and their states in the order in which they were found.

    Without `n_states` these are the states of the lowest level, up to MAX_COUNTED of them, and the energy of the level
    above.

    Lanczos runs on (H - H_0) / unit, with the lowest diagonal element H_0 and a unit of at least the width of the
    spectrum, so that energies lie between -1 and 1 and those of strongly coupled ground states are small.

    Lanczos finds one state of a degenerate level. So the states found are shifted to the top of the spectrum, and the
    next run starts from another random vector, until there are enough or the next energy is higher. (A start vector
    that is related to the first one by a symmetry, such as the reversed one, could have the same component in the
    level.)

    Args:
        known: orthonormal vectors; the states are then those of P H P, P = 1 - sum_k |k><k|, besides the vectors.
    """
    apply: Callable[[Any], Any] = matrix.apply
    dtype = torch.float64 if matrix.is_real and not any(map(np.iscomplexobj, known)) else torch.complex128
    on_cpu = matrix.device.type == "cpu"
    if on_cpu:
        csr = matrix.to_scipy()
        apply = csr.__matmul__
    random, origin = np.random.default_rng(0), matrix.lowest_diagonal
    width = matrix.width or abs(origin) or 1.0
    unit = 2.0 ** math.frexp(width)[1]  # a power of two rounds nothing
    constant = ROUNDING * abs(origin) / unit
    tolerance, equal = TOLERANCE + constant, DEGENERATE + constant
    above: list[Any] = [k if on_cpu else torch.from_numpy(k).to(matrix.device, dtype) for k in known]
    states: list[Any] = []  # arrays on a CPU, tensors on a GPU
    energies: list[float] = []

    def deflated(x: Any) -> Any:
        inside, coefficients = x, [dot(k, x) for k in above]
        for k, coefficient in zip(above, coefficients, strict=True):
            inside = inside - coefficient * k
        y = apply(inside)
        y -= origin * inside
        y /= unit
        for k, coefficient in zip(above, coefficients, strict=True):
            y += (2 * coefficient - dot(k, y)) * k
        for state in states:
            y += (2 * dot(state, x)) * state
        return y

    while len(states) < min(n_states or MAX_COUNTED, len(matrix) - len(known)):
        start: Any = random.standard_normal(len(matrix))
        start = (
            start.astype(np.float64 if dtype == torch.float64 else np.complex128)
            if on_cpu
            else torch.from_numpy(start).to(matrix.device, dtype)
        )
        for k in above:
            start = start - dot(k, start) * k
        energy, state = lanczos(deflated, start, tolerance, vector=not states or n_states is not None)
        energies.append(energy)
        if n_states is None and energy > energies[0] + equal:
            break
        if n_states is None and states:  # as a vector, too: another member of the level, but not the state above
            _, state = lanczos(deflated, start, tolerance)
        states.append(state)
    return origin + unit * np.sort(energies), states if on_cpu else [state.cpu().numpy() for state in states]
