"""Moves of Markov chains that stay in the sector, with the ratio of proposal probabilities of Metropolis-Hastings.

Each kind of move proposes one new configuration n' for every walker n,

    accepted with probability min(1, |psi(n')|^2 q(n | n') / (|psi(n)|^2 q(n' | n))).

Hastings, Biometrika 57, 97 (1970). Random choices that do not depend on n, such as the pairs of sites among which one
is chosen, are the same for all walkers of a step.
"""

# Shapes: B walkers, L sites, d local states, M groups of k sites, T targets.
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.protocols import Hamiltonian
from nqs.samples import distinct

MAX_GROUPS = 256  # groups of sites that one step chooses from
MAX_CODES = 2**16  # combined local states of a group


class Proposed(NamedTuple):
    """One proposed configuration for each walker; n itself where there is none."""

    configurations: UInt8[Tensor, "B L"]
    log_ratio: Float64[Tensor, " B"]  # log q(n | n') - log q(n' | n)


class Moves(Protocol):
    """A frozen dataclass of plain data; archives store it."""

    def build(self, hilbert: HilbertSpace, device: torch.device) -> "Proposer":
        """Raises ValueError: the moves do not fit the space."""


class Proposer(Protocol):
    """Moves of one space on one device.

    Optional attributes: `capturable`, True if a call can be captured as a CUDA graph, as in
    `nqs.wavefunction.Wavefunction`; `walkers_independent`, True if a proposal depends on its own walker and on random
    numbers alone, of which a call draws as many whatever the configurations are: several ranks then move their own
    walkers.
    """

    def __call__(self, n: UInt8[Tensor, "B L"], generator: torch.Generator) -> Proposed: ...


# --------------------------------------------------------------------------------------------- a few sites


@dataclass(frozen=True, kw_only=True)
class LocalMoves:
    """New local states of a few sites with the same conserved charges, all possible changes equally likely.

    On each site every charge changes at most to its next value. On pairs of sites these are exchanges of spins, hops of
    one particle, and of electrons hops of either spin and exchanges of both, double occupation included; on single
    sites changes that conserve every charge, such as flips of free spins.

    Args:
        sites: number of sites that change together, in all combinations; or the groups of sites themselves, such as
            lattice.bonds().tolist(); kept as tuples.
    """

    sites: int | Sequence[Sequence[int]] = 2

    def __post_init__(self) -> None:
        if isinstance(self.sites, (int, float)):
            if self.sites < 1:
                raise ValueError(f"sites={self.sites}: at least 1 site changes in a move.")
            object.__setattr__(self, "sites", int(self.sites))
            return
        groups = tuple(tuple(int(site) for site in group) for group in self.sites)
        sizes = {len(group) for group in groups} | {len(set(group)) for group in groups}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"sites={groups}: give groups of equally many different sites, such as lattice bonds.")
        object.__setattr__(self, "sites", groups)

    def build(self, hilbert: HilbertSpace, device: torch.device) -> "LocalProposer":
        return LocalProposer(self, hilbert, device)


