"""Contract of wavefunctions, with the defaults of states that are neither symmetric nor share prefixes.

Letters: B configurations, L sites, d local states.
"""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, Self, TypeVar

import torch
from jaxtyping import Float64, Int64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.samples import Samples

if TYPE_CHECKING:
    from nqs.symmetry.group import Symmetry


class LogPsi(NamedTuple):
    """psi(n) = exp(log_modulus + i phase)."""

    log_modulus: Float64[Tensor, " B"]
    phase: Float64[Tensor, " B"]


class Conditionals(NamedTuple):
    """Normalised conditionals of every local state, and the phase that each adds."""

    log_p: Float64[Tensor, "*B d"]  # log p(n_s | n_1 .. n_{s-1}); -inf outside the sector
    phase: Float64[Tensor, "*B d"]


class DecodingState(Protocol):
    """Cache of a model for a batch of prefixes."""

    def select(self, indices: Int64[Tensor, " B"]) -> Self:
        """Copy of the prefixes at `indices`, which may repeat or drop some."""

    def branch(self, indices: Int64[Tensor, " B"]) -> Self:
        """The same; this state is invalidated, its memory may be reused."""


class ReferencePhase(Protocol):
    """A fixed, parameter-free phase of every configuration: a frozen dataclass of plain data, stored in archives.

    Optional attribute: `capturable`, True if `phase` is, as in `Wavefunction`.
    """

    def phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """Phase of each configuration in radians, on the device of n."""


class Wavefunction(nn.Module, ABC):
    """A state on a sector, psi = exp(log_modulus + i phase); `train()` and `eval()` never change it.

    With a symmetry its samples are representatives of orbits, weighted with the probability of the orbit; without one
    every configuration represents itself, so that estimators, observables and samplers treat both alike.

    Attributes:
        hilbert: the sector.
        config: what it was built from.
        has_phase: False if the phase is the same for every configuration.
        is_real: psi is real; its phase, 0 or pi, has no gradient.
        normalised: sum |psi|^2 = 1.
        symmetry: the group and its character, or None.
        n_images: network evaluations per amplitude; above 1 for averages over a symmetry.
        shares_prefixes: `log_psi_in_order` is cheaper than `log_psi`.
        rowwise_layers: the input rows of every layer (nn.Linear, nn.LayerNorm, nn.Embedding) belong to the
            configurations in order, equally many to each, as layer-by-layer per-configuration gradients require.
        gradient_dtype: precision of per-configuration gradients; None for that of the parameters.
        capturable: on a GPU `log_psi` can be captured as a CUDA graph: shapes depend on the number of configurations
            alone; the host neither waits for the GPU nor copies to it (no `.item()`, boolean masks, tensors from lists)
            except in a first call, whose tables are kept; nothing but parameters and buffers changes between calls.
    """

    hilbert: HilbertSpace
    config: "WavefunctionConfig"
    has_phase: bool
    is_real: bool = False
    normalised: bool = True
    symmetry: "Symmetry | None" = None
    n_images: int = 1
    shares_prefixes: bool = False
    rowwise_layers: bool = False
    gradient_dtype: torch.dtype | None = None
    capturable: bool = False

    @abstractmethod
    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """Log modulus and phase; log modulus -inf outside the sector."""

    def log_psi_in_order(self, n: UInt8[Tensor, "B L"], shared: Int64[Tensor, " B"]) -> LogPsi:
        """`log_psi(n)`, where the first shared[b] sites of n[b] equal those of n[b - 1]; shared[0] is ignored.

        The caller sizes n so that `bytes_per_shared_site` fits into memory; the model chunks the rest itself.
        """
        return self.log_psi(n)

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """log psi, possibly without the parameter-free reference phase."""
        return self.log_psi(n)

    def fold(self, n: UInt8[Tensor, "B L"]) -> tuple[UInt8[Tensor, "B L"], Float64[Tensor, " B"]]:
        """Representatives r of n, and angles a with psi(n) = psi(r) exp(i a)."""
        return n, torch.zeros(len(n), dtype=torch.float64, device=n.device)

    def representatives(self, device: torch.device | str) -> tuple[UInt8[Tensor, "B L"], Int64[Tensor, " B"]]:
        """One configuration of every orbit on which psi need not vanish, and the number of configurations in it."""
        n = self.hilbert.configurations(device=device)
        return n, torch.ones(len(n), dtype=torch.int64, device=n.device)

    def orbit_sizes(self, n: UInt8[Tensor, "B L"]) -> Int64[Tensor, " B"]:
        """Number of configurations in the orbit of each n, of symmetric states; else 1."""
        return torch.ones(len(n), dtype=torch.int64, device=n.device)

    @property
    def sampled(self) -> "Wavefunction":
        """The state that samplers draw from; `from_base_samples` converts its samples."""
        return self

    def from_base_samples(self, samples: Samples) -> Samples:
        """Independent samples of `sampled` as samples of this state."""
        return samples

    def to_sector_samples(
        self, samples: Samples, generator: torch.Generator, elements: Int64[Tensor, " E"] | None = None
    ) -> Samples:
        """Samples (representatives) moved by random group elements, out of `elements` (None: all)."""
        return samples

    def initial_configurations(self, number: int, generator: torch.Generator) -> UInt8[Tensor, "B L"]:
        """Configurations from which Markov chains start, on the device of the generator."""
        return self.hilbert.random(number, generator)

    def for_steps(self) -> "Wavefunction":
        """The state used in optimisation steps, with the same parameters: for example an average over a subgroup."""
        return self

    @property
    def n_parameters(self) -> int:
        return sum(p.numel() for p in self.parameters())

    @property
    @abstractmethod
    def bytes_per_configuration(self) -> int:
        """Memory per configuration of `forward` without gradients, to size chunks."""

    @property
    def bytes_per_amplitude(self) -> int:
        """Memory per configuration of `log_psi` without gradients."""
        return self.bytes_per_configuration

    @property
    def bytes_per_shared_site(self) -> int:
        """Memory that `log_psi_in_order` keeps per site of a prefix shared by several configurations."""
        return 0


