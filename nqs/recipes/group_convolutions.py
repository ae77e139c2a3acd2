"""Convolutions over the space group with Markov chains: the choice for frustrated spins on lattices beyond sums.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

from collections.abc import Mapping
from typing import Any

import torch

from nqs.models import GroupConvolutionalConfig, MarshallSign, sector_of
from nqs.protocols import Hamiltonian, ReferencePhase, WavefunctionConfig, is_stoquastic, lattice_of
from nqs.recipes.foreign import Foreign, own_options
from nqs.recipes.known_signs import Signs
from nqs.recipes.samplers import LISTED
from nqs.symmetry.group import Symmetry
from nqs.symmetry.of_hamiltonian import symmetries_of

# Compared in docs/choosing.md: on a GPU widths of 4, 6 and 8 with 2, 3 and 4 layers ended at 4.8e-4, 3.2e-4 and 1.3e-4.
# On a CPU 20 steps of 256 samples of the 4x4 J1-J2 lattice, J2 = 0.5, ended at 7.2e-2, 6.3e-3 and 1.25e-2 with widths
# of 2, 4 and 8 (10, 13 and 23 CPU s), at 1.2e-2, 6.3e-3 and 9.2e-2 with one, two and three layers (10, 13 and 18 s, one
# seed; `python scripts/recipe_study.py --number group_convolutions.WIDTH --values 2 4 8 --problems j1j2-4x4 --network
# group-convolutional --distinct 256 --steps 20`, and so on).
WIDTH, LAYERS = {"cpu": 4, "cuda": 8}, {"cpu": 2, "cuda": 4}
# One exponential of a group element, with phases as large as logarithmic moduli at the start (docs/choosing.md).
EXPONENTIALS, INITIAL_PHASES = 1, 1.0
OF_OTHERS = Foreign("group convolutions have no such option; leave it out.")
FOREIGN = dict.fromkeys(("attention", "determinants", "heads", "mlp_ratio"), OF_OTHERS)
# Elements of the group, at most: per-configuration gradients cost the square of their number. The 6x6 lattice, of 576
# elements, made 88 steps in three and a half minutes of a core (docs/choosing.md): 2,048 would leave seven. Square
# lattices up to 10x10 (1,600 with the spin flip) are below.
LARGEST_GROUP = 2_048


def options(given: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """Size, precision and seed as options of `GroupConvolutionalConfig`, those that are not given chosen.

    Raises:
        ValueError: options that group convolutions do not have.
    """
    kind = torch.device(device).type
    size = {"width": WIDTH[kind], "layers": LAYERS[kind], "exponentials": EXPONENTIALS}
    return size | {"initial_phases": INITIAL_PHASES, "dtype": "float32"} | own_options(given, FOREIGN)


def choice(
    hamiltonian: Hamiltonian,
    network: str | None,
    given: Mapping[str, Any],
    known: Signs,
    device: torch.device | str,
    *,
    symmetric: bool,
) -> tuple[WavefunctionConfig, str, str] | None:
    """Group convolutions, fully resolved, why, and what is said of their symmetry; None for another state.

    Spins with Marshall's signs that are not exact, on lattices of two or more dimensions with at least as many
    symmetries as sites, whose orbits are too many to be listed.

    Args:
        given: wishes, see `nqs.recipes.model.NetworkOptions`.
        known: signs, whose character is that of the state.
        symmetric: whether a symmetry may be used.

    Raises:
        ValueError: group convolutions are wanted without a symmetry, or in a sector that is not known.
    """
    if network == "group-convolutional":
        group = _requested(hamiltonian, known, symmetric)
        return *_resolved(group, given, known.reference, device), "group convolutions, as requested"
    lattice, hilbert = lattice_of(hamiltonian), hamiltonian.hilbert
    if network is not None or not symmetric or FOREIGN.keys() & given.keys():
        return None
    if known.phase == "zero" or not isinstance(known.reference, MarshallSign):
        return None
    if lattice is None or sum(cells > 1 for cells in lattice.shape) < 2:
        return None
    group = _sector(hamiltonian, known.reference)
    if not hilbert.n_sites <= group.order <= LARGEST_GROUP:
        return None
    if hilbert.dimension // group.order <= LISTED[torch.device(device).type]:
        return None
    why = (
        "group convolutions and Markov chains: frustrated spins on a lattice of several dimensions, and a sector too "
        "large for its orbits"
    )
    return *_resolved(group, given, known.reference, device), why


def _requested(hamiltonian: Hamiltonian, known: Signs, symmetric: bool) -> Symmetry:
    """The group of requested group convolutions.

    Raises:
        ValueError: there is none.
    """
    instead = "choose network='transformer'"
    if not symmetric:
        raise ValueError(
            f"network='group-convolutional' is made of a symmetry: leave out symmetry='none', or {instead}."
        )
    if known.reference is None and not is_stoquastic(hamiltonian):
        raise ValueError(
            "network='group-convolutional': signs of the ground state, and so its symmetry sector, are not known: "
            f"give a reference phase, or GroupConvolutionalConfig(symmetry=...) with the characters, or {instead}."
        )
    group = _sector(hamiltonian, known.reference)
    if group.order == 1:
        raise ValueError(
            "network='group-convolutional' needs a symmetry that is known to commute with the Hamiltonian, such as "
            f"that of a lattice; {instead}."
        )
    if group.order > LARGEST_GROUP:
        raise ValueError(
            f"network='group-convolutional': the group has {group.order:,} elements, and gradients cost the square of "
            f"their number; at most {LARGEST_GROUP:,} are allowed. Give GroupConvolutionalConfig(symmetry=...) with a "
            f"subgroup, or {instead}."
        )
    return group


def _resolved(
    group: Symmetry, given: Mapping[str, Any], reference: ReferencePhase | None, device: torch.device | str
) -> tuple[WavefunctionConfig, str]:
    """The configuration, and what is said of its symmetry."""
    odd = sum(angle != 0 for angle in group.angles)
    text = f"{group.order} symmetries in the network, {f'{odd} of them odd' if odd else 'all even'}"
    return GroupConvolutionalConfig(symmetry=group, reference=reference, **options(given, device)), text


def _sector(hamiltonian: Hamiltonian, reference: ReferencePhase | None) -> Symmetry:
    """The symmetries of the Hamiltonian, in the sector of the reference; the trivial one without a reference."""
    group = symmetries_of(hamiltonian)
    return group if reference is None else sector_of(reference, group, hamiltonian.hilbert)
