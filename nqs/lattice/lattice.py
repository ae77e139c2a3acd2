"""Lattices: sites, bonds of every order, boundary phases and symmetries.

Sites        Unit cells in row-major order (last direction fastest), the sites of one cell next to each other:
             the numbering of nk.graph.Grid, Triangular, Honeycomb and Kagome in NetKet.
Lengths      Nearest neighbours of every built-in lattice are at distance 1 (NetKet: primitive vectors are).
Bonds        bonds(k) are the pairs of sites at the k-th smallest distance, each pair ONCE, however many
             equally short paths join it on the torus: a periodic ring of two sites has one bond, of one none.
Orientation  A bond (i, j) steps from i in the positive direction: a ring ends with the bond (L-1, 0).
Boundary     One word per direction. The bond that leaves i by the far edge has winding +1; a hopping reads
             -t sum_(i,j) s_ij exp(i phi_ij) a_j^+ a_i + h.c., s = signs(), phi = twist_phases(angles).
Symmetries   A permutation g is a row with g[i] the image of site i.

Letters: L sites, D directions, B sites per unit cell, K bonds, G group elements.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from nqs.lattice.checks import (
    FloatArray,
    IntArray,
    boundary_words,
    checked_edges,
    distinct_rows,
    nested_tuples,
    positive_integer,
)
from nqs.runtime.memory import require_memory

TABLE_COPIES = 4  # of a table of all pairs of sites, while it is made
TOLERANCE = 1e-6  # relative, of squared lengths and fractional coordinates; real shells lie further apart


class _Shells(NamedTuple):
    """Shortest steps between any two sites (all of them where several are equally short) by length."""

    table: IntArray  # shell of a pair, flat over (B, B, cell differences); see Lattice.distances
    lengths: FloatArray  # (shells,), lengths[0] = 0
    start: IntArray  # (M,) site of the cell a step leaves
    end: IntArray  # (M,) site of the cell it reaches
    step: IntArray  # (M, D) cells it goes, not wrapped
    shell: IntArray  # (M,)


class _Bonds(NamedTuple):
    """Bonds of one order, and all equally short paths between their ends, of which each bond is one."""

    pairs: IntArray  # (K, 2)
    winding: IntArray  # (K, D)
    path_bond: IntArray  # (P,) the bond a path belongs to
    path_winding: IntArray  # (P, D)


@dataclass(frozen=True, repr=False)
class Lattice:
    """A finite lattice as plain data: build it with chain, square, ..., from_edges; the fields fit into JSON.

    Lattice.from_dict(json.loads(text)) gives back what dataclasses.asdict gave to JSON. A lattice
    made from edges has no directions (D = 0): its distances count edges, `basis` is for plots only.
    """

    name: str  # for people, e.g. "square(4 x 4, periodic)"
    shape: tuple[int, ...]  # (D,) unit cells per direction
    boundary: tuple[str, ...]  # (D,) "open", "periodic" or "antiperiodic"
    vectors: tuple[tuple[float, ...], ...]  # (D, D) primitive vectors
    basis: tuple[tuple[float, ...], ...]  # (B, D) positions of the sites inside a unit cell
    edges: tuple[tuple[int, int], ...] | None = None  # None: bonds follow from the geometry

    def __post_init__(self) -> None:
        for size in self.shape:
            positive_integer(size, "a size of the lattice")
        boundary_words(self.boundary, len(self.shape))
        dimension = {len(row) for row in self.vectors + self.basis}
        if not self.basis or len(self.vectors) != len(self.shape) or len(dimension) != 1:
            raise ValueError(
                f"{len(self.shape)} sizes, {len(self.vectors)} primitive vectors and {len(self.basis)} basis "
                f"sites, of {sorted(dimension)} coordinates, do not fit together; give one vector per size, "
                f"at least one site, and all of them equally many coordinates."
            )
        if (self.edges is None) != bool(self.shape):
            raise ValueError(
                f"shape is {self.shape} and edges are {'not ' if self.edges is None else ''}given; a lattice "
                f"has either directions or explicit edges. Use chain, square, ... or from_edges."
            )
        if self.edges is not None:
            checked_edges(self.edges, len(self.basis))

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "Lattice":
        """The lattice whose fields these are; lists, as JSON returns them, become tuples."""
        return cls(**{name: nested_tuples(value) for name, value in fields.items()})

    def __repr__(self) -> str:
        return f"Lattice({self.name}: {self.n_sites} sites)"

    def __str__(self) -> str:
        return self.name

    @property
    def n_sites(self) -> int:
        """L, the number of sites."""
        return math.prod(self.shape) * len(self.basis)

    @property
    def coordinates(self) -> Float64[Tensor, "L dimensions"]:
        """Positions for plots; on a circle for edges that came without positions."""
        if not self.basis[0]:
            angle = 2 * math.pi * torch.arange(self.n_sites, dtype=torch.float64) / self.n_sites
            return torch.stack([angle.cos(), angle.sin()], dim=1)
        basis = np.array(self.basis)
        if not self.shape:
            return torch.from_numpy(basis)
        return torch.from_numpy((self._cells @ np.array(self.vectors))[:, None] + basis).flatten(0, 1)

    # ---- bonds -----------------------------------------------------------------------------------------

    def bonds(self, order: int = 1) -> Int64[Tensor, "K 2"]:
        """Pairs of sites at the order-th smallest distance, each once, lexicographically ordered.

        Distances are to the nearest periodic image. Pairs at one distance belong together even where they
        differ by symmetry (third neighbours on the kagome lattice). If several paths are equally short, the
        bond takes the one that crosses the boundary least: a periodic direction of two cells acts as open.
        Lattices made from edges: order 1 are the edges as given, order k > 1 the pairs i < j k edges apart.
        """
        return torch.tensor(self._bonds(order).pairs)

    def winding(self, order: int = 1) -> Int64[Tensor, "K D"]:
        """How often each bond i -> j crosses the boundary of each direction; +1 leaves by the far edge."""
        return torch.tensor(self._bonds(order).winding)

    def signs(self, order: int = 1) -> Float64[Tensor, " K"]:
        """(-1)^(crossings of antiperiodic directions) of each bond, +1 everywhere else."""
        antiperiodic = [word == "antiperiodic" for word in self.boundary]
        self._refuse_ambiguous(order, math.pi * np.array(antiperiodic, dtype=float))
        return 1.0 - 2.0 * (self.winding(order)[:, antiperiodic].sum(1) % 2).double()

    def twist_phases(self, angles: ArrayLike | Tensor, order: int = 1) -> Float64[Tensor, " K"]:
        """Phase winding @ angles of each bond: a twisted boundary, or a flux through the ring.

        Args:
            angles: one angle per direction, radians. Those of open directions change nothing. The signs of
                antiperiodic directions, themselves twists by pi, are not included.
        """
        theta = torch.as_tensor(angles, dtype=torch.float64)
        if theta.shape != (len(self.shape),):
            raise ValueError(
                f"angles has shape {tuple(theta.shape)}; {self.name} has {len(self.shape)} directions. "
                f"Give one angle in radians per direction, shape {(len(self.shape),)}."
            )
        self._refuse_ambiguous(order, theta.numpy(force=True))
        return self.winding(order).double() @ theta.cpu()

    def distances(self) -> Float64[Tensor, "L L"]:
        """Distance of each pair, nearest image; for lattices made from edges, edges apart (inf: no path).

        ValueError if the table does not fit into memory.
        """
        self._require_table("the distances of all pairs", self.n_sites)
        if self.edges is not None:
            return torch.tensor(self._graph_distances)
        return torch.from_numpy(self._shells.lengths[self._shells.table[self.displacements().numpy()]])

    def displacements(self) -> Int64[Tensor, "L L"]:
        """Number of the displacement from site i to site j: equal where i' and j' are i and j moved by whole cells.

        Across boundaries that are not open displacements are those of the nearest image. Of lattices made from edges
        every pair has its own. ValueError if the table does not fit into memory.
        """
        self._require_table("the displacements of all pairs", self.n_sites)
        if self.edges is not None:
            return torch.arange(self.n_sites**2).view(self.n_sites, self.n_sites)
        cell, site = np.divmod(np.arange(self.n_sites), len(self.basis))
        index = site[:, None] * len(self.basis) + site
        for size, word, column in zip(self.shape, self.boundary, self._cells[cell].T, strict=True):
            difference = column - column[:, None]  # from i to j
            if word == "open":
                index = index * (2 * size - 1) + difference + size - 1
            else:
                index = index * size + difference % size
        return torch.from_numpy(index)

    def sublattices(self) -> Int64[Tensor, " L"]:
        """0 or 1 for each site so that every first-neighbour bond joins a 0 and a 1.

        The lowest site of each connected part is 0. ValueError if the lattice is not bipartite.
        """
        neighbours: list[list[int]] = [[] for _ in range(self.n_sites)]
        for i, j in self._bonds(1).pairs.tolist():
            neighbours[i].append(j)
            neighbours[j].append(i)
        colour = [-1] * self.n_sites
        for root in range(self.n_sites):
            if colour[root] >= 0:
                continue
            colour[root] = 0
            queue = deque([root])
            while queue:
                i = queue.popleft()
                for j in neighbours[i]:
                    if colour[j] == colour[i]:
                        raise ValueError(
                            f"{self.name} is not bipartite: the bond between sites {i} and {j} closes a ring "
                            f"of an odd number of sites. Sign rules that need two sublattices do not apply; "
                            f"an even size or an open boundary may remove the ring."
                        )
                    if colour[j] < 0:
                        colour[j] = 1 - colour[i]
                        queue.append(j)
        return torch.tensor(colour)

    # ---- symmetries ------------------------------------------------------------------------------------

    def translations(self, stride: int = 1) -> Int64[Tensor, "G L"]:
        """Translations along the periodic directions, identity first, shifts in row-major order.

        With a stride those by its multiples in every direction, as far as these are fewer.

        Antiperiodic directions are left out: a particle moved across their boundary changes sign, so that a
        permutation of sites alone is not a symmetry there.
        """
        self._require_geometry("translations")
        shifts = self._shifts("periodic")  # (G, D)
        shifts = shifts[(shifts % np.gcd(stride, self.shape) == 0).all(1)]
        self._require_table(f"a table of {len(shifts):,} translations", len(shifts))
        cells = self._site(self._cells + shifts[:, None])  # (G, cells), the first site of each image cell
        return torch.from_numpy((cells[:, :, None] + np.arange(len(self.basis))).reshape(len(shifts), -1))

    def _require_table(self, what: str, rows: int) -> None:
        """Refuse a table of so many rows of L integers that does not fit into memory."""
        require_memory(
            8 * TABLE_COPIES * rows * self.n_sites, f"{what} of {self.n_sites:,} sites", "take a smaller lattice"
        )

    def point_group(self) -> Int64[Tensor, "G L"]:
        """Rotations and reflections about one fixed point, as distinct permutations in lexicographic order.

        Kept are those that map the lattice, its box and its boundary words (antiperiodic signs too) on
        themselves. The fixed point is the origin or the centre of the lattice, whichever has more of them: D4
        for the square torus, D6 for the triangular, honeycomb and kagome torus. The identity comes first.
        On small lattices several rotations may be one permutation.
        """
        self._require_geometry("point_group")
        fractions = np.array(self.basis) @ np.linalg.inv(np.array(self.vectors))
        centre = (np.array(self.shape) - 1) / 2 + fractions.mean(0)
        periodic = np.array(self.boundary) == "periodic"
        origin = np.where(periodic, 0.0, centre)  # where there is an edge, the centre is the only choice
        rotations = list(self._rotations())
        groups = []
        for point in (origin, centre):
            images = [self._image(rotation, point - point @ rotation) for rotation in rotations]
            groups.append(distinct_rows([image for image in images if image is not None]))
        return torch.from_numpy(max(groups, key=len))

    def space_group(self, largest: int | None = None) -> Int64[Tensor, "G L"]:
        """All isometries (translations, rotations, reflections, glides), distinct, in lexicographic order.

        The identity comes first. Signs and boundaries are kept as in translations and point_group.
        The result grows as L^2: 8 L permutations of L sites on a square torus.

        Args:
            largest: number of entries G L; a lattice with more has the subgroup of the point group with the
                translations by multiples of the smallest stride that fits, at least the point group.
        """
        if largest is not None:
            fixed = self.point_group().numpy()
            periodic = [size for size, word in zip(self.shape, self.boundary, strict=True) if word == "periodic"]
            n_translations = [
                math.prod(size // math.gcd(stride, size) for size in periodic) for stride in range(1, max(self.shape))
            ]
            most = max(1, largest // fixed.size)
            if math.prod(periodic) > most:
                strides = (k for k, number in enumerate(n_translations, start=1) if number <= most)
                moves = self.translations(next(strides, math.lcm(*self.shape))).numpy()
                return torch.from_numpy(distinct_rows(moves[:, fixed].reshape(-1, self.n_sites)))
        translations = self.translations().numpy()
        fractions = np.array(self.basis) @ np.linalg.inv(np.array(self.vectors))
        # Periodic shifts follow by composition, open directions leave no choice: try antiperiodic shifts.
        shifts = self._shifts("antiperiodic")
        images = []
        for rotation in self._rotations():
            for fraction, shift in itertools.product(fractions, shifts):
                offset = fraction + shift - fractions[0] @ rotation  # takes the first site to one of a cell
                image = self._image(rotation, offset, slide=True)
                if image is not None:
                    images.append(translations[:, image])
        return torch.from_numpy(distinct_rows(np.concatenate(images)))

    # ---- how it is found -------------------------------------------------------------------------------

    @cached_property
    def _cells(self) -> IntArray:
        """Integer coordinates of the unit cells, (cells, D), row-major."""
        return np.indices(self.shape).reshape(len(self.shape), -1).T

    @cached_property
    def _open(self) -> NDArray[np.bool_]:
        return np.array([word == "open" for word in self.boundary], dtype=bool)

    def _shifts(self, word: str) -> IntArray:
        """All cell shifts (G, D) along the directions with this boundary word, zero first."""
        sizes = [size if found == word else 1 for size, found in zip(self.shape, self.boundary, strict=True)]
        return np.indices(sizes).reshape(len(sizes), -1).T

    def _site(self, cells: IntArray) -> IntArray:
        """First site of unit cells (..., D) given by any integer coordinates, wrapped around."""
        wrapped = np.moveaxis(cells % np.array(self.shape), -1, 0)
        first: IntArray = np.ravel_multi_index(tuple(wrapped), self.shape) * len(self.basis)
        return first

    @cached_property
    def _graph_distances(self) -> FloatArray:
        from scipy.sparse import coo_array  # here, because it takes long to import
        from scipy.sparse.csgraph import shortest_path

        i, j = np.array(self.edges, dtype=np.int64).reshape(-1, 2).T
        graph = coo_array((np.ones(len(i)), (i, j)), shape=(self.n_sites, self.n_sites)).tocsr()
        distances: FloatArray = shortest_path(graph, directed=False, unweighted=True)
        return distances

    @cached_property
    def _shells(self) -> _Shells:
        """Take each pair of basis sites and cell difference once, find its nearest images, sort by length."""
        vectors, basis = np.array(self.vectors), np.array(self.basis)
        ranges = [np.arange(1 - n if cut else 0, n) for n, cut in zip(self.shape, self._open, strict=True)]
        steps = np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(self.shape))
        start, end, which = (x.ravel() for x in np.indices((len(basis), len(basis), len(steps))))
        displacement = (steps @ vectors)[which] + basis[end] - basis[start]  # (M, D)

        # Bring each displacement close to 0 by rounding its coordinates in units of the box edges. What is
        # left is at most half the sum of the edges; for coordinate k only edges not at right angles to edge k
        # count (radius_k). A shorter image has |coordinate k| <= |dual_k| radius_k, the rounded one at most
        # 1/2: no more than reach_k boxes lie between them.
        closed = np.flatnonzero(~self._open)
        box = np.array(self.shape)[closed, None] * vectors[closed]  # (P, D)
        dual = np.linalg.pinv(box)  # (D, P)
        laps = -np.rint(displacement @ dual).astype(np.int64)  # (M, P)
        edge = np.linalg.norm(box, axis=1)
        oblique = np.abs(box @ box.T) > TOLERANCE * np.outer(edge, edge)
        linked = np.linalg.matrix_power(oblique.astype(float), len(closed)) > 0
        radius = linked @ edge / 2
        reach = np.floor(np.linalg.norm(dual, axis=0) * radius + 0.5 + TOLERANCE).astype(int)
        images = np.array(list(np.ndindex(*(2 * reach + 1))), dtype=np.int64) - reach  # (images, P)

        def squared(image: IntArray) -> FloatArray:  # (M,)
            total: FloatArray = ((displacement + (laps + image) @ box) ** 2).sum(1)
            return total

        shortest = np.min([squared(image) for image in images], axis=0)
        positive = shortest[(start != end) | steps[which].any(1)]
        tolerance = TOLERANCE * (positive.min() if len(positive) else 1.0)
        rank = np.argsort(shortest, kind="stable")
        new = np.diff(shortest[rank], prepend=0.0) > tolerance
        table = np.empty(len(rank), dtype=np.int64)
        table[rank] = np.cumsum(new)
        lengths = np.sqrt(np.concatenate([[0.0], shortest[rank][new]]))

        classes, moves = [], []
        for image in images:
            found = np.flatnonzero(squared(image) <= shortest + tolerance)
            move = steps[which[found]]
            move[:, closed] += (laps[found] + image) * np.array(self.shape)[closed]
            classes.append(found)
            moves.append(move)
        found = np.concatenate(classes)
        return _Shells(table, lengths, start[found], end[found], np.concatenate(moves), table[found])

    @cached_property
    def _bond_cache(self) -> dict[int, _Bonds]:
        return {}

    def _bonds(self, order: int) -> _Bonds:
        order = positive_integer(order, "order")
        if order not in self._bond_cache:
            if self.edges is None:
                n_shells = len(self._shells.lengths) - 1
            else:
                n_shells = int(self._graph_distances.max(where=np.isfinite(self._graph_distances), initial=0))
            if order > max(n_shells, 1):  # a single site has no bonds of order 1, which is no mistake
                raise ValueError(
                    f"{self.name} has {n_shells} shells of neighbours; order {order} does not exist. "
                    f"Choose 1 <= order <= {max(n_shells, 1)}, or a larger lattice."
                )
            find = self._find_bonds if self.edges is None else self._find_edges
            self._bond_cache[order] = find(order)
        return self._bond_cache[order]

    def _find_edges(self, order: int) -> _Bonds:
        found = self.edges if order == 1 else np.argwhere(np.triu(self._graph_distances == order))
        pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
        none = np.zeros((len(pairs), 0), dtype=np.int64)
        return _Bonds(pairs, none, np.arange(len(pairs)), none)

    def _find_bonds(self, order: int) -> _Bonds:
        shells, shape = self._shells, np.array(self.shape)
        # Each pair is found from both ends: keep steps whose first nonzero component is positive.
        leading = np.take_along_axis(shells.step, (shells.step != 0).argmax(1)[:, None], axis=1)[:, 0]
        forward = (leading > 0) | ((leading == 0) & (shells.start < shells.end))
        kept = np.flatnonzero((shells.shell == order) & forward)  # (V,)
        target = self._cells + shells.step[kept, None]  # (V, cells, D)
        laps = target // shape
        i = self._site(self._cells) + shells.start[kept, None]  # (V, cells)
        j = self._site(target) + shells.end[kept, None]
        inside = (laps[..., self._open] == 0).all(-1)
        i, j, laps = i[inside], j[inside], laps[inside]  # (P,), (P,), (P, D): every shortest path

        low, high = np.minimum(i, j), np.maximum(i, j)
        rank = np.lexsort((i, np.abs(laps).sum(1), high, low))  # best path of each pair first
        i, j, laps, low, high = i[rank], j[rank], laps[rank], low[rank], high[rank]
        best = (np.diff(low, prepend=-1) != 0) | (np.diff(high, prepend=-1) != 0)
        bond = np.cumsum(best) - 1
        backwards = i != i[best][bond]
        path_winding = np.where(backwards[:, None], -laps, laps)
        pairs, winding = np.stack([i, j], axis=1)[best], laps[best]

        rank = np.lexsort((pairs[:, 1], pairs[:, 0]))
        return _Bonds(pairs[rank], winding[rank], np.argsort(rank)[bond], path_winding)

    def _refuse_ambiguous(self, order: int, angles: FloatArray) -> None:
        """Refuse phases where one bond stands for equally short paths with different ones.

        Directions of two cells that no bond crosses act as open and enclose no flux: they are exempt.
        """
        bonds = self._bonds(order)
        acts_open = (np.array(self.shape) == 2) & ~bonds.winding.any(0)
        excess = (bonds.path_winding - bonds.winding[bonds.path_bond]) @ np.where(acts_open, 0.0, angles)
        differ = np.flatnonzero(np.abs(np.exp(1j * excess) - 1) > TOLERANCE)
        if len(differ):
            i, j = bonds.pairs[bonds.path_bond[differ[0]]].tolist()
            raise ValueError(
                f"{self.name}: equally short paths with different boundary phases join sites {i} and {j} "
                f"(order {order}), so that their one bond has no definite phase. Use a larger lattice, or a "
                f"plain 'periodic' or 'open' boundary without a twist."
            )

    def _require_geometry(self, method: str) -> None:
        if self.edges is not None:
            raise ValueError(
                f"{method}() needs a geometry, and {self.name} was made from edges (from_edges, "
                f"from_networkx or from_netket), which have none. Use a constructor such as chain or square."
            )

    def _rotations(self) -> Iterator[IntArray]:
        """Integer matrices R (D, D), cells -> cells @ R, that keep lengths, box and boundary words."""
        vectors, shape = np.array(self.vectors), np.array(self.shape)
        closed = ~self._open
        odd = np.array([word == "antiperiodic" for word in self.boundary])
        gram = vectors @ vectors.T
        tolerance = TOLERANCE * gram.max()
        reach = np.linalg.norm(np.linalg.inv(vectors), axis=0) * np.sqrt(gram.max()) + TOLERANCE
        ranges = [range(-int(r), int(r) + 1) for r in reach]
        rows = np.array(list(itertools.product(*ranges)))
        rows = rows[np.linalg.norm(rows @ vectors, axis=1) <= np.sqrt(gram.max()) * (1 + TOLERANCE)]

        def extend(chosen: list[IntArray]) -> Iterator[IntArray]:
            k = len(chosen)
            if k == len(shape):
                yield np.array(chosen)
                return
            for row in rows:
                products = np.array([*chosen, row]) @ gram @ row  # with the images chosen so far, and itself
                if np.abs(products - gram[: k + 1, k]).max() > tolerance:
                    continue
                if closed[k]:  # the box edge along k must become a path around the box with the same sign
                    laps, rest = np.divmod(shape[k] * row, shape)
                    if row[self._open].any() or rest[closed].any() or laps[odd].sum() % 2 != odd[k]:
                        continue
                yield from extend([*chosen, row])

        return extend([])

    def _image(self, rotation: IntArray, offset: FloatArray, slide: bool = False) -> IntArray | None:
        """Permutation (L,) of x -> x @ rotation + offset in fractional coordinates; None if no symmetry.

        With slide, the image is first moved along the open directions so that it starts at the edge.
        """
        fractions = np.array(self.basis) @ np.linalg.inv(np.array(self.vectors))
        gap = (fractions @ rotation + offset)[:, None] - fractions  # (B, B, D)
        fits = (np.abs(gap - np.rint(gap)) < TOLERANCE).all(-1)
        if not fits.any(1).all():
            return None
        partner = fits.argmax(1)  # (B,) the site of a cell that each site becomes
        shift = np.rint(gap[np.arange(len(partner)), partner]).astype(np.int64)
        target = (self._cells @ rotation)[:, None] + shift  # (cells, B, D)
        if slide:
            target[..., self._open] -= target[..., self._open].min((0, 1))
        laps = target // np.array(self.shape)
        odd = [word == "antiperiodic" for word in self.boundary]
        parity = laps[..., odd].sum(-1) % 2
        if laps[..., self._open].any() or (parity != parity[0, 0]).any():  # a sign common to all is fine
            return None
        image: IntArray = self._site(target) + partner
        return image.ravel()
