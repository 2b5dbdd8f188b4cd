"""Rules that the op tables lack and public compilation logs show. Each names what shows it.

They belong to the context step and govern hybrid placement only; with `hybrid=False` the torch table has the last word.
"""

from __future__ import annotations

from hqc import arithmetic
from hqc.ir import Trait, all_ops
from hqc.march.bindings import BINDINGS
from hqc.march.facts import Facts
from hqc.march.predicates import HOLDS, UNKNOWN, Outcome, broken, kernel
from hqc.march.rules import NodeRule

_LOGS_X3 = "28 public hb_mapper logs of X3"
_LOGS_J5 = "public hb_mapper logs of J5 (YOLO decode tails)"


def _four_axes(facts: Facts) -> Outcome:
    shape = facts.out_shape
    if shape is None:
        return UNKNOWN
    return HOLDS if len(shape) == 4 else broken(f"rank {len(shape)}", "4")


_INTERNAL = {name for name, binding in BINDINGS.items() if binding.internal}
_ELEMENTWISE = frozenset(
    definition.name for definition in all_ops() if definition.has(Trait.ELEMENTWISE) and definition.name not in _INTERNAL
)

RANK_FOUR = NodeRule(
    "element-wise ops, slices, splits and cats are 4-D (or directly behind a product with constant weights)",
    _ELEMENTWISE | {"slice", "split", "cat"},
    _four_axes,
    _LOGS_X3,
    "rank-four",
)


def _one_runtime_operand(facts: Facts) -> Outcome:
    return HOLDS if len(facts.node.data_operands) < 2 else broken("two runtime operands", "one")


CONSTANT_MATRIX = NodeRule(
    "one operand of a matrix product is constant (it then runs as a convolution)",
    frozenset({"matmul"}),
    _one_runtime_operand,
    _LOGS_X3 + "; contradicts the form 1BMK*11KN of the table, which no log shows on the BPU",
    "constant-matrix",
)


def _five_axes_without_constant(facts: Facts) -> Outcome:
    shape = facts.out_shape
    if shape is None:
        return UNKNOWN
    return broken("5-D with a constant", "4-D with a constant") if len(shape) == 5 and facts.constants else HOLDS


NO_CONSTANT_IN_5D = NodeRule(
    "5-D sums, products and quotients have no constant operand",
    frozenset({"add", "mul", "div"}),
    _five_axes_without_constant,
    _LOGS_J5,
    "no-constant-in-5d",
)


def _constant_of_equal_rank(facts: Facts) -> Outcome:
    shape = facts.shape
    if shape is None:
        return UNKNOWN
    lower = [c.shape for c in facts.constants if c.shape is not None and c.type.size != 1 and len(c.shape) < len(shape)]
    return broken(f"{list(lower[0])} with {list(shape)}", "equal rank") if len(shape) == 3 and lower else HOLDS


EQUAL_RANK_IN_3D = NodeRule(
    "the constant operand of a 3-D product or quotient is a scalar or 3-D",
    frozenset({"mul", "div"}),
    _constant_of_equal_rank,
    _LOGS_J5,
    "equal-rank-in-3d",
)


def _pool_gain(facts: Facts) -> Outcome:
    window = facts.shape[2:] if facts.shape is not None and _is_global(facts) else kernel(facts)
    if window is None or facts.shape is None:
        return UNKNOWN
    if arithmetic.bernoulli_pool_accepts(window[0] * window[1]):
        return HOLDS
    if _is_global(facts) and arithmetic.bernoulli_pool_stages(*window) is not None:
        return HOLDS
    count = window[0] * window[1]
    gain = count * arithmetic.bernoulli_pool_gain(count) / 512
    return broken(f"{window[0]}x{window[1]} gives {gain:.3f}", f"{arithmetic.POOL_ACCEPTANCE}")


def _is_global(facts: Facts) -> bool:
    return facts.shape is not None and tuple(kernel(facts) or ()) == tuple(facts.shape[2:])


POOL_GAIN = NodeRule(
    "an average over n elements has n * int(512 / n) / 512 of at least 0.95, or is made of such pools",
    frozenset({"avg_pool2d", "adaptive_avg_pool2d"}),
    _pool_gain,
    "arithmetic of the average pool on bernoulli, docs/arithmetic.md section 7",
    "pool-gain",
)
