"""Convolutions, linear layers, products of activations and sums over axes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hqc.backends.bpu.engines import ConvSpec
from hqc.backends.bpu.engines.jit import fields as f
from hqc.backends.bpu.engines.jit.layouts import NativeContext, Order, runs
from hqc.backends.bpu.engines.jit.native import NativeOp, NativeStep
from hqc.backends.bpu.engines.jit.nodes.registry import BLOCK, SMALL, is_one_of, item_size, native, single
from hqc.backends.bpu.engines.jit.problems import Place, address_of, convolution, product_of_activations
from hqc.backends.bpu.engines.jit.requantization import Finish
from hqc.backends.bpu.engines.jit.transposed import as_convolutions
from hqc.backends.bpu.epilogue import Epilogue
from hqc.backends.bpu.kernels import operand, shape_of
from hqc.backends.bpu.kernels.conv import conv_problem, transpose_problem
from hqc.backends.bpu.kernels.linear import linear_problem, matmul_problem
from hqc.backends.bpu.kernels.reduction import sum_problem
from hqc.ir import DType, Node


@native("int_linear", order=Order.ANY)
@native("int_conv2d", order=Order.IMAGE)
def product(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    linear = node.op.name == "int_linear"
    if linear and any(value is not None and context.layouts.is_image(value) for value in (*node.inputs, node.result)):
        return None  # its rows are not in the order of memory
    if not _takes(node):
        return None
    problem = linear_problem if linear else conv_problem
    spec, epilogue = problem(node, context)
    return _placed(node, context, products, epilogue, [(spec, None)])


def _takes(node: Node) -> bool:
    residual = node.operand("residual")
    return is_one_of(operand(node, 0), *SMALL) and (residual is None or is_one_of(residual, *SMALL))


def _placed(
    node: Node, context: NativeContext, products: list[str], epilogue: Epilogue, parts: Sequence[tuple[ConvSpec, Place | None]]
) -> NativeStep | None:
    """Convolutions that make up a node's result."""
    residual, ops = node.operand("residual"), []
    dtype = DType.INT8 if residual is None else residual.type.dtype
    for spec, place in parts:
        op = convolution(spec, epilogue, context.workers.threads, products, place=place, residual=dtype)
        if op is None:
            return None
        if residual is not None:
            op.operands[f.RESIDUAL] = list(node.inputs).index(residual)
        ops.append(op)
    return NativeStep(tuple(ops))


@native("int_conv_transpose2d", order=Order.IMAGE)
def transposed(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    if not _takes(node):
        return None
    spec, epilogue = transpose_problem(node, context)
    return _placed(node, context, products, epilogue, as_convolutions(spec))


@native("int_matmul", order=Order.ANY)
def int_matmul(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    a, b, layouts = operand(node, 0), operand(node, 1), context.layouts
    if not (is_one_of(a, DType.INT8) and is_one_of(b, DType.INT8)) or len(shape_of(a)) < 2 or len(shape_of(b)) < 2:
        return None
    if layouts.is_image(node.result):
        return None
    epilogue = matmul_problem(node, context)
    batch = shape_of(node.result)[:-2]
    places = [layouts.places(value) for value in (a, b)]
    found = [np.broadcast_to(array, (*batch, *array.shape[-2:])).reshape(-1, *array.shape[-2:]) for array in places]
    low = context.ranges.of(a)[0]
    op = product_of_activations(found[0], found[1], low, epilogue, context.workers.threads, products)
    return single(op)


@native("int_sum", order=Order.ANY)
def int_sum(node: Node, context: NativeContext, products: list[str]) -> NativeStep | None:
    x, result, layouts = operand(node, 0), node.result, context.layouts
    axes, epilogue = sum_problem(node, context)
    if not is_one_of(x, *SMALL) or max(map(abs, epilogue.acc_range)) >= 2**31:
        return None
    places = layouts.places(x)
    apart = places[tuple(slice(None) if axis in axes else slice(1) for axis in range(places.ndim))].reshape(-1)
    kept = places[tuple(slice(1) if axis in axes else slice(None) for axis in range(places.ndim))]
    found = runs(layouts.to_memory(kept.reshape(shape_of(result)), result))
    starts, size = found.first[:, None] + found.step * np.arange(found.count), math.prod(shape_of(result))
    table = np.concatenate([apart, starts.reshape(-1)]).astype(np.int64)
    together = bool((apart == np.arange(len(apart))).all())
    block, finish = max(1, BLOCK // found.length // 8), Finish(epilogue, width=64)
    words = {
        f.TABLE: address_of(table), f.STEPS: len(apart), f.ROWS: starts.size, f.COLUMNS: found.length, f.BLOCK: block,
        f.FINISH: finish.address, f.ITEM_X: item_size(x), f.FILL: int(together),
    }  # fmt: skip
    return single(
        NativeOp(
            "sum_places", -(-starts.size // block), words, scratch=4 * block * found.length + 1024, keep=(table, finish),
            nanoseconds=size * len(apart) * (0.1 if found.length >= 8 or together else 1.0),
        )
    )  # fmt: skip
