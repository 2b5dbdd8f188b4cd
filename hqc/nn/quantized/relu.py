"""ReLU, under the path of the reference."""

from hqc.nn.quantized.modules import ReLU

__all__ = ["ReLU"]
