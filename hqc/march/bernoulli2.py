"""`bernoulli2`: the BPU of X3 and J3."""

from __future__ import annotations

from hqc.ir import DType
from hqc.march.observed import CONSTANT_MATRIX, RANK_FOUR
from hqc.march.rules import build_rules
from hqc.march.spec import MarchSpec

SPEC = MarchSpec(
    name="bernoulli2",
    title="Bernoulli2",
    chips=("X3", "J3"),
    activation_dtypes=(DType.INT8,),
    resize_fraction_bits=8,
    four_d=True,
    passive_needs_consumer=True,
    strided_input_slices_on_cpu=True,
    node_rules=(RANK_FOUR, CONSTANT_MATRIX),
    rules=build_rules("bernoulli2"),
)
