"""Which nodes compute or read numbers that stand for infinity: the masks of attention (`(1 - mask) * -1e4`), and what holds them.

Beside such numbers no int8 grid has steps left for anything else, so all this is float. Constants that are added tell by themselves (see
`hqc.passes.lower_to_integer.acceptance`); here it is about masks that are computed at run time, about inputs that are added to what a
softmax takes, and about what is done to masked scores before the softmax makes ordinary numbers of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from hqc.ir import Graph, Node, Trait, Value
from hqc.ir.ops import activation, elementwise, reduction
from hqc.passes.lower_to_integer.acceptance import STANDS_FOR_INFINITY, uniform
from hqc.structures import reached

_SUMS = (elementwise.add, elementwise.sub)
_FACTORS = (elementwise.mul, elementwise.div)
_SOFTMAX = (reduction.softmax, reduction.log_softmax)
_CHOICES = (elementwise.where, elementwise.maximum, elementwise.minimum)
_NO_NUMBER = 1e-30
"""An eps below this is added for the zeros of a mask alone: its logarithm stands for infinity."""
_STEPS = 256
"""A summand below the largest number of the other one divided by this is less than a step of its int8 grid."""


def beside_infinity(graph: Graph) -> dict[Node, str]:
    """The nodes that compute a mask or read a value that holds stand-ins for infinity, with the number, or the input that is a mask. Linear
    in the size of the graph."""
    search = _Search()
    for node in graph.nodes:
        search.visit(node)
    return search.found


class _Search:
    def __init__(self) -> None:
        self.found: dict[Node, str] = {}
        self._holds: dict[Value, float] = {}  # ordinary numbers, and the number that stands for infinity
        self._scaled: dict[Value, float] = {}  # a product with such a number: a mask, if it is added to something

    def visit(self, node: Node) -> None:
        """Note what `node` reads and makes; its producers are noted."""
        if node.op.has(Trait.BOUNDARY):
            return
        held = self._largest(self._holds, node.operands)
        if held:
            self.found.setdefault(node, f"{held:.6g}")
        if not node.results or not node.results[0].type.dtype.is_float:
            return
        if node.op in _SUMS:
            held = max(held, self._added(node), self._adds_an_input(node))
        if held:
            if _keeps(node):
                self._holds[node.results[0]] = held
            return
        if node.op is elementwise.where:
            self._chosen(node)
            return
        scaled = self._scaled_by(node)
        if scaled:
            self._scaled[node.results[0]] = scaled

    @staticmethod
    def _largest(numbers: dict[Value, float], values: Iterable[Value]) -> float:
        return max((numbers.get(value, 0.0) for value in values), default=0.0)

    def _added(self, node: Node) -> float:
        """The number of a mask that is added to something else here; what computes the mask is noted."""
        for mask, other in (node.operands, node.operands[::-1]):
            number = self._scaled.get(mask, 0.0)
            array = other.array
            if not number or other in self._scaled or (array is None and other.is_parameter):
                continue
            if array is not None and not 0 < _magnitude(array) < number / _STEPS:
                continue
            self.found[node] = f"{number:.6g}"
            for part in self._made_of(mask):
                self.found.setdefault(part, f"{number:.6g}")
            return number
        number = max((_mask_constant(value) for value in node.operands), default=0.0)
        return number if len(node.data_operands) == 1 else 0.0

    def _adds_an_input(self, node: Node) -> float:
        """What an input that is added to the scores of a softmax holds: it is a mask, which may be infinite."""
        for mask, other in (node.operands, node.operands[::-1]):
            given = _input_behind(mask)
            if given is None or other.is_parameter or _input_behind(other) is not None or not _leads_to_softmax(node):
                continue
            said = f"the input {given.name} is added"
            self.found[node] = said
            for part in self._made_of(mask):
                self.found.setdefault(part, said)
            return math.inf
        return 0.0

    def _made_of(self, mask: Value) -> Iterable[Node]:
        """What computes a mask, as far back as its elements are moved, selected or computed one by one."""
        if mask.producer is None:
            return ()
        return reached(mask.producer, lambda node: [each for each in node.producers if _is_simple(each)])

    def _chosen(self, node: Node) -> None:
        """`where(condition, -1e9, x)` holds a stand-in for infinity; between two such numbers, or one and 0, it is one as it is."""
        branches = [uniform(value) for value in node.operands[1:]]
        number = max((abs(each) for each in branches if each is not None), default=0.0)
        if number >= STANDS_FOR_INFINITY:
            plain = all(each is not None and (each == 0.0 or abs(each) >= STANDS_FOR_INFINITY) for each in branches)
            (self._scaled if plain else self._holds)[node.results[0]] = number

    def _scaled_by(self, node: Node) -> float:
        """The largest number of a mask that is not added yet, as a product makes it and as it is moved and merged with others."""
        if node.op in _FACTORS:
            numbers = [uniform(value) for value in node.operands if value.is_parameter]
            factor = max((abs(each) for each in numbers if each is not None), default=0.0)
            if node.op is elementwise.mul and factor >= STANDS_FOR_INFINITY and node.data_operands:
                return factor
        if node.op is activation.log:
            return _log_of_mask(node.operands[0])
        moved = self._largest(self._scaled, node.operands)
        return moved if moved and _keeps(node) else 0.0


def _keeps(node: Node) -> bool:
    """True for ops whose result holds what an operand holds."""
    if node.op in (*_SUMS, *_FACTORS, elementwise.where, elementwise.cast, reduction.log_softmax):
        return True
    if node.op in _CHOICES:  # a bound of ordinary size replaces the number
        constants = [value.array for value in node.operands if value.array is not None]
        return not any(0 < _magnitude(array) < STANDS_FOR_INFINITY for array in constants)
    return node.op.has(Trait.LAYOUT_ONLY)


def _log_of_mask(value: Value) -> float:
    """The number that `log(mask + eps)` has where a mask is 0; 0.0 where the logarithm is of something else: any number has another eps."""
    eps = 0.0
    if value.producer is not None and value.producer.op is elementwise.add:
        constants = [each for each in map(uniform, value.producer.operands) if each is not None]
        if len(constants) != 1 or not 0 < constants[0] < _NO_NUMBER:
            return 0.0
        eps = constants[0]
    elif not _is_truth(value):
        return 0.0
    return -math.log(eps) if eps else math.inf


def _is_truth(value: Value) -> bool:
    """True for truth values as reals, which may have been moved: 0 and 1."""
    while value.producer is not None and value.producer.op.has(Trait.LAYOUT_ONLY) and len(value.producer.operands) == 1:
        value = value.producer.operands[0]
    return (
        value.producer is not None
        and value.producer.op is elementwise.cast
        and not value.producer.operands[0].type.dtype.is_float
    )


def _is_simple(node: Node) -> bool:
    return not node.op.has(Trait.BOUNDARY) and any(
        map(node.op.has, (Trait.ELEMENTWISE, Trait.LAYOUT_ONLY, Trait.SELECTS, Trait.INTEGER_RESULT))
    )


def _input_behind(value: Value) -> Value | None:
    """The real input of the model that `value` is, moved at most, or in place of some of its elements a constant (a mask's infinities)."""
    while value.producer is not None:
        node = value.producer
        sources = node.operands
        if node.op is elementwise.where:
            sources = [each for each in node.operands[1:] if not each.is_parameter]
        elif not node.op.has(Trait.LAYOUT_ONLY) and node.op is not activation.log:
            return None
        if len(sources) != 1:
            return None
        value = sources[0]
    return value if value.is_input and value.type.dtype.is_float else None


def _leads_to_softmax(node: Node) -> bool:
    """True where a softmax reads a sum, which is scaled, masked and moved at most."""
    while len(node.results) == 1 and len(node.results[0].users) == 1:
        (node,) = node.results[0].users
        if node.op in _SOFTMAX:
            return True
        scaled = node.op in _FACTORS and len(node.data_operands) == 1
        if not (scaled or node.op.has(Trait.LAYOUT_ONLY) or node.op is elementwise.where):
            return False
    return False


def _mask_constant(value: Value) -> float:
    """The largest number of a constant mask: one that has ordinary numbers (zeros) too."""
    if value.array is None or not value.type.dtype.is_float or value.array.size < 2 or uniform(value) is not None:
        return 0.0
    largest = _magnitude(value.array)
    return largest if largest >= STANDS_FOR_INFINITY else 0.0


def _magnitude(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> float:
    return max(float(array.max(initial=0)), -float(array.min(initial=0)))
