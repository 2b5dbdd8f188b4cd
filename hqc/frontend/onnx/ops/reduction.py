"""Reductions and normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import Value

_REDUCTIONS = {
    "ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "reduce_max", "ReduceMin": "reduce_min",
    "ReduceL1": "reduce_l1", "ReduceL2": "reduce_l2", "ReduceSumSquare": "reduce_sum_square", "ReduceLogSum": "reduce_log_sum",
    "ReduceLogSumExp": "reduce_log_sum_exp",
}  # fmt: skip
_OF_ONE = {"ReduceL1": "abs", "ReduceL2": "abs", "ReduceLogSum": "log"}
"""What the others are of a single element, where there are no axes to reduce."""


def _axes(ctx: OnnxContext, x: Operand) -> dict[str, Any] | None:
    """Axes and keepdims as the IR has them; None where nothing is reduced."""
    axes = ctx.ints("axes", 1)
    rank = ctx.rank(x)
    if not axes:
        if ctx.attribute("noop_with_empty_axes", 0):
            return None
        axes = list(range(rank))
    return {"axes": tuple(sorted(axis % rank for axis in axes)), "keepdims": bool(ctx.attribute("keepdims", 1))}


@lowers_onnx(*_REDUCTIONS)
def reduction(ctx: OnnxContext) -> Value:
    x, kind = ctx.data(), ctx.node.op_type
    given = _axes(ctx, x)
    if given is not None:
        return ctx.emit(_REDUCTIONS[kind], x, **given)
    return ctx.emit("mul", x, x) if kind == "ReduceSumSquare" else ctx.emit(_OF_ONE.get(kind, "identity"), x)


@lowers_onnx("BatchNormalization")
def batch_normalization(ctx: OnnxContext) -> Value:
    if ctx.attribute("training_mode", 0):
        raise ctx.error("is in training mode; export the model in eval mode")
    x, weight, bias, mean, var = (ctx.required(index) for index in range(5))
    return ctx.emit("batch_norm", x, mean, var, weight, bias, eps=float(ctx.attribute("epsilon", 1e-5)))


@lowers_onnx("InstanceNormalization")
def instance_normalization(ctx: OnnxContext) -> Value:
    return ctx.emit("instance_norm", *(ctx.required(k) for k in range(3)), eps=float(ctx.attribute("epsilon", 1e-5)))


@lowers_onnx("LayerNormalization")
def layer_normalization(ctx: OnnxContext) -> Value:
    if len([name for name in ctx.node.output if name]) > 1:
        raise Unexpressed("its mean or deviation is read")
    x = ctx.data()
    count = ctx.rank(x) - ctx.axis(of=x)
    return ctx.emit(
        "layer_norm", x, ctx.operand(1), ctx.operand(2), normalized_ndim=count, eps=float(ctx.attribute("epsilon", 1e-5))
    )


@lowers_onnx("GroupNormalization")
def group_normalization(ctx: OnnxContext) -> Value:
    """Weights per channel from opset 21 on, per group before."""
    x, weight, bias = (ctx.required(index) for index in range(3))
    groups = int(ctx.attribute("num_groups"))
    if ctx.opset < 21:
        channels = ctx.shape(x)[1]
        if not (isinstance(weight, np.ndarray) and isinstance(bias, np.ndarray)):
            raise Unexpressed("its weights per group are computed at run time")
        weight, bias = (np.repeat(item, channels // groups) for item in (weight, bias))
    return ctx.emit("group_norm", x, weight, bias, groups=groups, eps=float(ctx.attribute("epsilon", 1e-5)))


@lowers_onnx("MeanVarianceNormalization")
def mean_variance_normalization(ctx: OnnxContext) -> Value:
    x = ctx.data()
    axes = tuple(ctx.ints("axes") or (0, 2, 3))
    centred = ctx.emit("sub", x, ctx.emit("mean", x, what="mean", axes=axes, keepdims=True), what="centred")
    square = ctx.emit("mul", centred, centred, what="square")
    variance = ctx.emit("mean", square, what="variance", axes=axes, keepdims=True)
    deviation = ctx.emit("sqrt", variance, what="deviation")
    return ctx.emit("div", centred, ctx.emit("add", deviation, 1e-9, what="safe"))


@lowers_onnx("LpNormalization")
def lp_normalization(ctx: OnnxContext) -> Value:
    x = ctx.data()
    return ctx.emit("lp_normalize", x, axes=(ctx.axis(of=x),), p=int(ctx.attribute("p", 2)))  # a row of zeros stays zero
