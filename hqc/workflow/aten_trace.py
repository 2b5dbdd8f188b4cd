"""One opaque operation as a list of aten calls: traced on sample operands, what does not depend on them folded."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from hqc.backends.onnx import aten
from hqc.backends.onnx.aten import Call, CallGraph
from hqc.errors import FAULTS, first_line
from hqc.frontend.fx.known import memory_of
from hqc.ir import DType, TensorType

OpOverload = torch._ops.OpOverload
_IGNORED = {"_set_grad_enabled", "_exit_autocast", "_enter_autocast"}


class UntraceableError(Exception):
    """The operation cannot be traced into aten calls; the message says why. `final`: no file could hold it, however it is written."""

    def __init__(self, message: str, *, final: bool = False) -> None:
        super().__init__(message)
        self.final = final


DATA_DEPENDENT = "what it computes depends on the data it gets, which a file of static shapes cannot hold"


def trace_calls(function: Callable[..., Any], tensors: Sequence[Tensor], *, composite: bool) -> CallGraph:
    """The aten calls that `function` makes on `tensors`.

    `composite`: keep operations that torch itself composes of others (`lstm`, `conv2d`, `pad`, `linear`), which read best; without,
    they are taken apart, writes in place become new tensors, and what the ONNX back end has no emitter for is decomposed further.
    `UntraceableError`: the operation's shapes or control flow depend on data, or it draws random numbers.
    """
    held: list[Tensor] = []
    try:
        with torch.no_grad():
            if composite:
                gm = make_fx(function, pre_dispatch=True)(*tensors)
            else:
                try:
                    gm = _functional(function, tensors)
                except RuntimeError:  # it writes what depends on operands into tensors that it holds or makes
                    function, held = _with_held_tensors(function, tensors)
                    gm = _functional(function, (*tensors, *held))
    except UntraceableError:
        raise
    except FAULTS as error:  # a trace runs the user's code and all of torch
        raise _untraceable(error) from error
    return _Reader(gm, tensors, held).read()


def _functional(function: Callable[..., Any], tensors: Sequence[Tensor]) -> fx.GraphModule:
    """The calls of `function`, none of which writes in place.

    It is taken apart first: functionalize sees no write inside of an operation that torch composes of others.
    """
    gm = make_fx(function, decomposition_table=_decompositions())(*tensors)
    if not any(isinstance(node.target, OpOverload) and node.target._schema.is_mutable for node in gm.graph.nodes):
        return gm
    return make_fx(torch.func.functionalize(gm), decomposition_table=_decompositions())(*tensors)


def _with_held_tensors(function: Callable[..., Any], tensors: Sequence[Tensor]) -> tuple[Callable[..., Any], list[Tensor]]:
    """`function` with the tensors that it holds, or makes of nothing, as further arguments; and those.

    What torch makes functional writes into arguments only, and into what is computed from them.
    """
    gm = make_fx(function)(*tensors)
    held: dict[fx.Node, Tensor] = {}
    for node in gm.graph.nodes:
        if node.op == "get_attr":
            held[node] = _attribute(gm, str(node.target))
        elif node.op == "call_function" and isinstance(node.target, OpOverload) and not node.all_input_nodes:
            _refuse_random(node.target)
            made = node.target(*node.args, **node.kwargs)
            if isinstance(made, Tensor):
                held[node] = made
    count = len(tensors)

    def lifted(*arguments: Tensor) -> Any:
        return _Lifted(gm, dict(zip(held, arguments[count:], strict=True))).run(*arguments[:count])

    return lifted, list(held.values())


class _Lifted(fx.Interpreter):
    """Runs a graph with given values of some nodes."""

    def __init__(self, gm: fx.GraphModule, given: Mapping[fx.Node, Tensor]) -> None:
        super().__init__(gm)
        self.given = given

    def run_node(self, node: fx.Node) -> Any:
        value = self.given.get(node)
        if value is None:
            return super().run_node(node)
        return value if node.op == "get_attr" else value.clone()  # what it makes it makes anew in every call


def _refuse_random(target: Any) -> None:
    if torch.Tag.nondeterministic_seeded in target.tags:
        raise UntraceableError(f"{target} draws random numbers", final=True)


def _untraceable(error: BaseException) -> UntraceableError:
    text = str(error).strip()
    if "data-dependent" in text or "tracing tensor" in text:
        return UntraceableError(DATA_DEPENDENT, final=True)
    return UntraceableError(first_line(error))


@functools.cache
def _decompositions() -> Mapping[Any, Callable[..., Any]]:
    """torch's decompositions of the operations that have no emitter. Writes in place are left to what makes calls functional:
    taken apart they end in a `copy_` of what they compute.
    """
    table = torch._decomp.decomposition_table
    functional = {op for op in table if isinstance(op, OpOverload) and not op._schema.is_mutable}
    return {op: function for op, function in table.items() if op in functional and not aten.knows(_target(op))}


def _target(op: Any) -> str:
    name = str(op)
    return name.removeprefix("aten.")


class _Reader:
    """Walks a traced graph with the real tensors: types come from them, and what depends on no operand becomes a constant."""

    def __init__(self, gm: fx.GraphModule, tensors: Sequence[Tensor], held: Sequence[Tensor] = ()) -> None:
        """`held`: what the placeholders behind those of the operands stand for."""
        self.gm = gm
        self.samples = list(tensors)
        self.held = list(held)
        self.real: dict[fx.Node, Any] = {}
        self.symbols: dict[fx.Node, Any] = {}  # aten Tensors, or tuples of them, of what depends on an operand
        self.constants: dict[int, aten.Tensor] = {}
        self.read_constants: list[Tensor] = []
        self.calls: list[Call] = []

    def read(self) -> CallGraph:
        inputs: list[aten.Tensor] = []
        outputs: tuple[aten.Tensor, ...] = ()
        samples = iter((*self.samples, *self.held))
        for node in self.gm.graph.nodes:
            if node.op == "placeholder":
                self.real[node] = next(samples)
                if len(inputs) < len(self.samples):
                    self.symbols[node] = aten.Tensor(f"input_{len(inputs)}", _type(self.real[node]))
                    inputs.append(self.symbols[node])
            elif node.op == "get_attr":
                self.real[node] = _attribute(self.gm, str(node.target))
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                outputs = tuple(self._symbol(item) for item in node.args[0])
        return CallGraph(tuple(inputs), tuple(self.calls), outputs)

    def _call(self, node: fx.Node) -> None:
        target = node.target
        if getattr(target, "__name__", "") in _IGNORED:
            return
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.real.__getitem__)
        depends = any(item in self.symbols for item in node.all_input_nodes)
        if target is operator.getitem:
            source, index = node.args
            assert isinstance(source, fx.Node)
            self.real[node] = self.real[source][index]
            if source in self.symbols:
                if self.symbols[source] is None:  # an operation that nobody knows the shapes of, as histogramdd's
                    raise UntraceableError(DATA_DEPENDENT)
                self.symbols[node] = self.symbols[source][index]
            return
        if not isinstance(target, OpOverload):
            raise UntraceableError(f"it calls {getattr(target, '__name__', target)}, which is no tensor operation")
        self._refuse(target)
        if target._schema.is_mutable and (depends or self._is_in_use(args[0])):
            raise UntraceableError(f"it writes in place with {target}")
        with torch.no_grad():
            self.real[node] = target(*args, **kwargs)
        if not depends or _is_empty(self.real[node]):
            return
        if target._schema.name == "aten::slice_scatter" and _is_empty(args[1]):  # a write into a part without elements
            self.symbols[node] = self._symbol(node.args[0])
            return
        self._append(node, target)

    def _is_in_use(self, written: Any) -> bool:
        """False for a copy that the operation has made of its constants, and that no call has read yet."""
        held = [self.real[node] for node in self.real if node.op == "get_attr"] + self.held + self.read_constants
        return any(isinstance(each, Tensor) and memory_of(each) == memory_of(written) for each in held)

    def _refuse(self, target: Any) -> None:
        if aten.knows(_target(target)):  # dropout and the like, which draw nothing in inference
            return
        _refuse_random(target)
        if torch.Tag.dynamic_output_shape in target.tags:
            raise UntraceableError(f"the shape that {target} gives depends on the data", final=True)

    def _append(self, node: fx.Node, target: Any) -> None:
        real = self.real[node]
        several = isinstance(real, (tuple, list))
        found = list(real) if several else [real]
        tensors = [item for item in found if isinstance(item, Tensor)]
        if not tensors:
            raise UntraceableError(DATA_DEPENDENT, final=True)
        results = tuple(
            aten.Tensor(f"{node.name}_{i}" if several else node.name, _type(item)) for i, item in enumerate(tensors)
        )
        self.calls.append(Call(_target(target), self._arguments(node, target), results))
        if several:
            ready = iter(results)
            self.symbols[node] = tuple(next(ready) if isinstance(item, Tensor) else None for item in found)
        else:
            self.symbols[node] = results[0]

    def _arguments(self, node: fx.Node, target: Any) -> dict[str, Any]:
        given: dict[str, Any] = {}
        for index, argument in enumerate(target._schema.arguments):
            if index < len(node.args):
                value: Any = node.args[index]
            elif argument.name in node.kwargs:
                value = node.kwargs[argument.name]
            else:
                value = argument.default_value
            given[argument.name] = self._plain(value)
        return given

    def _plain(self, value: Any) -> Any:
        """FX arguments as plain data."""
        if isinstance(value, fx.Node):
            return self._symbol(value)
        if isinstance(value, (list, tuple)):
            return [self._plain(item) for item in value]
        if isinstance(value, torch.dtype):
            return _element_type(value)
        if isinstance(value, (torch.device, torch.layout, torch.memory_format)):
            return str(value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise UntraceableError(f"it passes a {type(value).__name__}")

    def _symbol(self, node: Any) -> aten.Tensor:
        """The tensor behind a node; constants are wrapped once."""
        if node in self.symbols:
            symbol = self.symbols[node]
            assert isinstance(symbol, aten.Tensor)
            return symbol
        real = self.real[node] if isinstance(node, fx.Node) else node
        if not isinstance(real, Tensor):
            raise UntraceableError(f"it returns a {type(real).__name__}")
        if id(real) not in self.constants:
            self.read_constants.append(real)
            array = real.detach().contiguous().numpy()
            self.constants[id(real)] = aten.Tensor(f"constant_{len(self.constants)}", _type(real), array)
        return self.constants[id(real)]


def _is_empty(result: Any) -> bool:
    return isinstance(result, Tensor) and result.numel() == 0


def _type(tensor: Tensor) -> TensorType:
    return TensorType(_element_type(tensor.dtype), tuple(tensor.shape))


def _element_type(dtype: torch.dtype) -> DType:
    try:
        return DType.from_numpy(torch.empty(0, dtype=dtype).numpy().dtype)
    except TypeError:
        raise UntraceableError(f"it computes in {dtype}, which opset 11 does not") from None


def _attribute(gm: fx.GraphModule, path: str) -> Any:
    found: Any = gm
    for part in path.split("."):
        found = getattr(found, part)
    return found