class LocalProposer:
    """Local moves of one space."""

    capturable = True
    walkers_independent = True

    def __init__(self, config: LocalMoves, hilbert: HilbertSpace, device: torch.device) -> None:
        L, d = hilbert.n_sites, hilbert.local_dim
        if isinstance(config.sites, int):
            k = min(config.sites, L)
            groups = list(itertools.combinations(range(L), k))
        else:
            groups, k = [tuple(group) for group in config.sites], len(config.sites[0])
            outside = [group for group in groups if not 0 <= min(group) <= max(group) < L]
            if outside:
                raise ValueError(f"moves name the sites {outside[0]} of {L}: sites are 0 to {L - 1}.")
        if d**k > MAX_CODES:
            raise ValueError(
                f"moves of {k} sites with {d} local states have {d**k:,} combined states; at most {MAX_CODES:,} are "
                "supported: change fewer sites together."
            )
        tables: dict[object, int] = {}
        kinds, lists = [], []
        for group in groups:
            kind = _signature(hilbert, group)
            if kind not in tables:
                tables[kind] = len(tables)
                lists.append(_targets(hilbert, group))
            kinds.append(tables[kind])
        longest = max(1, max(len(targets) for table in lists for targets in table))
        table = np.zeros((len(lists), d**k, longest), dtype=np.int64)
        number = np.zeros((len(lists), d**k), dtype=np.int64)
        for row, found in enumerate(lists):
            for code, targets in enumerate(found):
                table[row, code, : len(targets)] = targets
                number[row, code] = len(targets)
        self.hilbert, self.table = hilbert, torch.from_numpy(table).to(device)
        self.number, self.kinds = torch.from_numpy(number).to(device), torch.tensor(kinds, device=device)
        self.groups = torch.tensor(groups, device=device)  # (M, k)
        states = np.indices((d,) * k, dtype=np.uint8).reshape(k, -1).T  # of every combined state, (d^k, k)
        self.states = torch.from_numpy(states.copy()).to(device)

    @property
    def is_empty(self) -> bool:
        """No configuration has a move."""
        return not bool(self.number.any())

    def __call__(self, n: UInt8[Tensor, "B L"], generator: torch.Generator) -> Proposed:
        groups, kinds = self.groups, self.kinds
        if len(groups) > MAX_GROUPS:
            chosen = torch.randperm(len(groups), generator=generator, device=n.device)[:MAX_GROUPS]
            groups, kinds = groups[chosen], kinds[chosen]
        codes = self._codes(n, groups)  # (B, M)
        number = self.number[kinds, codes]
        ends = number.cumsum(1)
        total = ends[:, -1:]  # (B, 1)
        pick = torch.rand((len(n), 1), dtype=torch.float64, generator=generator, device=n.device)
        pick = (pick * total).long().minimum(total - 1).clamp(min=0)
        group = torch.searchsorted(ends, pick, right=True).clamp(max=len(groups) - 1)  # (B, 1)
        place = pick - (ends - number).gather(1, group)  # 0 where there is no move
        code = self.table[kinds[group], codes.gather(1, group), place]  # (B, 1)
        moved = n.scatter(1, groups[group[:, 0]], self.states[code[:, 0]])
        possible = total[:, 0] > 0
        if self.hilbert.exclusions:
            possible &= self.hilbert.contains(moved)
        moved = torch.where(possible[:, None], moved, n)
        back = self.number[kinds, self._codes(moved, groups)].sum(1)
        there, back = torch.stack((total[:, 0], back)).clamp(min=1).double().log()
        return Proposed(moved, there - back)

    def _codes(self, n: UInt8[Tensor, "B L"], groups: Tensor) -> Tensor:
        """Combined local state of every group, (B, M)."""
        states = n.long()
        first, *others = groups.unbind(1)
        codes = states[:, first]
        for column in others:
            codes.mul_(self.hilbert.local_dim).add_(states[:, column])
        return codes


def _signature(hilbert: HilbertSpace, group: tuple[int, ...]) -> object:
    """Equal for groups of sites with the same local states and charges."""
    charges = tuple(tuple(map(tuple, hilbert.table(c.values)[list(group)].tolist())) for c in hilbert.charges)
    return tuple(hilbert.local_dims[site] for site in group), charges


def _targets(hilbert: HilbertSpace, group: tuple[int, ...]) -> list[list[int]]:
    """For every combined local state of the group the combined states that it can change to."""
    d, k, dims = hilbert.local_dim, len(group), [hilbert.local_dims[site] for site in group]
    states = np.indices((d,) * k).reshape(k, -1).T  # (d^k, k)
    exist = (states < np.array(dims)).all(1)
    conserved, levels = [np.zeros(len(states), dtype=np.int64)], []
    for charge in hilbert.charges:
        values = hilbert.table(charge.values)[list(group)]  # (k, d)
        if charge.target is not None:
            total = values[np.arange(k), states].sum(1)
            conserved.append(total if charge.modulus is None else total % charge.modulus)
        # Position of the charge among its values on that site.
        order = np.stack([np.searchsorted(np.unique(row[:dim]), row) for row, dim in zip(values, dims, strict=True)])
        levels.append(order[np.arange(k), states])  # (d^k, k)
    classes = np.unique(np.stack(conserved, 1), axis=0, return_inverse=True)[1].reshape(-1)
    found: list[list[int]] = [[] for _ in states]
    for number in np.unique(classes[exist]):
        members = np.flatnonzero((classes == number) & exist)
        near = ~np.eye(len(members), dtype=bool)
        for level in levels:
            near &= (np.abs(level[members][:, None] - level[members]) <= 1).all(2)
        for code, row in zip(members, near, strict=True):
            found[code] = members[row].tolist()
    return found


# ------------------------------------------------------------------------------------------- the last sites


@dataclass(frozen=True, kw_only=True)
class Redraw:
    """The last sites drawn anew, uniformly among all completions in the sector; their number is random.

    Every configuration of the sector can follow every other one, whatever its charges and exclusions.
    """

    def build(self, hilbert: HilbertSpace, device: torch.device) -> "RedrawProposer":
        return RedrawProposer(hilbert)


class RedrawProposer:
    """Random completions of one space."""

    walkers_independent = True

    def __init__(self, hilbert: HilbertSpace) -> None:
        self.hilbert = hilbert

    def __call__(self, n: UInt8[Tensor, "B L"], generator: torch.Generator) -> Proposed:
        L, tables = self.hilbert.n_sites, self.hilbert.tables(n.device)
        # Short ends are accepted more often: P(length) is proportional to 1 / length.
        u = torch.rand((), dtype=torch.float64, generator=generator, device=n.device).item()
        start = L - min(L, math.floor(math.exp(u * math.log(L + 1))))
        remainder = self.hilbert.remainders(n)[:, start]
        moved = n.clone()
        for site in range(start, L):
            p = tables.log_uniform[site, remainder].exp()
            token = torch.multinomial(p, 1, generator=generator)[:, 0]
            moved[:, site] = token
            remainder = tables.after(site, remainder, token)
        return Proposed(moved, torch.zeros(len(n), dtype=torch.float64, device=n.device))


