"""Element types, tensor types, quantization parameters and locations: the immutable vocabulary of the IR."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.arithmetic import ROUNDINGS
from hqc.checked import explained
from hqc.errors import printable

_NUMPY = {
    "f32": "float32",
    "f64": "float64",
    "i8": "int8",
    "u8": "uint8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "b1": "bool",
}


class DType(enum.Enum):
    """Element type of a tensor; the value is its spelling in IR text.

    `numpy`: the NumPy dtype with the same bits. `bits`: width in bits. `is_float`: real numbers rather than integers or truth.
    """

    FLOAT32 = "f32"
    FLOAT64 = "f64"
    INT8 = "i8"
    UINT8 = "u8"
    INT16 = "i16"
    INT32 = "i32"
    INT64 = "i64"
    BOOL = "b1"

    def __init__(self, text: str) -> None:
        self.numpy: np.dtype[Any] = np.dtype(_NUMPY[text])
        self.bits: int = self.numpy.itemsize * 8
        self.is_float: bool = self.numpy.kind == "f"

    @property
    def qmin(self) -> int:
        """Smallest integer of the type."""
        return int(np.iinfo(self.numpy).min)

    @property
    def qmax(self) -> int:
        """Largest integer of the type."""
        return int(np.iinfo(self.numpy).max)

    def holds(self, number: float) -> bool:
        """True when the type has the number, up to rounding to a whole one: any real, or an integer in range."""
        if self.is_float:
            return True
        return number in (0, 1) if self is DType.BOOL else self.qmin <= number <= self.qmax

    @classmethod
    def from_numpy(cls, dtype: npt.DTypeLike) -> DType:
        """The IR type of a NumPy dtype; `TypeError` for one the IR has no type for."""
        try:
            return _FROM_NUMPY[np.dtype(dtype)]
        except KeyError:
            raise TypeError(f"the IR has no element type for NumPy's {np.dtype(dtype)}") from None


_FROM_NUMPY = {dtype.numpy: dtype for dtype in DType}

Shape = tuple[int, ...]
Sizes = tuple["int | None", ...]

LARGEST_SIZE = 1 << 40
"""Of one axis. Arithmetic on sizes, in floats too, is exact below."""


@explained
@dataclass(frozen=True)
class TensorType:
    """dtype and sizes of a value.

    `sizes`: one entry per axis, None where a size is not known; None altogether while the rank is not known. `shape`: the sizes
    where every one is known, else None: whoever asks for a shape cannot take an unknown size for a number.
    """

    dtype: DType
    sizes: Sizes | None = None
    shape: Shape | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", None if self.sizes is None or None in self.sizes else self.sizes)

    @property
    def rank(self) -> int | None:
        return None if self.sizes is None else len(self.sizes)

    @cached_property
    def is_empty(self) -> bool:
        """True when some size is known to be 0 (or, of a crop, less)."""
        return any(size is not None and size < 1 for size in self.sizes or ())

    @property
    def is_endless(self) -> bool:
        """True when some size is known to be beyond what any machine holds, or counts."""
        return any(size is not None and size > LARGEST_SIZE for size in self.sizes or ())

    def agrees(self, other: TensorType) -> bool:
        """True when both may be the type of one value: same dtype, and no size that both know differs."""
        if self is other or self.dtype is not other.dtype or self.sizes is None or other.sizes is None:
            return self.dtype is other.dtype
        return len(self.sizes) == len(other.sizes) and all(
            a is None or b is None or a == b for a, b in zip(self.sizes, other.sizes, strict=True)
        )

    @property
    def size(self) -> int | None:
        """Number of elements, None when the shape is unknown."""
        return None if self.shape is None else math.prod(self.shape)

    @property
    def nbytes(self) -> int | None:
        size = self.size
        return None if size is None else size * self.dtype.numpy.itemsize

    def with_shape(self, sizes: Sizes | None) -> TensorType:
        """The same dtype with other sizes; this very object when they are the same."""
        if sizes == self.sizes:
            return self
        return TensorType(self.dtype, sizes)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.sizes)

    def __str__(self) -> str:
        """`f32[1,3,8,8]`, `f32[?,3,?,?]`, or `f32[*]` where not even the rank is known."""
        if self.sizes is None:
            return f"{self.dtype.value}[*]"
        return f"{self.dtype.value}[{','.join('?' if size is None else str(size) for size in self.sizes)}]"


@explained
class QuantParams:
    """Symmetric quantization of a real-valued tensor: `real = scale * integer`, zero point 0.

    `scale`: float32, shape `()` per tensor or `(C,)` per channel along `axis`; always finite and positive.
    `dtype`: the integer type that stores the value (int8, int16, int32). `fixed`: the user fixed the scale, so
    nothing may change it. `rounding`: how reals become integers, one of `ROUNDINGS`. Immutable; equality compares bits.
    """

    __slots__ = ("axis", "dtype", "fixed", "rounding", "scale")

    scale: npt.NDArray[np.float32]
    dtype: DType
    axis: int | None
    fixed: bool
    rounding: str

    def __init__(
        self,
        scale: npt.ArrayLike,
        dtype: DType = DType.INT8,
        axis: int | None = None,
        *,
        fixed: bool = False,
        rounding: str = "half_even",
    ) -> None:
        try:
            array = np.array(scale, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError("a scale is a number, or one number for each channel") from None
        if axis is None and array.ndim == 1 and array.size == 1:
            array = array.reshape(())
        if array.ndim != (0 if axis is None else 1):
            raise ValueError(f"scale of shape {array.shape} does not go with axis={axis}")
        if not (0.0 < array.item() < math.inf if array.ndim == 0 else np.isfinite(array).all() and (array > 0).all()):
            raise ValueError(f"scales must be finite and positive, got {array}")
        if rounding not in ROUNDINGS:
            raise ValueError(f"unknown rounding {rounding!r}; known: {', '.join(ROUNDINGS)}")
        array.setflags(write=False)
        for name, value in zip(_QUANT_FIELDS, (array, dtype, axis, fixed, rounding), strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("QuantParams is immutable")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_quant, (np.array(self.scale), self.dtype, self.axis, self.fixed, self.rounding)

    def replace(self, **fields: Any) -> QuantParams:
        """The same quantization with other values of the named fields."""
        return _rebuild_quant(*({name: getattr(self, name) for name in _QUANT_FIELDS} | fields).values())

    @property
    def per_channel(self) -> bool:
        return self.axis is not None

    def same_grid(self, other: QuantParams | None) -> bool:
        """True when equal integers stand for equal reals in both (`fixed` and `rounding` do not matter)."""
        return (
            other is not None
            and self.dtype is other.dtype
            and self.axis == other.axis
            and self.scale.tobytes() == other.scale.tobytes()
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, QuantParams)
            and self.same_grid(other)
            and self.fixed == other.fixed
            and self.rounding == other.rounding
        )

    def __hash__(self) -> int:
        return hash((self.scale.tobytes(), self.dtype, self.axis, self.fixed, self.rounding))

    def __repr__(self) -> str:
        text = f"scale={self.scale.tolist()}, dtype={self.dtype.value}, axis={self.axis}, fixed={self.fixed}"
        return f"QuantParams({text}, rounding={self.rounding})" if self.rounding != "half_even" else f"QuantParams({text})"


_QUANT_FIELDS = ("scale", "dtype", "axis", "fixed", "rounding")


def _rebuild_quant(scale: Any, dtype: DType, axis: int | None, fixed: bool, rounding: str) -> QuantParams:
    return QuantParams(scale, dtype, axis, fixed=fixed, rounding=rounding)


GROUP_POLICIES = ("union", "operand")


@explained
@dataclass(frozen=True)
class Observation:
    """What training must observe at a value, before its scale is known.

    `dtype`: of the activation, int8 or int16. `rounding`: how it is quantized. `group`: name of the first member, in program
    order, of the values that share its scale; "" when it is alone. `policy`: where the scale comes from: `union`, the union of
    the members' ranges; `operand`, no statistics of its own,
    the scale of the node's first operand (a result that keeps its operand's scale but leaves its grid). `source`: the qconfig
    entry that decided, as text. `qconfig`: the key under which the workflow finds what makes the fake quant.
    """

    dtype: DType
    rounding: str = "half_even"
    group: str = ""
    policy: str = "union"
    source: str = ""
    qconfig: str = ""

    def __post_init__(self) -> None:
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"unknown rounding {self.rounding!r}; known: {', '.join(ROUNDINGS)}")
        if self.policy not in GROUP_POLICIES:
            raise ValueError(f"unknown policy {self.policy!r}; known: {', '.join(GROUP_POLICIES)}")


class Device(enum.Enum):
    """Where a node runs."""

    CPU = "cpu"
    BPU = "bpu"


@explained
@dataclass(frozen=True)
class Location:
    """Where a node comes from in the user's program.

    `path`: `module.path:op#k`, k counted inside the module, so that it survives edits elsewhere.
    `source`: `file.py:line` of the user's code (of an ONNX file, `file.onnx:node`), or empty. `module_type`: class names of the
    enclosing modules, outermost first, as `module.qualname` strings. `label`: what the user's file calls the operation, where it
    names operations (ONNX); `also`: what it calls those that were read as one with it (not part of the text form, nor of equality).
    """

    path: str = ""
    source: str = ""
    module_type: tuple[str, ...] = ()
    label: str = ""
    also: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def module(self) -> str:
        """Dotted path of the enclosing module ("" for the root)."""
        return self.path.rpartition(":")[0]

    def __str__(self) -> str:
        return printable(f"{self.path} ({self.source})" if self.source else self.path, lines=False)


@explained
@dataclass(frozen=True)
class Reason:
    """One answer of a support rule.

    `rule`: the statement that was broken (or that decided). `actual`, `limit`: numbers as text. `hint`: what the user can
    do. `step`: `capability`, `context`, `override` or `cost`. `id`: name of the rule, for code that asks which one it was; `condition`:
    the node was accepted on the condition that the rule holds, which only shapes can tell.
    """

    rule: str
    actual: str = ""
    limit: str = ""
    hint: str = ""
    step: str = "capability"
    id: str = ""
    condition: bool = False

    def __str__(self) -> str:
        text = f"accepted if {self.rule}" if self.condition else self.rule
        if self.actual:
            text = f"{text}: {self.actual}"
        if self.limit:
            text = f"{text}, limit {self.limit}"
        return printable(f"{text} ({self.hint})" if self.hint else text, lines=False)


@explained
@dataclass(frozen=True)
class Support:
    """Verdict of the support analysis. Reasons of a refusal say why not; of an acceptance, on what condition or rule."""

    accepted: bool
    reasons: tuple[Reason, ...] = ()


@explained
@dataclass(frozen=True)
class Request:
    """A user's wish about a node: device, the override entry that expressed it, and the activation dtype for opt-in ops."""

    device: Device
    source: str
    dtype: DType | None = None
