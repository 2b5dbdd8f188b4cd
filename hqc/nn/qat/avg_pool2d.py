"""Average pools, under the path of the reference."""

from hqc.nn.qat.results import AdaptiveAvgPool2d, AvgPool2d

__all__ = ["AdaptiveAvgPool2d", "AvgPool2d"]
