"""2-D pooling and resizing of `[N,C,H,W]`."""

from __future__ import annotations

from hqc.errors import ShapeError
from hqc.ir.op import Attr, Attributes, OperandTypes, Trait, op
from hqc.ir.ops._shapes import first, require_rank, window_size
from hqc.ir.types import TensorType

_WINDOW = (
    Attr("kernel", "ints", required=True, length=2, minimum=1),
    Attr("stride", "ints", required=True, length=2, minimum=1),
    Attr("padding", "ints", (0, 0, 0, 0), length=4, minimum=0),  # top, left, bottom, right
    Attr("ceil_mode", "bool", False),
)


def _pooled(types: OperandTypes, attributes: Attributes, dilation: tuple[int, int] = (1, 1)) -> list[TensorType]:
    x = first(types)
    require_rank(x, (4,))
    if x.shape is None:
        return [x]
    top, left, bottom, right = attributes["padding"]
    pads = ((top, bottom), (left, right))
    sizes = [
        window_size(
            x.shape[2 + i], attributes["kernel"][i], attributes["stride"][i], pads[i], dilation[i], attributes["ceil_mode"]
        )
        for i in range(2)
    ]
    return [x.with_shape((*x.shape[:2], *sizes))]


@op(
    "max_pool2d",
    operands="x",
    attributes=(*_WINDOW, Attr("dilation", "ints", (1, 1), length=2, minimum=1)),
    traits={Trait.PASS_THROUGH},
)
def max_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Maximum over windows; padding counts as minus infinity."""
    return _pooled(types, attributes, attributes["dilation"])


@op("avg_pool2d", operands="x", attributes=(*_WINDOW, Attr("count_include_pad", "bool", True)), traits={Trait.AVERAGE})
def avg_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """Mean over windows; torch's divisor rules for padding and ceil mode."""
    return _pooled(types, attributes)


@op(
    "gain_pool2d",
    operands="x",
    attributes=(*_WINDOW, Attr("gain", "int", required=True, minimum=1)),
    traits={Trait.PASS_THROUGH, Trait.OFF_GRID},
)
def gain_pool2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`sum * gain / 512` over windows, padding counting as 0: the mean of BPUs that cannot divide (`(sum * gain) >> 9`)."""
    return _pooled(types, attributes)


_SIZE = (Attr("output_size", "ints", required=True, length=2, minimum=1),)


def _adaptive(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    x = first(types)
    require_rank(x, (4,))
    return [x if x.shape is None else x.with_shape((*x.shape[:2], *attributes["output_size"]))]


adaptive_avg_pool2d = op(
    "adaptive_avg_pool2d",
    operands="x",
    attributes=_SIZE,
    traits={Trait.AVERAGE},
    doc="Mean over windows chosen so that the result has `output_size`.",
)(_adaptive)
adaptive_max_pool2d = op(
    "adaptive_max_pool2d",
    operands="x",
    attributes=_SIZE,
    traits={Trait.PASS_THROUGH},
    doc="Maximum over windows chosen so that the result has `output_size`.",
)(_adaptive)


@op(
    "resize2d",
    operands="x",
    attributes=(
        Attr("size", "optional_ints", length=2, minimum=1),
        Attr("scale_factor", "floats", (), length=2, minimum=0),  # (h, w), used when size is None
        Attr("mode", "str", "nearest", choices=("nearest", "bilinear", "bicubic")),
        Attr("align_corners", "bool", False),
    ),
    traits={Trait.PASS_THROUGH, Trait.OFF_GRID},
)
def resize2d(types: OperandTypes, attributes: Attributes) -> list[TensorType]:
    """`torch.nn.functional.interpolate` in 2-D; the output size is `size`, or `floor(in * scale_factor)`."""
    x = first(types)
    require_rank(x, (4,))
    if x.shape is None:
        return [x]  # the size may come from a tensor of unknown shape: then neither attribute is there yet
    if attributes["size"] is None and len(attributes["scale_factor"]) != 2:
        raise ShapeError("resize2d needs size=(h, w) or scale_factor=(h, w)")
    size = attributes["size"]
    if size is None:
        size = tuple(int(n * f) for n, f in zip(x.shape[2:], attributes["scale_factor"], strict=True))
        if min(size) < 1:
            raise ShapeError(f"resize2d by {list(attributes['scale_factor'])} leaves nothing of {list(x.shape)}")
    return [x.with_shape((*x.shape[:2], *size))]
