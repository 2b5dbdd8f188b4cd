"""`bayes`: the BPU of J5. Activations of int8 and int16."""

from __future__ import annotations

from hqc.ir import DType
from hqc.march.observed import EQUAL_RANK_IN_3D, NO_CONSTANT_IN_5D
from hqc.march.rules import build_rules
from hqc.march.spec import MarchSpec

SPEC = MarchSpec(
    name="bayes",
    title="Bayes",
    chips=("J5",),
    activation_dtypes=(DType.INT8, DType.INT16),
    node_rules=(NO_CONSTANT_IN_5D, EQUAL_RANK_IN_3D),
    rules=build_rules("bayes"),
)
