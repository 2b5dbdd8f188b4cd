"""What forward keeps in the model from one call to the next, beside buffers: hidden states, the frame before, counters.

A graph has no state. Caches keyed by shape may be kept all the same: what they hold is made of sizes, and a graph that makes it anew
computes the same. Which of both it is, is found by tracing the call after the first: with the model as the first one has left it,
where what was made of sizes is made anew, and what was made of data is an unknown of its own. Both calls must compute the same.
"""

from __future__ import annotations

import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import fx, nn

from hqc.errors import FAULTS
from hqc.frontend.fx.assumptions import is_size
from hqc.frontend.fx.copying import deep_copy, in_eval_mode
from hqc.frontend.fx.in_place import first_argument, writes_first_operand
from hqc.frontend.fx.known import UNKNOWN, KnownValues
from hqc.frontend.fx.locations import SOURCE_META
from hqc.frontend.fx.results import tensors_opened
from hqc.frontend.fx.state import Slot, slots, unchanged_in_eval
from hqc.structures import leaves, map_structure, reached

_LIKE_ANOTHER = frozenset({"type_as", "to", "expand_as", "view_as", "reshape_as"})
"""Calls that read only shape and type of the tensors behind their first operand."""
_MOVES = frozenset({"type_as", "to", "type", "float", "cpu", "cuda", "contiguous", "clone", "detach"})
"""Calls that change no number of what was made of sizes: `self.mean = self.mean.to(x.device)` may be done again."""
_FAR = 997
"""How many calls later a counter is looked at: odd, and past the usual bounds."""


class AnyTracer(Protocol):
    """What this takes of a tracer."""

    known: KnownValues
    graph: fx.Graph
    assigned_at: dict[str, str]  # by path; of what containers hold, the line that computes it

    def trace(self, root: Any) -> fx.Graph: ...
    def of_next_call(self, entering: Callable[[Any], None]) -> AnyTracer: ...
    def forget_assigned(self) -> None: ...
    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any) -> fx.Node: ...
    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any: ...
    def proxy(self, node: fx.Node) -> fx.Proxy: ...


class KeptState:
    """Watches the Python state of `root` over its calls. Made before the first is traced."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._before = _contents(root)
        self._random = _random_state()

    def refusal(self, first: AnyTracer) -> str | None:
        """The sentence about what `root` keeps from the call that `first` has traced; None where later calls compute the same.

        `root` holds what the first call has left; it is the caller's to put back.
        """
        first.forget_assigned()
        after = _contents(self._root)
        constants = {
            str(node.target) for node in first.graph.nodes if node.op == "get_attr"
        } - self._before.keys()  # of the trace
        changed = [path for path in _changed(self._before, after) if path.strip() not in constants]
        if not changed:
            return None
        now = _random_state()
        try:
            wanted = _Computed(self._root)
            key = wanted.of(first.graph, {})
            culprits = self._next_call(first, wanted, key)
            if culprits is None:
                counters = list(_counters(self._root, self._before, after))
                if not counters:
                    return None
                for slot, step in counters:
                    slot.put(slot.value + _FAR * step)
                culprits = self._next_call(first, wanted, key)
                if culprits is None:
                    return None
                culprits = culprits or [slot.path for slot, _ in counters]
            return _sentence(culprits or changed, first.assigned_at)
        finally:
            _set_random_state(now)

    def _next_call(self, first: AnyTracer, wanted: _Computed, key: Any) -> list[str] | None:
        """None where the next call computes what `key` says; else the paths of what it reads of the data of the call before."""
        own = set(first.graph.nodes)
        left = _Left(self._root, first)
        tracer = first.of_next_call(left.enter)
        _set_random_state(self._random)
        try:
            graph: fx.Graph | None = tracer.trace(self._root)
        except FAULTS:  # a question about data of the call before, or code that expects to be called once
            if not left.entered:
                raise
            graph = None
        tracer.forget_assigned()
        for node in [
            node for node in reversed(first.graph.nodes) if node not in own
        ]:  # by what still compares values of the first call
            first.graph.erase_node(node)
        read = [path for node, path in left.data.items() if node.users]
        if graph is None:
            return read or None
        return None if wanted.of(graph, left.data) == key else read


def refusal_of_runs(model: nn.Module, given: inspect.BoundArguments) -> str | None:
    """As `KeptState.refusal`, of a model whose code takes no proxies: it is run, if a run on fake tensors changes what it holds."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import

    with unchanged_in_eval(model), torch.no_grad():
        before = _contents(model)
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fake = map_structure((given.args, given.kwargs), lambda item: _fake(item, mode))
                model(*fake[0], **fake[1])
        except FAULTS:  # code that needs values, which fake tensors have none of
            _run(model, given, 1)
        changed = _changed(before, _contents(model))
    if not changed:
        return None
    return None if _later_calls_agree(model, given, steady=False) else _sentence(changed, {})


