r"""Whether a symmetry commutes with a Hamiltonian, decided from its terms on single sites and pairs of sites.

A Hamiltonian whose `interacting_pairs` are stated is a sum of terms on one site and terms on one of these pairs. With
the local state 0 as reference

    <n|H|n> = c + sum_i f_i(n_i) + sum_<ij> f_ij(n_i, n_j),    f_i(0) = f_ij(a, 0) = f_ij(0, b) = 0,

and every off-diagonal element depends on the local states that it changes, up to the signs of fermions. All of these
numbers are read from `diagonal` and `connected` themselves, so that couplings that differ by bond or site count as they
are. H commutes with g if g permutes these numbers; one-body terms may differ by conserved charges.

Fermions are moved by second-quantised operators, U_g c_i U_g^-1 = c_g(i): elements are compared without their
Jordan-Wigner strings, which exist for terms that conserve the number of every species.
"""

# Shapes: B configurations, L sites, d local states, P pairs, K connected configurations, O orbitals.
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqs.hilbert import HilbertSpace

ALL_LEVELS = 6  # local states up to which all are compared on pairs; else the lowest and highest three
CHUNK_BYTES = 2**26
PROBES = 16  # random configurations on which the decomposition is tested
EQUAL = 1e-10  # difference of numbers that count as equal, in units of the largest one
ROUNDING = 1e-14  # the same, in units of a constant in H


@dataclass(frozen=True, kw_only=True)
class Interactions:
    """The terms of a Hamiltonian.

    Attributes:
        constant: c.
        sites: f_i(a), (L, d).
        pairs: i < j, (P, 2).
        levels: local states a and b at which f_ij is known.
        tables: f_ij(a, b), (P, levels, levels).
        changes: rows (i, a, a', j, b, b') with i < j; j = L, b = b' = 0 for a change of one site.
        elements: of the changes, without Jordan-Wigner strings.
        tolerance: difference of two of these that count as equal.
        positive: in the sector all elements, with their strings, are real and not positive.
        moves_fermions: every change conserves the number of each species of fermions.
    """

    hilbert: HilbertSpace
    constant: float
    sites: np.ndarray
    pairs: np.ndarray
    levels: tuple[int, ...]
    tables: np.ndarray
    changes: np.ndarray
    elements: np.ndarray
    tolerance: float
    positive: bool
    moves_fermions: bool

    def invariant(self, permutation: np.ndarray, relabelling: np.ndarray, *, fermions: bool) -> bool:
        """Whether H commutes with (g n)_s = relabelling[n_{permutation[s]}]; False also where that is not known.

        Args:
            fermions: with the signs of reordering fermions. Without them elements have the signs of their strings,
                which are known where all elements are negative.
        """
        elements = self.elements
        if self.hilbert.of_kind("fermion"):
            if not (self.moves_fermions if fermions else self.positive):
                return False
            elements = elements if fermions else abs(elements)
        return self._diagonal_is_invariant(permutation, relabelling) and self._changes_are_invariant(
            permutation, relabelling, elements
        )

    def _changes_are_invariant(self, permutation: np.ndarray, relabelling: np.ndarray, elements: np.ndarray) -> bool:
        L = self.hilbert.n_sites
        target = np.append(np.argsort(permutation), L)  # the particle of site t moves to site target[t]
        i, a, a_new, j, b, b_new = self.changes.T
        first = np.stack([target[i], relabelling[a], relabelling[a_new]])
        second = np.stack([target[j], relabelling[b], relabelling[b_new]])
        second[1:, j == L] = 0
        swap = first[0] > second[0]
        moved = np.where(swap, second, first), np.where(swap, first, second)
        key, moved_key = self._keys(self.changes.T), self._keys(np.concatenate(moved))
        order, moved_order = np.argsort(key), np.argsort(moved_key)
        return np.array_equal(key[order], moved_key[moved_order]) and self._equal(
            elements[order], elements[moved_order]
        )

    def _keys(self, changes: np.ndarray) -> np.ndarray:
        i, a, a_new, j, b, b_new = changes
        d = self.hilbert.local_dim
        first, second = (i * d + a) * d + a_new, (j * d + b) * d + b_new
        return first * (self.hilbert.n_sites + 1) * d * d + second

    def _diagonal_is_invariant(self, permutation: np.ndarray, relabelling: np.ndarray) -> bool:
        """<g n|H|g n> - <n|H|n> vanishes on the sector."""
        L, d = self.sites.shape
        place = {level: k for k, level in enumerate(self.levels)}
        if any(int(relabelling[level]) not in place for level in self.levels):
            return False
        new = np.array([place[int(relabelling[level])] for level in self.levels])
        # <g n|H|g n> as a function of n: the term of the sites s, t becomes one of permutation[s], permutation[t].
        tables = self.tables[:, new][:, :, new]
        moved = permutation[self.pairs]
        swap = moved[:, 0] > moved[:, 1]
        tables = np.where(swap[:, None, None], tables.transpose(0, 2, 1), tables)
        moved.sort(axis=1)
        reference = tables[:, 0, 0]
        rows, columns = tables[:, :, 0] - reference[:, None], tables[:, 0] - reference[:, None]
        pure = tables - rows[:, :, None] - columns[:, None] - reference[:, None, None]
        key, moved_key = self.pairs @ [L, 1], moved @ [L, 1]
        order, moved_order = np.argsort(key), np.argsort(moved_key)
        if not np.array_equal(key[order], moved_key[moved_order]) or not self._equal(
            self.tables[order], pure[moved_order]
        ):
            return False
        one_body = np.empty_like(self.sites)
        one_body[permutation] = self.sites[:, relabelling]
        if (rows != 0).any() or (columns != 0).any():
            if len(self.levels) < d:
                return False
            np.add.at(one_body, moved[:, 0], rows)
            np.add.at(one_body, moved[:, 1], columns)
        constant = reference.sum() + one_body[:, 0].sum()
        return vanishes(self.hilbert, one_body - one_body[:, :1] - self.sites, constant, self.tolerance)

    def _equal(self, x: np.ndarray, y: np.ndarray) -> bool:
        return bool((abs(x - y) <= self.tolerance).all())


