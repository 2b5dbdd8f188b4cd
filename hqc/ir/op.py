"""Op declarations, the cards of the ops: operands, typed attributes, types, what is computed, cost, range and traits.

Declaring an op is decorating its inference function::

    @op("max_pool2d", operands="x", attributes=[Attr("kernel", "ints"), ...], traits={Trait.PASS_THROUGH}, compute=_largest)
    def max_pool2d(types, attributes):
        "One-line description."
        return [types[0].with_shape(...)]
"""

from __future__ import annotations

import enum
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from hqc.checked import explained
from hqc.errors import EmptyResultError, InputError, ShapeError
from hqc.ir.types import LARGEST_SIZE, DType, TensorType
from hqc.registry import Registry

OperandTypes = Sequence["TensorType | None"]
Attributes = Mapping[str, Any]
InferFunction = Callable[[OperandTypes, Attributes], "list[TensorType]"]
ScalarFunction = Callable[[npt.NDArray[np.float64], Attributes], npt.NDArray[np.float64]]
Array = npt.NDArray[Any]
Compute = Callable[[Sequence[Any], Attributes], "Array | list[Array]"]
"""`compute(arrays, attributes)`: the arrays of all operands by position (None where absent) to the result, or a list of results.

Whoever calls it converts results to their dtypes. Operands may be of any dtype that the op takes, integers on a grid included.
"""
Macs = Callable[[OperandTypes, "Sequence[TensorType]", Attributes], "int | None"]
"""Multiply-accumulates from the types of operands and results; None while sizes are unknown."""
CheckConstants = Callable[[Sequence[Any], OperandTypes, Attributes], None]
"""`check(arrays, types, attributes)`: raises `ShapeError` for constants that the op cannot take; `arrays` has None for what is no
constant."""
Range = tuple[int, int]
Bounds = Callable[[Sequence["Range | None"], Attributes], "Range | None"]
"""`bounds(ranges, attributes)`: smallest and largest integer of every result from those of the operands (None where absent); None: all
of the result's type."""


@dataclass(frozen=True)
class Vectors:
    """How an op standardizes its first operand: it divides every vector by the vector's own length or deviation.

    `shape`: that of the operand with one axis group per vector (-1: what is left); `axes`: those of `shape` along which vectors lie.
    `least`: the smallest divisor, that of a vector without length or deviation. `centred`: the mean is taken off before.
    """

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    least: float
    centred: bool


FindVectors = Callable[["tuple[int, ...]", Attributes], Vectors]
"""`vectors(sizes, attributes)`: from the sizes of the first operand."""


class Trait(enum.Enum):
    """What passes may ask about an op. A pass never compares op names."""

    PASS_THROUGH = "keeps its first operand's quantization"
    OFF_GRID = "keeps its operand's scale but its real result leaves the operand's grid"
    SAMPLES = "reads its first operand at the positions that its second one, the grid, tells"
    AVERAGE = "a mean over windows or axes"
    FILLS = "adds elements that hold its attribute `value`"
    SAME_SCALE = "operands and results share one scale where the march cannot requantize there"
    ELEMENTWISE = "works element by element with broadcasting"
    LAYOUT_ONLY = "moves elements without computing"
    LUT = "a function of one input that a table can hold"
    PASSIVE = "stays where its producer is"
    WEIGHTED = "products with `weight`, plus a bias per channel; absorbs what multiplies or shifts the channels of its result"
    CONV_LIKE = "multiply-accumulate with constant weights; may emit int32 and absorb add and activation"
    ACTIVATION = "may be fused into the conv-like op before it"
    NONLINEARITY = "an activation function of networks; another one in its place can be trained with"
    SUM = "adds two tensors; may be fused into the conv-like op before it"
    BOUNDARY = "moves a value between the real and the quantized world"
    INTEGER_RESULT = "its result is an index or a truth value, not a real number"
    REMOVED = "does nothing in inference; canonicalization removes it"
    TRAINING = "acts in training, where inference has nothing to do"
    INTEGER = "an op of the integer stage, with the arithmetic of ARITHMETIC.md"
    OPAQUE = "a call of the framework that the model comes from, which the IR does not look into"
    SINGULAR = "infinite, undefined or infinitely steep at some points: a grid that holds such a point meets it"
    WHOLE = "its results are whole numbers, as reals"
    SELECTS = "moves, selects or compares elements: on integers of one grid it computes what it computes on the reals"

    __hash__ = object.__hash__  # members are singletons; Enum's own hash is Python code, and passes ask traits all the time


