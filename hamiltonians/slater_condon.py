r"""Matrix elements between determinants of electrons by the Slater-Condon rules, for batches of determinants.

With N the set of occupied spin orbitals of n, n' = n with electrons moved from i, j to a, b, all of real orbitals:

    <n|H|n>  = E_core + sum_i h_ii + 1/2 sum_ij [(ii|jj) - (ij|ji)]
    one moved,          i -> a:        sigma_i sigma_a (-1)^[i<a] { h_ia + sum_k [(ia|kk) - (ik|ka)] }
    two of one spin,    ij -> ab:      sigma_i sigma_j sigma_a sigma_b f_ijab [(ia|jb) - (ib|ja)],  i < j, a < b
    one of each spin,   i -> a, j -> b: (signs of two single moves) (ia|jb)

where sigma_p = (-1)^(electrons of the spin of p below p in n), f = -(-1)^([i<a] + [i<b] + [j<a] + [j<b]), and exchange
terms only between equal spins. Slater, Phys. Rev. 34, 1293 (1929); Condon, Phys. Rev. 36, 1121 (1930).

Every determinant of a sector has as many occupied and empty orbitals of a spin, so that their indices are rectangular
tables. What leaves the orbitals (an electron, two of one spin, an up electron with its new place) is a row of a table,
where it can go a column. Columns are sorted by the parities that the integrals conserve (orbital irreps), which are the
only places where a row has elements that are not zero, so that others are never generated.
"""

# Shapes: B determinants, M orbitals, P rows and Q columns of a determinant, K connected determinants, W words.
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.integrals import Integrals, pair_numbers
from nqs.protocols import Connected

TOKENS_IN_WORD = 8  # local states are bytes; eight of them are changed by one operation on a 64-bit word
# Working set of a block of determinants, bytes for each connected one: indices, element, words of two factors.
CPU_BYTES, GPU_BYTES, BYTES_EACH = 2**25, 2**29, 64


class Excitations(NamedTuple):
    """One factor of all excitations of a kind: rows (what leaves) or columns (where it goes), R of each determinant.

    Attributes:
        place: in the table of elements, (B, R): the element of a row and a column is at the sum of theirs.
        sign: (B, R).
        irrep: (B, R).
        flips: changes of the local states, (B, R, W) 64-bit words.
    """

    place: Int64[Tensor, "B R"]
    sign: Float64[Tensor, "B R"]
    irrep: Int64[Tensor, "B R"]
    flips: Int64[Tensor, "B R W"]

    def sorted_by_irrep(self) -> "Excitations":
        order = self.irrep.argsort(dim=1, stable=True)
        flips = self.flips.gather(1, order[..., None].expand_as(self.flips))
        return Excitations(self.place.gather(1, order), self.sign.gather(1, order), self.irrep.gather(1, order), flips)


class Part(NamedTuple):
    """Connected determinants as words, with elements and parents."""

    words: Int64[Tensor, "K W"]
    elements: Float64[Tensor, " K"]
    parents: Int64[Tensor, " K"]


