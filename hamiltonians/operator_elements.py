"""Matrix elements of sums of products of local operators (nqs.hamiltonians.operators) between configurations.

A product of local operators has one element at most in each row, so that a term is, for each of its sites, a table of
the local state of n' and of a factor for every local state of n, times the Jordan-Wigner sign

    <n| c_o .. : (-1)^(occupied orbitals of n before o),   <n| c_o c_o' .. : o' sees the configuration after o,

an even or odd number of orbitals of n outside the term. Equal terms are added. All terms on equally many sites are
evaluated together.
"""

# Shapes: B configurations, L sites, d local states, P terms on k sites each, T tables, F species of fermions.
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Num, UInt8
from torch import Tensor

from nqs.hamiltonians.operator_sites import Site, Table
from nqs.hilbert import Charge, HilbertSpace
from nqs.protocols import Connected
from nqs.samples import distinct

ELEMENTS = 2**22  # local elements in a chunk
NEGLIGIBLE = 1e-14  # of a sum, relative to its terms: rounding


@dataclass(frozen=True)
class Entry:
    """A term: tables by site, orbitals that give a sign, coefficient; and the term it came from, for messages."""

    tables: tuple[tuple[int, Table], ...]
    odd: frozenset[int]
    coefficient: complex
    term: Any


