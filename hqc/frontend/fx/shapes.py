"""Sizes that are not known: partial shapes when no example inputs are given, and the arithmetic that models do with them.

With example inputs every size is a plain int and nothing here matters. Without them, a *partial shape* (a tuple with None for
unknown sizes, or None for an unknown rank) is kept beside each value, so that most networks lower all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hqc.errors import LoweringError
from hqc.ir import Node, Trait
from hqc.ir.ops._shapes import window_size

PartialShape = tuple["int | None", ...]
GIVE_INPUTS = "give example_inputs so that sizes are known"


class UnknownSize:
    """A size of a tensor whose shape is unknown, or something computed from one.

    `axis`: the axis of the value `owner` that it is the size of, None for computed sizes. Using it as a number raises `LoweringError`.
    """

    def __init__(self, text: str, axis: int | None = None, owner: str = "") -> None:
        self.text, self.axis, self.owner = text, axis, owner

    def __repr__(self) -> str:
        return self.text

    def _refuse(self, *_: Any) -> NoReturn:
        raise LoweringError(f"the size {self.text} is not known; {GIVE_INPUTS}")

    __bool__ = __int__ = __index__ = __float__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse

    def __eq__(self, other: object) -> bool:
        if other is not self:
            self._refuse()
        return True

    __hash__ = object.__hash__


def _define_arithmetic() -> None:
    symbols = {"add": "+", "sub": "-", "mul": "*", "floordiv": "//", "truediv": "/", "mod": "%", "pow": "**"}
    for name, symbol in symbols.items():

        def forward(self: UnknownSize, other: object, symbol: str = symbol) -> UnknownSize:
            return UnknownSize(f"({self} {symbol} {other})")

        def reflected(self: UnknownSize, other: object, symbol: str = symbol) -> UnknownSize:
            return UnknownSize(f"({other} {symbol} {self})")

        setattr(UnknownSize, f"__{name}__", forward)
        setattr(UnknownSize, f"__r{name}__", reflected)


_define_arithmetic()
Size = int | UnknownSize


def sizes_of(shape: PartialShape, name: str) -> tuple[Size, ...]:
    """What `x.shape` is to the model's code."""
    return tuple(UnknownSize(f"{name}.shape[{i}]", i, name) if size is None else size for i, size in enumerate(shape))


class UnknownShape:
    """`x.shape` where not even the rank is known: indexing from the front works, nothing else."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, index: Any) -> UnknownSize:
        if isinstance(index, int) and index >= 0:
            return UnknownSize(f"{self.name}.shape[{index}]", index, self.name)
        self._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        raise LoweringError(f"the rank of {self.name} is not known; {GIVE_INPUTS}")

    __iter__ = __len__ = _refuse


def reshape_target(name: str, shape: PartialShape | None, wanted: Sequence[Size]) -> list[int]:
    """The `shape` attribute of a reshape of the value `name` to `wanted` sizes (-1 as in torch), with at most one -1.

    The leading size is written 0 when it is the operand's batch, so that the graph works for any batch. `LoweringError` when
    two sizes are unknown.
    """
    target: list[int] = []
    for position, size in enumerate(wanted):
        own = shape[position] if shape is not None and position < len(shape) else None
        if isinstance(size, UnknownSize):
            copied = size.axis == position and (position == 0 or size.owner == name)  # axis 0 of any value is the batch
            target.append(0 if copied else -1)
        elif position == 0 and own is not None and size == own:
            target.append(0)
        else:
            target.append(int(size))
    if target.count(-1) > 1:
        raise LoweringError(f"the sizes {list(wanted)} are not known; {GIVE_INPUTS}")
    return target


def partial_results(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    """Partial shapes of a node's results from those of its operands; unknown ranks where no rule says more."""
    rule = _RULES.get(node.op.name)
    if rule is not None:
        return rule(node, shapes)
    if node.op.has(Trait.ELEMENTWISE):
        return [_broadcast(shapes)]
    if node.op.has(Trait.BOUNDARY) or node.op.has(Trait.REMOVED):
        return [shapes[0]]
    return [None] * len(node.results)


