"""Sizes that steered the model's control flow: the graph is right only for inputs of which the same is true.

A trace takes `if x.shape[2] % 8:` with the size of the example inputs. The size stays a call in the graph, what was assumed of
it is recorded in `graph_module.meta["hqc_assumptions"]`, and `check_assumption` is what an emitted model calls with the value.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import fx

from hqc.errors import ShapeError
from hqc.structures import reached

ASSUMPTIONS_META = "hqc_assumptions"
"""Key in `graph_module.meta` of the list of `Assumption`s of a trace."""
_SYMBOLS: dict[Any, str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.floordiv: "//",
    operator.truediv: "/",
    operator.mod: "%",
    operator.pow: "**",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
    operator.eq: "==",
    operator.ne: "!=",
    operator.and_: "&",
    operator.or_: "|",
}
_RANK_READS = {"dim", "ndimension", "ndim"}
_TYPE_READS = {"dtype", "device", "layout", "requires_grad", "is_cuda", "is_floating_point", "is_complex", "is_contiguous"}
_SIZE_READS = {"shape", "size", "numel", "nelement", "stride", "nbytes"}


@dataclass(frozen=True)
class Assumption:
    """That the node called `node` has the value `value` (as a truth value when `truth`).

    `source`: the user's line that needed it. `text`: the whole sentence.
    """

    node: str
    value: Any
    truth: bool
    source: str
    text: str

    def __str__(self) -> str:
        return self.text


@fx.node.has_side_effect
def check_assumption(value: Any, expected: Any, truth: bool, text: str) -> None:
    """Raise `ShapeError` with the assumption's sentence unless `value` is what the trace assumed."""
    if (bool(value) if truth else value) != expected:
        raise ShapeError(f"{text}; these inputs give {value}: prepare the model again with example_inputs of these sizes")


def assumption(node: fx.Node, value: Any, truth: bool, source: str) -> Assumption:
    """What is recorded when the user's line `source` needed the value of `node`."""
    where = f"{source}: " if source else ""
    shown: Any = value
    if truth and not isinstance(value, bool):
        shown, value = f"{'not ' if value else ''}{type(value)()!r}", bool(value)
    text = f"{where}the graph is right where `{expression(node)}` is {shown}, as with the example inputs"
    return Assumption(node.name, value, truth, source, text)


def is_size(node: fx.Node) -> bool:
    """True for what is asked about the shape or type of a tensor, and what is computed from such answers alone."""
    return _asks(node, _SIZE_READS | _RANK_READS | _TYPE_READS)


def depends_on_sizes(node: fx.Node) -> bool:
    """True where other sizes of the inputs may give another value: not for ranks, dtypes and devices."""
    return any(_reads_sizes(each) for each in reached(node, _computed_from))


def _reads_sizes(node: fx.Node) -> bool:
    if _is_fixed(node):
        return False
    return _read(node) in _SIZE_READS or (node.op == "call_module")


def _is_fixed(node: fx.Node) -> bool:
    """True for what no size of the inputs changes."""
    return _read(node) in _RANK_READS | _TYPE_READS or (node.target is len and has_fixed_length(_operand(node)))


def _computed_from(node: fx.Node) -> Sequence[fx.Node]:
    """What says whether `node` depends on sizes, where it does not say so itself."""
    looks_behind = node.op in ("call_function", "call_method") and not _is_fixed(node) and _read(node) not in _SIZE_READS
    return node.all_input_nodes if looks_behind else ()


def has_fixed_length(node: fx.Node) -> bool:
    """True for a shape, and for what was cut into a number of parts."""
    if _read(node) in ("shape", "size"):
        return True
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "chunk":
        return True
    parts = node.args[1] if len(node.args) > 1 else node.kwargs.get("split_size", node.kwargs.get("split_size_or_sections"))
    return name in ("split", "split_with_sizes") and isinstance(parts, (list, tuple))


def _asks(node: fx.Node, names: set[str]) -> bool:
    pending, seen = [node], set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if _read(current) in names:
            continue
        if current.op not in ("call_function", "call_method") or not current.all_input_nodes:
            return False
        pending.extend(current.all_input_nodes)
    return True


def _operand(node: fx.Node) -> fx.Node:
    found = node.args[0] if node.args else None
    return found if isinstance(found, fx.Node) else node


def _read(node: fx.Node) -> str | None:
    """The attribute or query that `node` reads, if it does."""
    if node.op == "call_function" and node.target is getattr and len(node.args) == 2:
        return str(node.args[1])
    if node.op == "call_method":
        return str(node.target)
    return None


def expression(node: Any, depth: int = 0) -> str:
    """The Python expression that `node` stands for, as far as it is short."""
    if not isinstance(node, fx.Node):
        return repr(node)
    if depth > 6 or node.op not in ("call_function", "call_method"):
        return node.name
    inner: Callable[[Any], str] = lambda item: expression(item, depth + 1)  # noqa: E731 (a partial of this function)
    if node.target is getattr:
        return f"{inner(node.args[0])}.{node.args[1]}"
    if node.target is operator.getitem:
        return f"{inner(node.args[0])}[{_index(node.args[1], inner)}]"
    if node.target in _SYMBOLS and len(node.args) == 2:
        left, right = (f"({inner(arg)})" if _is_compound(arg) else inner(arg) for arg in node.args)
        return f"{left} {_SYMBOLS[node.target]} {right}"
    if node.op == "call_method":
        if str(node.target) not in _SIZE_READS | _RANK_READS:
            return node.name
        return f"{inner(node.args[0])}.{node.target}({', '.join(map(inner, node.args[1:]))})"
    name = getattr(node.target, "__name__", "")
    if (node.target is len or is_size(node)) and not node.kwargs:
        return f"{name}({', '.join(map(inner, node.args))})"
    return node.name


def _is_compound(arg: Any) -> bool:
    return isinstance(arg, fx.Node) and arg.op == "call_function" and arg.target in _SYMBOLS


def _index(index: Any, inner: Callable[[Any], str]) -> str:
    if isinstance(index, slice):
        parts = ["" if part is None else inner(part) for part in (index.start, index.stop)]
        return ":".join(parts) + (f":{inner(index.step)}" if index.step is not None else "")
    return inner(index)
