"""Convolutions over the space group with Markov chains: the choice for frustrated spins on lattices beyond sums.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

from collections.abc import Mapping
from typing import Any

import torch

from nqs.models import GroupConvolutionalConfig, MarshallSign, sector_of
from nqs.protocols import Hamiltonian, ReferencePhase, WavefunctionConfig, lattice_of
from nqs.recipes.known_signs import Signs
from nqs.recipes.samplers import LISTED
from nqs.symmetry.group import Symmetry
from nqs.symmetry.of_hamiltonian import symmetries_of

# Compared in docs/choosing.md: on a GPU widths of 4, 6 and 8 with 2, 3 and 4 layers ended at 4.8e-4, 3.2e-4 and 1.3e-4.
WIDTH, LAYERS = {"cpu": 4, "cuda": 8}, {"cpu": 2, "cuda": 4}
OF_OTHERS = {"heads", "attention", "mlp_ratio", "determinants"}  # options of other networks
# Elements of the group, at most: per-configuration gradients cost the square of their number.
LARGEST_GROUP = 2_048


def refuse_impossible(given: Mapping[str, Any]) -> None:
    """Raises ValueError: options that group convolutions do not have, or impossible values."""
    trivial = Symmetry(permutations=((0,),), maps=((0, 1),), angles=(0.0,))
    GroupConvolutionalConfig(symmetry=trivial, **options(given))


def options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options as those of `GroupConvolutionalConfig`.

    Raises:
        ValueError: options that group convolutions do not have.
    """
    for name in sorted(OF_OTHERS & set(given)):
        raise ValueError(f"{name}={given[name]!r}: group convolutions have no such option; leave it out.")
    return dict(given)


def reason(
    hamiltonian: Hamiltonian, network: str | None, given: Mapping[str, Any], known: Signs, device: torch.device | str
) -> str:
    """Why the state is a network of group convolutions, one line; "" for another one.

    Spins with Marshall's signs that are not exact, on lattices of two or more dimensions, where the orbits of the
    space group are too many to be listed.

    Raises:
        ValueError: group convolutions are wanted without a symmetry.
    """
    group = _sector(hamiltonian, known.reference) if network in (None, "group-convolutional") else None
    if group is None:
        return ""
    if network is not None:
        if group.order == 1:
            raise ValueError(
                "network='group-convolutional' needs a symmetry that is known to commute with the Hamiltonian, such as "
                "that of a lattice; choose network='transformer'."
            )
        return "group convolutions, as requested"
    lattice, hilbert = lattice_of(hamiltonian), hamiltonian.hilbert
    if known.phase == "zero" or not isinstance(known.reference, MarshallSign) or OF_OTHERS & set(given):
        return ""
    if lattice is None or sum(cells > 1 for cells in lattice.shape) < 2:
        return ""
    if not 1 < group.order <= LARGEST_GROUP or hilbert.dimension // group.order <= LISTED[torch.device(device).type]:
        return ""
    return (
        "group convolutions and Markov chains: frustrated spins on a lattice of several dimensions, and a sector too "
        "large for its orbits"
    )


def group_convolutional(
    hamiltonian: Hamiltonian, given: Mapping[str, Any], reference: ReferencePhase | None, device: torch.device | str
) -> tuple[WavefunctionConfig, str]:
    """Group convolutions, fully resolved, and what is said of their symmetry.

    Args:
        given: wishes, see `nqs.recipes.model.NetworkOptions`.
        reference: signs, whose character is that of the state.
    """
    kind = torch.device(device).type
    group = _sector(hamiltonian, reference)
    chosen: dict[str, Any] = {"width": WIDTH[kind], "layers": LAYERS[kind], "dtype": "float32"} | options(given)
    odd = sum(angle != 0 for angle in group.angles)
    text = f"{group.order} symmetries in the network, {f'{odd} of them odd' if odd else 'all even'}"
    return GroupConvolutionalConfig(symmetry=group, reference=reference, **chosen), text


def _sector(hamiltonian: Hamiltonian, reference: ReferencePhase | None) -> Symmetry:
    """The symmetries of the Hamiltonian, in the sector of the reference; the trivial one without a reference."""
    group = symmetries_of(hamiltonian)
    return group if reference is None else sector_of(reference, group, hamiltonian.hilbert)
