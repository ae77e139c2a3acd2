r"""Pairs of spin orbitals whose occupations change together, for batches of determinants of one sector.

A pair is an electron with its new place, i -> a, or two electrons, or two places. All pairs of M orbitals stand in a
list, with their place in a table of matrix elements, their irrep and their flips; which of them a determinant has
follows from its occupations, so that nothing is sorted or computed for a determinant that could be looked up.
"""

# Shapes: B determinants, M orbitals, E pairs of a list, R of them in a determinant, W words.
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.runtime.gather import places, take_columns, take_rows

AVAILABLE, ODD = 1, 2  # bits of an orbital: occupied, or empty, as the pair needs it; its sign sigma is -1


class Excitations(NamedTuple):
    """One factor of all excitations of a kind: rows (what leaves) or columns (where it goes), R of each determinant.

    Attributes:
        place: in the table of signed elements, (B, R): the element of a row and a column is at the sum of theirs.
        irrep: (B, R).
        flips: changes of the local states, (B, R, W) 64-bit words.
    """

    place: Int64[Tensor, "B R"]
    irrep: Int64[Tensor, "B R"]
    flips: Int64[Tensor, "B R W"]


class PairList(NamedTuple):
    """Pairs of orbitals of one spin; those of a determinant have this order.

    Attributes:
        first, second: orbitals, (E,).
        odd: 1 where the sign changes besides sigma of the two, (E,).
        place: in a table of matrix elements, with positive and with negative sign, (E, 2).
        irrep: (E,).
        flips: changes of the local states, (E, W) 64-bit words.
    """

    first: Int64[Tensor, " E"]
    second: Int64[Tensor, " E"]
    odd: UInt8[Tensor, " E"]
    place: Int64[Tensor, "E 2"]
    irrep: Int64[Tensor, " E"]
    flips: Int64[Tensor, "E W"]

    def picked(self, numbers: Int64[Tensor, " R"]) -> "PairList":
        """Some of the pairs."""
        return PairList(*(part[numbers] for part in self))

    def sorted_by_irrep(self) -> "PairList":
        return self.picked(self.irrep.argsort(stable=True))

    def found(
        self, first: UInt8[Tensor, "B M"], second: UInt8[Tensor, "B M"]
    ) -> tuple[Int64[Tensor, " K"], UInt8[Tensor, " K"]]:
        """Pairs that determinants have, as their numbers in a matrix (B, E), and 1 for negative signs."""
        x, y = take_columns(first, self.first), take_columns(second, self.second)
        numbers = places((x & y & AVAILABLE).view(torch.bool))
        return numbers, take_rows((((x ^ y) >> 1) ^ self.odd).flatten(), numbers)

    def of(self, first: UInt8[Tensor, "B M"], second: UInt8[Tensor, "B M"], number: int) -> Excitations:
        """Those of determinants that have `number` of them each."""
        B, E = len(first), len(self.first)
        numbers, negative = self.found(first, second)
        pairs = (numbers.view(B, number) - E * torch.arange(B, device=first.device)[:, None]).flatten()
        place = take_rows(self.place.flatten(), 2 * pairs + negative)
        irrep, flips = take_rows(self.irrep, pairs), take_rows(self.flips, pairs)
        return Excitations(place.view(B, number), irrep.view(B, number), flips.view(B, number, flips.shape[1]))


class SignedTable(NamedTuple):
    """Matrix elements E of rows and columns of the same irrep, each row as E, -E, E.

    The element of a row and a column is at the sum of their places, which count the negative signs; elements that
    vanish by symmetry have no place, so that the table stays in the cache.

    Attributes:
        elements: (T,).
        rows, columns: their places with positive and with negative sign, (R, 2) and (C, 2).
    """

    elements: Float64[np.ndarray, " T"]
    rows: Int64[np.ndarray, "R 2"]
    columns: Int64[np.ndarray, "C 2"]

    @classmethod
    def of(
        cls,
        elements: Float64[np.ndarray, "R C"],
        row_irreps: Int64[np.ndarray, " R"],
        column_irreps: Int64[np.ndarray, " C"],
    ) -> "SignedTable":
        rows, columns = (np.zeros((n, 2), dtype=np.int64) for n in elements.shape)
        parts, total = [np.zeros(0)], 0
        for irrep in np.unique(row_irreps):
            r, c = np.flatnonzero(row_irreps == irrep), np.flatnonzero(column_irreps == irrep)
            block = elements[np.ix_(r, c)]
            parts.append(np.concatenate([block, -block, block], axis=1).ravel())
            rows[r, 0] = total + 3 * len(c) * np.arange(len(r))
            rows[r, 1] = rows[r, 0] + len(c)
            columns[c, 0] = np.arange(len(c))
            columns[c, 1] = columns[c, 0] + len(c)
            total += parts[-1].size
        return cls(np.concatenate(parts), rows, columns)


def moves(
    irreps: Int64[np.ndarray, " M"],
    flips: Int64[np.ndarray, "M W"],
    place: Int64[np.ndarray, "M M 2"],
    device: torch.device,
) -> PairList:
    """All i -> a of one spin, from irreps of orbitals, which combine by XOR, and flips of their occupations."""
    i, a = (~np.eye(len(irreps), dtype=bool)).nonzero()
    return _listed((i, a, (i < a).astype(np.uint8), place[i, a]), irreps, flips, device)


def twos(
    irreps: Int64[np.ndarray, " M"],
    flips: Int64[np.ndarray, "M W"],
    place: Int64[np.ndarray, "E 2"],
    device: torch.device,
) -> PairList:
    """All i < j of one spin in the order of np.triu_indices; otherwise as `moves`."""
    i, j = np.triu_indices(len(irreps), 1)
    return _listed((i, j, np.zeros(len(i), dtype=np.uint8), place), irreps, flips, device)


def _listed(
    parts: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    irreps: np.ndarray,
    flips: np.ndarray,
    device: torch.device,
) -> PairList:
    i, j = parts[:2]
    every = (*parts, irreps[i] ^ irreps[j], flips[i] ^ flips[j])
    return PairList(*(torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in every))