class SlaterCondon:
    """Matrix elements of one sector of electrons, with tables on one device.

    Args:
        integrals: over M orbitals.
        numbers: of up and down electrons.
        irreps: of the spin orbitals, all up before all down, 2 M integers that combine by XOR.
        cutoff: elements up to this modulus are left out.
        device: of the tables.
    """

    def __init__(
        self,
        integrals: Integrals,
        numbers: tuple[int, int],
        irreps: tuple[int, ...],
        cutoff: float,
        device: torch.device,
    ) -> None:
        self.M, self.numbers, self.cutoff, self.device = integrals.n_orbitals, numbers, cutoff, device
        M = self.M

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device)

        self.irreps = tensor(np.array(irreps, dtype=np.int64).reshape(2, M))
        self.n_irreps = 1 << int(max(irreps)).bit_length() if max(irreps) else 1
        self.n_words = -(-M // TOKENS_IN_WORD)
        flips = np.zeros((2, M, self.n_words * TOKENS_IN_WORD), dtype=np.uint8)
        flips[0, np.arange(M), np.arange(M)], flips[1, np.arange(M), np.arange(M)] = 1, 2
        self.flips = tensor(flips.view(np.int64))  # (2, M, W)
        pair = pair_numbers(M)
        diagonal = np.diag(pair)
        self.core = integrals.core
        self.h_diagonal = tensor(np.stack([integrals.h(s).diagonal() for s in (0, 1)]))  # (2, M)
        coulomb = {(s, t): integrals.v(s, t)[np.ix_(diagonal, diagonal)] for s in (0, 1) for t in (0, 1)}
        exchange = [integrals.v(s, s)[pair, pair] for s in (0, 1)]
        self.density = [tensor(coulomb[s, s] - exchange[s]) for s in (0, 1)]  # (M, M), between electrons of one spin
        self.density_of_both = tensor(coulomb[0, 1])
        # Fock matrix: h_pq + sum_k over own spin [(pq|kk) - (pk|kq)] + over the other spin (pq|kk), rows k.
        self.h = tensor(np.stack([integrals.h(s).ravel() for s in (0, 1)]))  # (2, M^2)
        own, other = [], []
        for s in (0, 1):
            direct = integrals.v(s, s)[np.ix_(diagonal, pair.ravel())]
            crossed = integrals.v(s, s)[pair[:, :, None], pair[:, None, :]].reshape(M, M * M)
            own.append(tensor(direct - crossed))
            other.append(tensor(integrals.v(s, 1 - s)[np.ix_(pair.ravel(), diagonal)].T))
        self.own_field, self.other_field = own, other  # (M, M^2) each
        # Two electrons of one spin: rows i < j, columns a < b, with the factor f.
        i, j = np.array(list(combinations(range(M), 2)), dtype=np.int64).reshape(-1, 2).T
        self.number_of_two = tensor(_numbers_of_two(M, i, j))
        odd = (i[:, None] < i) ^ (i[:, None] < j) ^ (j[:, None] < i) ^ (j[:, None] < j)
        self.two_of_one = [
            tensor(((2.0 * odd - 1.0) * _antisymmetrised(integrals.v(s, s), pair, i, j)).ravel()) for s in (0, 1)
        ]
        self.width_of_two = len(i)
        self.one_of_each = tensor(integrals.v(0, 1).ravel())
        self.pair, self.width_of_pairs = tensor(pair), len(integrals.v(0, 1))
        self.two_chosen = [
            {n: tensor(np.array(list(combinations(range(n), 2)), dtype=np.int64).reshape(-1, 2)) for n in (N, M - N)}
            for N in numbers
        ]

    # --- the diagonal -----------------------------------------------------------------------------------------------

    def diagonal(self, n: UInt8[Tensor, "B M"]) -> Float64[Tensor, " B"]:
        """<n|H|n>."""
        up, down = (n & 1).double(), (n >> 1).double()
        energy = up @ self.h_diagonal[0] + down @ self.h_diagonal[1] + ((up @ self.density_of_both) * down).sum(1)
        for s, x in enumerate((up, down)):
            energy = energy + ((x @ self.density[s]) * x).sum(1) / 2
        return energy + self.core

    # --- connected determinants -------------------------------------------------------------------------------------

    @property
    def max_connected(self) -> int:
        """Number of excitations by kind, at most: of each row as many as it has elements that are not zero."""
        total = 0
        for s, N in enumerate(self.numbers):
            empty = self.M - N
            total += N * empty
            table = self.two_of_one[s].view(self.width_of_two, self.width_of_two).abs() > self.cutoff
            total += _largest_rows(table, N * (N - 1) // 2, empty * (empty - 1) // 2)
        singles = [N * (self.M - N) for N in self.numbers]
        table = self.one_of_each.view(self.width_of_pairs, self.width_of_pairs).abs() > self.cutoff
        return total + _largest_rows(table, singles[0], singles[1])

    def connected(self, n: UInt8[Tensor, "B M"]) -> Connected:
        """All n' != n with an element above the cutoff, none twice, in blocks of determinants that bound memory."""
        bound = sum(self._candidates) * BYTES_EACH
        rows = max(1, (GPU_BYTES if n.device.type == "cuda" else CPU_BYTES) // bound)
        n = torch.nn.functional.pad(n, (0, self.n_words * TOKENS_IN_WORD - self.M))
        blocks = [
            block for start in range(0, max(1, len(n)), rows) for block in self._block(n[start : start + rows], start)
        ]
        words, elements, parents = zip(*blocks, strict=True)
        return Connected(torch.cat(words).view(torch.uint8)[:, : self.M], torch.cat(elements), torch.cat(parents))

    @property
    def _candidates(self) -> list[int]:
        """Excitations of each kind without regard to irreps, 1 at least."""
        up, down = ((N, self.M - N) for N in self.numbers)
        of_one = [N * E * (1 + (N - 1) * (E - 1) / 4) for N, E in (up, down)]
        return [max(1, int(number)) for number in (*of_one, up[0] * up[1] * down[0] * down[1])]

    def _block(self, n: UInt8[Tensor, "B M8"], first: int) -> Iterator[Part]:
        """The connected determinants of a few determinants, kind by kind."""
        words, n, M = n.view(torch.int64), n[:, : self.M], self.M
        fields = [(n & 1).double(), (n >> 1).double()]
        sides = []
        for s, N in enumerate(self.numbers):
            x = fields[s]
            fock = torch.addmm(self.h[s], x, self.own_field[s]).addmm_(fields[1 - s], self.other_field[s])  # (B, M^2)
            below = x.cumsum(1) - x
            sigma = 1 - 2 * (below % 2)  # (B, M)
            order = x.argsort(dim=1, descending=True, stable=True)
            occupied, empty = order[:, :N], order[:, N:]
            sides.append((occupied, empty, sigma))
            rows, columns = self._one(s, occupied, sigma), self._one(s, empty, sigma)
            yield self._moved_one(words, first, rows, columns, fock)
            if N > 1 and M - N > 1:
                rows = self._two(s, occupied, sigma, self.width_of_two)
                columns = self._two(s, empty, sigma, 1).sorted_by_irrep()
                yield self._joined(words, first, rows, columns, self.two_of_one[s])
        if all(0 < N < M for N in self.numbers):
            up = self._moves(0, *sides[0], self.width_of_pairs)
            down = self._moves(1, *sides[1], 1).sorted_by_irrep()
            yield self._joined(words, first, up, down, self.one_of_each)

    def _one(self, s: int, orbitals: Int64[Tensor, "B R"], sigma: Float64[Tensor, "B M"]) -> Excitations:
        flat = orbitals.flatten()
        irreps, flips = self.irreps[s].index_select(0, flat), self.flips[s].index_select(0, flat)
        return Excitations(
            orbitals, sigma.gather(1, orbitals), irreps.view_as(orbitals), flips.unflatten(0, orbitals.shape)
        )

    def _two(self, s: int, orbitals: Int64[Tensor, "B R"], sigma: Float64[Tensor, "B M"], width: int) -> Excitations:
        one = self._one(s, orbitals, sigma)
        k, l = self.two_chosen[s][orbitals.shape[1]].T
        first, second = (partial(torch.Tensor.index_select, dim=1, index=place) for place in (k, l))
        return Excitations(
            self.number_of_two.flatten().take(first(orbitals) * self.M + second(orbitals)) * width,
            first(one.sign) * second(one.sign),
            first(one.irrep) ^ second(one.irrep),
            first(one.flips) ^ second(one.flips),
        )

    def _moves(
        self,
        s: int,
        occupied: Int64[Tensor, "B N"],
        empty: Int64[Tensor, "B E"],
        sigma: Float64[Tensor, "B M"],
        width: int,
    ) -> Excitations:
        """Single moves i -> a as rows or columns, (B, N E)."""
        a, b = self._one(s, occupied, sigma), self._one(s, empty, sigma)
        i, e = occupied[:, :, None], empty[:, None, :]
        sign = a.sign[:, :, None] * b.sign[:, None, :]
        return Excitations(
            self.pair.flatten().take((i * self.M + e).flatten(1)) * width,
            torch.where(i < e, -sign, sign).flatten(1),
            (a.irrep[:, :, None] ^ b.irrep[:, None, :]).flatten(1),
            (a.flips[:, :, None] ^ b.flips[:, None, :]).flatten(1, 2),
        )

    def _moved_one(
        self,
        words: Int64[Tensor, "B W"],
        first: int,
        rows: Excitations,
        columns: Excitations,
        fock: Float64[Tensor, "B M2"],
    ) -> Part:
        i, a = rows.place[:, :, None], columns.place[:, None, :]
        sign = rows.sign[:, :, None] * columns.sign[:, None, :]
        elements = fock.gather(1, (i * self.M + a).flatten(1)) * torch.where(i < a, -sign, sign).flatten(1)
        allowed = (elements.abs() > self.cutoff) & (rows.irrep[:, :, None] == columns.irrep[:, None, :]).flatten(1)
        parents, move = allowed.nonzero().T
        P, Q = rows.place.shape[1], max(1, columns.place.shape[1])
        left = parents * P + move.div(Q, rounding_mode="floor")
        return self._connected(words, first, parents, left, parents * Q + move % Q, rows, columns, elements[allowed])

    def _joined(
        self, words: Int64[Tensor, "B W"], first: int, rows: Excitations, columns: Excitations, table: Tensor
    ) -> Part:
        """All rows with the columns of the same irrep, which are sorted by it."""
        B, P = rows.place.shape
        Q, device = columns.place.shape[1], words.device
        if self.n_irreps == 1:
            start, number = torch.zeros_like(rows.irrep), torch.full_like(rows.irrep, Q)
        else:
            of_each = torch.zeros(B, self.n_irreps, dtype=torch.int64, device=device)
            of_each.scatter_add_(1, columns.irrep, torch.ones_like(columns.irrep))
            start = (of_each.cumsum(1) - of_each).gather(1, rows.irrep)
            number = of_each.gather(1, rows.irrep)
        start = start + Q * torch.arange(B, device=device)[:, None]
        number = number.flatten()
        left = torch.repeat_interleave(torch.arange(B * P, device=device), number)
        shift = start.flatten() - (number.cumsum(0) - number)
        right = torch.arange(len(left), device=device).add_(shift.index_select(0, left))
        index = rows.place.flatten().index_select(0, left).add_(columns.place.flatten().index_select(0, right))
        elements = table.index_select(0, index)
        kept = (elements.abs() > self.cutoff).nonzero()[:, 0]
        if len(kept) < len(left):
            left, right, elements = (part.index_select(0, kept) for part in (left, right, elements))
        elements.mul_(rows.sign.flatten().index_select(0, left)).mul_(columns.sign.flatten().index_select(0, right))
        return self._connected(words, first, left.div(P, rounding_mode="floor"), left, right, rows, columns, elements)

    def _connected(
        self,
        words: Int64[Tensor, "B W"],
        first: int,
        parents: Int64[Tensor, " K"],
        left: Int64[Tensor, " K"],
        right: Int64[Tensor, " K"],
        rows: Excitations,
        columns: Excitations,
        elements: Float64[Tensor, " K"],
    ) -> Part:
        changed = (words[:, None] ^ rows.flips).flatten(0, 1).index_select(0, left)
        changed ^= columns.flips.flatten(0, 1).index_select(0, right)
        return Part(changed, elements, parents + first)


def _numbers_of_two(M: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Number of every two orbitals i < j, (M, M)."""
    numbers = np.zeros((M, M), dtype=np.int64)
    numbers[i, j] = numbers[j, i] = np.arange(len(i))
    return numbers


def _antisymmetrised(v: np.ndarray, pair: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(ia|jb) - (ib|ja) between all i < j and a < b."""
    rows = (pair[i[:, None], i], pair[j[:, None], j], pair[i[:, None], j], pair[j[:, None], i])
    return v[rows[0], rows[1]] - v[rows[2], rows[3]]


def _largest_rows(nonzero: Tensor, n_rows: int, n_columns: int) -> int:
    """Elements of the fullest rows of a table, of each n_columns at most."""
    counts = nonzero.sum(1).clamp(max=n_columns).sort(descending=True).values
    return int(counts[:n_rows].sum())
