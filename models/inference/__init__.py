"""Cached decoding: tables, kernels, shared prefixes."""
