"""Lattices against NetKet's graphs, networkx, brute force over images, and closed forms of bands."""

import dataclasses
import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable

import netket as nk
import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nqs.lattice import (
    Lattice,
    chain,
    edge_colors,
    edge_weights,
    from_edges,
    from_netket,
    from_networkx,
    honeycomb,
    hypercubic,
    kagome,
    square,
    triangular,
)
from nqs.lattice.checks import BOUNDARIES

PLANAR = [square, triangular, honeycomb, kagome]
PERIODIC_AND_OPEN = {"periodic": True, "open": False}


@st.composite
def recipes(draw: st.DrawFn, largest: int = 5) -> Callable[[], Lattice]:
    """Any built-in lattice with up to 5 x 5 cells, mixed boundaries, down to directions of length 1.

    Tests build it themselves: run-time type checkers use `random`, which hypothesis forbids in strategies.
    """
    size, word = st.integers(1, largest), st.sampled_from(BOUNDARIES)
    if draw(st.booleans()):
        shape = draw(st.lists(size, min_size=1, max_size=3).filter(lambda shape: math.prod(shape) <= 40))
        return functools.partial(hypercubic, shape, [draw(word) for _ in shape])
    make = draw(st.sampled_from(PLANAR))
    return functools.partial(make, draw(size), draw(size), [draw(word), draw(word)])


def pairs_of(bonds: torch.Tensor | np.ndarray | list) -> list[tuple[int, int]]:
    """Undirected bonds, sorted; a pair listed twice stays twice."""
    return sorted((min(pair), max(pair)) for pair in torch.as_tensor(bonds).tolist())


def box(lattice: Lattice) -> np.ndarray:
    """Edges of the whole lattice, (D, D)."""
    return np.array(lattice.shape)[:, None] * np.array(lattice.vectors)


def images(lattice: Lattice) -> tuple[np.ndarray, np.ndarray]:
    """Many windings (I, D), and the length of every pair i -> j with each, (I, L, L)."""
    x = lattice.coordinates.numpy()
    ranges = [[0] if word == "open" else range(-6, 7) for word in lattice.boundary]
    laps = np.array(list(itertools.product(*ranges)))
    steps = x[None] - x[:, None]
    return laps, np.array([np.linalg.norm(steps + shift, axis=-1) for shift in laps @ box(lattice)])


def hopping(lattice: Lattice, phases: torch.Tensor, order: int = 1) -> np.ndarray:
    """sum over bonds of exp(i phase) |j><i| + h.c., (L, L)."""
    matrix = np.zeros((lattice.n_sites, lattice.n_sites), dtype=complex)
    i, j = lattice.bonds(order).numpy().T
    np.add.at(matrix, (j, i), np.exp(1j * phases.numpy()))
    return matrix + matrix.conj().T


def shells(lattice: Lattice) -> range:
    return range(1, len(np.unique(np.round(lattice.distances().numpy(), 8))))


# ---- bonds and distances against others ------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (8,), (3, 4), (5, 3), (3, 4, 3)])
@pytest.mark.parametrize("boundary", PERIODIC_AND_OPEN)
def test_hypercubic_is_netkets_grid_site_by_site(shape, boundary):
    theirs = nk.graph.Grid(shape, pbc=PERIODIC_AND_OPEN[boundary])
    ours = hypercubic(shape, boundary)
    assert pairs_of(ours.bonds()) == pairs_of(theirs.edges())
    np.testing.assert_array_equal(ours.coordinates, theirs.positions)


def test_mixed_boundaries_are_netkets():
    theirs = nk.graph.Grid([3, 4, 5], pbc=[True, False, True])
    ours = hypercubic((3, 4, 5), ("periodic", "open", "periodic"))
    assert pairs_of(ours.bonds()) == pairs_of(theirs.edges())


