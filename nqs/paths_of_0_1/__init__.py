"""Deprecated module paths of 0.1: `nqs.statistics` is the file statistics.py of this folder (nqs/__init__.py)."""
