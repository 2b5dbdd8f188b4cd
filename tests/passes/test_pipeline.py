"""Pipelines: order, verification between passes, dumps, editing, and what a misbehaving pass is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest
from ir_check import graph_of

from hqc.errors import InputError, PassError, VerificationError
from hqc.ir import Graph, Location
from hqc.ir.files import load
from hqc.march import get_spec
from hqc.passes import (
    Pass,
    PassContext,
    PassPipeline,
    PassResult,
    all_passes,
    get_pass,
    options_of,
    parse_pipeline,
    register_pass,
)
from hqc.passes.registry import BUILTIN
from hqc.workflow.options import CompileOptions
from hqc.workflow.pipelines import deploy_pipeline, explain_pipeline, prepare_pipeline

CONV = """
    input %x: f32[1,3,8,8]
    param @w = #random(1, [8,3,3,3])
    %conv: f32[1,8,6,6] = conv2d(%x, @w) accepted
    %id: f32[1,8,6,6] = identity(%conv) accepted
    %relu: f32[1,8,6,6] = relu(%id) accepted
    output %relu
"""


def context() -> PassContext:
    return PassContext(get_spec("bayes"))


@dataclass(frozen=True)
class RenameRelu(Pass):
    """A user's pass."""

    name: ClassVar[str] = "test-rename"

    to: str = field(default="activated", metadata={"help": "the new name"})
    mode: Literal["first", "all"] = "first"
    tags: tuple[str, ...] = ()
    limit: int | None = None

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        for node in graph.nodes:
            if node.op.name == "relu" and node.name != self.to:
                graph.rename(node.result, self.to)
                return PassResult(True, (self.remark(f"now called {self.to}", node),))
        return PassResult(False)


@dataclass(frozen=True)
class LosesAUse(Pass):
    """Breaks the graph."""

    name: ClassVar[str] = "test-breaks"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        relu = next(node for node in graph.nodes if node.op.name == "relu")
        assert relu.inputs[0] is not None
        relu.inputs[0]._uses.clear()
        return PassResult(True)


@dataclass(frozen=True)
class SaysNothingChanged(Pass):
    """Changes the graph and denies it."""

    name: ClassVar[str] = "test-denies"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        graph.rename(next(graph.nodes).results[0], "renamed")
        return PassResult(False)


@dataclass(frozen=True)
class Crashes(Pass):
    """Has a bug."""

    name: ClassVar[str] = "test-crashes"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        raise ZeroDivisionError("oops")


# --- order and stages --------------------------------------------------------------------------------------------------------


def test_a_pass_that_comes_too_early_is_refused_and_told_what_must_run_before() -> None:
    graph = graph_of(CONV, "lowered")
    with pytest.raises(
        PassError, match=r"partition needs a graph of stage supported, but after canonicalize it is only lowered; "
    ):
        parse_pipeline("canonicalize,partition").run(graph, context())
    assert len(graph) == 3, "nothing may have run"


def test_the_graph_has_the_stage_that_the_last_pass_establishes() -> None:
    graph = graph_of(CONV, "supported")
    report = parse_pipeline("canonicalize,partition").run(graph, context())
    assert (graph.stage, graph.march, report.changed) == ("partitioned", "bayes", True)
    assert [timing.pass_name for timing in report.timings] == ["canonicalize", "partition"]
    assert [timing.nodes for timing in report.timings] == [2, 2]
    assert 0 < report.seconds < 5


def test_a_later_stage_is_not_taken_back_by_a_pass_of_an_earlier_one() -> None:
    pipeline = parse_pipeline("partition,canonicalize,constant-folding")
    assert pipeline.check_order("supported") == "partitioned"
    assert pipeline.check_order("scaled") == "scaled"


def test_a_graph_of_another_march_is_refused() -> None:
    graph = graph_of(CONV, "supported")
    graph.march = "bernoulli"
    with pytest.raises(PassError, match=r"lowered for bernoulli.*asked to run for bayes"):
        parse_pipeline("partition").run(graph, context())


