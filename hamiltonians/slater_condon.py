r"""Matrix elements between determinants of electrons by the Slater-Condon rules, for batches of determinants.

With N the set of occupied spin orbitals of n, n' = n with electrons moved from i, j to a, b, all of real orbitals:

    <n|H|n>  = E_core + sum_i h_ii + 1/2 sum_ij [(ii|jj) - (ij|ji)]
    one moved,          i -> a:        sigma_i sigma_a (-1)^[i<a] { h_ia + sum_k [(ia|kk) - (ik|ka)] }
    two of one spin,    ij -> ab:      sigma_i sigma_j sigma_a sigma_b f_ijab [(ia|jb) - (ib|ja)],  i < j, a < b
    one of each spin,   i -> a, j -> b: (signs of two single moves) (ia|jb)

where sigma_p = (-1)^(electrons of the spin of p below p in n), f = -(-1)^([i<a] + [i<b] + [j<a] + [j<b]), and exchange
terms only between equal spins. Slater, Phys. Rev. 34, 1293 (1929); Condon, Phys. Rev. 36, 1121 (1930).

What leaves the orbitals (two electrons of one spin, an up electron with its new place) is a row of a table of elements,
where it can go a column (nqs.hamiltonians.excitations). Rows and columns have irreps, the parities that the integrals
conserve; elements between different ones vanish and are never generated: columns are sorted by irrep. Signs are part of
the place in the table.
"""

# Shapes: B determinants, M orbitals, P rows and Q columns of a determinant, K connected determinants, W words.
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor

from nqs.hamiltonians.excitations import AVAILABLE, ODD, Excitations, SignedTable, moves, twos
from nqs.hamiltonians.integrals import Integrals, pair_numbers, pairs
from nqs.protocols import Connected
from nqs.runtime.gather import large_empty, places, repeat_rows, take_rows

TOKENS_IN_WORD = 8  # local states are bytes; eight of them are changed by one operation on a 64-bit word
# Working set of a block of determinants, bytes for each pair of a row and a column: indices, element, words.
CPU_BYTES, GPU_BYTES, BYTES_EACH = 2**23, 2**29, 64
DIAGONAL_ROWS = 2**13  # on a CPU: float64 occupations of more would leave the cache


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
        self.words = large_empty((most, n_words), torch.int64, device)
        self.elements = large_empty((most,), torch.float64, device)
        self.parents = large_empty((most,), torch.int64, device)
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
        kept = places(elements != 0)
        here = slice(self.number, self.number + len(kept))
        if len(kept) < len(elements):
            take_rows(elements, kept, self.elements[here])
            left, right = take_rows(left, kept), take_rows(right, kept)
        else:
            self.elements[here] = elements
        take_rows(words, left, self.words[here])
        self.words[here] ^= take_rows(flips, right)
        take_rows(parents, left, self.parents[here])
        self.number = here.stop


