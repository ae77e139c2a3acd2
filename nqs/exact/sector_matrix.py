"""The matrix of a Hamiltonian on its sector, between configurations or between the orbits of a symmetry.

Basis states are those of the normalised amplitudes. Without a symmetry these are psi(n) themselves; with one they are

    x_r = sqrt(m_r) psi(r),    H_rr' = sqrt(m_r / m_r') sum_n' <r|H|n'> c(n'),    psi(n') = c(n') psi(r'),

r the representative of an orbit of m_r members, n' the members of the orbit of r' that H connects with r. The matrix
is Hermitian, and |x|^2 = 1 for a normalised state.
"""

# Shapes: N configurations or orbits, K connected configurations, L sites, nnz stored elements.
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.estimators.hamiltonian_check import check_hamiltonian
from nqs.hilbert import HilbertSpace, count_text
from nqs.protocols import Connected, Hamiltonian, max_connected
from nqs.runtime.memory import max_chunk_rows, require_memory
from nqs.samples import Lookup
from nqs.symmetry.group import Symmetry

if TYPE_CHECKING:
    from scipy.sparse import csr_array
else:
    csr_array = Any  # importing scipy takes time, and sampled steps do not need it

MAX_DIMENSION = 5_000_000
ROWS = 2**15  # matrix rows in a chunk
PROBED = 128  # random rows for the estimate of the memory
CHUNK_ELEMENTS = 2**19  # elements in a chunk
# Peak memory of sorting the elements into rows, in units of coordinates and elements; the same where they are kept for
# the matrices of other characters.
BUILD_COPIES, KEPT_COPIES = 2.5, 4.0
WORK_VECTORS = 24  # vectors of the dimension besides the matrix: Lanczos vectors, members of a degenerate level
OVERHEAD = 2**26  # bytes, whatever the dimension


