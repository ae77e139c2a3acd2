"""Products of wavefunctions on one sector: a Slater-Jastrow state is that of a determinant and a Jastrow factor,

ProductConfig(factors=(DeterminantConfig(orbitals=..., width=0, ...), JastrowConfig(initial=0.01))).
"""

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from nqs.hilbert import HilbertSpace
from nqs.protocols import LogPsi, Wavefunction, WavefunctionConfig


@dataclass(frozen=True, kw_only=True)
class ProductConfig:
    """psi = product of the factors.

    Attributes:
        factors: models without a symmetry, at least one.

    Raises:
        ValueError: no factor.
    """

    factors: tuple[WavefunctionConfig, ...]

    def __post_init__(self) -> None:
        if not self.factors:
            raise ValueError("factors=(): a product needs at least one model.")

    def build(self, hilbert: HilbertSpace, device: torch.device | str = "cpu") -> "Product":
        return Product(hilbert, self, device=device)


class Product(Wavefunction):
    """A product of wavefunctions.

    Raises:
        ValueError: a factor has a symmetry.
    """

    config: ProductConfig
    normalised = False

    def __init__(self, hilbert: HilbertSpace, config: ProductConfig, *, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.hilbert = hilbert
        self.config = config
        built = [factor.build(hilbert, device) for factor in config.factors]
        if symmetric := [type(factor).__name__ for factor in built if factor.symmetry is not None]:
            raise ValueError(
                f"{symmetric[0]} has a symmetry, which a product need not have: take factors without, and give the "
                "symmetry to their product."
            )
        self.factors = cast(list[Wavefunction], nn.ModuleList(built))
        self.has_phase = any(factor.has_phase for factor in built)
        self.is_real = all(factor.is_real or not factor.has_phase for factor in built)
        self.rowwise_layers = all(factor.rowwise_layers for factor in built)
        self.capturable = all(factor.capturable for factor in built)
        dtypes = {factor.gradient_dtype for factor in built}
        self.gradient_dtype = dtypes.pop() if len(dtypes) == 1 else None

    def log_psi(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        return self._product([factor.log_psi(n) for factor in self.factors])

    def forward(self, n: UInt8[Tensor, "B L"]) -> LogPsi:
        return self._product([factor(n) for factor in self.factors])

    def _product(self, parts: list[LogPsi]) -> LogPsi:
        log_modulus = torch.stack([part.log_modulus for part in parts]).sum(0)
        return LogPsi(log_modulus, torch.stack([part.phase for part in parts]).sum(0))

    @property
    def bytes_per_configuration(self) -> int:
        return sum(factor.bytes_per_configuration for factor in self.factors)
