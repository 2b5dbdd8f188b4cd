"""Where the emitters of IR ops register: one function per op, found by the op's name.

An emitter appends ONNX nodes to a `Builder` and returns the ONNX name of its result (a list of names for several results)::

    @emitter("silu")
    def silu(node: Node, b: Builder) -> str:
        x = b.operand(node, 0)
        return b("Mul", x, b("Sigmoid", x))

The builder renames what is returned to the IR value's name, so emitters read like expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from hqc.errors import ExportError
from hqc.registry import Registry

if TYPE_CHECKING:
    from hqc.backends.onnx.builder import Builder
    from hqc.ir import Node

Emitter = Callable[["Node", "Builder"], "str | list[str]"]
AnyEmitter = TypeVar("AnyEmitter", bound=Emitter)

_EMITTERS: Registry[str, Emitter] = Registry("ONNX emitter", families="hqc.backends.onnx.emitters")


def emitter(*op_names: str) -> Callable[[AnyEmitter], AnyEmitter]:
    """Register the decorated function as the emitter of the ops called `op_names`."""
    return _EMITTERS.register(*op_names)


def has_emitter(op_name: str) -> bool:
    """True when the ONNX back end can write the op."""
    return op_name in _EMITTERS


def registered() -> list[str]:
    """Names of all ops with an emitter, sorted."""
    return sorted(_EMITTERS)


def get_emitter(node: Node) -> Emitter:
    """The emitter of the node's op; `ExportError` naming the node, its source line and what to do when there is none."""
    function = _EMITTERS.get(node.op.name)
    if function is None:
        raise ExportError(
            f"{node.label}: {node.op.name} cannot be written to ONNX: the ONNX back end has no emitter for this op"
        )
    return function
