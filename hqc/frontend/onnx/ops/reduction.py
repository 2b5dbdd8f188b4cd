"""Reductions and normalizations."""

from __future__ import annotations

from typing import Any

import numpy as np

from hqc.frontend.onnx.context import OnnxContext, Operand, Unexpressed
from hqc.frontend.onnx.registry import lowers_onnx
from hqc.ir import Value

_REDUCTIONS = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "reduce_max", "ReduceMin": "reduce_min"}


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
    x = ctx.data()
    given = _axes(ctx, x)
    return ctx.emit("identity", x) if given is None else ctx.emit(_REDUCTIONS[ctx.node.op_type], x, **given)


@lowers_onnx("ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")
def composed_reduction(ctx: OnnxContext) -> Value:
    """A function, a sum, a function."""
    before = {"ReduceL1": "abs", "ReduceLogSumExp": "exp"}.get(ctx.node.op_type)
    after = {"ReduceL2": "sqrt", "ReduceLogSum": "log", "ReduceLogSumExp": "log"}.get(ctx.node.op_type)
    x = ctx.data()
    given = _axes(ctx, x)
    if given is None:
        raise Unexpressed("it reduces nothing")
    inner = x
    if before is not None:
        inner = ctx.emit(before, x, what=before)
    elif ctx.node.op_type in ("ReduceL2", "ReduceSumSquare"):
        inner = ctx.emit("mul", x, x, what="square")
    total = ctx.emit("sum", inner, what="sum" if after else None, **given)
    return ctx.emit(after, total) if after else total


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
    axis = ctx.axis(of=x)
    if int(ctx.attribute("p", 2)) == 1:
        norm = ctx.emit("sum", ctx.emit("abs", x, what="abs"), what="norm", axes=(axis,), keepdims=True)
    else:
        total = ctx.emit("sum", ctx.emit("mul", x, x, what="square"), what="total", axes=(axis,), keepdims=True)
        norm = ctx.emit("sqrt", total, what="norm")
    return ctx.emit("div", x, ctx.emit("maximum", norm, 1e-12, what="safe"))  # a row of zeros stays zero
