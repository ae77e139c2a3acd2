"""Small networks, for tests in which the sizes do not matter, except for options that a test gives."""

from typing import Any

from nqs.models import (
    ConvolutionalConfig,
    DeterminantConfig,
    GroupConvolutionalConfig,
    RBMConfig,
    TransformerConfig,
    VisionConfig,
)


def small_transformer(**options: Any) -> TransformerConfig:
    return TransformerConfig(**{"width": 8, "layers": 1, "heads": 2, "mlp_ratio": 2} | options)


def small_determinant(**options: Any) -> DeterminantConfig:
    return DeterminantConfig(**{"width": 4, "layers": 1, "mlp_ratio": 2, "correction": 0.01} | options)


def small_convolutional(**options: Any) -> ConvolutionalConfig:
    return ConvolutionalConfig(**{"width": 4, "layers": 2, "mlp_ratio": 2} | options)


def small_group_convolutional(**options: Any) -> GroupConvolutionalConfig:
    return GroupConvolutionalConfig(**{"width": 3, "layers": 2} | options)


def small_vision(**options: Any) -> VisionConfig:
    return VisionConfig(**{"width": 6, "layers": 1, "mlp_ratio": 2} | options)


def small_rbm(**options: Any) -> RBMConfig:
    return RBMConfig(**{"density": 1, "initial": 0.1} | options)