class SlaterCondon:
    """Matrix elements of one sector of electrons, with tables on one device.

    Attributes:
        max_connected: number of excitations by kind, at most: of each row as many as it has elements that are not zero.

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

        labels = np.array(irreps, dtype=np.int64).reshape(2, M)
        self.n_irreps = 1 << int(max(irreps)).bit_length() if max(irreps) else 1
        self.n_words = -(-M // TOKENS_IN_WORD)
        bits = np.zeros((2, M, self.n_words * TOKENS_IN_WORD), dtype=np.uint8)
        bits[0, np.arange(M), np.arange(M)], bits[1, np.arange(M), np.arange(M)] = 1, 2
        flips = bits.view(np.int64)  # (2, M, W)
        pair = pair_numbers(M)
        diagonal = np.diag(pair)
        self.core = integrals.core + spin_penalty * min(numbers)
        self.h_diagonal = tensor(np.stack([integrals.h(s).diagonal() for s in (0, 1)]))  # (2, M)
        coulomb = {(s, t): integrals.v(s, t)[np.ix_(diagonal, diagonal)] for s in (0, 1) for t in (0, 1)}
        exchange = [integrals.v(s, s)[pair, pair] for s in (0, 1)]
        self.density = [tensor(coulomb[s, s] - exchange[s]) for s in (0, 1)]  # (M, M), between electrons of one spin
        self.density_of_both = tensor(coulomb[0, 1] - spin_penalty * np.eye(M))
        # One electron: elements of the Fock matrix, h_pq + sum_k over own spin [(pq|kk) - (pk|kq)] + over the other
        # spin (pq|kk), rows k.
        no_table = np.zeros((M, M, 2), dtype=np.int64)
        self.alone, self.h, self.own_field, self.other_field = [], [], [], []  # (E,), (M, E) each
        for s in (0, 1):
            every = moves(labels[s], flips[s], no_table, device)
            self.alone.append(every.picked((every.irrep == 0).nonzero()[:, 0]))
            p, q = self.alone[s].first.cpu().numpy(), self.alone[s].second.cpu().numpy()
            crossed = integrals.v(s, s)[pair[:, p], pair[:, q]]
            self.h.append(tensor(integrals.h(s)[p, q]))
            self.own_field.append(tensor(integrals.v(s, s)[np.ix_(diagonal, pair[p, q])] - crossed))
            self.other_field.append(tensor(integrals.v(s, 1 - s)[np.ix_(pair[p, q], diagonal)].T))
        self.max_connected = sum(N * (M - N) for N in numbers)
        # Two electrons of one spin: rows i < j, columns a < b, with the factor f.
        i, j = np.triu_indices(M, 1)
        odd = (i[:, None] < i) ^ (i[:, None] < j) ^ (j[:, None] < i) ^ (j[:, None] < j)
        self.two_of_one, self.leaving, self.arriving = [], [], []
        for s, N in enumerate(numbers):
            elements = _above((2.0 * odd - 1.0) * _antisymmetrised(integrals.v(s, s), pair, i, j), cutoff)
            table = SignedTable.of(elements, labels[s, i] ^ labels[s, j], labels[s, i] ^ labels[s, j])
            self.two_of_one.append(tensor(table.elements))
            self.leaving.append(twos(labels[s], flips[s], table.rows, device))
            self.arriving.append(twos(labels[s], flips[s], table.columns, device).sorted_by_irrep())
            self.max_connected += _largest_rows(elements, math.comb(N, 2), math.comb(M - N, 2))
        # An electron of each spin: rows i -> a, columns j -> b.
        p, q = pairs(M)
        elements = integrals.v(0, 1)
        if spin_penalty:  # which tells a move from its reversal, so that pairs are ordered
            elements, pair = elements[pair.ravel()][:, pair.ravel()], np.arange(M * M).reshape(M, M)
            elements[pair.ravel(), pair.T.ravel()] -= spin_penalty
            p, q = (x.ravel() for x in np.indices((M, M)))
        elements = _above(elements, cutoff)
        table = SignedTable.of(elements, labels[0, p] ^ labels[0, q], labels[1, p] ^ labels[1, q])
        self.one_of_each = tensor(table.elements)
        self.moving = [
            moves(labels[0], flips[0], table.rows[pair], device),
            moves(labels[1], flips[1], table.columns[pair], device).sorted_by_irrep(),
        ]
        self.max_connected += _largest_rows(elements, *(N * (M - N) for N in numbers))

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

    def connected(self, n: UInt8[Tensor, "B M"]) -> Connected:
        """All n' != n with an element above the cutoff, none twice, in blocks of determinants that bound memory."""
        B, M, device = len(n), self.M, n.device
        words = torch.nn.functional.pad(n, (0, self.n_words * TOKENS_IN_WORD - M)).view(torch.int64)
        occupations = [n & 1, n >> 1]
        occupied, empty = [], []
        for x in occupations:
            sigma = ((x.cumsum(1, dtype=torch.uint8) - x) & 1) * ODD
            occupied.append(x * AVAILABLE | sigma)
            empty.append((x ^ 1) * AVAILABLE | sigma)
        kinds = []
        for s, N in enumerate(self.numbers):
            if N > 1 and M - N > 1:
                rows = self.leaving[s].of(occupied[s], occupied[s], N * (N - 1) // 2)
                columns = self.arriving[s].of(empty[s], empty[s], (M - N) * (M - N - 1) // 2)
                kinds.append(self._pairs(rows, columns, self.two_of_one[s]))
        if all(0 < N < M for N in self.numbers):
            up, down = (self.moving[s].of(occupied[s], empty[s], N * (M - N)) for s, N in enumerate(self.numbers))
            kinds.append(self._pairs(up, down, self.one_of_each))
        singles = [self._singles(s, occupied[s], empty[s], [x.double() for x in occupations]) for s in (0, 1)]
        most = sum(int(kind.number.sum()) for kind in kinds) + sum(len(elements) for elements, _, _ in singles)
        found, batch = Found(most, self.n_words, device), torch.arange(B, device=device)
        for s, (elements, parents, moved) in enumerate(singles):
            found.add(elements, words, parents, self.alone[s].flips, moved, batch)
        for kind in kinds:
            each = max(1, int(kind.number.sum(1).max())) if B else 1
            rows_of_block = max(1, (GPU_BYTES if device.type == "cuda" else CPU_BYTES) // (BYTES_EACH * each))
            for first in range(0, B, rows_of_block):
                self._joined(found, words, kind, batch[first : first + rows_of_block])
        of_all = slice(found.number)
        return Connected(found.words[of_all].view(torch.uint8)[:, :M], found.elements[of_all], found.parents[of_all])

    def _singles(
        self, s: int, occupied: UInt8[Tensor, "B M"], empty: UInt8[Tensor, "B M"], x: list[Float64[Tensor, "B M"]]
    ) -> tuple[Float64[Tensor, " K"], Int64[Tensor, " K"], Int64[Tensor, " K"]]:
        """Elements of one electron moved, their parents, and the moves, as numbers in the list."""
        fock = torch.addmm(self.h[s], x[s], self.own_field[s]).addmm_(x[1 - s], self.other_field[s])  # (B, E)
        numbers, negative = self.alone[s].found(occupied, empty)
        parents = numbers.div(max(1, fock.shape[1]), rounding_mode="floor")
        elements = take_rows(fock.flatten(), numbers)
        elements = torch.where(negative.bool(), -elements, elements)
        elements.masked_fill_(elements.abs() <= self.cutoff, 0.0)
        return elements, parents, numbers - parents * fock.shape[1]

    def _pairs(self, rows: Excitations, columns: Excitations, table: Float64[Tensor, " T"]) -> Pairs:
        """All rows with the columns of the same irrep, which are sorted by it."""
        (B, P), Q, device = rows.place.shape, columns.place.shape[1], table.device
        first = Q * torch.arange(B, device=device)[:, None]
        if self.n_irreps == 1:
            return Pairs(rows, columns, table, first.expand(B, P), torch.full_like(rows.irrep, Q))
        of_each = torch.zeros(B, self.n_irreps, dtype=torch.int64, device=device)
        of_each.scatter_add_(1, columns.irrep, torch.ones_like(columns.irrep))
        start = (of_each.cumsum(1) - of_each).gather(1, rows.irrep) + first
        return Pairs(rows, columns, table, start, of_each.gather(1, rows.irrep))

    def _joined(self, found: Found, words: Int64[Tensor, "B W"], kind: Pairs, block: Int64[Tensor, " b"]) -> None:
        """Excitations of one kind of the determinants of a block, which are consecutive."""
        here = slice(int(block[0]), int(block[-1]) + 1)
        rows, P = kind.rows, kind.rows.place.shape[1]
        number = kind.number[here].flatten()
        end = number.cumsum(0)
        total = int(end[-1])
        left = repeat_rows(torch.arange(len(number), device=words.device), number, total)
        right = repeat_rows(kind.start[here].flatten() + number - end, number, total)
        right += torch.arange(total, device=words.device)
        index = repeat_rows(rows.place[here].flatten(), number, total)
        index += take_rows(kind.columns.place.flatten(), right)
        changed = (words[here, None] ^ rows.flips[here]).flatten(0, 1)
        elements = take_rows(kind.table, index)
        found.add(elements, changed, left, kind.columns.flips.flatten(0, 1), right, block.repeat_interleave(P))


def _antisymmetrised(v: np.ndarray, pair: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(ia|jb) - (ib|ja) between all i < j and a < b."""
    rows = (pair[i[:, None], i], pair[j[:, None], j], pair[i[:, None], j], pair[j[:, None], i])
    return v[rows[0], rows[1]] - v[rows[2], rows[3]]


def _above(elements: np.ndarray, cutoff: float) -> np.ndarray:
    return np.where(np.abs(elements) > cutoff, elements, 0.0)


def _largest_rows(elements: np.ndarray, n_rows: int, n_columns: int) -> int:
    """Elements of the fullest rows that are not zero, of each n_columns at most."""
    counts = np.sort(np.count_nonzero(elements, axis=1).clip(max=n_columns))[::-1]
    return int(counts[:n_rows].sum())
