"""Every op's torch form computes what the op means: random attributes and shapes, against the op's nodes in onnxruntime."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from hqc.backends.onnx import emit_segment
from hqc.errors import HqcError
from hqc.frontend.fx.forms import has_torch_form, torch_form
from hqc.frontend.fx.from_ir import graph_module_of
from hqc.ir import DType, Graph, TensorType, Trait, all_ops

Rng = np.random.Generator
Case = tuple[list[Any], dict[str, Any]]
SAMPLES = 6
WITHOUT_FORM = {"opaque": "its FX call is its form", "requantize": "a BPU's change of scale, which a fake quant stands for"}


def real(rng: Rng, *shape: int, low: float = -3.0, high: float = 3.0) -> np.ndarray[Any, Any]:
    return rng.uniform(low, high, shape).astype(np.float32)


def some_shape(rng: Rng, least: int = 1, most: int = 4) -> tuple[int, ...]:
    return tuple(int(size) for size in rng.integers(1, 6, rng.integers(least, most + 1)))


def an_axis(rng: Rng, rank: int) -> int:
    return int(rng.integers(-rank, rank))


def choose(rng: Rng, *items: Any) -> Any:
    return items[rng.integers(len(items))]


def ints(rng: Rng, low: int, high: int, count: int) -> tuple[int, ...]:
    return tuple(int(number) for number in rng.integers(low, high + 1, count))


def one(low: float = -3.0, high: float = 3.0, **attributes: Callable[[Rng], Any]) -> Callable[[Rng], Case]:
    return lambda rng: ([real(rng, *some_shape(rng), low=low, high=high)], {name: f(rng) for name, f in attributes.items()})


def two(low: float = -3.0, whole: bool = False) -> Callable[[Rng], Case]:
    def case(rng: Rng) -> Case:
        a = real(rng, *some_shape(rng), low=low)
        b = real(rng, *(size if rng.random() < 0.6 else 1 for size in a.shape[rng.integers(0, a.ndim) :]), low=low)
        return ([np.rint(a), np.rint(b)] if whole else [a, b]), {}

    return case


def truths(count: int) -> Callable[[Rng], Case]:
    def case(rng: Rng) -> Case:
        shape = some_shape(rng)
        return [rng.random(shape) < 0.5 for _ in range(count)], {}

    return case


def where(rng: Rng) -> Case:
    shape = some_shape(rng)
    return [rng.random(shape) < 0.5, real(rng, *shape), real(rng, shape[-1])], {}


def convolution(transposed: bool) -> Callable[[Rng], Case]:
    def case(rng: Rng) -> Case:
        groups = choose(rng, 1, 2)
        stride, dilation = ints(rng, 1, 3, 2), ints(rng, 1, 2, 2)
        kernel = ints(rng, 1, 3, 2)
        x = real(rng, 2, 4, 9, 8)
        weight = real(rng, 4, 3, *kernel) if transposed else real(rng, 6, 4 // groups, *kernel)
        bias = real(rng, 3 * groups if transposed else 6) if rng.random() < 0.6 else None
        attributes: dict[str, Any] = {"stride": stride, "dilation": dilation, "groups": groups}
        symmetric = ints(rng, 0, 1, 2)
        attributes["padding"] = symmetric * 2 if rng.random() < 0.5 else ints(rng, 0, 1, 4)
        attributes["activation"] = choose(rng, "none", "relu", "relu6")
        if transposed:
            attributes["output_padding"] = tuple(choose(rng, 0, s - 1) for s in stride)  # what runtimes allow
        if rng.random() < 0.3:  # rows
            x, weight = x[:, :, 0], weight[:, :, 0]
            for name, plain in (("stride", 1), ("dilation", 1), ("output_padding", 0)):
                if name in attributes:
                    attributes[name] = (plain, attributes[name][1])
            attributes["padding"] = (0, attributes["padding"][1], 0, attributes["padding"][3])
        operands = [x, weight, bias]
        if rng.random() < 0.5:
            op = "conv_transpose2d" if transposed else "conv2d"
            operands.append(real(rng, *result_shape(op, operands, attributes)))
        return operands, attributes

    return case


def volumes(transposed: bool) -> Callable[[Rng], Case]:
    """Convolutions of volumes, with padding that differs at both ends."""

    def case(rng: Rng) -> Case:
        stride, groups = ints(rng, 1, 2, 3), choose(rng, 1, 2)
        kernel = ints(rng, 1, 3, 3)
        weight = real(rng, 4, 3, *kernel) if transposed else real(rng, 6, 4 // groups, *kernel)
        bias = real(rng, 3 * groups if transposed else 6) if rng.random() < 0.6 else None
        attributes: dict[str, Any] = {"stride": stride, "groups": groups, "padding": ints(rng, 0, 1, 6)}
        if transposed:
            attributes["output_padding"] = tuple(choose(rng, 0, s - 1) for s in stride)
        return [real(rng, 1, 4, 5, 4, 6), weight, bias], attributes

    return case


def result_shape(op: str, operands: list[Any], attributes: dict[str, Any]) -> tuple[int, ...]:
    graph, _ = build(op, operands, attributes)
    (node,) = graph.nodes
    shape = node.result.shape
    assert shape is not None
    return shape


def linear(rng: Rng) -> Case:
    lead = some_shape(rng, 0, 3)
    operands = [real(rng, *lead, 5), real(rng, 4, 5), real(rng, 4) if rng.random() < 0.5 else None]
    if rng.random() < 0.5:
        operands.append(real(rng, *lead, 4))
    return operands, {"activation": choose(rng, "none", "relu", "relu6")}


def matmul(rng: Rng) -> Case:
    lead = some_shape(rng, 0, 2)
    left, right = choose(rng, ((*lead, 3, 4), (4, 5)), ((3, 4), (*lead, 4, 5)), ((4,), (4, 5)), ((*lead, 3, 4), (4,)))
    return [real(rng, *left), real(rng, *right)], {}


def window(rng: Rng, average: bool = False) -> Case:
    kernel = ints(rng, 1, 3, 2)
    padding = tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel))
    symmetric = rng.random() < 0.5
    attributes: dict[str, Any] = {"kernel": kernel, "stride": ints(rng, 1, 3, 2)}
    attributes["padding"] = padding[:2] * 2 if symmetric else padding
    # Ceil mode with uneven padding is no torch pool: what ends up in its last windows no framework agrees on.
    attributes["ceil_mode"] = bool(rng.random() < 0.5) and all(2 * p <= k for p, k in zip(padding, kernel, strict=False))
    attributes["ceil_mode"] &= symmetric
    if average:
        attributes["count_include_pad"] = bool(rng.random() < 0.5)
    else:
        attributes["dilation"] = ints(rng, 1, 2, 2)
    return [real(rng, 2, 3, 7, 8)], attributes


def gain_window(rng: Rng) -> Case:
    kernel = ints(rng, 1, 3, 2)
    padding = tuple(int(rng.integers(0, k)) for k in (*kernel, *kernel))
    attributes = {"kernel": kernel, "stride": ints(rng, 1, 3, 2), "padding": padding, "gain": 512 // (kernel[0] * kernel[1])}
    return [real(rng, 2, 3, 7, 8)], attributes


def resize(rng: Rng) -> Case:
    mode = choose(rng, "nearest", "bilinear", "bicubic")
    attributes: dict[str, Any] = {"mode": mode, "align_corners": mode != "nearest" and rng.random() < 0.5}
    if rng.random() < 0.5:
        attributes["size"] = ints(rng, 1, 12, 2)
    else:
        attributes["scale_factor"] = (float(rng.uniform(0.4, 2.5)), choose(rng, 0.5, 2.0, 3.0))
    return [real(rng, 1, 2, 7, 6)], attributes


def sampling(rng: Rng) -> Case:
    attributes: dict[str, Any] = {
        "mode": choose(rng, "nearest", "bilinear", "bicubic"),
        "padding_mode": choose(rng, "zeros", "border", "reflection"),
        "align_corners": bool(rng.random() < 0.5),
    }
    return [real(rng, 2, 3, 7, 6), real(rng, 2, 5, 4, 2)], attributes


def reduction(rng: Rng) -> Case:
    x = real(rng, *some_shape(rng))
    axes = rng.permutation(x.ndim)[: rng.integers(0, x.ndim + 1)]
    return [x], {"axes": tuple(int(axis) - choose(rng, 0, x.ndim) for axis in axes), "keepdims": bool(rng.random() < 0.5)}


def logarithm(rng: Rng) -> Case:
    return [real(rng, 2, 3, 4, low=0.1)], {"axes": choose(rng, (), (1,), (-1, 0)), "keepdims": bool(rng.random() < 0.5)}


def first_of_ties(rng: Rng) -> Case:
    x = rng.integers(0, 3, some_shape(rng)).astype(np.float32)
    return [x], {"axis": an_axis(rng, x.ndim), "keepdims": bool(rng.random() < 0.5)}


def along(rng: Rng) -> Case:
    x = real(rng, *some_shape(rng))
    return [x], {"axis": an_axis(rng, x.ndim)}


def batch_norm(rng: Rng) -> Case:
    affine = [real(rng, 4), real(rng, 4)] if rng.random() < 0.5 else []
    return [real(rng, 2, 4, *some_shape(rng, 0, 3)), real(rng, 4), real(rng, 4, low=0.1), *affine], {"eps": 1e-3}


def channel_norm(rng: Rng, **attributes: Any) -> Case:
    affine = [real(rng, 4), real(rng, 4)] if rng.random() < 0.5 else []
    return [real(rng, 2, 4, *some_shape(rng, 1, 3)), *affine], {"eps": 1e-3, **attributes}


def layer_norm(rng: Rng) -> Case:
    x = real(rng, *some_shape(rng, 2))
    ndim = int(rng.integers(1, x.ndim))
    affine = [real(rng, *x.shape[-ndim:]), real(rng, *x.shape[-ndim:])] if rng.random() < 0.5 else []
    return [x, *affine], {"normalized_ndim": ndim, "eps": 1e-3}


def prelu(rng: Rng) -> Case:
    x = real(rng, 2, 3, *some_shape(rng, 0, 2))
    return [x, real(rng, choose(rng, 1, 3))], {}


def reshape(rng: Rng) -> Case:
    return [real(rng, 2, 3, 4)], {"shape": choose(rng, (0, -1), (4, -1), (0, 0, 2, 2), (-1,), (2, 12), (0, 3, 4, 1))}


def transpose(rng: Rng) -> Case:
    x = real(rng, *some_shape(rng))
    return [x], {"perm": tuple(int(axis) for axis in rng.permutation(x.ndim))}


def cut(rng: Rng) -> Case:
    starts, ends = choose(rng, ((1, -3), (2**31, -1)), ((0, 1), (-1, 4)), ((2, 0), (2**63 - 1, 3)))
    return [real(rng, 4, 5, 6)], {"axes": (1, -1), "starts": starts, "ends": ends, "steps": choose(rng, (), (2, 1), (1, 2))}


def split(rng: Rng) -> Case:
    sizes = ints(rng, 1, 3, int(rng.integers(1, 4)))
    return [real(rng, 2, sum(sizes), 3)], {"axis": choose(rng, 1, -2), "sizes": sizes}


def cat(rng: Rng) -> Case:
    return [real(rng, 2, int(rng.integers(1, 4)), 3) for _ in range(rng.integers(1, 4))], {"axis": choose(rng, 1, -2)}


def pad(rng: Rng) -> Case:
    mode = choose(rng, "constant", "reflect", "edge")
    x = real(rng, *(int(size) for size in rng.integers(3, 6, rng.integers(2, 5))))
    low = -1 if mode == "constant" else 0
    return [x], {"pads": ints(rng, low, 2, 2 * x.ndim), "mode": mode, "value": float(rng.integers(0, 3))}


def expand(rng: Rng) -> Case:
    return [real(rng, 3, 1, 4)], {"shape": choose(rng, (3, 5, 4), (-1, 2, -1), (2, -1, 6, 4), (3, 1, 4))}


def tile(rng: Rng) -> Case:
    x = real(rng, *some_shape(rng))
    return [x], {"repeats": ints(rng, 1, 3, x.ndim)}


def gather(rng: Rng) -> Case:
    x = real(rng, 3, 4, 5)
    return [x, rng.integers(-3, 3, some_shape(rng, 0, 2)).astype(choose(rng, np.int64, np.int32))], {"axis": an_axis(rng, 3)}


def cast(rng: Rng) -> Case:
    return [real(rng, 3, 4)], {"dtype": choose(rng, DType.FLOAT64, DType.INT32, DType.INT64, DType.BOOL, DType.INT8)}


POSITIVE = 0.1


def each(names: str, case: Callable[[Rng], Case]) -> dict[str, Callable[[Rng], Case]]:
    return dict.fromkeys(names.split(), case)


def adaptive(rng: Rng) -> Case:
    return [real(rng, 2, 3, 7, 6)], {"output_size": ints(rng, 1, 8, 2)}


CASES: dict[str, Callable[[Rng], Case]] = {
    **each("relu sigmoid tanh silu hardswish hardsigmoid selu mish softsign exp sin cos tan atan erf abs neg", one()),
    **each("floor ceil round sign trunc identity dropout exp2 expm1 sinh cosh asinh log_sigmoid tanhshrink", one()),
    **each("asin acos atanh", one(-0.9, 0.9)),
    "acosh": one(1.1),
    "celu": one(alpha=lambda rng: float(rng.uniform(0.2, 2))),
    "hardshrink": one(bound=lambda rng: float(rng.uniform(0, 2))),
    "softshrink": one(bound=lambda rng: float(rng.uniform(0, 2))),
    "threshold": one(bound=lambda rng: float(rng.uniform(-1, 1)), value=lambda rng: float(rng.uniform(-1, 1))),
    **each("log log2 log10 log1p sqrt rsqrt reciprocal", one(POSITIVE)),
    "clamp": one(min=lambda rng: choose(rng, None, -1.0), max=lambda rng: choose(rng, None, 1.5)),
    "leaky_relu": one(slope=lambda rng: float(rng.uniform(-0.5, 0.5))),
    "elu": one(alpha=lambda rng: float(rng.uniform(0.2, 2))),
    "gelu": one(approximate=lambda rng: choose(rng, "none", "tanh")),
    "softplus": one(beta=lambda rng: float(rng.uniform(0.5, 2))),
    "pow_scalar": one(POSITIVE, exponent=lambda rng: float(rng.uniform(-2, 3))),
    "prelu": prelu,
    **each("add sub mul maximum minimum", two()),
    **each("div pow", two(POSITIVE)),
    **each("equal greater less greater_equal less_equal", two(whole=True)),
    **each("logical_and logical_or", truths(2)),
    "logical_not": truths(1),
    "where": where,
    "cast": cast,
    "conv2d": convolution(False),
    "conv_transpose2d": convolution(True),
    "conv3d": volumes(False),
    "conv_transpose3d": volumes(True),
    "linear": linear,
    "matmul": matmul,
    "max_pool2d": window,
    "avg_pool2d": lambda rng: window(rng, average=True),
    "gain_pool2d": gain_window,
    "resize2d": resize,
    "grid_sample": sampling,
    **each("adaptive_avg_pool2d adaptive_max_pool2d", adaptive),
    **each("mean sum reduce_max reduce_min reduce_l1 reduce_l2 reduce_sum_square reduce_log_sum_exp", reduction),
    "reduce_log_sum": logarithm,
    **each("argmax argmin", first_of_ties),
    **each("softmax log_softmax", along),
    "batch_norm": batch_norm,
    "layer_norm": layer_norm,
    "instance_norm": channel_norm,
    "lp_normalize": lambda rng: (
        [real(rng, 2, 3, 4)],
        {"axes": choose(rng, (1,), (-1, 0)), "p": choose(rng, 1, 2), "eps": 0.5},
    ),
    "group_norm": lambda rng: channel_norm(rng, groups=choose(rng, 1, 2, 4)),
    "reshape": reshape,
    "transpose": transpose,
    "slice": cut,
    "split": split,
    "cat": cat,
    "pad": pad,
    "expand": expand,
    "tile": tile,
    "gather": gather,
    "pixel_shuffle": lambda rng: ([real(rng, 2, 8, 2, 3)], {"factor": 2}),
    "pixel_unshuffle": lambda rng: ([real(rng, 2, 2, 4, 6)], {"factor": 2}),
}


def build(op: str, operands: list[Any], attributes: dict[str, Any]) -> tuple[Graph, dict[str, np.ndarray[Any, Any]]]:
    graph = Graph("one")
    values, feeds = [], {}
    for index, array in enumerate(operands):
        name = f"x{index}"
        if array is None:
            values.append(None)
            continue
        values.append(graph.add_input(name, TensorType(DType.from_numpy(array.dtype), array.shape)))
        feeds[name] = array
    graph.add_node(op, values, attributes, name="y")
    return graph, feeds


@pytest.mark.parametrize("op", CASES)
def test_form_computes_the_op(op: str) -> None:
    rng = np.random.default_rng(zlib.crc32(op.encode()))
    for _ in range(SAMPLES):
        operands, attributes = CASES[op](rng)
        graph, feeds = build(op, operands, attributes)
        (node,) = graph.nodes
        model = emit_segment([node], graph.inputs, node.results)
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, feeds)
        form = copy.deepcopy(torch_form(node))
        got = form(*(None if array is None else torch.from_numpy(array) for array in operands))
        results = got if isinstance(got, tuple) else (got,)
        for value, result, reference in zip(node.results, results, expected, strict=True):
            case = f"{form} on {[None if a is None else a.shape for a in operands]}"
            assert tuple(result.shape) == value.shape, case
            assert result.numpy().dtype == value.type.dtype.numpy, case
            scale = max(1.0, float(np.abs(reference).max())) if reference.dtype.kind == "f" and reference.size else 1.0
            np.testing.assert_allclose(result.numpy(), reference, rtol=1e-5, atol=3e-6 * scale, err_msg=case)


@pytest.mark.parametrize("op", [op for op in CASES if op != "batch_norm"])  # whose constants have the shape [C] by definition
def test_a_number_may_stand_wherever_the_op_takes_one(op: str) -> None:
    """Files hold constants without axes in the place of any operand (found: TensorFlow's `Maximum(x, 1e-12)`)."""
    operands, attributes = CASES[op](np.random.default_rng(zlib.crc32(op.encode())))
    for index, array in enumerate(operands):
        if array is None or array.dtype != np.float32 or sum(each is not None for each in operands) < 2:
            continue
        number = np.float32(array.reshape(-1)[0]) if array.size else np.float32(1)
        graph, arrays = Graph("number"), []
        for position, each in enumerate(operands):
            arrays.append(None if each is None else np.array(number) if position == index else each)
        values = [
            None
            if each is None
            else graph.add_parameter("number", each)
            if position == index
            else graph.add_input(f"x{position}", TensorType(DType.from_numpy(each.dtype), each.shape))
            for position, each in enumerate(arrays)
        ]
        try:
            node = graph.add_node(op, values, attributes, name="y")
        except HqcError:
            continue  # the op takes no constant without axes there
        graph.set_outputs(list(node.results))
        tensors = [None if each is None else torch.from_numpy(each) for each in arrays]
        got = graph_module_of(graph)(*(each for position, each in enumerate(tensors) if each is not None and position != index))
        wanted = torch_form(node)(*tensors)
        for ours, theirs in zip(*(each if isinstance(each, tuple) else (each,) for each in (got, wanted)), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_every_real_op_has_a_form() -> None:
    real_ops = {op.name for op in all_ops() if not op.has(Trait.INTEGER) and not op.has(Trait.BOUNDARY)}
    assert real_ops - set(WITHOUT_FORM) == set(CASES)
    assert all(has_torch_form(name) for name in CASES)
    assert not any(has_torch_form(name) for name in WITHOUT_FORM)


def test_a_form_may_be_written_into_a_graph() -> None:
    """Forms are importable functions with plain attributes, so that emitted modules print, copy and pickle."""
    rng = np.random.default_rng(0)
    for op, case in CASES.items():
        operands, attributes = case(rng)
        (node,) = build(op, operands, attributes)[0].nodes
        form = torch_form(node)
        graph = torch.fx.Graph()
        inputs = [None if array is None else graph.placeholder(f"x{i}") for i, array in enumerate(operands)]
        graph.output(graph.call_function(form.function, tuple(inputs), form.attributes))
        module = torch.fx.GraphModule(torch.nn.Module(), graph)
        module(*(torch.from_numpy(array) for array in operands if array is not None))
