"""Native forms by op: how a lowering is registered and found."""

from __future__ import annotations

from collections.abc import Callable

from hqc.backends.bpu.engines.jit.layouts import NativeContext, Order
from hqc.backends.bpu.engines.jit.native import NativeOp, NativeStep
from hqc.ir import DType, Node, Value
from hqc.registry import Registry

Lowering = Callable[[Node, NativeContext, "list[str]"], "NativeStep | None"]
NATIVE: Registry[str, Lowering] = Registry("native kernel")
ORDERS: dict[str, Order] = {}
"""What each native kernel asks of its values of rank 4, by op name."""
BLOCK = 1 << 15  # elements of an element-wise tile


def native(*names: str, order: Order = Order.SAME) -> Callable[[Lowering], Lowering]:
    """Register the native form of one or several ops."""
    ORDERS.update(dict.fromkeys(names, order))
    return NATIVE.register(*names)


SMALL = (DType.INT8, DType.INT16)


def is_one_of(value: Value, *dtypes: DType) -> bool:
    return value.type.dtype in dtypes


def item_size(value: Value) -> int:
    return value.type.dtype.numpy.itemsize


def single(op: NativeOp | None) -> NativeStep | None:
    return None if op is None else NativeStep((op,))
