"""The second way to a graph: `torch.export`, for models whose Python code takes no proxies.

Export runs forward on fake tensors, which real Python code takes where it refuses proxies: helpers in C++, masks made by vmap,
`*sizes` unpacked in libraries. What comes back is written in ordinary torch calls over the model's own tree. It is the second
way and not the first: sizes are constants of such a graph, it takes seconds, and names are those of operators.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import io
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from hqc.errors import FAULTS, TraceError
from hqc.frontend.fx.assumptions import ASSUMPTIONS_META
from hqc.frontend.fx.exported import plain_graph, without_levels
from hqc.frontend.fx.exported_layers import adopt_layers
from hqc.frontend.fx.kept_state import refusal_of_runs
from hqc.frontend.fx.known import KnownValues
from hqc.frontend.fx.leaf_modules import is_functional, is_stub
from hqc.frontend.fx.locations import MODULE_META, SOURCE_META, TYPES_META, is_user_file, shown, types_along
from hqc.frontend.fx.precision import without_reduced
from hqc.frontend.fx.results import SYMBOLIC, tensors_opened
from hqc.frontend.fx.retrace import WARNINGS_META, adopt_tree
from hqc.frontend.fx.state import unchanged_in_eval
from hqc.frontend.fx.strides import settle_strides
from hqc.frontend.fx.trace_errors import refuse_odd_keys
from hqc.frontend.fx.updates import FROZEN_META, buffer_updates
from hqc.frontend.fx.views import FUNCTIONAL_META, functionalize

_library: Any = torch.library.Library("hqc", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("kept_module(Tensor input, str path) -> Tensor")
_library.impl("kept_module", lambda input, path: input.clone(), "CompositeExplicitAutograd")
"""What stands for a stub while a model is exported, so that it is a call of its own in the graph."""
_FRAME = re.compile(r'File "([^"]*)", line (\d+)')
_NUMBERS = (*SYMBOLIC, int, float, bool)


def exported_trace(
    model: nn.Module, examples: Mapping[str, Any] | None, constants: Mapping[str, Any], refusal: TraceError
) -> fx.GraphModule:
    """The graph of `model`, which stock tracing refused with `refusal`, by `torch.export`; raises `refusal` where that fails too.

    `examples`: the example of each argument of forward that is given, by name; `constants`: arguments with fixed values.
    The result is as that of `trace`, with the sizes of the examples as constants. Models that change buffers, and those with
    functional modules, whose methods export opens, are refused.
    """
    if examples is None or any(map(is_functional, model.modules())):
        raise refusal
    try:
        held = _exported(model, {**examples, **constants}).module()
        graph = plain_graph(held)
    except FAULTS:  # the user's code under torch's tracing: the first way's sentence is about that code
        raise refusal from None
    if any(node.op == "placeholder" and str(node.target) not in examples for node in graph.nodes):
        raise refusal  # forward takes *args, whose members have no examples by name
    kept = refusal_of_runs(model, bound_arguments(model, {**examples, **constants}))
    if kept is not None:
        raise TraceError(kept)
    refuse_odd_keys(graph)
    reduced = without_reduced(graph)
    traced = _module_over(model, held, graph)
    updates = buffer_updates(traced.graph, traced)
    if updates.written:
        raise refusal
    _bind(traced, examples)
    for node in traced.graph.nodes:
        node.meta.pop("val", None)
    reason = str(refusal).partition("; pass the deciding")[0]
    traced.meta[WARNINGS_META] = [
        f"{reason}; so the graph is what torch.export makes of the model: right for inputs of the sizes of example_inputs",
        *reduced,
    ]
    traced.meta[FROZEN_META] = {}
    traced.meta[ASSUMPTIONS_META] = []
    return traced


def _is_kept(module: nn.Module) -> bool:
    return is_stub(module) or bool(getattr(type(module), "_hqc_leaf", False))


def _exported(model: nn.Module, given: Mapping[str, Any]) -> torch.export.ExportedProgram:
    """The program; an error where it would not compute what the model computes for other inputs of these sizes."""
    bound = bound_arguments(model, given)
    with unchanged_in_eval(model), torch.no_grad():
        for path, module in model.named_modules():
            if _is_kept(module):
                module.__dict__["forward"] = functools.partial(_kept_module, path=path)
        model.__dict__["forward"] = _returning_tensors(model.forward)
        with _quiet():
            program = torch.export.export(model, bound.args, bound.kwargs, strict=False)
    if program.graph_signature.buffers_to_mutate or program.graph_signature.user_inputs_to_mutate:
        raise TraceError("forward changes buffers or inputs")
    program = without_levels(program)
    for node in program.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise TraceError(f"{node.name} is control flow")
        if isinstance(value := node.meta.get("val"), torch.Tensor) and value.is_complex():
            raise TraceError(f"{node.name} is complex")
        if isinstance(value, _NUMBERS):  # a number that was read out of data
            raise TraceError(f"{node.name} depends on data")
    return program


def bound_arguments(model: nn.Module, given: Mapping[str, Any]) -> inspect.BoundArguments:
    """Arguments of forward by name, as it is called with them."""
    return inspect.BoundArguments(inspect.signature(model.forward), dict(given))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says when an export fails: the first way's sentence is what the user gets."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def _returning_tensors(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def opened(*args: Any, **kwargs: Any) -> Any:
        return tensors_opened(forward(*args, **kwargs))

    return opened


def _kept_module(input: torch.Tensor, path: str) -> Any:
    return torch.ops.hqc.kept_module(input, path)


def _module_over(model: nn.Module, held: fx.GraphModule, graph: fx.Graph) -> fx.GraphModule:
    """`graph`, over what `held` holds, as a module with the tree of `model`; tensors that are not the model's become constants."""
    found: dict[str, Any] = {}
    first = {id(tensor): name for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    taken = {*dir(nn.Module()), *model._modules, *model._parameters, *model._buffers}
    for node in graph.nodes:
        if node.op == "get_attr":
            tensor = _attribute(held, str(node.target))
            node.target = first.get(id(tensor)) or _free(re.sub(r"\W", "_", str(node.target)), taken)
            found[str(node.target)] = tensor
        elif node.op == "call_module":
            found[str(node.target)] = model.get_submodule(str(node.target))
    traced = fx.GraphModule(found, graph, type(model).__name__)
    constants = {name: tensor for name, tensor in found.items() if id(tensor) not in first}
    adopt_tree(traced, model)
    for name, tensor in constants.items():
        setattr(traced, name, tensor.detach() if isinstance(tensor, torch.Tensor) else tensor)
    traced.training = model.training
    adopt_layers(traced)
    modules = dict(model.named_modules(remove_duplicate=False))
    homes = {id(module): path for path, module in model.named_modules()}
    for node in traced.graph.nodes:
        stack = node.meta.pop("nn_module_stack", None)
        path = str(list(stack.values())[-1][0]) if stack else ""
        path = homes[id(modules[path])] if path in modules else path
        node.meta[MODULE_META] = path
        node.meta[TYPES_META] = types_along(path, modules)
        node.meta[SOURCE_META] = _source(node.meta.pop("stack_trace", None) or "")
    return traced


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part, None)
    return root


def _source(trace: str) -> str:
    """The innermost line of the user's in a stack trace as text."""
    frames = [(file, int(line)) for file, line in _FRAME.findall(trace) if is_user_file(file)]
    return shown(*frames[-1]) if frames else ""


def _bind(traced: fx.GraphModule, examples: Mapping[str, Any]) -> None:
    """Make writes through views explicit, which takes the values of all nodes."""
    known = KnownValues(traced)
    for node in traced.graph.nodes:
        if node.op == "placeholder":
            known.give(node, examples[str(node.target)])
        else:
            known.record(node)
    settle_strides(traced.graph, known)
    traced.meta[FUNCTIONAL_META] = functionalize(traced.graph, traced, known)
    traced.recompile()
