"""A torch module that computes an IR graph: how models of other front ends are calibrated, trained and compiled.

Convolutions and linear layers become the modules of torch.nn that they are, everything else a call of its torch form, from which
lowering gives the node back as it was; parameters of reals train, other constants are buffers. Modules and nodes have the graph's names,
spelled as Python takes them; what is lowered again has the graph's own.
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from hqc.errors import LoweringError
from hqc.frontend.fx.forms import torch_form
from hqc.frontend.fx.locations import ALSO_META, FORM_META, LABEL_META, MODULE_META, NAME_META, OUTPUTS_META, SOURCE_META
from hqc.ir import DType, Graph, Node, Trait, Value

OpaqueModule = Callable[[Node], nn.Module]


def graph_module_of(graph: Graph, opaque: OpaqueModule | None = None) -> fx.GraphModule:
    """An FX GraphModule over the float graph: inputs in order, one output bare, several as a tuple.

    `opaque`: makes the module that computes an opaque node. `LoweringError` names a node that has no torch form.
    """
    return _Writer(graph, opaque).run()


class _Writer:
    def __init__(self, graph: Graph, opaque: OpaqueModule | None) -> None:
        self.ir, self.opaque = graph, opaque
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.made: dict[str, fx.Node] = {}  # value name -> FX node
        self.taken: set[str] = set()

    def run(self) -> fx.GraphModule:
        for value in self.ir.inputs:
            placeholder = self.graph.create_node("placeholder", self.name(value.name))
            placeholder.meta[NAME_META] = value.name
            self.made[value.name] = placeholder
        for node in self.ir.nodes:
            self.write(node)
        outputs = [self.read(value) for value in self.ir.outputs]
        returned = self.graph.output(outputs[0] if len(outputs) == 1 else tuple(outputs))
        returned.meta[OUTPUTS_META] = tuple(self.ir.output_names)
        return fx.GraphModule(self.root, self.graph, "OnnxModel").eval()

    # --- nodes -------------------------------------------------------------------------------------------------------------

    def write(self, node: Node) -> None:
        module = self.layer(node)
        if module is not None:
            operands = [value for value in node.inputs if value is not None and not value.is_parameter]
            path = self.place(node.loc.module or re.sub(r"\W", "_", node.loc.label or node.name), module)
            call = self.graph.create_node("call_module", path, tuple(map(self.read, operands)), name=self.name(node.name))
        else:
            form = torch_form(node)
            args = tuple(None if value is None else self.read(value, number=form.numbers) for value in node.inputs)
            call = self.graph.create_node("call_function", form.function, args, form.attributes, name=self.name(node.name))
            call.meta[FORM_META] = (node.op.name, dict(node.attributes))
        call.meta.update({SOURCE_META: node.loc.source, MODULE_META: node.loc.module})
        call.meta.update({LABEL_META: node.loc.label, ALSO_META: node.loc.also})
        call.meta[NAME_META] = node.name
        if len(node.results) == 1:
            self.made[node.name] = call
            return
        for index, value in enumerate(node.results):
            part = self.graph.create_node("call_function", operator.getitem, (call, index), name=self.name(value.name))
            part.meta.update({key: call.meta[key] for key in (SOURCE_META, MODULE_META, LABEL_META, ALSO_META)})
            part.meta[NAME_META] = value.name
            self.made[value.name] = part

    def layer(self, node: Node) -> nn.Module | None:
        """The torch.nn module of a layer with constant weights; None for what is written as a call."""
        if node.op.has(Trait.OPAQUE):
            if self.opaque is None:
                raise LoweringError(f"{node.label} is an operation that only the model's own framework can run")
            return self.opaque(node)
        if node.op.name == "dropout":
            return nn.Dropout(node.attributes["p"])
        if node.op.name == "batch_norm":
            return _batch_norm(node)
        make = None if node.operands[0].is_parameter else _LAYERS.get(node.op.name)
        weight = node.operand("weight") if make is not None else None
        bias = node.operand("bias") if make is not None else None
        if make is None or weight is None or weight.array is None or (bias is not None and bias.array is None):
            return None
        module = make(node, weight.array, bias is not None)
        if module is not None:
            module.weight = nn.Parameter(_tensor(weight.array))
            if bias is not None and bias.array is not None:
                module.bias = nn.Parameter(_tensor(bias.array))
        return module

    def place(self, wanted: str, module: nn.Module) -> str:
        """Put `module` into the tree at the dotted path `wanted`, or beside it where that is taken; returns the path."""
        *parents, last = [_word(part) for part in wanted.split(".")]
        owner: nn.Module = self.root
        path: list[str] = []
        for part in parents:
            part = f"_{part}" if hasattr(nn.Module, part) else part
            if not isinstance(owner._modules.get(part), _Container):
                part = _free(part, owner) if part in owner._modules else part
                owner.add_module(part, _Container())
            owner, path = owner.get_submodule(part), [*path, part]
        last = _free(last, owner)
        owner.add_module(last, module)
        return ".".join([*path, last])

    # --- operands ----------------------------------------------------------------------------------------------------------

    def read(self, value: Value, *, number: bool = False) -> Any:
        """The node that holds `value`; a constant becomes a parameter or buffer when it is first read, a real scalar a buffer, or with
        `number` a number."""
        scalar = value.array is not None and value.array.ndim == 0 and value.type.dtype is DType.FLOAT32
        if scalar and number:
            assert value.array is not None
            return value.array.item()
        if value.name not in self.made:
            assert value.array is not None
            path, tensor = self.name(value.name), _tensor(value.array)
            if value.type.dtype.is_float and not scalar:
                self.root.register_parameter(path, nn.Parameter(tensor))
            else:
                self.root.register_buffer(path, tensor)
            self.made[value.name] = self.graph.create_node("get_attr", path, name=path)
        return self.made[value.name]

    def name(self, wanted: str) -> str:
        """`wanted` as an identifier that nothing has yet."""
        base = _word(wanted)
        base = f"_{base}" if base[0].isdigit() else base
        name, count = base, 0
        while name in self.taken or hasattr(nn.Module, name):
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name


def _word(text: str) -> str:
    """`text` without what no identifier has; Python's own words (`while`, `in`) are none."""
    word = re.sub(r"\W", "_", text) or "_"
    return f"{word}_" if keyword.iskeyword(word) else word