@pytest.mark.parametrize(
    ("ours", "theirs", "constant"),
    [
        (triangular, nk.graph.Triangular, 1.0),
        (honeycomb, nk.graph.Honeycomb, math.sqrt(3)),
        (kagome, nk.graph.Kagome, 2.0),
    ],
)
@pytest.mark.parametrize("boundary", PERIODIC_AND_OPEN)
def test_planar_lattices_are_netkets_site_by_site(ours, theirs, constant, boundary):
    graph = theirs([4, 3], pbc=PERIODIC_AND_OPEN[boundary])
    lattice = ours(4, 3, boundary)
    assert pairs_of(lattice.bonds()) == pairs_of(graph.edges())
    np.testing.assert_allclose(lattice.coordinates, constant * graph.positions, atol=1e-12)


@pytest.mark.parametrize("boundary", PERIODIC_AND_OPEN)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(square, nk.graph.Square), (triangular, nk.graph.Triangular), (honeycomb, nk.graph.Honeycomb)],
)
def test_further_neighbours_are_netkets(ours, theirs, boundary):
    size = 5 if theirs is nk.graph.Square else [5, 5]
    graph = theirs(size, pbc=PERIODIC_AND_OPEN[boundary], max_neighbor_order=3)
    lattice = ours(5, boundary=boundary)
    assert pairs_of(torch.cat([lattice.bonds(k) for k in (1, 2, 3)])) == pairs_of(graph.edges())


@settings(max_examples=60, deadline=None)
@given(recipes())
def test_shells_match_brute_force_over_images(recipe):
    lattice = recipe()
    laps, lengths = images(lattice)
    distances = lengths.min(0)
    np.testing.assert_allclose(lattice.distances(), distances, atol=1e-9)
    radii = np.unique(np.round(distances, 8))
    for order in shells(lattice):
        expected = np.argwhere(np.triu(np.abs(distances - radii[order]) < 1e-6))
        assert pairs_of(lattice.bonds(order)) == pairs_of(expected)  # each pair once
        bonds, windings = lattice.bonds(order).tolist(), lattice.winding(order).tolist()
        for (i, j), winding in zip(bonds, windings, strict=True):
            paths = laps[lengths[:, i, j] < radii[order] + 1e-6].tolist()
            assert winding in paths
            assert np.abs(winding).sum() == np.abs(paths).sum(1).min()


@settings(max_examples=60, deadline=None)
@given(recipes())
def test_displacements_are_differences_of_positions(recipe):
    """Up to windings, and with the places in the unit cell that they join."""
    lattice = recipe()
    numbers, x = lattice.displacements(), lattice.coordinates.numpy()
    closed = np.array([word != "open" for word in lattice.boundary])
    laps = (x[None] - x[:, None]) @ np.linalg.inv(box(lattice))  # (L, L, D)
    laps[..., closed] -= np.floor(laps[..., closed] + 1e-9)
    place = np.arange(lattice.n_sites) % len(lattice.basis)
    keys = np.concatenate([np.stack(np.meshgrid(place, place), axis=-1), laps], axis=-1).round(6) + 0.0
    _, expected = np.unique(keys.reshape(lattice.n_sites**2, -1), axis=0, return_inverse=True)
    pairs = set(zip(numbers.flatten().tolist(), expected.ravel().tolist(), strict=True))
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


def test_displacements_of_edges_are_the_pairs():
    assert from_edges([(0, 1), (1, 2)]).displacements().tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize("boundary", ["periodic", ("periodic", "open")])
@pytest.mark.parametrize("make", [triangular, honeycomb, kagome])
def test_distances_of_elongated_oblique_boxes(make, boundary):
    """The nearest image of a far site is many short box edges away."""
    lattice = make(1, 9, boundary)
    np.testing.assert_allclose(lattice.distances(), images(lattice)[1].min(0), atol=1e-9)


