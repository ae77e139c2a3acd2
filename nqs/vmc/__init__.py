"""Variational Monte Carlo."""

from nqs.vmc.continuation import rebuild, resume
from nqs.vmc.guard import NonFiniteError
from nqs.vmc.loop import VMC
from nqs.vmc.result import Result
from nqs.vmc.stages import RunConfig
from nqs.vmc.warm_up import WarmUp

__all__ = ["VMC", "NonFiniteError", "Result", "RunConfig", "WarmUp", "rebuild", "resume"]
