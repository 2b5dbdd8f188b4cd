"""What a support rule may ask about a node: shapes, constants, batch. Unknown shapes give `None`, never a guess."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from hqc.ir import Graph, Node, Trait, Value
from hqc.ir.types import Shape, Sizes

_KEPT_4D_DEPTH = 16  # how far back a chain from a constant-weight product is followed


def graph_batch(graph: Graph | None) -> int:
    """Batch size the graph was lowered with: the first dimension common to its inputs, else 1.

    The chip runs batch 1; a graph lowered with a larger one is judged as if it had 1.
    """
    sizes = {value.type.shape[0] for value in graph.inputs if value.type.shape} if graph is not None else set()
    return sizes.pop() if len(sizes) == 1 else 1


def ends_model(node: Node) -> bool:
    """True when nothing but boundaries reads the results of `node`."""
    for value in node.results:
        for user, _ in value._uses.values():
            if Trait.BOUNDARY not in user.op.traits:
                return False
    return True


def is_scalar(value: Value) -> bool:
    """A constant of one element."""
    return value.is_parameter and value.type.size == 1


def is_constant_product(node: Node) -> bool:
    """A matrix product with constant weights that is not a convolution: the chip computes it as one, on 4-D data."""
    if node.op.name == "linear":
        weight = node.operand("weight")
        return weight is not None and weight.is_parameter
    return node.op.name == "matmul" and len(node.data_operands) == 1


LARGEST_FLATTENED = 7
"""Largest height and width of the maps that a linear layer may take in place of their flattened features."""


def absorbed_flatten(node: Node | None) -> Shape | None:
    """The shape `[N,C,H,W]` that a reshape to `[N,C*H*W]` reads, where height and width are at most 7 and only products with constant
    weights read the result: those are then convolutions over the map. Else None."""
    if node is None or node.op.name != "reshape" or not node.users or not ends_in_products(node):
        return None
    shape, flat = node.operands[0].shape, node.results[0].shape
    if shape is None or flat is None or len(shape) != 4 or flat != (shape[0], math.prod(shape[1:])):
        return None
    return shape if max(shape[2:]) <= LARGEST_FLATTENED else None


def ends_in_products(node: Node) -> bool:
    """True when only products with constant weights read the result of `node`, as their data, and the model does not return it."""
    graph, value = node.graph, node.results[0]
    if graph is None or graph.is_output(value):
        return False
    return all(is_constant_product(user) and index == 0 for user, index in value._uses.values())


def is_part_of_product(node: Node) -> bool:
    """True for the change of rank behind a product with a vector: both are one operation of the model."""
    product = node.operands[0].producer if node.op.name == "reshape" else None
    if product is None or not is_constant_product(product) or set(product.origin).isdisjoint(node.origin):
        return False
    before, after = node.operands[0].shape, node.results[0].shape
    if before is None or after is None:
        return False
    return [size for size in before if size != 1] == [size for size in after if size != 1]


def shifted_convolution(node: Node) -> Node | None:
    """The layer that a sum with a constant shifts, perhaps behind more products and sums with constants (`conv(x) * k + b`): the chip
    folds them into the layer. None where there is no such layer, or another node reads a value on the way."""
    for _ in range(_STEPS_BEHIND_A_LAYER):
        if node.op.name not in ("add", "mul", "div") or len(node.data_operands) != 1:
            return None
        value = node.data_operands[0]
        producer = value.producer
        if producer is None or len(value._uses) > 1 or (node.graph is not None and node.graph.is_output(value)):
            return None
        if producer.op.has(Trait.CONV_LIKE):
            return producer if producer.attributes["activation"] == "none" else None
        node = producer
    return None


_STEPS_BEHIND_A_LAYER = 8


def divides_by_constant(node: Node) -> bool:
    """True for a quotient by constants whose reciprocals are normal float32 numbers: it is the product with them."""
    array = node.operands[1].array if node.op.name == "div" else None
    if array is None or not np.isfinite(array).all() or not array.all():
        return False
    _, exponents = np.frexp(array)
    return bool((np.abs(exponents) < 120).all())


def kept_4d_source(value: Value) -> Node | None:
    """The constant-weight product whose result `value` still is in the chip's 4-D layout, or None.

    The chip keeps the result 4-D through functions of one input, multiplication by a scalar or itself, and slices; a reshape
    is made only where the result leaves for other ops.
    """
    for _ in range(_KEPT_4D_DEPTH):
        node = value.producer
        if node is None:
            return None
        if is_constant_product(node):
            return node
        data = list(dict.fromkeys(node.data_operands))
        one_input = node.op.has(Trait.LUT) or node.op.has(Trait.ACTIVATION) or node.op.name == "slice"
        scaled = node.op.name == "mul" and (len(node.data_operands) == 2 or any(map(is_scalar, node.operands)))
        scaled |= divides_by_constant(node) and is_scalar(node.operands[1])
        if len(data) != 1 or not (one_input or scaled):
            return None
        value = data[0]
    return None


class Facts:
    """Lazily computed numbers of one node. With `four_d`, results of constant-weight products count as the 4-D tensors
    they are on chips that know no other rank."""

    def __init__(self, node: Node, *, four_d: bool = False) -> None:
        self.node = node
        self.four_d = four_d

    @functools.cached_property
    def batch(self) -> int:
        return graph_batch(self.node.graph)

    @functools.cached_property
    def keeps_4d(self) -> bool:
        """True when rules judge this node by the 4-D layout although its tensors have another rank."""
        data = list(dict.fromkeys(self.node.data_operands))
        return (
            self.four_d
            and len(data) == 1
            and data[0].type.rank in (1, 2, 3)
            and kept_4d_source(data[0]) is not None
            and not is_constant_product(self.node)
        )

    @functools.cached_property
    def has_rows(self) -> bool:
        """True for a convolution of rows `[N, C, L]`, which the chip computes on images of height 1."""
        weight = self.node.operand("weight") if self.node.op.has(Trait.CONV_LIKE) else None
        return weight is not None and weight.type.rank == 3

    def view_sizes(self, value: Value) -> Sizes | None:
        """The sizes a rule judges, None for unknown ones: rows of a convolution have a height of 1; `[N, L, C]` and `[N, C]` that are
        kept 4-D count as `[N, C, 1, L]`."""
        sizes = value.sizes
        if sizes is not None and self.has_rows and len(sizes) == 3:
            return (*sizes[:2], 1, sizes[2])
        if sizes is None or not self.keeps_4d or value.is_parameter or len(sizes) not in (1, 2, 3):
            return sizes
        padded = (1,) * (3 - len(sizes)) + sizes if len(sizes) < 2 else sizes
        if len(padded) == 2:
            return (padded[0], padded[1], 1, 1)
        return (padded[0], padded[2], 1, padded[1])

    def view(self, value: Value) -> Shape | None:
        """The shape a rule judges, None while any size is unknown."""
        return _complete(self.view_sizes(value))

    @functools.cached_property
    def sizes(self) -> Sizes | None:
        """Sizes of the first operand, None for unknown ones."""
        return self.view_sizes(self.node.operands[0]) if self.node.operands else None

    @functools.cached_property
    def out_sizes(self) -> Sizes | None:
        return self.view_sizes(self.node.results[0])

    @functools.cached_property
    def shape(self) -> Shape | None:
        """Shape of the first operand."""
        return _complete(self.sizes)

    @functools.cached_property
    def out_shape(self) -> Shape | None:
        return _complete(self.out_sizes)

    @functools.cached_property
    def data_sizes(self) -> list[Sizes] | None:
        """Sizes of the operands that are not constants, None when any rank is unknown."""
        found = [self.view_sizes(value) for value in self.node.data_operands]
        return None if any(sizes is None for sizes in found) else [sizes for sizes in found if sizes is not None]

    @functools.cached_property
    def data_shapes(self) -> list[Shape] | None:
        """Shapes of the operands that are not constants, None when any is unknown."""
        shapes = [self.view(value) for value in self.node.data_operands]
        return None if any(shape is None for shape in shapes) else [shape for shape in shapes if shape is not None]

    @functools.cached_property
    def constants(self) -> list[Value]:
        return [value for value in self.node.operands if value.is_parameter]

    @functools.cached_property
    def weight(self) -> Shape | None:
        """Shape of the weight of a multiply-accumulate op; None for other ops."""
        value = self.node.operand("weight") if self.node.op.has(Trait.CONV_LIKE) else None
        return None if value is None else self.view(value) if self.has_rows else value.shape

    def images(self, sizes: Sizes) -> int | None:
        """`sizes[0]` for a model of batch 1."""
        first = sizes[0]
        return first // self.batch if first is not None and first % self.batch == 0 else first

    def ints(self, name: str) -> Sequence[int]:
        value = self.node.attributes[name]
        return (value,) if isinstance(value, int) else tuple(value)

    @functools.cached_property
    def is_tail(self) -> bool:
        """True when nothing but a dequantize reads the results: the node ends the model."""
        return ends_model(self.node)

    @functools.cached_property
    def axes(self) -> tuple[int, ...] | None:
        """The node's axes as non-negative indices; all of them where none are given."""
        if self.sizes is None:
            return None
        rank = len(self.sizes)
        raw = self.ints("axes") if "axes" in self.node.attributes else self.ints("axis")
        return tuple(sorted(axis % rank for axis in raw)) if raw else tuple(range(rank))

    @functools.cached_property
    def divides_by_constant(self) -> bool:
        return divides_by_constant(self.node)

    @functools.cached_property
    def has_zero_constant(self) -> bool:
        return any(value.array is not None and not np.all(value.array) for value in self.constants)


def _complete(sizes: Sizes | None) -> Shape | None:
    known = tuple(size for size in sizes or () if size is not None)
    return None if sizes is None or len(known) < len(sizes) else known


def factorizable(size: int, largest: int = 7) -> bool:
    """True when `size` is a product of numbers from 1 to `largest` (pooling windows that cover an axis exactly)."""
    for factor in (2, 3, 5, 7):
        while factor <= largest and size % factor == 0:
            size //= factor
    return size <= largest
