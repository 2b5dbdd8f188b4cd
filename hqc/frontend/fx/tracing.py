"""Tracing a torch model into an FX GraphModule: the entry point, its second traces, and what the result records."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import fx, nn

from hqc.checked import explained
from hqc.errors import FAULTS, InputError, TraceError
from hqc.frontend.fx.assumptions import ASSUMPTIONS_META
from hqc.frontend.fx.codegen import CarefulCodeGen, needs_care
from hqc.frontend.fx.examples import argument_examples
from hqc.frontend.fx.exported import is_aten, module_of, plain
from hqc.frontend.fx.exported_trace import bound_arguments, exported_trace
from hqc.frontend.fx.kept_state import KeptState, settles
from hqc.frontend.fx.leaf_modules import LeafSpec
from hqc.frontend.fx.models import as_traceable, refuse_untraceable
from hqc.frontend.fx.patches import TRACE_LOCK
from hqc.frontend.fx.precision import said_of
from hqc.frontend.fx.proxies import recorded
from hqc.frontend.fx.released import drop_releases
from hqc.frontend.fx.retrace import WARNINGS_META, adopt_tree, retrace
from hqc.frontend.fx.state import unchanged_in_eval
from hqc.frontend.fx.strides import settle_strides
from hqc.frontend.fx.trace_errors import explain, refuse_odd_keys
from hqc.frontend.fx.tracer import HqcTracer
from hqc.frontend.fx.updates import FROZEN_META, TRAINING_ONLY_META, buffer_updates, write_copies
from hqc.frontend.fx.user_code import training_branches
from hqc.frontend.fx.views import FUNCTIONAL_META, functionalize

logger = logging.getLogger(__name__)
_F = TypeVar("_F", bound=Callable[..., Any])


@explained
def trace(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    leaf_modules: Sequence[LeafSpec] = (),
    concrete_args: Mapping[str, Any] | None = None,
    symbolic_args: Sequence[str] = (),
) -> fx.GraphModule:
    """Trace `model` in eval mode. The model is left as it was: modes, attributes and buffers are restored.

    `example_inputs` (a tensor, a tuple of positional inputs, or a dict by name): shapes and dtypes become known while tracing,
    without running the model, so that code may branch on sizes, loop over splits and so on. Names and order of the nodes are
    the same without them. Sizes stay calls; what was assumed of a size is in `result.meta["hqc_assumptions"]`.

    Leaves are the modules of torch.nn (and subclasses that change nothing but their constructor), quantization stubs,
    modules of a class with `_hqc_leaf = True`, and those named in `leaf_modules` by class, path or instance. Methods of
    FloatFunctional modules (torch.ao's, and classes with `_hqc_functional = True`) are traced as get_attr + call_method.

    Arguments of `forward` with a None, bool, number or string default keep it as a constant (as do those of
    `concrete_args`, with the value given there) unless named in `symbolic_args` or given in `example_inputs`.

    The result shares its submodules, parameters and buffers with `model` and has the same tree; node names are stock FX
    names. Each `node.meta` has `hqc_source` (`file.py:line`), `hqc_module` (path) and `hqc_module_types`;
    `result.meta["hqc_warnings"]` lists what should be known, such as branches on `self.training`.

    Assertions about traced tensors, and other checks of data (`if x.isnan().any(): raise ...`), are taken as passed and leave no nodes.
    Objects in what forward returns become dicts of the tensors that they hold.

    Where proxies cannot go through the Python code and there are example inputs, the graph is what `torch.export` makes of it, over the
    same tree; a warning says so, and sizes are constants (see `exported_trace`).

    One trace runs at a time; what it patches works as before in other threads. Raises `TraceError` with the user's line when
    the Python code cannot be traced, `InputError` for example inputs that `forward` does not take.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = module_of(model)
    if isinstance(model, nn.Module) and any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        model, _ = as_traceable(model)
    refuse_untraceable(model)
    if isinstance(model, fx.GraphModule):
        return retrace(plain(model) if is_aten(model.graph) else model)
    constants = dict(concrete_args or {})
    examples = argument_examples(model, example_inputs, optional=constants)
    tracer = HqcTracer(
        leaf_modules=leaf_modules,
        concrete_args=constants,
        symbolic_args=(*symbolic_args, *(name for name in examples or () if name not in constants)),
        examples=examples,
    )
    with TRACE_LOCK:
        try:
            tracer, traced, frozen = _traced_unseen(model, tracer)
        except TraceError as refusal:
            if leaf_modules:
                raise
            return exported_trace(model, examples, constants, refusal)
    if tracer.state_refusal is not None and not (
        examples and settles(model, bound_arguments(model, {**examples, **constants}))
    ):
        raise TraceError(tracer.state_refusal)
    adopt_tree(traced, model)
    traced.training = model.training
    updates = buffer_updates(traced.graph, model)
    warnings = [f"forward changes the buffer {name} at every call; the graph keeps its present value" for name in frozen]
    warnings += updates.sentences()
    warnings += [f"{line}: {said_of(dtype)}" for line, dtype in tracer.reduced]
    taken = {node.meta.get(TRAINING_ONLY_META) for node in updates.written}
    for cls in tracer.called_classes:
        warnings.extend(
            f"{line}: a branch on self.training; the graph has the eval branch, in training too"
            for line in training_branches(cls)
            if line not in taken
        )
    for warning in warnings:
        logger.warning("%s", warning)
    traced.meta[WARNINGS_META] = warnings
    traced.meta[FROZEN_META] = frozen
    traced.meta[ASSUMPTIONS_META] = list(tracer.assumptions.values())
    return traced


def _traced_unseen(model: nn.Module, tracer: HqcTracer) -> tuple[HqcTracer, fx.GraphModule, dict[str, str]]:
    """A trace of what the model does when nobody traces it; where that takes data, and the code asks, of what it does when traced."""
    try:
        return _traced_with_updates(model, tracer)
    except TraceError:
        if not tracer.was_asked:
            raise
        try:
            return _traced_with_updates(model, tracer.again(hidden=False))
        except TraceError:
            pass
        raise


def _traced_with_updates(model: nn.Module, tracer: HqcTracer) -> tuple[HqcTracer, fx.GraphModule, dict[str, str]]:
    """A trace that has what changes buffers in it, and the buffers whose changes no graph repeats, with the reason.

    Counters and running averages are found by a first trace; a second has these buffers as part of the graph. Branches that change
    them in training only are taken where that works.
    """
    try:
        tracer, traced, changed = _traced(model, tracer)
    except TraceError:
        if not tracer.regions.took_updates:
            raise
        return _traced_with_updates(model, tracer.again(updates=False))
    frozen: dict[str, str] = {}
    if changed:
        again = tracer.again(changed, tracer.regions.takes_updates)
        try:
            again, traced, changed = _traced(model, again)
            frozen = dict.fromkeys(changed, "the new value is computed from sizes alone")
        except TraceError as error:
            frozen = dict.fromkeys(changed, str(error))
        if not frozen:
            return again, traced, frozen
    if tracer.regions.took_updates:  # for nothing: the branch changes no buffer, or not as a graph can
        return _traced_with_updates(model, tracer.again(updates=False))
    return tracer, traced, frozen


def _traced(model: nn.Module, tracer: HqcTracer) -> tuple[HqcTracer, fx.GraphModule, list[str]]:
    """One trace, and the buffers that forward has changed on the way. The model is left as it was.

    Where forward writes into what it makes of constants, these are found, and traced as the rest is.
    """
    while True:
        try:
            return _traced_once(model, tracer)
        except TraceError:
            fresh = tracer.with_canvases()
            if fresh is None:
                raise
            tracer = fresh


def _traced_once(model: nn.Module, tracer: HqcTracer) -> tuple[HqcTracer, fx.GraphModule, list[str]]:
    with unchanged_in_eval(model) as changed:
        kept = KeptState(model)
        stop = sys._getframe()
        try:
            with torch.no_grad():  # as a deployed model runs: `torch.is_grad_enabled()` is a question of its code
                graph = tracer.trace(model)
        except InputError:
            raise
        except FAULTS as error:
            raise explain(error, type(model).__name__, stop) from error
        refuse_odd_keys(graph)
        tracer.state_refusal = kept.refusal(tracer)
        settle_strides(graph, tracer.known)
        drop_releases(graph)
        write_copies(graph, model)
        functional = functionalize(graph, model, tracer.known, buffer_updates(graph, model).written)
        if any(map(needs_care, tracer.called_paths)):
            graph.set_codegen(CarefulCodeGen())
        names = [*dict.fromkeys((*changed(), *tracer.replaced_buffers))]
        tracer.put_back()
        traced = fx.GraphModule(model, graph, type(model).__name__)
    traced.meta[FUNCTIONAL_META] = functional
    return tracer, traced, names


@explained
def wrap(function: _F) -> _F:
    """Decorator: calls of `function` on traced tensors become one node, which runs as it is, on the CPU."""

    return recorded(function)  # type: ignore[return-value]
