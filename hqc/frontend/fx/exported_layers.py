"""Layers of an exported program: calls whose weights belong to one module of the exported model become that module again.

`torch.export` keeps `conv.weight` where it was and writes `conv2d(x, conv.weight, conv.bias, ...)`. As an `nn.Conv2d` at `conv`
it fuses with its batch norm, trains with fake-quantized weights, and is found by its path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from hqc.frontend.fx.leaf_modules import is_library_module

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_SIGNATURES = {
    "conv1d": _CONV,
    "conv2d": _CONV,
    "conv3d": _CONV,
    "conv_transpose1d": _TRANSPOSED,
    "conv_transpose2d": _TRANSPOSED,
    "conv_transpose3d": _TRANSPOSED,
    "linear": ("input", "weight", "bias"),
    "batch_norm": _NORM,
}
_CONVOLUTION_KINDS: tuple[Callable[..., nn.Module], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED_KINDS: tuple[Callable[..., nn.Module], ...] = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_STATE = ("weight", "bias", "running_mean", "running_var")


def restore_layers(module: fx.GraphModule) -> None:
    """Replace such calls of `module`, whose submodules are its own, by calls of layers that hold the same parameters."""
    made: dict[str, tuple[Any, ...]] = {}
    for node, path, given in _layer_calls(module.graph):
        settings = (node.target, *((name, str(value)) for name, value in given.items() if name != "input"))
        if made.setdefault(path, settings) != settings:
            continue
        owner = module.get_submodule(path)
        if not isinstance(owner, _KINDS):
            layer = layer_of_call(_name(node), owner, given)
            if layer is None:
                del made[path]
                continue
            layer.train(module.training)
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, layer)
        node.op, node.target, node.args, node.kwargs = "call_module", path, (given["input"],), {}
    _tidy(module)


def adopt_layers(module: fx.GraphModule) -> None:
    """Replace such calls of `module`, whose tree is the user's own, by calls of the user's layers where those do just that."""
    for node, path, given in _layer_calls(module.graph):
        owner = module.get_submodule(path)
        layer = layer_of_call(_name(node), owner, given) if is_library_module(owner) and _is_bare(owner) else None
        if layer is not None and isinstance(owner, type(layer)) and layer.extra_repr() == owner.extra_repr():
            node.op, node.target, node.args, node.kwargs = "call_module", path, (given["input"],), {}
    _tidy(module)


def _layer_calls(graph: fx.Graph) -> Iterator[tuple[fx.Node, str, dict[str, Any]]]:
    """The calls whose tensors all belong to one module: node, path of the module, arguments by name."""
    for node in list(graph.nodes):
        names = _SIGNATURES.get(_name(node)) if node.op == "call_function" else None
        if names is not None:
            given = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
            path = _owner(given)
            if path is not None:
                yield node, path, given


def _name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", ""))


def _is_bare(module: nn.Module) -> bool:
    """True without hooks, which a call of the module would run a second time."""
    return not module._forward_hooks and not module._forward_pre_hooks


def _tidy(module: fx.GraphModule) -> None:
    for node in reversed(list(module.graph.nodes)):
        if node.op == "get_attr" and not node.users:
            module.graph.erase_node(node)
    module.graph.lint()
    module.recompile()


_KINDS = (nn.modules.conv._ConvNd, nn.Linear, nn.modules.batchnorm._BatchNorm)


def _owner(given: dict[str, Any]) -> str | None:
    """The path of the module that all tensors of the call belong to under their usual names."""
    paths: set[str] = set()
    for name in _STATE:
        value = given.get(name)
        if value is None:
            continue
        if not isinstance(value, fx.Node) or value.op != "get_attr":
            return None
        path, _, own = str(value.target).rpartition(".")
        if own != name:
            return None
        paths.add(path)
    return paths.pop() if len(paths) == 1 and "" not in paths else None


def layer_of_call(kind: str, owner: nn.Module, given: dict[str, Any]) -> nn.Module | None:
    """The layer of these settings with the parameters of `owner`, or None where torch has none."""
    if kind not in _SIGNATURES or any(True for _ in owner.children()):
        return None
    weight = getattr(owner, "weight", None)
    bias = given.get("bias") is not None
    layer: nn.Module
    if kind == "batch_norm":
        if given.get("running_mean") is None or (weight is None) == bias:
            return None
        layer = _norm(owner.running_mean, weight, given)  # type: ignore[arg-type]
    elif not isinstance(weight, torch.Tensor):
        return None
    elif kind == "linear":
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias, device="meta")
    else:
        layer = _convolution(weight, bias, given, kind.startswith("conv_transpose"))
    for name in (*_STATE, "num_batches_tracked"):
        if hasattr(owner, name) and name in (*layer._parameters, *layer._buffers):
            setattr(layer, name, getattr(owner, name))
    counter = getattr(layer, "num_batches_tracked", None)
    if isinstance(counter, torch.Tensor) and counter.is_meta:
        layer.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return layer


def _convolution(weight: torch.Tensor, bias: bool, given: dict[str, Any], transposed: bool) -> nn.Module:
    rank = weight.ndim - 2
    stride, padding, dilation = (given.get(name, default) for name, default in (("stride", 1), ("padding", 0), ("dilation", 1)))
    groups, kernel = given.get("groups", 1), tuple(weight.shape[2:])
    settings = (_many(stride, rank), padding if isinstance(padding, str) else _many(padding, rank))
    if transposed:
        added = _many(given.get("output_padding", 0), rank)
        channels = weight.shape[0], weight.shape[1] * groups
        return _TRANSPOSED_KINDS[rank - 1](
            *channels, kernel, *settings, added, groups, bias, _many(dilation, rank), device="meta"
        )
    channels = weight.shape[1] * groups, weight.shape[0]
    return _CONVOLUTION_KINDS[rank - 1](*channels, kernel, *settings, _many(dilation, rank), groups, bias, device="meta")


def _norm(mean: torch.Tensor, weight: Any, given: dict[str, Any]) -> nn.Module:
    rank = _rank(given["input"])
    make = {3: nn.BatchNorm1d, 2: nn.BatchNorm1d, 5: nn.BatchNorm3d}.get(rank, nn.BatchNorm2d)
    return make(mean.shape[0], given.get("eps", 1e-5), given.get("momentum", 0.1), weight is not None, device="meta")


def _rank(node: Any) -> int:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.ndim if isinstance(value, torch.Tensor) else 4


def _many(value: Any, count: int) -> tuple[int, ...]:
    entries = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    return entries * count if len(entries) == 1 else entries
