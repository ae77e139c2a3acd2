"""nqs: ground states of quantum many-body Hamiltonians from autoregressive neural quantum states."""

from nqs import exact
from nqs.archive import Archive, ArchiveError
from nqs.vmc import VMC, Result, resume

__all__ = ["VMC", "Archive", "ArchiveError", "Result", "exact", "resume"]
