"""Operations of the model that are several nodes: which of them are written step by step, so that each step has a device of its own."""

from __future__ import annotations

from collections.abc import Sequence

from hqc.errors import PassError
from hqc.ir import Graph, Node, Trait

_WHOLE = (Trait.WEIGHTED, Trait.OPAQUE, Trait.TRAINING, Trait.BOUNDARY)


def is_divisible(name: str, members: Sequence[Node]) -> bool:
    """True when the operation `name`, which became the nodes `members` (in program order), is placed and written as those nodes.

    So are products (attention, contractions), and what changes the layout around one step that computes (a one-dimensional pool): in a
    file they are nodes of their own. Formulas (norms, variances, remainders) stay whole: what they compute on the way deserves more than
    eight bits. So do layers, what acts in training, what the IR does not look into, and what another operation reads or took a step
    of (but a last change of layout).
    """
    *inner, last = members
    if any(node.op.has(trait) for node in members for trait in _WHOLE) or any(len(node.results) > 1 for node in members):
        return False
    computing = [node for node in members if not node.op.has(Trait.LAYOUT_ONLY) and not _is_early_stage(node)]
    if len(computing) != 1 and all(node.op.macs is None for node in computing):
        return False
    if any(node.origin[-1:] != (name,) or node.origin.count(name) > 1 for node in inner):
        return False
    if last.origin[-1:] != (name,) and not last.op.has(Trait.LAYOUT_ONLY):
        return False
    graph, own = last.graph, set(members)
    return graph is not None and not any(
        graph.is_output(node.result) or any(user not in own for user in node.result.users if not user.op.has(Trait.BOUNDARY))
        for node in inner
    )


def _is_early_stage(node: Node) -> bool:
    """True for a stage of an average that another stage finishes: together they are one step."""
    return "gain" in node.attributes and any("gain" in user.attributes for user in node.result.users)


def divided(graph: Graph) -> set[str]:
    """The operations of the model whose nodes run on both devices: each node is placed under its own name.

    `PassError` where an operation that cannot be divided is.
    """
    members_of: dict[str, list[Node]] = {}
    for node in graph.nodes:
        if not node.op.has(Trait.BOUNDARY):
            for name in dict.fromkeys(node.origin):
                members_of.setdefault(name, []).append(node)
    found = set()
    for name, members in members_of.items():
        first = members[0]
        other = next((node for node in members if node.device is not first.device), None)
        if other is None:
            continue
        if not is_divisible(name, members):
            raise PassError(
                f"{name} is split between the devices: {_where(first)}, {_where(other, verb='')}; an operation of the model that "
                "cannot be written as its parts has one device"
            )
        found.add(name)
    return found


def _where(node: Node, verb: str = " runs") -> str:
    return f"{node.name}{verb} on {node.device.value if node.device is not None else 'no device'}"