_Rule = Callable[[Node, Sequence["PartialShape | None"]], "list[PartialShape | None]"]
_RULES: dict[str, _Rule] = {}


def _rule(*names: str) -> Callable[[_Rule], _Rule]:
    def register(function: _Rule) -> _Rule:
        for name in names:
            _RULES[name] = function
        return function

    return register


def _broadcast(shapes: Sequence[PartialShape | None]) -> PartialShape | None:
    known = [shape for shape in shapes if shape is not None]
    if len(known) != len(shapes):
        return None
    result: list[int | None] = []
    for position in range(1, max(map(len, known), default=0) + 1):
        sizes = {shape[-position] for shape in known if len(shape) >= position} - {1}
        fixed = sizes - {None}
        result.append(fixed.pop() if fixed else (None if sizes else 1))
    return tuple(reversed(result))


@_rule("conv2d")
def _conv(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x, weight = shapes[0], shapes[1] or (None,) * 4
    if len(weight) == 3 or (x is not None and len(x) == 3):  # rows
        rows = x or (None,) * 3
        _, width = _windows((1, rows[2]), (1, weight[2]), node)
        return [(rows[0], weight[0], width)]
    x = x or (None,) * 4
    return [(x[0], weight[0], *_windows(x[2:], weight[2:], node))]


def _windows(sizes: PartialShape, kernel: PartialShape, node: Node) -> list[int | None]:
    attributes = node.attributes
    top, left, bottom, right = attributes["padding"]
    dilation, ceil = attributes.get("dilation", (1, 1)), attributes.get("ceil_mode", False)
    result: list[int | None] = []
    for i, pads in enumerate(((top, bottom), (left, right))):
        size, window = sizes[i], kernel[i]
        if size is None or window is None:
            result.append(None)
        else:
            result.append(window_size(size, window, attributes["stride"][i], pads, dilation[i], ceil))
    return result


@_rule("conv_transpose2d")
def _conv_transpose(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x, weight = shapes[0] or (None,) * 4, shapes[1] or (None,) * 4
    return [(x[0], None if weight[1] is None else weight[1] * node.attributes["groups"], None, None)]


@_rule("linear")
def _linear(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x, weight = shapes[0], shapes[1]
    return [None if x is None or weight is None else (*x[:-1], weight[0])]


@_rule("matmul")
def _matmul(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    a, b = shapes[0], shapes[1]
    if a is None or b is None or len(a) < 2 or len(b) < 2:
        return [None]
    lead = _broadcast([a[:-2], b[:-2]])
    assert lead is not None
    return [(*lead, a[-2], b[-1])]


@_rule("max_pool2d", "avg_pool2d")
def _pool(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x = shapes[0] or (None,) * 4
    return [(*x[:2], *_windows(x[2:], node.attributes["kernel"], node))]


@_rule("adaptive_avg_pool2d", "adaptive_max_pool2d")
def _adaptive(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x = shapes[0] or (None,) * 4
    return [(*x[:2], *node.attributes["output_size"])]


@_rule("resize2d")
def _resize(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x = shapes[0] or (None,) * 4
    return [(*x[:2], *(node.attributes["size"] or (None, None)))]


@_rule("batch_norm", "layer_norm", "group_norm", "instance_norm", "softmax", "log_softmax")
def _same(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    return [shapes[0]]


@_rule("prelu")
def _prelu(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    return [shapes[0]]


@_rule("cat")
def _cat(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    known = [shape for shape in shapes if shape is not None]
    if not known:
        return [None]
    rank = len(known[0])
    axis = node.attributes["axis"] % rank
    result: list[int | None] = []
    for i in range(rank):
        sizes = [shape[i] for shape in known]
        if i != axis:
            result.append(next((size for size in sizes if size is not None), None))
        elif len(known) < len(shapes) or None in sizes:
            result.append(None)
        else:
            result.append(sum(size for size in sizes if size is not None))
    return [tuple(result)]


@_rule("split")
def _split(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x, sizes = shapes[0], node.attributes["sizes"]
    if x is None:
        return [None] * len(sizes)
    axis = node.attributes["axis"] % len(x)
    return [(*x[:axis], size, *x[axis + 1 :]) for size in sizes]


@_rule("slice")
def _slice(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    if shapes[0] is None:
        return [None]
    result, a = list(shapes[0]), node.attributes
    steps = a["steps"] or (1,) * len(a["axes"])
    for axis, start, end, step in zip(a["axes"], a["starts"], a["ends"], steps, strict=True):
        size = result[axis]
        result[axis] = None if size is None else len(range(*slice(start, end, step).indices(size)))
    return [tuple(result)]


@_rule("transpose")
def _transpose(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    perm = node.attributes["perm"]
    x = shapes[0] or (None,) * len(perm)
    return [tuple(x[axis] for axis in perm)]


@_rule("reshape")
def _reshape(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    target, x = node.attributes["shape"], shapes[0]
    result: list[int | None] = []
    for position, size in enumerate(target):
        if size == 0:
            result.append(x[position] if x is not None and position < len(x) else None)
        else:
            result.append(None if size == -1 else size)
    if x is not None and -1 in target:  # what remains, when nothing but copied sizes is unknown
        copied = [i for i, size in enumerate(target) if size == 0]
        rest = [size for i, size in enumerate(x) if i not in copied]
        given = [size for size in target if size > 0]
        if None not in rest:
            total = 1
            for size in rest:
                total *= size or 1
            for size in given:
                total //= size
            result[target.index(-1)] = total
    return [tuple(result)]


@_rule("expand")
def _expand(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    target, x = node.attributes["shape"], shapes[0]
    lead = len(target) - len(x) if x is not None else 0
    return [tuple((x[i - lead] if x is not None and i >= lead else None) if n == -1 else n for i, n in enumerate(target))]


@_rule("tile")
def _tile(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x = shapes[0]
    if x is None:
        return [None]
    return [tuple(None if size is None else size * n for size, n in zip(x, node.attributes["repeats"], strict=True))]


@_rule("pad")
def _pad(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    pads = node.attributes["pads"]
    rank = len(pads) // 2
    x = shapes[0] or (None,) * rank
    return [tuple(None if size is None else size + pads[i] + pads[rank + i] for i, size in enumerate(x))]


@_rule("pixel_shuffle")
def _pixel_shuffle(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    n, c, h, w = shapes[0] or (None,) * 4
    f = node.attributes["factor"]
    return [(n, None if c is None else c // (f * f), None if h is None else h * f, None if w is None else w * f)]


@_rule("pixel_unshuffle")
def _pixel_unshuffle(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    n, c, h, w = shapes[0] or (None,) * 4
    f = node.attributes["factor"]
    return [(n, None if c is None else c * f * f, None if h is None else h // f, None if w is None else w // f)]


@_rule("mean", "sum", "reduce_max", "reduce_min")
def _reduce(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x = shapes[0]
    if x is None:
        return [None]
    axes = {axis % len(x) for axis in node.attributes["axes"]} or set(range(len(x)))
    if node.attributes["keepdims"]:
        return [tuple(1 if i in axes else size for i, size in enumerate(x))]
    return [tuple(size for i, size in enumerate(x) if i not in axes)]


@_rule("argmax", "argmin")
def _arg(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x = shapes[0]
    if x is None:
        return [None]
    axis = node.attributes["axis"] % len(x)
    kept = (1,) if node.attributes["keepdims"] else ()
    return [(*x[:axis], *kept, *x[axis + 1 :])]


@_rule("gather")
def _gather(node: Node, shapes: Sequence[PartialShape | None]) -> list[PartialShape | None]:
    x, indices = shapes[0], shapes[1]
    if x is None or indices is None:
        return [None]
    axis = node.attributes["axis"] % len(x)
    return [(*x[:axis], *indices, *x[axis + 1 :])]
