"""`tune`: which operations cost accuracy, and the few changes that bring it back."""

from hqc.analysis.tune.changes import Change
from hqc.analysis.tune.measure import Measured
from hqc.analysis.tune.result import Sensitivity, Step, TuneResult
from hqc.analysis.tune.search import KINDS, tune
from hqc.analysis.tune.target import Target

__all__ = ["KINDS", "Change", "Measured", "Sensitivity", "Step", "Target", "TuneResult", "tune"]
