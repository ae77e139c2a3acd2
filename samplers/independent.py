"""Samplers whose draws do not depend on the draws before."""

from torch import Tensor

from nqs.protocols import AutoregressiveWavefunction, Wavefunction


def autoregressive(wavefunction: Wavefunction, config: object) -> AutoregressiveWavefunction:
    """The state that is drawn from.

    Raises:
        TypeError: it is not autoregressive, as this sampler needs.
    """
    if not isinstance(wavefunction.sampled, AutoregressiveWavefunction):
        raise TypeError(
            f"{type(config).__name__} needs an autoregressive wavefunction; {type(wavefunction).__name__} is not."
        )
    return wavefunction.sampled


class Independent:
    """No state: a resumed run needs nothing to go on drawing."""

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Archives hold an empty state."""
