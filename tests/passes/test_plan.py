"""Plan and apply-plan: the placement as plain data, and on a prepared model that was lowered again."""

from __future__ import annotations

import copy
import json
import pickle

import pytest
from ir_check import assert_text, graph_of, run_passes

from hqc.errors import PassError, SupportError
from hqc.ir import Device, DType, Graph, Reason, Request
from hqc.march import get_spec
from hqc.passes import PassContext, Plan, parse_pipeline
from hqc.passes.apply_plan import ApplyPlan

FLOAT = """
    input %x: f32[1,4,6,6]
    param @w = #random(1, [4,4,3,3])
    %x_quant: f32[1,4,6,6] = quantize(%x) {stub=true}
    %relu: f32[1,4,6,6] = conv2d(%x_quant, @w) {padding=[1,1,1,1], activation=relu} accepted request(bpu, "conv: bpu", i16) from(conv, relu)
    %selu: f32[1,4,6,6] = selu(%relu) refused("SELU is not a BPU op", hint="use relu") from(selu)
    %add: f32[1,4,6,6] = add(%selu, %relu) accepted("the rank is 4", id=rank, condition) from(add)
    output %add
"""
PREPARED = """
    input %x: f32[1,4,6,6]
    param @w = #random(1, [4,4,3,3])
    %x_quant: f32[1,4,6,6] q(i8, 0.5) = quantize(%x) {stub=true} from(x_quant)
    %conv: f32[1,4,6,6] q(i8, 0.5) = conv2d(%x_quant, @w) {padding=[1,1,1,1], activation=relu} from(conv)
    %deq: f32[1,4,6,6] = dequantize(%conv) from(selu_input_dequant_0)
    %selu: f32[1,4,6,6] = selu(%deq) loc("act:selu#0" "net.py:7") from(selu)
    %fq: f32[1,4,6,6] q(i8, 0.5) = quantize(%selu) from(selu_activation_post_process)
    %add: f32[1,4,6,6] = add(%fq, %conv) loc(":add#0" "net.py:8") from(add)
    output %add
"""


def plan_of(text: str = FLOAT, **options: object) -> Plan:
    graph = graph_of(text, "supported")
    run_passes(graph, "partition")
    return Plan.from_graph(graph, options=options)


def apply(text: str, plan: Plan | None, march: str = "bayes") -> Graph:
    graph = graph_of(text, "lowered")
    graph.march = march
    parse_pipeline("apply-plan").run(graph, PassContext(get_spec(march), plan=plan))
    return graph


def test_a_plan_knows_every_fx_node_its_device_reasons_and_request() -> None:
    plan = plan_of(min_macs=1e6)
    assert (plan.march, plan.hybrid, dict(plan.options)) == ("bayes", True, {"min_macs": 1e6})
    assert {name: device.value for name, device in plan.devices.items()} == {
        "conv": "bpu",
        "relu": "bpu",
        "selu": "cpu",
        "add": "bpu",
    }
    conv = plan.placement("relu")
    assert conv is not None
    assert conv.names == ("conv", "relu")
    assert conv.request == Request(Device.BPU, "conv: bpu", DType.INT16)
    selu = plan.placement("selu")
    assert selu is not None
    assert selu.support.reasons == (Reason("SELU is not a BPU op", hint="use relu"),)
    assert plan.placement("x_quant") is None, "boundaries are placed anew"
    assert plan.version


def test_a_plan_survives_pickling_copying_and_json() -> None:
    plan = plan_of(min_macs=1e6)
    for other in (
        pickle.loads(pickle.dumps(plan)),
        copy.deepcopy(plan),
        copy.copy(plan),
        Plan.from_dict(json.loads(json.dumps(plan.to_dict()))),
    ):
        assert other == plan
        assert other.lookup(["conv", "relu", "selu"]) == [plan.placement("conv"), plan.placement("selu")]
    with pytest.raises(AttributeError):
        plan.march = "bernoulli"  # type: ignore[misc]


def test_plain_data_of_another_format_is_refused() -> None:
    with pytest.raises(PassError, match="this plan has format 99, this version of hqc reads 1; prepare again"):
        Plan.from_dict({**plan_of().to_dict(), "format": 99})


def test_two_plans_are_compared_by_device() -> None:
    old = plan_of()
    new = plan_of(FLOAT.replace('accepted("the rank is 4", id=rank, condition)', 'refused("rank", actual="5", limit="4")'))
    assert [str(change) for change in old.changes(new)] == ["add: bpu -> cpu (rank: 5, limit 4)"]
    assert old.changes(old) == []


def test_no_plan_is_made_of_a_graph_without_devices_or_with_a_split_operation() -> None:
    with pytest.raises(PassError, match="relu has no device; run the partition pass"):
        Plan.from_graph(graph_of(FLOAT, "supported"))
    graph = graph_of(FLOAT.replace("from(selu)", "from(conv)"), "supported")
    run_passes(graph, "partition")
    with pytest.raises(PassError, match="conv is split between the devices: relu runs on bpu, selu on cpu"):
        Plan.from_graph(graph)