@pytest.mark.parametrize(
    ("lattice", "bonds_per_site"),
    [
        (chain(7), (1, 1, 1)),
        (square(7), (2, 2, 2)),
        (hypercubic((7, 7, 7)), (3, 6, 4)),
        (triangular(7), (3, 3, 3)),
        (honeycomb(7), (1.5, 3, 1.5)),
        (kagome(7), (2, 2, 3)),
    ],
    ids=str,
)
def test_bonds_per_site_in_the_bulk(lattice, bonds_per_site):
    assert tuple(len(lattice.bonds(k)) / lattice.n_sites for k in (1, 2, 3)) == bonds_per_site
    assert lattice.distances()[lattice.distances() > 0].min() == pytest.approx(1.0, abs=1e-12)


def test_graph_distances_are_networkxs():
    graph = nx.gnp_random_graph(12, 0.15, seed=3)
    assert not nx.is_connected(graph)
    lattice = from_networkx(graph)
    lengths = dict(nx.all_pairs_shortest_path_length(graph))
    expected = [[lengths[i].get(j, math.inf) for j in range(12)] for i in range(12)]
    assert lattice.distances().tolist() == expected
    assert pairs_of(lattice.bonds(3)) == pairs_of(np.argwhere(np.triu(expected) == 3))


# ---- small and special cases -----------------------------------------------------------------------


def test_very_long_ladder_has_both_neighbours_of_every_site():
    assert len(square(2, 2001).bonds()) == 3 * 2001


def test_ring_of_one_has_no_bond_and_of_two_has_one():
    assert chain(1).bonds().shape == (0, 2)
    assert chain(1).winding().shape == (0, 1)
    assert chain(2).bonds().tolist() == [[0, 1]]
    assert chain(2).winding().tolist() == [[0]]
    assert chain(2, boundary="antiperiodic").signs().tolist() == [1.0]  # one bond encloses no flux


def test_ring_ends_with_the_bond_through_the_boundary():
    assert chain(4, periodic=True).bonds().tolist() == [[0, 1], [1, 2], [2, 3], [3, 0]]
    assert chain(4).winding().tolist() == [[0], [0], [0], [1]]
    assert chain(4, periodic=False).bonds().tolist() == [[0, 1], [1, 2], [2, 3]]


@pytest.mark.parametrize("n", [3, 4, 7])
def test_periodic_ladder_has_single_rungs(n):
    assert len(square(2, n).bonds()) == 3 * n
    assert nx.is_isomorphic(nx.Graph(square(2, n).bonds().tolist()), nx.circular_ladder_graph(n))


def test_second_and_third_neighbours_on_the_4x4_torus():
    """Third neighbours are two steps along a side, where left and right end on the same site."""
    lattice = square(4)
    x, y = np.divmod(np.arange(16), 4)
    dx, dy = ((a[:, None] - a) % 4 for a in (x, y))
    diagonal, two_steps = (dx % 2) * (dy % 2) == 1, (dx == 2) & (dy == 0) | (dx == 0) & (dy == 2)
    assert pairs_of(lattice.bonds(2)) == pairs_of(np.argwhere(np.triu(diagonal)))
    assert pairs_of(lattice.bonds(3)) == pairs_of(np.argwhere(np.triu(two_steps)))
    assert len(lattice.bonds(2)) == 32
    assert len(lattice.bonds(3)) == 16


def test_returned_tensors_are_the_callers_own():
    lattice = chain(4)
    lattice.bonds().zero_()
    lattice.winding().fill_(5)
    lattice.distances().zero_()
    assert lattice.bonds().tolist() == chain(4).bonds().tolist()
    assert lattice.winding().sum() == 1
    assert lattice.distances()[0, 2] == 2


# ---- boundary phases -------------------------------------------------------------------------------


def dispersion(lattice: Lattice, angles: np.ndarray, steps: list[tuple[int, ...]]) -> np.ndarray:
    """2 sum_steps cos(k . step), sorted, at the momenta k_d = (2 pi m_d + angle_d) / n_d of a torus."""
    k = [(2 * np.pi * np.arange(n) + angle) / n for n, angle in zip(lattice.shape, angles, strict=True)]
    momenta = np.array(list(itertools.product(*k)))
    return np.sort(2 * np.cos(momenta @ np.array(steps).T).sum(1))


