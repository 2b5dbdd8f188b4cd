"""`bernoulli2`: the BPU of X3 and J3."""

from __future__ import annotations

from hqc.ir import DType
from hqc.march.spec import MarchSpec

SPEC = MarchSpec(
    name="bernoulli2",
    title="Bernoulli2",
    chips=("X3", "J3"),
    activation_dtypes=(DType.INT8,),
    resize_fraction_bits=8,
)
