"""The jit engine: every product, segments as one call, its disk cache, and a machine where something is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from one_node import Parameter, integers, one_node, requant, rng_of
from test_bpu_products import conv_cases, transpose_cases

from hqc import arithmetic
from hqc.backends.bpu import compile
from hqc.backends.bpu.engines import ConvSpec, get_engine, jit, onednn
from hqc.backends.bpu.engines.jit import check, library, native, problems
from hqc.errors import CompileError, QuantizationError
from hqc.ir import Device, DType, Graph, QuantParams, TensorType

needs_numba = pytest.mark.skipif(not jit.available(), reason="numba is not installed")
PRODUCTS = library.products() if jit.available() else []


@pytest.fixture
def alone(monkeypatch):
    """`auto` with the jit engine or none: what oneDNN's probe would answer is not asked."""
    monkeypatch.setattr(onednn, "probe", lambda blas: False)
    for answer in (jit.works, check.trusted):
        answer.cache_clear()
    yield monkeypatch
    for answer in (jit.works, check.trusted):
        answer.cache_clear()


# --- products --------------------------------------------------------------------------------------------------------------


@needs_numba
@pytest.mark.parametrize("product", PRODUCTS)
def test_each_product_of_this_processor_equals_the_reference(product, monkeypatch):
    assert all(
        check.trusted(product, dtype) for dtype in (DType.INT8, DType.INT16)
    )  # else `blas` would be compared with itself
    monkeypatch.setattr(library, "products", lambda: [product])

    @settings(max_examples=60, deadline=None)
    @given(st.one_of(conv_cases(), conv_cases(), transpose_cases()))
    def run(case):
        graph, inputs = case
        expected = compile(graph, engine="reference").run(inputs)
        np.testing.assert_array_equal(compile(graph, engine="jit", threads=2).run(inputs)["y"], expected["y"])

    run()


@needs_numba
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize(
    ("shape", "outputs", "kernel", "low"),
    [((1, 64, 15, 17), 200, 3, -128), ((2, 192, 7, 7), 96, 1, 0), ((5, 24, 9, 9), 130, 3, 0), ((1, 3, 40, 40), 16, 7, -128)],
)
def test_layers_of_many_tiles_equal_the_blas_engine(product, shape, outputs, kernel, low, monkeypatch):
    assert check.trusted(product, DType.INT8)  # otherwise `blas` would be compared with itself
    monkeypatch.setattr(library, "products", lambda: [product])
    rng = np.random.default_rng(3)
    pad = kernel // 2
    graph = Graph("layers", "bayes")
    x = value = graph.add_input("x", TensorType(DType.INT8, shape))
    if low == 0:
        value = graph.add_node("relu", [x], name="positive").result
    rows = arithmetic.requant_params(2.0 ** rng.uniform(-13, -8, outputs)).array
    arrays = (integers(rng, (outputs, shape[1], kernel, kernel)), rng.integers(-9999, 9999, outputs).astype(np.int32), rows)
    parameters = [graph.add_parameter(f"p{index}", array) for index, array in enumerate(arrays)]
    graph.set_outputs([graph.add_node("int_conv2d", [value, *parameters], {"padding": (pad,) * 4}, name="y").result])
    inputs = _finished(graph, {"x": integers(rng, shape)})
    expected = compile(graph, engine="blas").run(inputs)["y"]
    for threads in (1, 3):
        np.testing.assert_array_equal(compile(graph, engine="jit", threads=threads).run(inputs)["y"], expected)


