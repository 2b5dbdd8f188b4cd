"""`CompileOptions`, the pipelines built from it, and passes of the user in every entry point and on the command line."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import hqc
from hqc.cli import main
from hqc.errors import HqcError, InputError, OverrideError, PassError, SupportError
from hqc.ir import Device, Graph, Request
from hqc.march import March
from hqc.march import state as march_state
from hqc.nn import DeQuantStub, QuantStub
from hqc.passes import Pass, PassContext, PassResult
from hqc.passes.plan import Plan
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx
from hqc.quantization.fake_quantize import fake_quants
from hqc.workflow.explanation import explain_graph
from hqc.workflow.options import CompileOptions
from hqc.workflow.pipelines import deploy_pipeline, edit, explain_pipeline, integer_pipeline, prepare_pipeline

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class ReluToCpu(Pass):
    """Ask for the CPU for every relu that is an operation of its own."""

    name: ClassVar[str] = "relu-to-cpu"
    note: str = "mine"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        remarks = []
        for node in graph.nodes:
            if node.op.name == "relu" and node.request is None:
                node.request = Request(Device.CPU, "relu-to-cpu")
                remarks.append(self.remark(self.note, node))
        return PassResult(bool(remarks), tuple(remarks))


@dataclass(frozen=True)
class Count(Pass):
    """Say how many nodes there are."""

    name: ClassVar[str] = "count"
    requires: ClassVar[str] = "scaled"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(False, (self.remark(f"{len(graph)} nodes"),))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.conv, self.head, self.dequant = QuantStub(), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), DeQuantStub()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(self.quant(x))
        return self.dequant(self.head(torch.relu(y.transpose(2, 3))))


# --- options -------------------------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], type[HqcError], str]] = {
    "march": ({"march": "bays"}, HqcError, "unknown march 'bays'; did you mean bayes"),
    "form": ({"form": "qta"}, InputError, "form must be one of ptq, qat, calibration, got 'qta'"),
    "cat": ({"cat_policy": "widest"}, InputError, "cat_policy must be one of output, largest"),
    "conflict": ({"conflict_policy": "ignore"}, InputError, "conflict_policy must be one of error, requantize"),
    "macs": ({"min_macs": -1}, InputError, "min_macs must be a number from 0, got -1"),
    "nodes": ({"min_nodes": float("nan")}, InputError, "min_nodes must be a number from 0"),
    "hybrid": ({"hybrid": False, "hybrid_dict": {"op": ["relu"]}}, OverrideError, "hybrid_dict .* needs hybrid=True"),
    "qconfig": ({"qconfig": [1]}, InputError, "qconfig_dict must be a dict"),
    "edits": ({"edits": [ReluToCpu()]}, InputError, r"edits takes what hqc.workflow.pipelines.edit"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_options_are_one_sentence(kind: str) -> None:
    arguments, error, sentence = WRONG[kind]
    with pytest.raises(error, match=sentence) as caught:
        CompileOptions.of(**{"march": "bayes", **arguments})
    assert "\n" not in str(caught.value)


def test_options_are_frozen_and_travel_with_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(march_state, "_current", March.BAYES)
    qconfig = {"": get_default_qat_qconfig()}
    edits = [edit(after="fuse-conv", item=ReluToCpu())]
    model = prepare_qat_fx(Net(), qconfig, hybrid=True, hybrid_dict={"module_name": ["head"]}, example_inputs=X, edits=edits)
    options = model.preparation.options
    assert options == CompileOptions.of(
        March.BAYES, form="qat", hybrid_dict={"module_name": ["head"]}, qconfig=qconfig, edits=tuple(edits)
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.march = "bayes-e"  # type: ignore[misc]
    assert copy.deepcopy(model).preparation.options == options == pickle.loads(pickle.dumps(options))


def test_hybrid_false_lists_what_the_bpu_refuses() -> None:
    with pytest.raises(SupportError, match="hybrid=True"):
        hqc.explain(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softsign()), X, march="bayes", hybrid=False)


# --- edits ---------------------------------------------------------------------------------------------------------------------


def test_an_edit_goes_into_every_pipeline_that_has_the_pass() -> None:
    options = CompileOptions(
        "bayes", edits=(edit(after="fuse-conv", item=ReluToCpu()), edit(before="lower-to-integer", item=Count()))
    )
    assert "fuse-conv,relu-to-cpu," in str(prepare_pipeline(options)) == str(explain_pipeline(options))
    assert re.search(r"fuse-conv,relu-to-cpu,(.*,)?apply-plan,.*count$", str(deploy_pipeline(options)))
    assert str(integer_pipeline(options)) == "lower-to-integer"
    assert str(deploy_pipeline(options, integer=True)).endswith(",count,lower-to-integer")
    alone = CompileOptions("bayes", edits=(edit(after="fuse-conv", item="constant-folding", pipeline="deploy"),))
    assert "constant-folding" not in str(prepare_pipeline(alone)) and "constant-folding" in str(deploy_pipeline(alone))


def test_a_pass_without_a_place_goes_where_its_stage_is_reached() -> None:
    assert edit(item=ReluToCpu()).after == "fuse-conv"
    assert edit(item=Count()).after == "propagate-scales"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: edit(item=ReluToCpu(), after="a", before="b"), "an edit of a pipeline names one pass"),
        (lambda: edit(item=ReluToCpu, after="fuse-conv"), "got the class; give an instance"),
        (
            lambda: edit(item=ReluToCpu(), after="fuse-conv", pipeline="train"),
            "no pipeline 'train'; there are prepare and deploy",
        ),
        (
            lambda: prepare_pipeline(CompileOptions("bayes", edits=(edit(item=ReluToCpu(), after="fuse-cnv"),))),
            "no pass 'fuse-cnv' to put another beside; did you mean fuse-conv",
        ),
        (
            lambda: prepare_pipeline(
                CompileOptions("bayes", edits=(edit(item=Count(), after="apply-plan", pipeline="prepare"),))
            ),
            "the pipeline prepare has no pass 'apply-plan'",
        ),
    ],
)
def test_wrong_edits_are_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(PassError, match=sentence):
        make()


def test_a_pass_of_the_user_reaches_every_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(march_state, "_current", March.BAYES)
    edits = [edit(item=ReluToCpu())]
    explained = hqc.explain(Net(), X, march="bayes", edits=edits)
    assert explained.device_of("relu") == "cpu" != hqc.explain(Net(), X, march="bayes").device_of("relu")
    assert "[relu-to-cpu] relu: mine" in map(str, explained.remarks)
    compiled = hqc.compile(Net(), X, march="bayes", calibration_data=[X], edits=edits, dump_dir=tmp_path)
    assert compiled.placement.device_of("relu") == "cpu"
    assert list((tmp_path / "prepare").glob("*relu-to-cpu.hqc")) and list((tmp_path / "deploy").glob("*relu-to-cpu.hqc"))
    qat = prepare_qat_fx(Net(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=X, edits=edits)
    assert qat.preparation.plan.devices["relu"] is Device.CPU
    lowered = hqc.lower(Net(), X)
    assert explain_graph(lowered, CompileOptions("bayes", edits=tuple(edits))).device_of("relu") == "cpu"
    counting = hqc.compile(Net(), X, march="bayes", calibration_data=[X], edits=[edit(item=Count())])
    assert any(remark.pass_name == "count" for remark in counting.remarks)


@pytest.mark.parametrize("form", ["ptq", "qat", "calibration"])
def test_explain_says_its_form_and_shows_the_plan_of_it(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(march_state, "_current", March.BAYES)
    explained = hqc.explain(Net(), X, march="bayes", form=form)
    assert f"form {form} on bayes" in str(explained)
    if form == "qat":
        prepared = prepare_qat_fx(Net(), {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=X)
        assert Plan.from_graph(explained.graph) == prepared.preparation.plan
        named = {name.removesuffix(".activation_post_process") for name, each in fake_quants(prepared) if "weight" not in name}
        assert len(named) == len(explained.observers) and "observed: " in str(explained)


# --- command line --------------------------------------------------------------------------------------------------------------

PASS_FILE = """
from dataclasses import dataclass
from typing import ClassVar

