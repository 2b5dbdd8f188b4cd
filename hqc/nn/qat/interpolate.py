"""Interpolate, under the path of the reference."""

from hqc.nn.qat.results import Interpolate

__all__ = ["Interpolate"]
