"""FloatFunctional, under the path of the reference."""

from hqc.nn.qat.results import FloatFunctional

__all__ = ["FloatFunctional"]
