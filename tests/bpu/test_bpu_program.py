"""Programs: order, inputs, kept values, memory, profile, CPU segments, opaque calls, errors."""

from __future__ import annotations

import threading
import weakref

import numpy as np
import pytest
from one_node import Parameter, integers, one_node

from hqc import arithmetic
from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import blas
from hqc.backends.bpu.ranges import ValueRanges
from hqc.backends.bpu.schedule import schedule
from hqc.errors import CompileError, HqcError, InputError
from hqc.ir import Device, DType, Graph, QuantParams, TensorType

F32 = DType.FLOAT32


def hybrid_graph() -> Graph:
    """quantize -> conv -> dequantize -> (CPU: exp, then add of the input) -> quantize -> relu -> dequantize."""
    rng = np.random.default_rng(0)
    graph = Graph("hybrid", "bayes")
    image = graph.add_input("image", TensorType(F32, (1, 3, 8, 8)))

    def boundary(op, x, name, scale, dtype=None):
        types = [TensorType(dtype, x.shape)] if dtype else None
        node = graph.add_node(op, [x], {"dtype": dtype} if dtype else {}, name=name, types=types)
        node.device = Device.CPU
        if dtype:
            node.result.quant = QuantParams(scale, dtype)
        return node.result

    q = boundary("quantize", image, "q", 0.02, DType.INT8)
    weight = graph.add_parameter("weight", integers(rng, (3, 3, 3, 3)))
    rows = graph.add_parameter("rows", arithmetic.requant_params(np.full(3, 0.002)).array)
    conv = graph.add_node("int_conv2d", [q, weight, None, rows], {"padding": (1, 1, 1, 1), "clip_min": 0}, name="conv")
    conv.device = Device.BPU
    conv.result.quant = QuantParams(0.03, DType.INT8)
    real = boundary("dequantize", conv.result, "real", None)
    for op, inputs, name in (("exp", [real], "exponential"), ("add", ["exponential", image], "total")):
        node = graph.add_node(op, [graph.value(v) if isinstance(v, str) else v for v in inputs], name=name)
        node.device = Device.CPU
    q2 = boundary("quantize", graph.value("total"), "q2", 0.05, DType.INT8)
    relu = graph.add_node("relu", [q2], name="positive")
    relu.device, relu.result.quant = Device.BPU, q2.quant
    graph.set_outputs([boundary("dequantize", relu.result, "result", None), conv.result], ["y", "conv_y"])
    graph.stage = "integer"
    return graph


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


def expected(kept: dict[str, np.ndarray], image: np.ndarray) -> np.ndarray:
    real = kept["conv"].astype(np.float32) * np.float32(0.03)
    total = np.exp(real) + image
    return np.maximum(arithmetic.quantize(total, 0.05), 0).astype(np.float32) * np.float32(0.05)


@pytest.mark.parametrize("engine", ["blas", "reference", "auto"])
def test_hybrid_program_runs_cpu_segment_between_bpu_subgraphs(engine, image):
    found = compile(hybrid_graph(), engine=engine).run({"image": image}, keep=["conv"])
    assert set(found) == {"y", "conv_y", "conv"}
    assert found["conv"].dtype == np.int8
    np.testing.assert_array_equal(found["y"], expected(found, image))


def test_cpu_nodes_that_depend_on_each_other_share_one_segment():
    groups = [(group.kind, [node.name for node in group.nodes]) for group in schedule(hybrid_graph())]
    assert ("onnx", ["exponential", "total"]) in groups


def test_interleaved_independent_branches_give_one_segment():
    """Program order alternates CPU and BPU; the CPU nodes do not wait for BPU nodes and become one session."""
    graph = Graph("branches", "bayes")
    x, q = graph.add_input("x", TensorType(F32, (4,))), graph.add_input("q", TensorType(DType.INT8, (4,)))
    for index in range(3):
        cpu = graph.add_node("exp", [x], name=f"cpu{index}")
        bpu = graph.add_node("relu", [q], name=f"bpu{index}")
        cpu.device, bpu.device = Device.CPU, Device.BPU
        x, q = cpu.result, bpu.result
    graph.set_outputs([x, q])
    graph.stage = "integer"
    assert [len(group.nodes) for group in schedule(graph) if group.kind == "onnx"] == [3]
    found = compile(graph).run([np.zeros(4, np.float32), np.arange(-2, 2, dtype=np.int8)])
    np.testing.assert_allclose(found["cpu2"], np.exp(np.exp(np.exp(np.zeros(4)))), rtol=1e-6)
    assert found["bpu2"].tolist() == [0, 0, 0, 1]


def test_keep_true_returns_every_integer_value(image):
    found = compile(hybrid_graph()).run([image], keep=True)
    assert {"q", "conv", "real", "total", "q2", "positive"} <= set(found)


def test_values_are_freed_after_their_last_use(image):
    program = compile(hybrid_graph())
    alive: list[weakref.ref] = []
    steps = []
    for step in program.steps:

        def run(operands, step=step):
            found = step.run(operands)
            for array in found if isinstance(found, tuple) else (found,):
                alive.append(weakref.ref(array))
            return found

        steps.append(type(step)(step.nodes, step.inputs, step.results, run, step.device))
    program.steps = tuple(steps)
    found = program.run([image])
    kept = [id(array) for array in found.values()]
    assert sum(ref() is not None and id(ref()) not in kept for ref in alive) == 0