@pytest.mark.parametrize(
    ("lattice", "order", "steps"),
    [
        (chain(5), 1, [(1,)]),
        (chain(6), 2, [(2,)]),
        (square(3, 5), 1, [(1, 0), (0, 1)]),
        (square(5, 3), 2, [(1, 1), (1, -1)]),
        (triangular(4, 3), 1, [(1, 0), (0, 1), (1, -1)]),
        (hypercubic((3, 4, 3)), 1, [(1, 0, 0), (0, 1, 0), (0, 0, 1)]),
    ],
    ids=str,
)
def test_twisted_hopping_has_the_shifted_bands(lattice, order, steps):
    angles = np.array([0.7, -1.9, 0.4])[: len(lattice.shape)]
    energies = np.linalg.eigvalsh(hopping(lattice, lattice.twist_phases(angles.tolist(), order), order))
    np.testing.assert_allclose(energies, dispersion(lattice, angles, steps), atol=1e-12)


def test_antiperiodic_ring_has_half_odd_momenta():
    ring = chain(6, boundary="antiperiodic")
    assert ring.signs().tolist() == [1, 1, 1, 1, 1, -1]
    energies = np.linalg.eigvalsh(hopping(ring, np.pi * (1 - ring.signs()) / 2))
    momenta = 2 * np.pi * (np.arange(6) + 0.5) / 6
    np.testing.assert_allclose(energies, np.sort(2 * np.cos(momenta)), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(recipes(largest=6), st.integers(1, 3))
def test_antiperiodic_is_a_twist_by_pi(recipe, order):
    lattice = recipe()
    assume(order in shells(lattice))
    angles = [math.pi * (word == "antiperiodic") for word in lattice.boundary]
    try:
        signs = lattice.signs(order)
    except ValueError:
        with pytest.raises(ValueError, match="no definite phase"):
            lattice.twist_phases(angles, order)
    else:
        torch.testing.assert_close(lattice.twist_phases(angles, order).cos(), signs)


def test_winding_along_a_straight_line_closes_after_one_lap():
    lattice = square(4, 5, boundary=("antiperiodic", "periodic"))
    bonds, winding, signs = lattice.bonds(), lattice.winding(), lattice.signs()
    row = (bonds // 5 == 2).all(1)  # the ring x = 2 along the periodic direction
    column = (bonds % 5 == 3).all(1)  # the ring y = 3 along the antiperiodic one
    assert winding[row].sum(0).tolist() == [0, 1]
    assert signs[row].prod() == 1
    assert winding[column].sum(0).tolist() == [1, 0]
    assert signs[column].prod() == -1


def test_angles_of_open_directions_change_nothing():
    assert chain(5, periodic=False).twist_phases([0.3]).tolist() == [0, 0, 0, 0]
    assert from_edges([(0, 1)]).twist_phases([]).tolist() == [0]


def test_bond_with_conflicting_images_has_no_phase():
    """On a ring of 4 the two paths from 0 to 2 differ by the whole flux: their bond cannot carry it."""
    with pytest.raises(ValueError, match=r"sites 0 and 2 \(order 2\).*larger lattice"):
        chain(4, boundary="antiperiodic").signs(order=2)
    with pytest.raises(ValueError, match="no definite phase"):
        chain(4).twist_phases([0.1], order=2)
    assert chain(4).twist_phases([2 * math.pi], order=2).shape == (2,)  # a whole flux quantum is no conflict


@settings(max_examples=80, deadline=None)
@given(recipes(), st.tuples(*[st.sampled_from([0.0, 1.0, -1.0, math.pi])] * 3), st.integers(1, 3))
@example(functools.partial(square, 2, 3), (0.0, 1.0, 0.0), 2)  # equal paths, found from opposite ends
def test_phases_are_refused_exactly_where_images_conflict(recipe, angles, order):
    lattice = recipe()
    assume(order in shells(lattice))
    angles = np.array(angles[: len(lattice.shape)])
    laps, lengths = images(lattice)
    winding = lattice.winding(order)
    acts_open = (np.array(lattice.shape) == 2) & (winding == 0).all(0).numpy()  # as NetKet treats two sites
    conflict = False
    for (i, j), chosen in zip(lattice.bonds(order).tolist(), winding.numpy(), strict=True):
        others = laps[lengths[:, i, j] < lengths[:, i, j].min() + 1e-6] - chosen
        conflict |= (np.abs(np.exp(1j * others[:, ~acts_open] @ angles[~acts_open]) - 1) > 1e-6).any()
    if conflict:
        with pytest.raises(ValueError, match="no definite phase"):
            lattice.twist_phases(angles, order)
    else:
        np.testing.assert_allclose(lattice.twist_phases(angles, order), winding.numpy() @ angles)


def test_two_cells_act_open_only_where_no_bond_crosses():
    assert square(2, 4, boundary=("antiperiodic", "periodic")).signs().prod() == 1
    with pytest.raises(ValueError, match="no definite phase"):  # diagonals cross where rungs do not
        triangular(2, 4, boundary=("antiperiodic", "periodic")).signs()


# ---- sublattices -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(recipes())
def test_sublattices_exist_exactly_for_bipartite_lattices(recipe):
    lattice = recipe()
    graph = nx.empty_graph(lattice.n_sites)
    graph.add_edges_from(lattice.bonds().tolist())
    if nx.is_bipartite(graph):
        colour = lattice.sublattices()
        i, j = lattice.bonds().T
        assert (colour[i] + colour[j] == 1).all()
        assert colour[0] == 0
    else:
        with pytest.raises(ValueError, match="not bipartite"):
            lattice.sublattices()


def test_sublattices_of_the_square_lattice_are_a_chessboard():
    x, y = torch.arange(4).repeat_interleave(6), torch.arange(6).repeat(4)
    assert torch.equal(square(4, 6).sublattices(), (x + y) % 2)


# ---- symmetries ------------------------------------------------------------------------------------


def rows_of(permutations) -> set[tuple[int, ...]]:
    return set(map(tuple, np.asarray(permutations).tolist()))


@pytest.mark.parametrize(
    ("lattice", "graph"),
    [
        (chain(6), nk.graph.Chain(6)),
        (square(4), nk.graph.Square(4)),
        (square(3, 5), nk.graph.Grid([3, 5])),
        (hypercubic((3, 3, 3)), nk.graph.Cube(3)),
        (triangular(4), nk.graph.Triangular([4, 4])),
        (honeycomb(3), nk.graph.Honeycomb([3, 3])),
        (kagome(3), nk.graph.Kagome([3, 3])),
    ],
    ids=str,
)
def test_symmetry_groups_are_netkets(lattice, graph):
    assert rows_of(lattice.translations()) == rows_of(graph.translation_group())
    assert rows_of(lattice.point_group()) == rows_of(graph.point_group())
    assert rows_of(lattice.space_group()) == rows_of(graph.space_group())


@settings(max_examples=50, deadline=None)
@given(recipes(largest=4))
def test_groups_are_closed_and_preserve_every_bond_and_sign(recipe):
    lattice = recipe()
    translations, point, space = lattice.translations(), lattice.point_group(), lattice.space_group()
    distances = lattice.distances()
    signed = []
    for order in shells(lattice):
        try:
            signed.append(hopping(lattice, math.pi * (1 - lattice.signs(order)) / 2, order).real)
        except ValueError:  # equally short paths with opposite signs
            continue
    for group in (translations, point, space):
        assert torch.equal(group[0], torch.arange(lattice.n_sites))
        assert len(rows_of(group)) == len(group)
        assert (group.sort(1).values == torch.arange(lattice.n_sites)).all()
        if len(group) <= 200:
            products = group[:, group].flatten(0, 1)  # every g after every h
            assert rows_of(products.unique(dim=0)) == rows_of(group)
        for g in group[:: 1 + len(group) // 40]:
            assert torch.equal(distances[g][:, g], distances)
            for matrix in signed:
                np.testing.assert_allclose(matrix[g][:, g], matrix, atol=1e-12)
    assert space.tolist() == sorted(space.tolist())
    assert rows_of(translations) | rows_of(point) <= rows_of(space)


@pytest.mark.parametrize("size", [3, 4, 5, 6, 7])
def test_space_group_order_of_square_tori(size):
    assert len(square(size).space_group()) == 8 * size**2
    assert len(square(size, size + 1).space_group()) == 4 * size * (size + 1)


@pytest.mark.parametrize("lattice", [square(5), square(4, boundary="open"), honeycomb(4), chain(7)], ids=str)
def test_space_group_is_the_whole_automorphism_group_where_these_agree(lattice):
    graph = nx.Graph(lattice.bonds().tolist())
    matcher = nx.isomorphism.GraphMatcher(graph, graph)
    automorphisms = {tuple(g[i] for i in range(lattice.n_sites)) for g in matcher.isomorphisms_iter()}
    assert rows_of(lattice.space_group()) == automorphisms


@pytest.mark.parametrize(
    ("lattice", "point", "space"),
    [
        (chain(5, periodic=False), 2, 2),
        (chain(6, boundary="antiperiodic"), 2, 2),  # the reflection about the middle, which leaves the seam
        (square(4, boundary="open"), 8, 8),
        (square(4, 6, boundary="open"), 4, 4),
        (square(4, boundary="antiperiodic"), 8, 8),
        (square(4, boundary=("periodic", "open")), 4, 16),
        (square(4, boundary=("antiperiodic", "periodic")), 4, 16),  # x and y are not alike
        (triangular(4, boundary="open"), 4, 4),
        (triangular(5, 5), 12, 300),
        (chain(1), 1, 1),
        (chain(2), 2, 2),
    ],
    ids=str,
)
def test_orders_of_groups(lattice, point, space):
    assert len(lattice.point_group()) == point
    assert len(lattice.space_group()) == space


def test_translation_moves_sites_along_the_last_direction_first():
    assert chain(3).translations().tolist() == [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    assert square(2, 3, boundary=("open", "periodic")).translations()[1].tolist() == [1, 2, 0, 4, 5, 3]
    assert chain(3, boundary="antiperiodic").translations().tolist() == [[0, 1, 2]]


# ---- plain data and other sources ------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(recipes() | st.just(lambda: from_edges([(2, 0), (1, 2)], positions=[(0, 0), (1, 0), (0, 1)])))
def test_fields_survive_json(recipe):
    lattice = recipe()
    copy = Lattice.from_dict(json.loads(json.dumps(dataclasses.asdict(lattice))))
    assert copy == lattice
    assert hash(copy) == hash(lattice)
    assert torch.equal(copy.bonds(), lattice.bonds())


def test_names_and_equality():
    assert str(square(4, 6, boundary=("periodic", "open"))) == "square(4 x 6, periodic x open)"
    assert repr(chain(8, periodic=True)) == "Lattice(chain(8, periodic): 8 sites)"
    assert repr(from_edges([(0, 1), (1, 2)])) == "Lattice(edges(3 sites, 2 edges): 3 sites)"
    assert hypercubic((4, 6)) == square(4, 6) != square(6, 4)
    assert chain(4, boundary="open") == chain(4, periodic=False) == hypercubic([4], "open")


def test_edges_keep_order_and_orientation():
    lattice = from_edges([(2, 0), (0, 1)], n_sites=4)
    assert lattice.bonds().tolist() == [[2, 0], [0, 1]]
    assert lattice.bonds(2).tolist() == [[1, 2]]
    assert lattice.n_sites == 4
    assert lattice.coordinates.shape == (4, 2)
    assert lattice.signs().tolist() == [1, 1]
    assert from_edges(torch.tensor([[2, 0], [0, 1]]), 4) == lattice
    assert from_edges([], n_sites=1).bonds().shape == (0, 2)
    assert from_edges([(0, 1)], positions=[(0, 0), (3, 4)]).coordinates.tolist() == [[0, 0], [3, 4]]


def test_networkx_nodes_are_numbered_in_sorted_order():
    grid = nx.grid_2d_graph(3, 4, periodic=True)
    assert pairs_of(from_networkx(grid).bonds()) == pairs_of(square(3, 4).bonds())
    letters = nx.DiGraph([("b", "a"), ("c", "b")])
    nx.set_node_attributes(letters, {"a": (0, 0), "b": (1, 0), "c": (5, 0)}, "pos")
    assert from_networkx(letters).bonds().tolist() == [[1, 0], [2, 1]]
    assert from_networkx(letters).coordinates[2].tolist() == [5, 0]


def test_netket_lattice_keeps_its_geometry():
    lattice = from_netket(nk.graph.Kagome([3, 3]))
    assert lattice.edges is None
    assert str(lattice) == "netket(3 x 3, periodic)"
    np.testing.assert_allclose(2 * lattice.distances(), kagome(3).distances())
    assert torch.equal(lattice.space_group(), kagome(3).space_group())
    assert from_netket(nk.graph.Grid([3, 4], pbc=[True, False])).boundary == ("periodic", "open")
    assert torch.equal(from_netket(nk.graph.FCC([3, 3, 3])).bonds()[:, 0].bincount(), torch.full((27,), 6))


def test_netket_graph_with_other_edges_keeps_those():
    second = nk.graph.Lattice(basis_vectors=[[1.0]], extent=(6,), custom_edges=[(0, 0, [2.0], 0)])
    assert pairs_of(from_netket(second).bonds()) == pairs_of(second.edges())
    assert from_netket(second).coordinates.shape == (6, 1)
    plain = from_netket(nk.graph.Graph(edges=[(3, 1), (1, 0)], n_nodes=5))
    assert plain.edges == ((0, 1), (1, 3))
    assert plain.n_sites == 5


@pytest.mark.parametrize(
    ("graph", "orders"),
    [
        (nk.graph.Chain(6, max_neighbor_order=2), 2),
        (nk.graph.Chain(7, pbc=False, max_neighbor_order=3), 3),
        (nk.graph.Grid([4, 5], max_neighbor_order=2), 2),
        (nk.graph.Triangular([4, 4], max_neighbor_order=2), 2),
    ],
)
def test_colours_of_netket_that_are_shells_stay_shells(graph, orders):
    lattice = from_netket(graph)
    for order in range(1, orders + 1):
        colored = [(i, j) for i, j, color in graph.edges(return_color=True) if color == order - 1]
        assert pairs_of(lattice.bonds(order)) == pairs_of(colored)


@pytest.mark.parametrize("graph", [nk.graph.KitaevHoneycomb([2, 3]), nk.graph.Graph([(2, 0, 5), (1, 2, 0), (0, 1, 5)])])
def test_other_colours_of_netket_are_refused_or_given_by_bond(graph):
    with pytest.raises(ValueError, match=r"the colours 0, .*ignore_colors=True.*edge_colors\(graph\)"):
        from_netket(graph)
    bonds = from_netket(graph, ignore_colors=True).bonds().tolist()
    found = {(*sorted(bond), color) for bond, color in zip(bonds, edge_colors(graph), strict=True)}
    assert found == {(min(i, j), max(i, j), color) for i, j, color in graph.edges(return_color=True)}


@pytest.mark.parametrize("kind", [nx.Graph, nx.DiGraph])
def test_weights_of_networkx_are_refused_or_given_by_bond(kind):
    graph = kind()
    graph.add_weighted_edges_from([("c", "a", 0.5), ("b", "c", 2), ("a", "b", 1)])
    with pytest.raises(ValueError, match=r"weights, 0\.5 between 'c' and 'a'|weights, 0\.5 between 'a' and 'c'"):
        from_networkx(graph)
    lattice = from_networkx(graph, ignore_weights=True)
    expected = {frozenset({0, 2}): 0.5, frozenset({1, 2}): 2.0, frozenset({0, 1}): 1.0}
    weights = zip(lattice.bonds().tolist(), edge_weights(graph), strict=True)
    assert {frozenset(bond): weight for bond, weight in weights} == expected
    with pytest.raises(ValueError, match=r"J=None of the edge .*every edge needs a number"):
        edge_weights(graph, "J")
    nx.set_edge_attributes(graph, 1, "weight")
    assert from_networkx(graph) == lattice  # weights of 1 say nothing


def test_import_is_light():
    """NetKet pulls in JAX, which takes seconds and would grab the accelerator."""
    code = "import sys, nqs.lattice; print({'jax', 'netket'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (run.returncode, run.stdout.strip()) == (0, "set()"), run.stderr


# ---- errors at the door ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: chain(0), "size of the lattice is 0.*at least 1"),
        (lambda: square(4, -2), "is -2.*at least 1"),
        (lambda: hypercubic(()), "one size per direction"),
        (lambda: square(4, boundary="pbc"), "'pbc' is unknown.*'open', 'periodic', 'antiperiodic'"),
        (lambda: square(4, boundary=("open",)), "1 words for 2 directions"),
        (lambda: chain(4, periodic=True, boundary="open"), "contradicts"),
        (lambda: chain(4, periodic=False, boundary="antiperiodic"), "contradicts"),
        (lambda: from_edges([(0, 1), (1, 4)], n_sites=4), r"\(1, 4\) leaves.*4 sites.*0 to 3"),
        (lambda: from_edges([(0, 1), (-1, 0)]), r"\(-1, 0\) leaves"),
        (lambda: from_edges([(0, 1), (1, 1)]), r"\(1, 1\) joins a site to itself"),
        (lambda: from_edges([(0, 1), (1, 0)]), r"\(1, 0\) is given twice.*one number per bond"),
        (lambda: from_edges([(0, 1, 2)]), "3 ends"),
        (lambda: from_edges([]), "n_sites is 0"),
        (lambda: from_edges([(0, 1)], positions=[(0, 0)], n_sites=2), r"shape \(1, 2\) for 2 sites"),
        (lambda: from_networkx(nx.MultiGraph([(0, 1), (0, 1)])), "given twice"),
        (lambda: from_networkx(nx.Graph([(0, 1), ("a", 1)])), "cannot be sorted.*convert_node_labels"),
        (lambda: Lattice("x", (3,), ("open",), (), ((0.0,),)), "1 sizes, 0 primitive vectors"),
        (lambda: Lattice("x", (), (), (), ((),)), "either directions or explicit edges"),
        (lambda: chain(4).bonds(3), "2 shells.*order 3.*1 <= order <= 2"),
        (lambda: chain(4).bonds(0), "order is 0"),
        (lambda: from_edges([(0, 1), (1, 2)]).bonds(3), "2 shells"),
        (lambda: chain(4).twist_phases([0.1, 0.2]), r"shape \(2,\).*1 directions.*shape \(1,\)"),
        (lambda: chain(5).sublattices(), r"chain\(5, periodic\) is not bipartite.*odd number"),
        (lambda: from_edges([(0, 1)]).translations(), "translations.*made from edges"),
        (lambda: from_edges([(0, 1)]).point_group(), "point_group.*made from edges"),
        (lambda: from_edges([(0, 1)]).space_group(), "made from edges"),
    ],
)
def test_errors_name_what_was_found_and_what_is_allowed(build, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: chain(4.0),
        lambda: chain(True),
        lambda: hypercubic(4),
        lambda: chain(4, "open"),
        lambda: square(4, boundary=True),
        lambda: from_edges([(0, 1.5)]),
        lambda: from_edges([("a", "b")]),
        lambda: chain(4).bonds("1"),
    ],
)
def test_wrong_types_are_refused(build):
    """By our own check, or by the annotations where a run-time type checker executes them."""
    with pytest.raises((TypeError, ValueError), match=r"must be|one size per|is unknown|violates type hint"):
        build()
