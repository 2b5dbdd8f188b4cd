"""The front end: tracing torch models, and lowering FX graphs to the IR."""

from hqc.frontend.tracer import HqcTracer, trace, wrap

__all__ = ["HqcTracer", "trace", "wrap"]
