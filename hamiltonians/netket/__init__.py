"""Operators of NetKet: import and export."""
