"""Tokens and images in the jit engine: orders of memory, copies, broadcasts, sums and products of activations, all native."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_node import INT8, INT16, Parameter, integers, one_node, output_attributes, requant, rng_of

from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import jit
from hqc.backends.bpu.engines.jit import check, library, native
from hqc.ir import Device, Graph, TensorType

pytestmark = pytest.mark.skipif(not jit.available(), reason="numba is not installed")
KINDS = (
    "conv",
    "pool",
    "transpose",
    "reshape",
    "slice",
    "cat",
    "token",
    "add",
    "spread",
    "div",
    "linear",
    "sum",
    "lut",
    "prelu",
    "matmul",
    "split",
)
PRODUCTS = library.products() if jit.available() else []


class Draft:
    """A graph that grows by one node at a time from the values it has."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng, self.graph, self.values, self.count = rng, Graph("tokens", "bayes"), [], 0

    def node(self, op, operands, **attributes):
        self.count += 1
        named = [
            self.graph.add_parameter(f"p{self.count}_{index}", item) if isinstance(item, np.ndarray) else item
            for index, item in enumerate(operands)
        ]
        node = self.graph.add_node(op, named, attributes, name=f"n{self.count}")
        node.device = Device.BPU
        self.values += [value for value in node.results if value.type.dtype is INT8]

    def rows(self, *shape):
        return requant(self.rng, shape, "multiply", high=-4)

    def pick(self, rank=None):
        found = [value for value in self.values if rank is None or len(value.shape) == rank]
        return found[int(self.rng.integers(len(found)))] if found else None

    def step(self, kind):
        rng, x = self.rng, self.pick()
        rank, shape = len(x.shape), x.shape
        axis = int(rng.integers(rank))
        image = self.pick(4)
        if kind == "conv" and image is not None:
            weight = integers(rng, (5, image.shape[1], 1, 1))
            self.node("int_conv2d", [image, weight, rng.integers(-99, 99, 5).astype(np.int32), self.rows(5)], padding=(0,) * 4)
        elif kind == "pool" and image is not None and min(image.shape[2:]) > 1:
            self.node("max_pool2d", [image], kernel=(2, 2), stride=(1, 1))
        elif kind == "transpose":
            self.node("transpose", [x], perm=tuple(int(i) for i in rng.permutation(rank)))
        elif kind == "reshape":
            sizes, rest = [], math.prod(shape)
            for _ in range(int(rng.integers(4))):
                divisors = [size for size in range(1, rest + 1) if rest % size == 0]
                sizes.append(int(rng.choice(divisors)))
                rest //= sizes[-1]
            self.node("reshape", [x], shape=(*sizes, rest))
        elif kind == "slice" and shape[axis] > 1:
            self.node("slice", [x], axes=(axis,), starts=(1,), ends=(shape[axis],), steps=(int(rng.integers(1, 3)),))
        elif kind == "split" and shape[axis] > 1:
            self.node("split", [x], axis=axis, sizes=(1, shape[axis] - 1))
        elif kind == "cat" and x.type.size < 4000:
            others = [value for value in self.values if value.shape == shape]
            self.node("cat", [x, others[int(rng.integers(len(others)))]], axis=axis)
        elif kind == "token":
            self.node("cat", [integers(rng, (*shape[:axis], 1, *shape[axis + 1 :])), x], axis=axis)
        elif kind == "add":
            others = [value for value in self.values if value.shape == shape]
            self.node("int_add", [x, others[-1], self.rows()], k_a=3, k_b=-2)
        elif kind == "spread":
            small = tuple(size if rng.random() < 0.5 else 1 for size in shape)[int(rng.integers(rank)) :]
            self.node("int_mul" if rng.random() < 0.5 else "int_add", [x, integers(rng, small), self.rows()])
        elif kind == "div":
            small = tuple(size if rng.random() < 0.5 else 1 for size in shape)
            self.node("int_div", [x, integers(rng, small)], ratio=float(rng.uniform(0.1, 40)))
        elif kind == "linear":
            weight = integers(rng, (6, shape[-1]))
            self.node("int_linear", [x, weight, rng.integers(-99, 99, 6).astype(np.int32), self.rows(6)])
        elif kind == "sum" and rank > 1:
            axes = tuple(sorted({axis, int(rng.integers(rank))}))[: rank - 1]
            self.node("int_sum", [x, self.rows()], axes=axes, keepdims=bool(rng.random() < 0.5))
        elif kind == "lut":
            self.node("int_lut", [x, rng.integers(-128, 128, 256).astype(np.int8)])
        elif kind == "prelu" and rank > 1:
            channels = shape[1] if rng.random() < 0.7 else 1
            self.node("int_prelu", [x, integers(rng, (channels,), INT16), self.rows(), self.rows()])
        elif kind == "matmul" and rank > 1 and shape[-2] < 40:
            turned = (*range(rank - 2), rank - 1, rank - 2)
            self.node("transpose", [x], perm=turned)
            self.node("int_matmul", [x, self.values[-1], self.rows()])


