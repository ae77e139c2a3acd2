"""What the parts of a composed wavefunction are built for."""

from typing import NamedTuple, Protocol

from torch import nn

from nqs.hilbert import HilbertSpace


class Sizes(NamedTuple):
    """Sector and width of the network.

    Attributes:
        patch: consecutive sites in a token.
        shape: rows and columns of the sites in the order of decoding, for two-dimensional parts.
    """

    hilbert: HilbertSpace
    width: int
    patch: int
    shape: tuple[int, int]

    @property
    def n_sites(self) -> int:
        return self.hilbert.n_sites

    @property
    def local_dim(self) -> int:
        return self.hilbert.local_dim

    @property
    def n_positions(self) -> int:
        """Tokens of a configuration."""
        return self.n_sites // self.patch


class Part(Protocol):
    """A frozen dataclass that builds one piece of the network; archives store it."""

    def build(self, sizes: Sizes) -> nn.Module: ...
