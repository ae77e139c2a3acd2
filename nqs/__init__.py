"""nqs: ground states of quantum many-body Hamiltonians from autoregressive neural quantum states."""

from nqs import exact, recipes
from nqs.archive import Archive, ArchiveError
from nqs.vmc import VMC, NonFiniteError, Result, RunConfig, resume

__all__ = ["VMC", "Archive", "ArchiveError", "NonFiniteError", "Result", "RunConfig", "exact", "recipes", "resume"]
