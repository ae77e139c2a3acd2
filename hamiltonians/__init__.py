"""Hamiltonians, one model family a file."""

from nqs.hamiltonians.bose_hubbard import BoseHubbard, harmonic_trap

__all__ = ["BoseHubbard", "harmonic_trap"]
