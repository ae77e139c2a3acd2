r"""Any discrete operator of NetKet as a Hamiltonian of nqs.

NetKet's operator is decomposed once (see nqs.hamiltonians.netket.terms for the kinds) into local matrices and the
places where they act,

    H = sum_t sum_p c_tp  M_t(modes_tp)  prod_{m in signs_tp} Z_m  prod_{m in flips_tp} X_m,

with Z = (-1)^x, and X the flip, on modes of two states on which M does not act. Only these numbers and the sector are
stored: matrix elements are computed in torch on any device, and an archive rebuilds the operator without NetKet.

Units, signs and the counting of bonds are those of the operator: nk.operator.Heisenberg, for instance, uses Pauli
matrices and applies Marshall's rule to bipartite graphs, so that its energies are 4 times ours.

Local states. A mode is one of NetKet's degrees of freedom; its digits count NetKet's local states from the smallest
value: spins -2S, .., 2S have the digits 0 (down), .., 2S (up), occupation numbers are their own digits. A site of nqs
is one mode, apart from SpinOrbitalFermions with a spin: NetKet lists the orbitals 0 .. L-1 of the lowest S^z, then
those of the next, and so on, and site i of nqs holds the orbitals i of all of them, so that the number of each spin is
a charge. For spin 1/2 these are the states empty, up, down, both of `spinful_fermions`: bit 1 (up) is NetKet's orbital
L + i, bit 2 (down) is orbital i. The signs stay NetKet's: Jordan-Wigner order is the order of its orbitals.
"""

import cmath
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.hamiltonians.local_terms import Change, Digits, LocalTerms
from nqs.hamiltonians.netket.terms import (
    HERMITIAN,
    Matrix,
    Support,
    Terms,
    basis_of,
    formally_hermitian,
    from_digits,
    terms_of,
    to_digits,
)
from nqs.hilbert import MAX_LOCAL_STATES, HilbertSpace, excluded_pairs
from nqs.protocols import Connected
from nqs.samples import distinct

TABLE = 2**24  # largest total number of rows of all local matrices of one size
ELEMENTS = 2**22  # connected configurations in a chunk
CHECKED = 2**12  # configurations on which a new operator is tested
NEGLIGIBLE = 1e-14  # elements below this fraction of the largest one are rounding errors


