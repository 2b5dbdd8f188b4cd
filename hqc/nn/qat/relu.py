"""ReLU, under the path of the reference."""

from hqc.nn.qat.results import ReLU

__all__ = ["ReLU"]
