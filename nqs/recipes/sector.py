"""The symmetry sector of the ground state, and how a model is restricted to it.

Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from nqs.estimators.estimate import with_decimals
from nqs.exact.projection import MAX_DIMENSION, lowest_sector
from nqs.hilbert import HilbertSpace, count_text
from nqs.models import (
    OnOrbits,
    ProjectedDeterminant,
    SlaterDeterminant,
    Symmetrised,
    TransformerConfig,
    hartree_fock,
    projected_on_few,
    sector_of,
)
from nqs.protocols import Hamiltonian, ReferencePhase, WavefunctionConfig, is_stoquastic, max_connected
from nqs.recipes.model import network_of
from nqs.recipes.samplers import LISTED, averages_in_steps
from nqs.recipes.stages import IMAGES, point_group, subgroup_of_evaluation, subgroup_of_steps
from nqs.symmetry.group import Symmetry
from nqs.symmetry.of_hamiltonian import symmetries_of

# Orbits up to which states without a phase head live on orbits: more would be sampled, and the lexicographic
# representative is a discontinuous function of the configuration. Sampled on its 13,648 orbits the Ising ring of 20
# sites ended at 2e-4, averaged at 1e-6 to 2e-6; of the 4,752 orbits of ten bosons 2e-5 in 76 s, averaged 2e-4 in 42 s.
FEW_ORBITS = {"cpu": 6_000, "cuda": 32_000}
# Images of a configuration where a phase is learned on top of a reference, at most; on a CPU a step would take seconds.
# In equal time (a quarter of an H200 for 7.9 minutes) the 6x6 J1-J2 lattice, J2 = 0.5, ended at 5.6e-3 with 8 images of
# 8,000 configurations (156 steps), at 9.6e-3 with 16 images in the evaluation alone (1,133 steps), at 2.1e-2 with none.
IMAGES_OF_PHASES = {"cpu": 1, "cuda": 12}
# The same for fermions with nodes, whose phases begin as those of a determinant; and times sites x connected
# configurations, the cost of an image, so that large systems make steps enough. Autoregressive, in equal time: the 4x4
# Hubbard lattice with 5 + 5 electrons, U = 8, ended at 5.4e-2 without an average, at 2.65e-2 with the 8 symmetries that
# keep a site, at 2.35e-2 and 2.2e-2 with the 8 and 16 symmetries of `projected_on_few`, and at 2.4e-2 with 32 (six runs
# of 4.3 minutes on two H200, errors 1e-3 and less). The 4x8 lattice with 14 + 14 ended at -21.875(6) with 4 images of
# 16,000 configurations (104 steps, 8.1 minutes of an H200), at -21.602(13) with 16 of 4,000 (159 steps, 9.2 minutes),
# at -21.73 without, of 1,024, and at -21.987(4) of 8,000 (8.2 and 6.1 minutes; one seed, and not compared elsewhere);
# in a third of an H200 for six to seven minutes at -21.712(11), -21.490(44), -21.577(16), -21.413(24) and -21.740(6)
# with 4 images of 4,000 and of 1,000, 8 of 2,000, 16 of 1,000, and none. On a core of a CPU the 4x4 lattice ended at
# 7.6e-2 without, at 5.6e-2 with 4 images of 400 configurations, at 8.5e-2 with 8 of 750 (four minutes, errors 2e-3 to
# 5e-3), and the 3x4 lattice, sampled, at 1.04e-1, 7.7e-2 and 6.6e-2 (three minutes, errors 3e-3 to 8e-3); the 4x8
# lattice at -20.70(11) with 4 images, at -21.18(5) without and -20.78(4) with 1,000 configurations instead of 256, t-V
# on 6x6 sites with 13 fermions, V = 1, at -21.959(10) with 2 images, at -21.884(9) without (four minutes). `nqs run
# fermi-hubbard --shape 4 4 --n-up 5 --n-down 5 --U 8 --model.network transformer`, with `--symmetry none` for the
# first.
IMAGES_OF_NODES, COST_OF_NODES = {"cpu": 4, "cuda": 16}, {"cpu": 6_000, "cuda": 2**14}


@dataclass(frozen=True, kw_only=True)
class Sector:
    """How a model is restricted to the symmetry sector of the ground state.

    Attributes:
        why: one line.
        symmetry: the group with the characters of the sector; None: no symmetry is used.
        averaged: amplitudes are averages over images; else the model lives on orbits.
        trained: elements of the group that steps average over; None: all.
        projected: the determinant that gives the signs, projected on the sector.
    """

    why: str
    symmetry: Symmetry | None = None
    averaged: bool = False
    trained: tuple[int, ...] | None = None
    projected: ProjectedDeterminant | None = None

    def restrict(self, model: Any) -> WavefunctionConfig:
        """The model in the sector."""
        if self.projected is not None:  # its amplitudes are no start of an autoregressive state
            start = {"start": "uniform"} if isinstance(model, TransformerConfig) else {}
            model = replace(model, reference=self.projected, **start)
        if self.symmetry is None:
            restricted: WavefunctionConfig = model
            return restricted
        if self.averaged:
            return Symmetrised(base=model, symmetry=self.symmetry, trained=self.trained)
        return OnOrbits(base=model, symmetry=self.symmetry)

    def terms(self, hilbert: HilbertSpace, device: torch.device | str) -> int:
        """Configurations, or orbits, of a sum."""
        if self.symmetry is None or self.averaged:
            return hilbert.dimension
        return self.symmetry.number_of_orbits(hilbert, device)


def symmetrised(
    model: WavefunctionConfig, hamiltonian: Hamiltonian, device: torch.device | str
) -> tuple[WavefunctionConfig, str]:
    """The model in the symmetry sector of the ground state, see `sector_for`.

    Returns:
        The model, symmetrised or as it was, and one line that says why.
    """
    network: Any = network_of(model)
    phase = network.phase if isinstance(network, TransformerConfig) else None
    found = sector_for(hamiltonian, getattr(network, "reference", None), phase, device)
    return found.restrict(model), found.why


def sector_for(
    hamiltonian: Hamiltonian,
    reference: ReferencePhase | None,
    phase: Literal["learned", "zero"] | None,
    device: torch.device | str,
) -> Sector:
    """The symmetry sector of the ground state, and whether a model lives on its orbits or is averaged.

    On the orbits of the sector where these are few, else as an average over images, which is a smooth function of the
    configuration, while the lexicographic representative is a discontinuous one: sampled from its 13,648 orbits, the
    Ising ring of 20 sites ended at 2e-4 on a CPU, and averaged over all symmetries at 1e-6 to 2e-6; twelve bosons on a
    ring were at 3e-2 after 136 s and ended at 3e-4 after 49 s. Where orbits are few it is the other way round: the
    4,752 of ten bosons on a ring, sampled, reach 2e-5 in 76 s, and their average 2e-4 in 42 s.

    The sector is known where the ground state is positive, where a reference phase obeys the symmetry, or from the
    projected energies of a mean-field determinant (nqs.exact.projection).

    Args:
        reference: signs of the model.
        phase: of a transformer; None for other models, which are not averaged.
    """
    hilbert, kind = hamiltonian.hilbert, torch.device(device).type
    if isinstance(reference, SlaterDeterminant):
        if hilbert.dimension > MAX_DIMENSION:
            return Sector(why=f"no symmetry used: projected energies need dimensions up to {MAX_DIMENSION:,}")
        group = symmetries_of(hamiltonian, fermions=True)
    elif reference is not None:
        group, why = sector_of(reference, symmetries_of(hamiltonian), hilbert), "sector of the reference phase"
    elif is_stoquastic(hamiltonian):
        group, why = symmetries_of(hamiltonian), "positive ground state"
    else:
        return Sector(why="no symmetry used: the sector of the ground state is not known")
    if group.order == 1:
        return Sector(why="no symmetry used: there is none")
    at_least = hilbert.dimension // group.order
    known = phase == "zero" and not isinstance(reference, SlaterDeterminant)
    if known and (at_least > FEW_ORBITS[kind] or group.number_of_orbits(hilbert, device) > FEW_ORBITS[kind]):
        trained = subgroup_of_steps(group, hamiltonian, IMAGES[kind])
        steps_too = "" if trained is None else f", {len(trained)} of them in steps"
        if not averages_in_steps(hamiltonian, group.order if trained is None else len(trained), device):
            group, trained, steps_too = subgroup_of_evaluation(group, hamiltonian), (0,), ", in the evaluation alone"
        text = f"average over {group.order} symmetries ({why}){steps_too}"
        return Sector(symmetry=group, averaged=True, trained=trained, why=text)
    if at_least > LISTED[kind] and phase is not None and not isinstance(reference, SlaterDeterminant):
        few = point_group(group, most=IMAGES_OF_PHASES[kind])
        if few.order > 1:
            text = f"average over {few.order} symmetries that keep a site ({why}), phases from their sum"
            return Sector(symmetry=few, averaged=True, why=text)
    if at_least > LISTED[kind]:
        orbits = f"{count_text(hilbert.dimension)} / {group.order} orbits"
        return Sector(why=f"no symmetry used: {orbits} are over {LISTED[kind]:,}")
    projected = None
    if isinstance(reference, SlaterDeterminant):
        determinants = [reference, *_other_solutions(hamiltonian, reference)]
        determinant, group, energy = lowest_sector(hamiltonian, group, determinants, device=device, check=False)
        why = f"projected Hartree-Fock E = {with_decimals(energy)}"
        projected = ProjectedDeterminant(determinant=determinant, symmetry=group, hilbert=hilbert)
        if group.order == 1:
            text = "no symmetry used: the ground state is in no sector of real characters"
            return Sector(projected=projected, why=text)
    odd = sum(angle != 0 for angle in group.angles)
    characters = f"{odd} of them odd" if odd else "all even"
    return Sector(symmetry=group, projected=projected, why=f"{group.order} symmetries, {characters} ({why})")


def averaged_with_nodes(
    hamiltonian: Hamiltonian, determinant: SlaterDeterminant, device: torch.device | str
) -> Sector | None:
    """An average over few symmetries of a model with the phases of a determinant; None without any.

    The phase is that of the projection on the sector in which the projected determinant has the lowest energy, so that
    the run begins with the nodes of projected Hartree-Fock.

    Args:
        determinant: real orbitals.
    """
    kind = torch.device(device).type
    cost = hamiltonian.hilbert.n_sites * max_connected(hamiltonian)
    most = min(IMAGES_OF_NODES[kind], COST_OF_NODES[kind] // cost)
    if most < 2:
        return None
    group = symmetries_of(hamiltonian, fermions=True)
    found = projected_on_few(hamiltonian, group, determinant, most)
    if found is None:
        return None
    symmetry, energy = found
    text = f"average over {symmetry.order} symmetries (projected Hartree-Fock E = {with_decimals(energy)})"
    return Sector(symmetry=symmetry, averaged=True, why=f"{text}, phases from their sum")


def _other_solutions(hamiltonian: Hamiltonian, reference: SlaterDeterminant) -> Sequence[SlaterDeterminant]:
    """Further mean-field solutions: the lowest one may lack the sector of the ground state."""
    try:
        return [found for found in hartree_fock(hamiltonian).solutions if found != reference]
    except (ValueError, RuntimeError):  # a reference of the user's own, for what Hartree-Fock here does not treat
        return ()
