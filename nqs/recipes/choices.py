"""Default choices from the size of the problem and the device. Measured with scripts/bose_hubbard.py (see README)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from nqs.exact.projection import MAX_DIMENSION, lowest_sector
from nqs.lattice.lattice import Lattice
from nqs.models import (
    OnOrbits,
    SlaterDeterminant,
    Symmetrised,
    TransformerConfig,
    hartree_fock,
    sector_of,
)
from nqs.protocols import Hamiltonian, ReferencePhase, SamplerConfig, Wavefunction, WavefunctionConfig
from nqs.samplers import ExhaustiveSampler, TreeSampler
from nqs.symmetry.group import Symmetry
from nqs.symmetry.of_hamiltonian import symmetries_of
from nqs.vmc.warm_up import WarmUp

# What a step of a small transformer affords in about a second: two CPU cores, one GPU.
EXHAUSTIVE_ROWS = {"cpu": 3_000, "cuda": 32_000}  # configurations, or orbits of a symmetry, in a sum over the sector
DISTINCT = {"cpu": 1_500, "cuda": 8_000}
STEPS = {"cpu": 200, "cuda": 400}
EXACT_STEPS = {"cpu": 80, "cuda": 150}  # of runs that sum over the whole sector: they converge geometrically,
SLOW_STEPS = 400  # but more slowly where there are fewer parameters than amplitudes and phases to find
# Sums of so many terms and more come after a warm-up from a share of them, and are fewer: each takes long.
LONG_SUM = {"cpu": 600, "cuda": 4_000}
WARM_UP_DISTINCT, LEAST_DISTINCT = 1 / 12, 200
WARM_UP_SHARE = {"cpu": 0.65, "cuda": 0.35}
# For estimates of time: operations in a second, and seconds of a step besides them, of small networks.
RATE, OVERHEAD = {"cpu": 5e10, "cuda": 4e13}, {"cpu": 0.15, "cuda": 0.2}
SHARE_OF_TIME, LEAST_STEPS = 0.8, 20  # of --minutes for steps, and as many at least
NARROW, PARAMETERS = 16, 17.5  # width where time is short or images are many, parameters in units of it squared
# Width of the network, and of averages on a GPU or where exact sums have more rows than so many.
WIDTH, WIDE, WIDE_ROWS = 32, 48, 16_000
LONG_SUM_STEPS = {"cpu": 76, "cuda": 150}  # twice as many where a phase is learned
FEW_ORBITS = {"cpu": 6_000, "cuda": 32_000}  # of which the samples of a step are a large part
LISTED = {"cpu": 2 * 10**4, "cuda": 10**5}  # orbits, about, that samples are drawn from where a phase is learned
# Symmetric averages of a network: images of a configuration in steps, at most, and of all samples of a step; steps.
IMAGES, ALL_IMAGES = {"cpu": 20, "cuda": 12}, {"cpu": 6_000, "cuda": 64_000}
AVERAGED_STEPS = {"cpu": 120, "cuda": 600}
AVERAGED_COST = {"cpu": 12, "cuda": 40}  # of a step, in units of one that evaluates the samples alone
PROJECTED = 10**8  # determinants evaluated to compare mean-field solutions
EVALUATION_DISTINCT = {"cpu": 2**14, "cuda": 2**19}
SHARED_PREFIXES = 16  # images are evaluated so many times as fast, about


def steps(wavefunction: Wavefunction, device: torch.device | str, *, exact: bool) -> int:
    """Optimisation steps of a run, warm-up included; `exact` where steps sum over the whole sector."""
    kind = torch.device(device).type
    if not exact:
        return (STEPS if wavefunction.n_images == 1 else AVERAGED_STEPS)[kind]
    terms = evaluations(wavefunction)
    if wavefunction.has_phase and wavefunction.n_parameters < 2 * terms:
        return SLOW_STEPS
    if terms < LONG_SUM[kind]:
        return EXACT_STEPS[kind]
    return LONG_SUM_STEPS[kind] * (2 if wavefunction.has_phase else 1)


def seconds(terms: int, rows: int, parameters: int, n_sites: int, device: torch.device | str) -> float:
    """Estimate for one step: the matrix of the natural gradient and its factor, and the rows they are made from.

    Args:
        terms: distinct configurations, or orbits.
        rows: of the Jacobian, twice as many where a phase is learned.
    """
    kind, small = torch.device(device).type, min(rows, parameters)
    operations = rows * parameters * small + small**3 / 3 + 6 * terms * n_sites * parameters
    return OVERHEAD[kind] + operations / RATE[kind]


def steps_within(
    minutes: float | None, wavefunction: Wavefunction, sampler: SamplerConfig, device: torch.device | str
) -> tuple[int, int]:
    """Steps that fit into the time, and those that would be made without a limit.

    The time is estimated and not measured: the same command chooses the same, so that its repetition goes on.
    """
    exact = isinstance(sampler, ExhaustiveSampler)
    wanted = steps(wavefunction, device, exact=exact)
    if minutes is None:
        return wanted, wanted
    terms = evaluations(wavefunction) if exact else getattr(sampler, "n_distinct", None) or DISTINCT["cpu"]
    rows = (2 if wavefunction.has_phase else 1) * terms
    parameters = wavefunction.n_parameters
    if wavefunction.n_images > 1 and not exact:
        terms *= AVERAGED_COST[torch.device(device).type] * wavefunction.n_images
    each = seconds(terms, rows, parameters, wavefunction.hilbert.n_sites, device)
    fitting = int(SHARE_OF_TIME * 60 * minutes / each)
    return max(min(wanted, LEAST_STEPS), min(wanted, fitting)), wanted


def warm_up(wavefunction: Wavefunction, device: torch.device | str) -> WarmUp | None:
    """First steps from samples, where sums over the whole sector take long and no phase is learned.

    Samples teach rare configurations wrong signs, which take longer to turn than the warm-up saves: the 4x4 Hubbard
    lattice ended at 1.1e-3 with and at 4.1e-4 without it, in 202 and 300 steps.
    """
    kind, terms = torch.device(device).type, evaluations(wavefunction)
    if wavefunction.has_phase or not LONG_SUM[kind] <= terms <= EXHAUSTIVE_ROWS[kind]:
        return None
    share = max(LEAST_DISTINCT, round(WARM_UP_DISTINCT * terms))
    return WarmUp(share=WARM_UP_SHARE[kind], sampler=TreeSampler(n_distinct=max(1, share // wavefunction.n_images)))


def transformer(phase: Literal["learned", "zero"] = "learned") -> TransformerConfig:
    """A small network, wider than the problems need: with more parameters than orbits, steps stay linear to the end.

    Gradients may be rounded to float32, amplitudes not: the noise of their local energies would be fitted with large
    moves of the parameters where the diagonal shift is small.
    """
    return TransformerConfig(width=None, attention=None, phase=phase, dtype=None)


def on_lattice(model: TransformerConfig, lattice: Lattice | None) -> TransformerConfig:
    """The model with the displacements of the lattice, where its attention depends on them and they are not given."""
    if model.attention != "factored" or model.displacements is not None or lattice is None:
        return model
    return replace(model, displacements=tuple(map(tuple, lattice.displacements().tolist())))


def sized(
    model: WavefunctionConfig,
    terms: int,
    n_sites: int,
    device: torch.device | str,
    minutes: float | None = None,
    *,
    lattice: Lattice | None = None,
    averaged: bool = False,
) -> WavefunctionConfig:
    """The model with width, attention and precision where these were left open.

    Wide enough to follow every amplitude and phase of exact sums. Where every sample costs many images, the network is
    narrow on a CPU, and rounded: symmetric samples have more noise than float32. It then has to guess most amplitudes
    from few samples, and attention by displacement, which learns once what holds everywhere on the lattice, guesses
    better: the 4x6 Heisenberg lattice ended at 3e-3 instead of 1.7e-2 (200 samples, 60 steps, width 16). A GPU has room
    for more width: in equal time the 6x6 lattice ended with a V-score of 1.7e-4 at width 48 (8,000 samples, 640 steps),
    and of 4.0e-4 at width 32 (12,000 samples and 600 steps, or 6,000 and 1,150).

    Args:
        terms: configurations, or orbits, of the sector.
        minutes: time for the run; the network is narrow where half of the usual steps would not fit into it.
        lattice: of the sites, if they are on one.
        averaged: it is the base of an average over images.
    """
    if isinstance(model, (OnOrbits, Symmetrised)):
        averaged = isinstance(model, Symmetrised)
        base = sized(model.base, terms, n_sites, device, minutes, lattice=lattice, averaged=averaged)
        return replace(model, base=base)
    if not isinstance(model, TransformerConfig):
        return model
    if model.attention is None:
        model = replace(model, attention="factored" if averaged else "dot-product")
    model = on_lattice(model, lattice)
    if model.dtype is None:
        model = replace(model, dtype="float32" if averaged else "mixed")
    if model.width is not None:
        return model
    kind, parts = torch.device(device).type, 2 if model.phase == "learned" else 1
    if averaged:
        return replace(model, width=NARROW if kind == "cpu" else WIDE)
    exact = terms <= EXHAUSTIVE_ROWS[kind]
    width = WIDE if exact and parts * terms > WIDE_ROWS else WIDTH
    number, most = (terms, EXACT_STEPS[kind]) if exact else (DISTINCT[kind], STEPS[kind])
    needed = most * seconds(number, parts * number, int(PARAMETERS * width**2), n_sites, device)
    return replace(model, width=NARROW if minutes is not None and needed > 120 * minutes else width)


def evaluations(wavefunction: Wavefunction) -> int:
    """Network evaluations for a sum over the whole sector."""
    return wavefunction.sampled.hilbert.dimension


def training_sampler(wavefunction: Wavefunction, device: torch.device | str) -> SamplerConfig:
    """Every configuration where the sector is small enough, else a tree with as many distinct ones as pay off."""
    kind = torch.device(device).type
    if evaluations(wavefunction) <= EXHAUSTIVE_ROWS[kind]:
        return ExhaustiveSampler()
    if wavefunction.n_images == 1:
        return TreeSampler(n_distinct=DISTINCT[kind])
    return TreeSampler(n_distinct=max(1, min(2 * DISTINCT[kind], ALL_IMAGES[kind] // wavefunction.n_images)))


def evaluation_sampler(wavefunction: Wavefunction, device: torch.device | str) -> SamplerConfig:
    """For the quoted energy: the whole sector where that can be summed once, else many more samples than a step has."""
    limit, each = EVALUATION_DISTINCT[torch.device(device).type], wavefunction.n_images
    if evaluations(wavefunction) <= (limit if each == 1 else ExhaustiveSampler().max_dimension):
        return ExhaustiveSampler()
    return TreeSampler(n_distinct=limit if each == 1 else min(limit, SHARED_PREFIXES * limit // each))


def symmetrised(
    model: WavefunctionConfig, hamiltonian: Hamiltonian, device: torch.device | str
) -> tuple[WavefunctionConfig, str]:
    """The model in the symmetry sector of the ground state.

    On the orbits of the sector where these are few, else as an average over images, which follows smoothly where the
    smallest member of an orbit jumps: sampled from its 13,648 orbits, the Ising ring of 20 sites ended at 2e-4 on a
    CPU, and averaged over all symmetries at 1e-6 to 2e-6; twelve bosons on a ring were at 3e-2 after 136 s and ended at
    3e-4 after 49 s. Where orbits are few it is the other way round: the 4,752 of ten bosons on a
    ring, sampled, reach 2e-5 in 76 s, and their average 2e-4 in 42 s.

    The sector is known where the ground state is positive, where a reference phase obeys the symmetry, or from the
    projected energies of a mean-field determinant (nqs.exact.projection).

    Returns:
        The model, symmetrised or as it was, and one line that says why.
    """
    hilbert, kind = hamiltonian.hilbert, torch.device(device).type
    reference: ReferencePhase | None = getattr(model, "reference", None)
    if isinstance(reference, SlaterDeterminant):
        if hilbert.dimension > MAX_DIMENSION:
            return model, f"no symmetry used: projected energies need dimensions up to {MAX_DIMENSION:,}"
        group = symmetries_of(hamiltonian, fermions=True)
    elif reference is not None:
        group, why = sector_of(reference, symmetries_of(hamiltonian), hilbert), "sector of the reference phase"
    elif is_stoquastic(hamiltonian):
        group, why = symmetries_of(hamiltonian), "positive ground state"
    else:
        return model, "no symmetry used: the sector of the ground state is not known"
    if group.order == 1:
        return model, "no symmetry used: there is none"
    at_least = hilbert.dimension // group.order
    positive = isinstance(model, TransformerConfig) and model.phase == "zero"  # but for the signs of the reference
    known = positive and not isinstance(reference, SlaterDeterminant)
    if known and (at_least > FEW_ORBITS[kind] or group.number_of_orbits(hilbert, device) > FEW_ORBITS[kind]):
        trained = _trained(group, hamiltonian, IMAGES[kind])
        steps_too = "" if trained is None else f", {len(trained)} of them in steps"
        averaged = Symmetrised(base=model, symmetry=group, trained=trained)
        return averaged, f"average over {group.order} symmetries ({why}){steps_too}"
    if at_least > LISTED[kind]:
        return model, f"no symmetry used: {hilbert.dimension:,} / {group.order} orbits are over {LISTED[kind]:,}"
    if isinstance(reference, SlaterDeterminant):
        determinants = [reference, *_other_solutions(hamiltonian, reference)]
        projected, energy = lowest_sector(hamiltonian, group, determinants, device=device)
        group, why = projected.symmetry, f"projected Hartree-Fock E = {energy:.8f}"
        model = replace(model, reference=projected)  # type: ignore[type-var]
        if group.order == 1:
            return model, "no symmetry used: the ground state is in no sector of real characters"
    odd = sum(angle != 0 for angle in group.angles)
    sector = f"{odd} of them odd" if odd else "all even"
    return OnOrbits(base=model, symmetry=group), f"{group.order} symmetries, {sector} ({why})"


def _trained(group: Symmetry, hamiltonian: Hamiltonian, most: int) -> tuple[int, ...] | None:
    """Elements over which steps average: flips, and translations by every k-th cell; None for all.

    With fewer images a step has more samples for the same cost, and the average over the others comes after the steps.
    Flips are kept: without them an ordered state would have to hold both orders at once.

    Args:
        most: of them, unless these would be fewer than a third of so many (lattices of prime length).
    """
    lattice = lattice_of(hamiltonian)
    if group.order <= most or lattice is None or not lattice.shape:
        return None
    choices = []
    for stride in range(1, max(lattice.shape) + 1):
        moves = {tuple(permutation) for permutation in lattice.translations(stride).tolist()}
        choices.append(tuple(g for g, permutation in enumerate(group.permutations) if permutation in moves))
    few = [chosen for chosen in choices if most / 3 <= len(chosen) <= most]
    return max(few, key=len) if few else min((c for c in choices if len(c) > most), key=len, default=choices[0])


def _other_solutions(hamiltonian: Hamiltonian, reference: SlaterDeterminant) -> Sequence[SlaterDeterminant]:
    """Further mean-field solutions, where that is cheap: the lowest one may lack the sector of the ground state."""
    if hamiltonian.hilbert.dimension > PROJECTED:
        return ()
    try:
        return [found for found in hartree_fock(hamiltonian).solutions if found != reference]
    except (ValueError, RuntimeError):  # a reference of the user's own, for what Hartree-Fock here does not treat
        return ()


def is_exhaustive(sampler: SamplerConfig) -> bool:
    """Whether expectation values have no sampling noise."""
    return isinstance(sampler, ExhaustiveSampler)
