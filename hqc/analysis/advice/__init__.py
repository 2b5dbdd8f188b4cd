"""What to change first, measured: `advise(hqc.explain(...))` plans the model again with each change and says what it gives."""

from hqc.analysis.advice.changes import Change, Drop, DropThresholds, Place, Replace
from hqc.analysis.advice.outcome import Outcome, worth
from hqc.analysis.advice.search import Advice, AdviceReport, advise

__all__ = [
    "Advice",
    "AdviceReport",
    "Change",
    "Drop",
    "DropThresholds",
    "Outcome",
    "Place",
    "Replace",
    "advise",
    "worth",
]
