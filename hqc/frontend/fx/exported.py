"""Exported programs and graphs of ATen operators, rewritten as graphs of ordinary torch calls.

`torch.export` writes every call as an overload of an ATen operator (`aten.conv2d.default`). Each becomes the call that users
write (`F.conv2d`), with its arguments matched by name: an operator's schema and the Python function agree about names.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch.utils import _pytree as pytree

from hqc.errors import InputError, LoweringError
from hqc.frontend.fx.arguments import from_placeholder
from hqc.frontend.fx.exported_core import (
    CORE,
    WITH_INDICES,
    instance_norm,
    is_instance_norm,
    join_bounds,
    reads_places,
    restore_linear,
    restore_products,
)
from hqc.frontend.fx.exported_layers import restore_layers
from hqc.frontend.fx.in_place import writes_first_operand
from hqc.frontend.fx.known import KnownValues
from hqc.frontend.fx.registry import find_function, find_method
from hqc.frontend.fx.strides import settle_strides
from hqc.frontend.fx.views import FUNCTIONAL_META, functionalize
from hqc.structures import leaves

_RENAMED = {"embedding": {"indices": "input"}}
_UPSAMPLE = {
    "upsample_nearest1d": "nearest",
    "upsample_nearest2d": "nearest",
    "upsample_nearest3d": "nearest",
    "_upsample_nearest_exact2d": "nearest-exact",
    "upsample_linear1d": "linear",
    "upsample_bilinear2d": "bilinear",
    "upsample_trilinear3d": "trilinear",
    "upsample_bicubic2d": "bicubic",
    "_upsample_bilinear2d_aa": "bilinear",
    "_upsample_bicubic2d_aa": "bicubic",
}
_INDEX_WRITES = ("index_put", "index_put_", "_unsafe_index_put")
_DROPPED = ("_guards_fn", "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range_for_size")


def is_aten(graph: fx.Graph) -> bool:
    """True for a graph with calls of operator overloads."""
    return any(node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) for node in graph.nodes)


def module_of(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a GraphModule of ordinary torch calls with the signature of the model that was exported.

    Shares parameters and buffers with the program. `InputError` where it was exported in training mode.
    """
    return plain(without_levels(program).module())