@st.composite
def token_networks(draw: st.DrawFn):
    """A graph of up to eight operations on tokens and images, and its inputs."""
    draft = Draft(rng_of(draw))
    shape = draw(st.sampled_from([(1, 4, 6, 3), (2, 3, 4, 5), (1, 7, 20), (3, 17, 8), (2, 1, 3, 2, 6), (1, 33, 3, 70)]))
    draft.values.append(draft.graph.add_input("x", TensorType(INT8, shape)))
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=8)):
        draft.step(kind)
    results = [value for node in draft.graph.nodes for value in node.results]
    draft.graph.set_outputs(results[-3:] or draft.values)
    draft.graph.stage = "integer"
    return draft.graph, {"x": integers(draft.rng, shape)}


@settings(max_examples=120, deadline=None)
@given(token_networks(), st.sampled_from([1, 2]))
def test_networks_of_tokens_and_images_equal_the_reference(case, threads):
    graph, inputs = case
    expected = compile(graph, engine="reference").run(inputs)
    program = compile(graph, engine="jit", threads=threads)
    for _ in range(2):  # memory is used again
        for name, array in program.run(inputs).items():
            assert array.shape == expected[name].shape
            np.testing.assert_array_equal(array, expected[name], err_msg=str(graph))


@given(st.data())
def test_runs_say_the_same_places(data):
    rng = rng_of(data.draw)
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    places = np.arange(math.prod(shape)).reshape(shape).transpose(rng.permutation(len(shape)))
    if data.draw(st.booleans()):
        places = places[..., :: data.draw(st.integers(1, 3))]
    if data.draw(st.booleans()):
        places = rng.permutation(places.reshape(-1))
    found = jit.layouts.runs(places)
    starts = found.first[:, None, None] + found.step * np.arange(found.count)[:, None] + np.arange(found.length)
    assert starts.reshape(-1).tolist() == places.reshape(-1).tolist()


@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize(
    ("m", "k", "n", "turned"), [(3, 5, 70, False), (500, 33, 9, True), (41, 64, 130, True), (1, 1, 1, False)]
)
def test_products_of_activations_by_each_kernel_equal_the_integers(product, m, k, n, turned, monkeypatch):
    """Several tiles of rows and panels of columns; both operands in either order."""
    monkeypatch.setattr(library, "products", lambda: [product])
    monkeypatch.setattr(native, "_SHARE_NS", 0)
    rng = np.random.default_rng(m)
    graph = Graph("product", "bayes")
    shapes = ((2, k, m), (2, n, k)) if turned else ((2, m, k), (2, k, n))
    inputs = {f"x{index}": integers(rng, shape) for index, shape in enumerate(shapes)}
    values = [graph.add_input(name, TensorType(INT8, array.shape)) for name, array in inputs.items()]
    if turned:
        values = [graph.add_node("transpose", [value], {"perm": (0, 2, 1)}).result for value in values]
    rows = graph.add_parameter("rows", requant(rng, (), "multiply", low=-14, high=-6))
    graph.set_outputs([graph.add_node("int_matmul", [*values, rows], name="y").result])
    for node in graph.nodes:
        node.device = Device.BPU
    graph.stage = "integer"
    program = compile(graph, engine="jit", threads=3)
    assert all(step.native is not None for step in program.steps)
    np.testing.assert_array_equal(program.run(inputs)["y"], compile(graph, engine="blas").run(inputs)["y"])