# ------------------------------------------------------------------------------------------ the Hamiltonian


@dataclass(frozen=True)
class ConnectedMoves:
    """A random one of the configurations that a Hamiltonian connects with n; it reaches what the Hamiltonian reaches.

    Args:
        hamiltonian: on the sector of the wavefunction.
    """

    hamiltonian: Hamiltonian

    def build(self, hilbert: HilbertSpace, device: torch.device) -> "ConnectedProposer":
        if self.hamiltonian.hilbert != hilbert:
            raise ValueError(
                f"the moves are those of a Hamiltonian on {self.hamiltonian.hilbert}, the wavefunction lives on "
                f"{hilbert}: give the Hamiltonian of the same sector."
            )
        return ConnectedProposer(self.hamiltonian)


class ConnectedProposer:
    """Moves along the connected configurations of one Hamiltonian."""

    walkers_independent = True

    def __init__(self, hamiltonian: Hamiltonian) -> None:
        self.hamiltonian = hamiltonian

    def __call__(self, n: UInt8[Tensor, "B L"], generator: torch.Generator) -> Proposed:
        found, first, number = self._connected(n)
        pick = torch.rand(len(n), dtype=torch.float64, generator=generator, device=n.device)
        pick = (pick * number).long().minimum(number - 1).clamp(min=0)
        moved, possible = n.clone(), number > 0
        moved[possible] = found[(first + pick)[possible]]
        back = self._connected(moved)[2]
        return Proposed(moved, number.clamp(min=1).double().log() - back.clamp(min=1).double().log())

    def _connected(self, n: UInt8[Tensor, "B L"]) -> tuple[Tensor, Tensor, Tensor]:
        """Different connected configurations, (K, L), in the order of n; where those of each n begin; their number."""
        configurations, _, parents = self.hamiltonian.connected(n)
        if not len(parents):
            nothing = torch.zeros(len(n), dtype=torch.int64, device=n.device)
            return configurations, nothing, nothing
        _, classes = distinct(self.hamiltonian.hilbert, configurations)
        size = len(classes)
        pairs, inverse = torch.unique(parents * size + classes, return_inverse=True)
        rows = torch.full_like(pairs, size).scatter_reduce_(0, inverse, torch.arange(size, device=n.device), "amin")
        number = torch.bincount(pairs.div(size, rounding_mode="floor"), minlength=len(n))
        return configurations[rows], number.cumsum(0) - number, number


# -------------------------------------------------------------------------------------------------- default


def may_be_disconnected(hilbert: HilbertSpace) -> bool:
    """Whether changes of two sites may not connect the sector: exclusions, charges that differ from site to site, or
    more than two conserved charges."""
    return bool(hilbert.exclusions) or hilbert.sites_differ or n_conserved(hilbert) > 2


def n_conserved(hilbert: HilbertSpace) -> int:
    return sum(charge.target is not None for charge in hilbert.charges)


def is_hard(hilbert: HilbertSpace) -> bool:
    """Whether changes of two sites may not connect the sector, or need many steps: more than four local states."""
    return may_be_disconnected(hilbert) or hilbert.local_dim > 4


def local_moves(hilbert: HilbertSpace) -> list[Moves]:
    """Changes of single sites where they can change alone, and of pairs where something is conserved."""
    sizes = [1, 2] if n_conserved(hilbert) else [1]
    local = [LocalMoves(sites=size) for size in sizes if size <= hilbert.n_sites]
    return [one for one in local if not one.build(hilbert, torch.device("cpu")).is_empty]


def default_moves(hilbert: HilbertSpace) -> tuple[Moves, ...]:
    """Single sites where they can change alone, pairs where something is conserved, and `Redraw` where `is_hard`."""
    moves = local_moves(hilbert)
    if not moves or is_hard(hilbert):
        moves.append(Redraw())
    return tuple(moves)


def near_moves(hilbert: HilbertSpace, bonds: Sequence[Sequence[int]]) -> tuple[Moves, ...]:
    """Changes of neighbouring sites, which are accepted more often, in turn with local changes of any sites.

    The moves of `default_moves` where nothing is conserved, or where changes of two sites may not connect the sector.
    """
    local = local_moves(hilbert)
    if not n_conserved(hilbert) or may_be_disconnected(hilbert) or not local or not len(bonds):
        return default_moves(hilbert)
    return (LocalMoves(sites=bonds), *local)
