"""Layers that torch.jit scripted or traced, as modules of Python again, over the same parameters.

TorchScript is code: the graph of a ScriptModule has its branches, loops, lists and attributes. A `ScriptedPart` runs that code step by
step in Python (`scripted_steps.py`), so that it is traced like any other module: sizes steer it, its operators are ordinary torch
calls, and calls whose weights belong to one layer are that layer (an nn.Conv2d, which fuses and trains).
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hqc.errors import InputError
from hqc.frontend.fx.exported_layers import layer_of_call
from hqc.frontend.fx.locations import is_user_file, shown
from hqc.frontend.fx.scripted_steps import PASSED, PRIMITIVES, Block, Program, Step, run

_DROPOUTS: dict[str, type[nn.Module]] = {
    "dropout": nn.Dropout,
    "feature_dropout": nn.Dropout2d,
    "alpha_dropout": nn.AlphaDropout,
}
_RECURRENT: dict[str, type[nn.LSTM | nn.GRU | nn.RNN]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "rnn_tanh": nn.RNN,
    "rnn_relu": nn.RNN,
}


class ScriptedPart(nn.Module):
    """A scripted or traced module as Python. Submodules, parameters and buffers are under their names."""

    def __init__(self, original: str, program: Program | None) -> None:
        super().__init__()
        self.original_name = original
        self.program = program

    def __reduce__(self) -> Any:
        return _empty, (self.original_name, self.program.arguments if self.program else ()), self.__dict__

    def run_program(self, *given: Any) -> Any:
        """What the module returns."""
        assert self.program is not None
        return run(self.program, self, given)


def opened(module: Any, path: str = "") -> nn.Module:
    """`module` as Python. `InputError` where its code has what this does not know."""
    where = f"the layer {path}" if path else "the model"
    try:
        graph, schema = module.inlined_graph, module.forward.schema
    except (AttributeError, RuntimeError):
        raise InputError(
            f"{where} was scripted by torch.jit and has no forward; put the torch.nn.Module that it was in its place"
        ) from None
    frozen = not hasattr(module, "training")
    if frozen:  # its Python side does not know the modules that it kept
        module = torch.jit._recursive.wrap_cpp_module(module._c)  # type: ignore[no-untyped-call]
    reader = _Reader(graph, where)
    inputs = [value.debugName() for value in graph.inputs()]
    block = reader.block(graph, inputs)
    defaults = [(item.name, item.has_default_value(), item.default_value) for item in schema.arguments[1:]]
    part = _tree(module, Program(tuple(defaults), block))
    for name, tensor in reader.tensors.items():
        part.register_buffer(name, tensor, persistent=False)
    for place in reader.attributes:
        _copy_attribute(module, part, place)
    _restore_layers(part, block, reader.attributes)
    return part.train(not frozen and module.training)


def _tree(module: Any, program: Program | None) -> ScriptedPart:
    """The module and those inside of it, with parameters and buffers, without attributes."""
    part = _empty(str(module.original_name), program.arguments if program else ())
    ScriptedPart.__init__(part, str(module.original_name), program)
    for name, parameter in module.named_parameters(recurse=False):
        own = isinstance(parameter, nn.Parameter)  # those of a module that was loaded are tensors that require gradients
        part.register_parameter(name, parameter if own else nn.Parameter(parameter.detach(), parameter.requires_grad))
    for name, buffer in module.named_buffers(recurse=False):
        part.register_buffer(name, buffer)
    for name, child in module.named_children():
        part.add_module(name, _tree(child, None))
    return part


def _copy_attribute(module: Any, part: nn.Module, place: tuple[str, ...]) -> None:
    """Give the part the plain attribute at `place`, if it is one: a number, a flag, a list."""
    for name in place[:-1]:
        module, part = getattr(module, name), getattr(part, name)
    if place[-1] != "training" and not hasattr(part, place[-1]):
        setattr(part, place[-1], getattr(module, place[-1]))


class _Reader:
    """Reads a graph of TorchScript. `tensors`: its constants, by name. `attributes`: where it reads attributes."""

    def __init__(self, graph: Any, where: str) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.attributes: list[tuple[str, ...]] = []
        self._places: dict[str, tuple[str, ...]] = {next(iter(graph.inputs())).debugName(): ()}
        self._where = where

    def block(self, block: Any, inputs: list[str]) -> Block:
        """The steps of a graph or of a block in it."""
        steps: list[Step] = []
        for node in block.nodes():
            step = self._step(node)
            step.source = _source(node)
            steps.append(step)
        result = block.return_node() if hasattr(block, "return_node") else block.returnNode()
        return Block(tuple(inputs), steps, tuple(value.debugName() for value in result.inputs()))

    def _step(self, node: Any) -> Step:
        kind, name = node.kind().split("::", 1)
        inputs = tuple(value.debugName() for value in node.inputs())
        outputs = tuple(value.debugName() for value in node.outputs())
        blocks = tuple(self.block(each, [value.debugName() for value in each.inputs()]) for each in node.blocks())
        used = tuple(bool(value.uses()) for value in node.outputs())
        if (kind, name) == ("prim", "Constant"):
            return Step("constant", self._constant(node), inputs, outputs)
        if (kind, name) == ("prim", "GetAttr"):
            place = (*self._places[inputs[0]], node.s("name"))
            self._places[outputs[0]] = place
            self.attributes.append(place)
            return Step("attribute", node.s("name"), inputs, outputs, place=place)
        if (kind, name) == ("prim", "SetAttr"):
            return Step("assignment", node.s("name"), inputs, outputs)
        if kind == "aten":
            return self._call(node, name, inputs, outputs, used)
        if kind == "prim" and (name in PRIMITIVES or name in PASSED):
            return Step("primitive", name, inputs, outputs, blocks)
        raise self._refused(f"{kind}::{name}")

    def _constant(self, node: Any) -> Any:
        value = node.output().toIValue() if node.output().type().kind() != "FunctionType" else None
        if not isinstance(value, torch.Tensor):
            return value
        name = f"constant_{len(self.tensors)}"
        self.tensors[name] = value
        return _Held(name)

    def _call(self, node: Any, name: str, inputs: tuple[str, ...], outputs: tuple[str, ...], used: tuple[bool, ...]) -> Step:
        text = node.schema()
        if not text.startswith("aten::"):
            raise self._refused(f"aten::{name}")
        schema = torch._C.parse_schema(text)
        overload = schema.overload_name or "default"
        names = tuple(argument.name for argument in schema.arguments)
        on_tensors = any("Tensor" in str(argument.type) for argument in schema.arguments)
        return Step("call", name, inputs, outputs, names=names, overload=overload if on_tensors else None, used=used)

    def _refused(self, what: str) -> InputError:
        return InputError(
            f"{self._where} was scripted or traced by torch.jit, and its code has {what}, which hqc does not read; put the "
            "torch.nn.Module that it was in its place"
        )


_LINES = (re.compile(r'File "([^"]*)", line (\d+)'), re.compile(r"^(\S+)\((\d+)\): ", re.MULTILINE))
"""How scripted and traced code tell their lines."""


def _source(node: Any) -> str:
    """The innermost line of the user's in what TorchScript knows of a node's place."""
    text = str(node.sourceRange())
    found = [(file, int(line)) for pattern in _LINES for file, line in pattern.findall(text) if is_user_file(file)]
    return shown(*found[0]) if found else ""


class _Held(str):
    """The name of the buffer that holds a constant."""


def _restore_layers(part: ScriptedPart, block: Block, reads: list[tuple[str, ...]]) -> None:
    """Let calls whose tensors belong to one layer be calls of that layer."""
    made: dict[tuple[str, ...], tuple[Any, ...]] = {}
    known: dict[str, Any] = {}
    places: dict[str, tuple[str, ...]] = {}
    lists: dict[str, list[str]] = {}
    for step in _all_steps(block):
        if step.kind == "constant":
            known[step.outputs[0]] = None if isinstance(step.target, _Held) else step.target
        elif step.kind == "attribute":
            places[step.outputs[0]] = step.place
        elif step.kind == "primitive" and step.target == "ListConstruct":
            lists[step.outputs[0]] = list(step.inputs)
            if all(item in known for item in step.inputs):
                known[step.outputs[0]] = [known[item] for item in step.inputs]
        elif step.kind == "call" and step.overload is not None:
            _restore_layer(part, step, known, places, lists, made, reads)


def _restore_layer(
    part: ScriptedPart,
    step: Step,
    known: dict[str, Any],
    places: dict[str, tuple[str, ...]],
    lists: dict[str, list[str]],
    made: dict[tuple[str, ...], tuple[Any, ...]],
    reads: list[tuple[str, ...]],
) -> None:
    given = dict(zip(step.names, step.inputs, strict=False))
    owners = {places[item][:-1] for name, item in given.items() if item in places and name != "input"}
    owners |= {places[item][:-1] for name in given.values() for item in lists.get(name, ()) if item in places}
    if len(owners) != 1 or owners == {()}:
        return
    path = owners.pop()
    owner = part.get_submodule(".".join(path))
    settings = {name: known[item] for name, item in given.items() if item in known}
    layer = _layer(step, owner, given, settings, places)
    key = (step.target, str(sorted(settings.items())))
    if (
        layer is None
        or any(True for _ in owner.children())
        or not all(hasattr(layer, read[-1]) for read in reads if read[:-1] == path)
    ):
        return
    if made.setdefault(path, key) != key:
        return
    if isinstance(owner, ScriptedPart):
        layer.train(owner.training)
        parent = part.get_submodule(".".join(path[:-1]))
        setattr(parent, path[-1], layer)
    step.kind, step.place = "layer", path
    step.inputs = tuple(given[name] for name in ("input", "hx") if name in given)


def _layer(
    step: Step, owner: nn.Module, given: dict[str, str], settings: dict[str, Any], places: dict[str, tuple[str, ...]]
) -> nn.Module | None:
    """The layer that such a call is, or None."""
    if step.target in _DROPOUTS:
        if "p" not in settings or any(True for _ in owner.parameters()):
            return None
        return _DROPOUTS[step.target](settings["p"])
    if step.target in _RECURRENT:
        return _recurrent(step.target, owner, settings)
    kind = "convolution" if step.target == "_convolution" else step.target
    arguments: dict[str, Any] = {"input": None}
    for name, item in given.items():
        own = places[item][-1] if item in places else None
        if name in ("weight", "bias", "running_mean", "running_var"):
            if own != name and item not in settings and settings.get(name, item) is not None:
                return None
            if own is not None and own != name:
                return None
            arguments[name] = own
        elif name in settings:
            arguments[name] = settings[name]
        elif name not in ("input", "training") and not name.startswith("cudnn"):
            return None
    weight = getattr(owner, "weight", None)
    if kind == "convolution":
        if not isinstance(weight, torch.Tensor):
            return None
        kind = f"{'conv_transpose' if arguments.pop('transposed', False) else 'conv'}{weight.ndim - 2}d"
    return _of_its_kind(layer_of_call(kind, owner, arguments), owner)


def _of_its_kind(layer: nn.Module | None, owner: nn.Module) -> nn.Module | None:
    """Batch norms of every rank are the same call; the layer had a name."""
    kind: Any = getattr(nn, str(getattr(owner, "original_name", "")), nn.Identity)
    if not isinstance(layer, nn.modules.batchnorm._BatchNorm) or kind not in (nn.BatchNorm1d, nn.BatchNorm3d):
        return layer
    same: nn.Module = kind(layer.num_features, layer.eps, layer.momentum, layer.affine)
    for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
        setattr(same, name, tensor)
    return same


def _recurrent(kind: str, owner: nn.Module, settings: dict[str, Any]) -> nn.Module | None:
    """The recurrent layer with the parameters of `owner`."""
    weight, inner = getattr(owner, "weight_ih_l0", None), getattr(owner, "weight_hh_l0", None)
    if not isinstance(weight, torch.Tensor) or not isinstance(inner, torch.Tensor) or hasattr(owner, "weight_hr_l0"):
        return None
    named: dict[str, Any] = {"nonlinearity": kind[4:]} if kind.startswith("rnn_") else {}
    layer = _RECURRENT[kind](
        weight.shape[1],
        inner.shape[1],
        int(settings["num_layers"]),
        bias=bool(settings["has_biases"]),
        batch_first=bool(settings["batch_first"]),
        dropout=float(settings["dropout"]),
        bidirectional=bool(settings["bidirectional"]),
        **named,
    )
    mine = dict(owner.named_parameters(recurse=False))
    if mine.keys() != dict(layer.named_parameters()).keys():
        return None
    for name, parameter in mine.items():
        setattr(layer, name, parameter)
    return layer


def _all_steps(block: Block) -> Iterator[Step]:
    for step in block.steps:
        yield step
        for inner in step.blocks:
            yield from _all_steps(inner)


def _empty(original: str, arguments: tuple[tuple[str, bool, Any], ...]) -> ScriptedPart:
    """An unfilled part of the class `original`, whose `forward` has these arguments: name, whether it has a default, and that."""
    names = [name if name.isidentifier() and not keyword.iskeyword(name) else f"{name}_" for name, _, _ in arguments]
    defaults = {f"_default_{name}": value for name, has, value in zip(names, *_columns(arguments), strict=True) if has}
    listed = ", ".join(f"{name}=_default_{name}" if f"_default_{name}" in defaults else name for name in names)
    scope: dict[str, Any] = dict(defaults)
    exec(f"def forward(self, {listed}):\n    return self.run_program({', '.join(names)})\n", scope)
    cls: Any = type(original, (ScriptedPart,), {"forward": scope["forward"], "__module__": __name__})
    part: ScriptedPart = cls.__new__(cls)
    return part


def _columns(arguments: tuple[tuple[str, bool, Any], ...]) -> tuple[list[bool], list[Any]]:
    return [has for _, has, _ in arguments], [value for _, _, value in arguments]
