"""FloatFunctional and its converted form, under the path of the reference."""

from hqc.nn.quantized.float_functional import FloatFunctional
from hqc.nn.quantized.modules import QFunctional

__all__ = ["FloatFunctional", "QFunctional"]
