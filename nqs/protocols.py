"""Contracts between the parts of nqs: Hamiltonian, wavefunction (nqs.wavefunction), sampler, objective, optimiser.

Letters: B configurations, L sites, K connected configurations.
"""

import math
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor

from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
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
    "AutoregressiveWavefunction",
    "Conditionals",
    "Connected",
    "DecodingState",
    "Hamiltonian",
    "LogPsi",
    "Objective",
    "Optimiser",
    "OptimiserConfig",
    "ReferencePhase",
    "Sampler",
    "SamplerConfig",
    "StepInfo",
    "Wavefunction",
    "WavefunctionConfig",
    "has_boundary_phases",
    "is_stoquastic",
    "lattice_of",
    "marshall_exact",
    "marshall_sublattice",
    "max_connected",
    "unit_of",
]


class Connected(NamedTuple):
    """Off-diagonal row entries <n|H|n'> of a batch of configurations n, in flat form, without zeros."""

    configurations: UInt8[Tensor, "K L"]  # n'
    elements: Num[Tensor, " K"]  # <n|H|n'>, float64 or complex128
    parents: Int64[Tensor, " K"]  # row of n in the batch


class Hamiltonian(Protocol):
    """A Hermitian operator on a sector; optional members are read by the functions below, which give their defaults."""

    @property
    def hilbert(self) -> HilbertSpace: ...

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """<n|H|n>."""

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """All n' != n with <n|H|n'> != 0, on the device of n. An n' listed twice for one n counts twice."""


def lattice_of(hamiltonian: Hamiltonian) -> Lattice | None:
    """Lattice of the sites; None by default."""
    return getattr(hamiltonian, "lattice", None)


def is_stoquastic(hamiltonian: Hamiltonian) -> bool:
    """No off-diagonal element is positive or complex: the ground state can be chosen positive. False by default."""
    return bool(getattr(hamiltonian, "is_stoquastic", False))


def unit_of(hamiltonian: Hamiltonian) -> str:
    """Printed name of the energy unit; "J" by default."""
    return str(getattr(hamiltonian, "unit", "J"))


def max_connected(hamiltonian: Hamiltonian) -> int:
    """Upper bound of the number of connected configurations of one configuration, at least 1; 4 L by default."""
    return max(1, int(getattr(hamiltonian, "max_connected", 4 * hamiltonian.hilbert.n_sites)))


def marshall_exact(hamiltonian: Hamiltonian) -> bool | None:
    """Spins: whether Marshall's rule gives the exact signs; None (default): not known to apply."""
    return getattr(hamiltonian, "marshall_exact", None)


def marshall_sublattice(hamiltonian: Hamiltonian) -> tuple[int, ...] | None:
    """Sites whose local states give the sign (-1)^(their sum), 1 or 0 each: those of sublattice 1 by default.

    None without a lattice, or if it is not bipartite.
    """
    if (given := getattr(hamiltonian, "marshall_sublattice", None)) is not None:
        return tuple(given)
    try:
        return None if (lattice := lattice_of(hamiltonian)) is None else tuple(lattice.sublattices().tolist())
    except ValueError:  # not bipartite
        return None


def has_boundary_phases(hamiltonian: Hamiltonian) -> bool:
    """Hops carry phases that shift the momenta of the particles; False by default."""
    return bool(getattr(hamiltonian, "has_boundary_phases", False))


class Sampler(Protocol):
    """Draws configurations from |psi|^2 of one wavefunction, whose parameters may change between draws."""

    def sample(self, generator: torch.Generator) -> Samples:
        """Samples on the device of the generator."""

    def state_dict(self) -> dict[str, Tensor]:
        """State between draws (walkers of Markov chains), checkpointed; empty for independent draws."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class SamplerConfig(Protocol):
    """A frozen dataclass that builds a sampler of a wavefunction; archives store it."""

    def build(self, wavefunction: Wavefunction) -> Sampler: ...


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
    """

    learning_rate: float
    update_norm: float
    gradient_norm: float
    energy_limit: float = math.inf


class Optimiser(Protocol):
    """Moves the parameters of one wavefunction; its state is checkpointed."""

    def step(self, samples: Samples, local: LocalEnergies, progress: float) -> StepInfo:
        """One update; progress within the stage, from 0 to 1. Energies, also those of StepInfo, in the energy scale."""

    def reject(self) -> None:
        """The last step was undone: increase the damping."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class OptimiserConfig(Protocol):
    """A frozen dataclass that builds an optimiser of a wavefunction; archives store it."""

    def objective(self, hamiltonian: Hamiltonian, energy_scale: float = 1.0) -> Objective:
        """The energy as an objective that this optimiser can minimise; rates are in inverse units of the scale."""

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> Optimiser:
        """Build for an objective; optimisers that need nothing but local values accept None."""
