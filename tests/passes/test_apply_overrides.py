"""hybrid_dict: how it is read, which nodes an entry matches, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from support_check import analyzed, node

from hqc.errors import OverrideError
from hqc.ir import Device, DType, Graph
from hqc.passes.overrides import Override, parse_hybrid_dict

NET = """
    input %x: f32[1,8,16,16]
    %conv1_conv = conv2d(%x, @w1) loc("conv1.conv:conv2d#0" "net.py:5" "net.Block" "torch.nn.Conv2d") from(conv1_conv)
    %conv1_act = sigmoid(%conv1_conv) loc("conv1.act:sigmoid#0" "net.py:6" "net.Block" "torch.nn.Sigmoid") from(conv1_act)
    %conv10 = conv2d(%conv1_act, @w1) loc("conv10:conv2d#0" "net.py:7" "torch.nn.Conv2d") from(conv10)
    %head_selu = selu(%conv10) loc("head.inner.selu:selu#0" "net.py:8" "net.Head" "net.Inner" "torch.nn.SELU") from(head_selu)
    %add = add(%head_selu, %conv10) loc("head:add#0" "net.py:9" "net.Head") from(add)
    output %add
"""


def matched(hybrid_dict: dict[str, Any], body: str = NET, march: str = "bayes") -> dict[str, str]:
    """Node name -> requested device."""
    graph, _ = analyzed(body, march, hybrid_dict=hybrid_dict, passes="apply-overrides")
    return {n.name: n.request.device.value for n in graph.nodes if n.request is not None}


# --- matching ------------------------------------------------------------------------------------------------------------


def test_module_name_matches_whole_components() -> None:
    assert set(matched({"module_name": ["conv1"]})) == {"conv1_conv", "conv1_act"}
    assert set(matched({"module_name": ["conv1.conv"]})) == {"conv1_conv"}
    assert set(matched({"module_name": ["conv10"]})) == {"conv10"}


def test_a_container_covers_everything_inside_by_name_and_by_type() -> None:
    assert set(matched({"module_name": ["head"]})) == {"head_selu", "add"}
    assert set(matched({"module_type": ["net.Head"]})) == {"head_selu", "add"}
    assert set(matched({"module_type": ["Inner"]})) == {"head_selu"}


def test_module_types_are_classes_or_qualified_names() -> None:
    class Marker:
        pass

    name = f"{Marker.__module__}.{Marker.__qualname__}"
    assert parse_hybrid_dict({"module_type": [Marker]}) == (Override(Device.CPU, "module_type", name),)
    assert set(matched({"module_type": ["torch.nn.Conv2d"]})) == {"conv1_conv", "conv10"}


def test_nodes_and_ops_are_named_too() -> None:
    assert set(matched({"node_name": ["add"]})) == {"add"}
    assert set(matched({"op": ["conv2d", "selu"]})) == {"conv1_conv", "conv10", "head_selu"}


def test_regular_expressions_match_the_whole_name_of_the_node_or_an_ancestor() -> None:
    assert set(matched({"module_name": [r"re:conv\d+"]})) == {"conv1_conv", "conv1_act", "conv10"}
    assert set(matched({"module_name": [r"re:.*\.act"]})) == {"conv1_act"}
    assert set(matched({"module_type": [r"re:net\..*"]})) == {"conv1_conv", "conv1_act", "head_selu", "add"}
    assert set(matched({"node_name": [r"re:.*_act"]})) == {"conv1_act"}
    assert set(matched({"op": [r"re:s.*u"]})) == {"head_selu"}


# --- who wins ---------------------------------------------------------------------------------------------------------------


def test_the_nearest_ancestor_wins_and_names_win_over_types() -> None:
    nearer = matched({"module_name": ["head"], "bpu": {"module_name": ["head.inner"]}})
    assert nearer == {"head_selu": "bpu", "add": "cpu"}
    by_name = matched({"module_type": ["net.Inner"], "bpu": {"module_name": ["head"]}})
    assert by_name == {"head_selu": "bpu", "add": "bpu"}
    by_type = matched({"op": ["selu"], "bpu": {"module_type": ["net.Head"]}})
    assert by_type == {"head_selu": "bpu", "add": "bpu"}


def test_a_request_says_which_entry_made_it_and_with_which_dtype() -> None:
    graph, _ = analyzed(NET, hybrid_dict={"bpu": {"op": [("sigmoid", "int16")]}}, passes="apply-overrides")
    request = node(graph, "conv1_act").request
    assert request is not None
    assert (request.device, request.source, request.dtype) == (Device.BPU, "op 'sigmoid' -> bpu", DType.INT16)


def test_earlier_requests_are_replaced_and_boundaries_have_none() -> None:
    body = """
        input %x: f32[1,8,16,16]
        %q = quantize(%x) {stub=true} loc("head:quantize#0" "net.py:2" "net.Head")
        %y = sigmoid(%q) request(cpu, "old") loc("head:sigmoid#0" "net.py:3" "net.Head")
        output %y
    """
    assert matched({}, body) == {}
    assert matched({"module_name": ["head"]}, body) == {"y": "cpu"}


# --- refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hybrid_dict", "message"),
    [
        ({"module_name": ["conv1.cnv"]}, r"module_name 'conv1.cnv' names no module .*; did you mean conv1.conv"),
        ({"module_name": ["inner.selu"]}, r"'inner.selu' names no module .*; did you mean head.inner.selu"),
        (
            {"module_type": ["torch.nn.Conv3d"]},
            r"module_type 'torch.nn.Conv3d' names no module type .*; did you mean torch.nn.Conv2d",
        ),
        ({"node_name": ["ad"]}, r"node_name 'ad' names no node .*; did you mean add"),
        ({"op": ["sel"]}, r"op 'sel' names no op .*; did you mean selu"),
        ({"module_name": [r"re:neck\..*"]}, r"matches no module"),
        ({"module_name": ["re:("]}, "not a regular expression"),
        ({"modul_name": ["x"]}, "hybrid_dict has no key 'modul_name'; known: .*; did you mean module_name"),
        ({"bpu": {"ops": ["x"]}}, r"hybrid_dict\['bpu'\] has no key 'ops'; known: .*; did you mean op"),
        ({"bpu": ["softmax"]}, r"hybrid_dict\['bpu'\] must be a dict"),
        ({"module_name": "conv1"}, "must be a list, got 'conv1'"),
        ({"module_name": [3]}, "entries must be names, got 3"),
        ({"module_name": [("conv1", "int16")]}, "only entries under 'bpu' may be pairs"),
        ({"bpu": {"op": [("softmax", "int4")]}}, "must be int8 or int16, got 'int4'"),
    ],
)
def test_wrong_entries_are_refused_in_one_sentence(hybrid_dict: dict[str, Any], message: str) -> None:
    with pytest.raises(OverrideError, match=message):
        matched(hybrid_dict)


def test_what_is_not_a_dict_is_refused() -> None:
    with pytest.raises(OverrideError, match="must be a dict"):
        parse_hybrid_dict([("module_name", ["a"])])  # type: ignore[arg-type]
    assert parse_hybrid_dict(None) == () == parse_hybrid_dict({})


# --- warnings -----------------------------------------------------------------------------------------------------------------


def remarks_of(body: str, march: str, hybrid_dict: dict[str, Any]) -> tuple[Graph, list[str]]:
    graph, remarks = analyzed(body, march, hybrid_dict=hybrid_dict, passes="apply-overrides")
    assert all(remark.severity == "warning" for remark in remarks)
    return graph, [str(remark) for remark in remarks]


CAT = """
    input %x: f32[1,8,16,16]
    %a = conv2d(%x, @w1) from(a)
    %b = conv2d(%x, @w1) from(b)
    %k = cat(%a, %b) {axis=1} from(k)
    output %k