@dataclass(frozen=True)
class NetKetOperator:
    """A NetKet operator in terms of its local matrices; built by `from_netket`.

    Args:
        hilbert: the sector.
        terms: local matrices and where they act.
        modes: the modes of NetKet that each site holds, the one of the lowest bit first.
        name: used in print and in messages.

    Raises:
        ValueError: modes that do not fit the sector.
    """

    hilbert: HilbertSpace
    terms: tuple[LocalTerms, ...]
    modes: tuple[tuple[int, ...], ...]
    name: str = "operator"
    _compiled: dict[torch.device, "Compiled"] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        bits = {len(modes) for modes in self.modes}
        if len(self.modes) != self.hilbert.n_sites or len(bits) != 1:
            raise ValueError(
                f"modes lists {len(self.modes)} sites with {sorted(bits)} modes, the sector is {self.hilbert}: give "
                "equally many modes for each site."
            )

    @classmethod
    def from_netket(cls, operator: Any, hilbert: Any = None, *, name: str | None = None) -> Self:
        """Decompose an operator of NetKet into local matrices.

        Args:
            operator: any discrete operator, see nqs.hamiltonians.netket.terms.
            hilbert: the sector, as a space of nqs or of NetKet; by default the operator's own (constrained) space.
            name: used in print and in messages; by default the kind of operator.

        Raises:
            TypeError: no discrete operator, or one that cannot be decomposed.
            ValueError: a space or a constraint that nqs does not have, a sector that does not fit the operator, terms
                that leave the sector, elements that are not finite, or an operator that is not Hermitian.
        """
        basis = basis_of(operator, hilbert)
        with np.errstate(invalid="ignore"):  # what is not finite is refused next
            terms = terms_of(operator, basis)
        _refuse_non_finite(terms, type(operator).__name__)
        kind = re.sub(r"Discrete|Jax|Numba|\[.*", "", type(operator).__name__)
        wrapped = cls(basis.sector, _grouped(terms), basis.modes, f"NetKet {kind}" if name is None else name)
        wrapped._check(hermitian=formally_hermitian(terms))
        return wrapped

    @property
    def max_connected(self) -> int:
        """Number of elements of the fullest rows of all local matrices."""
        return sum(terms.n_elements for terms in self.terms)

    @property
    def interacting_pairs(self) -> Int64[Tensor, "P 2"] | None:
        """Pairs of sites on which the local matrices act; None if one acts on more sites."""
        site = {mode: i for i, modes in enumerate(self.modes) for mode in modes}
        places = {frozenset(site[mode] for mode in place) for terms in self.terms for place in terms.modes}
        if any(terms.flips for terms in self.terms) or max(map(len, places), default=0) > 2:
            return None
        return torch.tensor([sorted(place) for place in places if len(place) == 2], dtype=torch.int64).reshape(-1, 2)

    @property
    def is_stoquastic(self) -> bool:
        """All local matrices have real, negative off-diagonal elements: the ground state can be chosen positive.

        False if the terms one by one do not prove it, as for fermions that hop with Jordan-Wigner signs.
        """
        return not any(
            signs or element.imag or c * element.real > 0
            for terms in self.terms
            for _, _, element in terms.elements(diagonal=False)
            for c, signs in zip(terms.coefficients, _signs(terms), strict=True)
        )

    # --- elements -----------------------------------------------------------------------------------------------

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """<n|H|n>."""
        return self._diagonal(n).real.clone()

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """All n' != n with <n|H|n'> != 0, none twice.

        Raises:
            ValueError: a term leaves the sector.
        """
        compiled = self._compile(n.device)
        parts = []
        for rows in torch.arange(len(n), device=n.device).split(compiled.rows_at_once):
            x, elements, parents = self._changed(to_digits(n[rows], self.modes), compiled)
            parts.append(self._inside(n[rows], x, elements, parents)._replace(parents=rows[parents]))
        if len(parts) == 1:
            return parts[0]
        return Connected(*(torch.cat(tensors) for tensors in zip(*parts, strict=True)))

    def _diagonal(self, n: UInt8[Tensor, "B L"]) -> Num[Tensor, " B"]:
        """<n|H|n>, complex where elements are."""
        compiled = self._compile(n.device)
        values = torch.zeros(len(n), dtype=compiled.dtype, device=n.device)
        for rows in torch.arange(len(n), device=n.device).split(compiled.rows_at_once):
            x = to_digits(n[rows], self.modes)
            for places, elements in compiled.diagonal:
                values[rows] += (elements[places.rows(x)] * places.factors(x)).sum(1)
        return values

    def _changed(
        self, x: UInt8[Tensor, "B M"], compiled: "Compiled"
    ) -> tuple[UInt8[Tensor, "K M"], Num[Tensor, " K"], Int64[Tensor, " K"]]:
        """Digits of the n', elements and parents; elements of equal n' are added, negligible sums are left out."""
        digits = [x[:0]]
        values = [torch.zeros(0, dtype=compiled.dtype, device=x.device)]
        parents = [torch.zeros(0, dtype=torch.int64, device=x.device)]
        for places, first, columns, elements in compiled.connected:
            row = places.rows(x)  # (B, P)
            start = first[row].flatten()
            counts = first[row + 1].flatten() - start  # elements in the row of the local matrix
            which = torch.repeat_interleave(counts)  # (K,)
            entry = torch.arange(len(which), device=x.device) - (counts.cumsum(0) - counts - start)[which]
            parent, place = which // len(places.modes), which % len(places.modes)
            n_prime = x[parent].scatter(1, places.modes[place], columns[entry])
            if places.flips is not None:
                n_prime ^= places.flips[place]
            digits.append(n_prime)
            values.append((elements[entry] * places.factors(x).flatten()[which]).to(compiled.dtype))
            parents.append(parent)
        changed, value, parent = torch.cat(digits), torch.cat(values), torch.cat(parents)
        if compiled.overlapping and len(value):
            member, classes = distinct(compiled.keys, changed)
            pair, inverse = torch.unique(parent * len(member) + classes, return_inverse=True)  # of parent and n'
            value = torch.zeros(len(pair), dtype=value.dtype, device=x.device).index_add_(0, inverse, value)
            parent, changed = pair // len(member), changed[member[pair % len(member)]]
        kept = value.abs() > compiled.negligible
        return changed[kept], value[kept], parent[kept]

    def _inside(
        self,
        n: UInt8[Tensor, "B L"],
        x: UInt8[Tensor, "K M"],
        elements: Num[Tensor, " K"],
        parents: Int64[Tensor, " K"],
    ) -> Connected:
        n_prime = from_digits(x, self.modes)
        if self._compile(n.device).conserving:
            return Connected(n_prime, elements, parents)
        outside = (~self.hilbert.contains(n_prime)).nonzero()[:, 0]
        if len(outside):
            k = int(outside[0])
            before, after = n[parents[k]].tolist(), n_prime[k].tolist()
            raise ValueError(
                f"{self.name} leaves the sector: it takes the configuration {before} to {after} with the element "
                f"{elements[k].item():g}, which changes {self._changed_charges(before, after)}. The sector is "
                f"{self.hilbert}. Remove the terms that do not conserve it, or give a larger sector as `hilbert`."
            )
        return Connected(n_prime, elements, parents)

    def _changed_charges(self, before: list[int], after: list[int]) -> str:
        for site, (state, d) in enumerate(zip(after, self.hilbert.local_dims, strict=True)):
            if state >= d:
                return f"a site to a state beyond the largest one, {self.hilbert.states_at(site)[-1]!r}"
        for (i, j), excluded in excluded_pairs(self.hilbert.exclusions, self.hilbert.local_dim).items():
            if excluded[after[i], after[j]]:
                return f"the sites {(i, j)} to local states that exclude each other"
        names = [c.name for c in self.hilbert.charges if c.target is not None]
        sites = range(self.hilbert.n_sites)
        tables = [self.hilbert.table(c.values) for c in self.hilbert.charges if c.target is not None]
        carried = [[int(table[sites, n].sum()) for table in tables] for n in (before, after)]
        return ", ".join(f"{name} from {a} to {b}" for name, a, b in zip(names, *carried, strict=True) if a != b)

    # --- preparation --------------------------------------------------------------------------------------------

    @property
    def _levels(self) -> int:
        """States of a mode."""
        return self.hilbert.local_dim if len(self.modes[0]) == 1 else 2

    def _compile(self, device: torch.device) -> "Compiled":
        if device not in self._compiled:
            self._compiled[device] = _compile(self, device)
        return self._compiled[device]

    def _check(self, *, hermitian: bool) -> None:
        """Refuse terms that leave the sector, and operators that are not Hermitian, with an example.

        If the terms one by one do not prove it, every configuration of a small sector is tested, or random ones of a
        large sector; `connected` then checks for terms that leave the sector at every call.
        """
        generator = torch.Generator().manual_seed(0)
        small = self.hilbert.dimension <= CHECKED
        n = self.hilbert.configurations() if small else self.hilbert.random(CHECKED // 8, generator)
        n_prime, elements, parents = self.connected(n)
        if hermitian:
            return
        tolerance = HERMITIAN * self._compile(n.device).largest
        diagonal = self._diagonal(n).to(torch.complex128)
        for k in (diagonal.imag.abs() > tolerance).nonzero()[:1, 0].tolist():
            raise ValueError(
                f"{self.name} is not Hermitian: <n|H|n> = {diagonal[k].item():g} is not real for n = {n[k].tolist()}. "
                "Add the Hermitian conjugate of its terms."
            )
        for pairs in torch.randperm(len(parents), generator=generator)[: 4 * CHECKED].split(CHECKED // 8):
            back = self.connected(n_prime[pairs])
            home = (back.configurations == n[parents[pairs]][back.parents]).all(1)
            returned = torch.zeros(len(pairs), dtype=elements.dtype)
            returned[back.parents[home]] = back.elements[home]
            for k in ((returned - elements[pairs].conj()).abs() > tolerance).nonzero()[:1, 0].tolist():
                pair = int(pairs[k])
                there, again = elements[pair].item(), returned[k].item()
                raise ValueError(self._not_hermitian(n[parents[pair]], n_prime[pair], there, again))

    def _not_hermitian(self, n: Tensor, n_prime: Tensor, there: complex, back: complex) -> str:
        return (
            f"{self.name} is not Hermitian: <n|H|n'> = {there:g}, but <n'|H|n> = {back:g} for n = {n.tolist()}, "
            f"n' = {n_prime.tolist()}. Add the Hermitian conjugate of its terms."
        )

    def __str__(self) -> str:
        matrices = "1 local matrix" if len(self.terms) == 1 else f"{len(self.terms)} local matrices"
        places = sum(len(terms.modes) for terms in self.terms)
        return f"{self.name}, {matrices} at {places} places, {self.hilbert}"

    __repr__ = __str__


# ---- tensors on one device ---------------------------------------------------------------------------------


class Places(NamedTuple):
    """Where local matrices of one size act. Their rows are stacked: row = offset + sum of digit x stride."""

    modes: Int64[Tensor, "P k"]
    offsets: Int64[Tensor, " P"]  # first row of the matrix
    strides: tuple[int, ...]  # of its digits
    coefficients: Float64[Tensor, " P"]
    signs: Num[Tensor, "M P"] | None  # float32 0 or 1
    flips: UInt8[Tensor, "P M"] | None

    def rows(self, x: UInt8[Tensor, "B M"]) -> Int64[Tensor, "B P"]:
        """Row of the local matrix at every place."""
        row = self.offsets.expand(len(x), -1)
        for modes, stride in zip(self.modes.T, self.strides, strict=True):
            row = row + stride * x[:, modes].long()  # bytes would overflow
        return row

    def factors(self, x: UInt8[Tensor, "B M"]) -> Float64[Tensor, "B P"]:
        """Coefficients times signs."""
        if self.signs is None:
            return self.coefficients.expand(len(x), -1)
        odd = (x.float() @ self.signs) % 2  # exact: sums of ones
        return self.coefficients * (1 - 2 * odd)


class OffDiagonal(NamedTuple):
    """Places and their matrices: row r has the entries first[r] .. first[r + 1] - 1."""

    places: Places
    first: Int64[Tensor, " R1"]
    columns: UInt8[Tensor, "E k"]  # digits
    elements: Num[Tensor, " E"]


class Compiled(NamedTuple):
    """An operator as tensors on one device."""

    diagonal: list[tuple[Places, Tensor]]
    connected: list[OffDiagonal]
    overlapping: bool  # several places can lead to the same n'
    conserving: bool  # no term can leave the sector
    keys: HilbertSpace  # of all digits, for keys of n'
    rows_at_once: int
    dtype: torch.dtype
    largest: float
    negligible: float


def _compile(operator: NetKetOperator, device: torch.device) -> Compiled:
    """Matrices on the same number of modes are stacked, so that a few tensor operations evaluate all places."""
    n_modes, levels = sum(map(len, operator.modes)), operator._levels
    real = not any(im for terms in operator.terms for *_, im in terms.entries)
    diagonal, connected = [], []
    for k in sorted({len(terms.modes[0]) for terms in operator.terms}):
        group = [terms for terms in operator.terms if len(terms.modes[0]) == k]
        table = levels**k  # rows of one matrix
        if len(group) * table > TABLE:
            raise ValueError(
                f"{operator.name} has {len(group)} different matrices on {k} modes of {levels} states: too many rows "
                f"for a table ({len(group) * table:.1e}, the limit is {TABLE:.1e}). Write it with terms on fewer sites."
            )
        strides = tuple(levels**power for power in reversed(range(k)))

        chosen = [terms for terms in group if terms.elements(diagonal=True)]
        if chosen:
            values = np.zeros(len(chosen) * table, dtype=complex)
            for t, terms in enumerate(chosen):
                for digits, _, element in terms.elements(diagonal=True):
                    values[t * table + _row(digits, strides)] = element
            diagonal.append((_places(chosen, strides, table, n_modes, device), _real_if_possible(values).to(device)))

        chosen = [terms for terms in group if terms.elements(diagonal=False)]
        if chosen:
            entries = [
                (t * table + _row(digits, strides), columns, element)
                for t, terms in enumerate(chosen)
                for digits, columns, element in terms.elements(diagonal=False)
            ]
            entries.sort(key=lambda entry: entry[:2])
            rows, columns, elements = zip(*entries, strict=True)
            counts = torch.bincount(torch.tensor(rows), minlength=len(chosen) * table)
            connected.append(
                OffDiagonal(
                    _places(chosen, strides, table, n_modes, device),
                    torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]).to(device),
                    torch.tensor(columns, dtype=torch.uint8).reshape(len(rows), k).to(device),
                    _real_if_possible(np.array(elements)).to(device),
                )
            )
    flips = any(terms.flips for terms in operator.terms)
    ways = Counter(change for terms in operator.terms for change in terms.changes())
    largest = max((terms.largest for terms in operator.terms), default=1.0)
    return Compiled(
        diagonal,
        connected,
        overlapping=flips or any(count > 1 for count in ways.values()),
        conserving=_conserves(operator, ways),
        keys=HilbertSpace(n_modes, tuple(map(str, range(min(levels + 1, MAX_LOCAL_STATES))))),
        rows_at_once=max(1, ELEMENTS // max(1, operator.max_connected)),
        dtype=torch.float64 if real else torch.complex128,
        largest=largest,
        negligible=NEGLIGIBLE * largest,
    )


def _conserves(operator: NetKetOperator, changes: Iterable[Change]) -> bool:
    """Whether every change conserves the charges of the sector, each a sum over modes; False if this is not proven."""
    if operator.hilbert.exclusions:
        return False
    charges = []  # modulus, and for every mode the charge of its digits
    for charge in operator.hilbert.charges:
        if charge.target is None:
            continue
        bits = len(operator.modes[0])
        if operator.hilbert.local_dim < 2**bits > 2:  # some combinations of digits are no local state
            return False
        carried: dict[int, list[int]] = {}
        for modes, values in zip(operator.modes, operator.hilbert.table(charge.values).tolist(), strict=True):
            weights = [[0, values[1 << b]] for b in range(bits)] if bits > 1 else [values]
            if bits > 1 and any(v != sum(w[k >> b & 1] for b, w in enumerate(weights)) for k, v in enumerate(values)):
                return False
            carried |= dict(zip(modes, weights, strict=True))
        charges.append((charge.modulus, carried))
    if charges and any(terms.flips for terms in operator.terms):
        return False
    if operator.hilbert.states_differ:
        largest = {modes[0]: d for modes, d in zip(operator.modes, operator.hilbert.local_dims, strict=True)}
    else:
        largest = dict.fromkeys((mode for modes in operator.modes for mode in modes), operator._levels)
    for change in changes:
        if any(after >= largest[mode] for mode, _, after in change):
            return False
        for modulus, carried in charges:
            gain = sum(carried[mode][after] - carried[mode][before] for mode, before, after in change)
            if gain % modulus if modulus else gain:
                return False
    return True


def _real_if_possible(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values if np.iscomplexobj(values) and values.imag.any() else values.real.copy())


def _row(digits: Digits, strides: tuple[int, ...]) -> int:
    return sum(digit * stride for digit, stride in zip(digits, strides, strict=True))


def _places(
    chosen: list[LocalTerms], strides: tuple[int, ...], table: int, n_modes: int, device: torch.device
) -> Places:
    """The places of several matrices, whose rows are stacked."""
    counts = torch.tensor([len(terms.modes) for terms in chosen])
    modes = [modes for terms in chosen for modes in terms.modes]
    signs, flips = ([place for terms in chosen for place in strings(terms)] for strings in (_signs, _flips))
    return Places(
        torch.tensor(modes, dtype=torch.int64).reshape(len(modes), len(strides)).to(device),
        (table * torch.arange(len(chosen))).repeat_interleave(counts).to(device),
        strides,
        torch.tensor([c for terms in chosen for c in terms.coefficients], dtype=torch.float64, device=device),
        _masks(signs, n_modes).T.float().to(device) if any(signs) else None,
        _masks(flips, n_modes).to(device) if any(flips) else None,
    )


def _signs(terms: LocalTerms) -> tuple[tuple[int, ...], ...]:
    return terms.signs or ((),) * len(terms.modes)


def _flips(terms: LocalTerms) -> tuple[tuple[int, ...], ...]:
    return terms.flips or ((),) * len(terms.modes)


def _masks(places: list[tuple[int, ...]], n_modes: int) -> UInt8[Tensor, "P M"]:
    """1 at the modes of every place."""
    masks = torch.zeros(len(places), n_modes, dtype=torch.uint8)
    for mask, modes in zip(masks, places, strict=True):
        mask[list(modes)] = 1
    return masks


def _refuse_non_finite(terms: Terms, name: str) -> None:
    for support, matrix in terms.items():
        for (row, column), element in matrix.items():
            if not cmath.isfinite(element):
                places = f"{row} and {column} of the modes {support.modes}" if support.modes else "all configurations"
                raise ValueError(
                    f"{name} has the element {element:g} between the local states {places}: give finite couplings."
                )


def _grouped(terms: Terms) -> tuple[LocalTerms, ...]:
    """Equal matrices with all their places; a real factor of each place becomes its coefficient."""
    largest = max((abs(x) for matrix in terms.values() for x in matrix.values()), default=0.0)
    groups: dict[Any, tuple[Matrix, list[tuple[Support, float]]]] = {}
    for support, matrix in terms.items():
        elements = {key: x for key, x in sorted(matrix.items()) if abs(x) > NEGLIGIBLE * largest}
        if not elements:
            continue
        first = next(iter(elements.values()))
        scale = first.real if abs(first.real) >= abs(first.imag) else first.imag
        normal = {key: x / scale for key, x in elements.items()}
        rounded = tuple((key, round(x.real, 14), round(x.imag, 14)) for key, x in normal.items())
        kind = (len(support.modes), bool(support.flips), rounded)
        groups.setdefault(kind, (normal, []))[1].append((support, scale))
    return tuple(
        LocalTerms(
            entries=tuple((row, column, x.real, x.imag) for (row, column), x in matrix.items()),
            modes=tuple(support.modes for support, _ in places),
            coefficients=tuple(scale for _, scale in places),
            signs=_strings(support.signs for support, _ in places),
            flips=_strings(support.flips for support, _ in places),
        )
        for matrix, places in groups.values()
    )


def _strings(sets: Iterable[frozenset[int]]) -> tuple[tuple[int, ...], ...]:
    ordered = tuple(tuple(sorted(modes)) for modes in sets)
    return ordered if any(ordered) else ()
