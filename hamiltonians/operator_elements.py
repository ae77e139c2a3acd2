"""Matrix elements of sums of products of local operators (nqs.hamiltonians.operators) between configurations.

A product of local operators has one element at most in each row, so that a term is, for each of its sites, a table of
the local state of n' and of a factor for every local state of n, times the Jordan-Wigner sign

    <n| c_o .. : (-1)^(occupied orbitals of n before o),   <n| c_o c_o' .. : o' sees the configuration after o,

an even or odd number of orbitals of n outside the term. Equal terms are added. All terms on equally many sites are
evaluated together.
"""

# Shapes: B configurations, L sites, d local states, P terms on k sites each, T tables, F species of fermions.
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, Num, UInt8
from torch import Tensor

from nqs.hilbert import Charge, HilbertSpace, Species
from nqs.protocols import Connected
from nqs.samples import distinct

ELEMENTS = 2**22  # local elements in a chunk
NEGLIGIBLE = 1e-14  # of a sum, relative to its terms: rounding
KINDS = {"b": ("boson",), "b+": ("boson",), "c": ("fermion",), "c+": ("fermion",), "n": ("boson", "fermion")}
KINDS |= dict.fromkeys(("S+", "S-", "Sz"), ("spin",))

Content = tuple[int, ...]  # number of each species, 2 S^z of each spin; the index of the state where those do not tell


class Table(NamedTuple):
    """Action of a product of local operators on one site, on <a| for each local state a of the row space."""

    columns: tuple[int, ...]  # local state of the column space; -1: none
    values: tuple[complex, ...]


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
        self._sites = [_Site(bra, ket, site) for site in range(bra.n_sites)]
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
        largest.index_reduce_(0, inverse, elements.abs(), "amax")
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


# ---- one site ----------------------------------------------------------------------------------------------


