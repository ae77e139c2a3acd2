"""The states that a run stays orthogonal to, and the weights of their penalties."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nqs.amplitudes.evaluate import log_psi_in_chunks
from nqs.archive.archive import Archive
from nqs.estimators.energy import infinite_temperature_energy
from nqs.estimators.energy_scale import energy_scale
from nqs.observables.operators import matrix_element
from nqs.observables.state_vector import exact_samples
from nqs.optimisation.known_states import Known, KnownState
from nqs.protocols import Hamiltonian, Wavefunction
from nqs.recipes.samplers import training_sampler
from nqs.vmc.rebuilding import rebuild
from nqs.vmc.stored import check_parameters, one_line

State = KnownState | Wavefunction | Archive | str | Path | np.ndarray | Tensor
LISTED = 2**20  # largest dimension for which a state without a configuration is stored as a vector
# Weight in units of the distance of <k|H|k> from the mean of the spectrum. With K known states E_inf - E_0 is at least
# (1 - K / dim) (E_K - E_0): three times that exceeds the distance to the next level of a sector of 2 K states or more.
MARGIN = 3.0


def known_states(
    hamiltonian: Hamiltonian, states: Sequence[State], penalty: float | None = None, seed: int = 0
) -> tuple[KnownState, ...]:
    """Known states as plain data, with the weights of their penalties.

    Args:
        states: wavefunctions, archives of runs (after their last step), vectors in lexicographic order, or what this
            function returned.
        penalty: weight of all of them, in the Hamiltonian's unit; by default 3 (E_inf - <k|H|k>), E_inf = Tr H / dim,
            which is above the distance to the next level.
        seed: of the samples for <k|H|k>.

    Raises:
        ValueError: a state of another sector, or one that is not normalised or cannot be stored.
    """
    return tuple(one if isinstance(one, KnownState) else _known(hamiltonian, one, penalty, seed) for one in states)


def _known(hamiltonian: Hamiltonian, state: State, penalty: float | None, seed: int) -> KnownState:
    found = KnownState(weight=1.0 if penalty is None else penalty, **_plain(hamiltonian, state))
    if penalty is not None:
        return found
    built, generator = found.build(hamiltonian.hilbert, "cpu").state, torch.Generator().manual_seed(seed)
    if found.vector is not None:
        samples = exact_samples(hamiltonian.hilbert, found.vector)
    else:
        samples = built.to_sector_samples(training_sampler(built, "cpu").build(built).sample(generator), generator)
    energy = matrix_element(hamiltonian, samples, built).value.item()
    distance = infinite_temperature_energy(hamiltonian) - energy
    weight = MARGIN * max(distance, energy_scale(hamiltonian))
    return KnownState(weight=weight, vector=found.vector, model=found.model, parameters=found.parameters)


def _plain(hamiltonian: Hamiltonian, state: Any) -> dict[str, Any]:
    """Vector, or model and parameters, of a state."""
    if isinstance(state, (str, Path)):
        state = Archive.open(state)
    if isinstance(state, Archive):
        built = rebuild(state.config, only=("hamiltonian", "model"))
        _same_sector(hamiltonian, built["hamiltonian"].hilbert, state.path)
        with one_line(state.place):
            check_parameters(built["model"], hamiltonian.hilbert, state)
        return {"model": built["model"], "parameters": state.parameters()}
    if isinstance(state, (np.ndarray, Tensor)):
        return {"vector": np.asarray(torch.as_tensor(state).detach().cpu())}
    if not isinstance(state, Wavefunction):
        raise ValueError(
            f"orthogonal_to holds a {type(state).__name__}: give wavefunctions, archives of runs, or vectors."
        )
    _same_sector(hamiltonian, state.hilbert, type(state).__name__)
    if not state.normalised:
        raise ValueError(f"the overlap with a {type(state).__name__} cannot be sampled: its norm is not known.")
    if getattr(state, "config", None) is not None:
        values = {name: tensor.detach().cpu().numpy().copy() for name, tensor in state.state_dict().items()}
        return {"model": state.config, "parameters": values}
    if state.hilbert.dimension > LISTED:
        raise ValueError(
            f"{type(state).__name__} has no `config` that it can be rebuilt from, and its sector is too large to store "
            f"it as a vector: {state.hilbert}."
        )
    log_modulus, phase = log_psi_in_chunks(state, state.hilbert.configurations())
    return {"vector": torch.polar(log_modulus.exp(), phase).numpy()}


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