def vanishes(hilbert: HilbertSpace, f: np.ndarray, constant: float, tolerance: float) -> bool:
    """Whether constant + sum_i f_i(n_i) = 0 on the sector, because it is a combination of the conserved charges.

    Args:
        f: (L, d) with f_i(0) = 0.
    """
    exists = np.arange(f.shape[1]) < np.array(hilbert.local_dims)[:, None]
    f = np.where(exists, f, 0.0)
    conserved = [charge for charge in hilbert.charges if charge.target is not None and charge.modulus is None]
    tables = [hilbert.table(charge.values).astype(float) for charge in conserved]
    if not tables:
        return bool((abs(f) <= tolerance).all() and abs(constant) <= tolerance * hilbert.n_sites)
    basis = np.stack([np.where(exists, table - table[:, :1], 0.0).ravel() for table in tables], axis=1)
    factors = np.linalg.lstsq(basis, f.ravel(), rcond=None)[0]
    if not (abs(basis @ factors - f.ravel()) <= tolerance).all():
        return False
    left = [charge.target - table[:, 0].sum() for charge, table in zip(conserved, tables, strict=True)]
    return bool(abs(constant + factors @ left) <= tolerance * hilbert.n_sites)


def keeps_the_sector(hilbert: HilbertSpace, permutation: np.ndarray, relabelling: np.ndarray) -> bool:
    """Whether g takes the sector to itself, because it takes conserved charges to combinations of them."""
    dims = np.array(hilbert.local_dims)
    if (dims[permutation] != dims).any() or any((relabelling[:d] >= d).any() for d in set(dims.tolist())):
        return False
    for charge in hilbert.charges:
        if charge.target is None:
            continue
        table = hilbert.table(charge.values)
        moved = np.empty_like(table)
        moved[permutation] = table[:, relabelling]  # charge of g n as a function of n
        if charge.modulus is None:
            constant = float(moved[:, 0].sum() - charge.target)
            if not vanishes(hilbert, (moved - moved[:, :1]).astype(float), constant, 1e-9):
                return False
        else:
            steps, old = moved - moved[:, :1], table - table[:, :1]
            if not any(
                ((steps - sign * old) % charge.modulus == 0).all()
                and (moved[:, 0].sum() - charge.target + sign * (charge.target - table[:, 0].sum())) % charge.modulus
                == 0
                for sign in (1, -1)
            ):
                return False
    return True


