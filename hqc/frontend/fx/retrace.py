"""Graphs that are traced already, and the module tree of a traced model."""

from __future__ import annotations

from torch import fx, nn

from hqc.frontend.fx.locations import MODULE_META, SOURCE_META, TYPES_META, class_name, types_along
from hqc.frontend.fx.precision import without_reduced

WARNINGS_META = "hqc_warnings"
"""Key in `graph_module.meta` of the sentences that the trace has to say about the model."""


def adopt_tree(traced: fx.GraphModule, model: nn.Module) -> None:
    """Give the traced module the model's whole tree, in its order and with its classes, not only what the graph uses."""
    traced._modules.clear()
    traced._modules.update(model._modules)
    traced._parameters.update(model._parameters)
    traced._buffers.update(model._buffers)
    traced._non_persistent_buffers_set |= model._non_persistent_buffers_set


def retrace(model: fx.GraphModule) -> fx.GraphModule:
    """The same graph under the same names, as a module of its own that shares the submodules."""
    graph = fx.Graph(tracer_cls=getattr(model.graph, "_tracer_cls", None))
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(model.graph, copied)
    graph.output(output)
    graph.set_codegen(model.graph._codegen)
    next(iter(reversed(graph.nodes))).meta.update(next(iter(reversed(model.graph.nodes))).meta)
    reduced = without_reduced(graph)
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        path = node.meta.setdefault(MODULE_META, _stock_path(node))
        node.meta.setdefault(TYPES_META, types_along(path, modules, class_name(type(model))))
        node.meta.setdefault(SOURCE_META, "")
    result = fx.GraphModule(model, graph, type(model).__name__)
    adopt_tree(result, model)
    result.training = model.training
    result.meta.update(model.meta)
    result.meta[WARNINGS_META] = [*result.meta.get(WARNINGS_META, []), *reduced]
    return result


def _stock_path(node: fx.Node) -> str:
    """Module path of a node that stock FX traced."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""