def test_profile_has_a_row_per_step_with_macs_and_bytes(image):
    rows = compile(hybrid_graph()).profile([image])
    assert [row.node for row in rows] == ["q", "conv", "real", "exponential..total", "q2", "positive", "result"]
    by_name = {row.node: row for row in rows}
    assert by_name["conv"].macs == 3 * 3 * 3 * 3 * 64
    assert by_name["conv"].device == "bpu"
    assert by_name["exponential..total"].device == "cpu"
    assert all(row.ms >= 0 and row.bytes > 0 for row in rows)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input image is missing; the program takes image"),
        ({"image": np.zeros((1, 3, 8, 8)), "mask": 1}, "unknown input mask; the program takes image"),
        (
            {"image": np.zeros((2, 3, 8, 8), np.float32)},
            r"input image has shape \[2, 3, 8, 8\], .* compiled for \[1, 3, 8, 8\]",
        ),
        ({"image": np.full((1, 3, 8, 8), np.nan)}, "input image contains NaN"),
        ({"image": np.zeros((1, 3, 8, 8), complex)}, "input image has dtype complex128, the program takes float32"),
        ([], r"the program takes 1 input\(s\) \(image\), got 0"),
    ],
)
def test_bad_inputs_get_one_sentence(inputs, message):
    with pytest.raises(InputError, match=message):
        compile(hybrid_graph()).run(inputs)


def test_unknown_names_to_keep_are_refused(image):
    with pytest.raises(InputError, match="keep names nonsense, which this program does not compute"):
        compile(hybrid_graph()).run([image], keep=["nonsense"])


def test_graph_of_another_stage_is_refused():
    graph = hybrid_graph()
    graph.stage = "scaled"
    with pytest.raises(CompileError, match="stage 'integer', hybrid is 'scaled'; run lower-to-integer"):
        compile(graph)


def test_unknown_engine_is_refused_with_the_known_ones():
    with pytest.raises(CompileError, match="unknown engine 'cuda'; known: auto, jit, onednn, blas, reference"):
        compile(hybrid_graph(), engine="cuda")


def test_float_op_on_the_bpu_is_refused_by_name():
    graph, _ = one_node("exp", [np.zeros((2, 2), np.float32)])
    with pytest.raises(CompileError, match="y: the simulator has no kernel for exp; place it on the CPU"):
        compile(graph)


def opaque_graph() -> Graph:
    graph = Graph("opaque", "bayes")
    x = graph.add_input("x", TensorType(F32, (2, 3)))
    node = graph.add_node("opaque", [x], {"id": "user.fn"}, name="y", types=[TensorType(F32, (3, 2))])
    node.device = Device.CPU
    graph.set_outputs([node.result])
    graph.stage = "integer"
    return graph


def test_opaque_node_calls_the_given_function():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = compile(opaque_graph(), opaque={"user.fn": lambda a: a.T * 2}).run([x])
    np.testing.assert_array_equal(found["y"], x.T * 2)


def test_opaque_node_without_function_or_with_another_result_is_refused():
    with pytest.raises(CompileError, match=r"only the model's framework can run user\.fn"):
        compile(opaque_graph())
    program = compile(opaque_graph(), opaque={"user.fn": lambda a: a})
    with pytest.raises(HqcError, match=r"user\.fn returned float32\[2, 3\], f32\[3,2\] was traced"):
        program.run([np.zeros((2, 3), np.float32)])


def test_programs_run_concurrently_from_several_threads(monkeypatch):
    """Scratch memory belongs to threads: four callers of one program never disturb each other."""
    monkeypatch.setattr(blas, "_ALONE_MS", 0.0)
    rng = np.random.default_rng(2)
    rows = Parameter(arithmetic.requant_params(np.full(24, 0.001)).array)
    operands = [integers(rng, (1, 16, 30, 30)), Parameter(integers(rng, (24, 16, 3, 3))), None, rows]
    graph, inputs = one_node("int_conv2d", operands, {"padding": (1, 1, 1, 1)})
    program = compile(graph, engine="blas", threads=2)
    wanted = program.run(inputs)["y"]
    wrong: list[int] = []

    def call() -> None:
        for _ in range(10):
            wrong.append(int((program.run(inputs)["y"] != wanted).sum()))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 40


def test_blas_threads_are_restored_after_a_run(image):
    import threadpoolctl

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    program = compile(hybrid_graph())
    before = threads()
    program.run([image])
    assert threads() == before


def test_value_ranges_follow_activations_and_layout_ops():
    graph = Graph("ranges", "bayes")
    x = graph.add_input("x", TensorType(DType.INT8, (1, 4, 6, 6)))
    relu = graph.add_node("relu", [x], name="relu").result
    pool = graph.add_node("max_pool2d", [relu], {"kernel": (2, 2), "stride": (2, 2)}, name="pool").result
    padded = graph.add_node("pad", [pool], {"pads": (0, 0, 1, 1, 0, 0, 1, 1), "value": -3.0}, name="padded").result
    both = graph.add_node("cat", [padded, padded], {"axis": 1}, name="both").result
    clamped = graph.add_node("clamp", [both], {"min": -1.0, "max": 90.0}, name="clamped").result
    table = graph.add_parameter("table", np.linspace(-5, 100, 256).astype(np.int8))
    looked = graph.add_node("int_lut", [clamped, table], name="looked").result
    graph.set_outputs([looked])
    ranges = ValueRanges(graph)
    found = [ranges.of(value) for value in (x, relu, pool, padded, both, clamped, looked)]
    assert found == [(-128, 127), (0, 127), (0, 127), (-3, 127), (-3, 127), (-1, 90), (-5, 100)]
