"""Ops that move elements without computing."""

from __future__ import annotations

from hqc.backends.onnx.builder import Builder
from hqc.backends.onnx.emitters._operands import cast_to, shapes, type_of, widen
from hqc.backends.onnx.registry import emitter
from hqc.ir import DType, Node

# Element types that onnxruntime moves with these ops at opset 11; others pass through the first that holds them.
_PAD = (DType.FLOAT32, DType.FLOAT64, DType.INT8, DType.UINT8, DType.INT32, DType.INT64)
_DEPTH_TO_SPACE = (DType.FLOAT32, DType.FLOAT64)  # onnxruntime 1.18 to 1.23 has no other kernels


@emitter("identity", "dropout")
def identity(node: Node, b: Builder) -> str:
    return b("Identity", b.operand(node, 0))


@emitter("reshape")
def reshape(node: Node, b: Builder) -> str:
    return b("Reshape", b.operand(node, 0), b.ints(shapes(node)[1], "shape"))


@emitter("transpose")
def transpose(node: Node, b: Builder) -> str:
    return b("Transpose", b.operand(node, 0), perm=list(node.attributes["perm"]))


@emitter("slice")
def slice_(node: Node, b: Builder) -> str:
    """Bounds are resolved here, so that negative ones and those past the end mean what Python means."""
    given, _ = shapes(node)
    axes = [axis % len(given) for axis in node.attributes["axes"]]
    steps = node.attributes["steps"] or (1,) * len(axes)
    if not axes:
        return b("Identity", b.operand(node, 0))
    bounds = [
        slice(start, end, step).indices(given[axis])
        for axis, start, end, step in zip(axes, node.attributes["starts"], node.attributes["ends"], steps, strict=True)
    ]
    return b(
        "Slice",
        b.operand(node, 0),
        b.ints([start for start, _, _ in bounds], "starts"),
        b.ints([end for _, end, _ in bounds], "ends"),
        b.ints(axes, "axes"),
        b.ints(steps, "steps"),
    )


@emitter("split")
def split(node: Node, b: Builder) -> list[str]:
    sizes = list(node.attributes["sizes"])
    return b.multi("Split", b.operand(node, 0), count=len(sizes), axis=node.attributes["axis"], split=sizes)


@emitter("cat")
def cat(node: Node, b: Builder) -> str:
    operands = [b.operand(node, index) for index in range(len(node.inputs))]
    return b("Concat", *operands, axis=node.attributes["axis"])


@emitter("pad")
def pad(node: Node, b: Builder) -> str:
    """Pad; a negative amount crops, which ONNX spells as a slice."""
    given, _ = shapes(node)
    pads, rank, dtype = node.attributes["pads"], len(given), type_of(node)
    x = b.operand(node, 0)
    if any(amount < 0 for amount in pads):
        crops = [i for i in range(rank) if pads[i] < 0 or pads[rank + i] < 0]
        starts = [max(-pads[i], 0) for i in crops]
        ends = [given[i] - max(-pads[rank + i], 0) for i in crops]
        x = b("Slice", x, b.ints(starts, "starts"), b.ints(ends, "ends"), b.ints(crops, "axes"))
        pads = [max(amount, 0) for amount in pads]
    if not any(pads):
        return b("Identity", x)
    x, wide = widen(b, x, dtype, *_PAD)
    mode = node.attributes["mode"]
    value = b.scalar(node.attributes["value"], wide) if mode == "constant" else None
    return cast_to(b, b("Pad", x, b.ints(pads, "pads"), value, mode=mode), wide, dtype)


@emitter("pixel_shuffle")
def pixel_shuffle(node: Node, b: Builder) -> str:
    x, wide = widen(b, b.operand(node, 0), type_of(node), *_DEPTH_TO_SPACE)
    return cast_to(b, b("DepthToSpace", x, blocksize=node.attributes["factor"], mode="CRD"), wide, type_of(node))


@emitter("pixel_unshuffle")
def pixel_unshuffle(node: Node, b: Builder) -> str:
    """SpaceToDepth orders channels the other way round, so reshape and transpose."""
    (n, c, h, w), result = shapes(node)
    f = node.attributes["factor"]
    blocks = b("Reshape", b.operand(node, 0), b.ints([n, c, h // f, f, w // f, f]))
    return b("Reshape", b("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4]), b.ints(result, "shape"))


@emitter("expand")
def expand(node: Node, b: Builder) -> str:
    return b("Expand", b.operand(node, 0), b.ints(shapes(node)[1], "shape"))


@emitter("tile")
def tile(node: Node, b: Builder) -> str:
    return b("Tile", b.operand(node, 0), b.ints(node.attributes["repeats"], "repeats"))


@emitter("gather")
def gather(node: Node, b: Builder) -> str:
    dtype = type_of(node, 1)
    indices = b.operand(node, 1)
    if dtype not in (DType.INT32, DType.INT64):
        indices = cast_to(b, indices, dtype, DType.INT64)
    return b("Gather", b.operand(node, 0), indices, axis=node.attributes["axis"])
