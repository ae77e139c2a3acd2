"""What a state in a symmetry sector takes over from the wavefunction that it is made from."""

import torch

from nqs.protocols import AutoregressiveWavefunction, SymmetricWavefunction


class OverBase(SymmetricWavefunction):
    """A symmetric wavefunction whose network is `base`: what the network's layers decide is asked of it."""

    def __init__(self, base: AutoregressiveWavefunction) -> None:
        super().__init__()
        self.base = base

    @property
    def has_phase(self) -> bool:  # type: ignore[override]
        return self.base.has_phase

    @property
    def rowwise_layers(self) -> bool:  # type: ignore[override]
        return self.base.rowwise_layers

    @property
    def gradient_dtype(self) -> torch.dtype | None:  # type: ignore[override]
        return self.base.gradient_dtype
