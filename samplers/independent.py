"""Samplers whose samples do not depend on the samples before."""

from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, Wavefunction


def autoregressive(wavefunction: Wavefunction, config: object) -> AutoregressiveWavefunction:
    """The state that samples are drawn from.

    Raises:
        TypeError: it is not autoregressive.
    """
    if not isinstance(wavefunction.sampled, AutoregressiveWavefunction):
        raise TypeError(
            f"{type(config).__name__} needs an autoregressive wavefunction; {type(wavefunction).__name__} is not."
        )
    return wavefunction.sampled


class Independent:
    """A sampler without state between draws; one with some (the size of the next draw: tree) overrides both methods."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Nothing to restore."""
