"""Energies, tables, figures and web pages of runs."""
