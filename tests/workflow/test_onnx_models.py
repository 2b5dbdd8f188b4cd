"""An ONNX file at every entry point: lowered, explained, calibrated, trained, compiled, written again; under its own names."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from onnx_models import classifier, images, model

import hqc
from hqc.cli import main
from hqc.errors import HqcError, InputError, OverrideError
from hqc.march import set_march
from hqc.quantization import (
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
)
from hqc.workflow.onnx_module import module_of

DATA = [images(4, 3, 8, 8, seed=seed) for seed in range(3)]


def onnxruntime_of(proto: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((item.name for item in session.get_inputs()), arrays, strict=True)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    onnx.save(classifier(), path)
    return path


def test_lower_takes_a_path_or_a_model_and_keeps_the_files_names(file: Path) -> None:
    for given in (file, str(file), onnx.load(file)):
        graph = hqc.lower(given)
        assert [value.name for value in graph.inputs] == ["input.1"] and graph.output_names == ["scores:0"]
        first = next(iter(graph.nodes))
        assert first.name == "/stem/Conv_output_0" and first.loc.label == "/stem/Conv"
        text = str(graph)
        assert str(hqc.ir.parse(text, parameters={name: value.array for name, value in graph.parameters.items()})) == text
    assert hqc.lower(file, torch.zeros(2, 3, 8, 8)).outputs[0].shape == (2, 5)
    assert hqc.lower(file, {"input.1": np.zeros((2, 3, 8, 8))}).outputs[0].shape == (2, 5)
    with pytest.raises(InputError, match="an ONNX file has no concrete_args"):
        hqc.lower(file, concrete_args={"a": 1})


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
def test_the_file_is_explained_as_it_is_compiled(file: Path, march: str) -> None:
    explained, compiled = hqc.explain(file, march=march), hqc.compile(file, march=march, calibration_data=DATA)
    rows = [(row.labels, row.device) for row in compiled.placement.rows]
    assert rows == [(row.labels, row.device) for row in explained.placement.rows]
    assert rows[0] == (("/stem/Conv", "/stem/Relu"), "bpu")
    calibrated = hqc.explain(file, march=march, form="calibration").placement
    assert [row.labels for row in calibrated.rows] == [labels for labels, _ in rows]
    assert explained.device_of("/stem/Conv") == explained.device_of("/stem/Relu_output_0") == "bpu"
    assert "/stem/Conv " in str(explained)


def test_the_simulator_computes_what_the_file_says_at_any_batch(file: Path) -> None:
    compiled = hqc.compile(file, march="bayes", calibration_data=DATA)
    for batch in (DATA[0], DATA[0][:1]):
        (wanted,) = onnxruntime_of(onnx.load(file), batch)
        found = compiled.simulate(batch)
        assert found.shape == wanted.shape and np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    np.testing.assert_array_equal(compiled.simulate({"input.1": DATA[0]}), compiled.simulate(DATA[0]))


def test_calibration_data_by_the_files_input_names(file: Path) -> None:
    by_name = hqc.compile(file, march="bayes", calibration_data=[{"input.1": batch} for batch in DATA])
    np.testing.assert_array_equal(
        by_name.simulate(DATA[0]), hqc.compile(file, march="bayes", calibration_data=DATA).simulate(DATA[0])
    )
    with pytest.raises(HqcError, match=r"the model takes input\.1"):
        hqc.compile(file, march="bayes", calibration_data=[{"input_1": DATA[0]}])


@pytest.mark.parametrize("flavour", ["horizon", "runnable", "qdq", "integer"])
def test_the_written_file_has_the_names_of_the_file_that_came_in(file: Path, tmp_path: Path, flavour: str) -> None:
    compiled = hqc.compile(file, march="bayes", calibration_data=DATA)
    compiled.export(tmp_path / "out.onnx", flavour=flavour)
    written = onnx.load(tmp_path / "out.onnx")
    assert [item.name for item in written.graph.input] == ["input.1"]
    assert [item.name for item in written.graph.output] == ["scores:0"]


def test_operations_are_placed_by_node_or_tensor_name(file: Path) -> None:
    for name in ("/stem/Conv", "/stem/Conv_output_0", "re:/stem/C.*"):
        for explained in (
            hqc.explain(file, march="bayes", hybrid_dict={"node_name": [name]}),
            hqc.compile(file, march="bayes", calibration_data=DATA, hybrid_dict={"node_name": [name]}),
        ):
            assert explained.placement.device_of("/stem/Conv") == "cpu"
            assert explained.placement.device_of("Gemm_7") == "bpu"
    with pytest.raises(OverrideError, match=r"did you mean .*/stem/Conv"):
        hqc.explain(file, march="bayes", hybrid_dict={"node_name": ["/stem/Cov"]})
    assert hqc.explain(file, march="bayes", hybrid_dict={"module_type": [torch.nn.Conv2d]}).device_of("/stem/Conv") == "cpu"


def test_a_file_trains_and_converts(file: Path) -> None:
    set_march("bayes")
    prepared = prepare_qat_fx(str(file), {"": get_default_qat_qconfig()}, hybrid=True)
    prepared.train()
    optimizer = torch.optim.SGD(prepared.parameters(), lr=0.01)
    x, losses = torch.from_numpy(DATA[0]), []
    for _ in range(8):
        optimizer.zero_grad()
        loss = prepared(x).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is not None for parameter in prepared.parameters())
    prepared.eval()
    converted = convert_fx(copy.deepcopy(prepared))
    assert torch.allclose(converted(x), prepared(x), atol=0.05 * float(prepared(x).detach().abs().max()))


def test_calibration_form_takes_a_loaded_model() -> None:
    set_march("bernoulli2")
    prepared = prepare_calibration_fx(
        classifier(), {"": get_default_calib_qconfig()}, hybrid=True, example_inputs=torch.zeros(2, 3, 8, 8)
    )
    assert prepared(torch.from_numpy(DATA[0])).shape == (4, 5)
    with pytest.raises(HqcError, match=r"/stem/Conv, /stem/Relu .* has no qconfig"):
        prepare_calibration_fx(classifier(), hybrid=True)


# --- forms that torch's layers do not have -----------------------------------------------------------------------------------


def test_padding_that_differs_at_the_ends_is_quantized_like_any_convolution(tmp_path: Path) -> None:
    """As TensorFlow's converters write `SAME` with a stride."""
    proto = model(
        "(float[N,3,8,8] x) => (float[N,8,4,4] y) { c = Conv<strides = [2,2], pads = [0,0,1,1]>(x, w, b) y = Relu(c) }",
        w=(8, 3, 3, 3),
        b=(8,),
    )
    compiled = hqc.compile(proto, march="bayes", calibration_data=DATA)
    assert [node.op.name for node in compiled.graph.nodes if node.op.name.startswith("conv")] == ["conv2d"]
    (wanted,) = onnxruntime_of(proto, DATA[0])
    for found in (compiled.simulate(DATA[0]), compiled.fake_quant(DATA[0])):
        assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert any("weight_fake_quant" in name for name, _ in compiled.prepared.named_modules())
    compiled.export(tmp_path / "net.onnx")


