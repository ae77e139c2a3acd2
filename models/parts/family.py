"""One wavefunction for a family of Hamiltonians that differ in their couplings.

The number k of a Hamiltonian is an additional first site with a uniform distribution (`nqs.hamiltonians.Family`),

    psi(k, n) = psi_k(n) / sqrt(M),        k = 0 .. M - 1,

and psi_k has the couplings of Hamiltonian k in its global embedding. Each psi_k is normalised in the same sector, so
that its energy is variational, for couplings that were never trained as well: `member` gives it as a wavefunction of
its own. A transformer that carries the couplings as tokens: Zhang and Di Ventra, arXiv:2208.01758, there without fixed
quantum numbers.
"""

# Shapes: B configurations, L sites besides the first, d local states of the sector, D of the extended space.
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float64, UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.models.inference.dense import DenselyDecoded
from nqs.models.parts.composed import Composed, ComposedConfig
from nqs.models.parts.globals import GlobalEmbedding
from nqs.models.parts.phases import WholePhase
from nqs.protocols import Conditionals


@dataclass(frozen=True, kw_only=True)
class FamilyConfig:
    """
    Attributes:
        component: the network of every member; its global embedding is replaced.
        sector: of every member.
        couplings: of each member, equally many numbers of order 1.

    Raises:
        ValueError: no member, members with different numbers of couplings, or a base with a start or a separate phase
            network.
    """

    component: ComposedConfig
    sector: HilbertSpace
    couplings: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if len({len(row) for row in self.couplings}) != 1 or not self.couplings[0]:
            raise ValueError(f"couplings={self.couplings}: give equally many numbers for each member, at least one.")
        if self.component.start != "uniform" or isinstance(self.component.phase, WholePhase):
            raise ValueError("the base of a family has start='uniform' and no WholePhase().")

    def of(self, couplings: tuple[float, ...]) -> ComposedConfig:
        """Configuration of the wavefunction with these couplings."""
        return replace(self.component, whole=GlobalEmbedding(couplings=couplings))

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "FamilyWavefunction":
        """
        Raises:
            ValueError: hilbert is not the sector with the number of the member as a first site.
        """
        if hilbert.local_dims != (len(self.couplings), *self.sector.local_dims):
            raise ValueError(
                f"a family of {len(self.couplings)} members lives on the sector with a first site of as many states "
                f"(nqs.hamiltonians.Family), not on {hilbert}."
            )
        return FamilyWavefunction(hilbert, self, device)


class FamilyWavefunction(DenselyDecoded):
    config: FamilyConfig
    rowwise_layers = True
    features: Tensor  # (M, F)

    def __init__(self, hilbert: HilbertSpace, config: FamilyConfig, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.hilbert, self.config = hilbert, config
        self.component = config.of(config.couplings[0]).build(config.sector, device)
        self.has_phase, self.gradient_dtype = self.component.has_phase, self.component.gradient_dtype
        whole = [config.of(row).whole for row in config.couplings]
        features = torch.stack([g.features(self.component.sizes) for g in whole if g is not None])
        self.register_buffer("features", features.to(device), persistent=False)

    def member(self, couplings: tuple[float, ...]) -> Composed:
        """The wavefunction of one Hamiltonian, for couplings of the family or others; a copy of the parameters."""
        model = self.config.of(couplings).build(self.config.sector, self.features.device)
        model.load_state_dict(self.component.state_dict())
        return model

    def conditionals(self, n: UInt8[Tensor, "B L1"]) -> Conditionals:
        features = self.features[n[:, 0].long()].to(self.component.norm.weight.dtype)
        logits, phase = self.component.outputs(n[:, 1:-1], features=features)
        more = (0, self.hilbert.local_dim - logits.shape[-1], 1, 0)  # other local states, the first site
        logits, phase = nn.functional.pad(logits, more), nn.functional.pad(phase, more)
        sites = torch.arange(self.hilbert.n_sites, device=n.device)
        log_start = self.hilbert.tables(n.device).log_uniform[sites, self.hilbert.remainders(n)]
        return Conditionals((logits + log_start).log_softmax(-1), phase)

    def reference_phase(self, n: UInt8[Tensor, "B L1"]) -> Float64[Tensor, " B"]:
        return self.component.reference_phase(n[:, 1:])

    @property
    def bytes_per_configuration(self) -> int:
        extra = 8 * 8 * self.hilbert.n_sites * self.hilbert.local_dim
        return self.component.bytes_per_configuration + extra