def settles(model: nn.Module, given: inspect.BoundArguments) -> bool:
    """Whether one call leaves in `model` what every later one leaves, whatever it is given, and later calls compute what the first did.

    So it is with tables that the first call fills and the next ones read (`self.table[:n] = angles; self.filled = n`), which a
    comparison of graphs does not see: a table that was written is another value than what was written into it.
    """
    return _later_calls_agree(model, given, steady=True)


def _later_calls_agree(model: nn.Module, given: inspect.BoundArguments, *, steady: bool) -> bool:
    """Whether a call after two others computes what a first one does; `steady`: and whether the second left in the model what the first
    had left."""
    now = _random_state()
    try:
        fresh, used = (in_eval_mode(deep_copy(model)) for _ in range(2))
        with torch.no_grad():
            _run(used, given, 1)
            left = _numbers(used) if steady else {}
            _run(used, given, 2)
            if steady and not _equal(left, _numbers(used)):
                return False
            return all(map(_alike, leaves(_run(fresh, given, 3)), leaves(_run(used, given, 3))))
    except FAULTS:  # it holds what Python cannot copy, or does not run on other numbers than the user's
        return False
    finally:
        _set_random_state(now)


def _numbers(root: nn.Module) -> dict[str, Any]:
    """What the model holds, by path: tensors by their content."""
    return {
        slot.path: _digest(slot.value) if isinstance(slot.value, torch.Tensor) else slot.value
        for slot in slots(root)
        if not isinstance(slot.value, (list, dict))  # what they hold has slots of its own
    }


