"""Convolutions with Markov chains: the choice for positive ground states with conserved charges beyond one dimension.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch

from nqs.models import ConvolutionalConfig, Projected, sector_of
from nqs.protocols import Hamiltonian, ReferencePhase, WavefunctionConfig, lattice_of
from nqs.recipes.foreign import Foreign, own_options
from nqs.recipes.samplers import LARGEST_SUM, averages_in_steps
from nqs.recipes.stages import IMAGES, point_group, subgroup_of_steps
from nqs.symmetry.of_hamiltonian import symmetries_of
from nqs.symmetry.pairs import classes_of_pairs, classes_of_sites

# Sizes of the runs with convolutions in docs/accuracy.md; those of a GPU were not compared with others. On a CPU no
# other size was better beyond the error bars on both problems: relative errors after 40 steps of 128 samples, and CPU
# seconds of the spins with the evaluation,
#                  16 bosons on 4x4 sites, U = 8   6x6 Heisenberg lattice     seconds
#   width 8, 16, 32  7.0e-4, 2.0e-4, 1.3e-4        5.9e-3, 9.1e-3, 7.3e-3     20, 29, 42
#   layers 1, 2, 3   2.6e-4, 2.0e-4, 7.2e-4        1.1e-2, 9.1e-3, 5.7e-3     14, 29, 32
#   ratio 1, 2, 4    -0.7e-4, 2.0e-4, 3.7e-4       6.5e-3, 9.1e-3, 6.8e-3     24, 29, 32
# with errors of 3e-4 to 7e-4 and 6e-4 to 9e-4; with seed 1 the spins at 7.3e-3 and 9.7e-3 with widths of 8 and 16
# (`python scripts/recipe_study.py --number convolutions.WIDTH --values 8 16 32 --problems heisenberg-6x6
# bose-hubbard-4x4 --steps 40 --batches 16`, and so on). After 2.5 minutes of a core widths of 8 and 16 left the spins
# at 5.2e-4 and 5.5e-4 (seed 0; 1,070 and 700 steps), at 7.7e-4 and 3.9e-4 (seed 1; 1,442 and 723; errors of 1e-4), the
# bosons at 9e-5 +- 7e-5 and 9e-5 +- 2e-4 (seed 0), at 1.5e-4 +- 1e-4 and -4e-5 +- 2e-4 (seed 1, the second on a busy
# core; `--values 8 16 --problems heisenberg-6x6 bose-hubbard-4x4 --minutes 2.5 --seeds 0 1`).
WIDTH, LAYERS, MLP_RATIO = {"cpu": 16, "cuda": 32}, {"cpu": 2, "cuda": 2}, 2
# Images of the evaluation, at most. On a CPU they leave too few samples: of three minutes of the bosons on 4x4 sites an
# evaluation with 8 images had 256 samples, and an error bar of 9e-4 of the energy.
EVALUATION_IMAGES = {"cpu": 1, "cuda": 16}

# Devices on which averages over a symmetry in steps of a transformer come first, where they are affordable. On a CPU
# such steps are few: of 16 bosons on 4x4 sites, U = 8, three minutes of a busy core ended at -10.3(2.7) after six, and
# at -26.836(17) with 119 steps of convolutions (exact -26.825).
AVERAGES = ("cuda",)
FOREIGN = {
    "attention": Foreign("convolutions have weights by displacement ('factored').", only="factored"),
    "phase": Foreign("convolutions are positive; choose network='transformer'.", only="zero"),
    "determinants": Foreign("convolutions have none; choose network='determinant'."),
}


def options(given: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """Size, precision and seed as options of `ConvolutionalConfig`, those that are not given chosen.

    Raises:
        ValueError: options that convolutions do not have.
    """
    kind = torch.device(device).type
    size = {"width": WIDTH[kind], "layers": LAYERS[kind], "mlp_ratio": MLP_RATIO}
    chosen = size | {"dtype": "float32"} | own_options(given, FOREIGN)
    return {"heads": chosen["width"]} | chosen


def reason(
    hamiltonian: Hamiltonian,
    network: str | None,
    given: Mapping[str, Any],
    phase: Literal["learned", "zero"],
    device: torch.device | str,
) -> str:
    """Why the state is a network of convolutions, one line; "" for an autoregressive transformer.

    Ground states that are positive, after signs that are known exactly, in sectors of conserved charges beyond sums, in
    the evaluation too, on lattices of two or more dimensions: there the energies were lower than those of a
    transformer. Where nothing is conserved the transformer was better (transverse-field Ising on 12x12 sites: 7.0e-6
    against 1.9e-4, docs/accuracy.md), in one dimension the order of the sites is natural for it, and where steps can
    average over a symmetry on a GPU it reaches 1.2e-5 (6x6 Heisenberg lattice).

    Raises:
        ValueError: convolutions are wanted where signs are not known exactly, or without a lattice.
    """
    lattice = lattice_of(hamiltonian)
    if network == "convolutional":
        if phase != "zero" or lattice is None:
            raise ValueError(
                "network='convolutional' needs a lattice and a ground state that is positive, or whose signs a rule "
                "gives exactly; choose network='transformer'."
            )
        return "convolutions, as requested"
    if network is not None or phase != "zero" or lattice is None or "attention" in given or "phase" in given:
        return ""
    hilbert = hamiltonian.hilbert
    if not any(charge.target is not None and charge.modulus is None for charge in hilbert.charges):
        return ""
    if sum(cells > 1 for cells in lattice.shape) < 2 or hilbert.dimension <= LARGEST_SUM:
        return ""
    if torch.device(device).type in AVERAGES and _averages_in_steps(hamiltonian, device):
        return ""
    return (
        "convolutions and Markov chains: a positive ground state with conserved charges on a lattice of several "
        "dimensions, and a sector too large for sums and for averages over a symmetry"
    )


def _averages_in_steps(hamiltonian: Hamiltonian, device: torch.device | str) -> bool:
    """Whether steps of a transformer can afford an average over a symmetry (nqs.recipes.sector)."""
    group, place = symmetries_of(hamiltonian), torch.device(device)
    trained = subgroup_of_steps(group, hamiltonian, IMAGES[place.type])
    images = group.order if trained is None else len(trained)
    return images > 1 and averages_in_steps(hamiltonian, images, place)


def convolutional(
    hamiltonian: Hamiltonian,
    given: Mapping[str, Any],
    reference: ReferencePhase | None,
    device: torch.device | str,
    *,
    symmetric: bool = True,
) -> tuple[WavefunctionConfig, str]:
    """Convolutions, fully resolved, and what is said of their symmetry.

    Args:
        given: wishes, see `nqs.recipes.model.NetworkOptions`.
        reference: the exact signs.
        symmetric: project on the symmetries that keep a site where it is, in the evaluation.
    """
    kind, lattice = torch.device(device).type, lattice_of(hamiltonian)
    assert lattice is not None
    group = symmetries_of(hamiltonian)
    sites = classes_of_sites(lattice, group).tolist()
    base = ConvolutionalConfig(
        **options(given, device),
        reference=reference,
        displacements=tuple(map(tuple, classes_of_pairs(lattice).tolist())),
        sites=tuple(sites) if len(set(sites)) > 1 else (),
    )
    sector = group if reference is None else sector_of(reference, group, hamiltonian.hilbert)
    images = point_group(sector, EVALUATION_IMAGES[kind])
    if not symmetric or images.order == 1:
        return base, "weights by displacement"
    text = f"weights by displacement, and a projection on {images.order} symmetries in the evaluation"
    return Projected(base=base, symmetry=images, trained=(0,)), text
