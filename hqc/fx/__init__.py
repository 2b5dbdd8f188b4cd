"""Tracing, under the reference's paths."""

from hqc.frontend.fx.tracer import HqcTracer as CustomTracer
from hqc.frontend.fx.tracing import wrap

__all__ = ["CustomTracer", "wrap"]