def _equal(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left.keys() == right.keys() and all(_same(item, right[path]) for path, item in left.items())


def _fake(item: Any, mode: Any) -> Any:
    return mode.from_tensor(item) if isinstance(item, torch.Tensor) else item


def _run(model: nn.Module, given: inspect.BoundArguments, seed: int) -> Any:
    """What `model` returns for other numbers than the given ones: those of `seed`."""
    torch.manual_seed(seed)
    args, kwargs = map_structure(
        (given.args, given.kwargs),
        lambda item: torch.rand_like(item) if isinstance(item, torch.Tensor) and item.is_floating_point() else item,
    )
    return tensors_opened(model(*args, **kwargs))


def _alike(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return left.shape == right.shape and torch.allclose(left.double(), right.double(), equal_nan=True)
    return left is right or bool(left == right)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    changed = [path for path, item in after.items() if not _same(before.get(path), item)]
    return changed + [path for path in before if path not in after]


class _Left:
    """What the first call has left in the model, as the next one finds it."""

    def __init__(self, root: nn.Module, first: AnyTracer) -> None:
        self._first = first
        self.data: dict[fx.Node, str] = {}
        self.entered = False
        held = list(slots(root))
        self._slots = [(slot, slot.value) for slot in held if _has_proxy(slot.value)]
        for item in leaves([value for _, value in self._slots]):
            if isinstance(item, fx.Proxy):
                first.known.of(item.node)  # now: while the next call is traced, what the model holds is proxies
        self._keyed = [(slot.path, slot.value) for slot in held if isinstance(slot.value, dict) and _has_proxy((*slot.value,))]

    def enter(self, tracer: Any) -> None:
        """Put values of the graph that `tracer` makes in the place of those of the first."""
        made: dict[fx.Node, Any] = {
            node: tracer.proxy(other)
            for node in self._first.graph.nodes
            for other in tracer.graph.nodes
            if node.op == other.op == "placeholder" and node.target == other.target
        }

        def as_found(value: Any, path: str) -> Any:
            return map_structure(
                value, lambda item: self._next(tracer, made, path, item.node) if isinstance(item, fx.Proxy) else item
            )

        for slot, value in self._slots:
            slot.put(as_found(value, slot.path))
        for path, table in self._keyed:
            entries = [(as_found(key, path), value) for key, value in table.items()]
            table.clear()
            table.update(entries)
        self.entered = True

    def _next(self, tracer: Any, made: dict[fx.Node, Any], path: str, node: fx.Node) -> Any:
        value = self._first.known.of(node)
        if isinstance(value, (torch.device, torch.dtype)):  # the same in every call, whatever it was read from
            return value
        if node not in made:
            if _is_made_of_data(node) or node.graph is not self._first.graph:
                made[node] = self._unknown(tracer, node, path)
            else:
                for each in _in_order(node, made):
                    args, kwargs = fx.node.map_arg((each.args, each.kwargs), made.__getitem__)
                    made[each] = tracer.create_proxy(each.op, each.target, args, kwargs)
        elif node.op == "placeholder":
            return self._unknown(tracer, node, path)
        return made[node]

    def _unknown(self, tracer: Any, node: fx.Node, path: str) -> Any:
        before = tracer.create_node("placeholder", f"call_before_{len(self.data)}", (), {})
        value = self._first.known.of(node)
        if value is not UNKNOWN:
            tracer.known.give(before, value)
        self.data[before] = path
        self._first.assigned_at.setdefault(path, str(node.meta.get(SOURCE_META, "")))
        return tracer.proxy(before)


class _Computed:
    """What graphs over one model compute, as keys: equal ones for equal computations."""

    def __init__(self, root: nn.Module) -> None:
        self._root = root
        self._held = {id(tensor) for tensor in (*root.parameters(), *root.buffers())}
        self._keys: dict[Any, int] = {}

    def of(self, graph: fx.Graph, before: Mapping[fx.Node, str]) -> Any:
        """The key of what `graph` returns and writes. `before`: placeholders of what the call before has left."""
        keys: dict[fx.Node, int] = {}
        written: list[int] = []
        for node in graph.nodes:
            operands = self._plain((node.args, node.kwargs), keys) if node.op != "placeholder" else None
            if _name(node) in _MOVES and isinstance(first_argument(node), fx.Node) and not _is_made_of_data(node):
                keys[node] = keys[first_argument(node)]
                continue
            target = str(node.target) if node.op == "placeholder" else self._target(node)
            key = (node.op, node in before, target, operands)
            keys[node] = self._keys.setdefault(key, len(self._keys))
            if _writes(node) and any(_is_made_of_data(operand) for operand in node.all_input_nodes):
                written.append(keys[node])
            if node.op == "output":
                written.append(keys[node])
        return written

    def _target(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            held: Any = self._root
            for part in str(node.target).split("."):
                held = getattr(held, part, None)
            return _digest(held) if isinstance(held, torch.Tensor) and id(held) not in self._held else str(node.target)
        if node.op != "call_function":
            return node.target
        module, name = getattr(node.target, "__module__", None), getattr(node.target, "__qualname__", None)
        return (module, name) if name is not None else type(node.target)

    def _plain(self, item: Any, keys: dict[fx.Node, int]) -> Any:
        if isinstance(item, fx.Node):
            return ("node", keys[item])
        if isinstance(item, (tuple, list)):
            return (type(item).__name__, *(self._plain(each, keys) for each in item))
        if isinstance(item, dict):
            return ("dict", *((repr(key), self._plain(each, keys)) for key, each in item.items()))
        if isinstance(item, slice):
            return ("slice", *(self._plain(each, keys) for each in (item.start, item.stop, item.step)))
        return (type(item).__name__, repr(item)) if isinstance(item, (bool, int, float, complex, str, bytes)) else str(item)


def _digest(tensor: torch.Tensor) -> Any:
    held = tensor.detach().cpu().contiguous()
    if held.dtype == torch.bfloat16:
        held = held.float()
    try:
        content: Any = hashlib.sha256(held.numpy().tobytes()).hexdigest()
    except (RuntimeError, TypeError):  # a sparse or quantized one, or one of a type that NumPy lacks
        content = id(tensor)
    return str(tensor.dtype), tuple(tensor.shape), content


def _is_made_of_data(node: fx.Node) -> bool:
    """True where the value of `node` depends on more than the shapes and types of the inputs."""
    return any(each.op == "placeholder" for each in reached(node, _data_operands))


def _data_operands(node: fx.Node) -> list[fx.Node]:
    if node.op not in ("call_function", "call_method", "call_module", "output") or is_size(node):
        return []
    name = _name(node)
    operands = node.all_input_nodes
    if name.startswith("new_") or name.endswith("_like"):
        return [operand for operand in operands if operand is not first_argument(node)]
    return operands[:1] if name in _LIKE_ANOTHER else operands


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _in_order(node: fx.Node, made: Mapping[fx.Node, Any]) -> list[fx.Node]:
    """What must be made for `node`, operands first."""
    needed = set(reached(node, lambda each: [operand for operand in each.all_input_nodes if operand not in made]))
    return [each for each in node.graph.nodes if each in needed]


def _writes(node: fx.Node) -> bool:
    return node.op in ("call_function", "call_method") and writes_first_operand(node.target)


def _has_proxy(value: Any) -> bool:
    if isinstance(value, (list, dict)):  # what they hold has slots of its own
        return False
    return any(isinstance(leaf, fx.Proxy) for leaf in leaves(value))


def _contents(root: nn.Module) -> dict[str, Any]:
    """What the model holds, by path; of tensors also how often they were written."""
    found: dict[str, Any] = {}
    for slot in slots(root):
        value = slot.value
        if isinstance(value, torch.Tensor) and not value.is_inference():
            found[f"{slot.path} "] = value._version
        found[slot.path] = len(value) if isinstance(value, (list, dict)) else value
    return found


def _same(left: Any, right: Any) -> bool:
    if left is right:
        return True
    kinds = (bool, int, float, str, torch.Size)
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return isinstance(left, kinds) and isinstance(right, kinds) and left == right


def _counters(root: nn.Module, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[Slot, Any]]:
    """Numbers that the first call and the next one have changed, and by how much the last did."""
    for slot in slots(root):
        values = (before.get(slot.path), after.get(slot.path), slot.value)
        if all(type(value) in (int, float) for value in values) and values[0] != values[1] != values[2]:
            yield slot, values[2] - values[1]


def _random_state() -> Any:
    return torch.random.get_rng_state(), np.random.get_state(), random.getstate()


def _set_random_state(state: Any) -> None:
    torch.random.set_rng_state(state[0])
    np.random.set_state(state[1])
    random.setstate(state[2])


def _sentence(paths: list[str], lines: Mapping[str, str]) -> str:
    paths = [*dict.fromkeys(path.strip() for path in paths)]
    first = paths[0]
    line = lines.get(first.partition("[")[0], "") or lines.get(first, "")
    where = f"{line}: " if line else ""
    names = ", ".join(paths[:3])
    return (
        f"{where}forward keeps {names} from one call to the next, and later calls compute something else than the first, which a "
        "deployed graph cannot: it has no state; take it as an input of forward and return its new value, or set it anew in every call"
    )
