"""The prepared model: an FX GraphModule that carries its float origin, its placement plan and its options.

The plan travels with the model through `copy.deepcopy`, pickling and `torch.save`; `state_dict` holds parameters, scales and
observer statistics as for any module.
"""

from __future__ import annotations

import copy
import functools
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from hqc.checked import explained
from hqc.frontend.fx.copying import deep_copy
from hqc.passes.base import Remark
from hqc.passes.plan import Plan
from hqc.workflow.options import CompileOptions
from hqc.workflow.states import reset_weight_scales, translate_state


@dataclass
class Preparation:
    """What a prepared model remembers. `float_model`: an untouched copy of the user's model. `inputs`: meta tensors of the
    shapes the model was last run with; None until the first forward when no example inputs were given. `output_names`: of the
    float model. `emission`: what of the plan shows in the emitted model. `shares`: the large weights of `float_model` are those of the
    prepared model, which nobody trains; `own_weights` before somebody might."""

    float_model: nn.Module
    plan: Plan
    options: CompileOptions
    inputs: tuple[Any, ...] | None = None
    output_names: tuple[str, ...] = ()
    remarks: list[Remark] = field(default_factory=list)
    emission: tuple[Any, ...] = ()
    shares: bool = False

    def own_weights(self) -> None:
        """Let what happens to the prepared model's weights leave the float model as it is."""
        if self.shares:
            self.float_model, self.shares = deep_copy(self.float_model), False


class GraphModuleWithAttr:
    """What prepared and converted models are both kinds of: they keep the attributes of the user's model."""


