"""Batch normalization, under the path of the reference."""

from hqc.nn.qat.results import BatchNorm2d

__all__ = ["BatchNorm2d"]
