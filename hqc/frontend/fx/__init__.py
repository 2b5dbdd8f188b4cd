"""The front end: tracing torch models, and lowering FX graphs to the IR."""

from hqc.frontend.fx.context import LoweringContext
from hqc.frontend.fx.leaf_modules import leaf_paths
from hqc.frontend.fx.lowered import LoweredModel, OutputRef
from hqc.frontend.fx.lowering import lower, lower_graph_module
from hqc.frontend.fx.models import as_traceable
from hqc.frontend.fx.registry import Alias, lower_function, lower_functional, lower_method, lower_module
from hqc.frontend.fx.tracer import HqcTracer
from hqc.frontend.fx.tracing import trace, wrap

__all__ = [
    "Alias",
    "HqcTracer",
    "LoweredModel",
    "LoweringContext",
    "OutputRef",
    "as_traceable",
    "leaf_paths",
    "lower",
    "lower_function",
    "lower_functional",
    "lower_graph_module",
    "lower_method",
    "lower_module",
    "trace",
    "wrap",
]
