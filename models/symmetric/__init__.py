"""Wavefunctions in a symmetry sector."""
