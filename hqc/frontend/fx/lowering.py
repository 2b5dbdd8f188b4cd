"""Lowering of a traced model to the IR: walks the FX graph, calls the registered lowerings, functionalizes in-place writes."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import logging
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from hqc.checked import explained
from hqc.errors import FAULTS, EmptyResultError, HqcError, InputError, LoweringError, ShapeError, first_line
from hqc.frontend.fx.aliases import Aliases
from hqc.frontend.fx.assumptions import check_assumption
from hqc.frontend.fx.attributes import tensor_attribute, tensor_query
from hqc.frontend.fx.calls import FrozenModule, as_users_write, call_functional, call_method, out_of_place, set_item_of_copy
from hqc.frontend.fx.context import CannotExpress, LoweringContext
from hqc.frontend.fx.draws import is_draw, unread_draws
from hqc.frontend.fx.equals import in_definite_order, torchs_function
from hqc.frontend.fx.examples import ExampleInputs
from hqc.frontend.fx.hooks import HOOKS_META, has_hooks
from hqc.frontend.fx.in_place import first_operand, writes_first_operand
from hqc.frontend.fx.inputs import add_inputs
from hqc.frontend.fx.known import memory_of
from hqc.frontend.fx.leaf_modules import LeafSpec, is_functional
from hqc.frontend.fx.locations import FORM_META, OUTPUTS_META, SOURCE_META
from hqc.frontend.fx.lowered import LoweredModel, ValueName
from hqc.frontend.fx.lowerings._arguments import as_integer
from hqc.frontend.fx.lowerings.elementwise import truth
from hqc.frontend.fx.masked import (
    MaskedPart,
    has_masked_part,
    index_of_mask,
    masked_part,
    masked_step,
    masked_write,
    writes_value,
)
from hqc.frontend.fx.models import as_traceable
from hqc.frontend.fx.opaque import emit_opaque, trial, tried
from hqc.frontend.fx.proxies import IN_PLACE_META
from hqc.frontend.fx.recorded_calls import WRITES_META
from hqc.frontend.fx.registry import Alias, Lowering, find_function, find_functional, find_method, find_module
from hqc.frontend.fx.retrace import WARNINGS_META
from hqc.frontend.fx.shapes import GIVE_INPUTS, UnknownShape, UnknownSize
from hqc.frontend.fx.tracing import trace
from hqc.frontend.fx.training import IDENTITY_META
from hqc.frontend.fx.updates import buffer_updates
from hqc.frontend.fx.views import FUNCTIONAL_META, SharedWrite
from hqc.ir import Graph, Value, get_op
from hqc.structures import leaves, map_structure

logger = logging.getLogger(__name__)
_ASSERTIONS = {torch._assert, check_assumption}
_KNOWN = (bool, int, float, str, type(None), torch.dtype, torch.device)
_INTEGERS = re.compile(r"( \| |int|Dims|None|Sequence\[int\]|tuple\[int, (int|\.\.\.)\])+")
"""Annotations of whole numbers."""


@explained
def lower(
    model: nn.Module,
    example_inputs: ExampleInputs = None,
    *,
    leaf_modules: Sequence[LeafSpec] = (),
    concrete_args: Mapping[str, Any] | None = None,
    name: str | None = None,
    march: str | None = None,
) -> Graph:
    """Trace `model` and lower it. See `trace` and `lower_graph_module`."""
    model, sentences = as_traceable(model)
    for sentence in sentences:
        logger.warning("%s", sentence)
    traced = trace(model, example_inputs, leaf_modules=leaf_modules, concrete_args=concrete_args)
    return lower_graph_module(traced, example_inputs, name=name, march=march).graph


@explained
def lower_graph_module(
    gm: fx.GraphModule, example_inputs: ExampleInputs = None, *, name: str | None = None, march: str | None = None
) -> LoweredModel:
    """Lower an FX GraphModule (from `trace`) to the IR, at stage `lowered`.

    `example_inputs`: a tensor, a tuple of positional inputs, or a dict by name. Only their types are used; the model is not
    run. Without them shapes stay unknown, and ops that cannot be lowered without sizes raise `LoweringError`.

    Parameters share memory with the model's tensors. The model's mode does not matter: the graph is that of inference.

    Raises `LoweringError` (op and source line), `ShapeError` (operands do not fit), `InputError` (example inputs).
    """
    graph = Graph(name or type(gm).__name__, march)
    if example_inputs is not None:
        return _GraphLowering(gm, graph).run(example_inputs)
    try:
        return _GraphLowering(gm, graph).run(None, images=True)
    except ShapeError:  # some input is no image
        return _GraphLowering(gm, Graph(graph.name, march)).run(None)


class _GraphLowering:
    """One walk over one FX graph. `env` maps FX nodes to IR values, constants, or structures of them."""

    def __init__(self, gm: fx.GraphModule, graph: Graph) -> None:
        self.gm = gm
        self.ctx = LoweringContext(gm, graph, gm.graph)
        self.aliases = Aliases(gm.graph)
        self.functional = gm.meta.get(FUNCTIONAL_META) is True
        self.env: dict[fx.Node, Any] = {}
        self.updates = buffer_updates(gm.graph, gm)
        self.frozen: dict[nn.Module, FrozenModule] = {}  # a cell that is called for every step is copied once
        self.result = LoweredModel(graph, warnings=list(gm.meta.get(WARNINGS_META, [])))

    def run(self, example_inputs: ExampleInputs, *, images: bool = False) -> LoweredModel:
        placeholders = [node for node in self.gm.graph.nodes if node.op == "placeholder"]
        self.env.update(add_inputs(self.ctx, placeholders, example_inputs, images=images))
        for node in placeholders:
            self.aliases.add(node)
            self._record(node, self.env[node])
        skipped = self.updates.skipped() | unread_draws(self.gm.graph, self.gm)
        self.result.updates = frozenset(node.name for node in self.updates.nodes)
        for node in self.gm.graph.nodes:
            self.ctx.node = node
            if node in skipped:
                self.result.values[node.name] = None
            elif node in self.updates.written:
                self._assign(node, self.env[self.updates.written[node]], Alias.SAME)
            elif node.op == "output":
                self._output(node)
            elif node.op != "placeholder":
                self._node(node)
        self._record_constants()
        graph = self.result.graph
        for value in list(graph.parameters.values()):
            if not value.has_uses and not graph.is_output(value):
                graph.erase_parameter(value)
        for warning in self.ctx.warnings:
            logger.warning("%s", warning)
        self.result.warnings.extend(self.ctx.warnings)
        return self.result

    # --- nodes ---------------------------------------------------------------------------------------------------

    def _node(self, node: fx.Node) -> None:
        refused = self.gm.meta.get(FUNCTIONAL_META)
        if isinstance(refused, SharedWrite) and refused.write == node.name:
            named = {other.name: other for other in self.gm.graph.nodes}
            if {refused.written, refused.sharer, refused.reader} <= named.keys():
                raise self._shared_write(named[refused.written], named[refused.sharer], named[refused.reader])
        try:
            if (mask := index_of_mask(node)) is not None and isinstance(self.env[mask], Value):
                self._assign(node, truth(self.ctx, self.env[mask]))
            elif not writes_value(node) and has_masked_part([self.env[each] for each in node.all_input_nodes]):
                self._call_on_masked(node)
            else:
                self._call(node)
        except (LoweringError, ShapeError, InputError) as error:
            raise self._located(error) from error.__cause__

    def _call(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self._get_attr(node)
        elif node.op == "call_module":
            self._call_module(node)
        elif node.op == "call_method":
            self._call_method(node)
        else:
            self._call_function(node)

    def _call_on_masked(self, node: fx.Node) -> None:
        """A call on the elements where a mask holds."""
        parts = {each: self.env[each] for each in node.all_input_nodes}

        def on_all_elements(whole: dict[fx.Node, Any]) -> Any:
            self.env.update(whole)
            try:
                self._call(node)
            finally:
                self.env.update(parts)
            return self.env[node]

        result = masked_step(self.ctx, parts, on_all_elements)
        for name in self.aliases.names_of(node):
            self.env[name] = result

    def _located(self, error: HqcError) -> HqcError:
        text, line = str(error), self.ctx.node.meta.get(SOURCE_META)
        is_located = self.ctx.node.name in text or (line and text.startswith(f"{line}:"))
        return error if is_located else type(error)(f"{self.ctx.where()}: {text}")

    def _get_attr(self, node: fx.Node) -> None:
        target: Any = self.gm
        for part in str(node.target).split("."):
            target = getattr(target, part) if part != "training" else False  # the graph is that of inference
        self.aliases.add(node)
        if isinstance(target, torch.Tensor):
            self.aliases.mark_state(node)
            self.ctx.name_tensor(target, str(node.target))
            if _is_neutral_buffer(self.gm, str(node.target), target):
                self.ctx.mark_changing(target)
        self.env[node] = target
        self._record(node, target if isinstance(target, torch.Tensor) else None)

    def _arguments(self, node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        args, kwargs = as_users_write(fx.node.map_arg((node.args, node.kwargs), self.env.__getitem__))
        return tuple(args), dict(kwargs)

    def _call_module(self, node: fx.Node) -> None:
        module = self.gm.get_submodule(str(node.target))
        args, kwargs = self._arguments(node)
        if node.meta.get(IDENTITY_META):
            self._assign(node, self.ctx.emit("dropout", args[0]), Alias.SAME)
            return
        name = type(module).__name__
        if has_hooks(module) and not node.meta.get(HOOKS_META):
            self.ctx.warn(f"hooks of the module {node.target} are not part of the graph")
        in_place = getattr(module, "inplace", False) is True
        frozen = self.frozen.setdefault(module, FrozenModule(module))
        self._lower(find_module(module), name, frozen, (module,), args, kwargs, in_place)

    def _call_function(self, node: fx.Node) -> None:
        function: Any = torchs_function(node.target)
        args, kwargs = self._arguments(node)
        name = getattr(function, "__name__", str(function))
        if FORM_META in node.meta:
            self._assign(node, self._node_of_form(args, *node.meta[FORM_META]))
        elif node.meta.get(IDENTITY_META):
            self._assign(node, self.ctx.emit("dropout", next(iter((*args, *kwargs.values())))), Alias.SAME)
        elif function in _ASSERTIONS or name == "_assert_is_none":
            if function is check_assumption and all(isinstance(leaf, _KNOWN) for leaf in leaves(args[0])):
                check_assumption(*args)
            self.env[node] = None
        elif function is getattr:
            self._assign(node, _attribute(self.ctx, *args), Alias.VIEW)
        elif function is operator.setitem:
            self._set_item(node, args)
        elif function is operator.getitem and (part := masked_part(node, *args)) is not None:
            self._hold(node, part)
        elif function is len:
            self._assign(node, self.ctx.sizes(args[0])[0] if isinstance(args[0], Value) else len(args[0]))
        elif function is operator.getitem and not isinstance(args[0], Value) and not _has_value(args[1]):
            self._assign(node, self._static(operator.getitem, args, {}), Alias.VIEW)
        elif isinstance(function, type) and hasattr(function, "_fields"):
            self._assign(node, function(*args, **kwargs))
        elif isinstance(function, type) and dataclasses.is_dataclass(function):
            self._assign(node, dict(inspect.signature(function).bind(*args, **kwargs).arguments))
        else:
            lowering, in_place = find_function(function)
            self._refuse_random(name)
            if _has_value((args, kwargs)):
                writes = in_place or (node.meta.get(WRITES_META) and args)
                call = out_of_place(function) if writes else function
                self._lower(lowering, name, call, (), args, kwargs, in_place)
            else:
                self._static_call(node, function, args, kwargs, in_place or writes_first_operand(function))

    def _node_of_form(self, operands: tuple[Any, ...], op: str, attributes: Mapping[str, Any]) -> Any:
        """The IR node whose torch form this call is."""
        types = [None if operand is None else self.ctx.value(operand).type for operand in operands]
        count = len(get_op(op).infer(types, attributes))
        if count == 1:
            return self.ctx.emit(op, *operands, **attributes)
        return self.ctx.emit_results(op, *operands, names=self.ctx.result_names(count), **attributes)

    def _call_method(self, node: fx.Node) -> None:
        args, kwargs = self._arguments(node)
        name = str(node.target)
        receiver = args[0]
        if isinstance(receiver, nn.Module):
            self._call_functional(receiver, name, args[1:], kwargs)
            return
        self._refuse_random(name)
        if isinstance(receiver, Value):
            found, answer = tensor_query(self.ctx, receiver, name, args[1:], kwargs)
            if found:
                self._assign(node, answer)
                return
        if not _has_value((args, kwargs)):
            method = functools.partial(call_method, name)
            self._static_call(node, method, args, kwargs, isinstance(receiver, torch.Tensor) and writes_first_operand(name))
            return
        lowering, in_place = find_method(name)
        call = functools.partial(call_method, name)
        self._lower(lowering, name, out_of_place(call) if in_place else call, (), args, kwargs, in_place)

    def _call_functional(self, module: nn.Module, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_functional(module):
            raise self.ctx.error(f"{type(module).__name__}.{name} is called on a module that was not traced through")
        lowering = find_functional(module, name)
        self._lower(
            lowering, f"FloatFunctional.{name}", functools.partial(call_functional, module, name), (module,), args, kwargs
        )

    # --- calls ---------------------------------------------------------------------------------------------------

    def _lower(
        self,
        lowering: Lowering | None,
        name: str,
        call: Callable[..., Any],
        lead: tuple[Any, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        in_place: bool = False,
    ) -> None:
        """Lower one call by its registered lowering, else as an opaque node. `lead`: the module, for modules."""
        node = self.ctx.node
        reason = "has no lowering"
        if lowering is not None:
            try:
                bound = _signature(lowering.handler).bind(self.ctx, *lead, *args, **kwargs)
            except TypeError as error:
                reason = f"is called in a way its lowering does not know ({error})"
            else:
                self._check_operands(name, lowering.handler, bound.arguments)
                in_place = in_place or bound.arguments.get("inplace") is True
                try:
                    result = lowering.handler(*bound.args, **bound.kwargs)
                except CannotExpress as error:
                    reason = f"cannot be expressed in the IR: {error}"
                except EmptyResultError:
                    found = self._tried(name, call, args, kwargs)
                    sizes = [item.numel() for item in leaves(found) if isinstance(item, torch.Tensor)]
                    if not any(sizes):  # a constant, whatever the inputs are
                        self._finish(node, found, Alias.NONE, in_place)
                        return
                    if not all(sizes):
                        raise self.ctx.error(
                            "some of its results would have no elements, and others have; leave it out"
                        ) from None
                    reason = "goes through a tensor without elements"
                except HqcError:
                    raise
                except Exception as error:  # torch takes no size that is not known, where a lowering computes with torch
                    if (unknown := self._without_sizes(error, args, kwargs)) is not error:
                        raise unknown from None
                    self._tried(
                        name, call, args, kwargs
                    )  # arguments that fit no tensor of this shape: torch says what is wrong
                    raise
                else:
                    self._finish(node, result, lowering.alias, in_place)
                    return
        if in_place and kwargs.get("inplace") is True:
            kwargs = {**kwargs, "inplace": False}
        result, identifier, on_arrays = emit_opaque(self.ctx, call, name, args, kwargs, reason)
        if not identifier:
            self._assign(node, result)
            return
        self.result.opaque[identifier] = on_arrays
        self._finish(node, result, Alias.NONE, in_place)

    def _check_operands(self, name: str, handler: Callable[..., Any], arguments: dict[str, Any]) -> None:
        """What the handler's signature calls a value is made one where it is a constant; `LoweringError` for what the model, or an example
        input, has given instead of a tensor."""
        for parameter in _values_of(handler):
            given = arguments.get(parameter)
            if parameter in arguments and not isinstance(given, (Value, torch.Tensor)):
                raise self.ctx.error(f"{name} takes a tensor as {parameter}, got {type(given).__name__}")
            if isinstance(given, torch.Tensor) and parameter in _only_values_of(handler):
                arguments[parameter] = self.ctx.value(given)  # a constant
        for parameter in _integers_of(handler):
            if parameter in arguments:
                given = arguments[parameter]
                many = type(given) in (tuple, list)
                arguments[parameter] = type(given)(map(as_integer, given)) if many else as_integer(given)

    def _finish(self, node: fx.Node, result: Any, alias: Alias, in_place: bool) -> None:
        if not in_place:
            if node.meta.get(IN_PLACE_META) and not self.functional:
                self._refuse_shared_write(node)
            self._assign(node, result, alias)
            return
        written = first_operand(node)
        assert written is not None
        self._assign(node, result, Alias.SAME)
        self._write(written, node, result)

    def _tried(self, name: str, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a call gives in torch for some operands; the sentence about the user's line where it fails."""
        operands = [item for item in leaves((args, kwargs)) if isinstance(item, Value)]
        if any(value.shape is None for value in operands):
            raise self.ctx.error(f"{name} is called with arguments whose meaning depends on sizes; {GIVE_INPUTS}")
        return tried(self.ctx, name, operands, lambda: trial(call, args, kwargs))

    def _record(self, node: fx.Node, result: Any) -> None:
        """Note what became of `node`, for who emits a model from the planned graph."""
        named = map_structure(result, lambda item: ValueName(item.name, item.shape) if isinstance(item, Value) else None)
        self.result.values[node.name] = named
        if isinstance(result, torch.Tensor):
            self.result.tensors[node.name] = result
        elif isinstance(result, int):
            self.result.numbers[node.name] = int(result)

    def _record_constants(self) -> None:
        for name, tensor in self.result.tensors.items():
            parameter = self.ctx.known_parameter(tensor)
            if parameter is not None:
                self.result.constants.setdefault(parameter.name, name)

    def _assign(self, node: fx.Node, result: Any, alias: Alias = Alias.NONE) -> None:
        self.env[node] = result
        self._record(node, result)
        self.ctx.mark_trained(node, result, leaves([self.env[other] for other in node.all_input_nodes]))
        base = first_operand(node)
        made = [leaf for leaf in leaves(result) if isinstance(leaf, torch.Tensor)]
        if alias is Alias.VIEW and made and base is not None:
            alias = Alias.VIEW if any(_shares_memory(tensor, self.env[base]) for tensor in made) else Alias.NONE
        self.aliases.add(node, base if alias is not Alias.NONE else None, alias)

    def _write(self, written: fx.Node, write: fx.Node, result: Any) -> None:
        """`write` gave `written` the new value `result`: everything that is the same tensor has it from now on."""
        if self.aliases.is_state(written):
            raise self.ctx.error(
                f"writes in place into the parameter or buffer behind {written.name}; a deployed graph has no state"
            )
        for sharer, reader in () if self.functional else self.aliases.read_after_write(written, write, renamed=True):
            raise self._shared_write(written, sharer, reader)
        names = self.aliases.names_of(written)
        for name in names:
            self.env[name] = result
        self._record(write, result)
        self.result.writes[write.name] = tuple(sorted(name.name for name in names))

    def _refuse_shared_write(self, node: fx.Node) -> None:
        """`x += y`, which the graph has as `x + y`: nothing that shares x's memory may be read from here on."""
        written = first_operand(node)
        if written is None or not isinstance(self.env[written], Value):
            return
        for sharer, reader in self.aliases.read_after_write(written, node, renamed=False):
            raise self._shared_write(written, sharer, reader)

    def _shared_write(self, written: fx.Node, sharer: fx.Node, reader: fx.Node) -> LoweringError:
        what = "which is" if sharer is written else f"which shares memory with {sharer.name},"
        return self.ctx.error(
            f"writes in place into {written.name}, {what} read later by {reader.name}{self._line(reader)}; write into a copy "
            f"({written.name}.clone()), or use the form that is not in place"
        )

    def _line(self, node: fx.Node) -> str:
        source = node.meta.get("hqc_source")
        return f" at {source}" if source else ""

    def _set_item(self, node: fx.Node, args: tuple[Any, ...]) -> None:
        """`x[index] = value`."""
        target, index, value = args
        written = first_operand(node)
        assert written is not None
        if isinstance(target, (list, dict)) or not _has_value(args):
            self._static_call(node, operator.setitem, args, {}, in_place=isinstance(target, torch.Tensor))
            return
        if self._is_empty_part(target, index):
            self._hold(node, None)
            return
        try:
            result: Any = masked_write(self.ctx, target, index, value)
        except CannotExpress:
            result, identifier, on_arrays = emit_opaque(
                self.ctx, set_item_of_copy, "assignment to a part of a tensor", (target, index, value), {}, "has no lowering"
            )
            self.result.opaque[identifier] = on_arrays
        self.env[node] = None
        self.aliases.add(node)
        self._write(written, node, result)

    def _hold(self, node: fx.Node, what: MaskedPart | None) -> None:
        """`node` gives no value of the IR; a part hands on the value that it is a part of."""
        self.env[node] = what
        self.aliases.add(node)
        self._record(node, None if what is None else what.source)

    def _is_empty_part(self, target: Any, index: Any) -> bool:
        """True where `x[index]` has no elements, whatever the data is."""
        if _has_value(index) or (isinstance(target, Value) and target.shape is None):
            return False
        shape = self.ctx.shape(target)
        if shape is None or any(size is None for size in shape):
            return False
        try:
            return torch.empty(tuple(int(size) for size in shape if size is not None), device="meta")[index].numel() == 0
        except (IndexError, TypeError, RuntimeError, HqcError):  # what is wrong with the index is said where it is written
            return False

    def _static_call(
        self, node: fx.Node, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], in_place: bool
    ) -> None:
        """A call on constants and sizes: done now, becoming no node."""
        written = first_operand(node)
        if in_place and written is not None and self.aliases.is_state(written):
            self._write(written, node, None)
        result = self._static(in_definite_order(node.op, node.target) or function, args, kwargs)
        if isinstance(result, torch.Tensor):
            self.ctx.name_tensor(result, node.name)
        if in_place and written is not None and result is self.env[written]:
            self._assign(node, result, Alias.SAME)
            return
        holds = any(isinstance(leaf, torch.Tensor) for leaf in leaves(result))
        self._assign(node, result, Alias.VIEW if holds and written is not None else Alias.NONE)

    def _static(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            with torch.no_grad():
                return function(*args, **kwargs)
        except HqcError:
            raise
        except FAULTS as error:
            if (unknown := self._without_sizes(error, args, kwargs)) is not error:
                raise unknown from None
            raise self.ctx.error(f"{_target_name(self.ctx.node)} failed on constants: {first_line(error)}") from error

    def _without_sizes(self, error: BaseException, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BaseException:
        """What a call with these arguments fails with: that a size among them is not known, or `error`."""
        unknown = [item for item in leaves((args, kwargs)) if isinstance(item, (UnknownSize, UnknownShape))]
        return self.ctx.error(f"the size {unknown[0]} is not known; {GIVE_INPUTS}") if unknown else error

    def _refuse_random(self, name: str) -> None:
        if is_draw(name):
            raise self.ctx.error(f"{name} draws random numbers, so the model has no fixed function; use a buffer or an input")

    def _output(self, node: fx.Node) -> None:
        structure = fx.node.map_arg(node.args[0], self.env.__getitem__)
        if any(isinstance(item, UnknownShape) for item in leaves(structure)):
            raise self.ctx.error("the model returns a shape, which is not a tensor")
        self.result.set_outputs(structure, node.meta.get(OUTPUTS_META, ()), self.ctx.value)


def _is_neutral_buffer(root: nn.Module, path: str, tensor: torch.Tensor) -> bool:
    """True for a registered buffer that changes nothing now, a factor of 1 or a shift of 0: a checkpoint that is loaded into the prepared
    model, or the user's code, gives it other numbers."""
    owner, _, name = path.rpartition(".")
    if name not in root.get_submodule(owner)._buffers or not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return False
    first = tensor.reshape(-1)[0]
    return float(first) in (0.0, 1.0) and bool((tensor == first).all())


@functools.cache
def _signature(handler: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(handler)


@functools.cache
def _values_of(handler: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters that the handler annotates as one value each."""
    parameters = [each for each in _signature(handler).parameters.values() if each.kind is not each.VAR_POSITIONAL]
    return tuple(each.name for each in parameters if each.annotation in ("Value", "Value | torch.Tensor"))


@functools.cache
def _integers_of(handler: Callable[..., Any]) -> tuple[str, ...]:
    """The parameters that the handler annotates as whole numbers."""
    parameters = [each for each in _signature(handler).parameters.values() if each.kind is not each.VAR_POSITIONAL]
    return tuple(each.name for each in parameters if _INTEGERS.fullmatch(str(each.annotation)))


@functools.lru_cache(1024)
def _only_values_of(handler: Callable[..., Any]) -> frozenset[str]:
    """The parameters that the handler annotates as one value each, constants not excepted."""
    return frozenset(each.name for each in _signature(handler).parameters.values() if each.annotation == "Value")


def _has_value(structure: Any) -> bool:
    return any(isinstance(item, Value) for item in leaves(structure))


def _target_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _shares_memory(result: torch.Tensor, base: Any) -> bool:
    """Of a base among several (`parameter.chunk(2)`) it is one; a shape, of which a tensor is made, has none."""
    return any(memory_of(result) == memory_of(leaf) for leaf in leaves(base) if isinstance(leaf, torch.Tensor))


def _attribute(ctx: LoweringContext, obj: Any, name: str, *default: Any) -> Any:
    if isinstance(obj, Value):
        return tensor_attribute(ctx, obj, name)
    if isinstance(obj, tuple) and name in ("values", "indices") and not hasattr(obj, name):
        return obj[("values", "indices").index(name)]  # torch's pairs of results become plain tuples
    try:
        return getattr(obj, name, *default)
    except AttributeError as error:
        raise ctx.error(str(error)) from None
