"""The mutation API keeps uses, order and names right, whatever is inserted, replaced and erased."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hqc.errors import PassError, ShapeError
from hqc.ir import DType, Graph, Node, TensorType, Value, check, parse

VECTOR = TensorType(DType.FLOAT32, (4,))


class GraphMachine(RuleBasedStateMachine):
    """Random edits of a graph beside a plain list of node names in program order."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = Graph()
        self.graph.add_input("x", VECTOR)
        self.graph.add_parameter("w", np.zeros(4, np.float32))
        self.model: list[str] = []

    def defined_before(self, position: int) -> list[Value]:
        values = [self.graph.value("x"), self.graph.value("w")]
        return values + [self.graph.value(name) for name in self.model[:position]]

    def node(self, name: str) -> Node:
        producer = self.graph.value(name).producer
        assert producer is not None
        return producer

    @rule(data=st.data(), where=st.sampled_from(["append", "before", "after"]))
    def insert(self, data: st.DataObject, where: str) -> None:
        position = len(self.model)
        anchor = None
        if where != "append" and self.model:
            index = data.draw(st.integers(0, len(self.model) - 1))
            anchor = self.node(self.model[index])
            position = index + (where == "after")
        operands = data.draw(st.lists(st.sampled_from(self.defined_before(position)), min_size=2, max_size=2))
        place = {where: anchor} if anchor is not None else {}
        node = self.graph.add_node("add", operands, name=data.draw(st.sampled_from(["n", "n_1", "m"])), **place)
        self.model.insert(position, node.name)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def erase_if_unused(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.model))
        value = self.graph.value(name)
        if value.has_uses or self.graph.is_output(value):
            with pytest.raises(PassError, match=f"cannot erase {name}"):
                self.graph.erase(self.node(name))
        else:
            self.graph.erase(self.node(name))
            self.model.remove(name)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def replace_uses(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.model) - 1))
        old = self.graph.value(self.model[position])
        new = data.draw(st.sampled_from(self.defined_before(position)))
        if data.draw(st.booleans()):
            self.graph.replace_uses(old, new)
            assert not old.has_uses
            assert not self.graph.is_output(old)
        else:
            only = old.users[:1]
            others = old.users[1:]
            self.graph.replace_uses(old, new, only=only)
            assert old.users == others

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def set_outputs(self, data: st.DataObject) -> None:
        names = data.draw(st.lists(st.sampled_from(self.model), max_size=2, unique=True))
        self.graph.set_outputs([self.graph.value(name) for name in names])

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def rename(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        name = self.graph.unique_name("renamed")
        self.graph.rename(self.graph.value(self.model[index]), name)
        self.model[index] = name

    @rule()
    def remove_dead_code(self) -> None:
        needed: set[str] = {value.name for value in self.graph.outputs}
        for name in reversed(self.model):
            if name in needed:
                needed.update(value.name for value in self.node(name).operands)
        had_dead = any(name not in needed for name in (*self.model, *self.graph.parameters))
        assert self.graph.remove_dead_code() == had_dead
        self.model = [name for name in self.model if name in needed]
        if "w" not in self.graph.values:
            self.graph.add_parameter("w", np.zeros(4, np.float32))

    @invariant()
    def graph_is_sound(self) -> None:
        assert [node.name for node in self.graph.nodes] == self.model
        assert len(self.graph) == len(self.model)
        broken = [violation for violation in check(self.graph) if violation.rule != "outputs"]
        assert broken == []
        for value in self.graph.values.values():
            expected = [
                (node, index) for node in self.graph.nodes for index, operand in enumerate(node.inputs) if operand is value
            ]
            assert value.uses == expected

    @invariant()
    def clone_and_text_agree(self) -> None:
        text = str(self.graph)
        assert str(self.graph.clone()) == text
        assert str(parse(text)) == text


GraphMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestGraphMachine = GraphMachine.TestCase


def chain(length: int) -> Graph:
    lines = ["input %n0: f32[4]"] + [f"%n{i + 1} = relu(%n{i})" for i in range(length)]
    return parse("\n".join([*lines, f"output %n{length}"]))


def test_iteration_skips_erased_nodes_and_leaves_out_inserted_ones() -> None:
    graph = chain(6)
    seen = []
    for node in graph.nodes:
        seen.append(node.name)
        if node.name in ("n2", "n4"):
            following = node.users[0]
            graph.add_node("abs", [node.result], name=f"{node.name}_abs", after=node)
            graph.replace_uses(following.result, node.result)
            graph.erase(following)
    assert seen == ["n1", "n2", "n4", "n6"]
    assert [node.name for node in graph.nodes] == ["n1", "n2", "n2_abs", "n4", "n4_abs", "n6"]


def test_thousands_of_insertions_at_one_place_keep_order() -> None:
    graph = chain(2)
    anchor = graph.value("n2").producer
    for index in range(3000):
        graph.add_node("abs", [graph.value("n1")], name=f"a{index}", before=anchor)
    names = [node.name for node in graph.nodes]
    assert names == ["n1", *(f"a{index}" for index in range(3000)), "n2"]


def test_a_node_that_does_not_infer_leaves_no_trace() -> None:
    graph = parse("input %x: f32[1,4]\nparam @w = #random(0, [3,5])\noutput %x")
    before = str(graph)
    with pytest.raises(ShapeError, match=r"^y: the input's last axis has 4 channels, the weight expects 5"):
        graph.add_node("linear", [graph.value("x"), graph.value("w")], name="y")
    with pytest.raises(ShapeError, match="y: split makes 2 results here, got 3 names"):
        graph.add_node("split", [graph.value("x")], {"axis": 1, "sizes": (2, 2)}, name=["y", "z", "u"])
    with pytest.raises(ShapeError, match="relu has no attribute slope"):
        graph.add_node("relu", [graph.value("x")], {"slope": 1.0})
    assert str(graph) == before
    assert not graph.value("x").has_uses
    assert check(graph) == []


def test_names_are_made_unique_in_order() -> None:
    graph = Graph()
    x = graph.add_input("x", VECTOR)
    names = [graph.add_node("relu", [x], name="relu").name for _ in range(3)]
    assert names == ["relu", "relu_1", "relu_2"]
    parts = graph.add_node("split", [x], {"axis": 0, "sizes": (2, 2)}, name="relu")
    assert [value.name for value in parts.results] == ["relu_0", "relu_1_1"]


def test_freed_names_are_given_again_as_in_a_fresh_copy() -> None:
    graph = chain(1)
    for _ in range(5):
        graph.add_node("abs", [graph.value("n0")], name="n1")
    for name in ("n1_2", "n1_4"):
        producer = graph.value(name).producer
        assert producer is not None
        graph.erase(producer)
    twin = graph.clone()
    for each in (graph, twin):
        made = [each.add_node("abs", [each.value("n0")], name="n1").name for _ in range(3)]
        assert made == ["n1_2", "n1_4", "n1_6"]


def test_renamed_parameters_keep_their_place() -> None:
    graph = parse("param @a = 1\nparam @b = 2\nparam @c = 3\noutput @a, @b, @c")
    graph.rename(graph.value("b"), "z")
    assert list(graph.parameters) == ["a", "z", "c"]
    assert "b" not in graph.values
    assert check(graph) == []


def test_labels_show_the_place_in_the_users_program() -> None:
    graph = parse('input %x: f32[1]\n%y = relu(%x) loc("m:relu#0" "net.py:3")\n%z = relu(%y)\noutput %z')
    assert [node.label for node in graph.nodes] == ["y [m:relu#0 (net.py:3)]", "z"]
    orders = [node.order for node in graph.nodes]
    assert orders == sorted(set(orders))


def test_used_parameters_and_taken_names_are_refused() -> None:
    graph = parse("input %x: f32[4]\nparam @w = #random(0, [4])\n%y = add(%x, @w)\noutput %y")
    with pytest.raises(PassError, match="cannot erase parameter w: it is used"):
        graph.erase_parameter(graph.value("w"))
    with pytest.raises(PassError, match="cannot rename y: w is taken"):
        graph.rename(graph.value("y"), "w")
    graph.replace_uses(graph.value("w"), graph.value("x"))
    graph.erase_parameter(graph.value("w"))
    assert "w" not in graph.values


def test_operands_follow_a_name_and_absent_tails_vanish() -> None:
    graph = parse("""
        input %x: f32[1,4,8,8]
        param @w = #random(0, [4,4,1,1])
        %y = conv2d(%x, @w, none, %x)
        output %y
    """)
    node = graph.value("y").producer
    assert node is not None
    assert node.operand("residual") is graph.value("x")
    assert node.operand("bias") is None
    assert node.data_operands == [graph.value("x"), graph.value("x")]
    assert graph.value("x").uses == [(node, 0), (node, 3)]
    node.set_input(3, None)
    assert len(node.inputs) == 2
    assert node.operand("residual") is None
    node.set_input(3, graph.value("x"))
    assert node.inputs == (graph.value("x"), graph.value("w"), None, graph.value("x"))


def test_networkx_view_has_one_edge_per_operand() -> None:
    view = parse("input %x: f32[4]\n%a = relu(%x) cpu\n%b = add(%a, %a) bpu.2\noutput %b").to_networkx()
    assert dict(view.nodes(data=True)) == {
        "a": {"op": "relu", "device": "cpu", "subgraph": None},
        "b": {"op": "add", "device": "bpu", "subgraph": 2},
    }
    assert list(view.edges(data="value")) == [("a", "b", "a"), ("a", "b", "a")]
