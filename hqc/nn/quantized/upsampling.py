"""Resizing, under the path of the reference."""

from hqc.nn.quantized.modules import Upsample, UpsamplingBilinear2d

__all__ = ["Upsample", "UpsamplingBilinear2d"]
