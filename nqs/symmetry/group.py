r"""Finite symmetry groups of configurations with their one-dimensional irreducible representations (characters).

An element g permutes sites and relabels local states,

    (g n)_s = map_g[n_{perm_g[s]}],

and a state of the symmetry sector obeys psi(g n) = c_g(n) psi(n) with c_g(n) = chi(g) sign_g(n): a character chi, one
complex number of modulus 1 for every element, times the sign of reordering fermions where particles are fermions. For a
translation T_r by r sites and momentum k, chi(T_r) = exp(i k r).

All configurations that the group maps onto each other form an orbit; its lexicographically smallest member represents
it. One amplitude per orbit describes the whole state. An orbit whose stabiliser has elements with sum c_g(n) = 0 is
forbidden: psi = 0 on all of it.

Symmetry sectors in exact diagonalisation: Sandvik, AIP Conf. Proc. 1297, 135 (2010), arXiv:1101.3281, section 4.
"""

# Shapes: B configurations, G group elements, L sites, d local states, O = L x species orbitals.
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace, Species, excluded_pairs
from nqs.runtime.memory import max_chunk_rows
from nqs.symmetry.orbits import EXACT_INTEGERS, smallest_of_orbits

CHECKED_ENTRIES = 2**22  # of the images on which a sector is checked
SIGN_BITS = 62  # orbitals per integer word
PRODUCT_ROWS = 64  # elements whose products are found at once


class Orbits(NamedTuple):
    """One representative of every orbit that is not forbidden, and the number of its members."""

    representatives: UInt8[Tensor, "B L"]
    sizes: Int64[Tensor, " B"]


