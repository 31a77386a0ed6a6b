"""Building blocks of the models."""

from layers.conv import (
    Activation,
    ConvLayer,
    DeconvLayer,
    TransConvLayer,
    spread_channels,
    with_ch_in,
)

__all__ = [
    "Activation",
    "ConvLayer",
    "DeconvLayer",
    "TransConvLayer",
    "spread_channels",
    "with_ch_in",
]
