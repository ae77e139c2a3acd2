"""The states that a run stays orthogonal to, the weights of their penalties, and the exact level above them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.archive.archive import Archive
from nqs.estimators.energy_scale import energy_scale
from nqs.exact.levels import ExactLevels, lowest
from nqs.exact.sector_matrix import MAX_DIMENSION, SectorMatrix
from nqs.hilbert import HilbertSpace
from nqs.observables.state_vector import exact_samples
from nqs.optimisation.known_states import REAL, Known, KnownState, overlap, ratios
from nqs.protocols import Hamiltonian, Wavefunction, unit_of
from nqs.recipes.samplers import training_sampler
from nqs.vmc.penalties import Drawn, penalty_weights
from nqs.vmc.rebuilding import rebuild
from nqs.vmc.stored import check_parameters, one_line

State = KnownState | Wavefunction | Archive | str | Path | np.ndarray | Tensor
LISTED = 2**20  # largest dimension for which a state without a configuration is stored as a vector
SAME = 0.99  # |<a|b>|^2 from which on two known states count as one
NOTED = 1e-6  # energy, in the energy scale, by which a run may end below the exact level without a note


def known_states(
    hamiltonian: Hamiltonian, states: Sequence[State], penalty: float | None = None, seed: int = 0
) -> tuple[KnownState, ...]:
    """Known states as plain data, with the weights of their penalties.

    Args:
        states: wavefunctions, archives of runs (after their last step), vectors in lexicographic order, or what this
            function returned.
        penalty: weight of all of them, in the Hamiltonian's unit; by default twice the distance to an upper bound of
            the level above them (nqs.vmc.penalties).
        seed: of the samples of the known states.

    Raises:
        TypeError: no states, or not a list of them.
        ValueError: a state of another sector, or one that is not normalised or cannot be stored; two states that are
            the same, or a penalty without a state.
    """
    check_states(states)
    if penalty is not None and not len(states):
        raise ValueError(f"penalty={penalty:g}: there is no known state that it weighs; give orthogonal_to, too.")
    stored = tuple(one for one in states if isinstance(one, KnownState))
    if len(stored) == len(states):
        return stored
    first = 1.0 if penalty is None else penalty
    found = [one if isinstance(one, KnownState) else _plain(hamiltonian, one, first) for one in states]
    drawn = [_drawn(hamiltonian, one, seed) for one in found]
    _refuse_equal(drawn)
    if penalty is None:
        weights = penalty_weights(hamiltonian, drawn)
        found = [
            given if isinstance(given, KnownState) else replace(one, weight=weight)
            for given, one, weight in zip(states, found, weights, strict=True)
        ]
    return tuple(found)


def check_states(states: Any) -> None:
    """
    Raises:
        TypeError: not a list of what can be a known state.
    """
    if not isinstance(states, Sequence) or isinstance(states, str):
        raise TypeError(
            f"orthogonal_to={_short(states)} is no list of states: give a list of wavefunctions, archives of runs or "
            "their paths, or vectors, also of a single one."
        )
    for state in states:
        if not isinstance(state, State):
            raise TypeError(
                f"orthogonal_to holds a {type(state).__name__}: give wavefunctions, archives of runs or their paths, "
                "or vectors."
            )


def _short(value: Any) -> str:
    return repr(str(value)) if isinstance(value, (str, Path)) else f"<{type(value).__name__}>"


def _refuse_equal(known: Sequence[Drawn]) -> None:
    """
    Raises:
        ValueError: two states are the same.
    """
    for i, (state, samples) in enumerate(known):
        for j in range(i + 1, len(known)):
            value = overlap(samples, ratios(known[j].state, state, samples)).value.item()
            if value > SAME:
                raise ValueError(
                    f"orthogonal_to: states {i + 1} and {j + 1} are the same state (overlap {value:.4f}): give each "
                    "state once."
                )


def _drawn(hamiltonian: Hamiltonian, known: KnownState, seed: int) -> Drawn:
    """A known state with samples of it, exhaustive ones of a vector."""
    state, generator = known.build(hamiltonian.hilbert, "cpu").state, torch.Generator().manual_seed(seed)
    if known.vector is not None:
        return Drawn(state, exact_samples(hamiltonian.hilbert, known.vector))
    samples = training_sampler(state, "cpu").build(state).sample(generator)
    return Drawn(state, state.to_sector_samples(samples, generator))


def level_above(hamiltonian: Hamiltonian, known: Sequence[KnownState]) -> tuple[ExactLevels, list[str]]:
    """The lowest level of H in the orthogonal complement of the known states, and notes for the user.

    With the penalty w and h = <k|H|phi> the state phi of that level is mixed with k, so that <H> of the lowest state of
    H' lies below the level by 2 |h|^2 / (w + E_k - E) to second order, E_k = <k|H|k>: 0 for an eigenstate.

    Raises:
        ValueError: the states are not independent or leave nothing, or a penalty does not lift its state above that
            level.
    """
    hilbert = hamiltonian.hilbert
    vectors = np.stack([_amplitudes(one, hilbert) for one in known])
    levels = lowest(hamiltonian, 1, orthogonal_to=vectors, check=False)
    energy, unit, notes = float(levels.energies[0]), unit_of(hamiltonian), []
    H = SectorMatrix.of(hamiltonian, max_dimension=MAX_DIMENSION, check=False).to_scipy()
    for i, (one, k) in enumerate(zip(known, vectors, strict=True), start=1):
        below = (k.conj() @ (H @ k)).real
        if not below + one.weight > energy:
            raise ValueError(
                f"penalty={one.weight:g} lifts the known state {i} from {below:.6g} to {below + one.weight:.6g} "
                f"{unit}, not above the wanted level at {energy:.6g}: give more than {energy - below:.3g}, or leave it "
                "out."
            )
        mixed = 2 * abs(k.conj() @ (H @ levels.states[0])) ** 2 / (below + one.weight - energy)
        if mixed > NOTED * energy_scale(hamiltonian):
            notes.append(
                f"known state {i} is no eigenstate: the penalty {one.weight:.3g} lets a run mix it in and end about "
                f"{mixed:.1e} {unit} below the exact level, a larger one less"
            )
    return levels, notes


def _amplitudes(known: KnownState, hilbert: HilbertSpace) -> np.ndarray:
    """In lexicographic order, (dimension,), real if they are real up to a common phase."""
    state = known.build(hilbert, "cpu").state
    with torch.no_grad():
        log_modulus, phase = log_psi_in_chunks(state, hilbert.configurations())
    largest = phase[log_modulus.argmax()]
    psi = torch.polar(log_modulus.exp(), phase - largest).numpy()
    return psi.real.copy() if abs(psi.imag).max() <= REAL * abs(psi).max() else psi


def _plain(hamiltonian: Hamiltonian, state: Any, weight: float) -> KnownState:
    """Vector, or model and parameters, of a state."""
    if isinstance(state, (str, Path)):
        state = Archive.open(state)
    if isinstance(state, Archive):
        built = rebuild(state.config, only=("hamiltonian", "model"))
        _same_sector(hamiltonian, built["hamiltonian"].hilbert, state.path)
        with one_line(state.place):
            check_parameters(built["model"], hamiltonian.hilbert, state)
        return KnownState(weight=weight, model=built["model"], parameters=state.parameters())
    if isinstance(state, (np.ndarray, Tensor)):
        return KnownState(weight=weight, vector=np.asarray(torch.as_tensor(state).detach().cpu()))
    _same_sector(hamiltonian, state.hilbert, type(state).__name__)
    if not state.normalised:
        raise ValueError(f"the overlap with a {type(state).__name__} cannot be sampled: its norm is not known.")
    if getattr(state, "config", None) is not None:
        values = {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.state_dict().items()}
        return KnownState(weight=weight, model=state.config, parameters=values)
    if state.hilbert.dimension > LISTED:
        raise ValueError(
            f"{type(state).__name__} has no `config` that it can be rebuilt from, and its sector is too large to store "
            f"it as a vector: {state.hilbert}."
        )
    log_modulus, phase = log_psi_in_chunks(state, state.hilbert.configurations())
    return KnownState(weight=weight, vector=torch.polar(log_modulus.exp(), phase).numpy())


def _same_sector(hamiltonian: Hamiltonian, hilbert: Any, where: object) -> None:
    if hilbert != hamiltonian.hilbert:
        raise ValueError(
            f"orthogonal_to: {where} is a state of {hilbert}, the Hamiltonian acts on {hamiltonian.hilbert}. States of "
            "different sectors are orthogonal anyway."
        )


def built_for(known: Sequence[KnownState], wavefunction: Wavefunction, device: torch.device) -> list[Known]:
    """The known states on the device of a wavefunction.

    Raises:
        ValueError: a wavefunction without a phase head, whose signs are fixed, or one that is not normalised.
    """
    if known and not wavefunction.has_phase:
        raise ValueError(
            "a wavefunction whose phases are not learned cannot become orthogonal to a state of the same signs: build "
            "it with phase='learned'."
        )
    if known and not wavefunction.normalised:
        raise ValueError(
            f"{type(wavefunction).__name__} is not normalised: its overlap with known states cannot be sampled. Use an "
            "autoregressive wavefunction."
        )
    return [one.build(wavefunction.hilbert, device) for one in known]
