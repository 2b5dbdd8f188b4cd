"""Files: atomic, audited, deterministic, verified; and the net.yaml beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from hqc.backends.onnx import audit, emit, export
from hqc.backends.onnx.verify import compare_output
from hqc.errors import ExportError, InputError
from hqc.ir.parser import parse
from hqc.march import get_spec

NETWORK = """
graph @net march=MARCH stage=scaled {
  input %x: f32[BATCH,3,8,8]
  param @w: f32[4,3,3,3] q(i8, axis=0, [0.01,0.02,0.03,0.04]) = #random(1, [4,3,3,3])
  param @w2: f32[4,4,1,1] = #random(2, [4,4,1,1])
  %quant: f32[BATCH,3,8,8] q(i8, 0.02) = quantize(%x) {stub=true} cpu
  %conv: f32[BATCH,4,8,8] q(i8, 0.05) = conv2d(%quant, @w) {padding=[1,1,1,1]} bpu.0
  %deq: f32[BATCH,4,8,8] = dequantize(%conv) cpu
  %selu: f32[BATCH,4,8,8] = selu(%deq) cpu
  %conv3: f32[BATCH,4,8,8] = conv2d(%selu, @w2) cpu
  output %conv3 as "y"
  output %deq as "features"
}
"""


def network(march: str = "bayes", batch: int = 1) -> str:
    return NETWORK.replace("MARCH", march).replace("BATCH", str(batch))


def test_constants_beyond_what_a_file_holds_are_refused_before_anything_is_serialized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hqc.backends.onnx.builder.FILE_LIMIT", 500)
    with pytest.raises(
        ExportError, match=r"constants of net take 5\d\d bytes \(the largest, w, 432\), .* at most 500, .*split the model"
    ):
        export(parse(network()), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_export_writes_the_file_and_its_configuration_and_nothing_else(tmp_path: Path) -> None:
    report = export(parse(network()), tmp_path / "net.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.yaml"]
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model)
    assert (model.opset_import[0].version, model.ir_version, len(model.functions)) == (11, 6, 0)
    assert report.executed
    assert report.findings == ()
    assert report.run_on_cpu == ("selu", "conv3")
    assert report.outputs == ("y", "features")


def test_exports_of_equal_graphs_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export(parse(network()), tmp_path / name / "net.onnx")
    for file in ("net.onnx", "net.yaml"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_hb_mapper_configuration(tmp_path: Path) -> None:
    export(parse(network("bernoulli2")), tmp_path / "net.onnx")
    text = (tmp_path / "net.yaml").read_text()
    for line in (
        '  onnx_model: "net.onnx"',
        '  march: "bernoulli2"',
        '  input_name: "x"',
        '  input_shape: "1x3x8x8"',
        '  calibration_type: "load"',
        '  run_on_cpu: "selu;conv3"',
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("flavour", ["runnable", "qdq"])
def test_other_flavours_write_no_configuration(tmp_path: Path, flavour: str) -> None:
    report = export(parse(network()), tmp_path / "net.onnx", flavour=flavour)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    assert report.configuration is None


# --- verification --------------------------------------------------------------------------------------------------------


def test_the_reference_is_called_with_the_samples_and_compared_per_output(tmp_path: Path) -> None:
    graph = parse(network())
    sample = {"x": np.full((1, 3, 8, 8), 0.5, np.float32)}
    seen = []

    def reference(arrays):  # type: ignore[no-untyped-def]
        from hqc.backends.onnx.verify import run_model

        seen.append(arrays)
        return run_model(emit(graph, flavour="qdq"), arrays)

    report = export(graph, tmp_path / "net.onnx", reference=reference, sample_inputs=sample)
    assert len(seen) == 1
    np.testing.assert_array_equal(seen[0]["x"], sample["x"])
    assert [(c.name, c.elements, c.differing) for c in report.comparisons] == [("y", 256, 0), ("features", 256, 0)]
    assert report.comparisons[1].step == pytest.approx(0.05)


def test_a_file_that_computes_something_else_is_refused_and_not_left_behind(tmp_path: Path) -> None:
    graph = parse(network())
    (tmp_path / "net.yaml").write_text("mine")

    def reference(arrays):  # type: ignore[no-untyped-def]
        return {"y": np.zeros((1, 4, 8, 8), np.float32), "features": np.full((1, 4, 8, 8), 9.0, np.float32)}

    with pytest.raises(ExportError, match=r"does not compute what the model computes.*features: \d+ of 256 outputs differ"):
        export(graph, tmp_path / "net.onnx", reference=reference)
    assert [p.name for p in tmp_path.iterdir()] == ["net.yaml"]
    assert (tmp_path / "net.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("off", "share", "fails"), [(1.5, 1.0, False), (3.0, 0.005, False), (3.0, 0.02, True), (np.nan, 0.02, True)]
)
def test_what_counts_as_another_computation(off: float, share: float, fails: bool) -> None:
    expected = np.zeros(1000, np.float32)
    result = expected.copy()
    result[: int(share * 1000)] = off * 0.25
    comparison = compare_output("y", result, expected, 0.25)
    assert comparison.fails == fails
    assert comparison.over_one == comparison.differing == comparison.unequal == share * 1000


def test_outputs_off_the_grid_are_measured_in_parts_of_their_largest_value() -> None:
    expected = np.array([255.0, np.inf, 0.0], np.float32)
    comparison = compare_output("y", np.array([255.0, np.inf, 3.0], np.float32), expected)
    assert (comparison.step, comparison.max_steps, comparison.unequal) == (2.0, 1.5, 1)


def test_samples_of_the_wrong_shape_or_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"input x has shape \[2\], expected \[1, 3, 8, 8\]"):
        export(parse(network()), tmp_path / "n.onnx", sample_inputs={"x": np.zeros(2, np.float32)})
    with pytest.raises(InputError, match="no array for input x; it has y"):
        export(parse(network()), tmp_path / "n.onnx", sample_inputs={"y": np.zeros(2, np.float32)})
    assert list(tmp_path.iterdir()) == []


def test_a_reference_without_an_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="computes no output features; it has y"):
        export(parse(network()), tmp_path / "n.onnx", reference=lambda a: {"y": np.zeros((1, 4, 8, 8), np.float32)})


# --- refusals ------------------------------------------------------------------------------------------------------------


def test_unwritable_paths_are_export_errors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"cannot write .*missing.*No such file"):
        export(parse(network()), tmp_path / "missing" / "net.onnx")
    with pytest.raises(ExportError, match="it is a folder"):
        export(parse(network()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_opsets_and_unknown_flavours_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"opset_version must be 11.*got 13"):
        export(parse(network()), tmp_path / "net.onnx", opset_version=13)
    with pytest.raises(InputError, match="unknown ONNX flavour 'horizn'; known: horizon, runnable, qdq, integer"):
        emit(parse(network()), flavour="horizn")


def test_a_flavour_needs_its_stage() -> None:
    with pytest.raises(
        ExportError, match="flavour integer is emitted from a graph at stage integer, this one is at stage scaled"
    ):
        emit(parse(network()), flavour="integer")
    with pytest.raises(ExportError, match="this one is at stage lowered"):
        emit(parse("input %x: f32[1]\n%y = relu(%x)\noutput %y"), flavour="horizon")


# --- audit ---------------------------------------------------------------------------------------------------------------


def rules(model: onnx.ModelProto, march: str = "bayes") -> list[str]:
    return [finding.rule for finding in audit(model, get_spec(march))]


def test_a_good_file_has_no_findings() -> None:
    assert rules(emit(parse(network("bernoulli2"))), "bernoulli2") == []


def test_each_rule_has_its_own_finding() -> None:
    model = emit(parse(network()))
    model.opset_import[0].version = 13
    assert rules(model) == ["opset"]
    model = emit(parse(network()))
    model.ir_version = 8
    assert rules(model) == ["ir-version"]
    model = emit(parse(network()))
    model.graph.node[0].domain = "com.microsoft"
    assert rules(model) == ["domain"]
    model = emit(parse(network()))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert rules(model)[0] == "static-shapes"
    model = emit(parse(network()))
    del model.graph.value_info[:]
    assert set(rules(model)) == {"value-info"}


def test_a_linear_layer_on_the_bpu_counts_as_convolution_and_a_cpu_convolution_does_not() -> None:
    text = """
        graph @g march=bayes stage=scaled {
        input %x: f32[1,4,3]
        param @w: f32[2,3] W = #random(1, [2,3])
        %q: f32[1,4,3] q(i8, 0.5) = quantize(%x) cpu
        %y: f32[1,4,2] Q = linear(%q, @w) DEVICE
        %d = dequantize(%y) cpu
        output %d
        }"""
    on_bpu = text.replace("W", "q(i8, axis=0, [0.5, 0.25])").replace("Q =", "q(i8, 0.5) =").replace("DEVICE", "bpu.0")
    assert rules(emit(parse(on_bpu))) == []
    assert rules(emit(parse(text.replace("W", "").replace("Q =", "=").replace("DEVICE", "cpu")))) == ["bpu-conv"]


def test_x3_takes_batch_1_and_four_dimensions() -> None:
    assert rules(emit(parse(network("bernoulli2", batch=2))), "bernoulli2") == ["input-batch"]
    assert rules(emit(parse(network("bayes", batch=2)))) == []
    flat = parse("graph @g march=bernoulli2 stage=scaled {\ninput %x: f32[1,3]\n%y = sigmoid(%x) cpu\noutput %y\n}")
    assert rules(emit(flat), "bernoulli2") == ["input-rank", "bpu-conv"]


def test_a_model_without_bpu_convolution_or_with_many_outputs_is_warned_about(tmp_path: Path) -> None:
    lines = ["graph @g march=bayes stage=scaled {", "input %x: f32[1,3,4,4]"]
    lines += [f"%y{i} = sigmoid(%x) cpu" for i in range(33)] + [f"output %y{i}" for i in range(33)] + ["}"]
    report = export(parse("\n".join(lines)), tmp_path / "net.onnx")
    assert [(f.rule, f.severity) for f in report.findings] == [("output-count", "warning"), ("bpu-conv", "warning")]
    assert "33 outputs" in str(report)
    assert export(parse("\n".join(lines)), tmp_path / "net.onnx", flavour="qdq").findings == ()


def test_a_yaml_that_a_person_changed_is_kept_with_a_sentence_unless_it_is_to_be_overwritten(tmp_path: Path) -> None:
    graph, yaml = parse(network()), tmp_path / "net.yaml"
    written = [export(graph, tmp_path / "net.onnx", verify=False) for _ in range(2)]
    assert not any("yaml" in str(finding) for report in written for finding in report.findings)
    ours = yaml.read_text()
    yaml.write_text(ours.replace("latency", "bandwidth"))
    (kept,) = [f for f in export(graph, tmp_path / "net.onnx", verify=False).findings if f.rule == "configuration-kept"]
    assert "net.yaml is not as hqc wrote it and is kept" in kept.message and "bandwidth" in yaml.read_text()
    export(graph, tmp_path / "net.onnx", verify=False, overwrite_configuration=True)
    assert yaml.read_text() == ours


def test_where_the_reference_is_no_number_nothing_is_compared() -> None:
    found = compare_output("y", np.array([1.0, 5.0, np.nan]), np.array([1.0, np.nan, 2.0]), step=0.5)
    assert (found.unequal, found.over_one) == (1, 1)