@dataclass(frozen=True, kw_only=True)
class Symmetry:
    """A group of configuration maps with a one-dimensional character.

    Build one with `space_group`, `translations`, `spin_flip`, ... of nqs.symmetry and multiply them:
    `space_group(lattice, hilbert) @ spin_flip(hilbert)`.

    Attributes:
        permutations: perm_g, G rows of L sites; the identity comes first.
        maps: map_g, G rows of d local states.
        angles: argument of chi(g) in units of 2 pi, G numbers.
        fermions: reordering the occupied orbitals changes the sign; the order of the species of the Hilbert space is
            their Jordan-Wigner order.

    Raises:
        ValueError: no group, or no character of it.
    """

    permutations: tuple[tuple[int, ...], ...]
    maps: tuple[tuple[int, ...], ...]
    angles: tuple[float, ...]
    fermions: bool = False

    def __post_init__(self) -> None:
        perms, maps = self._arrays
        G = len(perms)
        if not (len(maps) == len(self.angles) == G > 0):
            raise ValueError(
                f"a symmetry needs one permutation, one map and one angle for each element; found {G}, {len(maps)} and "
                f"{len(self.angles)}."
            )
        for name, rows in (("permutations", perms), ("maps", maps)):
            wrong = (np.sort(rows, axis=1) != np.arange(rows.shape[1])).any(1)
            if wrong.any():
                raise ValueError(f"{name}: {rows[wrong][0].tolist()} is no permutation of 0 .. {rows.shape[1] - 1}.")
        products, angles = self.products, np.array(self.angles)
        if not angles.any():
            return
        mismatch = angles[:, None] + angles - angles[products]
        if (abs(mismatch - mismatch.round()) > 1e-9).any():
            g, h = np.argwhere(abs(mismatch - mismatch.round()) > 1e-9)[0]
            raise ValueError(
                f"the angles are no character: chi(g) chi(h) differs from chi(gh) for the elements {g} and {h} "
                f"({self.angles[g]:g} + {self.angles[h]:g} is not {self.angles[products[g, h]]:g} modulo 1)."
            )

    @property
    def order(self) -> int:
        """Number of elements, G."""
        return len(self.permutations)

    @property
    def n_sites(self) -> int:
        return len(self.permutations[0])

    @property
    def is_trivial(self) -> bool:
        """psi(g n) = psi(n) for every g and n."""
        return not self.fermions and not any(self.angles)

    @property
    def has_real_characters(self) -> bool:
        """chi(g) is +1 or -1 for every element."""
        return all(angle in (0.0, 0.5) for angle in self.angles)

    def __matmul__(self, other: "Symmetry") -> "Symmetry":
        """The product of two groups, whose characters multiply."""
        if self.n_sites != other.n_sites or len(self.maps[0]) != len(other.maps[0]):
            raise ValueError(
                f"symmetries of {self.n_sites} sites with {len(self.maps[0])} local states and of {other.n_sites} "
                f"sites with {len(other.maps[0])} local states have no product."
            )
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {}
        for (p, m, a), (q, o, b) in itertools.product(self._elements, other._elements):
            composed = tuple(q[s] for s in p), tuple(m[k] for k in o)
            angle = found.setdefault(composed, (a + b) % 1.0)
            if abs(a + b - angle - round(a + b - angle)) > 1e-9:
                raise ValueError(
                    f"the groups share an element (permutation {composed[0]}, map {composed[1]}) to which their "
                    f"characters give different phases, {angle:g} and {(a + b) % 1.0:g} in units of 2 pi."
                )
        perms, maps = zip(*found, strict=True)
        return Symmetry(
            permutations=perms,
            maps=maps,
            angles=tuple(found.values()),
            fermions=self.fermions or other.fermions,
        )

    def real_characters(self) -> tuple["Symmetry", ...]:
        """This group with every character of values +1 and -1, the trivial one first."""
        products = self.products
        exponents = {0: 0}  # element: bit mask of the generators that occur in it an odd number of times
        generators: list[int] = []
        for g in range(self.order):
            if g in exponents:
                continue
            generators.append(g)
            frontier = list(exponents)
            while frontier:
                following = []
                for h, (k, generator) in itertools.product(frontier, enumerate(generators)):
                    product = int(products[h, generator])
                    if product not in exponents:
                        exponents[product] = exponents[h] ^ (1 << k)
                        following.append(product)
                frontier = following
        masks = np.array([exponents[g] for g in range(self.order)])
        characters = []
        for chosen in range(2 ** len(generators)):
            odd = np.array([(mask & chosen).bit_count() % 2 for mask in masks.tolist()])
            if ((odd[:, None] ^ odd) == odd[products]).all():
                characters.append(self.with_angles(odd / 2))
        return tuple(characters)

    def with_angles(self, angles: Sequence[float] | np.ndarray) -> "Symmetry":
        """The same group with another character."""
        return Symmetry(
            permutations=self.permutations,
            maps=self.maps,
            angles=tuple(float(a) for a in angles),
            fermions=self.fermions,
        )

    # ---- configurations --------------------------------------------------------------------------------

    def images(self, n: UInt8[Tensor, "B L"]) -> UInt8[Tensor, "B G L"]:
        """g n for every element."""
        tables = self._tables(n.device)
        mapped = tables.maps[:, n.long()]  # (G, B, L)
        return mapped.gather(2, tables.permutations[:, None].expand(-1, len(n), -1)).transpose(0, 1)

    def image(self, n: UInt8[Tensor, "B L"], element: Int64[Tensor, " B"]) -> UInt8[Tensor, "B L"]:
        """g n, with its own element g for each configuration."""
        tables = self._tables(n.device)
        moved = n.long().gather(1, tables.permutations[element])
        return tables.maps[element].gather(1, moved)

    def phases(
        self, n: UInt8[Tensor, "B L"], element: Int64[Tensor, " B"], hilbert: HilbertSpace
    ) -> Float64[Tensor, " B"]:
        """arg c_g(n) in radians, with its own element g for each configuration."""
        tables = self._tables(n.device)
        angle = math.tau * tables.angles[element]
        if not self.fermions:
            return angle
        signs = self._signs(hilbert, n.device)
        rows = max_chunk_rows(64 * self.n_sites * len(signs.occupation), n.device)
        parts = [signs.odd(x, g) for x, g in zip(n.split(rows), element.split(rows), strict=True)]
        return angle + math.pi * torch.cat(parts).double() if parts else angle

    def one_for_each_map(self) -> Int64[Tensor, " M"]:
        """Elements that lead to every member of an orbit together with `site_permutations`."""
        first: dict[tuple[int, ...], int] = {}
        for element, relabelling in enumerate(self.maps):
            first.setdefault(relabelling, element)
        return torch.tensor(list(first.values()))

    def site_permutations(self) -> Int64[Tensor, "K L"]:
        """Permutations of the elements that leave local states as they are, a subgroup."""
        perms, maps = self._arrays
        return torch.from_numpy(perms[(maps == np.arange(maps.shape[1])).all(1)])

    def canonical(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """The element that takes each configuration to the representative of its orbit."""
        rows = max_chunk_rows(32 * self.order, n.device)
        return torch.cat([self._canonical(part) for part in n.split(rows)]) if len(n) > rows else self._canonical(n)

    def _canonical(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        words = self._keys(n)  # (B, G) each
        best = words[0] == words[0].amin(1, keepdim=True)
        for word in words[1:]:
            candidates = torch.where(best, word, math.inf)
            best = candidates == candidates.amin(1, keepdim=True)
        return best.long().argmax(1)

    def forbidden(self, n: UInt8[Tensor, "B L"], hilbert: HilbertSpace) -> Bool[Tensor, " B"]:
        """Whether psi vanishes on the orbits of n by symmetry."""
        if self.is_trivial:
            return torch.zeros(len(n), dtype=torch.bool, device=n.device)
        row, element = self._stabilisers(n).nonzero().T
        phases = self.phases(n[row], element, hilbert)
        total = torch.zeros(len(n), dtype=torch.complex128, device=n.device)
        total.index_add_(0, row, torch.polar(torch.ones_like(phases), phases))
        return total.abs() < 0.5  # a sum of characters over a group: 0 or its order

    def orbit_sizes(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """Number of configurations in the orbit of each n."""
        parts = n.split(max_chunk_rows(32 * self.order, n.device))
        return self.order // torch.cat([self._stabilisers(part).sum(1) for part in parts])

    def orbits(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> Orbits:
        """All orbits of a sector of charges in lexicographic order of their representatives, cached for each device.

        Raises:
            ValueError: an element leaves the sector.
        """
        key = hilbert, hilbert.species, torch.device(device)  # equal spaces may differ in species
        if key not in self._orbits:
            self.check(hilbert)
            n, sizes = _all_orbits(self.permutations, self.maps, hilbert, torch.device(device))
            allowed = ~self.forbidden(n, hilbert)
            self._orbits[key] = Orbits(n[allowed], sizes[allowed])
        return self._orbits[key]

    def number_of_orbits(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> int:
        """Orbits of a sector of charges that the character does not forbid.

        Args:
            device: on which they are listed, if they are not cached.
        """
        wanted = hilbert, hilbert.species
        found = next((orbits for key, orbits in self._orbits.items() if key[:2] == wanted), None)
        return len((found or self.orbits(hilbert, device)).sizes)

    def check(self, hilbert: HilbertSpace) -> None:
        """Refuse a Hilbert space that this group does not map onto itself.

        Raises:
            ValueError: other sizes, or an element that leaves the sector.
        """
        d = len(self.maps[0])
        if (hilbert.n_sites, hilbert.local_dim) != (self.n_sites, d):
            raise ValueError(
                f"the symmetry acts on {self.n_sites} sites with {d} local states; the Hilbert space has "
                f"{hilbert.n_sites} sites x {hilbert.local_dim} local states."
            )
        if hilbert in self._checked:
            return
        rows = max(8, min(64, CHECKED_ENTRIES // (self.order * self.n_sites)))
        some = hilbert.random(rows, torch.Generator().manual_seed(0))
        outside = ~hilbert.contains(self.images(some).reshape(-1, self.n_sites)).view(rows, self.order).all(0)
        outside |= ~self.keeps_sites(hilbert)
        if outside.any():
            g = int(outside.nonzero()[0, 0])
            raise ValueError(
                f"element {g} of the symmetry (map {self.maps[g]}) leaves the sector {hilbert}: use a group without "
                "it, or a sector that it keeps."
            )
        self._checked.add(hilbert)

    def keeps_sites(self, hilbert: HilbertSpace) -> Bool[Tensor, " G"]:
        """Which elements keep the local states of every site and the constraints between sites.

        Exact: random configurations may not show a rare local state, or one pair of many.
        """
        (permutations, maps), sizes = self._arrays, np.array(hilbert.local_dims)
        kept = (sizes[permutations] == sizes).all(1)  # (g n)_s comes from site permutation[s]
        for size in set(hilbert.local_dims):
            kept &= (maps[:, :size] < size).all(1)
        relations = excluded_pairs(hilbert.exclusions, hilbert.local_dim)
        if not relations:
            return torch.from_numpy(kept)
        (i, j), excluded = np.array(list(relations)).T, np.stack(list(relations.values()))  # (P,), (P, d, d)
        index = np.full((self.n_sites, self.n_sites), -1)
        index[i, j] = index[j, i] = np.arange(len(i))
        for g in kept.nonzero()[0]:
            goes_to, states = np.argsort(permutations[g]), maps[g]
            image = index[goes_to[i], goes_to[j]]
            same_order = (goes_to[i] < goes_to[j])[:, None, None]
            there = np.where(same_order, excluded[image], excluded[image].transpose(0, 2, 1))
            kept[g] = (image >= 0).all() and (there[:, states[:, None], states] == excluded).all()
        return torch.from_numpy(kept)

    # ---- tables, cached for each device ----------------------------------------------------------------

    @property
    def _elements(self) -> list[tuple[tuple[int, ...], tuple[int, ...], float]]:
        return list(zip(self.permutations, self.maps, self.angles, strict=True))

    @cached_property
    def _arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return np.array(self.permutations), np.array(self.maps)

    @property
    def products(self) -> np.ndarray:
        """(G, G): index of the element g h, which applies h first and then g."""
        return _products_of(self.permutations, self.maps)

    @cached_property
    def _checked(self) -> set[HilbertSpace]:
        return set()

    @cached_property
    def _table_cache(self) -> dict[torch.device, "_Tables"]:
        return {}

    @cached_property
    def _orbits(self) -> dict[tuple[HilbertSpace, tuple[Species, ...], torch.device], Orbits]:
        return {}

    def _tables(self, device: torch.device) -> "_Tables":
        if device not in self._table_cache:
            perms, maps = self._arrays
            G, L, d = len(perms), perms.shape[1], maps.shape[1]
            per_word = max(1, int(math.log(EXACT_INTEGERS) / math.log(max(d, 2))))
            words = []
            for start in range(0, L, per_word):
                stop = min(start + per_word, L)
                keys = np.zeros((L, d, G))
                for place, s in enumerate(reversed(range(start, stop))):
                    # Image site s has the local state of site perm_g[s].
                    keys[perms[:, s], :, np.arange(G)] += maps * float(d**place)
                words.append(torch.from_numpy(keys.reshape(L * d, G)).to(device))
            self._table_cache[device] = _Tables(
                torch.from_numpy(perms).to(device),
                torch.from_numpy(maps.astype(np.uint8)).to(device),
                torch.tensor(self.angles, dtype=torch.float64, device=device),
                tuple(words),
            )
        return self._table_cache[device]

    def _keys(self, n: UInt8[Tensor, "B L"]) -> list[Float64[Tensor, "B G"]]:
        """Lexicographic key of g n as exact integers, in words, the most significant first."""
        d = len(self.maps[0])
        one_hot = (n[:, :, None] == torch.arange(d, device=n.device)).flatten(1).double()  # (B, L d)
        return [one_hot @ word for word in self._tables(n.device).words]

    def _stabilisers(self, n: UInt8[Tensor, "B L"]) -> Bool[Tensor, "B G"]:
        """Which elements leave each configuration as it is."""
        words = self._keys(n)
        return torch.stack([word == word[:, :1] for word in words]).all(0)

    @cached_property
    def _sign_cache(self) -> dict[tuple[tuple[Species, ...], torch.device], "_Signs"]:
        return {}

    def _signs(self, hilbert: HilbertSpace, device: torch.device) -> "_Signs":
        key = hilbert.species, device
        if key not in self._sign_cache:
            inverted, species = self._inversions(hilbert)
            words = []
            for part in inverted.to(device).long().split(SIGN_BITS, dim=2):
                words.append((part << torch.arange(part.shape[2], device=device)).sum(2).T.contiguous())
            self._sign_cache[key] = _Signs(tuple(words), tuple(torch.tensor(v, device=device) for v in species))
        return self._sign_cache[key]

    def _inversions(self, hilbert: HilbertSpace) -> tuple[Bool[Tensor, "G O O"], list[tuple[int, ...]]]:
        """Pairs of orbitals o < o' whose order each element inverts; occupation by local state of each species."""
        tables = [hilbert.table(fermions.occupation) for fermions in hilbert.of_kind("fermion")]
        species = [tuple(table[0].tolist()) for table in tables]
        if not species or any((table != table[0]).any() for table in tables):
            raise ValueError(
                "fermionic signs need fermions among the species (fermions, spinful_fermions), the same on all "
                f"sites; the space is {hilbert}."
            )
        perms, maps = self._arrays
        L = self.n_sites
        destination = np.empty((self.order, len(species) * L), dtype=int)
        sites = np.argsort(perms, axis=1)  # g moves the particle on site t to site sites[g, t]
        for k, values in enumerate(species):
            alone = next((n for n in range(len(values)) if values[n] and sum(v[n] for v in species) == 1), None)
            for g, m in enumerate(maps):
                into = [j for j, v in enumerate(species) if alone is not None and v[m[alone]]]
                if alone is None or len(into) != 1 or any(v[m[0]] for v in species):
                    raise ValueError(
                        f"the map {tuple(m.tolist())} does not move fermions to fermions: exchange species, but keep "
                        "particle numbers; a particle-hole map needs fermions=False and a sign-free basis."
                    )
                destination[g, k * L : (k + 1) * L] = into[0] * L + sites[g]
        inverted = destination[:, :, None] > destination[:, None, :]
        return torch.from_numpy(np.triu(inverted, 1)), species

    def trained(self, numbers: tuple[int, ...] | None) -> "Symmetry":
        """The subgroup of the elements with these numbers, over which steps average; None: the whole group.

        Raises:
            ValueError: no such elements, or no subgroup.
        """
        if numbers is None:
            return self
        if not numbers or any(not 0 <= g < self.order for g in numbers):
            raise ValueError(f"trained={numbers}: give numbers of elements, 0 .. {self.order - 1}, or None for all.")
        return self.subgroup([g in set(numbers) for g in range(self.order)])

    def subgroup(self, kept: Sequence[bool] | np.ndarray) -> "Symmetry":
        """The elements for which `kept` is true, which must form a group."""
        elements = [element for element, keep in zip(self._elements, kept, strict=True) if keep]
        perms, maps, angles = zip(*elements, strict=True)
        return Symmetry(permutations=perms, maps=maps, angles=angles, fermions=self.fermions)


@lru_cache(maxsize=16)
def _products_of(permutations: tuple[tuple[int, ...], ...], maps: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Product table of a group, the same for all of its characters."""
    perms, relabelled = np.array(permutations), np.array(maps)
    different = len(np.unique(np.hstack([perms, relabelled]), axis=0))
    if different < len(perms):
        raise ValueError(f"the symmetry lists {len(perms)} elements, but only {different} are different.")
    if (perms[0] != np.arange(perms.shape[1])).any() or (relabelled[0] != np.arange(relabelled.shape[1])).any():
        raise ValueError("the first element of a symmetry must be the identity.")
    # Elements are identified by a sum of images with random integer weights: one matrix product for all pairs.
    (G, L), d = perms.shape, relabelled.shape[1]
    weights = np.random.default_rng(0).integers(1, EXACT_INTEGERS // (L * L + d * d), L + d).astype(float)
    of_sites, of_states = weights[:L], weights[L:]
    rows = perms.astype(float)
    key = rows @ of_sites + relabelled @ of_states
    order = np.argsort(key)
    moved = np.empty((G, L))
    np.put_along_axis(moved, perms, np.broadcast_to(of_sites, (G, L)), axis=1)  # moved[g, perm_g[s]] = weight of s
    products = np.empty((G, G), dtype=np.int64)
    for part in np.array_split(np.arange(G), -(-G // PRODUCT_ROWS)):
        # (g h n)_s = map_g[map_h[n_{perm_h[perm_g[s]]}]]
        product = moved[part] @ rows.T + relabelled[part][:, relabelled] @ of_states
        place = np.searchsorted(key, product, sorter=order).clip(max=G - 1)
        products[part] = order[place]
        if (key[products[part]] != product).any():
            raise ValueError(
                "the elements form no group: the product of two of them is not among them. Add the missing products."
            )
    return products


@lru_cache(maxsize=8)
def _all_orbits(
    permutations: tuple[tuple[int, ...], ...],
    maps: tuple[tuple[int, ...], ...],
    hilbert: HilbertSpace,
    device: torch.device,
) -> Orbits:
    """All orbits of a sector of charges, including those that a character forbids."""
    return Orbits(*smallest_of_orbits(np.array(permutations), np.array(maps), hilbert, device))


class _Tables(NamedTuple):
    permutations: Int64[Tensor, "G L"]
    maps: UInt8[Tensor, "G d"]
    angles: Float64[Tensor, " G"]
    words: tuple[Float64[Tensor, "Ld G"], ...]


class _Signs(NamedTuple):
    """Tables for the signs of reordering fermions.

    Attributes:
        inverted: for every orbital and element a bit mask of the later orbitals that change places with it, in words.
        occupation: number of fermions in each local state, for every species.
    """

    inverted: tuple[Int64[Tensor, "O G"], ...]
    occupation: tuple[Int64[Tensor, " d"], ...]

    def odd(self, n: UInt8[Tensor, "B L"], element: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
        """1 where an odd number of occupied pairs change places."""
        occupied = torch.cat([table[n.long()] for table in self.occupation], dim=1)  # (B, O)
        odd = torch.zeros_like(element)
        for words, part in zip(self.inverted, occupied.split(SIGN_BITS, dim=1), strict=True):
            word = (part << torch.arange(part.shape[1], device=n.device)).sum(1)
            for inverted, here in zip(words, occupied.T, strict=True):
                odd ^= inverted[element] & word & -here
        for shift in (32, 16, 8, 4, 2, 1):
            odd ^= odd >> shift
        return odd & 1
