"""Wavefunctions and their parts."""

from nqs.models.transformer import Transformer, TransformerConfig

__all__ = ["Transformer", "TransformerConfig"]
