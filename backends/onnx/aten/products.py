"""Matrix products, linear layers, convolutions of one to three dimensions, distances."""

from __future__ import annotations

from typing import Any

import numpy as np

from hqc.backends.onnx.aten.calls import Call
from hqc.backends.onnx.aten.writer import AtenEmitter, CallWriter, aten, shape
from hqc.ir import DType, TensorType, Value


def product(w: CallWriter, a: Value, b: Value) -> Value:
    """Matrix product with broadcasting; integers in float64, which holds them."""
    dtype = a.type.dtype
    if dtype.is_float or dtype in (DType.INT32, DType.INT64):
        return w.op("matmul", a, b)
    return w.cast(w.op("matmul", w.cast(a, DType.INT64), w.cast(b, DType.INT64)), dtype)


@aten("mm.default", "bmm.default", "matmul.default", "mv.default", "dot.default", "vdot.default")
def matmul(c: Call, w: CallWriter) -> Value:
    a = w.value(c["self"])
    b = w.value(next(c[name] for name in ("mat2", "other", "vec", "tensor") if name in c.arguments))
    lead, trail = len(shape(a)) == 1, len(shape(b)) == 1
    a = w.reshape(a, [1, *shape(a)]) if lead else a
    b = w.reshape(b, [*shape(b), 1]) if trail else b
    return w.reshape(product(w, a, b), c.shape)


@aten("addmm.default", "baddbmm.default", "addmv.default", "addbmm.default", "addr.default")
def add_product(c: Call, w: CallWriter) -> Value:
    """`beta * self + alpha * (a @ b)`."""
    names = next(pair for pair in (("mat1", "mat2"), ("batch1", "batch2"), ("mat", "vec"), ("vec1", "vec2")) if pair[0] in
                 c.arguments)  # fmt: skip
    a, b = (w.value(c[name]) for name in names)
    if c.target.startswith("addr"):
        a, b = w.reshape(a, [*shape(a), 1]), w.reshape(b, [1, *shape(b)])
    if len(shape(b)) == 1:
        b = w.reshape(b, [*shape(b), 1])
    result = product(w, a, b)
    if c.target.startswith("addbmm"):
        result = w.op("sum", result, axes=(0,))
    result = w.reshape(result, c.shape)
    if c["alpha"] != 1:
        result = w.op("mul", result, w.const(c["alpha"], c.dtype))
    if c["beta"] == 0:
        return result
    bias = w.value(c["self"])
    if c["beta"] != 1:
        bias = w.op("mul", bias, w.const(c["beta"], c.dtype))
    return w.op("add", result, bias)


@aten("linear.default")
def linear(c: Call, w: CallWriter) -> Value:
    weight = w.value(c["weight"])
    x = w.value(c["input"])
    lead = len(shape(x)) == 1
    x = w.reshape(x, [1, *shape(x)]) if lead else x
    result = product(w, x, w.transpose(w.reshape(weight, _matrix(weight)), [1, 0]))
    if c["bias"] is not None:
        result = w.op("add", result, w.value(c["bias"]))
    return w.reshape(result, c.shape)


def _matrix(weight: Value) -> list[int]:
    return [1, *shape(weight)] if len(shape(weight)) == 1 else list(shape(weight))


@aten("bilinear.default")
def bilinear(c: Call, w: CallWriter) -> Value:
    """`y[..., o] = x1[..., i] W[o, i, j] x2[..., j] + b[o]`: a product per output feature, then a sum over j."""
    first, second, weight = (w.value(c[name]) for name in ("input1", "input2", "weight"))
    features, left, right = shape(weight)
    lead = shape(first)[:-1]
    flat = w.transpose(weight, [1, 0, 2])
    partial = product(w, first, w.reshape(flat, [left, features * right]))
    partial = w.reshape(partial, [*lead, features, right])
    total = w.op("sum", w.op("mul", partial, w.reshape(second, [*lead, 1, right])), axes=(len(lead) + 1,))
    return total if c["bias"] is None else w.op("add", total, w.value(c["bias"]))


@aten("outer.default", "ger.default")
def outer(c: Call, w: CallWriter) -> Value:
    a, b = w.value(c["self"], c.dtype), w.value(c["vec2"], c.dtype)
    return w.op("mul", w.reshape(a, [*shape(a), 1]), w.reshape(b, [1, *shape(b)]))


