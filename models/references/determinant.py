"""Slater determinants of fermions: amplitudes and signs."""

# Shapes: B configurations, L sites.
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.models.references.conditionals import DeterminantConditionals

VANISHING = 1e-9  # ratio of pivots; far below that of random 100 x 100 matrices


@dataclass(frozen=True, kw_only=True)
class SlaterDeterminant:
    """Phase of <n|D> for a determinant of fermions, all up orbitals first in Jordan-Wigner order; 0 where that is 0.

    <n|D> = det[orbitals_up[occupied by up]] det[orbitals_down[occupied by down]] with rows in the order of the sites.

    Attributes:
        up: orbitals of the up electrons, or of spinless fermions, L rows of N_up numbers (real parts).
        down: orbitals of the down electrons; None for spinless fermions.
        up_imaginary, down_imaginary: imaginary parts, None for real orbitals.
    """

    up: tuple[tuple[float, ...], ...]
    down: tuple[tuple[float, ...], ...] | None = None
    up_imaginary: tuple[tuple[float, ...], ...] | None = None
    down_imaginary: tuple[tuple[float, ...], ...] | None = None

    @classmethod
    def from_orbitals(cls, up: np.ndarray, down: np.ndarray | None = None) -> "SlaterDeterminant":
        """From matrices of orbitals, (L, N) each."""

        def rows(part: np.ndarray) -> tuple[tuple[float, ...], ...]:
            return tuple(tuple(row) for row in part.tolist())

        complex_orbitals = np.iscomplexobj(up) or (down is not None and np.iscomplexobj(down))
        return cls(
            up=rows(up.real),
            down=None if down is None else rows(down.real),
            up_imaginary=rows(up.imag) if complex_orbitals else None,
            down_imaginary=rows(down.imag) if complex_orbitals and down is not None else None,
        )

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        return torch.angle(self.amplitude(n))

    def amplitude(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        """<n|D>, float64 or complex128."""
        up, *down = self.orbitals(n.device)
        amplitude = _minor(up, n % 2 == 1)
        return amplitude * _minor(down[0], n >= 2) if down else amplitude

    def conditionals(self, local_dim: int) -> DeterminantConditionals:
        """For models that start from this determinant."""
        return DeterminantConditionals(self.orbitals(), local_dim)

    def orbitals(self, device: torch.device | str = "cpu") -> list[Num[Tensor, "L N"]]:
        """Orbitals of up, and of down electrons if there are any."""
        parts = [(self.up, self.up_imaginary)]
        if self.down is not None:
            parts.append((self.down, self.down_imaginary))
        return [_matrix(real, imaginary, device) for real, imaginary in parts]


def _matrix(
    real: tuple[tuple[float, ...], ...], imaginary: tuple[tuple[float, ...], ...] | None, device: torch.device | str
) -> Num[Tensor, "L N"]:
    matrix = torch.tensor(real, dtype=torch.float64, device=device)
    if imaginary is None:
        return matrix
    return torch.complex(matrix, torch.tensor(imaginary, dtype=torch.float64, device=device))


def _minor(orbitals: Num[Tensor, "L N"], occupied: Tensor) -> Num[Tensor, " B"]:
    """det of the rows of the occupied sites; exactly 0 where it vanishes to machine precision.

    Symmetries make many determinants vanish, and the sign of the rounding error would depend on the device.
    """
    B, N = len(occupied), orbitals.shape[1]
    counts = occupied.sum(1)
    if bool((counts != N).any()):
        raise ValueError(
            f"the determinant has {N} orbitals, but a configuration has {int(counts[counts != N][0])} particles: "
            "use a reference with as many orbitals as the sector has particles."
        )
    sites: Int64[Tensor, "B N"] = occupied.nonzero()[:, 1].view(B, N)
    if N == 0:
        return torch.ones(B, dtype=orbitals.dtype, device=occupied.device)
    factors, swaps, _ = torch.linalg.lu_factor_ex(orbitals[sites])  # raises nothing where a pivot is 0
    pivots = factors.diagonal(dim1=-2, dim2=-1)  # (B, N)
    odd = (swaps != torch.arange(1, N + 1, device=swaps.device)).sum(1) % 2
    size = pivots.abs()
    return torch.where(size.amin(1) > VANISHING * size.amax(1), pivots.prod(1) * (1 - 2 * odd), 0.0)
