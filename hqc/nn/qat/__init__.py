"""Modules that train quantized: the twins of float modules, as prepare puts them into a model."""

from hqc.nn.qat.conv import Conv2d, ConvAdd2d, ConvAddReLU2d, ConvAddReLU62d, ConvReLU2d, ConvReLU62d
from hqc.nn.qat.conv_transpose import (
    ConvTranspose2d,
    ConvTransposeAdd2d,
    ConvTransposeAddReLU2d,
    ConvTransposeAddReLU62d,
    ConvTransposeReLU2d,
    ConvTransposeReLU62d,
)
from hqc.nn.qat.kept_batch_norm import (
    ConvBn2d,
    ConvBnAdd2d,
    ConvBnAddReLU2d,
    ConvBnAddReLU62d,
    ConvBnReLU2d,
    ConvBnReLU62d,
    ConvTransposeBn2d,
    ConvTransposeBnAdd2d,
    ConvTransposeBnAddReLU2d,
    ConvTransposeBnAddReLU62d,
    ConvTransposeBnReLU2d,
    ConvTransposeBnReLU62d,
)
from hqc.nn.qat.linear import Linear, LinearAdd, LinearAddReLU, LinearAddReLU6, LinearReLU, LinearReLU6
from hqc.nn.qat.stubs import DeQuantStub, QuantStub

__all__ = [
    "Conv2d",
    "ConvAdd2d",
    "ConvAddReLU2d",
    "ConvAddReLU62d",
    "ConvBn2d",
    "ConvBnAdd2d",
    "ConvBnAddReLU2d",
    "ConvBnAddReLU62d",
    "ConvBnReLU2d",
    "ConvBnReLU62d",
    "ConvReLU2d",
    "ConvReLU62d",
    "ConvTranspose2d",
    "ConvTransposeAdd2d",
    "ConvTransposeAddReLU2d",
    "ConvTransposeAddReLU62d",
    "ConvTransposeBn2d",
    "ConvTransposeBnAdd2d",
    "ConvTransposeBnAddReLU2d",
    "ConvTransposeBnAddReLU62d",
    "ConvTransposeBnReLU2d",
    "ConvTransposeBnReLU62d",
    "ConvTransposeReLU2d",
    "ConvTransposeReLU62d",
    "DeQuantStub",
    "Linear",
    "LinearAdd",
    "LinearAddReLU",
    "LinearAddReLU6",
    "LinearReLU",
    "LinearReLU6",
    "QuantStub",
]
