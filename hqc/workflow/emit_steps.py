"""Calls that are written step by step, because a step is observed or has a device of its own: by the torch forms of their nodes."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from hqc.errors import LoweringError
from hqc.frontend.fx.forms import TorchForm, torch_form
from hqc.frontend.fx.forms.layout import reshape
from hqc.frontend.fx.locations import FORM_META, NAME_META, ORIGIN_META
from hqc.ir import Node, Trait, Value
from hqc.structures import children, map_structure
from hqc.workflow.emit_operands import Operands

if TYPE_CHECKING:
    from hqc.workflow.emit import _Emitter


Array = npt.NDArray[Any]
_CHANGES: dict[str, Any] = {"neg": (torch.neg, np.negative), "reciprocal": (torch.reciprocal, np.reciprocal)}
"""Ops by which rewrites make one parameter of another: in torch and in NumPy. Each is its own inverse."""
_MOST_AXES = 5  # of a parameter whose axes a step may have in another order


class StepWriter:
    """Writes the nodes that a call of the traced model became, one call each. The last one holds what the call returned."""

    def __init__(self, emitter: _Emitter) -> None:
        self._emitter = emitter
        self._held: dict[str, fx.Node] = {}  # value name -> the step that computes it
        self._as_they_were: dict[fx.Node, fx.Node] = {}

    def write(self, old: fx.Node, nodes: list[Node]) -> None:
        """Write the `nodes` of `old` but those that a later operation took in."""
        emitter, operands = self._emitter, Operands(self._emitter, old)
        members: dict[str, Any] = {}
        own = [node for node in nodes if node.origin[-1] == old.name]
        for node in own:
            if node.op.has(Trait.OPAQUE):
                raise LoweringError(
                    f"{node.label} is a step inside one operation and cannot carry a fake quant of its own; let the operation run on the "
                    "CPU with hybrid_dict"
                )
            args = tuple(None if value is None else self._operand(value, operands, old) for value in node.inputs)
            # the plan knows the steps of a divided operation by their own names
            members = emitter.values.origin(node) if emitter.divided.isdisjoint(node.origin) else {node.name: node.loc}
            new = self._call(old, _float_form(node), args, node.name, members, (node.op.name, dict(node.attributes)))
            emitter.env[old] = new
            for index, value in enumerate(node.results):
                if len(node.results) > 1:
                    name = emitter.free_name(f"{node.name}_{index}")
                    new = emitter.graph.create_node("call_function", operator.getitem, (emitter.env[old], index), {}, name)
                self._held[value.name] = new
                if not emitter.values.has_carrier(value):
                    if emitter.observers.is_observed(value):
                        emitter.observed[value.name] = value
                    emitter.settle(value, new, old)
        held = emitter.values.held(old)
        if children(held) is not None:
            self._gather(old, held)
        elif own:
            self._restore_shape(old, own[-1], members)

    def _gather(self, old: fx.Node, held: Any) -> None:
        """What a call with several results returned, for readers of the whole; `take` answers who reads one of them."""
        together = map_structure(held, lambda value: self._held.get(value.name) if isinstance(value, Value) else None)
        name = self._emitter.free_name(f"{old.name}_results")
        self._emitter.env[old] = self._emitter.graph.create_node("call_function", type(held), (together,), {}, name)

    def takes(self, old: fx.Node) -> bool:
        """True for `x.max(1)[0]` and `x.max(1).values`, where `x.max(1)` was written step by step."""
        whole = old.args[0] if old.target in (operator.getitem, getattr) else None
        if not isinstance(whole, fx.Node) or not self._emitter.values.holds_tensor(old):
            return False
        is_step = whole.name in self._emitter.composites or whole in self._as_they_were
        return is_step and children(self._emitter.values.held(whole)) is not None

    def take(self, old: fx.Node) -> None:
        """The step that computes what `old` takes from a call's results. Where a later operation took that in, only calls that ask for
        sizes read this: it is taken from the call as it was."""
        emitter, whole = self._emitter, old.args[0]
        assert isinstance(whole, fx.Node)
        value = emitter.values.value(old)
        if value is not None and value.name in self._held:
            emitter.env[old] = self._held[value.name]
            return
        if whole not in self._as_they_were:
            self._as_they_were[whole] = self._as_it_was(whole, emitter.env.__getitem__)
        emitter.env[old] = self._as_it_was(old, {whole: self._as_they_were[whole]}.__getitem__)
        self._as_they_were[old] = emitter.env[old]

    def _as_it_was(self, old: fx.Node, of: Callable[[fx.Node], fx.Node]) -> fx.Node:
        args, kwargs = fx.node.map_arg(old.args, of), fx.node.map_arg(dict(old.kwargs), of)
        return self._emitter.graph.create_node(old.op, old.target, args, kwargs, self._emitter.free_name(f"{old.name}_sizes"))

    def _restore_shape(self, old: fx.Node, last: Node, members: dict[str, Any]) -> None:
        """The shape that readers of the call expect, where a rewrite dropped the last change of shape; a later operation that took it
        in reads what stands before it, and only calls that ask for sizes read this."""
        emitter = self._emitter
        own, now = emitter.values.shape(old), last.results[0].shape
        if own is None or now is None or own == now or math.prod(own) != math.prod(now):
            return
        shape = (0, *own[1:]) if own[:1] == now[:1] else own  # any batch
        name, form = emitter.free_name(f"{old.name}_in_shape"), TorchForm(reshape, shape=shape)
        emitter.env[old] = self._call(old, form, (emitter.env[old],), name, members, ("reshape", {"shape": shape}))

    def _call(
        self,
        old: fx.Node,
        form: TorchForm,
        args: tuple[Any, ...],
        name: str,
        members: dict[str, Any],
        what: tuple[str, dict[str, Any]],
    ) -> fx.Node:
        """A call of a torch form. `members`: the operations of the model that it stands for. `what`: its IR op and attributes."""
        new = self._emitter.graph.create_node("call_function", form.function, args, form.attributes, name)
        new.meta = {**old.meta, ORIGIN_META: members, FORM_META: what}
        if NAME_META in new.meta:
            new.meta[NAME_META] = name
        return new

    # --- operands ------------------------------------------------------------------------------------------------------------

    def _operand(self, value: Value, operands: Operands, old: fx.Node) -> Any:
        emitter = self._emitter
        if not value.is_parameter:
            return operands.of_value(value)
        array = value.array
        assert array is not None
        source, made_by = emitter.values.graph.changed.get(value.name, (value.name, ""))
        change, undo = _CHANGES.get(made_by, (None, np.asarray))
        holder = emitter.values.holder(source)
        held = [holder] if holder is not None else [node for node in old.all_input_nodes if node.name in emitter.tensors]
        for node in held:
            found = self._laid_out(undo(array), source, node, holder) if node in emitter.env else None
            if found is not None:
                if change is None:
                    return found
                return emitter.graph.create_node("call_function", change, (found,), {}, emitter.free_name(value.name))
        if array.ndim == 0:
            return array.item()
        path = emitter.tree.constant(value.name, torch.from_numpy(np.array(array)))
        return emitter.graph.create_node("get_attr", path, (), {}, emitter.free_name(path))

    def _laid_out(self, array: Array, name: str, node: fx.Node, holder: fx.Node | None) -> fx.Node | None:
        """The tensor that `node` holds in the layout of the planned parameter, so that it goes on training; None where it is another.

        `holder`: the node that is known to hold the parameter called `name`.
        """
        emitter = self._emitter
        now, tensor = emitter.env[node], emitter.tensors.get(node.name)
        if tensor is None:
            return now
        own = tensor.detach().cpu().numpy()
        if own.size != array.size or own.dtype != array.dtype:
            return now if node is holder else None
        for perm in itertools.permutations(range(own.ndim)) if own.ndim <= _MOST_AXES else [tuple(range(own.ndim))]:
            if np.array_equal(own.transpose(perm).reshape(array.shape), array):
                return self._moved(now, name, own.shape, perm, array.shape)
        return now if node is holder else None

    def _moved(
        self, now: fx.Node, name: str, shape: tuple[int, ...], perm: tuple[int, ...], target: tuple[int, ...]
    ) -> fx.Node:
        emitter = self._emitter
        if perm == (1, 0) and target == shape[::-1]:
            return emitter.graph.create_node("call_method", "t", (now,), {}, emitter.free_name(f"{name}_transposed"))
        if perm != tuple(range(len(perm))):
            now = emitter.graph.create_node("call_method", "permute", (now, perm), {}, emitter.free_name(f"{name}_moved"))
        if target == tuple(shape[axis] for axis in perm):
            return now
        return emitter.graph.create_node("call_method", "reshape", (now, target), {}, emitter.free_name(f"{name}_reshaped"))


def _float_form(node: Node) -> TorchForm:
    """The torch form of a node; a pool with a gain is a plain average, for the module behind it (GainPool) makes the gain of it."""
    form = torch_form(node)
    if "gain" not in node.attributes:
        return form
    height, width = node.attributes["kernel"]
    return TorchForm(form.function, **{**form.attributes, "gain": 512.0 / (height * width)})