from hqc.ir import Device, Request
from hqc.passes import Pass, PassResult, register_pass


@register_pass
@dataclass(frozen=True)
class OpToCpu(Pass):
    "Ask for the CPU for every node of an op."

    name: ClassVar[str] = "op-to-cpu"
    op: str = "relu"

    def run(self, graph, context):
        nodes = [node for node in graph.nodes if node.op.name == self.op and node.request is None]
        for node in nodes:
            node.request = Request(Device.CPU, "op-to-cpu")
        return PassResult(bool(nodes), tuple(self.remark("to the CPU", node) for node in nodes))


number = 3
"""
NET_FILE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x).transpose(2, 3)))
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    from hqc.passes import registry

    monkeypatch.setattr(registry.PASSES, "_entries", dict(registry.PASSES.load()))
    (tmp_path / "mine.py").write_text(PASS_FILE)
    (tmp_path / "small_net.py").write_text(NET_FILE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == status, f"{result.output}{result.exception!r}"
    return " ".join(result.output.split())


def test_a_pass_on_the_command_line(files: Path) -> None:
    shown = ("explain", "small_net.py:Net", "--input", "1,3,8,8", "--march", "bayes")
    assert "everything runs on the BPU" in run(*shown)
    assert "relu" in run(*shown, "--pass", "mine.py:OpToCpu@after=apply-overrides")
    assert "conv2d" in run(*shown, "--pass", "mine.py:OpToCpu{op=conv2d}@before=analyze-support")
    run("compile", *shown[1:], "--pass", "mine.py:OpToCpu", "-o", "out.onnx", "--dump-dir", "dumps")
    assert (files / "out.onnx").is_file() and list((files / "dumps" / "deploy").glob("*-op-to-cpu.hqc"))


def test_plan_options_on_the_command_line(files: Path) -> None:
    shown = ("explain", "small_net.py:Net", "--input", "1,3,8,8", "--march", "bayes")
    assert "0 operations on the BPU" in run(*shown, "--min-macs", "1e9")
    assert "without CPU fallback" in run(*shown, "--no-hybrid")
    assert "needs hybrid=True" in run(*shown, "--no-hybrid", "--cpu", "head", status=1)
    assert "form qat on bayes" in run("explain", "small_net.py:Net", *shown[2:], "--cpu", "conv", "--form", "qat")


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("mine.py", "give a pass as FILE.py:NAME, got mine.py"),
        ("mine.py:OpToCpu@fuse-conv", "give the place of a pass as @after=PASS or @before=PASS, got @fuse-conv"),
        ("mine.py:number", "number in mine.py is no pass"),
        ("mine.py:Missing", "Missing in mine.py is no pass"),
        ("there.py:OpToCpu", "there is no file there.py"),
        ("mine.py:OpToCpu{ops=relu}", "op-to-cpu has no option 'ops'"),
        ("mine.py:OpToCpu@after=fuse-cnv", "no pass 'fuse-cnv'"),
    ],
)
def test_a_wrong_pass_on_the_command_line(spec: str, sentence: str, files: Path) -> None:
    text = run("explain", "small_net.py:Net", "--input", "1,3,8,8", "--march", "bayes", "--pass", spec, status=1)
    assert sentence in text and "Traceback" not in text


def test_opt_loads_passes(files: Path) -> None:
    graph = """\
        graph @net march=bayes stage=lowered {
          input %x: f32[1,8]
          %y = relu(%x)
          output %y
        }
        """
    (files / "net.hqc").write_text(textwrap.dedent(graph))
    assert "op-to-cpu" in run("opt", "net.hqc", "--load", "mine.py", "-p", "op-to-cpu")
    assert "there is no pass" in run("opt", "net.hqc", "-p", "op-to-cpuu", status=1)


# --- one report ----------------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.d, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.bn(self.d(torch.relu(self.c(x)))) + x)


@pytest.mark.parametrize("march", ["bernoulli", "bernoulli2", "bayes", "bayes-e"])
def test_a_fused_group_answers_for_every_module_in_it_before_and_after(march: str) -> None:
    model = nn.Sequential()
    model.a, model.b, model.head = nn.Conv2d(3, 4, 1), Block(), nn.Conv2d(4, 2, 1)
    model.eval()
    explained = hqc.explain(model, X, march=march)
    compiled = hqc.compile(model, X, march=march, calibration_data=[X])
    for name in ("a", "b", "b.c", "b.d", "b.bn", "head"):
        assert explained.device_of(name) == compiled.placement.device_of(name) == "bpu", name
    assert "b.d" in compiled.explain() and "b.d" in str(explained)
    assert [(row.where, row.device) for row in compiled.placement.rows] == [
        (row.where, row.device) for row in explained.placement.rows
    ]
