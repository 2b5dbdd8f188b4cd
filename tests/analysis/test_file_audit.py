"""Every rule of the exporter's audit on files that others wrote."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from hqc.analysis.file_audit import audit_file
from hqc.backends.onnx.audit import RULES
from hqc.cli import main


def model(text: str, opset: int = 11, ir_version: int = 7) -> onnx.ModelProto:
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "com.microsoft" : 1]>'
    proto = onnx.parser.parse_model(f"{header}\nnet {text}")
    weight = np.random.default_rng(0).random((8, 3, 3, 3), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


CONV = "(float[1,3,8,8] x) => (float[1,8,6,6] y) { y = Conv(x, w) }"
MANY = ", ".join(f"float[1,3,8,8] y{index}" for index in range(33))
CASES = {
    "opset": (model(CONV, opset=13), "the file uses opset 13"),
    "ir-version": (model(CONV, ir_version=9), "IR version 9"),
    "domain": (model("(float[1,3,8,8] x) => (float[1,8,6,6] y) { c = Conv(x, w) y = com.microsoft.Gelu(c) }"), "com.microsoft"),
    "static-shapes": (model("(float[1,3,H,8] x) => (float[1,8,K,6] y) { y = Conv(x, w) }"), "the shape of x is not static"),
    "input-rank": (model("(float[1,3] x) => (float[1,3] y) { y = Relu(x) }"), "4-D inputs only"),
    "input-batch": (model("(float[2,3,8,8] x) => (float[2,8,6,6] y) { y = Conv(x, w) }"), "has batch 2"),
    "output-count": (
        model(f"(float[1,3,8,8] x) => ({MANY}) {{ {' '.join(f'y{k} = Relu(x)' for k in range(33))} }}"),
        "33 outputs",
    ),
    "bpu-conv": (
        model("(float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }"),
        "no convolution of the model runs on the BPU",
    ),
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule_finds_its_break(rule: str, tmp_path: Path) -> None:
    proto, message = CASES[rule]
    onnx.save(proto, tmp_path / "net.onnx")
    found = audit_file(str(tmp_path / "net.onnx"), "bernoulli2").findings
    assert any(finding.rule == rule and re.search(message, finding.message) for finding in found), found


def test_the_cases_cover_the_table_but_for_what_no_file_can_break() -> None:
    """ONNX's inference gives every value a type, or else the file is unreadable; an input of no elements has no shape that is known."""
    assert {rule.name for rule in RULES} - CASES.keys() == {"value-info", "zero-size"}


def test_a_good_file_passes_and_the_status_says_so(tmp_path: Path) -> None:
    onnx.save(model(CONV), tmp_path / "good.onnx")
    done = CliRunner().invoke(main, ["audit", str(tmp_path / "good.onnx"), "--march", "bernoulli2"])
    assert done.exit_code == 0 and "nothing to object to" in done.output
    onnx.save(CASES["static-shapes"][0], tmp_path / "open.onnx")
    done = CliRunner().invoke(main, ["audit", str(tmp_path / "open.onnx"), "--march", "bernoulli2"])
    assert done.exit_code == 1 and "the shape of x is not static" in done.output and "give them with --input" in done.output
    fixed = ["audit", str(tmp_path / "open.onnx"), "--march", "bernoulli2", "--input", "x=1,3,8,8"]
    assert CliRunner().invoke(main, fixed).exit_code == 0
    done = CliRunner().invoke(main, ["audit", str(tmp_path / "none.onnx"), "--march", "bernoulli2"])
    assert done.exit_code == 1 and "there is no file" in done.output


def test_an_exported_file_passes_its_own_audit(tmp_path: Path) -> None:
    import hqc

    compiled = hqc.compile(
        model(CONV), march="bernoulli2", calibration_data=[np.random.default_rng(0).random((1, 3, 8, 8), np.float32)]
    )
    compiled.export(tmp_path / "out.onnx")
    assert not audit_file(str(tmp_path / "out.onnx"), "bernoulli2").findings


def test_operators_without_an_equal_in_opset_11_are_errors(tmp_path: Path) -> None:
    proto = model("(float[1,16,2] x) => (float[1,16,2] y) { y = DFT<axis=1>(x) }", opset=17)
    onnx.save(proto, tmp_path / "net.onnx")
    found = audit_file(str(tmp_path / "net.onnx"), "bayes").errors
    assert {finding.rule for finding in found} == {"opset", "operator"}
