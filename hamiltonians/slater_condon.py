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
where it can go a column. Rows and columns have irreps, the parities that the integrals conserve; elements between
different ones vanish and are never generated: columns are sorted by irrep. Signs are part of the place: the table of
elements E is stored as E, -E, E, so that the number of negative factors is the copy.
"""

# Shapes: B determinants, M orbitals, P rows and Q columns of a determinant, K connected determinants, W words.
from functools import partial
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int32, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.integrals import Integrals, pair_numbers
from nqs.protocols import Connected

TOKENS_IN_WORD = 8  # local states are bytes; eight of them are changed by one operation on a 64-bit word
# Working set of a block of determinants, bytes for each connected one: indices, element, words of two factors.
CPU_BYTES, GPU_BYTES, BYTES_EACH = 2**24, 2**29, 64
DIAGONAL_ROWS = 2**13  # on a CPU: float64 occupations of more would leave the cache


class Excitations(NamedTuple):
    """One factor of all excitations of a kind: rows (what leaves) or columns (where it goes), R of each determinant.

    Attributes:
        place: in the table of signed elements, (B, R): the element of a row and a column is at the sum of theirs.
        irrep: (B, R).
        flips: changes of the local states, (B, R, W) 64-bit words.
    """

    place: Int32[Tensor, "B R"]
    irrep: Int64[Tensor, "B R"]
    flips: Int64[Tensor, "B R W"]

    def sorted_by_irrep(self) -> "Excitations":
        order = self.irrep.argsort(dim=1, stable=True)
        flips = self.flips.gather(1, order[..., None].expand_as(self.flips))
        return Excitations(self.place.gather(1, order), self.irrep.gather(1, order), flips)


class Pairs(NamedTuple):
    """Rows and columns of one kind of excitations with their table, and the columns of the irrep of each row.

    Attributes:
        start: first of these columns, among those of all determinants, (B, P).
        number: of these columns, (B, P).
    """

    rows: Excitations
    columns: Excitations
    table: Float64[Tensor, " T"]
    start: Int64[Tensor, "B P"]
    number: Int64[Tensor, "B P"]


class Found:
    """Connected determinants as words, with elements and parents; room for `most`."""

    def __init__(self, most: int, n_words: int, device: torch.device) -> None:
        self.words = torch.empty(most, n_words, dtype=torch.int64, device=device)
        self.elements = torch.empty(most, dtype=torch.float64, device=device)
        self.parents = torch.empty(most, dtype=torch.int64, device=device)
        self.number = 0

    def add(
        self,
        elements: Float64[Tensor, " K"],
        words: Int64[Tensor, "R W"],
        left: Int64[Tensor, " K"],
        flips: Int64[Tensor, "C W"],
        right: Int64[Tensor, " K"],
        parents: Int64[Tensor, " R"],
    ) -> None:
        """Elements that are not zero, between rows `left`, words of which the parents are given, and flips `right`."""
        kept = elements.nonzero()[:, 0]
        if len(kept) < len(elements):
            elements, left, right = (part.index_select(0, kept) for part in (elements, left, right))
        here = slice(self.number, self.number + len(kept))
        torch.index_select(words, 0, left, out=self.words[here])
        self.words[here] ^= flips.index_select(0, right)
        self.elements[here] = elements
        torch.index_select(parents, 0, left, out=self.parents[here])
        self.number = here.stop


class SlaterCondon:
    """Matrix elements of one sector of electrons, with tables on one device.

    Args:
        integrals: over M orbitals.
        numbers: of up and down electrons.
        irreps: of the spin orbitals, all up before all down, 2 M integers that combine by XOR.
        cutoff: elements up to this modulus are left out.
        device: of the tables.
        spin_penalty: w of w [S^2 - s (s + 1)], s = |S^z|, which is
            w [min(N_up, N_down) - sum_pq a+_qu a_pu a+_pd a_qd].
    """

    def __init__(
        self,
        integrals: Integrals,
        numbers: tuple[int, int],
        irreps: tuple[int, ...],
        cutoff: float,
        device: torch.device,
        spin_penalty: float = 0.0,
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
        self.core = integrals.core + spin_penalty * min(numbers)
        self.h_diagonal = tensor(np.stack([integrals.h(s).diagonal() for s in (0, 1)]))  # (2, M)
        coulomb = {(s, t): integrals.v(s, t)[np.ix_(diagonal, diagonal)] for s in (0, 1) for t in (0, 1)}
        exchange = [integrals.v(s, s)[pair, pair] for s in (0, 1)]
        self.density = [tensor(coulomb[s, s] - exchange[s]) for s in (0, 1)]  # (M, M), between electrons of one spin
        self.density_of_both = tensor(coulomb[0, 1] - spin_penalty * np.eye(M))
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
            tensor(_signed((2.0 * odd - 1.0) * _antisymmetrised(integrals.v(s, s), pair, i, j), cutoff)) for s in (0, 1)
        ]
        moves = integrals.v(0, 1)
        if spin_penalty:  # which tells a move from its reversal, so that pairs are ordered
            moves, pair = moves[pair.ravel()][:, pair.ravel()], np.arange(M * M).reshape(M, M)
            moves[pair.ravel(), pair.T.ravel()] -= spin_penalty
        self.one_of_each = tensor(_signed(moves, cutoff))
        self.width_of_two, self.width_of_pairs = len(i), len(moves)
        self.pair = tensor(pair)
        self.two_chosen = [
            {n: tensor(np.array(list(combinations(range(n), 2)), dtype=np.int64).reshape(-1, 2)) for n in (N, M - N)}
            for N in numbers
        ]

    # --- the diagonal -----------------------------------------------------------------------------------------------

    def diagonal(self, n: UInt8[Tensor, "B M"]) -> Float64[Tensor, " B"]:
        """<n|H|n>."""
        if n.device.type == "cpu" and len(n) > DIAGONAL_ROWS:
            return torch.cat([self.diagonal(part) for part in n.split(DIAGONAL_ROWS)])
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
            table = self.two_of_one[s][: self.width_of_two**2].view(self.width_of_two, self.width_of_two)
            total += _largest_rows(table != 0, N * (N - 1) // 2, empty * (empty - 1) // 2)
        singles = [N * (self.M - N) for N in self.numbers]
        table = self.one_of_each[: self.width_of_pairs**2].view(self.width_of_pairs, self.width_of_pairs)
        return total + _largest_rows(table != 0, singles[0], singles[1])

    def connected(self, n: UInt8[Tensor, "B M"]) -> Connected:
        """All n' != n with an element above the cutoff, none twice, in blocks of determinants that bound memory."""
        B, M, device = len(n), self.M, n.device
        words = torch.nn.functional.pad(n, (0, self.n_words * TOKENS_IN_WORD - M)).view(torch.int64)
        fields = [(n & 1).double(), (n >> 1).double()]
        sides, singles, kinds = [], [], []
        for s, N in enumerate(self.numbers):
            x = fields[s]
            fock = torch.addmm(self.h[s], x, self.own_field[s]).addmm_(fields[1 - s], self.other_field[s])  # (B, M^2)
            odd = (x.cumsum(1) - x).long() & 1 == 1  # (B, M), sigma = -1
            order = x.argsort(dim=1, descending=True, stable=True)
            occupied, empty = order[:, :N], order[:, N:]
            sides.append((occupied, empty, odd))
            moves = self._moves(s, occupied, empty, odd, 0, 1)
            elements = fock.gather(1, (occupied[:, :, None] * M + empty[:, None, :]).flatten(1))
            elements = torch.where(moves.place.bool(), -elements, elements).masked_fill_(moves.irrep != 0, 0.0)
            singles.append((moves.flips, elements.masked_fill_(elements.abs() <= self.cutoff, 0.0)))
            if N > 1 and M - N > 1:
                width, size = self.width_of_two, self.width_of_two**2
                rows, columns = self._two(s, occupied, odd, width, size), self._two(s, empty, odd, 1, size)
                kinds.append(self._pairs(rows, columns, self.two_of_one[s]))
        if all(0 < N < M for N in self.numbers):
            width, size = self.width_of_pairs, self.width_of_pairs**2
            up, down = self._moves(0, *sides[0], width, size), self._moves(1, *sides[1], 1, size)
            kinds.append(self._pairs(up, down, self.one_of_each))
        most = sum(int(kind.number.sum()) for kind in kinds) + sum(elements.numel() for _, elements in singles)
        found, batch = Found(most, self.n_words, device), torch.arange(B, device=device)
        for flips, elements in singles:
            every = torch.arange(elements.numel(), device=device)
            parents = batch.repeat_interleave(elements.shape[1])
            found.add(elements.flatten(), words, parents, flips.flatten(0, 1), every, batch)
        for kind in kinds:
            each = max(1, int(kind.number.sum(1).max())) if B else 1
            rows_of_block = max(1, (GPU_BYTES if device.type == "cuda" else CPU_BYTES) // (BYTES_EACH * each))
            for first in range(0, B, rows_of_block):
                self._joined(found, words, kind, batch[first : first + rows_of_block])
        of_all = slice(found.number)
        return Connected(found.words[of_all].view(torch.uint8)[:, :M], found.elements[of_all], found.parents[of_all])

    def _pairs(self, rows: Excitations, columns: Excitations, table: Float64[Tensor, " T"]) -> Pairs:
        """All rows with the columns of the same irrep, which are sorted by it."""
        (B, P), Q, device = rows.place.shape, columns.place.shape[1], table.device
        first = Q * torch.arange(B, device=device)[:, None]
        if self.n_irreps == 1:
            return Pairs(rows, columns, table, first.expand(B, P), torch.full_like(rows.irrep, Q))
        of_each = torch.zeros(B, self.n_irreps, dtype=torch.int64, device=device)
        of_each.scatter_add_(1, columns.irrep, torch.ones_like(columns.irrep))
        start = (of_each.cumsum(1) - of_each).gather(1, rows.irrep) + first
        return Pairs(rows, columns.sorted_by_irrep(), table, start, of_each.gather(1, rows.irrep))

    def _joined(self, found: Found, words: Int64[Tensor, "B W"], kind: Pairs, block: Int64[Tensor, " b"]) -> None:
        """Excitations of one kind of the determinants of a block, which are consecutive."""
        here = slice(int(block[0]), int(block[-1]) + 1)
        rows, P, device = kind.rows, kind.rows.place.shape[1], words.device
        number = kind.number[here].flatten()
        end = number.cumsum(0)
        left = torch.repeat_interleave(number, output_size=int(end[-1]))
        right = torch.arange(len(left), device=device)
        right += (kind.start[here].flatten() + number - end).index_select(0, left)
        index = rows.place[here].flatten().index_select(0, left)
        index += kind.columns.place.flatten().index_select(0, right)
        changed = (words[here, None] ^ rows.flips[here]).flatten(0, 1)
        elements = kind.table.index_select(0, index)
        found.add(elements, changed, left, kind.columns.flips.flatten(0, 1), right, block.repeat_interleave(P))

    def _of(self, table: Tensor, s: int, orbitals: Int64[Tensor, "B R"]) -> Tensor:
        return table[s].index_select(0, orbitals.flatten()).unflatten(0, orbitals.shape)

    def _two(
        self, s: int, orbitals: Int64[Tensor, "B R"], odd: Bool[Tensor, "B M"], width: int, size: int
    ) -> Excitations:
        """Two electrons or two places of one spin; size: of the table."""
        k, l = self.two_chosen[s][orbitals.shape[1]].T
        first, second = (partial(torch.Tensor.index_select, dim=1, index=place) for place in (k, l))
        irreps, flips, odd = (
            self._of(self.irreps, s, orbitals),
            self._of(self.flips, s, orbitals),
            odd.gather(1, orbitals),
        )
        number = self.number_of_two.flatten().take(first(orbitals) * self.M + second(orbitals))
        return Excitations(
            (number * width + size * (first(odd) ^ second(odd))).int(),
            first(irreps) ^ second(irreps),
            first(flips) ^ second(flips),
        )

    def _moves(
        self,
        s: int,
        occupied: Int64[Tensor, "B N"],
        empty: Int64[Tensor, "B E"],
        odd: Bool[Tensor, "B M"],
        width: int,
        size: int,
    ) -> Excitations:
        """Single moves i -> a as rows or columns, (B, N E); size: of the table."""
        i, a = occupied[:, :, None], empty[:, None, :]
        negative = odd.gather(1, occupied)[:, :, None] ^ odd.gather(1, empty)[:, None, :] ^ (i < a)
        irrep = self._of(self.irreps, s, occupied)[:, :, None] ^ self._of(self.irreps, s, empty)[:, None, :]
        flips = self._of(self.flips, s, occupied)[:, :, None] ^ self._of(self.flips, s, empty)[:, None, :]
        place = self.pair.flatten().take((i * self.M + a).flatten(1)) * width + size * negative.flatten(1)
        return Excitations(place.int(), irrep.flatten(1), flips.flatten(1, 2))


def _numbers_of_two(M: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """Number of every two orbitals i < j, (M, M)."""
    numbers = np.zeros((M, M), dtype=np.int64)
    numbers[i, j] = numbers[j, i] = np.arange(len(i))
    return numbers


def _antisymmetrised(v: np.ndarray, pair: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(ia|jb) - (ib|ja) between all i < j and a < b."""
    rows = (pair[i[:, None], i], pair[j[:, None], j], pair[i[:, None], j], pair[j[:, None], i])
    return v[rows[0], rows[1]] - v[rows[2], rows[3]]


def _signed(elements: np.ndarray, cutoff: float) -> np.ndarray:
    """A table for places with signs, without elements up to the cutoff."""
    flat = np.where(np.abs(elements) > cutoff, elements, 0.0).ravel()
    return np.concatenate([flat, -flat, flat])


def _largest_rows(nonzero: Tensor, n_rows: int, n_columns: int) -> int:
    """Elements of the fullest rows of a table, of each n_columns at most."""
    counts = nonzero.sum(1).clamp(max=n_columns).sort(descending=True).values
    return int(counts[:n_rows].sum())