def test_the_default_pipelines_are_in_order_and_reach_their_stages() -> None:
    assert prepare_pipeline(CompileOptions("bayes", min_macs=1e6)).check_order() == "bounded"
    assert explain_pipeline().check_order() == "bounded"
    assert deploy_pipeline().check_order() == "scaled"
    options = CompileOptions("bayes", optimize_graph=True, cat_policy="largest")
    assert deploy_pipeline(options, integer=True).check_order() == "integer"
    text = "canonicalize{training=true},apply-overrides,fold-batch-norm,fuse-conv,canonicalize,analyze-support,partition{min-nodes=2},"
    text += "insert-boundaries,place-observers,settle-rounding"
    assert str(prepare_pipeline(CompileOptions("bayes", form="qat", min_nodes=2))) == text


# --- verification --------------------------------------------------------------------------------------------------------------


def test_a_broken_graph_is_blamed_on_the_pass_that_broke_it_and_names_the_node() -> None:
    graph = graph_of(CONV, "supported")
    pipeline = PassPipeline([RenameRelu(to="y"), LosesAUse()])
    with pytest.raises(VerificationError, match=r"after test-breaks \(it ran after test-rename\): .*y: id does not list it"):
        pipeline.run(graph, context())


def test_a_graph_that_is_broken_from_the_start_is_not_blamed_on_a_pass() -> None:
    graph = graph_of(CONV, "supported")
    LosesAUse().run(graph, context())
    with pytest.raises(VerificationError, match=r"before the first pass: "):
        PassPipeline([RenameRelu()]).run(graph, context())


def test_a_bug_in_a_pass_is_reported_with_the_name_of_the_pass() -> None:
    with pytest.raises(PassError, match=r"pass test-crashes failed: ZeroDivisionError: oops") as error:
        PassPipeline([Crashes()]).run(graph_of(CONV, "supported"), context())
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_remarks_are_collected_in_the_report_and_in_the_context() -> None:
    shared = context()
    report = PassPipeline([RenameRelu(), parse_pipeline("partition").passes[0]]).run(graph_of(CONV, "supported"), shared)
    assert str(report.remarks[0]) == "[test-rename] activated: now called activated"
    assert list(report.remarks) == shared.remarks
    assert report.warnings == ()


# --- dumps --------------------------------------------------------------------------------------------------------------------


