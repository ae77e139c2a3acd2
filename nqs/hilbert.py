"""Local states, conserved charges, and the sector of the Hilbert space that they define.

A configuration is a row of local-state indices, one per site (or orbital). Every conserved charge is additive over
sites, Q(n) = sum_s values[s, n_s], and the sector fixes Q to a target, exactly or modulo an integer (a parity). A
prefix n_1 .. n_s is kept only if some choice of the remaining sites still reaches the target. One backward table
decides this, counts the completions and so gives the dimension, the lexicographic rank and uniform sampling:

    counts[s, r] = sum_n counts[s + 1, r - values[s, n]],    counts[L, r] = 1 if r = 0 else 0,

with r the charge still missing before site s (a remainder; a mixed-radix index over the conserved charges).
The counts are Python integers, so that every dimension is exact. The local states, and the charge that each carries,
may differ from site to site; where they do not, one table of transitions serves all sites.

Letters: B configurations, L sites, d local states, R remainders.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Integer, UInt8
from torch import Tensor

MAX_LOCAL_STATES = 256  # configurations are stored as uint8

Values = tuple[int, ...] | tuple[tuple[int, ...], ...]  # of each local state, or a row of them for each site
Kind = Literal["boson", "fermion", "spin", "other"]


@dataclass(frozen=True)
class Charge:
    """An additive quantum number: a configuration n carries sum_s values[n_s], or sum_s values[s][n_s].

    Attributes:
        name: how it is called in messages, such as "particles".
        values: charge of every local state, integers; a row of them for each site where it depends on the site, such as
            the number of particles on one sublattice, or a momentum.
        target: its value in the sector; None where it is not conserved.
        modulus: conserved only modulo this integer (2 for a parity); None for an exact target.
    """

    name: str
    values: Values
    target: int | None = None
    modulus: int | None = None


@dataclass(frozen=True)
class Species:
    """What the local states say about one kind of particle. Physics is read from here, never from names.

    Attributes:
        name: how the particles are called in messages and in the names of observables.
        kind: "boson"; "fermion", whose operators on different sites anticommute; "spin", localised on its site;
            "other" where nothing more is known than that operators on different sites commute.
        occupation: number of these particles in each local state, or a row for each site; 0 or 1 for fermions, 1 for a
            localised spin.
        twice_sz: their 2 S^z, in the same form; None where they have no spin.

    Raises:
        ValueError: an unknown kind, or more than one fermion of a species in a local state.
    """

    name: str
    kind: Kind
    occupation: Values
    twice_sz: Values | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"species {self.name!r} has the kind {self.kind!r}: choose one of {get_args(Kind)}.")
        numbers = [number for row in _rows(self.occupation) for number in row]
        if min(numbers, default=0) < 0 or (self.kind == "fermion" and max(numbers, default=0) > 1):
            raise ValueError(
                f"species {self.name!r} has the occupation numbers {self.occupation}: they are 0 or more, for fermions "
                "0 or 1 (a species for each spin)."
            )


class SectorTables(NamedTuple):
    """Walk through the sector site by site, as tensors on one device; the last remainder (index R) is a sink."""

    # Remainder after choosing a local state, the sink where that overshoots: (R1, d), or (L, R1, d) where sites differ.
    advance: Int64[Tensor, "*L R1 d"]
    log_uniform: Float64[Tensor, "L R1 d"]  # log conditionals of the uniform distribution over the sector

    def after(self, site: int, remainder: Int64[Tensor, " B"], token: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """Remainders after choosing the local states `token` at a site."""
        advance = self.advance if self.advance.ndim == 2 else self.advance[site]
        return advance[remainder, token]


@dataclass(frozen=True)
class HilbertSpace:
    """A sector of the product of n_sites local spaces.

    Args:
        n_sites: number of sites or orbitals, L.
        local_states: name of every local state, d of them; a configuration holds indices into this tuple. Where sites
            differ (mixed spins, a spin beside bosons, cutoffs by site), a tuple of names for each site; d is then the
            largest number of them.
        charges: the additive quantum numbers, with the targets that define the sector.
        species: what the particles are; () where nothing is known but the charges. Their order is the Jordan-Wigner
            order: all orbitals of the first species of fermions, in the order of the sites, come before those of the
            second. Two spaces with the same configurations are equal whatever their species.

    Raises:
        ValueError: sizes out of range, charges of the wrong length, or a sector without any configuration.
    """

    n_sites: int
    local_states: tuple[str, ...] | tuple[tuple[str, ...], ...]
    charges: tuple[Charge, ...] = ()
    species: tuple[Species, ...] = field(default=(), compare=False)
    _tables: dict[torch.device, SectorTables] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_sites(self.n_sites)
        if any(not isinstance(states, str) for states in self.local_states):
            if len(self.local_states) != self.n_sites or any(isinstance(states, str) for states in self.local_states):
                raise ValueError(
                    f"local_states lists {len(self.local_states)} sites of {self.n_sites}: give a tuple of names for "
                    "each site, or one tuple of names for all of them."
                )
            if len(set(self.local_states)) == 1:
                object.__setattr__(self, "local_states", self.local_states[0])
        if not 1 <= min(self.local_dims) <= self.local_dim <= MAX_LOCAL_STATES:
            raise ValueError(
                f"{min(self.local_dims) or self.local_dim} local states per site: 1 to {MAX_LOCAL_STATES} are "
                "supported (configurations are stored as bytes). For bosons, set a cutoff n_max <= "
                f"{MAX_LOCAL_STATES - 1}."
            )
        for charge in self.charges:
            self._check_values(f"charge {charge.name!r}", charge.values)
            if charge.modulus is not None and charge.modulus < 1:
                raise ValueError(f"charge {charge.name!r} has modulus {charge.modulus}: it must be at least 1.")
        for species in self.species:
            self._check_values(f"species {species.name!r}", species.occupation)
            if species.twice_sz is not None:
                self._check_values(f"2 Sz of the species {species.name!r}", species.twice_sz)
        if self.dimension == 0:
            raise ValueError(self._why_empty())

    def _check_values(self, what: str, values: Values) -> None:
        if not _by_site(values):
            if len(values) != self.local_dim:
                raise ValueError(
                    f"{what} has {len(values)} values for {self.local_dim} local states: give one integer per local "
                    "state."
                )
        elif len(values) != self.n_sites or any(len(row) not in (d, self.local_dim) for row, d in self._zipped(values)):
            raise ValueError(
                f"{what} has {len(values)} rows of {sorted({len(row) for row in _rows(values)})} values: give one "
                f"integer per local state, in a row for each of the {self.n_sites} sites."
            )

    def _zipped(self, values: Values) -> list[tuple[tuple[int, ...], int]]:
        return list(zip(_rows(values), self.local_dims, strict=False))

    @cached_property
    def states_differ(self) -> bool:
        """The local states differ from site to site."""
        return any(not isinstance(state, str) for state in self.local_states)

    @cached_property
    def local_dims(self) -> tuple[int, ...]:
        """Number of local states of every site."""
        return tuple(len(self.states_at(site)) for site in range(self.n_sites))

    @property
    def local_dim(self) -> int:
        """Number of local states, d; the largest one where sites differ."""
        return max(self.local_dims) if self.states_differ else len(self.local_states)

    def states_at(self, site: int) -> tuple[str, ...]:
        """Names of the local states of a site."""
        states = self.local_states[site] if self.states_differ else self.local_states
        return tuple(map(str, states))

    @property
    def state_names(self) -> tuple[str, ...]:
        """A name of each local state, for figures and messages; their numbers where sites differ."""
        return tuple(map(str, range(self.local_dim))) if self.states_differ else self.states_at(0)

    def table(self, values: Values) -> np.ndarray:
        """Values of a charge or species by site and local state, (L, d).

        For local states that a site does not have they mean nothing.
        """
        if not _by_site(values):
            return np.broadcast_to(np.array(values, dtype=np.int64), (self.n_sites, self.local_dim))
        table = np.zeros((self.n_sites, self.local_dim), dtype=np.int64)
        for row, (numbers, d) in zip(table, self._zipped(values), strict=True):
            row[:d] = numbers[:d]
        return table

    def of_kind(self, kind: Kind) -> tuple[Species, ...]:
        """The species of one kind, in their order."""
        return tuple(species for species in self.species if species.kind == kind)

    def number_of(self, species: Species) -> int | None:
        """How many particles of a species the sector fixes; None where their number is free."""
        numbers = (c.target for c in self.charges if c.modulus is None and c.values == species.occupation)
        return next((number for number in numbers if number is not None), None)

    @cached_property
    def dimension(self) -> int:
        """Exact number of configurations in the sector."""
        return int(self._counts[0, self.start]) if self.start >= 0 else 0

    @cached_property
    def last_is_determined(self) -> bool:
        """The local states of the other sites leave one choice at the last: its log probability is 0."""
        return not self.tables("cpu").log_uniform[-1].amax(1).any()

    # --- remainders -------------------------------------------------------------------------------------------

    @cached_property
    def sites_differ(self) -> bool:
        """The local states, or the conserved charge that they carry, differ from site to site."""
        return self.states_differ or any(
            _by_site(charge.values) for charge in self.charges if charge.target is not None
        )

    @cached_property
    def _allowed(self) -> np.ndarray:
        """(L, d): which local states each site has."""
        return np.arange(self.local_dim) < np.array(self.local_dims)[:, None]

    @cached_property
    def _conserved(self) -> list[tuple[np.ndarray, int, int | None]]:
        """Per conserved charge: non-negative values, the target on that scale, the modulus.

        Values are (d,), or (L, d) where sites differ.
        """
        conserved: list[tuple[np.ndarray, int, int | None]] = []
        for charge in self.charges:
            if charge.target is None:
                continue
            values = self.table(charge.values)
            if charge.modulus is None:
                low = np.where(self._allowed, values, np.iinfo(np.int64).max).min(1)
                values, target = values - low[:, None], charge.target - int(low.sum())
            else:
                values, target = values % charge.modulus, charge.target % charge.modulus
            conserved.append(
                (np.where(self._allowed, values, 0) if self.sites_differ else values[0], target, charge.modulus)
            )
        return conserved

    @cached_property
    def _sizes(self) -> list[int]:
        """Number of remainders per conserved charge: 0 .. target, or 0 .. modulus - 1."""
        return [max(target, 0) + 1 if modulus is None else modulus for _, target, modulus in self._conserved]

    @cached_property
    def n_remainders(self) -> int:
        """R: the number of different missing charges that a prefix can leave."""
        return math.prod(self._sizes)

    @cached_property
    def start(self) -> int:
        """Remainder before the first site: the whole target (-1 if a target lies below the smallest charge)."""
        if any(target < 0 for _, target, _ in self._conserved):
            return -1
        targets = [target for _, target, _ in self._conserved]
        return int(np.ravel_multi_index(targets, self._sizes)) if targets else 0

    @cached_property
    def _advance(self) -> np.ndarray:
        """(R + 1, d), or (L, R + 1, d) where sites differ: remainder after each local state.

        It is R, the sink, where a charge overshoots its target or the site does not have the local state.
        """
        if not self.sites_differ:
            return self._transitions([values for values, _, _ in self._conserved])
        sites = [self._transitions([values[site] for values, _, _ in self._conserved]) for site in range(self.n_sites)]
        return np.where(self._allowed[:, None], np.stack(sites), self.n_remainders)

    def _transitions(self, charges: list[np.ndarray]) -> np.ndarray:
        """(R + 1, d): remainder after each local state, with the values (d,) of every conserved charge."""
        R, d = self.n_remainders, self.local_dim
        missing = np.unravel_index(np.arange(R), self._sizes) if self._sizes else ()
        advance = np.zeros((R, d), dtype=np.int64)
        overshoots = np.zeros((R, d), dtype=bool)
        for (_, _, modulus), values, size, r in zip(self._conserved, charges, self._sizes, missing, strict=True):
            left = r[:, None] - values
            if modulus is None:
                overshoots |= left < 0
            else:
                left %= modulus
            advance = advance * size + left
        advance[overshoots] = R
        return np.vstack([advance, np.full((1, d), R)])

    def _following(self, x: np.ndarray) -> np.ndarray:
        """(L, R + 1, d): entries of x, (L + 1, R + 1), after each local state of each site."""
        if not self.sites_differ:
            return x[1:, self._advance]
        return np.stack([row[advance] for row, advance in zip(x[1:], self._advance, strict=True)])

    @cached_property
    def _counts(self) -> np.ndarray:
        """(L + 1, R + 1) Python integers: configurations of sites s .. L-1 that carry exactly the remainder."""
        counts = np.zeros((self.n_sites + 1, self.n_remainders + 1), dtype=object)
        counts[-1, 0] = 1
        for site in reversed(range(self.n_sites)):
            for column in (self._advance[site] if self.sites_differ else self._advance).T:
                counts[site] = counts[site] + counts[site + 1][column]
        return counts

    def tables(self, device: torch.device | str) -> SectorTables:
        """The transitions and uniform conditionals that models and samplers walk through, cached per device.

        A local state that cannot lead into the sector has log probability -inf. Rows that no prefix inside the
        sector reaches are zero, so that a configuration outside it ends with -inf and never with nan.
        """
        device = torch.device(device)
        if device not in self._tables:
            log_counts = np.array([[math.log(c) if c else -math.inf for c in row] for row in self._counts])
            reachable = np.isfinite(log_counts[:-1])  # (L, R + 1)
            log_uniform = self._following(log_counts)  # (L, R + 1, d)
            log_uniform[~reachable] = 0.0
            log_uniform[reachable] -= log_counts[:-1][reachable][:, None]
            self._tables[device] = SectorTables(
                torch.from_numpy(self._advance).to(device), torch.from_numpy(log_uniform).to(device)
            )
        return self._tables[device]

    def remainders(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Remainder before every site of the configurations n; the sink once a prefix has overshot."""
        remainder = torch.zeros(n.shape, dtype=torch.int64, device=n.device)
        overshoots = torch.zeros(n.shape, dtype=torch.bool, device=n.device)
        for (values, target, modulus), size in zip(self._conserved, self._sizes, strict=True):
            carried = self._carried(values, n)
            # Scans on a GPU are fast along many numbers.
            sums = carried.T.contiguous().cumsum(0).T.contiguous() if n.is_cuda else carried.cumsum(1)
            left = target - (sums - carried)
            if modulus is None:
                overshoots = overshoots | (left < 0)
            else:
                left = left % modulus
            remainder = remainder * size + left
        if self.states_differ:
            missing = n >= torch.tensor(self.local_dims, device=n.device)  # local states that the site does not have
            overshoots = overshoots | (missing.cumsum(1) > missing.long())
        return remainder.masked_fill(overshoots, self.n_remainders)

    @staticmethod
    def _carried(values: np.ndarray, n: Integer[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """What every site carries of a charge with values (d,) or (L, d)."""
        table = torch.from_numpy(values).to(n.device)
        return table[n.long()] if table.ndim == 1 else table[torch.arange(len(table), device=n.device), n.long()]

    # --- configurations ---------------------------------------------------------------------------------------

    def contains(self, n: UInt8[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """Which of the configurations lie in the sector."""
        n = n.long()
        largest = torch.tensor(self.local_dims, device=n.device) if self.states_differ else self.local_dim
        inside = (n < largest).all(1)
        safe = n.clamp(max=self.local_dim - 1)
        for values, target, modulus in self._conserved:
            charge = self._carried(values, safe).sum(1)
            inside &= (charge if modulus is None else charge % modulus) == target
        return inside

    def rank(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """Lexicographic position of configurations that lie in the sector, 0 .. dimension - 1.

        Raises:
            ValueError: the dimension does not fit into 64-bit integers.
        """
        below = torch.from_numpy(self._below).to(n.device)  # (L, R + 1, d)
        sites = torch.arange(self.n_sites, device=n.device)
        return below[sites, self.remainders(n), n.long()].sum(1)

    def unrank(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B L"]:
        """Configurations at the given lexicographic positions; the inverse of `rank`."""
        below = torch.from_numpy(self._below).to(index.device)
        tables = self.tables(index.device)
        n = torch.empty((len(index), self.n_sites), dtype=torch.uint8, device=index.device)
        remainder = torch.full_like(index, self.start)
        for site in range(self.n_sites):
            row = below[site, remainder]  # (B, d)
            token = torch.searchsorted(row, index[:, None], right=True) - 1  # (B, 1)
            index = index - row.gather(1, token)[:, 0]
            n[:, site] = token[:, 0]
            remainder = tables.after(site, remainder, token[:, 0])
        return n

    @cached_property
    def _below(self) -> np.ndarray:
        """(L, R + 1, d) int64: configurations that share a prefix and continue with a smaller local state."""
        if self.dimension >= 2**63:
            raise ValueError(
                f"dimension {self.dimension:.3e} does not fit into 64-bit integers: configurations of this "
                "sector cannot be ranked or enumerated. Sample it instead."
            )
        following = self._following(self._counts)
        below = following.cumsum(2) - following
        # Larger entries belong to remainders that no prefix from the start reaches: never looked up.
        return np.minimum(below, 2**63 - 1).astype(np.int64)

    def configurations(
        self, start: int = 0, stop: int | None = None, *, device: torch.device | str = "cpu"
    ) -> UInt8[Tensor, "B L"]:
        """Configurations start .. stop - 1 in lexicographic order; all of them by default."""
        return self.unrank(torch.arange(start, self.dimension if stop is None else stop, device=device))

    def random(self, n: int, generator: torch.Generator) -> UInt8[Tensor, "B L"]:
        """n independent configurations, uniform over the sector, on the device of the generator."""
        tables = self.tables(generator.device)
        configurations = torch.empty((n, self.n_sites), dtype=torch.uint8, device=generator.device)
        remainder = torch.full((n,), self.start, device=generator.device)
        for site in range(self.n_sites):
            token = torch.multinomial(tables.log_uniform[site, remainder].exp(), 1, generator=generator)[:, 0]
            configurations[:, site] = token
            remainder = tables.after(site, remainder, token)
        return configurations

    def keys(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B W"]:
        """Exact integer keys, equal only for equal configurations: as many 63-bit words as the sites need."""
        sites_per_word = max(1, int(63 / max(1.0, math.log2(max(2, self.local_dim)))))
        words = []
        for chunk in n.split(sites_per_word, dim=1):
            weights = [self.local_dim**k for k in reversed(range(chunk.shape[1]))]
            words.append((chunk.long() * torch.tensor(weights, device=n.device)).sum(1))
        return torch.stack(words, dim=1)

    def check(self, n: Tensor) -> None:
        """Refuse configurations of the wrong dtype or shape, or outside the sector, with a clear ValueError."""
        if n.dtype != torch.uint8 or n.ndim != 2 or n.shape[1] != self.n_sites:
            raise ValueError(
                f"configurations are uint8 tensors of shape (batch, {self.n_sites}); "
                f"found {str(n.dtype).removeprefix('torch.')} of shape {tuple(n.shape)}."
            )
        outside = (~self.contains(n)).nonzero()[:, 0]
        if len(outside):
            raise ValueError(
                f"{len(outside)} of {len(n)} configurations lie outside the sector, the first one "
                f"{n[outside[0]].tolist()}; the sector is {self}."
            )

    # --- text -------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        fixed = [
            f"{c.name} = {c.target}" + (f" (mod {c.modulus})" if c.modulus else "")
            for c in self.charges
            if c.target is not None
        ]
        sector = ", ".join(fixed) if fixed else "no conserved charge"
        size = f"{self.dimension:,}" if self.dimension < 10**12 else f"{Fraction(self.dimension).__float__():.3e}"
        fewest = min(self.local_dims)
        states = f"{self.local_dim}" if fewest == self.local_dim else f"{fewest} to {self.local_dim}"
        return f"{self.n_sites} sites x {states} local states, {sector}, dimension {size}"

    def _why_empty(self) -> str:
        """Which charge cannot have its target, and the values it can have."""
        for charge in self.charges:
            reachable = {0}
            for values, d in zip(self.table(charge.values).tolist(), self.local_dims, strict=True):
                reachable = {
                    (q + v) % charge.modulus if charge.modulus else q + v for q in reachable for v in values[:d]
                }
            target = charge.target
            if target is not None and (target % charge.modulus if charge.modulus else target) not in reachable:
                return (
                    f"{charge.name} = {target} is impossible on {self.n_sites} sites; "
                    f"reachable values are {_ranges(sorted(reachable))}."
                )
        wanted = ", ".join(f"{c.name} = {c.target}" for c in self.charges if c.target is not None)
        return (
            f"no configuration of {self.n_sites} sites has {wanted} at the same time, although each value is "
            "possible alone; change one of them."
        )


def _by_site(values: Values) -> bool:
    return any(not isinstance(row, int) for row in values)


def _rows(values: Values) -> list[tuple[int, ...]]:
    """A row for each site, or the one for all of them."""
    rows = [row for row in values if not isinstance(row, int)]
    return rows or [tuple(row for row in values if isinstance(row, int))]


def _check_sites(n_sites: int) -> None:
    if n_sites < 1:
        raise ValueError(f"n_sites={n_sites}: a Hilbert space needs at least one site.")


def _ranges(values: Sequence[int]) -> str:
    """Sorted integers as text: '0 to 8', '-4, -2, 0, 2, 4', or the ends of a long list with its step."""
    steps = {b - a for a, b in itertools.pairwise(values)}
    if steps == {1} and len(values) > 2:
        return f"{values[0]} to {values[-1]}"
    if len(values) <= 8 or len(steps) > 1:
        shown = [str(v) for v in values]
        return ", ".join(shown if len(shown) <= 12 else [*shown[:5], "...", *shown[-5:]])
    return f"{values[0]} to {values[-1]} in steps of {steps.pop()}"


def bosons(n_sites: int, n_particles: int | None = None, n_max: int | None = None) -> HilbertSpace:
    """Bosons with occupation numbers 0 .. n_max per site.

    Args:
        n_sites: number of sites.
        n_particles: conserved total number; None for the grand-canonical space.
        n_max: largest occupation of a site; None for no cutoff, which needs n_particles.

    Raises:
        ValueError: negative numbers, a cutoff below the filling, or neither a number nor a cutoff.

    >>> space = bosons(2, 3)
    >>> space.dimension
    4
    >>> space.configurations().tolist()
    [[0, 3], [1, 2], [2, 1], [3, 0]]
    """
    if n_particles is None and n_max is None:
        raise ValueError("bosons without a fixed n_particles need a cutoff: give n_max, such as n_max=4.")
    _check_sites(n_sites)
    if n_particles is not None and n_particles < 0:
        raise ValueError(f"n_particles={n_particles}: a number of particles is 0 or more.")
    if n_max is not None and n_max < 1:
        raise ValueError(f"n_max={n_max}: at least one boson must fit on a site, n_max >= 1.")
    if n_particles is not None and n_max is not None and n_particles > n_max * n_sites:
        raise ValueError(
            f"n_max={n_max} on {n_sites} sites holds at most {n_max * n_sites} bosons, but n_particles={n_particles}: "
            f"raise n_max to at least {-(-n_particles // n_sites)} or lower n_particles."
        )
    largest = min(x for x in (n_particles, n_max) if x is not None)
    states = range(largest + 1)
    particles, species = Charge("particles", tuple(states), n_particles), Species("particles", "boson", tuple(states))
    return HilbertSpace(n_sites, tuple(str(k) for k in states), (particles,), (species,))


def fermions(n_orbitals: int, n_particles: int | None = None) -> HilbertSpace:
    """Spinless fermions, or spin-orbitals: each orbital is empty (0) or occupied (1)."""
    particles, species = Charge("particles", (0, 1), n_particles), Species("particles", "fermion", (0, 1))
    return HilbertSpace(n_orbitals, ("empty", "occupied"), (particles,), (species,))


def spinful_fermions(n_orbitals: int, n_up: int | None = None, n_down: int | None = None) -> HilbertSpace:
    """Spin-1/2 fermions: each orbital is empty (0), up (1), down (2) or doubly occupied (3)."""
    return electrons(n_orbitals, ("empty", "up", "down", "both"), n_up, n_down)


def electrons(
    n_orbitals: int, local_states: tuple[str, ...], n_up: int | None = None, n_down: int | None = None
) -> HilbertSpace:
    """Spin-1/2 fermions with the first of the local states empty (0), up (1), down (2), doubly occupied (3).

    Jordan-Wigner order: all up orbitals in the order of the sites, then all down orbitals.
    """
    states = range(len(local_states))
    up, down = tuple(k & 1 for k in states), tuple(k >> 1 for k in states)
    charges = (Charge("up electrons", up, n_up), Charge("down electrons", down, n_down))
    species = (
        Species("up electrons", "fermion", up, up),
        Species("down electrons", "fermion", down, tuple(-n for n in down)),
    )
    return HilbertSpace(n_orbitals, local_states, charges, species)


def spins(n_sites: int, total_sz: float | None = None, spin: float = 0.5) -> HilbertSpace:
    """Spins of length `spin`: local state k has S^z = k - spin, so that 0 is fully down.

    Args:
        n_sites: number of spins.
        total_sz: conserved total S^z, a multiple of 1/2; None where it is not conserved.
        spin: 1/2, 1, 3/2, ...

    Raises:
        ValueError: spin or total_sz is no multiple of 1/2, or total_sz cannot be reached.
    """
    twice = _twice("spin", spin)
    if twice < 1:
        raise ValueError(f"spin={spin}: the length of a spin is 1/2, 1, 3/2, ...")
    values = tuple(2 * k - twice for k in range(twice + 1))
    names = tuple(str(Fraction(v, 2)) for v in values)
    target = None if total_sz is None else _twice("total_sz", total_sz)
    species = Species("spins", "spin", (1,) * len(values), values)
    return HilbertSpace(n_sites, names, (Charge("2 Sz", values, target),), (species,))


def product_space(*spaces: HilbertSpace) -> HilbertSpace:
    """The sites of several spaces one after the other, such as spins beside bosons.

    Each space keeps what it conserves. Free charges and species of the same name are those of all sites together.

    >>> product_space(spins(1), bosons(2, 3)).dimension
    8
    """
    dims = [d for space in spaces for d in space.local_dims]
    starts = itertools.accumulate((space.n_sites for space in spaces[:-1]), initial=0)
    charges: dict[tuple[str, int | None], Charge] = {}
    species: dict[tuple[str, Kind], Species] = {}
    for space, start in zip(spaces, starts, strict=True):

        def placed(values: Values, space: HilbertSpace = space, start: int = start) -> np.ndarray:
            table = np.zeros((len(dims), max(dims)), dtype=np.int64)
            table[start : start + space.n_sites, : space.local_dim] = space.table(values)
            return table

        for charge in space.charges:
            free = charge.target is None
            name = charge.name if free else f"{charge.name} of the sites {start} to {start + space.n_sites - 1}"
            before = charges.get((name, charge.modulus))
            table = placed(charge.values) + (0 if before is None else _padded(before.values, dims))
            charges[name, charge.modulus] = replace(charge, name=name, values=_row_by_row(table, dims))
        for one in space.species:
            other = species.get((one.name, one.kind))
            occupation = placed(one.occupation) + (0 if other is None else _padded(other.occupation, dims))
            spin = [placed(one.twice_sz)] if one.twice_sz is not None else []
            spin += [_padded(other.twice_sz, dims)] if other is not None and other.twice_sz is not None else []
            species[one.name, one.kind] = replace(
                one,
                occupation=_row_by_row(occupation, dims),
                twice_sz=_row_by_row(np.sum(spin, axis=0), dims) if spin else None,
            )
    states = tuple(space.states_at(site) for space in spaces for site in range(space.n_sites))
    known = tuple(species.values()) if all(space.species for space in spaces) else ()
    return HilbertSpace(len(dims), states, tuple(charges.values()), known)


def _row_by_row(table: np.ndarray, dims: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(row[:d]) for row, d in zip(table.tolist(), dims, strict=True))


def _padded(values: Values, dims: Sequence[int]) -> np.ndarray:
    table = np.zeros((len(dims), max(dims)), dtype=np.int64)
    for row, numbers in zip(table, _rows(values), strict=True):
        row[: len(numbers)] = numbers
    return table


def _twice(name: str, value: float) -> int:
    """2 * value as an integer, refusing what is no multiple of 1/2."""
    if not math.isfinite(value) or 2 * value != round(2 * value):
        raise ValueError(f"{name}={value}: it must be a multiple of 1/2.")
    return round(2 * value)
