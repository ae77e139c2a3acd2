"""What the parts of nqs promise each other: Hamiltonian, wavefunction, sampler.

Letters: B configurations, L sites, d local states, K connected configurations.
"""

import math
from abc import ABC, abstractmethod
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
from nqs.samples import LocalEnergies, Samples
from nqs.symmetry.group import Symmetry


class Connected(NamedTuple):
    """Off-diagonal row entries <n|H|n'> of a batch of configurations n, in flat form, without zeros."""

    configurations: UInt8[Tensor, "K L"]  # n'
    elements: Num[Tensor, " K"]  # <n|H|n'>, float64 or complex128
    parents: Int64[Tensor, " K"]  # row of n in the batch


class Hamiltonian(Protocol):
    """A Hermitian operator on a sector. Built-in families also list no n' twice for the same n.

    Optional members are read by the functions below, which give their defaults: `lattice`, `is_stoquastic`, `unit`,
    `max_connected`, `has_boundary_phases`.
    """

    @property
    def hilbert(self) -> HilbertSpace: ...

    def diagonal(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """<n|H|n>."""

    def connected(self, n: UInt8[Tensor, "B L"]) -> Connected:
        """All n' != n with <n|H|n'> != 0, on the device of n."""


def lattice_of(hamiltonian: Hamiltonian) -> Lattice | None:
    """Where the sites are; None by default."""
    return getattr(hamiltonian, "lattice", None)


def is_stoquastic(hamiltonian: Hamiltonian) -> bool:
    """No off-diagonal element is positive or complex: the ground state can be chosen positive. False by default."""
    return bool(getattr(hamiltonian, "is_stoquastic", False))


def unit_of(hamiltonian: Hamiltonian) -> str:
    """Name of the unit of its energies, for print; "J" by default."""
    return str(getattr(hamiltonian, "unit", "J"))


def max_connected(hamiltonian: Hamiltonian) -> int:
    """An upper bound of the connected configurations of one configuration, at least 1; 4 L by default."""
    return max(1, int(getattr(hamiltonian, "max_connected", 4 * hamiltonian.hilbert.n_sites)))


def has_boundary_phases(hamiltonian: Hamiltonian) -> bool:
    """Hops carry phases that shift the momenta of the particles; False by default."""
    return bool(getattr(hamiltonian, "has_boundary_phases", False))


class LogPsi(NamedTuple):
    """psi(n) = exp(log_modulus + i phase)."""

    log_modulus: Float64[Tensor, " B"]
    phase: Float64[Tensor, " B"]


class Conditionals(NamedTuple):
    """Normalised conditionals of every local state, and the phase that choosing it adds."""

    log_p: Float64[Tensor, "*B d"]  # log p(n_s | n_1 .. n_{s-1}); -inf outside the sector
    phase: Float64[Tensor, "*B d"]


class DecodingState(Protocol):
    """What a model remembers of a batch of prefixes."""

    def select(self, indices: Int64[Tensor, " B"]) -> Self:
        """A copy of the prefixes at `indices`, repeated or dropped as these say."""

    def branch(self, indices: Int64[Tensor, " B"]) -> Self:
        """The same, but it may reuse the memory of this state, which is used up."""


class ReferencePhase(Protocol):
    """A fixed phase of every configuration, without parameters: a frozen dataclass of plain data, kept in archives."""

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """Phase of each configuration in radians, on the device of n."""


class Wavefunction(nn.Module, ABC):
    """A state on a sector, psi = exp(log_modulus + i phase). `train()` and `eval()` never change the physical state.

    A state with a symmetry is known on whole orbits from one representative of each: `fold` leads there. Its samples
    are representatives, weighted with the probability of their orbit. Without a symmetry every configuration represents
    itself, so that estimators, observables and samplers treat both alike.

    Attributes:
        hilbert: the sector.
        config: what it was built from.
        has_phase: False where the phase is the same number for every configuration.
        normalised: sum |psi|^2 = 1.
        symmetry: the group and its character; None for none.
        n_images: network evaluations for one amplitude; more than one for averages over a symmetry.
        shares_prefixes: True where `log_psi_in_order` is cheaper than `log_psi`.
        rowwise_layers: True where the rows of the input of every layer (nn.Linear, nn.LayerNorm, nn.Embedding) belong
            to the configurations in their order, equally many to each: per-configuration gradients are then found layer
            by layer, which is faster.
        gradient_dtype: precision of per-configuration gradients; None for that of the parameters.
    """

    hilbert: HilbertSpace
    config: "WavefunctionConfig"
    has_phase: bool
    normalised: bool = True
    symmetry: Symmetry | None = None
    n_images: int = 1
    shares_prefixes: bool = False
    rowwise_layers: bool = False
    gradient_dtype: torch.dtype | None = None

    @abstractmethod
    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Log modulus and phase; log modulus -inf outside the sector."""

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        """`log_psi(n)`, where the first shared[b] sites of n[b] are those of n[b - 1]; shared[0] says nothing.

        Models that evaluate sites in their order need to compute only what follows the shared prefix. What they keep
        for that fits into memory (`bytes_per_shared_site`); the rest of the work is theirs to split.
        """
        return self.log_psi(n)

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """What depends on the parameters; it may leave out a fixed phase of each configuration."""
        return self.log_psi(n)

    def fold(self, n: UInt8[Tensor, "B L"]) -> tuple[UInt8[Tensor, "B L"], Float64[Tensor, " B"]]:
        """Representatives r of n, and angles a with psi(n) = psi(r) exp(i a)."""
        return n, torch.zeros(len(n), dtype=torch.float64, device=n.device)

    def representatives(self, device: torch.device | str) -> tuple[UInt8[Tensor, "B L"], Int64[Tensor, " B"]]:
        """One configuration of every orbit on which psi need not vanish, and how many configurations it stands for."""
        n = self.hilbert.configurations(device=device)
        return n, torch.ones(len(n), dtype=torch.int64, device=n.device)

    @property
    def sampled(self) -> "Wavefunction":
        """The state that samplers draw from; `from_base_samples` makes samples of this state from its samples."""
        return self

    def from_base_samples(self, samples: Samples) -> Samples:
        """Independent samples of `sampled` as samples of this state."""
        return samples

    def to_sector_samples(
        self, samples: Samples, generator: torch.Generator, elements: Int64[Tensor, " E"] | None = None
    ) -> Samples:
        """Samples (representatives) as configurations of the whole sector: each moved by a random group element.

        Args:
            elements: of the group, those to choose from; None for all.
        """
        return samples

    def for_steps(self) -> "Wavefunction":
        """The state that optimisation steps use, with the same parameters: for example an average over a subgroup."""
        return self

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    @abstractmethod
    def bytes_per_configuration(self) -> int:
        """Memory that one configuration needs during `forward` without gradients, to size chunks."""

    @property
    def bytes_per_amplitude(self) -> int:
        """The same for `log_psi` without gradients, where that takes another way."""
        return self.bytes_per_configuration

    @property
    def bytes_per_shared_site(self) -> int:
        """Memory that `log_psi_in_order` keeps for each site of a prefix that several configurations share."""
        return 0


State = TypeVar("State", bound=DecodingState)


class AutoregressiveWavefunction(Wavefunction, Generic[State]):
    """|psi(n)|^2 = prod_s p(n_s | n_1 .. n_{s-1}), phase(n) = sum_s phase_s(n_s | n_1 .. n_{s-1}) + reference_phase(n).

    `conditionals` evaluates whole configurations at once, `start` and `step` grow them site by site; both agree to
    rounding.
    """

    @abstractmethod
    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        """Conditionals at every site, (B, L, d) each."""

    @abstractmethod
    def start(self, batch: int) -> State:
        """State of `batch` empty prefixes."""

    @abstractmethod
    def step(self, tokens: UInt8[Tensor, " B"] | None, state: State) -> tuple[Conditionals, State]:
        """Append the local states `tokens` (None before the first site); conditionals (B, d) of the next site.

        The returned state may share the memory of `state`, which is used up.
        """

    def reference_phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """A fixed phase of whole configurations on top of the learned one: that of `config.reference`; 0 without."""
        reference: ReferencePhase | None = getattr(getattr(self, "config", None), "reference", None)
        if reference is None:
            return torch.zeros(len(n), dtype=torch.float64, device=n.device)
        return reference.phase(n)

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """The part with parameters: log psi without the reference phase."""
        log_p, phase = self.conditionals(n)
        chosen = n.long()[..., None]
        return LogPsi(log_p.gather(-1, chosen).sum((1, 2)) / 2, phase.gather(-1, chosen).sum((1, 2)))

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_modulus, phase = self(n)
        return LogPsi(log_modulus, phase + self.reference_phase(n))


class WavefunctionConfig(Protocol):
    """A frozen dataclass that builds a wavefunction; archives store it."""

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> Wavefunction: ...


class Sampler(Protocol):
    """Draws configurations from |psi|^2 of one wavefunction, whose parameters may change between draws."""

    def sample(self, generator: torch.Generator) -> Samples:
        """Samples on the device of the generator."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run needs to go on: walkers of Markov chains; empty for independent draws."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class SamplerConfig(Protocol):
    """A frozen dataclass that builds a sampler of a wavefunction; archives store it."""

    def build(self, wavefunction: Wavefunction) -> Sampler: ...


class Objective(Protocol):
    """What a run minimises: an energy, a free energy, the infidelity to a target."""

    def local(self, wavefunction: Wavefunction, samples: Samples) -> LocalEnergies:
        """Local values on the samples; their mean is the objective."""


class StepInfo(NamedTuple):
    """What one update did.

    Attributes:
        learning_rate: factor on the update direction that was really used.
        update_norm: length of the update: in the metric, eta sqrt(delta^T X^T X delta), for the natural gradient, where
            it is the change of the state to first order; of the parameter vector for first-order optimisers.
        gradient_norm: Euclidean norm of the energy gradient.
        energy_limit: what the energy may at most become by a step of this length.
    """

    learning_rate: float
    update_norm: float
    gradient_norm: float
    energy_limit: float = math.inf


class Optimiser(Protocol):
    """Moves the parameters of one wavefunction, and keeps state that can be archived."""

    def step(self, samples: Samples, local: LocalEnergies, progress: float) -> StepInfo:
        """One update; progress runs from 0 to 1."""

    def reject(self) -> None:
        """The last step was undone: go on more carefully."""

    def state_dict(self) -> dict[str, Tensor]: ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None: ...


class OptimiserConfig(Protocol):
    """A frozen dataclass that builds an optimiser of a wavefunction; archives store it."""

    def objective(self, hamiltonian: Hamiltonian) -> Objective:
        """The energy, as this optimiser needs it."""

    def build(self, wavefunction: Wavefunction, objective: Objective | None = None) -> Optimiser:
        """For the objective that the steps will be made with."""