@explained
@dataclass(frozen=True)
class Operand:
    """One operand of a declaration; `variadic` takes all that remain, `optional` may be absent (None)."""

    name: str
    optional: bool = False
    variadic: bool = False


@explained
@dataclass(frozen=True)
class Attr:
    """A typed attribute.

    `kind`: `int`, `float`, `bool`, `str`, `ints`, `floats`, `dtype`, `optional_float`, `optional_ints`. `length`: entries that
    a list must have; `minimum`: what a number, or every number of a list, must reach; it is finite then. The default is always valid.
    """

    name: str
    kind: str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    length: int | None = None
    minimum: int | None = None

    def check(self, value: Any) -> str:
        """What is wrong with a value of the right kind, "" when nothing is."""
        if value is self.default or (type(value) is type(self.default) and value == self.default):
            return ""
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}"
        if self.length is not None and len(value) != self.length:
            return f"must have {self.length} entries"
        if self.minimum is not None:
            numbers = value if isinstance(value, tuple) else (value,)
            if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
                return "must be finite"
            if any(number < self.minimum for number in numbers):
                return f"must be at least {self.minimum}"
        return ""


_CHECKS: dict[str, Callable[[Any], Any]] = {}
_INT = frozenset({int})


def _coerce(kind: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def register(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        _CHECKS[kind] = function
        return function

    return register


@_coerce("int")
def _int(value: Any) -> int:
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError
    return int(value)


@_coerce("float")
def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError
    return float(value)


@_coerce("bool")
def _bool(value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError
    return bool(value)


@_coerce("str")
def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


@_coerce("dtype")
def _dtype(value: Any) -> DType:
    if not isinstance(value, DType):
        raise TypeError
    return value


@_coerce("ints")
def _ints(value: Any) -> tuple[int, ...]:
    if type(value) is tuple and _INT.issuperset(map(type, value)):
        return value
    return tuple(_int(item) for item in value)


@_coerce("floats")
def _floats(value: Any) -> tuple[float, ...]:
    return tuple(_float(item) for item in value)


@_coerce("optional_float")
def _optional_float(value: Any) -> float | None:
    return None if value is None else _float(value)


@_coerce("optional_ints")
def _optional_ints(value: Any) -> tuple[int, ...] | None:
    return None if value is None else _ints(value)


@explained
@dataclass(frozen=True, eq=False)
class OpDef:
    """Declaration of an op.

    `rule`: result types from operand types and attributes. `function`: the float64 scalar function of a `LUT` op. `compute`: the
    results from the operands' arrays; None where only a back end defines them. `macs`: None for ops that multiply nothing.
    `bounds`: None where results can take any value of their type. `check_constants`: for ops that take some constants only.
    `vectors`: of ops that standardize their first operand.
    """

    name: str
    operands: tuple[Operand, ...]
    attributes: tuple[Attr, ...]
    rule: InferFunction
    traits: frozenset[Trait]
    function: ScalarFunction | None = None
    compute: Compute | None = None
    macs: Macs | None = None
    bounds: Bounds | None = None
    check_constants: CheckConstants | None = None
    vectors: FindVectors | None = None
    doc: str = ""
    family: str = ""

    @cached_property
    def _attr_index(self) -> dict[str, Attr]:
        return {attr.name: attr for attr in self.attributes}

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {attr.name: attr.default for attr in self.attributes}

    @cached_property
    def _required(self) -> tuple[str, ...]:
        return tuple(attr.name for attr in self.attributes if attr.required)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {operand.name: index for index, operand in enumerate(self.operands)}

    @cached_property
    def _operand_counts(self) -> tuple[int, float]:
        """Smallest and largest number of operands."""
        required = sum(1 for operand in self.operands if not (operand.optional or operand.variadic))
        variadic = any(operand.variadic for operand in self.operands)
        return required, float("inf") if variadic else len(self.operands)

    def infer(self, types: OperandTypes, attributes: Attributes, arrays: Sequence[Any] = ()) -> list[TensorType]:
        """Result types. Sizes may be unknown on both sides; `ShapeError` when operands do not fit, or nothing would be left.

        `arrays`: those of constant operands, None for others, where the caller has them.
        """
        results = self.rule(types, attributes)
        if self.check_constants is not None and arrays:
            self.check_constants(arrays, types, attributes)
        for type in results:
            if type.is_endless:
                raise ShapeError(f"the result of {self.name} would have a size of more than {LARGEST_SIZE:,}")
            if type.is_empty:
                raise EmptyResultError(f"the result of {self.name} would be {type}, without elements; leave the operation out")
        return results

    def __reduce__(self) -> tuple[Any, ...]:
        """By name: a declaration is code, and whoever reads it has it registered. Copies are the declaration itself."""
        return get_op, (self.name,)

    def has(self, trait: Trait) -> bool:
        return trait in self.traits

    def operand_index(self, name: str) -> int:
        """Position of the operand called `name`; `InputError` when there is none."""
        found = self._positions.get(name)
        if found is None:
            raise InputError(f"{self.name} has no operand {name}; it has {', '.join(self._positions)}")
        return found

    def complete_attributes(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` checked against the declaration, coerced, and with defaults; `ShapeError` names what is wrong."""
        result = dict(self._defaults)
        for name, value in given.items():
            attr = self._attr_index.get(name)
            if attr is None:
                raise ShapeError(f"{self.name} has no attribute {name}")
            if value is attr.default and not attr.required:
                continue
            try:
                coerced = _CHECKS[attr.kind](value)
            except (TypeError, OverflowError):
                raise ShapeError(f"{self.name}: attribute {name} must be {attr.kind}, got {value!r:.80}") from None
            problem = attr.check(coerced)
            if problem:
                raise ShapeError(f"{self.name}: attribute {name} {problem}, got {value!r}")
            result[name] = coerced
        for name in self._required:
            if name not in given:
                raise ShapeError(f"{self.name} needs the attribute {name}")
        return result

    def check_operand_count(self, count: int) -> None:
        least, most = self._operand_counts
        if not least <= count <= most:
            names = ", ".join(operand.name for operand in self.operands)
            raise ShapeError(f"{self.name} takes the operands ({names}), got {count}")

    def __str__(self) -> str:
        return self.name


OPS: Registry[str, OpDef] = Registry("declaration", families="hqc.ir.ops")
"""Every op by name."""


def parse_operands(text: str) -> tuple[Operand, ...]:
    """`"x, weight, bias?, rest*"` -> operands; `?` marks optional, `*` variadic."""
    operands = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        operands.append(Operand(word.rstrip("?*"), optional=word.endswith("?"), variadic=word.endswith("*")))
    return tuple(operands)


def op(
    name: str,
    *,
    operands: str,
    attributes: Iterable[Attr] = (),
    traits: Iterable[Trait] = (),
    function: ScalarFunction | None = None,
    compute: Compute | None = None,
    macs: Macs | None = None,
    bounds: Bounds | None = None,
    check_constants: CheckConstants | None = None,
    vectors: FindVectors | None = None,
    doc: str = "",
) -> Callable[[InferFunction], OpDef]:
    """Declare and register an op whose result types the decorated function infers.

    The facets are those of `OpDef`; a `LUT` op computes its function, and ops that move elements keep their first operand's range.
    `doc`: what the op computes; by default the function's docstring. The op's family is the module that declares it.
    """
    family = sys._getframe(1).f_globals["__name__"].rpartition(".")[2]

    def register(rule: InferFunction) -> OpDef:
        kept = frozenset(traits)
        definition = OpDef(
            name=name,
            operands=parse_operands(operands),
            attributes=tuple(attributes),
            rule=rule,
            traits=kept,
            function=function,
            compute=compute or (_computing(function) if function is not None else None),
            macs=macs,
            bounds=bounds or (first_range if Trait.LAYOUT_ONLY in kept else None),
            check_constants=check_constants,
            vectors=vectors,
            doc=doc or (rule.__doc__ or "").strip(),
            family=family,
        )
        OPS.add(name, definition)
        return definition

    return register


def first_range(ranges: Sequence[Range | None], attributes: Attributes) -> Range | None:
    """`Bounds` of ops whose results hold elements of the first operand."""
    return ranges[0]


def all_ranges(ranges: Sequence[Range | None], attributes: Attributes) -> Range | None:
    """`Bounds` of ops whose results hold elements of any operand."""
    known = [bounds for bounds in ranges if bounds is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if len(known) == len(ranges) else None


def _computing(function: ScalarFunction) -> Compute:
    return lambda arrays, attributes: function(arrays[0].astype(np.float64), attributes)


@explained
def get_op(name: str) -> OpDef:
    """The declaration called `name`; `RegistryError` when there is none."""
    return OPS[name]


def all_ops() -> list[OpDef]:
    """Every declaration, sorted by name."""
    return [OPS[name] for name in sorted(OPS)]
