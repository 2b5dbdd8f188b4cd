"""`bayes-e`: the BPU of X5. Activations of int8 and int16."""

from __future__ import annotations

from hqc.ir import DType
from hqc.march.rules import build_rules
from hqc.march.spec import MarchSpec

SPEC = MarchSpec(
    name="bayes-e",
    title="Bayes-e",
    chips=("X5",),
    activation_dtypes=(DType.INT8, DType.INT16),
    passive_follows_user=True,
    final_flatten_on_cpu=True,
    rules=build_rules("bayes-e"),
)
