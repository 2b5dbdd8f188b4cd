"""Recurrent layers as one operation: exporters write each direction-and-layer of them as a node of its own, with changes of layout between.

ONNX's nodes want `[time, batch, features]` and make `[time, directions, batch, features]`. What leads from one layer to the next, the
transposes of `batch_first` on either side and the states of all layers put together belong to the operation, as they do in torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from hqc.frontend.onnx.kept import Array, KeptNode
from hqc.ir import Graph, Node, Trait, Value

_KINDS = ("LSTM", "GRU", "RNN")
_SWAP, _BESIDE = (1, 0, 2), (0, 2, 1, 3)


def join_recurrent(graph: Graph, opaque: dict[str, KeptNode]) -> None:
    """Join recurrent layers in `graph` with what belongs to them, in place; `opaque` follows."""
    seen: set[Node] = set()
    for node in list(graph.nodes):
        if node in seen or not _is_recurrent(node, opaque):
            continue
        stack = _stack(node, opaque)
        seen.update(stack)
        members = _with_layout(stack)
        if len(members) > 1:
            _join(graph, members, stack, opaque)


def _is_recurrent(node: Node | None, opaque: Mapping[str, KeptNode]) -> bool:
    if node is None or not node.op.has(Trait.OPAQUE):
        return False
    kept = opaque.get(str(node.attributes["id"]))
    return kept is not None and kept.node.op_type in _KINDS and not _layout_of(kept)


def _layout_of(kept: KeptNode) -> int:
    return next((item.i for item in kept.node.attribute if item.name == "layout"), 0)


def _stack(first: Node, opaque: Mapping[str, KeptNode]) -> list[Node]:
    """`first` and the layers of its kind that read nothing but the one before."""
    stack, kind = [first], opaque[str(first.attributes["id"])].node.op_type
    while True:
        found = _sequence(stack[-1])
        after = None if found is None else _only_reader(found[0])
        if found is None or after is None or not _is_recurrent(after, opaque) or after.operands != [found[0]]:
            return stack
        if opaque[str(after.attributes["id"])].node.op_type != kind:
            return stack
        stack.append(after)


def _only_reader(value: Value) -> Node | None:
    graph, users = None if value.producer is None else value.producer.graph, value.users
    return users[0] if graph is not None and len(users) == 1 and not graph.is_output(value) else None


def _sequence(layer: Node) -> tuple[Value, list[Node]] | None:
    """What a layer makes as `[time, batch, features]`, and the nodes that bring it into that shape."""
    value, path = layer.results[0], list[Node]()
    if value.shape is None or len(value.shape) != 4:
        return None
    time, directions, batch, features = value.shape
    user = _only_reader(value)
    if user is not None and user.op.name == "transpose" and tuple(user.attributes["perm"]) == _BESIDE:
        path.append(user)
        user = _only_reader(user.result)
    elif directions != 1:
        return None
    if user is None or user.op.name != "reshape" or user.result.shape != (time, batch, directions * features):
        return None
    return user.result, [*path, user]


def _with_layout(stack: list[Node]) -> list[Node]:
    """The layers and the nodes that belong to them, in program order."""
    members = dict.fromkeys(stack)
    for layer in stack:
        found = _sequence(layer)
        members.update(dict.fromkeys(found[1] if found is not None else ()))
    members.update(dict.fromkeys(_batch_first(stack)))
    for layer in stack:
        for state in layer.results[1:]:
            for user in state.users:
                if user.op.name == "cat" and all(value.producer in members for value in user.operands):
                    members[user] = None
    return sorted(members, key=lambda node: node.order)


def _batch_first(stack: list[Node]) -> list[Node]:
    """The transposes on either side of the layers that `batch_first` means; a transpose that the exporter joined with one of the model
    becomes two again."""
    end = _sequence(stack[-1])
    before, after = stack[0].operands[0].producer, None if end is None else _only_reader(end[0])
    if before is None or after is None or any(node.op.name != "transpose" for node in (before, after)):
        return []
    if _only_reader(before.result) is not stack[0]:
        return []
    first, last = tuple(before.attributes["perm"]), tuple(after.attributes["perm"])
    graph = before.graph
    assert graph is not None
    if first != _SWAP:
        perm = [first[axis] for axis in _SWAP]
        moved = graph.unique_name(f"{before.name}_moved")
        own = graph.add_node(
            "transpose", before.operands, {"perm": perm}, name=moved, loc=before.loc, origin=(moved,), before=before
        )
        before.set_input(0, own.result)
        before.attributes = {**before.attributes, "perm": _SWAP}
    if last != _SWAP:
        perm = [_SWAP[axis] for axis in last]
        moved = graph.unique_name(f"{after.name}_swapped")
        swap = graph.add_node(
            "transpose", after.operands, {"perm": _SWAP}, name=moved, loc=after.loc, origin=(moved,), before=after
        )
        after.set_input(0, swap.result)
        after.attributes = {**after.attributes, "perm": tuple(perm)}
        after = swap
    return [before, after]


# --- joining ------------------------------------------------------------------------------------------------------------------


def _join(graph: Graph, members: list[Node], stack: list[Node], opaque: dict[str, KeptNode]) -> None:
    inside = {value for node in members for value in node.results}
    inputs = [value for value in dict.fromkeys(value for node in members for value in node.operands) if value not in inside]
    results = [value for node in members for value in node.results if _is_read_outside(value, members)]
    results.sort(key=lambda value: value.producer in stack)  # the sequence first, as torch returns it
    ready = [value.producer.order for value in inputs if value.producer is not None]
    readers = [user.order for value in results for user in value.users if user not in members]
    if not results or any(value.is_parameter for value in inputs) or max(ready, default=-1) >= min(readers, default=math.inf):
        return
    constants: dict[str, Array] = {}
    nodes = tuple(_written(node, opaque, constants) for node in members)
    identifier = str(stack[0].attributes["id"])
    names = [value.name for value in results]
    kept = replace(
        opaque[identifier], parts=nodes, inputs=tuple(value.name for value in inputs), results=tuple(names), constants=constants
    )
    for value in results:
        graph.rename(value, graph.unique_name(f"{value.name}_step"))
    joined = graph.add_node(
        "opaque",
        inputs,
        {"id": identifier},
        name=names,
        loc=stack[0].loc,
        origin=(names[0],),
        before=next(node for node in members if node.order > max(ready, default=-1)),
        types=[value.type for value in results],
    )
    for old, new in zip(results, joined.results, strict=True):
        graph.replace_uses(old, new)
    for node in reversed(members):
        graph.erase(node)
    for node in stack:
        opaque.pop(str(node.attributes["id"]), None)
    opaque[identifier] = kept


def _is_read_outside(value: Value, members: list[Node]) -> bool:
    graph = members[0].graph
    return (graph is not None and graph.is_output(value)) or any(user not in members for user in value.users)


def _written(node: Node, opaque: Mapping[str, KeptNode], constants: dict[str, Array]) -> onnx.NodeProto:
    """`node` as ONNX writes it, on the names of the IR's values; the constants that it reads are added to `constants`."""
    names = [value.name for value in node.operands]
    results = [value.name for value in node.results]
    if node.op.has(Trait.OPAQUE):
        kept = opaque[str(node.attributes["id"])]
        renamed = {**dict(zip(kept.inputs, names, strict=True)), **dict(zip(kept.outputs, results, strict=True))}
        for name, array in kept.constants.items():
            renamed[name] = f"{results[0]}:{name}"
            constants[renamed[name]] = array
        copy = onnx.NodeProto()
        copy.CopyFrom(kept.node)
        for field in (copy.input, copy.output):
            field[:] = [renamed.get(name, name) for name in field]
        return copy
    attributes = dict(node.attributes)
    if node.op.name == "transpose":
        return onnx.helper.make_node("Transpose", names, results, perm=list(attributes["perm"]))
    if node.op.name == "cat":
        return onnx.helper.make_node("Concat", names, results, axis=int(attributes["axis"]))
    constants[f"{results[0]}:shape"] = np.array(node.result.shape, np.int64)
    return onnx.helper.make_node("Reshape", [*names, f"{results[0]}:shape"], results)
