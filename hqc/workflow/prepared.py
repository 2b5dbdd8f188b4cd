"""The prepared model: an FX GraphModule that carries its float origin, its placement plan and its options.

The plan travels with the model through `copy.deepcopy`, pickling and `torch.save`; `state_dict` holds parameters, scales and
observer statistics as for any module.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from torch import fx, nn

from hqc.errors import InputError, ShapeError, SupportError
from hqc.passes.base import Remark
from hqc.passes.plan import Plan
from hqc.workflow.arguments import from_meta, to_meta
from hqc.workflow.options import CompileOptions


@dataclass
class Preparation:
    """What a prepared model remembers. `float_model`: an untouched copy of the user's model. `inputs`: meta tensors of the
    shapes the model was last run with; None until the first forward when no example inputs were given. `output_names`: of the
    float model."""

    float_model: nn.Module
    plan: Plan
    options: CompileOptions
    inputs: tuple[Any, ...] | None = None
    output_names: tuple[str, ...] = ()
    remarks: list[Remark] = field(default_factory=list)


class ObservedGraphModule(fx.GraphModule):
    """What `prepare_*_fx` returns. `preparation` holds the plan; everything else is an ordinary GraphModule."""

    preparation: Preparation

    def __init__(self, root: nn.Module, graph: fx.Graph, class_name: str, preparation: Preparation) -> None:
        super().__init__(root, graph, class_name)
        self.preparation = preparation

    def __deepcopy__(self, memo: dict[int, Any]) -> ObservedGraphModule:
        return _rebuild(*copy.deepcopy(_parts(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        state, graph, class_name = _parts(self)
        # A copy has no owner: the graph's own would lead pickle back to this module before the graph exists.
        return _rebuild, (state, copy.deepcopy(graph), class_name)


_HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs")


def _parts(module: ObservedGraphModule) -> tuple[Any, ...]:
    state = {
        key: value for key, value in module.__dict__.items() if key not in {"_graph", "_code", "_tracer_cls", "_tracer_extras"}
    }
    # A copy without an owner: a graph pickles its owning module, which is what is being pickled here.
    return state, copy.deepcopy(module.graph), type(module).__name__


def _rebuild(state: dict[str, Any], graph: fx.Graph, class_name: str) -> ObservedGraphModule:
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


def record_and_check_inputs(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Forward pre-hook: remember input shapes, and on the first ones judge the plan again with them.

    `SupportError` names the nodes whose device would change.
    """
    assert isinstance(module, ObservedGraphModule)
    preparation = module.preparation
    if preparation.inputs is not None or not args:
        return
    from hqc.workflow.planning import plan_model

    try:
        fresh = plan_model(preparation.float_model, preparation.options, from_meta(to_meta(args))).plan
    except ShapeError as error:
        raise InputError(f"the prepared model cannot take these inputs: {error}") from error
    changed = preparation.plan.changes(fresh)
    if changed:
        raise SupportError(
            "with the shapes of this first forward the placement differs from the one decided at prepare time without "
            f"shapes ({'; '.join(map(str, changed))}); pass example_inputs to prepare"
        )
    preparation.inputs = to_meta(args)
