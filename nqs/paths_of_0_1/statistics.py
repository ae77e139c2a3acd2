"""Deprecated path of 0.1: import from nqs.estimators.energy."""

from nqs.estimators.energy import estimate_energy, infinite_temperature_energy, v_score

__all__ = ["estimate_energy", "infinite_temperature_energy", "v_score"]
