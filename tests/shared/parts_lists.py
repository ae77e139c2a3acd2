"""Composed wavefunctions of the model contract: those that tests/models holds to it, and those compared on a GPU."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from nqs.hilbert import HilbertSpace
from nqs.lattice import chain
from nqs.models.parts import (
    Attention,
    ByPosition,
    Categorical,
    ComposedConfig,
    Deembedding,
    GlobalEmbedding,
    GridPositions,
    Groups,
    LastPhase,
    LatentConfig,
    LearnedPositions,
    LinearRecurrence,
    LogitPhase,
    MaskedMLP,
    NoPositions,
    OneHot,
    Ordinal,
    Recurrence,
    Retention,
    RotaryAttention,
    SignPhase,
    TokenPhase,
    WholePhase,
)


def by_displacement(space: HilbertSpace) -> ByPosition:
    return ByPosition(classes=tuple(map(tuple, chain(space.n_sites).displacements().tolist())))


# Of every space; functions are called with it.
ON_CPU: dict[str, Mapping[str, Any]] = {
    "patches, by position": {"mixer": ByPosition(), "patch": 2, "layers": 2},
    "by displacement": {"mixer": by_displacement, "tokens": Categorical(), "phase": TokenPhase()},
    "retention": {
        "mixer": Retention(heads=2),
        "tokens": OneHot(),
        "phase": LastPhase(),
        "deembedding": Deembedding(per_site=True),
    },
    "linear recurrence": {
        "mixer": LinearRecurrence(),
        "tokens": Groups(),
        "positions": NoPositions(),
        "phase": LogitPhase(),
        "deembedding": Deembedding(pooled=True),
    },
    "recurrence": {"mixer": Recurrence(), "deembedding": Deembedding(pooled=True, per_site=True)},
    "two-dimensional recurrence": {
        "mixer": Recurrence(grid=True),
        "tokens": Ordinal(),
        "positions": GridPositions(),
        "phase": SignPhase(),
    },
    "rotary": {
        "mixer": RotaryAttention(heads=2),
        "tokens": Ordinal(features=1),
        "phase": WholePhase(ratio=2),
        "whole": GlobalEmbedding(couplings=(0.5,)),
    },
    "masked perceptron, float32, zero phase": {
        "mixer": MaskedMLP(heads=2),
        "phase": None,
        "dtype": "float32",
        "patch": 2,
        "tokens": OneHot(),
    },
    "attention, learned positions": {"mixer": Attention(heads=2), "positions": LearnedPositions()},
}


def on_gpu(space: HilbertSpace) -> list[ComposedConfig | LatentConfig]:
    """Configurations for a space of six sites with particles."""
    both = Deembedding(pooled=True, per_site=True)
    return [
        ComposedConfig(mixer=ByPosition(), patch=2, tokens=OneHot()),
        ComposedConfig(mixer=by_displacement(space), tokens=Categorical(), phase=TokenPhase()),
        ComposedConfig(mixer=Retention(), tokens=Groups(), deembedding=Deembedding(per_site=True)),
        ComposedConfig(mixer=LinearRecurrence(), positions=NoPositions(), phase=LogitPhase(), whole=GlobalEmbedding()),
        ComposedConfig(mixer=Recurrence(grid=True), shape=(2, 3), tokens=Ordinal(), positions=GridPositions()),
        ComposedConfig(mixer=Recurrence(), deembedding=both, tokens=Ordinal(features=1)),
        ComposedConfig(mixer=RotaryAttention(), phase=WholePhase(), deembedding=Deembedding(pooled=True)),
        ComposedConfig(mixer=MaskedMLP(), phase=SignPhase()),
        ComposedConfig(mixer=Attention(), positions=LearnedPositions(), phase=LastPhase()),
        LatentConfig(latents=3),
    ]


def described(parts: Mapping[str, Any]) -> Iterator[str]:
    """The kind of each part, with the options that change what is computed, without sizes."""
    for name, part in parts.items():
        if name in ("tokens", "positions", "mixer", "deembedding", "phase", "whole") and part is not None:
            kind = part(EXAMPLE) if callable(part) else part
            flags = [f.name for f in fields(kind) if getattr(kind, f.name) is True and f.default is False]
            flags += ["classes"] if getattr(kind, "classes", None) is not None else []
            flags += ["a number"] if getattr(kind, "features", None) == 1 else []
            yield f"{type(kind).__name__}({', '.join(flags)})"
        elif name == "patch" and part > 1:
            yield "patches"


EXAMPLE = HilbertSpace(2, ("a", "b"))


def of_config(config: ComposedConfig | LatentConfig) -> set[str]:
    """What `described` says of all parts of a configuration."""
    if isinstance(config, LatentConfig):
        return {"LatentConfig", *of_config(config.component)}
    return set(described({f.name: getattr(config, f.name) for f in fields(config)}))
