"""What a lowering gets to work with: emitting IR nodes with right names and locations, constants, dtypes, sizes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx, nn

from hqc.checked import explained
from hqc.errors import EmptyResultError, InputError, LoweringError
from hqc.frontend.fx.locations import ORIGIN_META, Locator, value_name
from hqc.frontend.fx.shapes import GIVE_INPUTS, Size, reshape_target, sizes_of
from hqc.ir import DType, Graph, QuantParams, TensorType, Value
from hqc.ir.types import Sizes
from hqc.structures import leaves

Operand = Value | torch.Tensor | bool | int | float
_TORCH_DTYPES = {
    torch.float32: DType.FLOAT32,
    torch.float64: DType.FLOAT64,
    torch.int8: DType.INT8,
    torch.uint8: DType.UINT8,
    torch.int16: DType.INT16,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
    torch.bool: DType.BOOL,
}
_IR_DTYPES = {dtype: torch_dtype for torch_dtype, dtype in _TORCH_DTYPES.items()}


class CannotExpress(Exception):  # noqa: N818 (signal: the driver makes the call an opaque node)
    """The IR has no way to say this call; the reason completes the sentence `... because ...`."""


def to_torch_dtype(dtype: DType) -> torch.dtype:
    """The torch dtype of the same bits."""
    return _IR_DTYPES[dtype]


@explained
class LoweringContext:
    """State of one lowering; `node` is the FX node being lowered.

    Naming: the node emitted without `what` gets the FX node's name; nodes on the way to it are emitted with `what=` and are
    called `<fx name>_<what>`. A lowering emits exactly one node without `what`, last.
    """

    def __init__(self, root: nn.Module, graph: Graph, fx_graph: fx.Graph) -> None:
        self.root = root
        self.graph = graph
        first = next(iter(fx_graph.nodes), None)
        if first is None:
            raise InputError("fx_graph has no nodes: nothing was traced")
        self.node: fx.Node = first
        self.warnings: list[str] = []
        self._locator = Locator(root)
        self._reserved = {node.name for node in fx_graph.nodes if node.op != "get_attr"}
        self._parameters: dict[int, list[Value]] = {}
        self._by_name: dict[str, Value] = {}
        self._training: set[int] = set()  # ids of constants computed from parameters that train
        self._training_numbers: set[fx.Node] = set()  # that are Python numbers computed from such
        self._derived: dict[tuple[int, str, tuple[int, ...]], torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []  # ids stay valid only while the tensors live
        self._tensor_names: dict[int, str] = {}
        for name, tensor in (*root.named_parameters(), *root.named_buffers()):
            self._tensor_names.setdefault(id(tensor), name)

    # --- nodes ---------------------------------------------------------------------------------------------------

    def emit(
        self,
        op: str,
        *operands: Operand | None,
        what: str | None = None,
        quant: QuantParams | None = None,
        **attributes: Any,
    ) -> Value:
        """Append a node with one result."""
        (value,) = self.emit_results(op, *operands, names=[self._name(what)], **attributes)
        value.quant = quant
        return value

    def emit_results(
        self,
        op: str,
        *operands: Operand | None,
        names: Sequence[str],
        types: Sequence[TensorType] | None = None,
        **attributes: Any,
    ) -> tuple[Value, ...]:
        """Append a node with several results, called `names` (see `result_names`)."""
        inputs = [None if operand is None else self.value(operand) for operand in operands]
        location = self._locator.locate(self.node, op)
        members = self.node.meta.get(ORIGIN_META, {self.node.name: location})
        if len(members) > 1:
            self.graph.locations.update(members)
        node = self.graph.add_node(
            op,
            inputs,
            attributes,
            name=list(names),
            loc=location,
            origin=tuple(members),
            types=types,
        )
        return tuple(node.results)

    def result_names(self, count: int) -> list[str]:
        """Names for `count` results of the current node: those of the FX nodes that take them out of the tuple."""
        taken: dict[int, str] = {}
        for user in self.node.users:
            index = _taken_index(user, self.node)
            if index is not None and -count <= index < count:
                taken.setdefault(index % count, value_name(user))
        return [taken.get(i) or self._name(str(i)) for i in range(count)]

    def used_results(self, count: int) -> set[int]:
        """Which of `count` results are read; all of them when the tuple is used as a whole."""
        used: set[int] = set()
        for user in self.node.users:
            index = _taken_index(user, self.node)
            if index is None:
                return set(range(count))
            used.add(index % count)
        return used

    def _name(self, what: str | None) -> str:
        if what is None:
            return value_name(self.node)
        return self.free_name(f"{value_name(self.node)}_{what}")

    def free_name(self, base: str) -> str:
        """`base`, or `base_1`, ...: a name that no FX node and no value has."""
        name, count = base, 0
        while name in self._reserved or self.graph.unique_name(name) != name:
            count += 1
            name = f"{base}_{count}"
        return name

    # --- constants -----------------------------------------------------------------------------------------------

    def parameter(self, tensor: torch.Tensor, name: str | None = None, quant: QuantParams | None = None) -> Value:
        """The parameter value of a tensor; the same tensor with the same scale gives the same value, and its memory is not copied.

        `name`: for tensors that are not parameters or buffers of the model, dotted below the current module.
        """
        known = self._parameters.setdefault(id(tensor), [])
        for held in known:
            if held.quant == quant:
                return held
        own = self._tensor_names.get(id(tensor))
        if own is None:
            path = self._locator.module_path(self.node) if name else self.node.name
            own = ".".join(filter(None, (path, name)))
        array = self.array(tensor, own)
        value = self._by_name.get(own)
        if value is None or value.quant != quant or not _same_bits(value.array, array):  # a second call computed it anew
            value = self.graph.add_parameter(self.free_name(own), array, quant)
            value.trains = self.trains(tensor)
        self._by_name[own] = value
        known.append(value)
        self._kept.append(tensor)
        return value

    def derived(self, tensor: torch.Tensor, changed: torch.Tensor, what: str = "") -> torch.Tensor:
        """`changed`, made of the constant `tensor` and called after it should it become a parameter; the same object each time."""
        key = (id(tensor), what, tuple(changed.shape))
        if key not in self._derived:
            self._derived[key] = changed
            self.mark_trained(self.node, changed, [tensor])
            name = self._tensor_names.get(id(tensor))
            if name is not None:
                self.name_tensor(changed, f"{name}.{what}" if what else name)
            self._kept.append(tensor)
        return self._derived[key]

    def known_parameter(self, tensor: torch.Tensor) -> Value | None:
        """The parameter value that was made of this very tensor, if any."""
        return next(iter(self._parameters.get(id(tensor), ())), None)

    def name_tensor(self, tensor: torch.Tensor, name: str) -> None:
        """Call `tensor` `name` should it become a parameter."""
        self._tensor_names.setdefault(id(tensor), name)
        self._kept.append(tensor)

    def array(self, tensor: torch.Tensor, name: str) -> npt.NDArray[Any]:
        """The tensor as an array, without a copy where torch allows it."""
        if tensor.dtype not in _TORCH_DTYPES:
            raise self.error(f"{name} has dtype {tensor.dtype}, which the IR lacks; convert the model with .float()")
        if tensor.is_meta:
            raise self.error(f"{name} is on the meta device and has no values; load the model's weights first")
        array: npt.NDArray[Any] = tensor.detach().cpu().resolve_conj().resolve_neg().numpy()
        return array

    def value(self, operand: Operand) -> Value:
        """An operand as an IR value: constants become parameters."""
        if isinstance(operand, Value):
            return operand
        if isinstance(operand, torch.Tensor):
            return self.parameter(operand)
        return self.scalar(operand, DType.FLOAT32)

    def scalar(self, number: float, dtype: DType, operand: str = "b") -> Value:
        """A parameter of shape [] named after the current node's operand."""
        try:
            array = np.array(number, dtype=dtype.numpy)
        except (TypeError, ValueError, OverflowError):
            raise self.error(f"takes a number or a tensor, got {number!r:.80}") from None
        value = self.graph.add_parameter(self._name(operand), array)
        value.trains = not self._training_numbers.isdisjoint(self.node.all_input_nodes)
        return value

    def trains(self, constant: Any) -> bool:
        """True for a tensor whose numbers training changes: a parameter (a frozen one may be thawed later), or what forward computes
        of one."""
        return isinstance(constant, torch.nn.Parameter) or (
            isinstance(constant, torch.Tensor) and id(constant) in self._training
        )

    def mark_changing(self, tensor: torch.Tensor) -> None:
        """The numbers of `tensor`, which is no parameter, may change behind the plan as those of parameters do."""
        self._training.add(id(tensor))
        self._kept.append(tensor)

    def mark_trained(self, node: fx.Node, result: Any, operands: Iterable[Any]) -> None:
        """`node` has computed the constant `result` from these: it trains where one of them does."""
        if not any(other in self._training_numbers for other in node.all_input_nodes) and not any(map(self.trains, operands)):
            return
        for item in leaves(result):
            if isinstance(item, torch.Tensor):
                self._training.add(id(item))
                self._kept.append(item)
            elif isinstance(item, float):
                self._training_numbers.add(node)

    # --- types ---------------------------------------------------------------------------------------------------

    def ir_dtype(self, dtype: torch.dtype) -> DType:
        if dtype not in _TORCH_DTYPES:
            raise self.error(f"the IR has no element type for {dtype}; hqc works on float32 models")
        return _TORCH_DTYPES[dtype]

    def cast(self, operand: Operand, dtype: DType, what: str | None = None) -> Value:
        """The operand with another dtype: a constant is converted, a value gets a cast node."""
        if isinstance(operand, torch.Tensor):
            if operand.ndim == 0:
                return self.scalar(operand.item(), dtype)
            return self.parameter(operand if operand.dtype == to_torch_dtype(dtype) else self._converted(operand, dtype))
        if not isinstance(operand, Value):
            return self.scalar(operand, dtype)
        return operand if operand.type.dtype is dtype else self.emit("cast", operand, what=what, dtype=dtype)

    def _converted(self, tensor: torch.Tensor, dtype: DType) -> torch.Tensor:
        converted = tensor.to(to_torch_dtype(dtype))
        self.mark_trained(self.node, converted, [tensor])
        name = self._tensor_names.get(id(tensor), self.node.name)
        self.name_tensor(converted, f"{name}.{dtype.value}")
        return converted

    def promote(self, *operands: Operand, dtype: DType | None = None) -> list[Value]:
        """Operands of an element-wise op as values of one dtype, by torch's promotion rules (or of `dtype`).

        Scalars, and constants without dimensions, become parameters of shape [].
        """
        wanted = dtype or self.promoted_dtype(*operands)
        letters = "ab" if len(operands) == 2 else "abc"
        result = []
        for operand, letter in zip(operands, letters, strict=False):
            trains = self.trains(operand)
            if isinstance(operand, torch.Tensor) and operand.ndim == 0:
                operand = operand.item()
            if isinstance(operand, (bool, int, float)):
                result.append(self.scalar(operand, wanted, letter))
                result[-1].trains |= trains
            else:
                result.append(self.cast(operand, wanted, what=f"{letter}_cast"))
        return result

    def promoted_dtype(self, *operands: Operand) -> DType:
        """torch's result type of the operands."""
        left: Any = self._stand_in(operands[0])
        for operand in operands[1:]:
            right = self._stand_in(operand)
            dtype = torch.result_type(left, right)
            rank = max(getattr(left, "ndim", 0), getattr(right, "ndim", 0))
            tensor = isinstance(left, torch.Tensor) or isinstance(right, torch.Tensor)
            left = torch.empty((1,) * rank, dtype=dtype, device="meta") if tensor else left
        return self.ir_dtype(left.dtype if isinstance(left, torch.Tensor) else torch.get_default_dtype())

    def _stand_in(self, operand: Operand) -> Any:
        if isinstance(operand, Value):
            rank = 0 if operand.shape == () else 1
            return torch.empty((1,) * rank, dtype=to_torch_dtype(operand.type.dtype), device="meta")
        if isinstance(operand, torch.Tensor):
            return torch.empty((1,) * min(operand.ndim, 1), dtype=operand.dtype, device="meta")
        return operand

    # --- shapes --------------------------------------------------------------------------------------------------

    def shape(self, operand: Value | torch.Tensor) -> Sizes | None:
        """The shape with None for unknown sizes, or None where not even the rank is known."""
        if isinstance(operand, torch.Tensor):
            return tuple(operand.shape)
        return operand.sizes

    def known_shape(self, operand: Value | torch.Tensor) -> tuple[int, ...]:
        """The full shape, or an error that asks for example inputs."""
        shape = self.shape(operand)
        known = [size for size in shape or () if size is not None]
        if shape is None or len(known) < len(shape):
            raise self.error(f"the shape of {self.describe(operand)} must be known here; {GIVE_INPUTS}")
        return tuple(known)

    def rank(self, operand: Value | torch.Tensor) -> int:
        shape = self.shape(operand)
        if shape is None:
            raise self.error(f"the rank of {self.describe(operand)} must be known here; {GIVE_INPUTS}")
        return len(shape)

    def size(self, operand: Value | torch.Tensor, axis: int) -> int:
        """The size along one axis, which must be known; torch takes a number as one with a single axis of one element."""
        shape = self.shape(operand)
        size = None if shape is None else (shape or (1,))[axis]
        if size is None:
            raise self.error(f"the size of {self.describe(operand)} along axis {axis} must be known here; {GIVE_INPUTS}")
        return size

    def sizes(self, value: Value) -> tuple[Size, ...]:
        """All sizes, `UnknownSize` objects among them; the rank must be known."""
        self.rank(value)
        return sizes_of(self.shape(value) or (), value.name)

    def axis(self, operand: Value | torch.Tensor, axis: int) -> int:
        """A non-negative axis where the rank is known; a negative one stays as it is otherwise."""
        shape = self.shape(operand)
        if axis >= 0 or shape is None:
            return axis
        return axis + len(shape)

    def reshape(self, x: Value, wanted: Sequence[Size], what: str | None = None, name: str | None = None) -> Value:
        """Emit a reshape to `wanted` sizes, which may be unknown ones and one -1."""
        if x.type.is_empty:
            raise EmptyResultError(f"{x.name} has no elements")
        try:
            target = reshape_target(x.name, self.shape(x), wanted)
        except LoweringError as error:
            raise self.error(str(error)) from None
        return self.emit_results("reshape", x, names=[name or self._name(what)], shape=target)[0]

    def describe(self, operand: Value | torch.Tensor) -> str:
        return operand.name if isinstance(operand, Value) else "a constant"

    # --- errors --------------------------------------------------------------------------------------------------

    def where(self) -> str:
        """The current FX node with its source line, for messages."""
        source = self._locator.source(self.node)
        path = self._locator.module_path(self.node)
        inside = f" in {path}" if path and path != self.node.name else ""
        name = value_name(self.node)
        return f"{name}{inside} ({source})" if source else f"{name}{inside}"

    def error(self, message: str) -> LoweringError:
        """The error `message` about the current FX node; the lowering raises it."""
        return LoweringError(f"{self.where()}: {message}")

    def cannot(self, reason: str) -> CannotExpress:
        """Say that the IR cannot express this call; raised, it makes the call an opaque CPU node."""
        return CannotExpress(reason)

    def warn(self, message: str) -> None:
        self.warnings.append(f"{self.where()}: {message}")


def _same_bits(one: npt.NDArray[Any] | None, other: npt.NDArray[Any]) -> bool:
    return one is not None and one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def _taken_index(user: fx.Node, node: fx.Node) -> int | None:
    """Which result of `node` the FX node `user` takes out of the tuple, by index or by field name."""
    if user.op != "call_function" or len(user.args) != 2 or user.args[0] is not node:
        return None
    import operator

    if user.target is operator.getitem and isinstance(user.args[1], int):
        return user.args[1]
    if user.target is getattr and user.args[1] in ("values", "indices"):
        return ("values", "indices").index(str(user.args[1]))
    return None
