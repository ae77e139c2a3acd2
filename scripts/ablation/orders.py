"""Orders of the sites in the sequence, and of the orbitals of electrons."""

# Shapes: B configurations, L sites, O = 2 L orbitals, K connected configurations.
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.hilbert import Charge, HilbertSpace
from nqs.lattice import from_edges
from nqs.lattice.lattice import Lattice
from nqs.protocols import Connected, Hamiltonian, ReferencePhase, is_stoquastic, max_connected, unit_of

ORDERS = ("rows", "snake", "diagonal", "hilbert")
Encoding = Literal["interleaved", "blocks"]


def order_of_sites(name: str, shape: tuple[int, int]) -> list[int]:
    """Sites of a square lattice (row x columns + column) in the order of decoding.

    Raises:
        ValueError: an unknown order.
    """
    rows, columns = shape
    cells = [(x, y) for x in range(rows) for y in range(columns)]
    if name == "snake":
        cells = [(x, y if x % 2 == 0 else columns - 1 - y) for x, y in cells]
    elif name == "diagonal":
        cells = sorted(cells, key=lambda cell: (sum(cell), cell[0]))
    elif name == "hilbert":
        cells = hilbert_curve(rows, columns)
    elif name != "rows":
        raise ValueError(f"order {name!r}: choose one of {', '.join(ORDERS)}.")
    return [x * columns + y for x, y in cells]


def hilbert_curve(rows: int, columns: int) -> list[tuple[int, int]]:
    """A Hilbert curve through a rectangle of any size (Cerveny's generalisation: halves split at even lengths)."""
    if columns >= rows:
        return [(y, x) for x, y in _curve(0, 0, columns, 0, 0, rows)]
    return [(y, x) for x, y in _curve(0, 0, 0, rows, columns, 0)]


def _curve(x: int, y: int, ax: int, ay: int, bx: int, by: int) -> list[tuple[int, int]]:
    """From (x, y) along the long side a, with the short side b."""
    width, height = abs(ax + ay), abs(bx + by)
    step_a, step_b = (_sign(ax), _sign(ay)), (_sign(bx), _sign(by))
    if height == 1:
        return [(x + k * step_a[0], y + k * step_a[1]) for k in range(width)]
    if width == 1:
        return [(x + k * step_b[0], y + k * step_b[1]) for k in range(height)]
    ax2, ay2, bx2, by2 = _half(ax), _half(ay), _half(bx), _half(by)
    if 2 * width > 3 * height:
        if abs(ax2 + ay2) % 2 and width > 2:
            ax2, ay2 = ax2 + step_a[0], ay2 + step_a[1]
        return _curve(x, y, ax2, ay2, bx, by) + _curve(x + ax2, y + ay2, ax - ax2, ay - ay2, bx, by)
    if abs(bx2 + by2) % 2 and height > 2:
        bx2, by2 = bx2 + step_b[0], by2 + step_b[1]
    return (
        _curve(x, y, bx2, by2, ax2, ay2)
        + _curve(x + bx2, y + by2, ax, ay, bx - bx2, by - by2)
        + _curve(x + ax - step_a[0] + bx2 - step_b[0], y + ay - step_a[1] + by2 - step_b[1], -bx2, -by2,
                 -(ax - ax2), -(ay - ay2))
    )  # fmt: skip


def _sign(x: int) -> int:
    return (x > 0) - (x < 0)


def _half(x: int) -> int:
    return abs(x) // 2 * _sign(x)


def reordered(lattice: Lattice, order: list[int]) -> Lattice:
    """The graph with its sites numbered in another order: site k is order[k] of the lattice."""
    place = torch.empty(len(order), dtype=torch.int64)
    place[torch.tensor(order)] = torch.arange(len(order))
    return from_edges(place[lattice.bonds()].tolist(), lattice.n_sites)


def displacements(lattice: Lattice, order: list[int]) -> tuple[tuple[int, ...], ...]:
    """Classes of pairs of sites, in another order."""
    index = torch.tensor(order)
    return tuple(map(tuple, lattice.displacements()[index][:, index].tolist()))


@dataclass(frozen=True)
class SplitElectrons:
    """A Hamiltonian of electrons with a site of the sequence for each orbital, empty or occupied.

    Args:
        base: local states 0 empty, 1 up, 2 down, 3 both. Its matrix elements are used as they are.
        encoding: up and down orbital of a site one after the other, or all up orbitals first.
    """

    base: Hamiltonian
    encoding: Encoding

    @property
    def spins(self) -> list[int]:
        """0 for up and 1 for down, by orbital."""
        L = self.base.hilbert.n_sites
        return [0, 1] * L if self.encoding == "interleaved" else [0] * L + [1] * L

    @property
    def sites(self) -> list[int]:
        L = self.base.hilbert.n_sites
        return [k // 2 for k in range(2 * L)] if self.encoding == "interleaved" else list(range(L)) * 2

    @cached_property
    def hilbert(self) -> HilbertSpace:
        charges = []
        for spin, charge in enumerate(self.base.hilbert.charges):
            values = tuple((0, int(s == spin)) for s in self.spins)
            charges.append(Charge(charge.name, values, charge.target, charge.modulus))
        return HilbertSpace(2 * self.base.hilbert.n_sites, ("empty", "occupied"), tuple(charges))

    @property
    def unit(self) -> str:
        return unit_of(self.base)

    @property
    def is_stoquastic(self) -> bool:
        return is_stoquastic(self.base)

    @property
    def max_connected(self) -> int:
        return max_connected(self.base)

    def joint(self, n: UInt8[Tensor, "B O"]) -> UInt8[Tensor, "B L"]:
        """Both orbitals of a site as one local state."""
        up, down = ([k for k, s in enumerate(self.spins) if s == spin] for spin in (0, 1))
        return n[:, up] + 2 * n[:, down]

    def split(self, n: UInt8[Tensor, "B L"]) -> UInt8[Tensor, "B O"]:
        states = n[:, self.sites]
        is_up = torch.tensor(self.spins, device=n.device) == 0
        return torch.where(is_up, states & 1, states >> 1)

    def diagonal(self, n: UInt8[Tensor, "B O"]) -> Float64[Tensor, " B"]:
        return self.base.diagonal(self.joint(n))

    def connected(self, n: UInt8[Tensor, "B O"]) -> Connected:
        found = self.base.connected(self.joint(n))
        return Connected(self.split(found.configurations), found.elements, found.parents)

    def classes(self, of_sites: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
        """Classes of pairs of orbitals: that of their sites, and both spins."""
        orbitals = list(zip(self.sites, self.spins, strict=True))
        return tuple(tuple(4 * of_sites[i][j] + 2 * s + r for j, r in orbitals) for i, s in orbitals)


@dataclass(frozen=True)
class SplitReference:
    """Reference phase of the joint encoding."""

    reference: ReferencePhase
    electrons: SplitElectrons

    def phase(self, n: UInt8[Tensor, "B O"]) -> Float64[Tensor, " B"]:
        return self.reference.phase(self.electrons.joint(n))
