"""Passes over the IR: what they are, how they are found, and how they run one after another. Imports no torch."""

from hqc.passes.base import Pass, PassContext, PassResult, Remark
from hqc.passes.pipeline import PassPipeline, PassTiming, PipelineReport, parse_pipeline
from hqc.passes.plan import Plan
from hqc.passes.registry import all_passes, get_pass, options_of, register_pass

__all__ = [
    "Pass",
    "PassContext",
    "PassPipeline",
    "PassResult",
    "PassTiming",
    "PipelineReport",
    "Plan",
    "Remark",
    "all_passes",
    "get_pass",
    "options_of",
    "parse_pipeline",
    "register_pass",
]
