"""Default choices from the size of the problem and the device. Measured with scripts/bose_hubbard.py (see README)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from nqs.hilbert import HilbertSpace
from nqs.models import (
    SlaterDeterminant,
    Symmetrised,
    TransformerConfig,
    WithReference,
    hartree_fock,
    lowest_sector,
    sector_of,
)
from nqs.protocols import Hamiltonian, Sampler, SymmetricWavefunction, Wavefunction, WavefunctionConfig
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry import symmetries_of

# What a step of a small transformer affords in about a second: two CPU cores, one GPU.
EXHAUSTIVE_DIMENSION = {"cpu": 16_000, "cuda": 4_000_000}  # network evaluations for a sum over the whole sector
EXHAUSTIVE_ROWS = {"cpu": 1_000, "cuda": 16_000}  # configurations, or orbits of a symmetry, in that sum
DISTINCT = {"cpu": 1_500, "cuda": 8_000}
STEPS = {"cpu": 200, "cuda": 400}
EVALUATIONS = {"cpu": 800_000, "cuda": 12_000_000}  # in all steps of sums over the whole sector
FEWEST_STEPS, EXACT_STEPS = 100, 300  # of such runs
PROJECTED = 10**8  # determinants evaluated to compare mean-field solutions
EVALUATION_DISTINCT = {"cpu": 2**14, "cuda": 2**18}


def default_device() -> str:
    """ "cuda" where there is a GPU, else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: no such device here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device {name!r} is unknown: choose 'cpu' or 'cuda'.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} was asked for, but PyTorch finds {torch.cuda.device_count()} GPUs here: use 'cpu', or "
            "install a CUDA build of PyTorch and its driver."
        )
    return device


def steps(device: torch.device | str, dimension: int | None = None) -> int:
    """Optimisation steps of a run: more where they are cheap.

    Args:
        dimension: of a sector that every step sums over; None for sampling.
    """
    kind = torch.device(device).type
    if dimension is None:
        return STEPS[kind]
    return max(FEWEST_STEPS, min(EXACT_STEPS, EVALUATIONS[kind] // dimension))


def transformer(phase: Literal["learned", "zero"] = "learned", device: str | None = None) -> TransformerConfig:
    """A small network for two CPU cores, a wider one for a GPU.

    Gradients may be rounded to float32, amplitudes not: the noise of their local energies would be fitted with large
    moves of the parameters where the diagonal shift is small.
    """
    width = 32 if torch.device(device or default_device()).type == "cuda" else 16
    return TransformerConfig(width=width, heads=width // 8, phase=phase, dtype="mixed")


def affords_sum(hilbert: HilbertSpace, device: torch.device | str, order: int = 1) -> bool:
    """Whether every step can sum over a whole sector, of which a symmetry of that order leaves one row an orbit."""
    kind = torch.device(device).type
    return hilbert.dimension <= min(EXHAUSTIVE_DIMENSION[kind], order * EXHAUSTIVE_ROWS[kind])


def training_sampler(wavefunction: Wavefunction, device: torch.device | str) -> Sampler:
    """Every configuration where the sector is small enough, else a tree with as many distinct ones as pay off."""
    order = wavefunction.symmetry.order if isinstance(wavefunction, SymmetricWavefunction) else 1
    if affords_sum(wavefunction.hilbert, device, order):
        return ExhaustiveSampler()
    return TreeSampler(n_distinct=max(1, DISTINCT[torch.device(device).type] // order))


def symmetrised(
    model: WavefunctionConfig, hamiltonian: Hamiltonian, device: torch.device | str
) -> tuple[WavefunctionConfig, str]:
    """The model in the symmetry sector of the ground state, where a sum over the whole sector then becomes affordable.

    The sector is known where the ground state is positive, where a reference phase obeys the symmetry, or from the
    projected energies of a mean-field determinant (nqs.models.sectors).

    Returns:
        The model, symmetrised or as it was, and one line that says why.
    """
    hilbert, kind = hamiltonian.hilbert, torch.device(device).type
    if hilbert.dimension > EXHAUSTIVE_DIMENSION[kind]:
        return model, f"no symmetry used: the dimension is over {EXHAUSTIVE_DIMENSION[kind]:,}"
    reference = model.reference if isinstance(model, WithReference) else None
    if isinstance(reference, SlaterDeterminant):
        group = symmetries_of(hamiltonian, fermions=True)
        determinants = [reference, *_other_solutions(hamiltonian, reference, group.order)]
        projected, energy = lowest_sector(hamiltonian, group, determinants, device=device)
        group, why = projected.symmetry, f"projected Hartree-Fock E = {energy:.8f}"
        model = replace(model, reference=projected)  # type: ignore[type-var]
    elif reference is not None:
        group, why = sector_of(reference, symmetries_of(hamiltonian), hilbert), "sector of the reference phase"
    elif getattr(hamiltonian, "is_stoquastic", False):
        group, why = symmetries_of(hamiltonian), "positive ground state"
    else:
        return model, "no symmetry used: the sector of the ground state is not known"
    if group.order == 1 or not affords_sum(hilbert, device, group.order):
        return model, f"no symmetry used: {group.order} elements leave too many orbits"
    odd = sum(angle != 0 for angle in group.angles)
    sector = f"{odd} of them odd" if odd else "all even"
    return Symmetrised(base=model, symmetry=group), f"{group.order} symmetries, {sector} ({why})"


def _other_solutions(hamiltonian: Hamiltonian, reference: SlaterDeterminant, order: int) -> Sequence[SlaterDeterminant]:
    """Further mean-field solutions, where that is cheap: the lowest one may lack the sector of the ground state."""
    if hamiltonian.hilbert.dimension * order > PROJECTED:
        return ()
    try:
        return [found for found in hartree_fock(hamiltonian).solutions if found != reference]
    except (ValueError, RuntimeError):  # a reference of the user's own, for what Hartree-Fock here does not treat
        return ()


def evaluation_sampler(device: torch.device | str) -> Sampler:
    """Independent samples for the quoted energy: enough to reach many more distinct configurations than a step."""
    return TreeSampler(n_distinct=EVALUATION_DISTINCT[torch.device(device).type])
