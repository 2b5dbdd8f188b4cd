"""Every op of the IR, on every march, under either table, with and without shapes: an answer, never a crash."""

from __future__ import annotations

import re

import pytest
from march_check import last_node

from hqc.ir import Trait, all_ops
from hqc.march import all_specs
from hqc.march.rules import Checker

_X = "input %x: f32[1,8,16,16]\n"
_WINDOW = "kernel=[2,2], stride=[2,2]"
_ATTRIBUTES = {
    "adaptive_avg_pool2d": "output_size=[2,2]",
    "adaptive_max_pool2d": "output_size=[1,1]",
    "avg_pool2d": _WINDOW,
    "gain_pool2d": f"{_WINDOW}, gain=128",
    "max_pool2d": _WINDOW,
    "argmax": "axis=1",
    "argmin": "axis=1",
    "cast": "dtype=i32",
    "cat": "axis=1",
    "clamp": "min=0.0, max=6.0",
    "expand": "shape=[1,8,16,16]",
    "gather": "axis=1",
    "group_norm": "groups=2",
    "log_softmax": "axis=1",
    "mean": "axes=[2,3], keepdims=true",
    "opaque": 'id="f"',
    "pad": "pads=[0,0,1,1,0,0,1,1]",
    "pixel_shuffle": "factor=2",
    "pixel_unshuffle": "factor=2",
    "pow_scalar": "exponent=2.0",
    "reduce_max": "axes=[1], keepdims=true",
    "reduce_min": "axes=[1], keepdims=true",
    "lp_normalize": "axes=[1]",
    **{f"reduce_{name}": "axes=[1], keepdims=true" for name in ("l1", "l2", "sum_square", "log_sum", "log_sum_exp")},
    "reshape": "shape=[1,-1]",
    "resize2d": "size=[32,32]",
    "slice": "axes=[1], starts=[0], ends=[4]",
    "softmax": "axis=1",
    "split": "axis=1, sizes=[8]",
    "sum": "axes=[1]",
    "tile": "repeats=[1,1,2,1]",
    "threshold": "bound=0.0, value=1.0",
    "transpose": "perm=[0,2,3,1]",
}
_EXTRA = {
    "conv2d": ("param @k: f32[8,8,3,3] = #random(0, [8,8,3,3])\n", "@k"),
    "conv_transpose2d": ("param @k: f32[8,8,2,2] = #random(0, [8,8,2,2])\n", "@k"),
    "conv3d": ("param @k: f32[8,8,3,3,3] = #random(0, [8,8,3,3,3])\n", "@k"),
    "conv_transpose3d": ("param @k: f32[8,8,2,2,2] = #random(0, [8,8,2,2,2])\n", "@k"),
    "linear": ("param @k: f32[4,16] = #random(0, [4,16])\n", "@k"),
    "matmul": ("param @k: f32[16,4] = #random(0, [16,4])\n", "@k"),
    "prelu": ("param @k: f32[8] = #random(0, [8])\n", "@k"),
    "batch_norm": ("param @k: f32[8] = #random(0, [8])\n", "@k, @k"),
    "gather": ("param @k: i64[2] = [0, 1]\n", "@k"),
    "where": ("input %m: b1[1,8,16,16]\n", ""),
    "grid_sample": ("input %g: f32[1,5,7,2]\n", "%g"),
}
FLOAT_OPS = [definition for definition in all_ops() if not definition.has(Trait.INTEGER)]


def _text(name: str, operand_count: int) -> str:
    prefix, extra = _EXTRA.get(name, ("", ""))
    operands = "%m, %x, %x" if name == "where" else ", ".join(filter(None, ["%x", extra]))
    if not extra and operand_count > 1 and name != "where":
        operands = ", ".join(["%x"] * operand_count)
    attributes = f" {{{_ATTRIBUTES[name]}}}" if name in _ATTRIBUTES else ""
    types = ": f32[1,8,16,16]" if name == "opaque" else ""
    x = _X.replace("[1,8,16,16]", "[1,8,4,16,16]") if name.endswith("3d") else _X
    return f"{x}{prefix}%y{types} = {name}({operands}){attributes}\noutput %y"


@pytest.mark.parametrize("definition", FLOAT_OPS, ids=lambda definition: definition.name)
def test_every_op_has_an_answer(definition) -> None:  # type: ignore[no-untyped-def]
    required = sum(1 for operand in definition.operands if not operand.optional)
    text = _text(definition.name, required)
    unknown = re.sub(r"(input %x: f32)\[[\d,]+\]", r"\1[*]", text).replace("%y: f32[1,8,16,16]", "%y: f32[*]")
    for body in (text, unknown):
        node = last_node(body)
        for spec in all_specs():
            for hybrid in (True, False):
                verdict = Checker(spec, hybrid=hybrid).check(node)
                assert verdict.accepted or verdict.reasons
                assert all(reason.rule and reason.step == "capability" for reason in verdict.reasons)
