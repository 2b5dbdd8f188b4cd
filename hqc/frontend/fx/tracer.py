"""The tracer: stock FX tracing whose leaves are the ops that lowering knows, and with a location on every node."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import operator
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import BuiltinFunctionType, FrameType
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from hqc.checked import explained
from hqc.errors import TraceError
from hqc.frontend.fx.arguments import RootArguments, check_arguments, forward_of, from_placeholder
from hqc.frontend.fx.assumptions import (
    Assumption,
    assumption,
    depends_on_sizes,
    has_fixed_length,
    is_size,
)
from hqc.frontend.fx.autograd_functions import open_autograd_functions, open_variables
from hqc.frontend.fx.canvases import Canvases, constant_behind
from hqc.frontend.fx.complex_numbers import complex_parameter, complex_step, refuse_complex_results
from hqc.frontend.fx.flex_attention import open_flex_attention
from hqc.frontend.fx.grouped_products import open_grouped_products
from hqc.frontend.fx.held_tensors import HeldTensors, plain_attributes
from hqc.frontend.fx.hooks import WEIGHT_HOOKS, between_hooks, has_hooks, held_by_hooks
from hqc.frontend.fx.in_place import first_argument, writes_first_operand
from hqc.frontend.fx.known import UNKNOWN, KnownValues, is_plain
from hqc.frontend.fx.leaf_modules import LeafSpec, functional_method_names, is_functional, is_library_module, is_stub
from hqc.frontend.fx.locations import MODULE_META, SOURCE_META, TYPES_META, asking_frame, types_along, user_source
from hqc.frontend.fx.opened import opened_forward
from hqc.frontend.fx.packed import FullSequence, of_packed, open_packed_sequences
from hqc.frontend.fx.parser_questions import ParserQuestions
from hqc.frontend.fx.patches import TRACE_LOCK, Patches
from hqc.frontend.fx.precision import REDUCED, in_float32, reduced_dtype
from hqc.frontend.fx.proxies import (
    BUILTINS,
    IN_PLACE_META,
    RECORDED,
    RecordingProxy,
    isinstance_of_jit,
    record_factories,
    shape_slice_length,
)
from hqc.frontend.fx.recorded_calls import WRAPPED_META, WRITES_META, record_math, record_wrapped_calls
from hqc.frontend.fx.regions import Regions, called_names
from hqc.frontend.fx.results import with_opened_objects
from hqc.frontend.fx.rewriting import MAKER, Rewriter, open_compiled_functions
from hqc.frontend.fx.shape_caches import answer_that_renews
from hqc.frontend.fx.state import remembered
from hqc.frontend.fx.tensor_types import call_of_new, maker_of
from hqc.frontend.fx.trace_errors import ProxyUse
from hqc.frontend.fx.training import IDENTITY_META, looks_at_training
from hqc.frontend.fx.unseen import hide_trace
from hqc.frontend.fx.updates import TRAINING_ONLY_META
from hqc.frontend.fx.user_code import in_assertion, passed_check
from hqc.frontend.fx.views import written_node

_ANSWERED = ("type", "stride", "storage_offset")
"""Methods of tensors that a trace with example inputs answers with plain Python objects."""


class HqcTracer(fx.Tracer):
    """Stock FX tracing with hqc's leaves, and with locations on every node."""

    @explained
    def __init__(
        self,
        leaf_modules: Sequence[LeafSpec] = (),
        concrete_args: Mapping[str, Any] | None = None,
        symbolic_args: Sequence[str] = (),
        examples: Mapping[str, Any] | None = None,
        state: Sequence[str] = (),
        updates: bool = True,
        hidden: bool = True,
        canvases: Collection[str] | None = None,
    ) -> None:
        """`state`: buffers that forward changes, which are traced as parameters are. `updates`: take branches `if self.training:`
        that only change such. `hidden`: code that asks whether it is traced hears that it is not. `canvases`: lines whose constants are
        nodes; with any, none included, the lines are watched.
        """
        super().__init__()
        self._options = (leaf_modules, concrete_args, symbolic_args, examples)
        self._state = frozenset(state)
        self.regions = Regions(updates, lambda: user_source(self._stop), self.is_asleep)
        self.hidden = hidden
        self.canvases = canvases
        self.written_line: str | None = (
            None  # that made the constant into which a write was refused; empty where nobody watched
        )
        self._watch: Canvases | None = None
        self.was_asked = False  # whether it traces
        self.replaced_buffers: list[str] = []
        self.assigned: list[tuple[nn.Module, str]] = []
        self.assigned_at: dict[str, str] = {}  # path of an attribute -> the line that assigns it
        self.state_refusal: str | None = None  # about what forward keeps for its next call
        self._entering: Callable[[HqcTracer], None] = lambda tracer: None  # called before forward is traced
        self._renews_caches = True
        self._plain: dict[Any, str] = {}
        self._leaf_types = tuple(item for item in leaf_modules if isinstance(item, type))
        self._leaf_paths = {item for item in leaf_modules if isinstance(item, str)}
        self._leaf_ids = {id(item) for item in leaf_modules if isinstance(item, nn.Module)}
        self._arguments = RootArguments(concrete_args or {}, symbolic_args, examples, self)
        self._stack: list[str] = [""]
        self._stop: FrameType | None = None
        self._types: dict[str, tuple[str, ...]] = {}
        self._modules: dict[str, nn.Module] = {}
        self._paths: dict[int, list[str]] = {}  # of every module: all its names
        self._thread = threading.get_ident()
        self._rewriter: Rewriter | None = None
        self._parameter_proxies: dict[str, fx.Proxy] = {}
        self._held = HeldTensors(nn.Module())
        self._versions: dict[str, int] = {}  # of tensors that forward makes of constants, by path: how often each was written
        self.known = KnownValues(nn.Module())
        self.called_classes: dict[type, None] = {}
        self.called_paths: set[str] = set()
        self.asserted: list[fx.Node] = []
        self.assumptions: dict[Any, Assumption] = {}
        self._questions = ParserQuestions()
        self.reduced: dict[tuple[str, torch.dtype], None] = {}  # lines that convert to less than float32, and to what

    def is_asleep(self) -> bool:
        """True where another thread runs, or what is not the user's code."""
        return threading.get_ident() != self._thread or self.known.paused

    def again(self, state: Sequence[str] = (), updates: bool = True, hidden: bool | None = None) -> HqcTracer:
        """A fresh tracer with the same options."""
        hidden = self.hidden if hidden is None else hidden
        return HqcTracer(*self._options, state=state, updates=updates, hidden=hidden, canvases=self.canvases)

    def of_next_call(self, entering: Callable[[HqcTracer], None]) -> HqcTracer:
        """A fresh tracer, all else equal, that calls `entering` before it traces forward."""
        self.forget_assigned()
        fresh = self.again(tuple(self._state), self.regions.takes_updates)
        fresh._entering, fresh._renews_caches = entering, False
        return fresh

    def with_canvases(self) -> HqcTracer | None:
        """A fresh tracer, all else equal, that has the constant as nodes into which a write was refused; None where that is no cure."""
        if self.written_line is None or (self.canvases is not None and self.written_line in ("", *self.canvases)):
            return None
        fresh = self.again(tuple(self._state), self.regions.takes_updates)
        fresh.canvases = (*(self.canvases or ()), *filter(None, [self.written_line]))
        return fresh

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """The graph of `root.forward`. As stock FX, but under patches that leave other threads alone."""
        self._stop = sys._getframe()
        self.root = root
        self.root_module_name = root._get_name()
        self.submodule_paths = {module: name for name, module in root.named_modules()}
        self.tensor_attrs = plain_attributes(root)
        self._plain = dict(self.tensor_attrs)
        self._modules = dict(root.named_modules(remove_duplicate=False))
        self._held = HeldTensors(root, self._state)
        self.called_classes[type(root)] = None
        self.graph = fx.Graph(tracer_cls=type(self))
        self.known = KnownValues(root, self._state)
        forward, is_method = forward_of(root)
        try:
            with TRACE_LOCK, Patches() as patches, self._functional_methods():
                record_factories(patches)
                open_packed_sequences(patches, functools.partial(user_source, self._stop))
                open_compiled_functions(patches)
                open_flex_attention(patches, functools.partial(user_source, self._stop))
                open_grouped_products(patches)
                self._rewriter = Rewriter(patches, {**BUILTINS, MAKER: maker_of, **called_names(self.regions)})
                self._rewriter.reach(forward)
                self._rewriter.module(root)
                function, args = self.create_args_for_root(forward, is_method, concrete_args)
                self._patch(patches)
                self._watch_canvases(patches)
                self._entering(self)
                returned = inspect.get_annotations(inspect.unwrap(forward)).get("return")
                result = with_opened_objects(function(*args), self._is_traced_tensor)
                refuse_complex_results(result)
                self.create_node("output", "output", (self.create_arg(result),), {}, type_expr=returned)
            for node in self.asserted:
                _erase_unread(self.graph, node)
            self._mark_identities()
            return self.graph
        finally:
            self._stop = None
            self.submodule_paths = None

    def _mark_identities(self) -> None:
        """Find the wrapped functions of the user's that return their first operand: identities, such as a drop path in eval, and those
        that write into it.
        """
        for node in self.graph.nodes:
            if node.meta.get(WRAPPED_META) and isinstance(first_argument(node), fx.Node):
                value = self.known.of(node)
                if isinstance(value, torch.Tensor) and value is self.known.of(first_argument(node)):
                    keys = (IN_PLACE_META, WRITES_META) if node in self.known.writing else (IDENTITY_META,)
                    node.meta.update(dict.fromkeys(keys, True))

    def _patch(self, patches: Patches) -> None:
        """What stock FX patches (module calls and attributes, wrapped functions, `math`), and what takes no proxies."""
        original_call, original_getattr, original_setattr = nn.Module.__call__, nn.Module.__getattr__, nn.Module.__setattr__

        @functools.wraps(original_call)
        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if self.is_asleep():
                return original_call(module, *args, **kwargs)
            if self._rewriter is not None:
                self._rewriter.module(module)
            record_math(patches, getattr(module.forward, "__globals__", {}))
            return self.call_module(module, functools.partial(original_call, module), args, kwargs)

        @functools.wraps(original_getattr)
        def attribute(module: nn.Module, name: str) -> Any:
            value = original_getattr(module, name)
            if self.is_asleep():
                return value
            if self._rewriter is not None and isinstance(value, nn.Module):
                self._rewriter.read(value)
            return self.getattr(name, value, self._parameter_proxies)

        @functools.wraps(original_setattr)
        def assign(module: nn.Module, name: str, value: Any) -> None:
            if not self.is_asleep():
                if self._assigned_buffer(module, name, value):
                    return
                path = (self.submodule_paths or {}).get(module)
                if path is not None:
                    self.assigned_at.setdefault(f"{path}.{name}" if path else name, user_source(self._stop))
            original_setattr(module, name, value)

        original_check = torch.distributions.Distribution._validate_sample

        @functools.wraps(original_check)
        def check(distribution: torch.distributions.Distribution, value: Any) -> None:
            if self.is_asleep() or not isinstance(value, fx.Proxy):
                original_check(distribution, value)  # an assertion that begins with the type of tensors

        patches.attribute(torch.distributions.Distribution, "_validate_sample", check)
        patches.attribute(fx._symbolic_trace, "_is_fx_tracing_flag", True)
        patches.attribute(nn.Module, "__call__", call)
        patches.attribute(nn.Module, "__getattr__", attribute)
        patches.attribute(nn.Module, "__setattr__", assign)
        patches.attribute(torch.jit, "isinstance", isinstance_of_jit(torch.jit.isinstance))
        record_wrapped_calls(patches)
        hide_trace(patches, self)
        open_autograd_functions(patches)
        open_variables(patches)

    def _watch_canvases(self, patches: Patches) -> None:
        if self.canvases is not None:
            where = functools.partial(user_source, self._stop)
            self._watch = Canvases(self.canvases, where, self.create_proxy, self.is_asleep)
            patches.context(self._watch)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """A parameter as a proxy, as stock FX, found by identity and not by a walk over all of them."""
        traced = isinstance(attr_val, nn.Parameter) or (self._state and isinstance(attr_val, torch.Tensor))
        path = self._held.traced_path(attr_val) if traced else None
        if path is None:
            return attr_val
        if path not in parameter_proxy_cache:
            proxy = self.create_proxy("get_attr", path, (), {})
            parameter_proxy_cache[path] = complex_parameter(self, proxy) if attr_val.is_complex() else proxy
        return parameter_proxy_cache[path]

    def _assigned_buffer(self, module: nn.Module, name: str, value: Any) -> bool:
        """Take `module.name = value` where that is a buffer: it is written, and read as `value` from now on."""
        buffer = module._buffers.get(name)
        path = self._held.buffer_path(buffer) if isinstance(value, (fx.Proxy, torch.Tensor)) else None
        if path is None or buffer is None:
            return False
        if path not in self._state:
            self.replaced_buffers.append(path)
            if not isinstance(value, fx.Proxy):
                return False
        else:
            held = self.getattr(name, buffer, self._parameter_proxies)
            value = self.create_proxy("call_method", "copy_", (held, value), {})
        module.__dict__[name] = value
        self.assigned.append((module, name))
        return True

    def put_back(self) -> None:
        """Let the model's paths hold what the graph's get_attr nodes read: `self.mean = self.mean.to(x.device)` has replaced it."""
        self.forget_assigned()
        for tensor, path in self._plain.items():
            parent, _, name = path.rpartition(".")
            self._modules[parent].__dict__[name] = tensor

    def forget_assigned(self) -> None:
        """Let buffers that forward has assigned be read as buffers again."""
        for module, name in self.assigned:
            module.__dict__.pop(name, None)  # a buffer is behind it

    @contextlib.contextmanager
    def _functional_methods(self) -> Iterator[None]:
        """While tracing, calling a method of a functional module on proxies records get_attr + call_method."""
        patched = [(path, module) for path, module in self._modules.items() if is_functional(module)]
        names: list[tuple[nn.Module, str]] = []
        try:
            for path, module in patched:
                for name in functional_method_names(type(module)):
                    if name not in module.__dict__:
                        module.__dict__[name] = functools.partial(self._functional_call, module, path, name)
                        names.append((module, name))
            yield
        finally:
            for module, name in names:
                del module.__dict__[name]

    def _functional_call(self, module: nn.Module, path: str, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.is_asleep():
            return getattr(type(module), name)(module, *args, **kwargs)
        self._stack.append(path)
        try:
            receiver = self.create_proxy("get_attr", path, (), {})
            return self.create_proxy("call_method", name, (receiver, *args), kwargs)
        finally:
            self._stack.pop()

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if any(isinstance(hook, WEIGHT_HOOKS) for hook in m._forward_pre_hooks.values()):
            return False  # the weight is computed from parameters that train
        if is_stub(m) or is_library_module(m) or isinstance(m, torch.jit.ScriptModule):
            return True
        return self._asked_for_leaf(m, module_qualified_name)

    def _asked_for_leaf(self, m: nn.Module, path: str) -> bool:
        declared = bool(getattr(type(m), "_hqc_leaf", False))
        return declared or isinstance(m, self._leaf_types) or path in self._leaf_paths or id(m) in self._leaf_ids

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        paths = self.submodule_paths
        if paths is not None and m not in paths and not is_stub(m) and not _brings_state(m, paths):
            # Made in forward, as in `nn.Softmax(-1)(x)` or `self.layers[1:](x)`: what it calls is recorded.
            return forward(*args, **kwargs)
        if type(m) is nn.Identity and args and not isinstance(args[0], (fx.Proxy, torch.Tensor)):
            return args[0]  # several tensors, as between the pathways of a video network, or None in place of a second input
        if args and isinstance(m, nn.RNNBase) and isinstance(args[0], FullSequence):
            return of_packed(m, lambda *given: self.call_module(m, forward, given, kwargs), args[0], args[1:])
        path = self.path_of_module(m)
        opened = self._opened(m, path, (*args, *kwargs.values()))
        if opened is None and not self.is_leaf_module(m, path):
            self.called_classes[type(m)] = None
        self._stack.append(self._called_as(m, path))
        last = next(iter(reversed(self.graph.nodes)), None)
        try:
            result = self._called(m, path, forward, opened, args, kwargs)
            same = args and result is args[0] and isinstance(result, fx.Proxy)
            if same and looks_at_training(m) and not any(written_node(node, self.root) for node in self._nodes_since(last)):
                result = self.create_proxy("call_module", path, args, kwargs)  # a drop path, which acts in training
                result.node.meta[IDENTITY_META] = True
            return result
        finally:
            self._stack.pop()

    def _nodes_since(self, last: fx.Node | None) -> list[fx.Node]:
        """The nodes behind `last`, the latest one first."""
        return list(itertools.takewhile(lambda node: node is not last, reversed(self.graph.nodes)))

    def _called(
        self,
        m: nn.Module,
        path: str,
        forward: Callable[..., Any],
        opened: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """What a call of `m` gives: of what it calls, or of a leaf, whose hooks are called beside its node."""
        call_leaf = super().call_module
        if is_library_module(m):
            check_arguments(m.forward, args, kwargs)

        def inside(*args: Any, **kwargs: Any) -> Any:
            return opened(m, *args, **kwargs) if opened is not None else call_leaf(m, forward, args, kwargs)

        leaf = opened is not None or (is_library_module(m) and self.is_leaf_module(m, path))
        if not leaf or not has_hooks(m) or not args or not isinstance(self.known.of(args[0].node), torch.Tensor):
            return inside(*args, **kwargs)
        last = next(iter(reversed(self.graph.nodes)), None)
        undo = remembered(held_by_hooks(m))
        kept, result = between_hooks(m, inside, args, kwargs)
        if kept:
            return result
        undo()
        for node in self._nodes_since(last):
            self.graph.erase_node(node)
        return forward(*args, **kwargs)  # torch's own call, hooks included: what the layer calls is recorded

    def _called_as(self, m: nn.Module, path: str) -> str:
        """The path under which the calling module knows `m`, where a module has several; `path`, its first one, otherwise."""
        if not self._paths:
            for name, module in self._modules.items():
                self._paths.setdefault(id(module), []).append(name)
        paths = self._paths.get(id(m), [])
        if len(paths) > 1:
            for scope in filter(None, reversed(self._stack)):
                inside = [name for name in paths if name.startswith(f"{scope}.")]
                if inside:
                    return min(inside, key=len)
        return path

    def _opened(self, m: nn.Module, path: str, args: tuple[Any, ...]) -> Callable[..., Any] | None:
        """What runs in place of a library module's forward, where the user did not ask for a leaf and ranks are known."""
        if self._asked_for_leaf(m, path) or not args or not isinstance(args[0], fx.Proxy):
            return None
        forward = opened_forward(m)
        return forward if forward is not None and isinstance(self.known.of(args[0].node), torch.Tensor) else None

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(kind, *args, **kwargs)
        if isinstance(node.type, str):  # an annotation under `from __future__ import annotations`; pickling chokes on it
            node.type = None
        if kind in ("call_module", "get_attr"):
            self.called_paths.add(str(node.target))
        path = self._stack[-1]
        if path not in self._types and self._modules:
            self._types[path] = types_along(path, self._modules)
        node.meta[SOURCE_META] = user_source(self._stop)
        node.meta[MODULE_META] = path
        if self.regions.branch:
            node.meta[TRAINING_ONLY_META] = self.regions.branch
        node.meta[TYPES_META] = self._types.get(path, ())
        for answered in self._questions.settled_by(node):
            del self.assumptions[answered]
        self.known.record(node)
        return node

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """Stock placeholders; see `RootArguments`."""
        unwrapped = inspect.unwrap(root_fn)
        varied = (
            unwrapped.__code__.co_flags & (inspect.CO_VARARGS | inspect.CO_VARKEYWORDS) or unwrapped.__code__.co_kwonlyargcount
        )
        function, args = super().create_args_for_root(unwrapped if varied else root_fn, is_module, concrete_args)
        parameters = inspect.signature(unwrapped).parameters
        self._arguments.check(parameters, list(parameters)[1:] if is_module else list(parameters))
        for index, arg in enumerate(args):
            if isinstance(arg, fx.Proxy) and arg.node.op == "placeholder":
                args[index] = self._arguments.value_of(arg, parameters[str(arg.node.target).lstrip("*")])
        self._arguments.settle_placeholders(self.graph, parameters)
        return function, args

    # --- what Python asks proxies ------------------------------------------------------------------------------------

    def assume(self, node: fx.Node, value: Any, *, truth: bool = False, fixed: bool = False) -> None:
        """Record that the graph is right only where `node` has this value, unless no size can change it."""
        key = (node, truth, repr(value))
        if key not in self.assumptions and (fixed or depends_on_sizes(node)):
            self.assumptions[key] = assumption(node, value, truth, user_source(self._stop))
            self._questions.ask(key, node)

    def assume_length(self, proxy: fx.Proxy, count: int) -> None:
        """Record that the loop over `proxy` has `count` turns, unless no size can change it."""
        if depends_on_sizes(proxy.node) and not has_fixed_length(proxy.node):
            self.assume(self.create_proxy("call_function", len, (proxy,), {}).node, count)

    def to_bool(self, obj: fx.Proxy) -> bool:
        value = self.known.of(obj.node)
        plain = is_plain(value)
        if in_assertion(self._stop):
            self.asserted.append(obj.node)
            return bool(value) if plain else True
        if not plain:
            constant = self.known.of_constants(obj.node)
            if not isinstance(constant, torch.Tensor) or constant.numel() != 1:
                passing = None if is_size(obj.node) else passed_check(asking_frame())  # sizes are known with example inputs
                if passing is not None:
                    self.asserted.append(obj.node)
                    return passing
                reason = self.known.reasons.get(obj.node, "")
                if isinstance(value, torch.Tensor) and is_size(obj.node):
                    reason = "it is drawn at random, or made of what is written in place"
                raise ProxyUse("a branch tests the value of", obj.node, reason)
            value = bool(constant)
        if plain and self._renews_caches and depends_on_sizes(obj.node):
            renewed = answer_that_renews(asking_frame())
            if renewed is not None:
                return renewed
        self.assume(obj.node, value, truth=True)
        return bool(value)

    def create_arg(self, a: Any) -> Any:
        """Stock arguments, NumPy's numbers and arrays, and torch's names of types; none of the tensors that `torch.vmap` and its kin
        wrapped, which mean nothing outside of them.
        """
        if isinstance(a, np.generic):
            a = a.item()
        elif isinstance(a, np.ndarray) and a.dtype.kind in "biuf":
            a = torch.from_numpy(np.array(a))
        elif isinstance(a, type(torch.FloatTensor)):  # in `x.type(torch.FloatTensor)`
            a = a.dtype
        if isinstance(a, torch.Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(a):
            raise TraceError(f"{user_source(self._stop)}: inside torch.vmap or torch.func, tensors meet a traced tensor")
        if (
            isinstance(a, torch.Tensor)
            and a.dtype in REDUCED
            and self._held.buffer_path(a) is None
            and not isinstance(a, nn.Parameter)
        ):
            self.reduced.setdefault((user_source(self._stop), a.dtype))
            a = a.float()
        if isinstance(a, torch.Tensor) and not isinstance(a, nn.Parameter):
            return self._constant(a)
        try:
            return super().create_arg(a)
        except NotImplementedError as error:
            where = user_source(self._stop) or type(self.root).__name__
            raise TraceError(
                f"{where}: a traced call takes, or the model returns, a {type(a).__name__}, which holds no tensors "
                "that a graph could return; pass and return tensors, numbers, texts, and tuples, lists and dicts of these"
            ) from error

    def _is_traced_tensor(self, item: Any) -> bool:
        """True for a tensor, and for a proxy of one: not for a shape or a dtype that was asked for."""
        if not isinstance(item, fx.Proxy):
            return isinstance(item, torch.Tensor)
        value = self.known.of(item.node)
        return isinstance(value, torch.Tensor) if value is not UNKNOWN else not is_size(item.node)

    def _constant(self, tensor: torch.Tensor) -> Any:
        """Stock `get_attr` of a tensor; one that forward makes of constants is kept as it is now, for forward may go on writing it."""
        version = 0 if tensor.is_inference() else tensor._version
        if self._versions.get(self.tensor_attrs.get(tensor, ""), version) != version:
            del self.tensor_attrs[tensor]
        known = tensor in self.tensor_attrs
        node = super().create_arg(tensor)
        path = self.tensor_attrs.get(tensor)
        if path is not None and not known:
            self._versions[path] = version
            setattr(self.root, path, tensor.detach().clone())
            assert isinstance(node, fx.Node)
            self.known.note_attribute(node)
        return node

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return RecordingProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        """A node, and its proxy; where the node takes a constant out of an argument, the constant itself."""
        if kind == "call_function":
            # torch's functions name themselves by what their module holds, which is our wrapper while we trace
            target = getattr(target, RECORDED, target)
        if kind in ("call_function", "call_method"):
            made = complex_step(self, target, args, kwargs)
            if made is not NotImplemented:
                return made
            reduced = reduced_dtype(target, args, kwargs)
            if reduced is not None:
                self.reduced.setdefault((user_source(self._stop), reduced))
                target, args, kwargs = in_float32(target, args, kwargs)
            self.refuse_write_into_constant(target, args)
        if kind == "call_method" and target == "new":
            target, args, kwargs = call_of_new(args, kwargs)
            rest = rest or ("new",)
        if kind == "call_method" and target in _ANSWERED:
            answer = self._answer(target, args, kwargs)
            if answer is not UNKNOWN:
                return answer
        if isinstance(target, BuiltinFunctionType) and isinstance(kwargs.get("out"), fx.Proxy):
            computed = self.create_proxy(kind, target, args, {name: each for name, each in kwargs.items() if name != "out"})
            return self.create_proxy("call_method", "copy_", (kwargs["out"], computed), {})
        proxy = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if self.regions.tries and kind in ("call_function", "call_method"):
            self._raise_refusal(proxy.node)
        if target is operator.getitem or target is getattr:
            found = self._constant_entry(proxy.node)
            if found is not UNKNOWN:
                self.assume(proxy.node, found, fixed=True)
                return found
        return proxy

    def _raise_refusal(self, node: fx.Node) -> None:
        """Raise what torch says of a call that it refuses, and forget the call."""
        refusal = self.known.refusal(node)
        if refusal is not None:
            self.graph.erase_node(node)
            raise refusal

    def _answer(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What Python gets for a question about a tensor that is answered while tracing; UNKNOWN where nobody knows."""
        held = self.known.of(args[0].node) if isinstance(args[0], fx.Proxy) else UNKNOWN
        if not isinstance(held, torch.Tensor):
            return UNKNOWN
        if method == "type":  # `grid.type(x.type())`: the name of a type, which C++ takes no proxy of
            given = (*args[1:], *kwargs.values())
            return UNKNOWN if given else torch.empty(0, dtype=held.dtype, device="cuda" if held.is_cuda else "cpu").type()
        shape = self.create_proxy("call_function", getattr, (args[0], "shape"), {})
        if held.is_contiguous() and held.ndim:  # its strides are the same at any batch size
            shape = shape[1:]
        self.assume(shape.node, self.known.of(shape.node))
        return getattr(held, method)(
            *map(operator.index, args[1:]), **{name: operator.index(each) for name, each in kwargs.items()}
        )

    def refuse_write_into_constant(self, target: Any, args: tuple[Any, ...]) -> None:
        """Other reads of a tensor that forward makes of constants are no nodes, and would not see what is written into it."""
        if not args or not writes_first_operand(target):
            return
        written = args[0]
        if isinstance(written, fx.Proxy):
            path = constant_behind(written.node, self.known, self._versions)
            written = next((item for item, name in self.tensor_attrs.items() if path is not None and name == path), None)
        if not isinstance(written, torch.Tensor) or self._held.traced_path(written) or self._held.buffer_path(written):
            return
        path = self._held.buffer_behind(written)
        if path is not None:  # a part of a buffer: the trace that has it as part of the graph sees the write
            self.replaced_buffers.append(path)
            return
        self.written_line = self._watch.line_of(written) if self._watch is not None else ""
        raise TraceError(
            f"{user_source(self._stop)}: forward writes a traced tensor into a tensor that it makes of constants, which no graph "
            "repeats; make it by the sizes of an input (x.new_zeros(x.shape[0], ...)), or put the parts together with torch.cat"
        )

    def _constant_entry(self, node: fx.Node) -> Any:
        """The None, bool, number or string that `node` reads from a structure of the example inputs, or UNKNOWN."""
        base = node.args[0]
        holder = self.known.early(base) if isinstance(base, fx.Node) else UNKNOWN
        if not isinstance(base, fx.Node) or holder is UNKNOWN or not self.is_argument(base):
            return UNKNOWN
        value = self.known.of(node)
        return value if value is None or isinstance(value, (bool, int, float, str)) else UNKNOWN

    def is_argument(self, node: fx.Node) -> bool:
        """True for a structure of the example inputs: an argument of forward or what is taken out of one, no tensor."""
        value = self.known.early(node)
        return not isinstance(value, (torch.Tensor, torch.Size)) and value is not UNKNOWN and from_placeholder(node)

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        length = shape_slice_length(obj.node)
        if length is not None:
            return iter([operator.getitem(obj, index) for index in range(length)])
        raise ProxyUse("a loop runs over, or a call unpacks,", obj.node, self.known.reasons.get(obj.node, ""))

    def keys(self, obj: fx.Proxy) -> Any:
        raise ProxyUse("a call unpacks the keys of", obj.node, self.known.reasons.get(obj.node, ""))


def _brings_state(module: nn.Module, known: Mapping[nn.Module, str]) -> bool:
    """Whether `module` has parameters or buffers beside those of the `known` modules."""
    return any(
        each not in known and any(True for _ in itertools.chain(each.parameters(recurse=False), each.buffers(recurse=False)))
        for each in module.modules()
    )


def _erase_unread(graph: fx.Graph, node: fx.Node) -> None:
    """Erase what was computed only for an assertion."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node.users or node.op == "placeholder" or node.target is operator.setitem or node.graph is not graph or node._erased:
            continue
        pending.extend(reversed(node.all_input_nodes))
        graph.erase_node(node)