def without_levels(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The program without what torch.vmap and its kin do around operators: run one by one, such calls change torch for good."""
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    return program if all(map(_is_operator, calls)) else program.run_decompositions({})


def _is_operator(target: Any) -> bool:
    return isinstance(target, torch._ops.OperatorBase) or getattr(target, "__module__", "") in ("_operator", "math", "builtins")


def plain(module: fx.GraphModule, is_part: bool = False) -> fx.GraphModule:
    """A GraphModule of the same computation and the same node names, in torch's ordinary functions and methods.

    Writes through views are explicit, unless it `is_part` of a model that is traced yet.
    """
    graph = plain_graph(module)
    join_bounds(graph)
    values = {node: node.meta.get("val") for node in graph.nodes}
    shapes: dict[fx.Node, Sequence[Any]] = {
        node: value.shape for node, value in values.items() if isinstance(value, torch.Tensor)
    }
    for node in graph.nodes:
        if node.op == "get_attr" and isinstance(held := _held(module, str(node.target)), torch.Tensor):
            shapes[node] = held.shape
    restore_linear(graph, shapes)
    restore_products(graph, shapes)
    result = fx.GraphModule(module, graph, type(module).__name__)
    result.training = False  # what was exported is the eval form
    restore_layers(result)
    if not is_part and any(writes_first_operand(node.target) for node in result.graph.nodes):
        _make_writes_explicit(result)
    for node in result.graph.nodes:
        node.meta.pop("val", None)
    return result


def _make_writes_explicit(module: fx.GraphModule) -> None:
    known = KnownValues(module)
    for node in module.graph.nodes:
        if node.op != "placeholder":
            known.record(node)
        if not from_placeholder(node) or isinstance(known.of(node), torch.Tensor):
            continue
        if isinstance(value := node.meta.get("val"), torch.Tensor):  # an input, or one that is taken out of a nested one
            known.give(node, torch.zeros([_example_size(size) for size in value.shape], dtype=value.dtype))
    settle_strides(module.graph, known)
    module.meta[FUNCTIONAL_META] = functionalize(module.graph, module, known)
    module.recompile()


def _example_size(size: Any) -> int:
    """The size that a dynamic one had in the example of the export."""
    return size if isinstance(size, int) else int(size.node.hint)


def _held(module: fx.GraphModule, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def plain_graph(module: fx.GraphModule) -> fx.Graph:
    """The graph of `module` in torch's ordinary functions and methods, under the same node names."""
    graph = fx.Graph()
    env: dict[fx.Node, Any] = {}
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    env.update(_inputs(module, graph, placeholders))
    for node in module.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            graph.output(fx.node.map_arg(_output(module, node), env.__getitem__))
        elif any(name in str(node.target) for name in _DROPPED):
            env[node] = None
        elif _takes_the_result(node):
            env[node] = env[node.args[0]]
        elif _operator_name(node) in _INDEX_WRITES:
            env[node] = _written_at(graph, node, env)
        else:
            env[node] = _copied(graph, node, env)
            env[node].meta.update(_meta(node))
    for node in reversed(list(graph.nodes)):  # export reads every parameter at the top, used or not
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    return graph


def _takes_the_result(node: fx.Node) -> bool:
    """True for the first result of a normalization or a pool, of which the decomposed form has several."""
    source = node.args[0] if node.target is operator.getitem else None
    if not isinstance(source, fx.Node) or node.args[1] != 0:
        return False
    name = _operator_name(source)
    return name in _NORMALIZATIONS or _is_own_norm(source) or (name in WITH_INDICES and not reads_places(source))


def _is_own_norm(node: fx.Node) -> bool:
    return str(node.target) == "aten._native_batch_norm_legit.no_stats" and is_instance_norm(node)


def _operator_name(node: fx.Node) -> str:
    return node.target._schema.name.partition("::")[2] if isinstance(node.target, torch._ops.OpOverload) else ""


def _inputs(module: fx.GraphModule, graph: fx.Graph, leaves: list[fx.Node]) -> dict[fx.Node, Any]:
    """One placeholder per argument of the exported model; what export made an input of its own is taken out of it."""
    codegen = module.graph._codegen
    info = getattr(codegen, "pytree_info", None)
    if info is None:
        return {leaf: graph.node_copy(leaf) for leaf in leaves}
    positional, named = pytree.tree_unflatten(leaves, info.in_spec)
    env: dict[fx.Node, Any] = {}

    def bind(structure: Any, taken: fx.Node) -> None:
        if isinstance(structure, fx.Node):
            env[structure] = taken
            taken.meta.update(structure.meta)
            return
        read = operator.getitem if isinstance(structure, (dict, list, tuple)) else getattr
        for key, item in _children(structure):
            bind(item, graph.call_function(read, (taken, key)))

    names = list(info.orig_args)
    arguments = [*zip(names, positional, strict=False), *named.items()]
    made = [(item, graph.placeholder(name)) for name, item in arguments]
    for item, placeholder in made:
        bind(item, placeholder)
    return env


def _children(structure: Any) -> list[tuple[Any, Any]]:
    if isinstance(structure, dict):
        return list(structure.items())
    if isinstance(structure, (list, tuple)):
        return list(enumerate(structure))
    if structure is None:
        return []
    return [(name, getattr(structure, name)) for name in vars(structure)]


def _output(module: fx.GraphModule, node: fx.Node) -> Any:
    info = getattr(module.graph._codegen, "pytree_info", None)
    if info is None or info.out_spec is None:
        return node.args[0]
    return pytree.tree_unflatten(list(node.args[0]), info.out_spec)  # type: ignore[arg-type]


def _meta(node: fx.Node) -> dict[str, Any]:
    return {key: node.meta[key] for key in ("nn_module_stack", "stack_trace", "val") if key in node.meta}


def _copied(graph: fx.Graph, node: fx.Node, env: dict[fx.Node, Any]) -> fx.Node:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        target = node.target
        if node.op == "call_function" and getattr(target, "__name__", "") == "sym_size":
            return graph.create_node("call_method", "size", *_mapped(node, env), name=node.name)
        return graph.create_node(node.op, target, *_mapped(node, env), name=node.name, type_expr=node.type)
    args, kwargs = _mapped(node, env)
    kind, target, args, kwargs = _ordinary(node, node.target, args, kwargs)
    return graph.create_node(kind, target, args, kwargs, name=node.name)


def _written_at(graph: fx.Graph, node: fx.Node, env: dict[fx.Node, Any]) -> fx.Node:
    """What was written by index, by the statement that a user would write: `x[:, index] = y`."""
    bound = _bound(node.target, *_mapped(node, env))
    target: fx.Node = bound["self"]
    indices, values = tuple(bound["indices"]), bound["values"]
    in_place = _operator_name(node).endswith("_")
    if bound.get("accumulate"):
        added = graph.call_function(torch.ops.aten.index_put.default, (target, [*indices], values, True))
        added.meta.update(_meta(node))
        if not in_place:
            return added
        graph.call_method("copy_", (target, added)).meta.update(_meta(node))
        return target
    written = target if in_place else graph.call_method("clone", (target,))
    index = tuple(slice(None) if item is None else item for item in indices)
    graph.call_function(operator.setitem, (written, index if len(index) > 1 else index[0], values)).meta.update(_meta(node))
    return written


def _mapped(node: fx.Node, env: dict[fx.Node, Any]) -> tuple[Any, Any]:
    return fx.node.map_arg(node.args, env.__getitem__), fx.node.map_arg(node.kwargs, env.__getitem__)


_Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]


