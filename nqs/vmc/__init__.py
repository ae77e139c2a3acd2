"""Variational Monte Carlo."""

from nqs.optimisation.stages import RunConfig, WarmUp
from nqs.vmc.continuation import rebuild, resume
from nqs.vmc.guard import NonFiniteError
from nqs.vmc.loop import VMC
from nqs.vmc.result import Result

__all__ = ["VMC", "NonFiniteError", "Result", "RunConfig", "WarmUp", "rebuild", "resume"]
