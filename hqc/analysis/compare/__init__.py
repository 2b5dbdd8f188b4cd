"""Where the error of a quantized model comes from, and other comparisons of models: `compare(compiled, data).table()`."""

from hqc.analysis.compare.comparison import Comparison, OperationComparison, OutputComparison
from hqc.analysis.compare.distances import Distance
from hqc.analysis.compare.models import compare
from hqc.analysis.compare.operations import OperationName
from hqc.analysis.compare.outputs import STYLE, compare_outputs, output_quality, random_inputs, sqnr, time_simulator
from hqc.analysis.compare.own_error import CAUSES, OwnError

__all__ = [
    "CAUSES",
    "STYLE",
    "Comparison",
    "Distance",
    "OperationComparison",
    "OperationName",
    "OutputComparison",
    "OwnError",
    "compare",
    "compare_outputs",
    "output_quality",
    "random_inputs",
    "sqnr",
    "time_simulator",
]