def test_an_operation_that_is_written_step_by_step_is_placed_step_by_step() -> None:
    text = FLOAT.replace("from(selu)", "from(add)").replace("selu(%relu)", "reshape(%relu) {shape=[1,4,6,6]}")
    assert [(name, device.value) for name, device in plan_of(text).devices.items()] == [
        ("conv", "bpu"), ("relu", "bpu"), ("selu", "cpu"), ("add", "bpu"),
    ]  # fmt: skip


def test_a_prepared_model_gets_the_devices_of_its_plan() -> None:
    graph = apply(PREPARED, plan_of())
    assert graph.stage == "supported"
    assert_text(
        graph,
        """
        CHECK: %x_quant: {{.*}} = quantize(%x) {stub=true} cpu from(x_quant)
        CHECK-NEXT: %conv: {{.*}} bpu accepted request(bpu, "conv: bpu", i16) from(conv)
        CHECK-NEXT: %deq: {{.*}} = dequantize(%conv) cpu
        CHECK-NEXT: %selu: {{.*}} cpu refused("SELU is not a BPU op", hint="use relu")
        CHECK-NEXT: %fq: {{.*}} cpu
        CHECK-NEXT: %add: {{.*}} bpu accepted("the rank is 4", id=rank, condition)
        """,
    )
    before = str(graph)
    assert not ApplyPlan().run(graph, PassContext(get_spec("bayes"), plan=plan_of())).changed
    assert str(graph) == before


def test_the_partition_of_a_prepared_model_is_that_of_its_plan() -> None:
    graph = apply(PREPARED, plan_of())
    run_passes(graph, "partition")
    assert {node.name: node.subgraph for node in graph.nodes if node.subgraph is not None} == {"conv": 0, "add": 1}


def test_a_new_operation_is_named_with_its_line() -> None:
    text = PREPARED.replace("output %add", '%new = sigmoid(%add) loc("extra:sigmoid#0" "net.py:9") from(sigmoid)\n output %new')
    with pytest.raises(PassError, match=r"it does not place new \[extra:sigmoid#0 \(net.py:9\)\]; the model was changed after"):
        apply(text, plan_of())


def test_an_operation_that_vanished_is_named() -> None:
    text = PREPARED.replace("add(%fq, %conv)", "relu(%fq)").replace("from(add)", "from(selu)")
    with pytest.raises(PassError, match="it places add, which the model no longer has; the model was changed after prepare"):
        apply(text, plan_of())


def test_members_of_a_fused_operation_may_vanish_but_not_be_joined_with_others() -> None:
    text = PREPARED.replace("from(conv)", "from(conv, selu)").replace("from(selu)", "from(relu)")
    with pytest.raises(PassError, match=r"conv joins operations planned apart \(conv on bpu, selu on cpu\)"):
        apply(text, plan_of())


def test_a_plan_for_another_march_and_a_missing_plan_are_refused() -> None:
    with pytest.raises(PassError, match="prepared for bayes and cannot be converted for bernoulli2"):
        apply(PREPARED, plan_of(), "bernoulli2")
    with pytest.raises(PassError, match="apply-plan needs the plan of a prepared model"):
        apply(PREPARED, None)


PRODUCT = """
    input %x: f32[{x}]
    param @k = #random(1, [4,4])
    %p: f32[{x}] = linear(%x, @k) from(p)
    %m: f32[{x}] = sigmoid(%p) from(m)
    %n: f32[{x}] = mul(%m, %m) loc(":mul#0" "net.py:8") from(n)
    output %n
"""


def test_a_condition_that_the_shapes_break_is_an_error_with_the_numbers() -> None:
    spec = get_spec("bernoulli2")
    text = 'input %x: f32[{x}]\n%n: f32[{x}] = mul(%x, %x) loc(":mul#0" "net.py:8") from(n)\noutput %n'
    unknown = graph_of(text.format(x="*"), "lowered")
    run_passes(unknown, "analyze-support,partition", spec.name)
    plan = Plan.from_graph(unknown)
    assert plan.devices["n"] is Device.BPU, "accepted on conditions"
    apply(text.format(x="1,2048,4,4"), plan, spec.name)
    with pytest.raises(SupportError) as error:
        apply(text.format(x="1,4096,4,4"), plan, spec.name)
    message = str(error.value)
    assert "with the shapes now known bernoulli2 cannot run on the BPU what the plan places there" in message
    assert "n [:mul#0 (net.py:8)]: channels at most 2048 on bernoulli2: 4096, limit 2048" in message
    assert "prepare again with example_inputs" in message


def test_fake_quants_between_operations_do_not_make_a_condition_fail() -> None:
    """On chips with 4-D tensors only, a function of a product is accepted for the product before it."""
    spec = get_spec("bernoulli2")
    text = PRODUCT.replace("mul(%m, %m)", "tanh(%m)")
    unknown = graph_of(text.format(x="*"), "lowered")
    run_passes(unknown, "analyze-support,partition", spec.name)
    prepared = text.format(x="1,4").replace("sigmoid(%p)", "sigmoid(%pq)")
    prepared = prepared.replace("    %m:", "    %pq: f32[1,4] q(i8, 0.5) = quantize(%p) from(fq)\n    %m:")
    graph = apply(prepared, Plan.from_graph(unknown), spec.name)
    assert [node.device.value for node in graph.nodes if node.device] == ["bpu", "cpu", "bpu", "bpu"]
