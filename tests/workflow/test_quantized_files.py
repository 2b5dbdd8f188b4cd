"""Quantized ONNX files, as onnxruntime's tools write them, the whole way: their scales, the simulator, the file for hb_mapper."""

from __future__ import annotations

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
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import hqc
from hqc.cli import main
from hqc.errors import CalibrationError, HqcError
from hqc.march import set_march
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx
from hqc.workflow.loaded import LoadedModel

X = images(1, 3, 8, 8, seed=9)


class Reader(CalibrationDataReader):
    def __init__(self) -> None:
        self.batches = iter([{"input.1": images(1, 3, 8, 8, seed=seed)} for seed in range(6)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


@pytest.fixture(scope="module", params=["QDQ", "QOperator"])
def quantized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """The classifier quantized by onnxruntime: symmetric int8, and asymmetric uint8."""
    folder, found = tmp_path_factory.mktemp(request.param), {}
    onnx.save(classifier("1"), folder / "float.onnx")
    for symmetric in (True, False):
        found[symmetric] = folder / f"{symmetric}.onnx"
        quantize_static(
            str(folder / "float.onnx"), str(found[symmetric]), Reader(), quant_format=QuantFormat[request.param], per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8, weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric},
        )  # fmt: skip
    return found


def reference(path: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(str(path), options).run(None, {"input.1": X})[0]


@pytest.mark.parametrize("march", ["bernoulli2", "bayes"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_quantized_file_is_simulated_and_written_with_its_own_scales(
    quantized: dict[bool, Path], symmetric: bool, march: str, tmp_path: Path
) -> None:
    compiled = hqc.compile(quantized[symmetric], march=march)
    wanted, found = reference(quantized[symmetric]), compiled.simulate(X)
    assert np.abs(found - wanted).max() <= (0.03 if symmetric else 0.06) * np.abs(wanted).max()
    assert compiled.placement.totals.cpu_nodes == 0 and "/stem/Conv" in compiled.explain()
    assert any("zero point" in str(remark) for remark in compiled.remarks) != symmetric
    compiled.export(tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx")
    assert [item.name for item in written.graph.output] == ["scores:0"]
    assert "HzQuantize" in {node.op_type for node in written.graph.node}
    np.testing.assert_array_equal(hqc.load(compiled.save(tmp_path / "out.hqc")).simulate(X), found)


def test_symmetric_scales_are_those_of_the_file(quantized: dict[bool, Path]) -> None:
    proto = onnx.load(quantized[True])
    arrays = {item.name: onnx.numpy_helper.to_array(item) for item in proto.graph.initializer}
    scales = {np.float32(array) for name, array in arrays.items() if name.endswith("_scale") and array.size == 1}
    per_channel = [array for name, array in arrays.items() if name.endswith("_scale") and array.size > 1]
    graph = hqc.compile(quantized[True], march="bayes").graph
    activations = [value.quant for node in graph.nodes for value in node.results if value.quant is not None]
    assert {np.float32(quant.scale) for quant in activations if quant.dtype is hqc.ir.DType.INT8} <= scales
    weights = [node.operand("weight").quant for node in graph.nodes if node.op.name in ("conv2d", "linear")]
    assert all(any(np.array_equal(quant.scale, array) for array in per_channel) for quant in weights if quant.per_channel)


def test_explain_shows_the_float_model_behind_it(quantized: dict[bool, Path]) -> None:
    rows = hqc.explain(quantized[True], march="bayes").placement.rows
    assert {row.op for row in rows} <= {"conv2d", "linear", "adaptive_avg_pool2d", "reshape"}


def test_calibrated_or_trained_the_scales_of_the_file_stay(quantized: dict[bool, Path]) -> None:
    own, calibrated = (hqc.compile(quantized[True], march="bayes", **more) for more in ({}, {"calibration_data": [X * 9]}))
    scale = {node.name: node.result.quant for node in own.graph.nodes if node.op.name == "quantize"}
    again = {node.name: node.result.quant for node in calibrated.graph.nodes if node.op.name == "quantize"}
    assert [float(q.scale) for q in scale.values()] == [float(q.scale) for q in again.values()]
    assert np.abs(calibrated.simulate(X) - own.simulate(X)).max() <= 0.03 * np.abs(own.simulate(X)).max()
    set_march("bayes")
    prepared = prepare_qat_fx(quantized[True], {"": get_default_qat_qconfig()}, hybrid=True)
    prepared(torch.from_numpy(X)).sum().backward()


def test_a_float_file_needs_calibration_data() -> None:
    with pytest.raises(CalibrationError, match="needs calibration_data, at least one batch of real inputs"):
        hqc.compile(classifier(), march="bayes")


_SCALES = {name: np.array(value, np.float32) for name, value in (("s", 0.02), ("t", 0.05), ("ws", 0.01))}
_ZEROS = {"z": np.array(0, np.int8), "wz": np.array(0, np.int8)}


def pairs(body: str, **weights: object) -> onnx.ModelProto:
    """`body` between a quantized input `d` (float) and the output `y`."""
    text = f"(float[1,3,8,8] x) => (float[1,8,8,8] y) {{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) {body} }}"
    weight = np.random.default_rng(0).integers(-127, 128, (8, 3, 3, 3)).astype(np.int8)
    return model(text, wq=weight, **_SCALES, **_ZEROS, **weights)


CONV = "w = DequantizeLinear(wq, ws, wz)  c = Conv<pads = [1,1,1,1]>(d, w)"


def test_what_the_file_leaves_in_float_runs_on_the_cpu() -> None:
    """A convolution whose result is not quantized, read by an operation that would need its scale."""
    proto = pairs(
        f"{CONV}  e = Sigmoid(c)  f = Mul(e, c)  g = QuantizeLinear(f, u, z)  y = DequantizeLinear(g, u, z)",
        u=np.array(0.1, np.float32),
    )
    compiled = hqc.compile(proto, march="bayes")
    explained = hqc.explain(proto, march="bayes")
    assert {row.name: row.device for row in explained.placement.rows} == {
        row.name: row.device for row in compiled.placement.rows
    }
    assert any("which brings no scale for it" in str(remark) for remark in explained.remarks)
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    wanted = session.run(None, {"x": X})[0]
    assert np.abs(compiled.simulate(X) - wanted).max() <= 0.15  # half a step of the output, and what the input loses
    assert any("brings no scale for it" in str(remark) for remark in compiled.remarks)
    with pytest.raises(HqcError, match="the file brings no scale for it"):
        hqc.compile(proto, march="bayes", hybrid=False)


def test_a_grid_that_starts_at_zero_is_a_relu() -> None:
    """onnxruntime's tools drop the ReLU in front of such a pair: the clipping does its work."""
    proto = pairs(f"{CONV}  g = QuantizeLinear(c, t, low)  y = DequantizeLinear(g, t, low)", low=np.array(-128, np.int8))
    assert hqc.compile(proto, march="bayes").simulate(X).min() >= 0


def test_layers_whose_inputs_alone_are_quantized_stay_on_the_bpu() -> None:
    """As NNCF and TensorRT's tools write files: the activation between two layers is in float."""
    proto = pairs(
        f"""{CONV}  e = Sigmoid(c)  f = Mul(e, c)  g = QuantizeLinear(f, t, z)  h = DequantizeLinear(g, t, z)
        w2 = DequantizeLinear(wq2, ws, wz)  y = Conv(h, w2)""",
        wq2=np.random.default_rng(1).integers(-127, 128, (8, 8, 1, 1)).astype(np.int8),
    )
    compiled = hqc.compile(proto, march="bayes")
    assert {row.op: row.device for row in compiled.placement.rows} == {"conv2d": "bpu", "silu": "cpu"}
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": X})[0]
    assert np.abs(compiled.simulate(X) - wanted).max() <= 0.01 * np.abs(wanted).max()


@pytest.mark.parametrize("zero", [0, 100])
def test_an_activation_quantized_per_channel_keeps_the_range_of_its_widest_channel(zero: int) -> None:
    """As NNCF does in front of depthwise layers."""
    proto = pairs(
        f"""{CONV}  g = QuantizeLinear<axis = 1>(c, ps, pz)  h = DequantizeLinear<axis = 1>(g, ps, pz)
        w2 = DequantizeLinear(wq2, ws, wz)  y = Conv(h, w2)""",
        wq2=np.random.default_rng(1).integers(-127, 128, (8, 8, 1, 1)).astype(np.int8),
        ps=np.linspace(0.01, 0.06, 8).astype(np.float32),
        pz=np.full(8, zero, np.uint8),
    )
    compiled = hqc.compile(proto, march="bayes")
    assert any("the range of the widest channel is kept" in str(remark) for remark in compiled.remarks)
    quants = [value.quant for node in compiled.graph.nodes for value in node.results if value.quant is not None]
    wanted = 0.06 * max(zero, 255 - zero) / 127.5
    assert any(float(quant.scale) == pytest.approx(wanted) for quant in quants if not quant.per_channel)


def test_scales_along_another_axis_are_found_again_and_said() -> None:
    proto = pairs(
        """w = DequantizeLinear<axis = 1>(wq, wps, wpz)  c = Conv<pads = [1,1,1,1]>(d, w)
        g = QuantizeLinear(c, t, z)  y = DequantizeLinear(g, t, z)""",
        wps=np.array([0.01, 0.02, 0.03], np.float32),
        wpz=np.zeros(3, np.int8),
    )
    assert any(
        "gets new scales: its scales lie along axis 1" in str(each) for each in hqc.compile(proto, march="bayes").remarks
    )
    powers = hqc.compile(pairs(f"{CONV}  g = QuantizeLinear(c, t, z)  y = DequantizeLinear(g, t, z)"), march="bernoulli")
    assert any("bernoulli needs powers of two" in str(remark) for remark in powers.remarks)


_WITHOUT_TORCH = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np
import hqc
compiled = hqc.compile(sys.argv[1], march="bayes")
np.save(sys.argv[2], compiled.simulate(np.load(sys.argv[3])))
print(compiled.explain())
"""


def test_a_quantized_file_is_simulated_on_a_machine_without_torch(quantized: dict[bool, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, "-c", _WITHOUT_TORCH, str(quantized[True]), str(tmp_path / "y.npy"), str(tmp_path / "x.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    here = hqc.compile(quantized[True], march="bayes")
    assert isinstance(here, LoadedModel)
    assert np.abs(np.load(tmp_path / "y.npy") - here.simulate(X)).max() <= 1e-5


def test_the_command_line_takes_the_scales_of_a_quantized_file(quantized: dict[bool, Path], tmp_path: Path) -> None:
    """No random calibration data: the file written is the one that the library writes."""
    result = CliRunner().invoke(
        main, ["compile", str(quantized[True]), "--march", "x5", "-o", str(tmp_path / "cli.onnx"), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert "its own scales are taken" in result.stderr and "random" not in result.stderr
    assert '"calibration": "the file\'s own scales"' in result.stdout
    hqc.compile(quantized[True], march="bayes-e").export(tmp_path / "library.onnx")
    assert (tmp_path / "cli.onnx").read_bytes() == (tmp_path / "library.onnx").read_bytes()
    tuned = CliRunner().invoke(main, ["compile", str(quantized[True]), "--march", "x5", "--effort", "good"])
    assert tuned.exit_code == 1 and "compiled without effort" in tuned.stderr


def test_commands_take_the_scales_that_a_file_brings(quantized: dict[bool, Path], tmp_path: Path) -> None:
    """What `hqc compile` writes is what the others run, evaluate, report and draw: no random inputs, and no float model."""
    path, where = str(quantized[True]), ["--march", "bayes"]
    np.savez(tmp_path / "data.npz", **{"input.1": X, "labels": np.zeros(1, np.int64)})
    np.save(tmp_path / "x.npy", X)

    def done(*arguments: str) -> str:
        result = CliRunner().invoke(main, list(arguments))
        assert result.exit_code == 0, result.output
        assert "random" not in result.stderr
        return result.stdout

    done("run", path, *where, "--data", str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npz"))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["scores:0"], hqc.compile(path, march="bayes").simulate(X))
    assert '"integer"' in done("evaluate", path, *where, "--data", str(tmp_path / "data.npz"), "--json")
    done("report", path, *where, "-o", str(tmp_path / "report.html"), "--no-measure")
    done("draw", path, *where, "-o", str(tmp_path / "net.svg"))
    refused = CliRunner().invoke(main, ["evaluate", path, *where])
    assert refused.exit_code == 1 and "a quantized file, is evaluated on --data" in refused.stderr
    refused = CliRunner().invoke(main, ["run", path, *where, "--min-sqnr", "20"])
    assert refused.exit_code == 1 and "a quantized file has no float model" in refused.stderr
