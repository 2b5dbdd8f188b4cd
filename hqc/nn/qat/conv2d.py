"""Convolutions of images, under the path of the reference."""

from hqc.nn.qat.conv import Conv2d, ConvAdd2d, ConvAddReLU2d, ConvAddReLU62d, ConvReLU2d, ConvReLU62d

__all__ = ["Conv2d", "ConvAdd2d", "ConvAddReLU2d", "ConvAddReLU62d", "ConvReLU2d", "ConvReLU62d"]
