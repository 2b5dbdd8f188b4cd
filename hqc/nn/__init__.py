"""Modules that users put in float models; their quantized-training twins are in `hqc.nn.qat`."""

from hqc.nn.stubs import DeQuantStub, QuantStub

__all__ = ["DeQuantStub", "QuantStub"]

import hqc.nn.lowering  # noqa: F401  (registers the modules of this package with the front end)