class _Container(nn.Module):
    """A step on the way to a module, as in the paths of the exported model."""


def _free(base: str, owner: nn.Module) -> str:
    """`base`, or `base_1`, ...: a name that `owner` has not."""
    name, count = base, 0
    while hasattr(owner, name):
        count += 1
        name = f"{base}_{count}"
    return name


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(np.array(array))


def _image_layer(
    cls: Any, node: Node, weight: np.ndarray[Any, Any], bias: bool, inputs: int, outputs: int, **more: Any
) -> nn.Module | None:
    """A layer of images or volumes whose padding torch can say: the same at both ends."""
    a = node.attributes
    axes = len(a["stride"])
    padding, ends = tuple(a["padding"][:axes]), tuple(a["padding"][axes:])
    if padding != ends or _takes_more(node) or weight.ndim != axes + 2:
        return None
    module: nn.Module = cls(
        inputs, outputs, weight.shape[2:], stride=a["stride"], padding=padding, dilation=a["dilation"], groups=a["groups"],
        bias=bias, device="meta", **more,
    )  # fmt: skip
    return module


def _takes_more(node: Node) -> bool:
    """True when fusion gave the layer an activation or a residual."""
    return node.op.has(Trait.CONV_LIKE) and (node.attributes["activation"] != "none" or node.operand("residual") is not None)


def _conv(node: Node, weight: np.ndarray[Any, Any], bias: bool) -> nn.Module | None:
    if weight.ndim == 3:
        return _row_conv(node, weight, bias)
    cls = nn.Conv2d if weight.ndim == 4 else nn.Conv3d
    return _image_layer(cls, node, weight, bias, weight.shape[1] * node.attributes["groups"], weight.shape[0])


def _row_conv(node: Node, weight: np.ndarray[Any, Any], bias: bool) -> nn.Module | None:
    """A convolution of rows, which the IR has as one of images of height 1."""
    a = node.attributes
    _, before, _, after = a["padding"]
    if before != after or _takes_more(node):
        return None
    groups = a["groups"]
    return nn.Conv1d(
        weight.shape[1] * groups, weight.shape[0], weight.shape[2], stride=a["stride"][1], padding=before, dilation=a["dilation"][1],
        groups=groups, bias=bias, device="meta",
    )  # fmt: skip


def _conv_transpose(node: Node, weight: np.ndarray[Any, Any], bias: bool) -> nn.Module | None:
    extra = node.attributes["output_padding"]
    if any(more >= max(stride, 1) for more, stride in zip(extra, node.attributes["stride"], strict=True)):
        return None
    outputs = weight.shape[1] * node.attributes["groups"]
    cls = nn.ConvTranspose2d if len(extra) == 2 else nn.ConvTranspose3d
    return _image_layer(cls, node, weight, bias, weight.shape[0], outputs, output_padding=extra)


def _linear(node: Node, weight: np.ndarray[Any, Any], bias: bool) -> nn.Module | None:
    if _takes_more(node):
        return None
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias, device="meta")


def _batch_norm(node: Node) -> nn.Module | None:
    """A batch norm over constant statistics, for tensors of two to five axes."""
    x, *statistics = node.inputs
    rank = None if x is None else x.type.rank
    if rank not in _NORMS or any(value is not None and value.array is None for value in statistics):
        return None
    mean, var, weight, bias = ([*statistics, None, None])[:4]
    assert mean is not None and mean.array is not None and var is not None and var.array is not None
    norm: nn.Module = _NORMS[rank](mean.array.size, eps=node.attributes["eps"])
    norm.running_mean, norm.running_var = _tensor(mean.array), _tensor(var.array)
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None and value.array is not None:
            setattr(norm, name, nn.Parameter(_tensor(value.array)))
    return norm


_NORMS: dict[int | None, Any] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_LAYERS: dict[str, Callable[[Node, np.ndarray[Any, Any], bool], nn.Module | None]] = {
    "conv2d": _conv,
    "conv_transpose2d": _conv_transpose,
    "conv3d": _conv,
    "conv_transpose3d": _conv_transpose,
    "linear": _linear,
}
"""torch.nn's modules of the IR's conv-like ops; None from one of them means that torch.nn cannot say this layer."""
