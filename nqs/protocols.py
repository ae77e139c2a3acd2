"""What the parts of nqs promise each other: Hamiltonian, wavefunction, sampler.

Letters: B configurations, L sites, d local states, K connected configurations.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from jaxtyping import Float64, Int64, Num, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.lattice.lattice import Lattice
from nqs.samples import Samples, distinct, split_counts

if TYPE_CHECKING:
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


class Wavefunction(nn.Module, ABC):
    """A normalised state on a sector, psi = exp(log_modulus + i phase), sum |psi|^2 = 1. Holds no state itself.

    Attributes:
        hilbert: the sector.
        config: what it was built from.
        has_phase: False where the phase is the same number for every configuration.
        shares_prefixes: True where `log_psi_in_order` is cheaper than `log_psi`.
        rowwise_layers: True where the rows of the input of every layer (nn.Linear, nn.LayerNorm, nn.Embedding) belong
            to the configurations in their order, equally many to each: per-configuration gradients are then found layer
            by layer, which is faster.
        gradient_dtype: precision of per-configuration gradients; None for that of the parameters.
        images: network evaluations for one amplitude; more than one for averages over a symmetry.
    """

    hilbert: HilbertSpace
    config: "WavefunctionConfig"
    has_phase: bool
    shares_prefixes: bool = False
    rowwise_layers: bool = False
    gradient_dtype: torch.dtype | None = None
    images: int = 1

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
        """A fixed phase of whole configurations, without parameters, on top of the learned one; 0 by default."""
        return torch.zeros(len(n), dtype=torch.float64, device=n.device)

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """The part with parameters: log psi without the reference phase."""
        log_p, phase = self.conditionals(n)
        chosen = n.long()[..., None]
        return LogPsi(log_p.gather(-1, chosen).sum((1, 2)) / 2, phase.gather(-1, chosen).sum((1, 2)))

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_modulus, phase = self(n)
        return LogPsi(log_modulus, phase + self.reference_phase(n))


class SymmetricWavefunction(Wavefunction, ABC):
    """A state that is known on whole orbits of a symmetry group from one representative of each.

    Its samples are representatives, weighted with the probability of their orbit; `unfolded` turns them into
    configurations of the sector. Local energies are the same on a whole orbit where the Hamiltonian has the symmetry.

    Attributes:
        base: what is sampled.
        symmetry: the group and its character.
    """

    base: AutoregressiveWavefunction
    symmetry: "Symmetry"

    @abstractmethod
    def folded(self, samples: Samples) -> Samples:
        """Independent samples of `base` as samples of this state."""

    def fold(self, n: UInt8[Tensor, "B L"]) -> tuple[UInt8[Tensor, "B L"], Float64[Tensor, " B"]]:
        """Representatives r of n, and angles a with psi(n) = psi(r) exp(i a)."""
        element = self.symmetry.canonical(n)
        return self.symmetry.image(n, element), -self.symmetry.phases(n, element, self.hilbert)

    def unfolded(
        self, samples: Samples, generator: torch.Generator, elements: Int64[Tensor, " E"] | None = None
    ) -> Samples:
        """The same samples as configurations of the whole sector: every sample moved by a random element.

        Args:
            elements: of the group, those to choose from; None for all. A sum over all orbits becomes one over the
                images under each of them.
        """
        n, device = samples.configurations, samples.configurations.device
        elements = torch.arange(self.symmetry.order) if elements is None else elements
        E, elements = len(elements), elements.to(device)
        if samples.counts is None:
            row = torch.arange(samples.n_distinct, device=device).repeat_interleave(E)
            number = torch.arange(E, device=device).repeat(len(n))
            shares = None
        else:
            shares = split_counts(samples.counts, torch.full((len(n), E), 1 / E, device=device).double(), generator)
            row, number = shares.nonzero().T
        element = elements[number]
        moved = self.symmetry.image(n[row], element)
        first, classes = distinct(self.hilbert, moved)
        if shares is None:
            share = samples.weights[row] / E
            counts, weights = None, share.new_zeros(len(first)).index_add_(0, classes, share)
        else:
            counts = torch.zeros_like(first).index_add_(0, classes, shares[row, number])
            weights = counts.double() / counts.sum()
        row, element = row[first], element[first]
        return Samples(
            configurations=moved[first],
            weights=weights,
            log_modulus=samples.log_modulus[row],
            phase=samples.phase[row] + self.symmetry.phases(n[row], element, self.hilbert),
            counts=counts,
            inclusion=None if samples.inclusion is None else torch.ones_like(weights),
        )


class WavefunctionConfig(Protocol):
    """A frozen dataclass that builds a wavefunction; archives store it."""

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> Wavefunction: ...


class Sampler(Protocol):
    """Draws configurations from |psi|^2."""

    def sample(self, wavefunction: Wavefunction, generator: torch.Generator) -> Samples: ...
