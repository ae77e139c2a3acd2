"""States that few configurations carry, such as those of molecules: a list of selected configurations to start from.

Used where the Hamiltonian names the configuration around which its ground state is peaked (nqs.hamiltonian.peak_of).
Dictionaries hold one number for a CPU (two cores) and one for a GPU (an H200).
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor

from nqs.estimators.estimate import with_decimals
from nqs.estimators.selected import SelectedState, given_state, selected_state
from nqs.hamiltonian import Hamiltonian, peak_of
from nqs.models import ListedState, TransformerConfig
from nqs.optimisation.stages import Evaluation
from nqs.protocols import OptimiserConfig, ReferencePhase, SamplerConfig, Wavefunction
from nqs.recipes.optimiser import OptimiserOptions
from nqs.recipes.samplers import tree
from nqs.samplers import GumbelSampler

# Selected configurations between which H is diagonalised, and first-order amplitudes that are listed with them; but
# never more than a tenth and PART of the sector, so that small sectors show what the method does in large ones. More is
# better, and time and memory bound it. N2 in STO-3G at 1.5 Angstrom (1,824 determinants) ended after ten steps at
# relative errors of 1.4e-5 with 50 and 1.0e-6 with 182 of them selected, and at 8.5e-6 with these and no first-order
# amplitudes (`python scripts/recipe_study.py --number peaked.SELECTED --values 50 2000 --problems n2 --sampled --steps
# 10 --batches 4`, and with `--number peaked.FIRST_ORDER --values 0`). H2O in STO-3G after 30 steps: 1.2e-4, 2.9e-6 and
# 1.1e-8 with 0, 20 and all first-order amplitudes, and 3.2e-6, 2.2e-7 and 1.1e-8 with a PART of 0.25, 0.5 and 0.75,
# which bounds the samples of a step as well (`--number peaked.PART --values 0.25 0.5 0.75 --problems water --sampled
# --steps 30 --batches 16`).
SELECTED, FIRST_ORDER = 2_000, 20_000
PART = 0.75
# Participation 1 / sum c^4 of the selected configurations above which a state is not peaked. N2 in STO-3G stretched to
# 2.25 Angstrom has 16. Ten hydrogen atoms in atomic orbitals have 188: the list is 0.67 Hartree above the ground state,
# a run from it at 0.59 after 75 s, one from the uniform state at 0.007 after 41 s.
MOST_PARTICIPATING = 50
# Elements of H that selection takes in a second, the fraction of a time limit for it, and how often it takes those of
# all determinants. 2,000 determinants of N2 in cc-pVDZ with 6,358 elements each need about three times as many, in 13 s
# of CPU time. They are selected in full from a limit of 3.2 minutes on a CPU on, with a fraction of 0.1 or 0.4 from 6.4
# or 1.6 minutes.
ELEMENTS_IN_A_SECOND, SELECTION_FRACTION, ROUNDS = {"cpu": 1e6, "cuda": 3e7}, 0.2, 3
LISTED_NUMBERS = 900_000  # of all listed configurations: archives hold arrays of up to a million
# Weight of what is not listed, at least and at most. N2 in STO-3G, 182 of 1,824 determinants selected: the first step
# is 8.5 mHa above the ground state with 1e-4 and without first-order amplitudes, 0.01 mHa with 1e-6 and with them. Its
# signs are unknown at first: every part of 1e-4 costs about 0.3 mHa.
LEAST_REST, MOST_REST = 1e-6, 1e-5
# Initial phases, and initial logits in units of the usual ones: corrections of a good start. Smaller ones make no
# difference: those runs ended at 1.0e-6 with 1e-4 and 1e-3 and at 2.3e-5 with 0.1 (N2), at 1.03e-8, 1.07e-8, 1.3e-8 and
# 1.9e-8 with 1e-4, 1e-3, 1e-2 and 0.1 (H2O; `--number peaked.SMALL --values 0.0001 0.001 0.01 0.1`).
SMALL = 1e-3
# Distinct configurations of a step and of a batch of the evaluation, at most PART of the sector where it is sampled:
# N2 ended at 1.3e-6 +- 0.1e-6 with 250 (4.9 CPU s), and at 1.0e-6 with 500 (7.9 s) and 1,000 (16 s) (`--number
# peaked.DISTINCT --values 250 500 1000`). Batches of the evaluation are limited by the time of a run: H2O in 6-31G, of
# 414,441 determinants, had error bars of 8, 4 and 3 microhartree after 5 steps with 4, 16 and 64 of them, in 20, 35 and
# 93 CPU s (`python scripts/recipe_study.py --number peaked.BATCHES --values 4 16 64 --problems water-6-31g --steps 5`).
DISTINCT, BATCHES = {"cpu": 1_000, "cuda": 8_000}, 64
# Error bar, in units of |E - E_inf|, at which the evaluation ends: about 1e-7 Hartree, four orders below chemical
# accuracy. Reached only where a batch has nearly all of the weight of the sector: H2O and N2 in STO-3G had relative
# error bars of 8e-10 and 2e-9 with 1e-6, 1e-7 and 1e-8 alike, and of 3e-10 with 1e-9, in 1.4 and 11.4 instead of 1.4
# and 8.5 CPU s (`--number peaked.EVALUATION_ERROR --values 1e-6 1e-7 1e-8 1e-9 --problems water --sampled --steps 30`;
# `--problems n2 --sampled --steps 10`).
EVALUATION_ERROR = 1e-8
# Of corrections to the list. Layers and ratio are those of other transformers (nqs.recipes.model). H2O ended at 5.6e-8,
# 1.1e-8 and 0.6e-8 with widths of 8, 16 and 32 (3.3, 3.7 and 4.9 CPU s), at 0.8e-8, 1.1e-8 and 3.6e-8 with one, two and
# three layers, at 2.3e-8, 1.1e-8 and 1.3e-8 with ratios of 1, 2 and 4; N2 at 1.04e-6 to 1.05e-6 with all these widths
# (9, 16 and 40 CPU s) and layers (`--number peaked.WIDTH --values 8 16 32`, and so on). With 1, 2, 4 and 8 heads H2O
# ended at 2.4e-8, 1.6e-8, 1.1e-8 and 1.0e-8 (errors of 1e-9 to 2e-9), N2 at 1.04e-6 with the first three and at 5.1e-7
# with 8 (2e-9; one seed), in the same time (`--number peaked.HEADS --values 1 2 4 8`). That of a GPU was not compared.
WIDTH, LAYERS, HEADS, MLP_RATIO = {"cpu": 16, "cuda": 48}, 2, 4, 2
# Short steps: amplitudes that are far too small grow by large factors, those of configurations that were not drawn with
# them. H2O in STO-3G, 66 of 133 determinants in a step, 30 steps: 0.44 mHa at first, 1.1 at most and 0.017 at the end
# with 0.01; 7.6 at most with 0.1.
OPTIMISER: dict[str, Any] = {"max_step": 0.01}


def is_list(reference: object) -> bool:
    """Whether the signs are those of a list of configurations, which is then also the start of the state."""
    return isinstance(reference, ListedState)


def is_peaked(wavefunction: Wavefunction) -> bool:
    """Whether a wavefunction starts from a list of configurations."""
    config = getattr(wavefunction.sampled, "config", None)
    return getattr(config, "start", None) == "reference" and is_list(getattr(config, "reference", None))


def listed(
    hamiltonian: Hamiltonian, unit: str, device: torch.device | str = "cpu", minutes: float | None = None
) -> tuple[ListedState, str] | None:
    """The list to start from, and one line; None if the selected configurations show that the state is not peaked.

    Args:
        minutes: time limit of the run; fewer configurations are selected where it is short, by an estimate.
    """
    peak = peak_of(hamiltonian)
    assert peak is not None
    dimension = hamiltonian.hilbert.dimension
    size = max(1, min(SELECTED, dimension // 10))
    if minutes is not None:
        each = max(1, len(hamiltonian.connected(peak[None]).elements))
        rate = SELECTION_FRACTION * ELEMENTS_IN_A_SECOND[torch.device(device).type]
        size = max(1, min(size, int(60 * minutes * rate / (ROUNDS * each))))
    state = selected_state(hamiltonian, peak[None], size, outside=_first_order(hamiltonian, size))
    if 1 / state.amplitudes.pow(4).sum().item() > MOST_PARTICIPATING:
        return None
    return _reference(state), _line(state, unit, "selected configurations")


def from_list(
    hamiltonian: Hamiltonian, n: UInt8[Tensor, "D L"], amplitudes: Float64[Tensor, " D"], unit: str
) -> tuple[ListedState, str]:
    """A list that others made as a start, and one line; with first-order amplitudes if it is as short as ours are.

    Args:
        n: distinct configurations of the sector, those with the largest amplitudes first.
        amplitudes: real.
    """
    most = LISTED_NUMBERS // hamiltonian.hilbert.n_sites
    n, amplitudes = n[:most], amplitudes[:most] / amplitudes[:most].norm()
    if len(n) <= SELECTED:
        state = given_state(hamiltonian, n, amplitudes, outside=_first_order(hamiltonian, len(n)))
        return _reference(state), _line(state, unit, "given configurations")
    listed = ListedState(configurations=n.cpu().numpy(), amplitudes=amplitudes.cpu().numpy(), rest=MOST_REST)
    return listed, f"{len(n):,} given configurations"


def _first_order(hamiltonian: Hamiltonian, size: int) -> int:
    """Number of first-order amplitudes beside a list, at most."""
    hilbert = hamiltonian.hilbert
    return max(0, min(FIRST_ORDER, int(PART * hilbert.dimension) - size, LISTED_NUMBERS // hilbert.n_sites - size))


def _reference(state: SelectedState) -> ListedState:
    return ListedState(
        configurations=torch.cat([state.configurations, state.outside]).cpu().numpy(),
        amplitudes=torch.cat([state.amplitudes, state.first_order]).cpu().numpy(),
        rest=min(max(state.rest, LEAST_REST), MOST_REST),
    )


def _line(state: SelectedState, unit: str, what: str) -> str:
    return (
        f"{len(state.configurations):,} {what}, E = {with_decimals(state.energy)} {unit}, with second-order correction "
        f"{with_decimals(state.energy + state.second_order)} {unit}, and {len(state.outside):,} first-order amplitudes"
    )


def transformer(
    given: Mapping[str, Any], phase: Literal["learned", "zero"], reference: ReferencePhase, device: torch.device | str
) -> TransformerConfig:
    """A transformer of small corrections to the list, with the requested options."""
    size = {"width": WIDTH[torch.device(device).type], "layers": LAYERS, "mlp_ratio": MLP_RATIO}
    heads = {} if given.get("attention") == "factored" else {"heads": HEADS}  # factored: one a channel
    chosen: dict[str, Any] = size | heads | {"dtype": "mixed"} | dict(given)
    start = {"start": "reference", "initial_phases": SMALL, "initial_logits": SMALL}
    return TransformerConfig(**(chosen | start | {"phase": phase, "reference": reference}))


def optimiser(given: OptimiserConfig | OptimiserOptions | None) -> OptimiserConfig | OptimiserOptions:
    """Natural gradient with requested options: nearly all of the weight is in the samples, so that noise is small."""
    if given is not None and not isinstance(given, OptimiserOptions):
        return given
    return OptimiserOptions(**(OPTIMISER | ({} if given is None else given.given)))


def sampler(wavefunction: Wavefunction, device: torch.device | str) -> SamplerConfig:
    """Without replacement: the configurations that carry the weight enter with certainty, whatever their number."""
    return GumbelSampler(n_distinct=_at_most_a_part(wavefunction, DISTINCT[torch.device(device).type]))


def evaluation(wavefunction: Wavefunction, device: torch.device | str) -> Evaluation:
    """Independent draws of so many samples that as many distinct configurations are found."""
    n_distinct = _at_most_a_part(wavefunction, DISTINCT[torch.device(device).type])
    return Evaluation(sampler=tree(n_distinct), batches=BATCHES, error=EVALUATION_ERROR)


def _at_most_a_part(wavefunction: Wavefunction, number: int) -> int:
    return max(1, min(number, int(PART * wavefunction.hilbert.dimension)))
