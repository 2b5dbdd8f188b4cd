"""AvgPool2d, under the path of the reference."""

from hqc.nn.quantized.modules import AvgPool2d

__all__ = ["AvgPool2d"]