def test_dumps_are_numbered_diffed_and_read_back_equal(tmp_path: Path) -> None:
    graph = graph_of(CONV, "supported")
    parse_pipeline("canonicalize,partition").run(graph, context(), dump_dir=tmp_path / "new" / "dumps")
    directory = tmp_path / "new" / "dumps"
    assert sorted(path.name for path in directory.iterdir()) == [
        "000-input.hqc",
        "001-canonicalize.diff",
        "001-canonicalize.hqc",
        "002-partition.diff",
        "002-partition.hqc",
        "parameters.safetensors",
    ]
    assert load(directory / "002-partition.hqc") == graph
    assert len(load(directory / "000-input.hqc")) == 3
    diff = (directory / "001-canonicalize.diff").read_text()
    changes = [line for line in diff.splitlines() if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    assert [line.split()[0] + line.split()[1] for line in changes] == ["-%id:", "-%relu:", "+%relu:"]


def test_a_shorter_run_leaves_no_dumps_of_the_longer_one_before(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    parse_pipeline("canonicalize,partition").run(graph_of(CONV, "supported"), context(), dump_dir=tmp_path)
    parse_pipeline("partition").run(graph_of(CONV, "supported"), context(), dump_dir=tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["000-input.hqc", "001-partition.diff", "001-partition.hqc", "notes.txt", "parameters.safetensors"]


def test_dumps_up_to_the_failing_pass_are_there_with_their_parameters(tmp_path: Path) -> None:
    with pytest.raises(VerificationError):
        PassPipeline([RenameRelu(to="y"), LosesAUse()]).run(graph_of(CONV, "supported"), context(), dump_dir=tmp_path)
    assert load(tmp_path / "001-test-rename.hqc").value("y").type.shape == (1, 8, 6, 6)


def test_a_pass_that_denies_its_change_is_found_out_and_the_diff_named(tmp_path: Path) -> None:
    with pytest.raises(
        PassError, match=r"pass developer: test-denies says it changed nothing, .* \(see .*001-test-denies.diff\)"
    ):
        PassPipeline([SaysNothingChanged()]).run(graph_of(CONV, "supported"), context(), dump_dir=tmp_path)
    with pytest.raises(PassError, match="test-denies says it changed nothing, but the graph is another one"):
        PassPipeline([SaysNothingChanged()]).run(graph_of(CONV, "supported"), context())


@dataclass(frozen=True)
class Boasts(Pass):
    """Says that it did something."""

    name: ClassVar[str] = "test-boasts"

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        return PassResult(True)


def test_a_pass_that_claims_a_change_it_did_not_make_is_found_out() -> None:
    with pytest.raises(PassError, match="pass developer: test-boasts says it changed the graph, which is as it was"):
        PassPipeline([Boasts()]).run(graph_of(CONV, "supported"), context())
    PassPipeline([Boasts()], verify=False).run(graph_of(CONV, "supported"), context())


def test_locations_are_in_dumps_on_request_only(tmp_path: Path) -> None:
    graph = graph_of(CONV, "supported")
    for node in graph.nodes:
        node.loc = Location(f"{node.name}:op#0", "net.py:7")
    for wanted in (False, True):
        parse_pipeline("partition").run(graph, context(), dump_dir=tmp_path, dump_locations=wanted)
        assert ("net.py:7" in (tmp_path / "001-partition.hqc").read_text()) == wanted
    assert "net.py:7" in str(graph)


def test_a_dump_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write dumps to .*file"):
        parse_pipeline("partition").run(graph_of(CONV, "supported"), context(), dump_dir=tmp_path / "file")


# --- editing and registration ---------------------------------------------------------------------------------------------


def test_user_passes_are_inserted_by_the_name_of_a_neighbour() -> None:
    pipeline = parse_pipeline("canonicalize,partition,canonicalize,partition")
    pipeline.insert_before("partition", RenameRelu()).insert_after("partition", "fuse-conv,constant-folding")
    pipeline.replace("canonicalize", "fold-batch-norm").remove("constant-folding").append("canonicalize")
    assert [item.name for item in pipeline] == [
        "fold-batch-norm",
        "test-rename",
        "partition",
        "canonicalize",
        "partition",
        "fuse-conv",
        "canonicalize",
    ]
    with pytest.raises(PassError, match=r"the pipeline has no pass 'partitoin'; did you mean partition\?"):
        pipeline.insert_before("partitoin", RenameRelu())


def test_a_registered_pass_is_found_by_name_with_its_options() -> None:
    register_pass(RenameRelu)
    assert get_pass("test-rename") is RenameRelu
    assert RenameRelu in all_passes()
    item = parse_pipeline('test-rename{to="a b",mode=all,tags=[p,"q,r"],limit=3}').passes[0]
    assert item == RenameRelu(to="a b", mode="all", tags=("p", "q,r"), limit=3)
    first = options_of(RenameRelu)[0]
    assert (first.name, first.kind, first.default, first.help) == ("to", "str", "activated", "the new name")


def test_a_name_that_is_taken_or_badly_spelled_cannot_be_registered() -> None:
    @dataclass(frozen=True)
    class Partition(Pass):
        name: ClassVar[str] = "partition"

        def run(self, graph: Graph, context: PassContext) -> PassResult:
            return PassResult(False)

    get_pass("partition")
    with pytest.raises(PassError, match=r"the pass name partition is taken by hqc\.passes\.partition\.Partition"):
        register_pass(Partition)
    Partition.name = "Bad_Name"
    with pytest.raises(PassError, match=r"pass names look like fold-batch-norm"):
        register_pass(Partition)


def test_every_built_in_pass_is_documented_and_can_be_written_as_text() -> None:
    passes = [cls for cls in all_passes() if cls.name in BUILTIN]
    assert [cls.name for cls in passes] == list(BUILTIN)
    for cls in passes:
        assert cls.__doc__, cls
        assert not cls.__doc__.startswith(f"{cls.__name__}("), f"{cls.__name__} has no docstring of its own"
        for option in options_of(cls):
            assert option.help, f"{cls.name}: {option.name} has no help"
        assert str(parse_pipeline(cls.name)) == cls.name
