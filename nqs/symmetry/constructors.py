"""Translations, point groups, spin flip and particle-hole reversal."""

# Shapes: B configurations, G group elements, L sites, d local states, O = L x species orbitals.
import itertools
from collections.abc import Sequence

import numpy as np

from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
from nqs.symmetry.group import Symmetry


def of_sites(permutations: np.ndarray, local_dim: int, fermions: bool) -> Symmetry:
    """The group of these site permutations (G, L), the identity first, in the trivial representation."""
    rows = tuple(tuple(row) for row in permutations.tolist())
    identity = tuple(range(local_dim))
    return Symmetry(permutations=rows, maps=(identity,) * len(rows), angles=(0.0,) * len(rows), fermions=fermions)


def space_group(lattice: Lattice, hilbert: HilbertSpace, *, fermions: bool = False) -> Symmetry:
    """Translations, rotations and reflections of a lattice, in the trivial representation (even under all of them)."""
    return of_sites(lattice.space_group().numpy(), hilbert.local_dim, fermions)


def translations(
    lattice: Lattice, hilbert: HilbertSpace, *, momentum: Sequence[int] | None = None, fermions: bool = False
) -> Symmetry:
    """Translations of a periodic lattice, in the representation of one momentum.

    Args:
        momentum: integers m with k_j = 2 pi m_j / (unit cells along direction j); 0 by default.

    Raises:
        ValueError: not one integer for each direction.
    """
    group = of_sites(lattice.translations().numpy(), hilbert.local_dim, fermions)
    if momentum is None:
        return group
    if len(momentum) != len(lattice.shape):
        raise ValueError(
            f"momentum={tuple(momentum)}: {lattice} has {len(lattice.shape)} directions; give one integer for each."
        )
    directions = zip(lattice.shape, lattice.boundary, strict=True)
    cells = [range(size) if word == "periodic" else range(1) for size, word in directions]
    by_shift = {shift: group.permutations[i] for i, shift in enumerate(itertools.product(*cells))}
    angle = {
        # perm[s] is where site s goes under the shift; (g n)_s = n_perm[s] moves what is there back by the shift.
        perm: -sum(m * r / size for m, r, size in zip(momentum, shift, lattice.shape, strict=True)) % 1.0
        for shift, perm in by_shift.items()
    }
    return group.with_angles([angle[perm] for perm in group.permutations])


def spin_flip(hilbert: HilbertSpace, *, odd: bool = False, fermions: bool = False) -> Symmetry:
    """All spins reversed, m -> -m or up <-> down, even or odd under it.

    Raises:
        ValueError: the species of the space have no spin, or a reversed spin is no local state.
    """
    return _reversal(hilbert, _flipped_spins(hilbert), odd, fermions)


def _flipped_spins(hilbert: HilbertSpace) -> tuple[int, ...]:
    """The local state with all spins reversed, of every local state."""
    if all(species.twice_sz is None for species in hilbert.species):
        raise ValueError(f"a spin flip needs spins or electrons, by the species of the space; it is {hilbert}.")

    numbers = [hilbert.table(species.occupation) for species in hilbert.species]
    if hilbert.states_differ or any((table != table[0]).any() for table in numbers):
        raise ValueError(f"a spin flip needs the same local states on all sites; the space is {hilbert}.")

    def content(state: int, sign: int) -> list[tuple[str, int, int]]:
        """Particles of a local state: what they are, how many, 2 S^z; electrons differ in their spin alone."""
        found = []
        for species, number in zip(hilbert.species, numbers, strict=True):
            if number[0, state]:
                name = "" if species.kind == "fermion" and species.twice_sz is not None else species.name
                spin = 0 if species.twice_sz is None else int(hilbert.table(species.twice_sz)[0, state])
                found.append((name, int(number[0, state]), sign * spin))
        return sorted(found)

    states = [content(state, 1) for state in range(hilbert.local_dim)]
    flipped = [content(state, -1) for state in range(hilbert.local_dim)]
    if any(states.count(row) != 1 for row in flipped):
        raise ValueError(f"reversing the spins of the local states {hilbert.local_states} does not permute them.")
    return tuple(states.index(row) for row in flipped)


def particle_hole(hilbert: HilbertSpace, *, odd: bool = False) -> Symmetry:
    """Local states in reverse order: empty <-> full. For bases in which the wanted state has no fermionic signs."""
    return _reversal(hilbert, tuple(reversed(range(hilbert.local_dim))), odd, False)


def _reversal(hilbert: HilbertSpace, flipped: tuple[int, ...], odd: bool, fermions: bool) -> Symmetry:
    sites = tuple(range(hilbert.n_sites))
    if flipped == tuple(range(hilbert.local_dim)):  # one local state
        if odd:
            raise ValueError(f"a reversal that changes no local state has no odd states; the space is {hilbert}.")
        return of_sites(np.array([sites]), hilbert.local_dim, fermions)
    return Symmetry(
        permutations=(sites, sites),
        maps=(tuple(range(hilbert.local_dim)), flipped),
        angles=(0.0, 0.5 if odd else 0.0),
        fermions=fermions,
    )
