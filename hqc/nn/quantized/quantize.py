"""Quantize and DeQuantize, under the path of the reference."""

from hqc.nn.quantized.modules import DeQuantize, Quantize

__all__ = ["DeQuantize", "Quantize"]