class _Elements(NamedTuple):
    """Elements in coordinate form; `g` is the group element that maps n' to its representative."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    g: np.ndarray | None


@dataclass(frozen=True, kw_only=True, eq=False)
class SectorMatrix:
    """H in the sector: `SectorMatrix.of(hamiltonian)`, or `SectorMatrix.of(hamiltonian, symmetry)`.

    Attributes:
        configurations: the sector in lexicographic order, or one representative of every orbit, (N, L).
        sizes: number of members of each orbit; 1 without a symmetry.
        diagonal: <n|H|n> of the configurations. Where H connects a representative with its own orbit, the diagonal of
            the matrix differs from it.
        symmetry: of the orbits.
    """

    configurations: UInt8[Tensor, "N L"]
    sizes: Int64[Tensor, " N"]
    diagonal: Float64[Tensor, " N"]
    symmetry: Symmetry | None
    _csr: csr_array = field(repr=False)

    @classmethod
    def of(
        cls,
        hamiltonian: Hamiltonian,
        symmetry: Symmetry | None = None,
        *,
        device: torch.device | str = "cpu",
        max_dimension: int | None = None,
        check: bool = True,
    ) -> "SectorMatrix":
        """Built once, from the Hamiltonian's own diagonal and connected configurations.

        Args:
            symmetry: of the Hamiltonian, with its character: the matrix is that of this symmetry sector.
            device: where the matrix is built and applied.
            max_dimension: refuse larger matrices.
            check: False for a Hamiltonian that `check_hamiltonian` has accepted before.

        Raises:
            ValueError: `check_hamiltonian` refuses the Hamiltonian, the sector is larger than max_dimension, or the
                matrix does not fit into memory.
        """
        n, sizes = _basis(hamiltonian, symmetry, torch.device(device), max_dimension, check=check)
        diagonal, elements = _elements(hamiltonian, n, symmetry)
        return cls._between(n, sizes, diagonal, symmetry, elements)

    @classmethod
    def of_real_characters(
        cls, hamiltonian: Hamiltonian, symmetry: Symmetry, *, device: torch.device | str = "cpu"
    ) -> "Iterator[tuple[Bool[Tensor, ' orbits'], SectorMatrix]]":
        """Matrices of all real characters of a group, one after the other; connected configurations are found once.

        The Hamiltonian is one that `check_hamiltonian` accepts.

        Each comes with a mask of the orbits of `all_orbits` that are in its sector.
        """
        sectors = symmetry.real_characters()
        even = sectors[0]
        n, sizes = _basis(hamiltonian, _without_signs(even), torch.device(device), None, copies=KEPT_COPIES)
        diagonal, elements = _elements(hamiltonian, n, even)
        assert elements.g is not None
        for sector in sectors:
            signs = 1 - 4 * np.array(sector.angles)  # an angle of 1/2 is the character -1
            allowed = ~sector.forbidden(n, hamiltonian.hilbert)
            number = (allowed.long().cumsum(0) - 1).masked_fill(~allowed, -1).cpu().numpy()
            rows, columns = number[elements.rows], number[elements.columns]
            kept = (rows >= 0) & (columns >= 0)
            values = (elements.values * signs[elements.g])[kept]
            in_sector = _Elements(rows[kept], columns[kept], values, None)
            yield allowed, cls._between(n[allowed], sizes[allowed], diagonal[allowed], sector, in_sector)

    @classmethod
    def _between(
        cls,
        n: UInt8[Tensor, "N L"],
        sizes: Int64[Tensor, " N"],
        diagonal: Float64[Tensor, " N"],
        symmetry: Symmetry | None,
        elements: _Elements,
    ) -> "SectorMatrix":
        rows, columns, values, _ = elements
        if symmetry is not None:
            root = sizes.double().sqrt().cpu().numpy()
            values = values * (root[rows] / root[columns])
        from scipy.sparse import coo_array

        matrix = coo_array((values, (rows, columns)), shape=(len(n), len(n))).tocsr()
        return cls(configurations=n, sizes=sizes, diagonal=diagonal, symmetry=symmetry, _csr=matrix)

    def __len__(self) -> int:
        """Number of basis states, N."""
        return len(self.configurations)

    @property
    def device(self) -> torch.device:
        return self.configurations.device

    @property
    def is_real(self) -> bool:
        return not np.iscomplexobj(self._csr.data)

    @cached_property
    def lowest_diagonal(self) -> float:
        """The lowest diagonal element, an upper bound of the lowest eigenvalue."""
        return float(self._csr.diagonal().real.min())

    @cached_property
    def width(self) -> float:
        """No two eigenvalues differ by more (Gershgorin); a constant in H does not change it."""
        diagonal = self._csr.diagonal().real
        radius = abs(self._csr).sum(axis=1) - abs(diagonal)
        return float((diagonal + radius).max() - (diagonal - radius).min())

    @property
    def n_connected(self) -> int:
        """Elements besides the diagonal."""
        return self._csr.nnz - len(self)

    def to_scipy(self) -> csr_array:
        """The matrix itself, not a copy."""
        return self._csr

    def apply(self, x: Num[Tensor, " N"]) -> Num[Tensor, " N"]:
        """H x."""
        if x.is_complex() and self.is_real:
            # Two real products: a complex product would convert the matrix each time.
            return torch.view_as_complex(self._product(torch.view_as_real(x.contiguous())).contiguous())
        return self._product(x if self.is_real else x.to(torch.complex128))

    def _product(self, x: Num[Tensor, "N ..."]) -> Num[Tensor, "N ..."]:
        if self.device.type == "cpu":
            return torch.from_numpy(self._csr @ x.numpy())
        return self._on_device @ x

    @cached_property
    def _on_device(self) -> Tensor:
        csr = self._csr
        starts, columns, values = (torch.from_numpy(x).to(self.device) for x in (csr.indptr, csr.indices, csr.data))
        # Invariants are checked once, and torch says at first use that its sparse rows are in beta.
        with torch.sparse.check_sparse_tensor_invariants(True), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)
            return torch.sparse_csr_tensor(starts, columns, values, size=csr.shape)


def sparse_matrix(hamiltonian: Hamiltonian, max_dimension: int = MAX_DIMENSION) -> csr_array:
    """<n|H|n'> in the lexicographic basis of the sector, real if all elements are.

    Raises:
        ValueError: as `SectorMatrix.of`.
    """
    return SectorMatrix.of(hamiltonian, max_dimension=max_dimension).to_scipy()


def all_orbits(
    hilbert: HilbertSpace, symmetry: Symmetry, device: torch.device | str = "cpu"
) -> tuple[UInt8[Tensor, "N L"], Int64[Tensor, " N"]]:
    """Representatives and sizes of all orbits of a group, also of those that some of its characters forbid."""
    return _without_signs(symmetry).orbits(hilbert, device)


def _without_signs(symmetry: Symmetry) -> Symmetry:
    return replace(symmetry.with_angles([0.0] * symmetry.order), fermions=False)


def _basis(
    hamiltonian: Hamiltonian,
    symmetry: Symmetry | None,
    device: torch.device,
    max_dimension: int | None,
    *,
    copies: float = BUILD_COPIES,
    check: bool = False,
) -> tuple[UInt8[Tensor, "N L"], Int64[Tensor, " N"]]:
    """Configurations or representatives, and orbit sizes; too large dimensions are refused before they are listed."""
    hilbert = hamiltonian.hilbert
    order = 1 if symmetry is None else symmetry.order
    refuse_large(hilbert, hilbert.dimension // order, symmetry, max_dimension)
    if check:
        check_hamiltonian(hamiltonian)
    _check_memory(hamiltonian, hilbert.dimension // order, symmetry, device, copies)
    if symmetry is None:
        starts = range(0, hilbert.dimension, ROWS)
        chunks = [hilbert.configurations(s, min(s + ROWS, hilbert.dimension), device=device) for s in starts]
        n = torch.cat(chunks)
        return n, torch.ones(len(n), dtype=torch.int64, device=device)
    n, sizes = symmetry.orbits(hilbert, device)
    refuse_large(hilbert, len(n), symmetry, max_dimension)
    _check_memory(hamiltonian, len(n), symmetry, device, copies)
    if not len(n):
        raise ValueError(f"the symmetry forbids every configuration of {hilbert}: choose another character.")
    return n, sizes


def refuse_large(hilbert: HilbertSpace, dimension: int, symmetry: Symmetry | None, max_dimension: int | None) -> None:
    if max_dimension is not None and dimension > max_dimension:
        what = "a sector" if symmetry is None else f"the orbits of {symmetry.order} symmetries in a sector"
        orbits = "" if symmetry is None else f" ({dimension:,} orbits or more)"
        raise ValueError(
            f"exact diagonalisation of {what} of dimension {count_text(hilbert.dimension)}{orbits} is over the limit "
            f"max_dimension={max_dimension:,}: choose a smaller system or sector, or raise the limit if memory allows."
        )


def _check_memory(
    hamiltonian: Hamiltonian, dimension: int, symmetry: Symmetry | None, device: torch.device, copies: float
) -> None:
    """Refuse a matrix that does not fit into memory, as estimated from random rows."""
    hilbert = hamiltonian.hilbert
    some = hilbert.random(min(PROBED, hilbert.dimension), torch.Generator().manual_seed(0))
    connected = _in_double_precision(hamiltonian.connected(some))
    counts = torch.bincount(connected.parents, minlength=len(some)).double()
    per_row = 1 + (counts.mean() + 3 * counts.std(correction=0) / len(counts) ** 0.5).item()
    number = 8 if _real(connected, symmetry) else 16
    of_element = number + 2 * (4 if dimension < 2**31 else 8) + (0 if symmetry is None else 8)
    of_row = copies * per_row * of_element + WORK_VECTORS * number + 2 * hilbert.n_sites + 3 * 8
    chunk = min(dimension * per_row, CHUNK_ELEMENTS) * (4 * hilbert.n_sites + 200)
    require_memory(
        dimension * of_row + chunk + OVERHEAD,
        f"the matrix of dimension {dimension:,}, with about {per_row:.0f} elements in each row,",
        "choose a smaller system or sector, or work inside a symmetry sector",
        device,
    )


def _elements(
    hamiltonian: Hamiltonian, n: UInt8[Tensor, "N L"], symmetry: Symmetry | None
) -> tuple[Float64[Tensor, " N"], _Elements]:
    """<n|H|n>, and all elements sum_n' <r|H|n'> c(n') before they are scaled with the sizes of the orbits."""
    hilbert, N = hamiltonian.hilbert, len(n)
    position = _positions(hilbert, n, whole=symmetry is None)
    # Products with vectors are limited by memory bandwidth: smaller indices are faster.
    index_dtype = torch.int32 if N < 2**31 else torch.int64
    size = max(1, min(ROWS, CHUNK_ELEMENTS // max_connected(hamiltonian)))
    if symmetry is not None:
        size = min(size, max_chunk_rows(32 * symmetry.order * (hilbert.n_sites + 2) ** 2, n.device))
    diagonals: list[Tensor] = []
    rows, columns, values, elements = [], [], [], []
    for start in range(0, N, size):
        part = n[start : start + size]
        diagonal = hamiltonian.diagonal(part).double()
        connected = _in_double_precision(hamiltonian.connected(part))
        found, value, parents = connected.configurations, connected.elements, connected.parents
        index = torch.arange(start, start + len(part), device=n.device)
        if symmetry is not None:
            g = symmetry.canonical(found)
            angle = -symmetry.phases(found, g, hilbert)
            character = torch.cos(angle) if symmetry.has_real_characters else torch.polar(torch.ones_like(angle), angle)
            value = value * character
            column = position(symmetry.image(found, g))
            if not symmetry.is_trivial:
                inside = column >= 0  # elsewhere psi vanishes by symmetry
                column, value, parents, g = column[inside], value[inside], parents[inside], g[inside]
            elements += [torch.zeros_like(index), g]
        else:
            column = position(found)
        diagonals.append(diagonal)
        rows += [index.to(index_dtype), index[parents].to(index_dtype)]
        columns += [index.to(index_dtype), column.to(index_dtype)]
        values += [diagonal.to(value.dtype), value]

    def concatenated(parts: list[Tensor]) -> np.ndarray:
        whole = torch.cat(parts).cpu().numpy()
        parts.clear()  # frees memory before the next one
        return whole

    g_of = concatenated(elements) if symmetry is not None else None
    return torch.cat(diagonals), _Elements(concatenated(rows), concatenated(columns), concatenated(values), g_of)


def _in_double_precision(connected: Connected) -> Connected:
    """The elements in double precision, float64 or complex128."""
    elements = connected.elements
    return connected._replace(elements=elements.to(torch.complex128 if elements.is_complex() else torch.float64))


def _real(connected: Connected, symmetry: Symmetry | None) -> bool:
    return not connected.elements.is_complex() and (symmetry is None or symmetry.has_real_characters)


def _positions(
    hilbert: HilbertSpace, n: UInt8[Tensor, "N L"], *, whole: bool
) -> Callable[[UInt8[Tensor, "K L"]], Int64[Tensor, " K"]]:
    """Rows of configurations in the basis, -1 for others; `whole` if the basis is the whole sector.

    Keys that are single integers are searched, which is faster than a lookup table.
    """
    if hilbert.keys(n[:1]).shape[1] > 1:
        return Lookup(hilbert, n).rows
    keys = torch.cat([hilbert.keys(part)[:, 0] for part in n.split(ROWS)])
    if whole:
        return lambda found: torch.searchsorted(keys, hilbert.keys(found)[:, 0])

    def position(found: UInt8[Tensor, "K L"]) -> Int64[Tensor, " K"]:
        wanted = hilbert.keys(found)[:, 0]
        place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        return torch.where(keys[place] == wanted, place, -1)

    return position