@pytest.mark.parametrize("answer", [lambda *_: False, lambda *_: 1 / 0])
def test_a_product_of_activations_that_is_wrong_here_is_left_to_numpy(answer, monkeypatch, caplog):
    monkeypatch.setattr(check, "activations_are_exact", answer)
    check.trusted_activations.cache_clear()
    try:
        rng = np.random.default_rng(0)
        graph, inputs = one_node(
            "int_matmul", [integers(rng, (4, 6)), integers(rng, (6, 5)), Parameter(requant(rng, (), "multiply"))]
        )
        program = compile(graph, engine="jit")
        assert program.steps[0].native is None and program._uses_blas
        np.testing.assert_array_equal(program.run(inputs)["y"], compile(graph, engine="reference").run(inputs)["y"])
        assert "does without matmul_float256" in caplog.text
    finally:
        check.trusted_activations.cache_clear()


def assert_native_on_many_tiles(op, constants, attributes, *, image, oracle):
    """One op on more elements than a tile has; beside a pool, as beside a convolution, the channels are last in memory."""
    rng = np.random.default_rng(5)
    graph = Graph("tiles", "bayes")
    x = value = graph.add_input("x", TensorType(INT8, (3, 5, 65, 64)))
    if image:
        value = graph.add_node("max_pool2d", [x], {"kernel": (1, 1), "stride": (1, 1)}, name="pool").result
    parameters = [graph.add_parameter(f"p{index}", array) for index, array in enumerate(constants)]
    graph.set_outputs([graph.add_node(op, [value, *parameters], attributes, name="y").result])
    for node in graph.nodes:
        node.device = Device.BPU
    graph.stage = "integer"
    inputs = {"x": integers(rng, (3, 5, 65, 64))}
    program = compile(graph, engine="jit", threads=2)
    assert all(step.native is not None for step in program.steps)
    np.testing.assert_array_equal(program.run(inputs)["y"], compile(graph, engine=oracle).run(inputs)["y"])


@pytest.mark.parametrize("small", [(1, 1, 65, 64), (3, 1, 1, 1), (1, 5, 1, 1), (3, 5, 1, 64), (64,), (5, 65, 1)])
@pytest.mark.parametrize("op", ["int_add", "int_mul", "int_div"])
@pytest.mark.parametrize("image", [False, True])
def test_a_smaller_operand_is_spread_over_many_tiles(op, small, image):
    """Rows of one operand for all, elements for a row, with rows longer than a tile."""
    rng = np.random.default_rng(5)
    extra = [] if op == "int_div" else [requant(rng, (), "multiply", high=-4)]
    attributes = {"ratio": 3.7} if op == "int_div" else {}
    assert_native_on_many_tiles(op, [integers(rng, small), *extra], attributes, image=image, oracle="blas")


@pytest.mark.parametrize("dtype", [INT8, INT16])
@pytest.mark.parametrize(
    ("shape", "axes"), [((2, 40, 9, 11), (2, 3)), ((2, 40, 9, 11), (1,)), ((3, 50, 64), (1,)), ((4000, 9), (1,))]
)
def test_sums_over_any_axes_are_native(shape, axes, dtype):
    rng = np.random.default_rng(6)
    rows = Parameter(requant(rng, (), "multiply", low=-9, high=-5))
    graph, inputs = one_node(
        "int_sum", [integers(rng, shape, dtype), rows], {"axes": axes, **output_attributes(rng, "multiply")}
    )
    program = compile(graph, engine="jit", threads=2)
    assert program.steps[0].native is not None
    np.testing.assert_array_equal(program.run(inputs)["y"], compile(graph, engine="blas").run(inputs)["y"])


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("dtype", [INT8, INT16])
def test_prelu_is_native_over_many_tiles_in_either_order_of_memory(dtype, channels, image):
    rng = np.random.default_rng(6)
    constants = [
        integers(rng, (channels,), INT16),
        requant(rng, (), "multiply"),
        requant(rng, (channels,), "multiply", low=-25, high=-8),
    ]
    assert_native_on_many_tiles("int_prelu", constants, {"dtype": dtype}, image=image, oracle="reference")