State = TypeVar("State", bound=DecodingState)


class AutoregressiveWavefunction(Wavefunction, Generic[State]):
    """|psi(n)|^2 = prod_s p(n_s | n_1 .. n_{s-1}), phase(n) = sum_s phase_s(n_s | n_1 .. n_{s-1}) + reference_phase(n).

    `conditionals` evaluates whole configurations, `start` and `step` grow them; both agree to machine precision.
    """

    @abstractmethod
    def conditionals(self, n: UInt8[Tensor, "B L"]) -> Conditionals:
        """Conditionals at every site, (B, L, d) each."""

    @abstractmethod
    def start(self, batch: int) -> State:
        """State of `batch` empty prefixes."""

    @abstractmethod
    def step(self, tokens: UInt8[Tensor, " B"] | None, state: State) -> tuple[Conditionals, State]:
        """Append local states (None before the first site); conditionals (B, d) of the next site.

        `state` is invalidated.
        """

    def reference_phase(self, n: UInt8[Tensor, "B L"]) -> Float64[Tensor, " B"]:
        """Phase of `config.reference`; 0 without one."""
        reference: ReferencePhase | None = getattr(getattr(self, "config", None), "reference", None)
        if reference is None:
            return torch.zeros(len(n), dtype=torch.float64, device=n.device)
        return reference.phase(n)

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        """log psi without the parameter-free reference phase."""
        log_p, phase = self.conditionals(n)
        chosen = n.long()[..., None]
        return LogPsi(log_p.gather(-1, chosen).sum((1, 2)) / 2, phase.gather(-1, chosen).sum((1, 2)))

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        log_modulus, phase = self(n)
        return LogPsi(log_modulus, phase + self.reference_phase(n))


class WavefunctionConfig(Protocol):
    """A frozen dataclass that builds a wavefunction; archives store it."""

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> Wavefunction: ...