def interactions_of(hamiltonian: Any) -> Interactions | None:
    """The terms of a Hamiltonian that states its `interacting_pairs`; None without them, or where they do not hold."""
    stated = getattr(hamiltonian, "interacting_pairs", None)
    if stated is None:
        return None
    try:
        return _read(hamiltonian, np.unique(np.sort(np.asarray(stated).reshape(-1, 2), axis=1), axis=0))
    except ValueError:  # elements outside the sector are refused
        return None


def _read(hamiltonian: Any, pairs: np.ndarray) -> Interactions | None:
    hilbert: HilbertSpace = hamiltonian.hilbert
    L, d, top = hilbert.n_sites, hilbert.local_dim, torch.tensor(hilbert.local_dims) - 1
    levels = tuple(range(d)) if d <= ALL_LEVELS else (0, 1, 2, d - 3, d - 2, d - 1)

    def single(i: Tensor, a: Tensor) -> Tensor:
        n = torch.zeros(len(i), L, dtype=torch.uint8)
        n[torch.arange(len(i)), i] = torch.minimum(a, top[i]).to(torch.uint8)
        return n

    def energies(n: Tensor) -> np.ndarray:
        parts = [hamiltonian.diagonal(part) for part in n.split(max(1, CHUNK_BYTES // (16 * (L + len(pairs)))))]
        return torch.cat(parts).double().numpy()

    constant = float(energies(torch.zeros(1, L, dtype=torch.uint8))[0])
    i, a = (x.flatten() for x in torch.meshgrid(torch.arange(L), torch.arange(d), indexing="ij"))
    sites = energies(single(i, a)).reshape(L, d) - constant
    tables = np.zeros((len(pairs), len(levels), len(levels)))
    first, second = torch.from_numpy(pairs).T
    for k, a_k in enumerate(levels):
        for l, b_l in enumerate(levels):
            if a_k and b_l:
                one, other = (single(s, torch.full((len(s),), x)) for s, x in ((first, a_k), (second, b_l)))
                alone = sites[pairs[:, 0], a_k] + sites[pairs[:, 1], b_l]
                tables[:, k, l] = energies(one | other) - constant - alone
    found = _changes(hamiltonian, _covering(hilbert, levels))
    if found is None:
        return None
    changes, elements, moves = found
    touched = changes[changes[:, 3] < L][:, [0, 3]]
    if not np.isin(touched @ [L, 1], pairs @ [L, 1]).all():
        return None
    numbers = (sites, tables, elements)
    tolerance = EQUAL * max(abs(x).max(initial=0.0) for x in numbers) + ROUNDING * abs(constant)
    terms = Interactions(
        hilbert=hilbert, constant=constant, sites=sites, pairs=pairs, levels=levels, tables=tables, changes=changes,
        elements=elements, tolerance=float(tolerance), moves_fermions=moves,
        positive=bool(getattr(hamiltonian, "is_stoquastic", False)),
    )  # fmt: skip
    return terms if _describes(terms, hamiltonian) else None


def _covering(hilbert: HilbertSpace, levels: tuple[int, ...]) -> Tensor:
    """Configurations in which every pair of sites has every pair of levels: their numbers differ in some bit."""
    site = torch.arange(hilbert.n_sites)
    rows = [torch.full_like(site, a) for a in levels]
    for bit in range(max(1, (hilbert.n_sites - 1).bit_length())):
        set_there = (site >> bit) & 1 == 1
        rows += [torch.where(set_there, a, b) for a in levels for b in levels if a != b]
    return torch.minimum(torch.stack(rows), torch.tensor(hilbert.local_dims) - 1).to(torch.uint8)


def _changes(hamiltonian: Any, n: Tensor) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """All changes of the rows n with their elements; None if one changes more sites, or is not the same everywhere."""
    hilbert: HilbertSpace = hamiltonian.hilbert
    L = hilbert.n_sites
    most = max(1, int(getattr(hamiltonian, "max_connected", 4 * L)))
    all_changes, all_elements, moves = [], [], True
    for part in n.split(max(1, CHUNK_BYTES // (most * L))):
        m, elements, parents = hamiltonian.connected(part)
        before = part[parents]
        differs = m != before
        number = differs.sum(1)
        if len(m) and not 1 <= int(number.min()) <= int(number.max()) <= 2:
            return None
        i = differs.long().argmax(1)
        j = torch.where(number == 2, L - 1 - differs.flip(1).long().argmax(1), L)
        row = torch.arange(len(m))
        known = j.clamp(max=L - 1)
        b, b_new = (torch.where(j < L, x[row, known].long(), 0) for x in (before, m))
        changes = torch.stack([i, before[row, i].long(), m[row, i].long(), j, b, b_new], dim=1)
        strings, conserves = _strings(hilbert, before, m)
        moves &= conserves
        distinct, inverse = np.unique(torch.cat([parents[:, None], changes], 1).numpy(), axis=0, return_inverse=True)
        total = np.zeros(len(distinct), dtype=complex)  # elements that are listed in parts
        np.add.at(total, inverse.ravel(), (elements * strings).numpy())
        all_changes.append(distinct[:, 1:])
        all_elements.append(total)
    rows, first, inverse = np.unique(np.concatenate(all_changes), axis=0, return_index=True, return_inverse=True)
    found = np.concatenate(all_elements)
    scale = abs(found).max(initial=0.0)
    if (abs(found - found[first][inverse.ravel()]) > EQUAL * scale).any():
        return None
    kept = abs(found[first]) > EQUAL * scale
    return rows[kept], found[first][kept], moves


def _strings(hilbert: HilbertSpace, n: Tensor, m: Tensor) -> tuple[Tensor, bool]:
    """Signs of the Jordan-Wigner strings between n and m over orbitals that stay; whether each species is conserved."""
    sign, conserved = torch.ones(len(n), dtype=torch.float64), True
    before = torch.zeros(len(n), dtype=torch.int64)
    site = torch.arange(hilbert.n_sites)
    for species in hilbert.of_kind("fermion"):
        table = torch.from_numpy(np.ascontiguousarray(hilbert.table(species.occupation)))
        old, new = table[site, n.long()], table[site, m.long()]
        toggled = old != new
        conserved &= bool((old.sum(1) == new.sum(1)).all())
        staying = old.masked_fill(toggled, 0)
        passed = before[:, None] + staying.cumsum(1)
        sign = sign * (1 - 2 * ((passed * toggled).sum(1) % 2))
        before = passed[:, -1] if hilbert.n_sites else before
    return sign, conserved


def _describes(terms: Interactions, hamiltonian: Any) -> bool:
    """Whether the terms give the rows of random configurations of the sector."""
    hilbert, level = terms.hilbert, {a: k for k, a in enumerate(terms.levels)}
    L, d = hilbert.n_sites, hilbert.local_dim
    n = hilbert.random(PROBES, torch.Generator().manual_seed(0))
    x = n.long().numpy()
    place = np.array([level.get(a, -1) for a in range(d)])[x]
    here, there = place[:, terms.pairs[:, 0]], place[:, terms.pairs[:, 1]]
    known = ((here >= 0) & (there >= 0)).all(1)
    pair = np.where(known[:, None], terms.tables[np.arange(len(terms.pairs)), here, there], 0.0).sum(1)
    one = terms.sites[np.arange(L), x].sum(1)
    diagonal = hamiltonian.diagonal(n).double().numpy()
    if not (abs(terms.constant + one + pair - diagonal)[known] <= terms.tolerance * (L + len(terms.pairs))).all():
        return False
    found = _changes(hamiltonian, n[torch.from_numpy(known)])
    if found is None:
        return False
    changes, elements = found[:2]
    keys, wanted = terms._keys(terms.changes.T), terms._keys(changes.T)
    order = np.argsort(keys)
    if not len(keys):
        return not len(wanted)
    k = order[np.searchsorted(keys, wanted, sorter=order).clip(max=len(keys) - 1)]
    return bool((keys[k] == wanted).all()) and terms._equal(terms.elements[k], elements)