@aten("cdist.default", "_cdist_forward.default")
def cdist(c: Call, w: CallWriter) -> Value:
    """Distances of all pairs of rows, by differences."""
    a, b = w.value(c["x1"]), w.value(c["x2"])
    a = w.reshape(a, [*shape(a)[:-1], 1, shape(a)[-1]])
    b = w.reshape(b, [*shape(b)[:-2], 1, *shape(b)[-2:]])
    difference = w.op("abs", w.op("sub", a, b))
    axes, order = (len(shape(difference)) - 1,), float(c.get("p", 2.0))
    if order == float("inf"):
        return w.op("reduce_max", difference, axes=axes)
    if order == 0.0:
        return w.op("sum", w.cast(w.cast(difference, DType.BOOL), c.dtype), axes=axes)
    if order == 1.0:
        return w.op("sum", difference, axes=axes)
    if order == 2.0:
        return w.op("sqrt", w.op("sum", w.op("mul", difference, difference), axes=axes))
    total = w.op("sum", w.op("pow_scalar", difference, exponent=order), axes=axes)
    return w.op("pow_scalar", total, exponent=1.0 / order)


@aten("cosine_similarity.default")
def cosine_similarity(c: Call, w: CallWriter) -> Value:
    """`sum(a b) / (max(|a|, eps) max(|b|, eps))`."""
    a, b = w.value(c["x1"], c.dtype), w.value(c["x2"], c.dtype)
    full = np.broadcast_shapes(shape(a), shape(b))
    a, b = w.expand(a, full), w.expand(b, full)
    if not full:  # numbers are vectors of one element
        a, b, full = w.reshape(a, [1]), w.reshape(b, [1]), (1,)
    axes, eps = (c["dim"] % len(full),), w.const(float(c["eps"]), c.dtype)
    norms = [w.op("maximum", w.op("sqrt", w.op("sum", w.op("mul", x, x), axes=axes)), eps) for x in (a, b)]
    return w.op("div", w.op("sum", w.op("mul", a, b), axes=axes), w.op("mul", *norms))


# --- convolutions --------------------------------------------------------------------------------------------------------------


def _listed(item: Any, rank: int) -> list[int]:
    values = [item] if isinstance(item, int) else list(item)
    return values * rank if len(values) == 1 else values


def _pads(c: Call, kernel: list[int], dilation: list[int], rank: int) -> list[int]:
    """ONNX's padding: all that come before, then all that come after."""
    padding = c["padding"]
    if padding == "valid":
        return [0] * (2 * rank)
    if padding == "same":
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [*(amount // 2 for amount in total), *(amount - amount // 2 for amount in total)]
    return _listed(padding, rank) * 2


def _convolution(transposed: bool | None) -> AtenEmitter:
    def emit(c: Call, w: CallWriter) -> Value:
        x, weight = w.value(c["input"]), w.value(c["weight"])
        rank = len(shape(weight)) - 2
        single = len(shape(x)) == rank + 1
        x = w.reshape(x, [1, *shape(x)]) if single else x
        kernel = list(shape(weight)[2:])
        stride, dilation = _listed(c["stride"], rank), _listed(c["dilation"], rank)
        options: dict[str, Any] = {
            "kernel_shape": kernel,
            "strides": stride,
            "dilations": dilation,
            "group": c["groups"],
            "pads": _pads(c, kernel, dilation, rank),
        }
        turned = c["transposed"] if transposed is None else transposed
        if turned:
            options["output_padding"] = _listed(c["output_padding"], rank)
        batched = (1, *c.shape) if single else c.shape
        bias = None if c["bias"] is None else w.value(c["bias"])
        type = TensorType(c.dtype, batched)
        return w.reshape(w.onnx("ConvTranspose" if turned else "Conv", x, weight, bias, type=type, **options), c.shape)

    return emit


aten("convolution.default")(_convolution(None))
aten(*(f"conv{n}d.{overload}" for n in (1, 2, 3) for overload in ("default", "padding")))(_convolution(False))
aten("conv_transpose1d.default", "conv_transpose2d.input", "conv_transpose3d.input")(_convolution(True))
