"""Interpolate, under the path of the reference."""

from hqc.nn.quantized.modules import Interpolate

__all__ = ["Interpolate"]
