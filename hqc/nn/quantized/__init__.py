"""Modules for the arithmetic of quantized models."""

from hqc.nn.quantized.float_functional import FloatFunctional

__all__ = ["FloatFunctional"]
