"""Tracing a torch model into an FX GraphModule whose leaves are the ops that lowering knows."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, FunctionType
from typing import Any, TypeVar

import torch
from torch import fx, nn

from hqc.errors import InputError
from hqc.frontend.fx.locations import MODULE_META, SOURCE_META, TYPES_META, class_name, types_along, user_source
from hqc.frontend.fx.proxies import RecordingProxy, recorded, recording_factories, shape_slice_length
from hqc.frontend.fx.torch_ao import DEQUANT_STUBS, FUNCTIONALS, QUANT_STUBS
from hqc.frontend.fx.trace_errors import ProxyUse, explain
from hqc.frontend.fx.user_code import in_assertion, training_branches

logger = logging.getLogger(__name__)
LeafSpec = type[nn.Module] | str | nn.Module
WARNINGS_META = "hqc_warnings"
"""Key in `graph_module.meta` of the sentences that the trace has to say about the model."""
_F = TypeVar("_F", bound=Callable[..., Any])
_SPECIALIZED = (bool, int, float, str, type(None))
_HARMLESS_OVERRIDES = {"__init__", "__repr__", "extra_repr", "reset_parameters", "_load_from_state_dict"}


def trace(
    model: nn.Module,
    *,
    leaf_modules: Sequence[LeafSpec] = (),
    concrete_args: Mapping[str, Any] | None = None,
    symbolic_args: Sequence[str] = (),
) -> fx.GraphModule:
    """Trace `model` in eval mode. The model is left as it was: modes, attributes and buffers are restored.

    Leaves are the modules of torch.nn (and subclasses that change nothing but their constructor), quantization stubs,
    modules of a class with `_hqc_leaf = True`, and those named in `leaf_modules` by class, path or instance. Methods of
    FloatFunctional modules (torch.ao's, and classes with `_hqc_functional = True`) are traced as get_attr + call_method.

    Arguments of `forward` with a None, bool, number or string default keep it as a constant (as do those of
    `concrete_args`, with the value given there) unless named in `symbolic_args`.

    The result shares its submodules, parameters and buffers with `model` and has the same tree; node names are stock FX
    names. Each `node.meta` has `hqc_source` (`file.py:line`), `hqc_module` (path) and `hqc_module_types`;
    `result.meta["hqc_warnings"]` lists what should be known, such as branches on `self.training`.

    Assertions about traced tensors are taken as true and leave no nodes.

    Raises `TraceError` with the user's line when the Python code cannot be traced.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"trace needs a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, fx.GraphModule):
        return _retrace(model)
    tracer = HqcTracer(leaf_modules=leaf_modules, concrete_args=concrete_args, symbolic_args=symbolic_args)
    with _unchanged(model) as warnings:
        stop = sys._getframe()
        try:
            graph = tracer.trace(model)
        except InputError:
            raise
        except Exception as error:
            raise explain(error, type(model).__name__, stop) from error
        traced = fx.GraphModule(model, graph, type(model).__name__)
    _adopt_tree(traced, model)
    traced.training = model.training
    for cls in tracer.called_classes:
        warnings.extend(
            f"{line}: a branch on self.training; the graph has the eval branch, in training too"
            for line in training_branches(cls)
        )
    for warning in warnings:
        logger.warning("%s", warning)
    traced.meta[WARNINGS_META] = warnings
    return traced


def wrap(function: _F) -> _F:
    """Decorator: calls of `function` on traced tensors become one node, which runs as it is, on the CPU."""

    return recorded(function)  # type: ignore[return-value]


def is_stub(module: nn.Module) -> bool:
    """True for torch's quantization stubs; hqc's own declare `_hqc_leaf`."""
    return isinstance(module, (*QUANT_STUBS, *DEQUANT_STUBS))


def is_functional(module: nn.Module) -> bool:
    """True for FloatFunctional and its kin: modules whose methods, not `forward`, are the ops."""
    cls = type(module)
    return bool(getattr(cls, "_hqc_functional", False)) or isinstance(module, FUNCTIONALS)


def is_library_module(module: nn.Module) -> bool:
    """True when torch.nn's own code runs in `forward`: a torch.nn class, or a subclass that only has a constructor."""
    for cls in type(module).__mro__:
        if cls.__module__.startswith(("torch.nn.", "torch.ao.nn.")):
            return not issubclass(cls, nn.Sequential) and cls is not nn.Module
        if any(
            isinstance(item, (FunctionType, property)) and name not in _HARMLESS_OVERRIDES for name, item in vars(cls).items()
        ):
            return False
    return False


class HqcTracer(fx.Tracer):
    """Stock FX tracing with hqc's leaves, and with locations on every node."""

    def __init__(
        self,
        leaf_modules: Sequence[LeafSpec] = (),
        concrete_args: Mapping[str, Any] | None = None,
        symbolic_args: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._leaf_types = tuple(item for item in leaf_modules if isinstance(item, type))
        self._leaf_paths = {item for item in leaf_modules if isinstance(item, str)}
        self._leaf_ids = {id(item) for item in leaf_modules if isinstance(item, nn.Module)}
        self._constants = dict(concrete_args or {})
        self._symbolic = set(symbolic_args)
        self._stack: list[str] = [""]
        self._stop: FrameType | None = None
        self._types: dict[str, tuple[str, ...]] = {}
        self._modules: dict[str, nn.Module] = {}
        self.called_classes: dict[type, None] = {}
        self.asserted: list[fx.Node] = []

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        self._stop = sys._getframe()
        if isinstance(root, nn.Module):
            self._modules = dict(root.named_modules(remove_duplicate=False))
            self.called_classes[type(root)] = None
        try:
            with self._functional_methods(), recording_factories():
                graph = super().trace(root, concrete_args)
            for node in self.asserted:
                _erase_unread(graph, node)
            return graph
        finally:
            self._stop = None

    @contextlib.contextmanager
    def _functional_methods(self) -> Iterator[None]:
        """While tracing, calling a method of a functional module on proxies records get_attr + call_method."""
        patched = [(path, module) for path, module in self._modules.items() if is_functional(module)]
        names: list[tuple[nn.Module, str]] = []
        try:
            for path, module in patched:
                for name in _functional_method_names(type(module)):
                    if name not in module.__dict__:
                        module.__dict__[name] = functools.partial(self._functional_call, module, path, name)
                        names.append((module, name))
            yield
        finally:
            for module, name in names:
                del module.__dict__[name]

    def _functional_call(self, module: nn.Module, path: str, name: str, *args: Any, **kwargs: Any) -> fx.Proxy:
        self._stack.append(path)
        try:
            receiver = self.create_proxy("get_attr", path, (), {})
            return self.create_proxy("call_method", name, (receiver, *args), kwargs)
        finally:
            self._stack.pop()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if getattr(type(m), "_hqc_leaf", False) or is_stub(m) or is_library_module(m):
            return True
        return isinstance(m, self._leaf_types) or module_qualified_name in self._leaf_paths or id(m) in self._leaf_ids

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        path = self.path_of_module(m)
        if not self.is_leaf_module(m, path):
            self.called_classes[type(m)] = None
        self._stack.append(path)
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self._stack.pop()

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        if isinstance(node.type, str):  # an annotation under `from __future__ import annotations`; pickling chokes on it
            node.type = None
        path = self._stack[-1]
        if path not in self._types and self._modules:
            self._types[path] = types_along(path, self._modules)
        node.meta[SOURCE_META] = user_source(self._stop)
        node.meta[MODULE_META] = path
        node.meta[TYPES_META] = self._types.get(path, ())
        return node

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Stock placeholders; those of specialized arguments stay in the signature, unused."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        parameters = inspect.signature(inspect.unwrap(root_fn)).parameters
        unknown = sorted((set(self._constants) | self._symbolic) - set(parameters))
        if unknown:
            raise InputError(f"forward has no argument {', '.join(unknown)}; it has {', '.join(list(parameters)[1:])}")
        for index, arg in enumerate(args):
            if not (isinstance(arg, fx.Proxy) and arg.node.op == "placeholder"):
                continue
            name = str(arg.node.target)
            if name in self._constants:
                args[index] = self._constants[name]
            elif name in parameters and name not in self._symbolic:
                default = parameters[name].default
                if default is not inspect.Parameter.empty and isinstance(default, _SPECIALIZED):
                    args[index] = default
        return function, args

    def to_bool(self, obj: fx.Proxy) -> bool:
        if in_assertion(self._stop):
            self.asserted.append(obj.node)
            return True
        raise ProxyUse("a branch tests the value of", obj.node)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return RecordingProxy(node, self)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        length = shape_slice_length(obj.node)
        if length is not None:
            return iter([operator.getitem(obj, index) for index in range(length)])
        raise ProxyUse("a loop runs over, or a call unpacks,", obj.node)

    def keys(self, obj: fx.Proxy) -> Any:
        raise ProxyUse("a call unpacks the keys of", obj.node)


def _erase_unread(graph: fx.Graph, node: fx.Node) -> None:
    """Erase what was computed only for an assertion."""
    if node.users or node.op == "placeholder" or node.target is operator.setitem:
        return
    operands = node.all_input_nodes
    if node.graph is graph and not node._erased:
        graph.erase_node(node)
        for operand in operands:
            _erase_unread(graph, operand)


def _functional_method_names(cls: type) -> list[str]:
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if base is nn.Module:
            break
        names.update(
            (name, None)
            for name, item in vars(base).items()
            if isinstance(item, FunctionType) and not name.startswith("_") and name not in ("forward", "extra_repr")
        )
    return list(names)


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[list[str]]:
    """Put the model into eval mode, and everything about it back afterwards. Yields the list of warnings to fill."""
    modules = list(model.modules())
    tables = ("_parameters", "_buffers", "_modules")
    saved = [(m, dict(m.__dict__), [(name, dict(getattr(m, name))) for name in tables]) for m in modules]
    buffers = [(name, buffer, buffer._version, buffer.detach().clone()) for name, buffer in model.named_buffers()]
    warnings: list[str] = []
    for module in modules:
        module.training = False
    try:
        yield warnings
    finally:
        for module, attributes, contents in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for name, content in contents:
                table = module.__dict__[name]
                table.clear()
                table.update(content)
        for name, buffer, version, copied in buffers:
            if buffer._version != version:
                with torch.no_grad():
                    buffer.copy_(copied)
                warnings.append(f"forward changes the buffer {name} at every call; the graph keeps its present value")


def _adopt_tree(traced: fx.GraphModule, model: nn.Module) -> None:
    """Give the traced module the model's whole tree, in its order and with its classes, not only what the graph uses."""
    traced._modules.clear()
    traced._modules.update(model._modules)
    traced._parameters.update(model._parameters)
    traced._buffers.update(model._buffers)
    traced._non_persistent_buffers_set |= model._non_persistent_buffers_set


def _retrace(model: fx.GraphModule) -> fx.GraphModule:
    """The same graph under the same names, as a module of its own that shares the submodules."""
    graph = fx.Graph(tracer_cls=HqcTracer)
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(model.graph, copied)
    graph.output(output)
    graph.set_codegen(model.graph._codegen)
    next(iter(reversed(graph.nodes))).meta.update(next(iter(reversed(model.graph.nodes))).meta)
    modules = dict(model.named_modules(remove_duplicate=False))
    for node in graph.nodes:
        path = node.meta.setdefault(MODULE_META, _stock_path(node))
        node.meta.setdefault(TYPES_META, types_along(path, modules, class_name(type(model))))
        node.meta.setdefault(SOURCE_META, "")
    result = fx.GraphModule(model, graph, type(model).__name__)
    _adopt_tree(result, model)
    result.training = model.training
    result.meta.update(model.meta)
    result.meta.setdefault(WARNINGS_META, [])
    return result


def _stock_path(node: fx.Node) -> str:
    """Module path of a node that stock FX traced."""
    if node.op == "call_module":
        return str(node.target)
    stack = node.meta.get("nn_module_stack")
    return str(next(reversed(stack.values()))[0]) if stack else ""