def test_reshapes_follow_the_batch_wherever_it_stands() -> None:
    proto = model(
        """(float[2,6,4] x) => (float[2,6,4] y) {
        a = MatMul(x, w)  s = Constant<value_ints = [12, 4]>()  b = Reshape(a, s)  r = Relu(b)
        t = Constant<value_ints = [2, 2, 3, 4]>()  c = Reshape(r, t)  d = Transpose<perm = [0,2,1,3]>(c)
        u = Constant<value_ints = [2, 6, 4]>()  y = Reshape(d, u) }""",
        w=(4, 4),
    )
    module, _ = module_of(proto)
    x = torch.from_numpy(images(5, 6, 4))
    two = torch.cat([module(x[:2]), module(x[2:4])])
    assert torch.equal(module(x)[:4], two)


# --- what the IR has no operation for -----------------------------------------------------------------------------------------


def test_a_kept_node_runs_in_onnxruntime_and_is_written_back(tmp_path: Path) -> None:
    proto = model(
        "(float[N,3,8,8] x) => (float[N,8,8,8] y) { c = Conv<pads = [1,1,1,1]>(x, w) l = LRN<size = 3>(c) y = Relu(l) }",
        w=(8, 3, 3, 3),
    )
    compiled = hqc.compile(proto, march="bayes", calibration_data=DATA)
    (wanted,) = onnxruntime_of(proto, DATA[0])
    assert np.abs(compiled.simulate(DATA[0]) - wanted).max() < 0.05 * np.abs(wanted).max()
    assert compiled.placement.device_of("LRN_1") == "cpu"
    compiled.export(tmp_path / "net.onnx")
    assert "LRN" in [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]


@pytest.mark.parametrize(
    ("text", "weights", "reason"),
    [
        ("y = com.microsoft.Inverse(c)", {}, "of the domain com.microsoft, which hb_mapper does not know"),
        (
            'h = Hardmax(c)  y = ScatterElements<axis = 1, reduction = "add">(h, at, more)',
            {"at": np.zeros((1, 2, 8, 8), np.int64), "more": np.ones((1, 2, 8, 8), np.float32)},
            "has no equal in opset 11",
        ),
    ],
)  # fmt: skip
def test_what_no_file_of_opset_11_can_hold_says_so_everywhere(tmp_path: Path, text: str, weights, reason: str) -> None:  # type: ignore[no-untyped-def]
    proto = model(
        f"(float[1,3,8,8] x) => (float[1,8,8,8] y) {{ c = Conv<pads = [1,1,1,1]>(x, w) {text} }}", w=(8, 3, 3, 3), **weights
    )
    if "microsoft" in text:  # ONNX's own inference knows no foreign operators: the file states the type
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 8, 8, 8]))
    assert reason in str(hqc.explain(proto, march="bayes"))
    compiled = hqc.compile(proto, march="bayes", calibration_data=[images(1, 3, 8, 8)])
    assert compiled.simulate(images(1, 3, 8, 8)).shape == (1, 8, 8, 8)
    with pytest.raises(HqcError, match=reason):
        compiled.export(tmp_path / "net.onnx")