class _Site:
    """Local states of one site in the spaces of bra (rows) and ket (columns), by what they hold."""

    def __init__(self, bra: HilbertSpace, ket: HilbertSpace, site: int) -> None:
        self.space, self.site = bra, site
        self.species = bra.species
        self.rows, self.columns = _contents(bra, site), _contents(ket, site)
        if self.rows is None or self.columns is None:  # local states that are told apart by their number alone
            self.species = ()
            self.rows, self.columns = ([(a,) for a in range(space.local_dims[site])] for space in (bra, ket))
        self.row_of = {content: a for a, content in enumerate(self.rows)}
        self.column_of = {content: b for b, content in enumerate(self.columns)}
        self.unlimited = [self._unlimited(k) for k in range(len(self.species))]
        self._tables: dict[Any, Table] = {}

    def _unlimited(self, k: int) -> bool:
        """Bosons whose largest occupation follows from their number: intermediate states may exceed it."""
        number = self.space.number_of(self.species[k])
        return self.species[k].kind == "boson" and number is not None and max(c[k] for c in self.rows) >= number

    def translation(self, d: int) -> list[int]:
        """Local state of the ket for each one of the bra, -1 for none."""
        return [self.column_of.get(content, -1) for content in self.rows] + [-1] * (d - len(self.rows))

    def fermion(self, factor: Any) -> int:
        """Which species of fermions a factor c or c+ is about."""
        fermions = [k for k, one in enumerate(self.species) if one.kind == "fermion"]
        return fermions.index(self._of(factor.name, factor.detail)[0])

    def _of(self, name: str, detail: tuple[Any, ...]) -> list[int]:
        """The species that a factor acts on; all bosons and fermions for n."""
        found = [k for k, one in enumerate(self.species) if one.kind in KINDS[name]]
        if detail:
            spin = {"up": 1, "down": -1}.get(detail[0])
            found = [k for k in found if detail[0] == self.species[k].name or (spin and self._spin(k) == spin)]
        if KINDS[name] == ("spin",):
            found = [k for k in found if self.species[k].twice_sz]
        if not found or (len(found) > 1 and name != "n"):
            names = ", ".join(f"{one.name!r} ({one.kind})" for one in self.species) or "none that is known"
            raise ValueError(
                f"{name}_{self.site}{''.join(f',{d}' for d in detail)} needs one {' or '.join(KINDS[name])} of that "
                f"kind; the space has the species {names}: name one of them, for electrons 'up' or 'down'."
            )
        return found

    def _spin(self, k: int) -> int:
        """2 S^z of a fermion of this species; 0 if it has none."""
        species: Species = self.species[k]
        if species.twice_sz is None:
            return 0
        number, twice_sz = (self.space.table(values)[self.site] for values in (species.occupation, species.twice_sz))
        return next((sign for sign in (1, -1) if (twice_sz == sign * number).all()), 0)

    def table(self, factors: tuple[tuple[str, Any], ...]) -> Table:
        """The product of (name, detail) of factors, acting on each <a| from left to right."""
        if factors not in self._tables:
            acted = [self._acted(content, factors) for content in self.rows]
            self._tables[factors] = Table(*map(tuple, zip(*acted, strict=True)))
        return self._tables[factors]

    def _acted(self, content: Content, factors: tuple[tuple[str, Any], ...]) -> tuple[int, complex]:
        square, value = 1, complex(1)  # value sqrt(square): products of ladder operators without rounding
        for name, detail in factors:
            content, more, factor = self._step(content, name, detail)
            square, value = square * more, value * factor
            if not (square and value and self._exists(content)):
                return -1, 0j
        column = self.column_of.get(content, -1)
        return (column, value * math.sqrt(square)) if column >= 0 else (-1, 0j)

    def _exists(self, content: Content) -> bool:
        """As an intermediate state."""
        if content in self.row_of or content in self.column_of:
            return True
        within = (min(x, max(c[k] for c in self.rows)) if free else x for k, (x, free) in enumerate(self._free(content)))
        return tuple(within) in self.row_of

    def _free(self, content: Content) -> list[tuple[int, bool]]:
        return list(zip(content, self.unlimited + [False] * (len(content) - len(self.unlimited)), strict=True))

    def _step(self, content: Content, name: str, detail: tuple[Any, ...]) -> tuple[Content, int, complex]:
        """<content| times one factor: the new content, and the square and the rest of the element."""
        if name == "f":
            self._check_states(len(detail))
            a = self.row_of.get(content, -1)
            return content, 1, complex(*detail[a]) if a >= 0 else 0j
        if name == "|a><b|":
            self._check_states(max(detail) + 1, exactly=False)
            a, b = detail
            fermions = [k for k, one in enumerate(self.species) if one.kind == "fermion"]
            if any(self.rows[a][k] != self.rows[b][k] for k in fermions):
                raise ValueError(
                    f"a matrix at site {self.site} changes the fermions there, whose signs depend on other sites: "
                    "write it with c and c_dag."
                )
            return (self.rows[b], 1, 1) if self.rows[a] == content else (content, 1, 0j)
        which = self._of(name, detail)
        k = which[0]
        if name == "n":
            return content, 1, sum(content[k] for k in which)
        if KINDS[name] == ("spin",):
            return self._spin_step(content, name, k)
        x = content[k]
        step, square = (-1, x) if name.endswith("+") else (1, x + 1)
        if KINDS[name] == ("fermion",):
            square = int(x + step in (0, 1))
        return (*content[:k], x + step, *content[k + 1 :]), square, 1

    def _spin_step(self, content: Content, name: str, k: int) -> tuple[Content, int, complex]:
        spins = [j for j, one in enumerate(self.species) if one.kind == "spin" and one.twice_sz]
        k = len(self.species) + spins.index(k)
        m = content[k]  # 2 S^z
        if name == "Sz":
            return content, 1, m / 2
        S = max(c[k] for c in self.rows)  # 2 S
        step = -2 if name == "S+" else 2
        square = (S * (S + 2) - m * (m + step)) // 4
        return (*content[:k], m + step, *content[k + 1 :]), square, 1

    def _check_states(self, d: int, *, exactly: bool = True) -> None:
        if d > len(self.rows) or (exactly and d < len(self.rows)):
            states = self.space.states_at(self.site)
            raise ValueError(
                f"a matrix at site {self.site} is about {d} local states; the site has {len(states)}: {states}."
            )


def _contents(hilbert: HilbertSpace, site: int) -> list[Content] | None:
    """What each local state of a site holds; None if that does not tell them apart."""
    numbers = [hilbert.table(species.occupation)[site] for species in hilbert.species]
    spins = [hilbert.table(species.twice_sz)[site] for species in hilbert.of_kind("spin") if species.twice_sz]
    d = hilbert.local_dims[site]
    contents = [tuple(int(column[a]) for column in (*numbers, *spins)) for a in range(d)]
    return contents if hilbert.species and len(set(contents)) == d else None


# ---- tensors on one device ---------------------------------------------------------------------------------


class _Group(NamedTuple):
    """Terms on equally many sites."""

    sites: Int64[Tensor, "P k"]
    tables: Int64[Tensor, "P k"]
    columns: Int64[Tensor, "T d"]
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
            torch.tensor([[site for site, _ in e.tables] for e in entries], device=device).long().view(-1, k),
            torch.tensor([[number[t] for _, t in e.tables] for e in entries], device=device).long().view(-1, k),
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
