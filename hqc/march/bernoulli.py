"""`bernoulli`: the BPU of X2 and J2. Scales are powers of two, and nothing can be requantized except by shifting right."""

from __future__ import annotations

from hqc.ir import DType
from hqc.march.observed import CONSTANT_MATRIX, POOL_GAIN, RANK_FOUR
from hqc.march.rules import build_rules
from hqc.march.spec import MarchSpec

SPEC = MarchSpec(
    name="bernoulli",
    title="Bernoulli",
    chips=("X2", "J2"),
    activation_dtypes=(DType.INT8,),
    power_of_two=True,
    int8_bias=True,
    rounding="floor",
    resize_fraction_bits=8,
    requantize_at_cat=False,
    # An adaptive pool is on this BPU only where it reduces to windows of one size, which is an average pool.
    pass_through_ops=frozenset({"avg_pool2d", "adaptive_avg_pool2d"}),
    four_d=True,
    passive_needs_consumer=True,
    strided_input_slices_on_cpu=True,
    node_rules=(RANK_FOUR, CONSTANT_MATRIX, POOL_GAIN),
    rules=build_rules("bernoulli", assumed_from="bernoulli2"),
)