def _ordinary(node: fx.Node, overload: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
    """The call that a user would write for an overload with these arguments."""
    bound = _bound(overload, args, kwargs)
    name = _operator_name(node)
    if name == "_native_batch_norm_legit_functional" or (name == "batch_norm" and bound.get("training")):
        raise InputError(
            f"{node.name}: the program was exported in training mode; call eval() on the model and export it again"
        )
    if _is_own_norm(node):
        return instance_norm(_given(overload, bound))
    try:
        return ordinary_call(overload, bound, reads_places(node))
    except LoweringError as error:
        raise LoweringError(f"{node.name}: {error}") from None


def _bound(overload: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name."""
    return {argument.name: value for argument, value in zip(overload._schema.arguments, args, strict=False)} | kwargs


def _given(overload: Any, bound: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are no defaults."""
    defaults = {
        argument.name: argument.default_value for argument in overload._schema.arguments if argument.has_default_value()
    }
    return {name: value for name, value in bound.items() if name not in defaults or not _equal(value, defaults[name])}


def _equal(value: Any, default: Any) -> bool:
    """True for a plain value that is the default; proxies would record the question."""
    traced = any(isinstance(leaf, (fx.Node, fx.Proxy, torch.Tensor)) for leaf in leaves(value))
    return not traced and bool(value == default)


def ordinary_call(overload: Any, bound: dict[str, Any], reads_places: bool = False) -> _Call:
    """The call that a user would write for `overload` with arguments by name. `reads_places`: somebody reads the second result."""
    schema = overload._schema
    name = schema.name.partition("::")[2]
    bound = _given(overload, bound)
    args, kwargs = tuple(_positional(schema.arguments, bound)), _named(schema.arguments, bound)
    if name in CORE:
        kind, target, args, kwargs = CORE[name](bound)
        if name in WITH_INDICES and reads_places:
            kwargs = {**kwargs, "return_indices": True}
        return kind, target, args, kwargs
    if name in _SPECIAL:
        return _SPECIAL[name](bound)
    if name in _UPSAMPLE:
        return _upsample(name, bound)
    for old, new in _RENAMED.get(name, {}).items():
        bound[new] = bound.pop(old)
    plain_name = name.rstrip("_") if name.endswith("_") and not name.endswith("__") else name
    for home in (F, torch):
        function = getattr(home, name, None)
        if function is not None and find_function(function)[0] is not None:
            call = _call(function, schema, bound)
            if call is not None:
                return call
    if find_method(name)[0] is not None or not any(hasattr(home, name) for home in (F, torch)):
        receiver = next((argument.name for argument in schema.arguments if argument.name in ("self", "input")), None)
        if receiver is not None and hasattr(torch.Tensor, name):
            rest = [argument for argument in schema.arguments if argument.name != receiver]
            return "call_method", name, (bound[receiver], *_positional(rest, bound)), _named(rest, bound)
    for home in (torch, F, torch._C._nn):
        function = getattr(home, name, None)
        if function is not None:
            call = _call(function, schema, bound)
            if call is not None:
                return call
    if not hasattr(torch.ops.aten, plain_name):
        raise LoweringError(f"the operator {overload} is not one of torch's own")
    return "call_function", overload, args, kwargs


def _positional(arguments: Any, bound: dict[str, Any]) -> list[Any]:
    """Values of the leading positional arguments."""
    values = []
    for argument in arguments:
        if argument.kwarg_only or argument.name not in bound:
            break
        values.append(bound[argument.name])
    return values


def _named(arguments: Any, bound: dict[str, Any]) -> dict[str, Any]:
    """The arguments behind a gap or by name only."""
    count = len(_positional(arguments, bound))
    return {argument.name: bound[argument.name] for argument in list(arguments)[count:] if argument.name in bound}


def _call(function: Callable[..., Any], schema: Any, bound: dict[str, Any]) -> _Call | None:
    """A call of `function` with the arguments of the schema, or None where it has no such arguments."""
    parameters = _parameters(function)
    if parameters is None:  # implemented in C++ from the same schema
        named = {("input" if key == "self" else key): value for key, value in _named(schema.arguments, bound).items()}
        given = tuple(_positional(schema.arguments, bound))
        return "call_function", function, _spread(given) if _takes_any_number(function) else given, named
    values = dict(bound)
    if "self" in values:
        values[parameters[0]] = values.pop("self")
    values.pop("cudnn_enabled", None)
    values.pop("cudnn_enable", None)
    if "train" in values and "training" in parameters:
        values["training"] = values.pop("train")
    if function is F.dropout or getattr(function, "__name__", "").endswith("dropout"):
        values.setdefault("training", True)
    if not set(values) <= set(parameters):
        return None
    leading = []
    for parameter in parameters:
        if parameter not in values:
            break
        leading.append(values.pop(parameter))
    return "call_function", function, tuple(leading), values


def _spread(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(itertools.chain.from_iterable(value if isinstance(value, (list, tuple)) else (value,) for value in values))


@functools.cache
def _takes_any_number(function: Callable[..., Any]) -> bool:
    """True for `broadcast_tensors(*tensors)` and its kin, whose operators take a list; a decorated function takes `**kwargs` as well."""
    try:
        kinds = [parameter.kind for parameter in inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):
        return False
    return inspect.Parameter.VAR_POSITIONAL in kinds and inspect.Parameter.VAR_KEYWORD not in kinds


@functools.cache
def _parameters(function: Callable[..., Any]) -> list[str] | None:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters):
        return None  # decorated: the schema's order holds
    return [parameter.name for parameter in parameters]


def _upsample(name: str, bound: dict[str, Any]) -> _Call:
    kwargs: dict[str, Any] = {"mode": _UPSAMPLE[name]}
    if bound.get("output_size") is not None:
        kwargs["size"] = bound["output_size"]
    factors = bound.get("scale_factors")
    if "size" not in kwargs and factors is not None:
        kwargs["scale_factor"] = factors
    if "linear" in kwargs["mode"] or "cubic" in kwargs["mode"]:
        kwargs["align_corners"] = bool(bound.get("align_corners", False))
    if name.endswith("_aa"):
        kwargs["antialias"] = True
    return "call_function", F.interpolate, (bound.get("self", bound.get("input")),), kwargs


def _slice(bound: dict[str, Any]) -> _Call:
    end = bound.get("end")
    piece = slice(bound.get("start"), None if end == torch.iinfo(torch.int64).max else end, bound.get("step"))
    return "call_function", operator.getitem, (bound["self"], _at(bound.get("dim", 0), piece)), {}


def _select(bound: dict[str, Any]) -> _Call:
    return "call_function", operator.getitem, (bound["self"], _at(bound["dim"], bound["index"])), {}


def _index(bound: dict[str, Any]) -> _Call:
    indices = tuple(slice(None) if index is None else index for index in bound["indices"])
    return "call_function", operator.getitem, (bound["self"], indices), {}


def _at(dim: int, index: Any) -> tuple[Any, ...]:
    """The index that takes `index` along dimension `dim`, which may count from the end."""
    return (*(slice(None),) * dim, index) if dim >= 0 else (..., index, *(slice(None),) * (-dim - 1))


def _same(bound: dict[str, Any]) -> _Call:
    return "call_method", "contiguous", (bound["self"],), {}


def _to(bound: dict[str, Any]) -> _Call:
    dtype = bound.get("dtype", bound.get("other"))
    return "call_method", "to", (bound["self"], *([dtype] if dtype is not None else [])), {}


def _batch_norm(bound: dict[str, Any]) -> _Call:
    state = (bound["running_mean"], bound["running_var"], bound.get("weight"), bound.get("bias"))
    return "call_function", F.batch_norm, (bound["input"], *state, False, bound["momentum"], bound["eps"]), {}


def _layer_norm(bound: dict[str, Any]) -> _Call:
    settings = (bound["normalized_shape"], bound.get("weight"), bound.get("bias"), bound["eps"])
    return "call_function", F.layer_norm, (bound["input"], *settings), {}


def _group_norm(bound: dict[str, Any]) -> _Call:
    settings = (bound["group"], bound.get("weight"), bound.get("bias"), bound["eps"])
    return "call_function", F.group_norm, (bound["input"], *settings), {}


def _kept(bound: dict[str, Any]) -> _Call:
    return "call_module", bound["path"], (bound["input"],), {}


_NORMALIZATIONS: dict[str, Callable[[dict[str, Any]], _Call]] = {
    "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
}
"""What decompositions make of normalizations; the statistics beside the result are for training."""
_SPECIAL: dict[str, Callable[[dict[str, Any]], _Call]] = {
    "slice": _slice,
    "select": _select,
    "index": _index,
    "lift_fresh_copy": _same,
    "alias": _same,
    "detach": _same,
    "detach_": _same,
    "to": _to,
    "_to_copy": _to,
    "kept_module": _kept,
    **_NORMALIZATIONS,
}
