"""Where torch forms register, by op name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from hqc.checked import explained
from hqc.errors import HqcError
from hqc.ir import Node
from hqc.registry import Registry

Attributes = Mapping[str, Any]


@explained
class TorchForm:
    """`function(*operands, **attributes)` computes the node; operands as in `node.inputs`, None where one is absent.

    `function` is importable by its qualified name, `attributes` are plain Python objects: both may be written into an FX graph.
    A node with several results gives a tuple. `numbers`: `function` takes Python numbers for tensors without axes.
    """

    numbers = False

    def __init__(self, function: Callable[..., Any], **attributes: Any) -> None:
        self.function = function
        self.attributes = attributes

    def __call__(self, *operands: torch.Tensor | None) -> Any:
        return self.function(*operands, **self.attributes)

    def __repr__(self) -> str:
        name = getattr(self.function, "__name__", str(self.function))
        return f"TorchForm({', '.join([name, *(f'{key}={value!r}' for key, value in self.attributes.items())])})"


FormMaker = Callable[[Attributes], TorchForm]
_FORMS: Registry[str, FormMaker] = Registry("torch form", families="hqc.frontend.fx.forms")


def torch_form_of(*names: str) -> Callable[[FormMaker], FormMaker]:
    """Register the decorated function (attributes to form) for ops."""
    return _FORMS.register(*names)


def plain_form(name: str, function: Callable[..., Any], *, numbers: bool = False) -> None:
    """Register a torch function of the operands alone; `numbers` as in `TorchForm`."""

    def make(attributes: Attributes) -> TorchForm:
        form = TorchForm(function)
        form.numbers = numbers
        return form

    torch_form_of(name)(make)


@explained
def has_torch_form(op_name: str) -> bool:
    """True when `torch_form` knows the op."""
    return op_name in _FORMS


@explained
def torch_form(node: Node) -> TorchForm:
    """The torch form of a node; `HqcError` for an op of the quantized world or an opaque one."""
    maker = _FORMS.get(node.op.name)
    if maker is None:
        raise HqcError(f"{node.label}: {node.op.name} has no torch form; only the emitter knows what stands for it")
    return maker(node.attributes)
