"""A sector of the Hilbert space: its configurations, counted, ranked and drawn.

A configuration is a row of local-state indices, one per site (or orbital). Every conserved charge is additive over
sites, Q(n) = sum_s values[s, n_s], and the sector fixes Q to a target, exactly or modulo an integer (a parity). The
local states, and the charge that each carries, may differ from site to site. Pairs of sites may exclude some of each
other's local states.
"""

# Shapes: B configurations, L sites, d local states, R remainders, W words.
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from nqs.hilbert.charges import Charge, Kind, Species, Values, depends_on_site, rows_of
from nqs.hilbert.completions import Completions, SectorTables, Walk, count_text
from nqs.hilbert.exclusions import Exclusion
from nqs.hilbert.frontier import MAX_TABLE, Frontier
from nqs.hilbert.integers import as_integers
from nqs.hilbert.remainders import Remainders

MAX_LOCAL_STATES = 256  # configurations are stored as uint8


@dataclass(frozen=True)
class HilbertSpace:
    """A sector of the product of n_sites local spaces.

    Args:
        n_sites: number of sites or orbitals, L.
        local_states: name of every local state, d of them; a configuration holds indices into this tuple. Where sites
            differ (mixed spins, a spin beside bosons, cutoffs by site), a tuple of names for each site; d is then the
            largest number of them.
        charges: the additive quantum numbers, with the targets that define the sector.
        species: the kinds of particles; () if only the charges are known. Their order is the Jordan-Wigner order: all
            orbitals of the first species of fermions, in the order of the sites, come before those of the second. Two
            spaces with the same configurations are equal whatever their species.
        exclusions: constraints between pairs of sites, such as a Rydberg blockade.

    Raises:
        ValueError: sizes out of range, charges of the wrong length, a sector without any configuration, or constraints
            between sites that are too far apart for a table of what every prefix excludes.
    """

    n_sites: int
    local_states: tuple[str, ...] | tuple[tuple[str, ...], ...]
    charges: tuple[Charge, ...] = ()
    species: tuple[Species, ...] = field(default=(), compare=False)
    exclusions: tuple[Exclusion, ...] = field(default=(), metadata={"stored_if_default": False})

    def __post_init__(self) -> None:
        check_sites(self.n_sites)
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
        for exclusion in self.exclusions:
            exclusion.check(self.local_dims)
        if self.dimension == 0:
            raise ValueError(self._why_empty())

    def _check_values(self, what: str, values: Values) -> None:
        if not depends_on_site(values):
            if len(values) != self.local_dim:
                raise ValueError(
                    f"{what} has {len(values)} values for {self.local_dim} local states: give one integer per local "
                    "state."
                )
        elif len(values) != self.n_sites or any(len(row) not in (d, self.local_dim) for row, d in self._zipped(values)):
            raise ValueError(
                f"{what} has {len(values)} rows of {sorted({len(row) for row in rows_of(values)})} values: give one "
                f"integer per local state, in a row for each of the {self.n_sites} sites."
            )

    def _zipped(self, values: Values) -> list[tuple[tuple[int, ...], int]]:
        return list(zip(rows_of(values), self.local_dims, strict=False))

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

        Entries of local states that a site does not have are meaningless.
        """
        if not depends_on_site(values):
            return np.broadcast_to(np.array(values, dtype=np.int64), (self.n_sites, self.local_dim))
        table = np.zeros((self.n_sites, self.local_dim), dtype=np.int64)
        for row, (numbers, d) in zip(table, self._zipped(values), strict=True):
            row[:d] = numbers[:d]
        return table

    def of_kind(self, kind: Kind) -> tuple[Species, ...]:
        """The species of one kind, in their order."""
        return tuple(species for species in self.species if species.kind == kind)

    def number_of(self, species: Species) -> int | None:
        """Number of particles of a species, if the sector fixes it; None if it is free."""
        numbers = (c.target for c in self.charges if c.modulus is None and c.values == species.occupation)
        return next((number for number in numbers if number is not None), None)

    # --- remainders (see nqs.hilbert.remainders and nqs.hilbert.frontier) ---------------------------------------

    @cached_property
    def sites_differ(self) -> bool:
        """The local states, or the conserved charge that they carry, differ from site to site."""
        return self.states_differ or any(
            depends_on_site(charge.values) for charge in self.charges if charge.target is not None
        )

    @cached_property
    def _walk(self) -> Walk:
        conserved = [(self.table(c.values), c.target, c.modulus) for c in self.charges if c.target is not None]
        walk = Remainders(conserved, self.local_dims, sites_differ=self.sites_differ)
        by_site = self.n_sites * walk.number * self.local_dim > MAX_TABLE and self.sites_differ
        if not self.exclusions and not by_site:
            return walk
        return Frontier(Remainders(conserved, self.local_dims, sites_differ=True), self.exclusions)

    @cached_property
    def _completions(self) -> Completions:
        return Completions(self._walk)

    @cached_property
    def dimension(self) -> int:
        """Exact number of configurations in the sector."""
        return self._completions.dimension

    @property
    def n_remainders(self) -> int:
        """R: the number of different remainders, missing charges and excluded local states, that a prefix can leave."""
        return self._walk.number

    @cached_property
    def start(self) -> int:
        """Remainder before the first site: the whole target."""
        return self._walk.start

    @cached_property
    def last_is_determined(self) -> bool:
        """The local states of the other sites leave one choice at the last: its log probability is 0."""
        return not self.tables("cpu").log_uniform[-1].amax(1).any()

    def tables(self, device: torch.device | str) -> SectorTables:
        """The transitions and uniform conditionals that models and samplers walk through, cached per device.

        A local state that cannot lead into the sector has log probability -inf. Rows that no prefix inside the
        sector reaches are zero, so that a configuration outside it ends with -inf and never with nan.
        """
        return self._completions.tables(torch.device(device))

    def remainders(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, "B L"]:
        """Remainder before every site of the configurations n; the sink once a prefix has overshot."""
        return self._walk.before(n)

    # --- configurations ---------------------------------------------------------------------------------------

    def contains(self, n: UInt8[Tensor, "B L"]) -> Bool[Tensor, " B"]:
        """Which of the configurations lie in the sector."""
        return self._walk.contains(n)

    def rank(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """Lexicographic position of configurations that lie in the sector, 0 .. dimension - 1.

        Raises:
            ValueError: the dimension does not fit into 64-bit integers.
        """
        below = torch.from_numpy(self._completions.below).to(n.device)  # (L, R + 1, d)
        sites = torch.arange(self.n_sites, device=n.device)
        return below[sites, self.remainders(n), n.long()].sum(1)

    def unrank(self, index: Int64[Tensor, " B"]) -> UInt8[Tensor, "B L"]:
        """Configurations at the given lexicographic positions; the inverse of `rank`."""
        below = torch.from_numpy(self._completions.below).to(index.device)
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
        chunks = n.split(sites_per_word, dim=1)
        return torch.stack([as_integers(chunk, self.local_dim) for chunk in chunks], dim=1)

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
        sector += "".join(f", {e.name} of {_number_of(len(e.pairs), 'pair')}" for e in self.exclusions)
        fewest = min(self.local_dims)
        states = f"{self.local_dim}" if fewest == self.local_dim else f"{fewest} to {self.local_dim}"
        return f"{self.n_sites} sites x {states} local states, {sector}, dimension {count_text(self.dimension)}"

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
        if self.exclusions:
            names = ", ".join(exclusion.name for exclusion in self.exclusions)
            return (
                f"no configuration of {self.n_sites} sites {f'with {wanted} ' if wanted else ''}obeys the constraints "
                f"between sites ({names}); change one of them."
            )
        return (
            f"no configuration of {self.n_sites} sites has {wanted} at the same time, although each value is "
            "possible alone; change one of them."
        )


def _number_of(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def check_sites(n_sites: int) -> None:
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
