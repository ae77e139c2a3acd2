"""Contracts between the parts of nqs; those of Hamiltonians, wavefunctions and samplers have files of their own."""

import math
from typing import NamedTuple, Protocol

from torch import Tensor

from nqs.hamiltonian import (
    Connected,
    Hamiltonian,
    fock_of,
    has_boundary_phases,
    has_total_spin,
    is_stoquastic,
    lattice_of,
    marshall_exact,
    marshall_sublattice,
    max_connected,
    one_electron_of,
    peak_of,
    sampled_elements,
    unit_of,
)
from nqs.sampler import (
    Sampler,
    SamplerConfig,
    distinct_of,
    max_distinct,
    with_distinct,
    with_times_as_many,
)
from nqs.samples import LocalEnergies, Samples
from nqs.wavefunction import (
    AutoregressiveWavefunction,
    Conditionals,
    DecodingState,
    LogPsi,
    ReferencePhase,
    Wavefunction,
    WavefunctionConfig,
)

__all__ = [
    "AutoregressiveWavefunction", "Conditionals", "Connected", "DecodingState", "Hamiltonian", "LogPsi", "Objective",
    "Optimiser", "OptimiserConfig", "ReferencePhase", "Sampler", "SamplerConfig", "StepInfo", "Wavefunction",
    "WavefunctionConfig", "distinct_of", "fock_of", "has_boundary_phases", "has_total_spin", "is_stoquastic",
    "lattice_of", "marshall_exact", "marshall_sublattice", "max_connected", "max_distinct", "one_electron_of",
    "peak_of", "sampled_elements", "unit_of", "with_distinct", "with_times_as_many",
]  # fmt: skip


class Objective(Protocol):
    """Minimised by a run: an energy, a free energy, the infidelity to a target.

    Attributes:
        energy_scale: unit in which optimisers see the local values (nqs.estimators.energy_scale); 1 for what is no
            energy.
    """

    @property
    def energy_scale(self) -> float: ...

    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        """Local values on the samples; their mean is the objective."""


class StepInfo(NamedTuple):
    """Outcome of one update.

    Attributes:
        learning_rate: factor on the update direction that was applied.
        update_norm: norm of the update. Natural gradient: eta sqrt(delta^T X^T X delta), to first order the change of
            the state. First-order optimisers: Euclidean norm in parameter space.
        gradient_norm: Euclidean norm of the energy gradient.
        energy_limit: upper bound that the energy should not exceed after a step of this length.
        cg_iterations, cg_residual, cg_converged: of the conjugate gradients that solved the linear system, the residual
            relative to the right-hand side; None without them.
    """

    learning_rate: float
    update_norm: float
    gradient_norm: float
    energy_limit: float = math.inf
    cg_iterations: int | None = None
    cg_residual: float | None = None
    cg_converged: bool | None = None


class Optimiser(Protocol):
    """Moves the parameters of one wavefunction; its state is checkpointed."""

    def step(self, samples: Samples, local: LocalEnergies, progress: float) -> StepInfo:
        """One update; progress within the stage, from 0 to 1. Energies, also those of StepInfo, in the energy scale."""

    def reject(self) -> None:
        """A better state of earlier steps was restored (nqs.vmc.guard): take smaller steps, without the momentum."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class OptimiserConfig(Protocol):
    """A frozen dataclass that builds an optimiser of a wavefunction; archives store it."""

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0, *, check: bool = True) -> Objective:
        """The energy as an objective that this optimiser can minimise; rates are in inverse units of the scale.

        Args:
            check: False for a Hamiltonian that `check_hamiltonian` has accepted before; for objectives that check it.
        """

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> Optimiser:
        """Build for an objective; optimisers that need nothing but local values accept None."""