@explained
class ObservedGraphModule(GraphModuleWithAttr, fx.GraphModule):
    """What `prepare_*_fx` returns. `preparation` holds the plan; everything else is an ordinary GraphModule."""

    preparation: Preparation

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str, preparation: Preparation) -> None:
        super().__init__(root, graph, class_name)
        self.preparation = preparation
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]
        self._calibration_loaded = False

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """The entries of a model with other observers fit too, strictly: its scales are taken over."""
        self._calibration_loaded = translate_state(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def recompile(self) -> Any:
        """Compile the graph. The first forward of a model that was prepared without shapes plans again before it runs."""
        result = super().recompile()
        cls: Any = type(self)
        cls._planned_forward = cls.forward
        cls.forward = _settled(cls.forward)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> ObservedGraphModule:
        return _rebuild(*deep_copy(_parts(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        state, graph, class_name = _parts(self)
        return _unpickle, (state, _flat(graph), class_name)


@dataclass(frozen=True)
class _Function:
    """A function that pickle does not find under its qualified name (`F.max_pool2d`), by where it can be imported from."""

    module: str
    name: str

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)


def _importable(function: Any) -> Any:
    found = _Function(str(getattr(function, "__module__", "")), str(getattr(function, "__name__", "")))
    if "<locals>" in getattr(function, "__qualname__", "") and found.module in sys.modules:
        return found if getattr(sys.modules[found.module], found.name, None) is function else function
    return function


def _loaded(function: Any) -> Any:
    return function.load() if isinstance(function, _Function) else function


@dataclass(frozen=True)
class _NodeRef:
    """An FX node by its position in its graph."""

    index: int


def _flat(graph: fx.Graph) -> tuple[Any, ...]:
    """An FX graph as tuples whose depth does not grow with it: its own nodes are linked, and pickle follows links by recursion."""
    index = {node: _NodeRef(position) for position, node in enumerate(graph.nodes)}

    def refer(item: Any) -> Any:
        return index[item] if isinstance(item, fx.Node) else item

    nodes = []
    for node in graph.nodes:
        target = _importable(node.target) if node.op == "call_function" else node.target
        args, kwargs = fx.node.map_aggregate((node.args, node.kwargs), refer)
        nodes.append((node.op, target, args, kwargs, node.name, node.type, dict(node.meta)))
    return graph._tracer_cls, graph._codegen, nodes


def _unflat(flat: tuple[Any, ...]) -> fx.Graph:
    tracer_cls, codegen, parts = flat
    graph = fx.Graph(tracer_cls=tracer_cls)
    nodes: list[fx.Node] = []
    for op, target, args, kwargs, name, type, meta in parts:
        args, kwargs = fx.node.map_aggregate(
            (args, kwargs), lambda item: nodes[item.index] if isinstance(item, _NodeRef) else item
        )
        nodes.append(graph.create_node(op, _loaded(target), args, kwargs, name, type))
        nodes[-1].meta = meta
    graph.set_codegen(codegen)
    return graph


def _settled(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def settled(self: ObservedGraphModule, *args: Any, **kwargs: Any) -> Any:
        if self.preparation.inputs is None:
            from hqc.workflow.replan import settle_plan

            settle_plan(self, args)
        planned: Any = type(self)
        return planned._planned_forward(self, *args, **kwargs)

    return settled


def _after_load(module: nn.Module, incompatible_keys: Any) -> None:
    """Weights came in with the state of a calibration model: their scales follow."""
    if isinstance(module, ObservedGraphModule) and module._calibration_loaded:
        module._calibration_loaded = False
        reset_weight_scales(module)


def _parts(module: ObservedGraphModule) -> tuple[Any, ...]:
    state = {
        key: value for key, value in module.__dict__.items() if key not in {"_graph", "_code", "_tracer_cls", "_tracer_extras"}
    }
    # A copy without an owner: a graph pickles its owning module, which is what is being pickled here.
    return state, copy.deepcopy(module.graph), type(module).__name__


def _unpickle(state: dict[str, Any], flat: tuple[Any, ...], class_name: str) -> ObservedGraphModule:
    return _rebuild(state, _unflat(flat), class_name)


def _rebuild(state: dict[str, Any], graph: fx.Graph, class_name: str) -> ObservedGraphModule:
    root = nn.Module()
    for key, value in state.items():  # what the graph reads: tensors that are plain attributes too
        if key in ("_modules", "_parameters", "_buffers") or isinstance(value, (torch.Tensor, torch.ScriptObject)):
            root.__dict__[key] = value
    module = ObservedGraphModule(root, graph, class_name, state["preparation"])
    for key, value in state.items():
        module.__dict__[key] = value
    if USER_CLASS in state:
        be_instance_of(module, state[USER_CLASS])
    return module


USER_CLASS = "_user_class"
"""Attribute of a prepared or converted model that is an instance of the user's class too: that class."""


def be_instance_of(module: nn.Module, user: type[nn.Module]) -> None:
    """Make a prepared or converted model an instance of the user's class too, so that the model's own methods stay."""
    kind = next(cls for cls in type(module).__mro__ if GraphModuleWithAttr in cls.__bases__)
    # A class of its own, as every graph module has: forward is written into it.
    module.__class__ = type(user.__name__, (kind, user), {"__module__": user.__module__})
    module.__dict__[USER_CLASS] = user
    if isinstance(module, ObservedGraphModule):
        module.recompile()


def keep_module_tree(module: fx.GraphModule, root: nn.Module) -> None:
    """Give `module` all submodules, parameters, buffers and plain attributes of `root`, in the user's order.

    GraphModule itself keeps only what the graph calls, under anonymous parents; users expect their own tree.
    """
    for key in ("_modules", "_parameters", "_buffers"):
        module.__dict__[key] = type(root.__dict__[key])(root.__dict__[key])
    module._non_persistent_buffers_set = set(root._non_persistent_buffers_set)
    for name, value in vars(root).items():
        if not name.startswith("_") and name not in module.__dict__ and name not in ("training", "forward", "graph"):
            module.__dict__[name] = value


def become(model: nn.Module, result: Any) -> Any:
    """Make the object `model` what the prepared or converted model `result` is; returns it."""
    model.__class__ = type(result)
    model.__dict__.clear()
    model.__dict__.update(result.__dict__)
    if isinstance(model, ObservedGraphModule):
        model.graph = copy.deepcopy(model.graph)  # a graph belongs to one module
    return model


def user_class_of(model: nn.Module) -> type[nn.Module]:
    """The class that the user wrote, of a float model and of one that was prepared from it with its methods."""
    found: type[nn.Module] = model.__dict__.get(USER_CLASS, type(model))
    return found


def with_methods(result: Any, model: nn.Module) -> Any:
    """`result` as an instance of the class of `model`, the user's, too."""
    if not isinstance(result, user_class_of(model)):
        be_instance_of(result, user_class_of(model))
    return result
