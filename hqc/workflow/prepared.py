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

from torch import fx, nn

from hqc.passes.base import Remark
from hqc.passes.plan import Plan
from hqc.workflow.options import CompileOptions
from hqc.workflow.states import reset_weight_scales, translate_calibration_state


@dataclass
class Preparation:
    """What a prepared model remembers. `float_model`: an untouched copy of the user's model. `inputs`: meta tensors of the
    shapes the model was last run with; None until the first forward when no example inputs were given. `output_names`: of the
    float model. `emission`: what of the plan shows in the emitted model."""

    float_model: nn.Module
    plan: Plan
    options: CompileOptions
    inputs: tuple[Any, ...] | None = None
    output_names: tuple[str, ...] = ()
    remarks: list[Remark] = field(default_factory=list)
    emission: tuple[Any, ...] = ()


class ObservedGraphModule(fx.GraphModule):
    """What `prepare_*_fx` returns. `preparation` holds the plan; everything else is an ordinary GraphModule."""

    preparation: Preparation

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str, preparation: Preparation) -> None:
        super().__init__(root, graph, class_name)
        self.preparation = preparation
        self.register_load_state_dict_post_hook(_after_load)  # type: ignore[no-untyped-call]
        self._calibration_loaded = False

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """The entries of a calibration model fit too, strictly: its scales are taken over, and weights keep those of their ranges."""
        self._calibration_loaded = translate_calibration_state(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def recompile(self) -> Any:
        """Compile the graph. The first forward of a model that was prepared without shapes plans again before it runs."""
        result = super().recompile()
        cls: Any = type(self)
        cls._planned_forward = cls.forward
        cls.forward = _settled(cls.forward)
        return result

    def __deepcopy__(self, memo: dict[int, Any]) -> ObservedGraphModule:
        return _rebuild(*copy.deepcopy(_parts(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        state, graph, class_name = _parts(self)
        # A copy has no owner: the graph's own would lead pickle back to this module before the graph exists.
        return _rebuild, (state, _with_functions(graph, _importable), class_name)


@dataclass(frozen=True)
class _Function:
    """A function that pickle does not find under its qualified name (`F.max_pool2d`), by where it can be imported from."""

    module: str
    name: str

    def load(self) -> Any:
        return getattr(importlib.import_module(self.module), self.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # a graph takes only what can be called
        return self.load()(*args, **kwargs)


def _importable(function: Any) -> Any:
    found = _Function(str(getattr(function, "__module__", "")), str(getattr(function, "__name__", "")))
    if "<locals>" in getattr(function, "__qualname__", "") and found.module in sys.modules:
        return found if getattr(sys.modules[found.module], found.name, None) is function else function
    return function


def _loaded(function: Any) -> Any:
    return function.load() if isinstance(function, _Function) else function


def _with_functions(graph: fx.Graph, change: Callable[[Any], Any]) -> fx.Graph:
    """A copy of `graph` whose calls of functions are changed."""
    copied = fx.Graph(tracer_cls=graph._tracer_cls)
    nodes: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        target = change(node.target) if node.op == "call_function" else node.target
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), nodes.__getitem__)
        nodes[node] = copied.create_node(node.op, target, args, kwargs, node.name, node.type)
        nodes[node].meta = dict(node.meta)
    copied.set_codegen(graph._codegen)
    return copied


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


def _rebuild(state: dict[str, Any], graph: fx.Graph, class_name: str) -> ObservedGraphModule:
    graph = _with_functions(graph, _loaded)
    root = nn.Module()
    for key in ("_modules", "_parameters", "_buffers"):
        root.__dict__[key] = state[key]
    module = ObservedGraphModule(root, graph, class_name, state["preparation"])
    for key, value in state.items():
        module.__dict__[key] = value
    return module


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