class OperatorElements:
    """<n|O|n'> of an operator with n in the space of the bra and n' in that of the ket.

    Args:
        terms: of an `Operator`.
        bra, ket: spaces of the same particles on the same sites, with any conserved charges.

    Raises:
        ValueError: a site or a species that the space does not have, or spaces of other particles.
    """

    def __init__(self, terms: Iterable[Any], bra: HilbertSpace, ket: HilbertSpace) -> None:
        kinds = [[species.kind for species in space.species] for space in (bra, ket)]
        if bra.n_sites != ket.n_sites or kinds[0] != kinds[1]:
            raise ValueError(f"the bra is a state of {bra}, the ket of {ket}: both need the same sites and particles.")
        self.hilbert, self.ket, self.terms = bra, ket, tuple(terms)
        self._sites = [Site(bra, ket, site) for site in range(bra.n_sites)]
        self._compiled: dict[torch.device, _Compiled] = {}
        self.entries = self._entries(self.terms)

    # --- properties -------------------------------------------------------------------------------------------

    @property
    def square(self) -> bool:
        """Bra and ket are states of the same space."""
        return self.hilbert == self.ket

    @property
    def max_connected(self) -> int:
        return max(1, len(self.off_diagonal))

    @cached_property
    def off_diagonal(self) -> list[Entry]:
        return [entry for entry in self.entries if not self._is_diagonal(entry)]

    @cached_property
    def is_hermitian(self) -> bool:
        """Each term has its Hermitian conjugate; a sum that is Hermitian for another reason is not recognised."""
        if not self.square:
            return False
        adjoint = [t._replace(imag=-t.imag, factors=tuple(f.adjoint for f in t.factors[::-1])) for t in self.terms]
        mine, other = (
            {(e.tables, e.odd): e.coefficient for e in entries} for entries in (self.entries, self._entries(adjoint))
        )
        scale = NEGLIGIBLE * max(map(abs, mine.values()), default=0.0)
        return all(abs(mine.get(key, 0) - other.get(key, 0)) <= scale for key in mine.keys() | other.keys())

    @property
    def is_stoquastic(self) -> bool:
        """No off-diagonal element is positive or complex, term by term: False if that does not prove it."""
        for entry in self.off_diagonal:
            signs = {np.sign(entry.coefficient.real)} if not entry.coefficient.imag else {1.0}
            for _, table in entry.tables:
                values = [v for v, column in zip(table.values, table.columns, strict=True) if column >= 0]
                if any(v.imag for v in values):
                    return False
                signs = {a * np.sign(v.real) for a in signs for v in values}
            if entry.odd or max(signs) > 0:
                return False
        return True

    def leaving(self) -> tuple[Any, Charge] | None:
        """A term that changes a conserved charge wherever it acts, with this charge; None if there is none."""
        tables = [(c, self.hilbert.table(c.values)) for c in self.hilbert.charges if c.target is not None]
        for entry in self.off_diagonal:
            for charge, values in tables:
                changes = {0}
                for site, table in entry.tables:
                    steps = {int(values[site, b] - values[site, a]) for a, b in enumerate(table.columns) if b >= 0}
                    changes = {x + step for x in changes for step in steps}
                if not any(x % charge.modulus == 0 if charge.modulus else x == 0 for x in changes):
                    return entry.term, charge
        return None

    # --- elements ---------------------------------------------------------------------------------------------

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        """<n|O|n>, complex where the operator is; 0 between different spaces, whose elements are all in `connected`."""
        compiled = self._on(n.device)
        total = torch.zeros(len(n), dtype=compiled.dtype, device=n.device)
        for rows in torch.arange(len(n), device=n.device).split(compiled.rows):
            occupied = self._occupied(n[rows], compiled)
            for group in compiled.diagonal:
                total[rows] += group.values(n[rows], occupied)[0].sum(1)
        return total

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """All n' != n with <n|O|n'> != 0, none twice; also those outside the sector of the ket."""
        compiled = self._on(n.device)
        parts = [Connected(n[:0], torch.zeros(0, dtype=compiled.dtype, device=n.device), torch.arange(0).to(n.device))]
        for rows in torch.arange(len(n), device=n.device).split(compiled.rows):
            occupied = self._occupied(n[rows], compiled)
            for group in compiled.connected:
                values, columns = group.values(n[rows], occupied)  # (B, P), (B, P, k)
                parent, place = values.nonzero().T
                n_prime, kept = self._translated(n[rows[parent]], compiled)
                n_prime.scatter_(1, group.sites[place], columns[parent, place])
                for site in group.sites.T:  # translated by the term itself
                    kept[torch.arange(len(place)), site[place]] = True
                inside = kept.all(1)
                found = Connected(n_prime, values[parent, place], rows[parent])
                parts.append(Connected(*(part[inside] for part in found)))
        found = Connected(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))
        return self._merged(found) if compiled.overlapping else found

    def _merged(self, found: Connected) -> Connected:
        """Elements of equal n and n' added; sums that are rounding are left out."""
        n_prime, elements, parents = found
        if not len(parents):
            return found
        first, classes = distinct(self.ket, n_prime)
        pair, inverse = torch.unique(parents * len(first) + classes, return_inverse=True)
        total = torch.zeros(len(pair), dtype=elements.dtype, device=n_prime.device).index_add_(0, inverse, elements)
        largest = torch.zeros(len(pair), dtype=torch.float64, device=n_prime.device)
        largest.scatter_reduce_(0, inverse, elements.abs(), "amax")
        kept = total.abs() > NEGLIGIBLE * largest
        return Connected(n_prime[first[pair % len(first)]][kept], total[kept], (pair // len(first))[kept])

    def _occupied(self, n: UInt8[Tensor, "B L"], compiled: "_Compiled") -> Tensor | None:
        """Occupation of every orbital in Jordan-Wigner order, (B, F L) float32; None where no sign depends on it."""
        if compiled.occupation is None:
            return None
        sites = torch.arange(n.shape[1], device=n.device)
        return compiled.occupation[:, sites, n.long()].transpose(0, 1).flatten(1)

    def _translated(self, n: UInt8[Tensor, "K L"], compiled: "_Compiled") -> tuple[Tensor, Tensor]:
        """n in the local states of the ket, and where the ket has that local state."""
        if compiled.translation is None:
            return n, torch.ones_like(n, dtype=torch.bool)
        found = compiled.translation[torch.arange(n.shape[1], device=n.device), n.long()]
        return found.clamp(min=0).to(torch.uint8), found >= 0

    # --- preparation ------------------------------------------------------------------------------------------

    def _is_diagonal(self, entry: Entry) -> bool:
        return self.square and all(b in (-1, a) for _, table in entry.tables for a, b in enumerate(table.columns))

    def _entries(self, terms: Iterable[Any]) -> list[Entry]:
        """The terms as tables, equal ones added."""
        found: dict[Any, list[Entry]] = {}
        for term in terms:
            entry = self._entry(term)
            if entry is not None:
                found.setdefault((entry.tables, entry.odd), []).append(entry)
        merged = []
        for equal in found.values():
            total = sum(entry.coefficient for entry in equal)
            if abs(total) > NEGLIGIBLE * max(abs(entry.coefficient) for entry in equal):
                merged.append(replace(equal[0], coefficient=total))
        return merged

    def _entry(self, term: Any) -> Entry | None:
        """None if the term vanishes in the space."""
        L, coefficient = self.hilbert.n_sites, complex(term.real, term.imag)
        by_site: dict[int, list[Any]] = {}
        toggled: list[int] = []
        created: dict[int, bool] = {}  # orbitals of the term and whether n must have them occupied
        odd: set[int] = set()
        for factor in term.factors:
            if factor.site >= L:
                raise ValueError(f"{factor} acts on site {factor.site}: the space has the sites 0 to {L - 1}.")
            by_site.setdefault(factor.site, []).append(factor)
            if factor.name in ("c", "c+"):
                kind = self._sites[factor.site].fermion(factor)
                orbital = kind * L + factor.site
                coefficient *= (-1) ** sum(other < orbital for other in toggled)
                odd ^= set(range(orbital))
                created.setdefault(orbital, factor.name == "c+")
                toggled.append(orbital)
        coefficient *= (-1) ** sum(occupied for orbital, occupied in created.items() if orbital in odd)
        tables = []
        for site, factors in sorted(by_site.items()):
            table = self._sites[site].table(tuple(factor[::2] for factor in factors))
            if not any(table.values):
                return None
            tables.append((site, table))
        return Entry(tuple(tables), frozenset(odd - created.keys()), coefficient, term)

    def _on(self, device: torch.device) -> "_Compiled":
        if device not in self._compiled:
            self._compiled[device] = self._compile(device)
        return self._compiled[device]

    def _compile(self, device: torch.device) -> "_Compiled":
        diagonal = [entry for entry in self.entries if self._is_diagonal(entry)]
        real = not any(e.coefficient.imag or any(v.imag for _, t in e.tables for v in t.values) for e in self.entries)
        dtype = torch.float64 if real else torch.complex128
        groups = [
            [_Group.of([e for e in entries if len(e.tables) == k], self.hilbert, dtype, device) for k in sizes]
            for entries in (diagonal, self.off_diagonal)
            for sizes in [sorted({len(entry.tables) for entry in entries})]
        ]
        species = self.hilbert.of_kind("fermion")
        occupation = None
        if any(entry.odd for entry in self.entries):
            tables = np.stack([self.hilbert.table(one.occupation) for one in species])
            occupation = torch.from_numpy(tables.astype(np.float32)).to(device)
        translation = None
        if not self.square:
            moved = [site.translation(self.hilbert.local_dim) for site in self._sites]
            if any(row != list(range(len(row))) for row in moved):
                translation = torch.tensor(moved, device=device)
        most = max((group.sites.numel() for part in groups for group in part), default=1)
        return _Compiled(
            diagonal=groups[0],
            connected=groups[1],
            occupation=occupation,
            translation=translation,
            overlapping=any(count > 1 for count in Counter(map(self._change, self.off_diagonal)).values()),
            rows=max(1, ELEMENTS // max(1, most)),
            dtype=dtype,
        )

    def _change(self, entry: Entry) -> Any:
        """What a term does to the contents of its sites: two terms can lead to the same n' only if it is the same."""
        changes = []
        for site, table in entry.tables:
            a, b = next((a, b) for a, b in enumerate(table.columns) if b >= 0)
            before, after = self._sites[site].rows[a], self._sites[site].columns[b]
            change = tuple(y - x for x, y in zip(before, after, strict=True))
            if any(change):
                changes.append((site, change))
        return tuple(changes)


# ---- tensors on one device ---------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Terms on equally many sites."""

    sites: Int64[Tensor, "P k"]
    tables: Int64[Tensor, "P k"]
    columns: UInt8[Tensor, "T d"]
    elements: Num[Tensor, "T d"]
    coefficients: Num[Tensor, " P"]
    odd: Num[Tensor, "orbitals P"] | None

    @classmethod
    def of(cls, entries: list[Entry], hilbert: HilbertSpace, dtype: torch.dtype, device: torch.device) -> "_Group":
        number = {table: t for t, table in enumerate(dict.fromkeys(t for e in entries for _, t in e.tables))}
        d, k = hilbert.local_dim, len(entries[0].tables)
        columns = torch.zeros(len(number), d, dtype=torch.int64)
        elements = torch.zeros(len(number), d, dtype=torch.complex128)
        for table, t in number.items():
            columns[t, : len(table.columns)] = torch.tensor(table.columns)
            elements[t, : len(table.values)] = torch.tensor(table.values, dtype=torch.complex128)
        odd = None
        if any(entry.odd for entry in entries):
            odd = torch.zeros(len(hilbert.of_kind("fermion")) * hilbert.n_sites, len(entries))
            for p, entry in enumerate(entries):
                odd[list(entry.odd), p] = 1
            odd = odd.to(device)
        coefficients = torch.tensor([entry.coefficient for entry in entries], dtype=torch.complex128)
        return cls(
            torch.tensor([[site for site, _ in e.tables] for e in entries], device=device).long().view(len(entries), k),
            torch.tensor([[number[t] for _, t in e.tables] for e in entries], device=device)
            .long()
            .view(len(entries), k),
            columns.clamp(min=0).to(torch.uint8).to(device),
            (elements if dtype.is_complex else elements.real).to(device),
            (coefficients if dtype.is_complex else coefficients.real).to(device),
            odd,
        )

    def values(self, n: UInt8[Tensor, "B L"], occupied: Tensor | None) -> tuple[Tensor, Tensor]:
        """Elements of every term, (B, P), and the new local states, (B, P, k)."""
        digits = n.long()[:, self.sites]  # (B, P, k)
        values = self.coefficients * self.elements[self.tables, digits].prod(2)
        if self.odd is not None and occupied is not None:
            values = values * (1 - 2 * ((occupied @ self.odd) % 2)).double()  # exact: sums of ones
        return values, self.columns[self.tables, digits]


class _Compiled(NamedTuple):
    """An operator as tensors on one device."""

    diagonal: list[_Group]
    connected: list[_Group]
    occupation: Tensor | None  # (F, L, d)
    translation: Tensor | None  # (L, d)
    overlapping: bool  # several terms can lead to the same n'
    rows: int
    dtype: torch.dtype