@needs_numba
@pytest.mark.parametrize("product", PRODUCTS)
@pytest.mark.parametrize(
    ("op", "shape", "outputs", "attributes"),
    [
        ("int_conv2d", (1, 48, 15, 17), 40, {"padding": (1, 1, 1, 1)}),
        ("int_conv2d", (1, 40, 15, 17), 40, {"groups": 40, "padding": (1, 1, 1, 1)}),
        ("int_conv2d", (2, 64, 15, 17), 96, {"groups": 8, "padding": (1, 1, 1, 1)}),  # groups of 12 columns, two as one
        (
            "int_conv2d",
            (1, 48, 30, 31),
            160,
            {"groups": 2, "stride": (2, 1)},
        ),  # more columns in a group than are finished together
        ("int_conv2d", (1, 96, 20, 20), 96, {"groups": 32, "dilation": (2, 1)}),
        ("int_conv_transpose2d", (1, 64, 20, 20), 48, {"stride": (2, 2), "padding": (1, 1, 1, 1), "output_padding": (1, 0)}),
        ("int_conv_transpose2d", (2, 32, 9, 13), 80, {"stride": (3, 2), "groups": 2, "dilation": (2, 3)}),
    ],
)
@pytest.mark.parametrize("dtype", [DType.INT8, DType.INT16])
def test_convolutions_of_every_kind_are_native_and_equal_the_reference(
    product, op, shape, outputs, attributes, dtype, monkeypatch
):
    fastest = PRODUCTS[PRODUCTS.index(product) :]  # AMX leaves short sums to the next
    monkeypatch.setattr(library, "products", lambda: fastest)
    rng = np.random.default_rng(5)
    groups, inputs = attributes.get("groups", 1), shape[1]
    first, second = (outputs, inputs // groups) if op == "int_conv2d" else (inputs, outputs // groups)
    mode = "multiply" if dtype is DType.INT8 else "multiply64"
    operands = [
        integers(rng, shape, dtype),
        Parameter(integers(rng, (first, second, 3, 3))),
        Parameter(rng.integers(-9999, 9999, outputs).astype(np.int32)),
        Parameter(requant(rng, (outputs,), mode, low=-13, high=-8)),
    ]
    attributes = attributes | {"mode": mode, "dtype": dtype}
    where = one_node(op, operands, attributes)[0].outputs[0].shape
    operands += [integers(rng, where, dtype), Parameter(arithmetic.residual_params(2.0 ** rng.uniform(0, 6, outputs)).array)]
    graph, arrays = one_node(op, operands, attributes)
    expected = compile(graph, engine="reference").run(arrays)["y"]
    for threads in (1, 3):
        program = compile(graph, engine="jit", threads=threads)
        native = program.steps[0].native
        known = {*fastest, "depthwise", "dense_thin256"}
        assert native is not None and {op.kernel.removesuffix("_16") for op in native.ops} <= known
        np.testing.assert_array_equal(program.run(arrays)["y"], expected)


def _finished(graph: Graph, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    for node in graph.nodes:
        node.device = Device.BPU
    graph.stage = "integer"
    return inputs


# --- segments --------------------------------------------------------------------------------------------------------------


def _network(rng: np.random.Generator, batch: int = 2) -> tuple[Graph, dict[str, np.ndarray]]:
    """Quantize, convolutions with a residual, depthwise, split and cat, pools, resize, flatten, linear, dequantize."""
    graph = Graph("network", "bayes")
    unit = QuantParams(np.float32(0.05), DType.INT8)
    counter = iter(range(1000))

    def node(op, operands, attributes=None, quant=unit, types=None):
        values = [
            graph.add_parameter(f"p{next(counter)}", operand) if isinstance(operand, np.ndarray) else operand
            for operand in operands
        ]
        made = graph.add_node(op, values, attributes or {}, name=f"{op}_{next(counter)}", types=types)
        for value in made.results:
            value.quant = quant
        return made

    def conv(x, outputs, kernel, residual=None, **attributes):
        inputs = x.shape[1] // attributes.get("groups", 1)
        rows = arithmetic.requant_params(2.0 ** rng.uniform(-10, -7, outputs)).array
        operands = [
            x,
            integers(rng, (outputs, inputs, kernel, kernel)),
            rng.integers(-500, 500, outputs).astype(np.int32),
            rows,
        ]
        if residual is not None:
            operands += [residual, arithmetic.residual_params(2.0 ** rng.uniform(0, 6, outputs)).array]
        return node("int_conv2d", operands, {"padding": (kernel // 2,) * 4, **attributes}).result

    x = graph.add_input("x", TensorType(DType.FLOAT32, (batch, 3, 18, 22)))
    q = node("quantize", [x], {"dtype": DType.INT8, "integer": True}).result
    first = conv(q, 24, 3, stride=(2, 2), clip_min=0)
    deep = conv(first, 24, 3, groups=24, clip_min=0)
    joined = conv(deep, 24, 1, residual=first)
    halves = node("split", [joined], {"axis": 1, "sizes": (8, 16)})
    again = node("cat", [halves.results[1], halves.results[0], first], {"axis": 1}).result
    pooled = node("max_pool2d", [again], {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}).result
    wide = node("int_resize2d", [pooled], {"size": (9, 11), "mode": "nearest", "fraction_bits": 16}).result
    rows = arithmetic.requant_params(np.float64(0.3)).array
    total = node("int_add", [wide, again, rows], {"k_a": 3, "k_b": -2, "dtype": DType.INT8}).result
    table = rng.integers(-128, 128, 256).astype(np.int8)
    bent = node("int_lut", [total, table]).result
    mean_rows = arithmetic.requant_params(np.float64(1 / 99)).array
    mean = node("int_adaptive_avg_pool2d", [bent, mean_rows], {"output_size": (1, 1), "dtype": DType.INT8}).result
    flat = node("reshape", [mean], {"shape": (batch, 48)}).result
    weight = integers(rng, (10, 48))
    rows = arithmetic.requant_params(2.0 ** rng.uniform(-8, -6, 10)).array
    logits = node("int_linear", [flat, weight, rng.integers(-50, 50, 10).astype(np.int32), rows]).result
    result = node("dequantize", [logits], quant=None).result
    image = node("dequantize", [bent], quant=None).result
    graph.set_outputs([result, image, pooled])
    return graph, _finished(graph, {"x": rng.normal(size=(batch, 3, 18, 22)).astype(np.float32) * 3})


@needs_numba
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_network_is_one_native_call_and_gives_the_bits_of_the_reference(threads, monkeypatch):
    monkeypatch.setattr(native, "_SHARE_NS", 0)
    graph, inputs = _network(np.random.default_rng(0))
    program = compile(graph, engine="jit", threads=threads)
    assert [step.nodes[0].op.name for step in program.steps if step.native is None] == []
    assert len(program._joined.steps) == 1 and not program._uses_blas
    expected = compile(graph, engine="reference").run(inputs, keep=True)
    for _ in range(3):  # memory is used again
        found = program.run(inputs)
        for name in graph.output_names:
            np.testing.assert_array_equal(found[name], expected[name])
    kept = program.run(inputs, keep=True)  # step by step
    assert list(kept) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(kept[name], array)
    assert len(program.profile(inputs)) == len(program.steps)


@needs_numba
@pytest.mark.parametrize("first", [True, False])
def test_a_constant_part_of_a_cat_is_in_the_result(first):
    """A class token before the patches: a constant is no operand of a native step, and must not be left out for that."""
    graph = Graph("tokens", "bayes")
    unit = QuantParams(np.float32(0.05), DType.INT8)
    x = graph.add_input("x", TensorType(DType.FLOAT32, (1, 6, 8)))
    tokens = graph.add_node("quantize", [x], {"integer": True}, name="q").result
    token = graph.add_parameter("token", np.arange(-4, 4, dtype=np.int8).reshape(1, 1, 8), unit)
    joined = graph.add_node("cat", [token, tokens] if first else [tokens, token], {"axis": 1}, name="joined").result
    tokens.quant = joined.quant = unit
    y = graph.add_node("dequantize", [joined], name="y").result
    graph.set_outputs([y])
    inputs = _finished(graph, {"x": np.random.default_rng(0).standard_normal((1, 6, 8)).astype(np.float32)})
    expected = compile(graph, engine="reference").run(inputs)["y"]
    np.testing.assert_array_equal(compile(graph, engine="jit").run(inputs)["y"], expected)


@needs_numba
def test_threads_of_the_user_may_run_one_program_at_the_same_time(monkeypatch):
    monkeypatch.setattr(native, "_SHARE_NS", 0)
    graph, _ = _network(np.random.default_rng(1), batch=1)
    program, reference = compile(graph, engine="jit", threads=2), compile(graph, engine="blas")
    rng = np.random.default_rng(2)
    images = [rng.normal(size=(1, 3, 18, 22)).astype(np.float32) for _ in range(4)]
    expected = [reference.run([image]) for image in images]
    wrong: list[int] = []

    def work(index: int) -> None:
        for _ in range(20):
            found = program.run([images[index]])
            if any((found[name] != expected[index][name]).any() for name in found):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@needs_numba
def test_nan_inside_the_program_names_the_quantize_node_and_the_program_still_runs():
    graph = Graph("late", "bayes")
    x = graph.add_input("x", TensorType(DType.FLOAT32, (1, 2, 3, 5)))
    root = graph.add_node("sqrt", [x], name="root")
    root.device = Device.CPU
    q = graph.add_node("quantize", [root.result], {"dtype": DType.INT8, "integer": True}, name="q")
    q.result.quant = QuantParams(np.float32(0.1), DType.INT8)
    q.device = Device.BPU
    graph.set_outputs([q.result])
    graph.stage = "integer"
    program = compile(graph, engine="jit")
    with pytest.raises(QuantizationError, match=r"q.*cannot quantize NaN in root"):
        program.run([np.full((1, 2, 3, 5), -1, np.float32)])
    assert (program.run([np.ones((1, 2, 3, 5), np.float32)])["q"] == 10).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_values_that_live_at_the_same_time_do_not_share_memory(data):
    rng = rng_of(data.draw)
    spans = {}
    for index in range(data.draw(st.integers(1, 30))):
        first = int(rng.integers(0, 20))
        spans[f"v{index}"] = ([first, first + int(rng.integers(0, 6))], int(rng.integers(1, 5000)))
    offsets, size = native._pack(spans)
    for name, ((first, last), length) in spans.items():
        assert offsets[name] % 64 == 0 and offsets[name] + length <= size
        for other, ((begin, end), width) in spans.items():
            if name != other and begin <= last and first <= end:
                assert offsets[name] + length <= offsets[other] or offsets[other] + width <= offsets[name]


# --- a machine where something is missing ------------------------------------------------------------------------------------


def _fail(*arguments):
    raise RuntimeError("LLVM ERROR")


@needs_numba
def test_auto_takes_jit_where_it_works(alone):
    assert get_engine("auto").name == "jit"


@needs_numba
@pytest.mark.parametrize(
    ("where", "name", "answer", "logged"),
    [
        (jit, "available", lambda: False, False),
        (check, "product_is_exact", lambda product, dtype: False, True),
        (check, "product_is_exact", _fail, True),
        (library, "products", _fail, True),
        (library, "address", _fail, True),
        (library, "driver", _fail, True),
    ],
    ids=["absent", "inexact", "check-raises", "products-raise", "kernel-raises", "driver-raises"],
)
def test_without_a_working_jit_auto_takes_the_next_engine_with_at_most_a_log_line(alone, caplog, where, name, answer, logged):
    alone.setattr(where, name, answer)
    assert get_engine("auto").name == "blas"
    assert ("engine 'jit' is not used" in caplog.text) == logged


@needs_numba
@pytest.mark.parametrize("answer", [lambda product, dtype: False, _fail], ids=["inexact", "raises"])
def test_a_product_that_fails_its_check_is_left_out_with_a_log_line(alone, caplog, answer):
    exact = check.product_is_exact
    alone.setattr(library, "products", lambda: ["dense_odd", "dense_float256"])
    alone.setattr(
        check, "product_is_exact", lambda product, dtype: (answer if product == "dense_odd" else exact)(product, dtype)
    )
    engine = get_engine("auto")
    assert engine.name == "jit"
    spec = ConvSpec((1, 4, 4, 8), (1, 4, 4, 8), np.ones((8, 8, 1, 1), np.int8), (1, 1), (0, 0, 0, 0), (1, 1), 1, (-128, 127))
    assert problems.choose_product(spec, engine.products) == "dense_thin256"  # of few rows
    assert caplog.text.count("engine 'jit' does without dense_odd on this processor") == 1


@needs_numba
def test_a_kernel_that_the_system_does_not_permit_is_refused_instead_of_ending_the_process(monkeypatch):
    monkeypatch.setattr(library, "amx_granted", lambda: False)
    with pytest.raises(CompileError, match="no AMX for int8"):
        library.address("dense_amx")


def test_jit_without_numba_is_refused_with_what_to_install(monkeypatch):
    monkeypatch.setattr(jit, "available", lambda: False)
    with pytest.raises(CompileError, match=r"engine 'jit' needs numba.*pip install 'hqc-compiler\[fast\]'"):
        get_engine("jit")


@needs_numba
@pytest.mark.parametrize(
    ("features", "granted", "expected"),
    [
        (set(), False, ["dense_float256"]),
        ({"avx2", "fma"}, False, ["dense_float256"]),
        ({"avxvnni"}, False, ["dense_dot256", "dense_float256"]),
        ({"avx512vnni", "avx512vl"}, False, ["dense_dot512", "dense_dot256", "dense_float256"]),
        ({"avx512vnni"}, True, ["dense_amx", "dense_dot512", "dense_float256"]),
    ],
)
def test_products_follow_the_features_of_the_processor(monkeypatch, features, granted, expected):
    monkeypatch.setattr(library, "features", lambda: frozenset(features))
    monkeypatch.setattr(library, "amx_granted", lambda: granted)
    assert library.products() == expected


@needs_numba
def test_kernels_compile_where_no_folder_can_be_written(monkeypatch):
    monkeypatch.setattr(library, "cache_folder", lambda: None)
    assert library._compile("drive").address


@needs_numba
def test_kernels_are_kept_on_disk_and_a_damaged_file_is_compiled_over(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    assert library._compile("clip").cache_hits == 0
    assert library._compile("clip").cache_hits == 1
    for path in tmp_path.glob("*.nbc"):
        path.write_bytes(b"not a pickle")
    assert library._compile("clip").address


@needs_numba
def test_versions_share_a_folder_and_sources_that_change_meanwhile_are_not_kept(monkeypatch, tmp_path):
    """A checkout during a run once stored kernels under the hash of other sources."""
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path)
    functions, sources = library._sources()
    for version in (sources, "another version", sources, "another version"):
        monkeypatch.setattr(library, "_sources", lambda version=version: (functions, version))
        library._compile("clip")
    assert library._compile("clip").cache_hits == 1
    assert len(list(tmp_path.glob("*.nbc"))) == 2
    monkeypatch.undo()
    monkeypatch.setattr(library, "cache_folder", lambda: tmp_path / "empty")
    for later in ("changed since this process imported them", ""):
        monkeypatch.setattr(library, "_hash_of_sources", lambda later=later: later)
        library._sources.cache_clear()
        assert library._compile("clip").cache_hits == 0
    library._sources.cache_clear()
    assert not (tmp_path / "empty").exists()


@needs_numba
def test_the_hash_of_sources_is_that_of_names_and_contents_wherever_they_lie(monkeypatch, tmp_path):
    shutil.copytree(library._FOLDER, tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(library, "_FOLDER", tmp_path / "copy")
    assert library._hash_of_sources() == library._IMPORTED
    for change in (
        lambda folder: (folder / "fields.py").write_text((folder / "fields.py").read_text() + "EXTRA = 0\n"),
        lambda folder: (folder / "vector.py").rename(folder / "vectors.py"),
    ):
        before = library._hash_of_sources()
        change(tmp_path / "copy")
        assert library._hash_of_sources() != before
    monkeypatch.setattr(library, "_FOLDER", tmp_path / "compiled files only")
    assert library._hash_of_sources() == ""


@needs_numba
def test_a_kernel_is_kept_for_one_python_numba_llvmlite_and_processor(monkeypatch):
    import llvmlite
    import numba

    known = {library.stamp("sources"), library.stamp("other sources")}
    for where, name, value in (
        (sys, "version", "3.99"),
        (numba, "__version__", "99"),
        (llvmlite, "__version__", "99"),
        (library, "_target", lambda: ("x86_64-unknown-linux-gnu", "generic", "")),
    ):
        with monkeypatch.context() as changed:
            changed.setattr(where, name, value)
            known.add(library.stamp("sources"))
    assert len(known) == 6


_ONE_PROCESS = """
import pathlib, sys
from hqc.backends.bpu.engines.jit import check, library
from hqc.ir import DType
library.cache_folder = lambda: pathlib.Path(sys.argv[1])
for product in sys.argv[2:]:
    library.products()  # asks the system for what they need
    assert check.product_is_exact(product, DType.INT8), product
    print(library._compiled[product].cache_hits)
"""


@needs_numba
@pytest.mark.skipif(len(PRODUCTS) < 2, reason="this processor has one dense product")
def test_products_that_separate_processes_kept_are_right_together(tmp_path):
    """Found in the field: objects of two processes had symbols of one name, so one product ran the other's loop."""

    def start(*products):
        command = [sys.executable, "-c", _ONE_PROCESS, str(tmp_path), *products]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def hits(process):
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        return out.split()

    first, last = PRODUCTS[0], PRODUCTS[-1]
    writers = [start(first), start(last), start(last)]  # two of them write the same files at once
    assert all(len(hits(writer)) == 1 for writer in writers)
    assert hits(start(first, last)) == ["1", "1"]
    assert hits(start(last, first)) == ["1", "1"]


@needs_numba
def test_two_compiled_functions_cannot_have_one_name():
    from hqc.backends.bpu.engines.jit.finish import inlined

    def factory(item):
        def kernel(x):
            return x + item

        return kernel

    assert inlined(factory(1), "test_one_name")(2) == 3
    with pytest.raises(ValueError, match=r"two compiled functions are called .*test_one_name"):
        inlined(factory(2), "test_one_name")


@needs_numba
def test_cache_folder_is_the_users_where_the_package_is_read_only(monkeypatch, tmp_path):
    library.cache_folder.cache_clear()
    monkeypatch.setattr(library, "_FOLDER", tmp_path / "file" / "package")
    (tmp_path / "file").touch()  # a folder below a file cannot be made, by root neither
    monkeypatch.setattr(library.Path, "home", lambda: tmp_path / "home")
    assert library.cache_folder() == tmp_path / "home" / ".cache" / "hqc"
    library.cache_folder.cache_clear()
    monkeypatch.setattr(library.Path, "home", lambda: tmp_path / "file")
    assert library.cache_folder() is None
    library.cache_folder.cache_clear()


@needs_numba
@pytest.mark.parametrize("shape", [(1, 5, 6), (2, 3, 5, 4)], ids=["tokens", "images"])
@pytest.mark.parametrize("constant", [0, 1])
@pytest.mark.parametrize("op", ["cat", "maximum", "int_add", "int_mul"])
def test_a_constant_operand_is_read_in_its_own_order_and_place(op, constant, shape):
    """A class token joined to the tokens of an image: the constant was left out of the native copy, and no test had one."""
    rng = np.random.default_rng(11)
    operands = [integers(rng, shape), integers(rng, shape)]
    operands[constant] = Parameter(operands[constant])
    if op.startswith("int_"):
        operands.append(Parameter(arithmetic.requant_params(np.float64(0.01)).array))
    graph, inputs = one_node(op, operands, {"axis": 1} if op == "cat" else {})
    expected = compile(graph, engine="reference").run(inputs)["y"]
    np.testing.assert_array_equal(compile(graph, engine="jit").run(inputs)["y"], expected)