"""


def test_splitting_a_group_that_shares_one_scale_is_warned_of_on_bernoulli() -> None:
    _, remarks = remarks_of(CAT, "bernoulli", {"node_name": ["a"]})
    assert len(remarks) == 1 and "placing a on the CPU splits the values that share one scale" in remarks[0]
    assert remarks_of(CAT, "bernoulli", {"op": ["conv2d", "cat"]})[1] == []
    assert remarks_of(CAT, "bayes", {"node_name": ["a"]})[1] == []


def test_splitting_a_fused_group_is_warned_of() -> None:
    body = "input %x: f32[1,8,16,16]\n%c = conv2d(%x, @w1) from(c)\n%r = relu(%c) from(r)\noutput %r"
    _, remarks = remarks_of(body, "bayes", {"node_name": ["c"]})
    assert remarks == ["[apply-overrides] r: an override splits c from r, which would run fused with it on the BPU"]
    assert remarks_of(body, "bayes", {"op": ["conv2d", "relu"]})[1] == []


def test_splitting_a_convolution_from_its_batch_norm_is_warned_of() -> None:
    body = """
        input %x: f32[1,8,16,16]
        param @m: f32[8] = [0, 0, 0, 0, 0, 0, 0, 0]
        param @v: f32[8] = [1, 1, 1, 1, 1, 1, 1, 1]
        %c = conv2d(%x, @w1) from(c)
        %b = batch_norm(%c, @m, @v) from(b)
        output %b
    """
    assert len(remarks_of(body, "bayes", {"node_name": ["c"]})[1]) == 1
