"""Interchangeable parts of an autoregressive wavefunction (`ComposedConfig`), one piece a file.

The default model is `nqs.models.Transformer`; these are the alternatives that `scripts/ablations.py` compares.
"""

from typing import TYPE_CHECKING

from nqs.runtime.lazy import on_first_use

if TYPE_CHECKING:
    from nqs.models.parts.attention import Attention, ByPosition, RotaryAttention
    from nqs.models.parts.composed import Composed, ComposedConfig
    from nqs.models.parts.family import FamilyConfig, FamilyWavefunction
    from nqs.models.parts.globals import GlobalEmbedding
    from nqs.models.parts.heads import Deembedding
    from nqs.models.parts.latent import Latent, LatentConfig
    from nqs.models.parts.linear_recurrence import LinearRecurrence
    from nqs.models.parts.masked_mlp import MaskedMLP
    from nqs.models.parts.phases import LastPhase, LogitPhase, SignPhase, TokenPhase, WholePhase
    from nqs.models.parts.positions import GridPositions, LearnedPositions, NoPositions
    from nqs.models.parts.recurrent import Recurrence
    from nqs.models.parts.retention import Retention
    from nqs.models.parts.tokens import Categorical, Groups, OneHot, Ordinal

__all__ = [
    "Attention",
    "ByPosition",
    "Categorical",
    "Composed",
    "ComposedConfig",
    "Deembedding",
    "FamilyConfig",
    "FamilyWavefunction",
    "GlobalEmbedding",
    "GridPositions",
    "Groups",
    "LastPhase",
    "Latent",
    "LatentConfig",
    "LearnedPositions",
    "LinearRecurrence",
    "LogitPhase",
    "MaskedMLP",
    "NoPositions",
    "OneHot",
    "Ordinal",
    "Recurrence",
    "Retention",
    "RotaryAttention",
    "SignPhase",
    "TokenPhase",
    "WholePhase",
]

__getattr__, __dir__ = on_first_use(
    __name__,
    {
        "attention": "Attention ByPosition RotaryAttention",
        "composed": "Composed ComposedConfig",
        "family": "FamilyConfig FamilyWavefunction",
        "globals": "GlobalEmbedding",
        "heads": "Deembedding",
        "latent": "Latent LatentConfig",
        "linear_recurrence": "LinearRecurrence",
        "masked_mlp": "MaskedMLP",
        "phases": "LastPhase LogitPhase SignPhase TokenPhase WholePhase",
        "positions": "GridPositions LearnedPositions NoPositions",
        "recurrent": "Recurrence",
        "retention": "Retention",
        "tokens": "Categorical Groups OneHot Ordinal",
    },
)