def test_a_loop_reads_what_is_outside_it() -> None:
    proto = model("""(float[1,4] x, int64 n) => (float[1,4] y) {
        s = Relu(x)  keep = Constant<value = bool {1}>()
        y = Loop(n, keep, s) <body = step (int64 i, bool go, float[1,4] state) => (bool more, float[1,4] next)
            { more = Identity(go) next = Add(state, x) }> }""")
    module, _ = module_of(proto)
    x = torch.from_numpy(images(1, 4))
    assert torch.allclose(module(x, torch.tensor(3)), torch.relu(x) + 3 * x)


# --- without torch ------------------------------------------------------------------------------------------------------------

_WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Blocked())
import hqc
from hqc.analysis.advice import advise
file = sys.argv[1]
assert [value.name for value in hqc.lower(file).inputs] == ["input.1"]
explained = hqc.explain(file, march="bernoulli2", hybrid_dict={"node_name": ["/stem/Conv"]})
assert explained.device_of("/stem/Conv") == "cpu" and advise(explained).steps
from hqc.cli import main
main(["explain", file, "--march", "bayes", "--input", "input.1=2,3,8,8"], standalone_mode=False)
main(["explain", file], standalone_mode=False)
assert not any(name.split(".")[0] == "torch" for name in sys.modules)
"""


def test_a_file_is_explained_on_a_machine_without_torch(file: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_TORCH, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "on the BPU" in done.stdout and "The same model on every march" in done.stdout


# --- the command line ---------------------------------------------------------------------------------------------------------


def test_commands_take_a_file(file: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(main, ["compile", str(file), "--march", "bayes", "--samples", "2", "-o", str(tmp_path / "out.onnx")])
    assert done.exit_code == 0 and (tmp_path / "out.yaml").exists(), done.output
    np.save(tmp_path / "data.npy", images(4, 3, 8, 8))
    done = run(main, ["run", str(file), "--march", "bayes", "--calibration", str(tmp_path / "data.npy"), "--input", "2,3,8,8"])
    assert done.exit_code == 0 and "scores:0" in done.output, done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "y=1,3,8,8"], r"has no input y; its inputs: input\.1"),
        (["--input", "input.1=1,4,8,8"], r"declared as \[N, 3, 8, 8\], which \[1, 4, 8, 8\] does not fit"),
        (["--input", "1,3,8,8", "--input", "1,3,8,8"], r"has 1 input\(s\) \(input\.1\), got 2"),
        (["--input", "input.1=1,three"], "takes sizes like 1,3,224,224"),
        (["--cpu", "node:/stem/Cov"], "names no"),
    ],
)
def test_commands_refuse_in_one_sentence(file: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["explain", str(file), "--march", "bayes", *arguments])
    assert done.exit_code == 1 and re.search(message, done.output) and "Traceback" not in done.output, done.output


def test_commands_place_by_the_files_names(file: Path) -> None:
    done = CliRunner().invoke(main, ["explain", str(file), "--march", "bayes", "--cpu", "node:/stem/Conv"])
    assert done.exit_code == 0 and "1 on the CPU" in done.output, done.output


def test_a_grid_sample_of_a_newer_opset_runs_on_the_bpu_and_is_written_for_opset_11(tmp_path: Path) -> None:
    proto = model(
        "(float[1,3,8,8] x, float[1,5,6,2] g) => (float[1,8,5,6] y) "
        '{ c = Conv<pads = [1,1,1,1]>(x, w)  y = GridSample<padding_mode = "border", align_corners = 1>(c, g) }',
        w=(8, 3, 3, 3),
        opset=16,
    )
    x, grid = images(1, 3, 8, 8), np.random.default_rng(0).uniform(-1.2, 1.2, (1, 5, 6, 2)).astype(np.float32)
    (wanted,) = onnxruntime_of(proto, x, grid)
    compiled = hqc.compile(proto, march="bayes", calibration_data=[(x, grid)])
    assert compiled.placement.device_of("y") == "bpu"
    assert np.abs(compiled.simulate(x, grid) - wanted).max() < 0.05 * np.abs(wanted).max()
    compiled.export(tmp_path / "net.onnx")
    nodes = [(node.domain, node.op_type) for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert ("horizon", "GridSample") in nodes
    on_cpu = hqc.compile(proto, march="bernoulli2", calibration_data=[(x, grid)])
    on_cpu.export(tmp_path / "cpu.onnx")
    assert not any(node.op_type == "GridSample" for node in onnx.load(tmp_path / "cpu.onnx").graph.node)
