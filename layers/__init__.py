"""Building blocks of the models."""

from layers.conv import Activation, ConvLayer, DeconvLayer, TransConvLayer

__all__ = ["Activation", "ConvLayer", "DeconvLayer", "TransConvLayer"]
