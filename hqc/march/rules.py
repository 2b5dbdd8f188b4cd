"""Support rules: rows of the op tables turned into statements that answer with numbers, and the verdict on one node.

A `Rule` is a sentence and a predicate. The sentence is what documentation prints, what a refusal quotes, and what an answer
without shapes is conditional on ("accepted if ...").
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from hqc.ir import DType, Graph, Node, Reason, Support, Trait, Value, all_ops
from hqc.march.bindings import BINDINGS, Binding
from hqc.march.facts import (
    Facts,
    absorbed_flatten,
    divides_by_constant,
    ends_model,
    graph_batch,
    is_constant_product,
    shifted_convolution,
)
from hqc.march.predicates import (
    CONDITIONS,
    HOLDS,
    MEASURES,
    NOTES,
    UNKNOWN,
    Condition,
    Numbers,
    Outcome,
    State,
    broken,
    named_axes,
    product_forms,
)
from hqc.march.table import Limit, MarchRows, Row, Table

if TYPE_CHECKING:
    from hqc.march.spec import MarchSpec

_PAIRED = ("kernel", "stride", "dilation", "output padding")  # quantities written 3x3

_ADVICE = {"CHW", "aligned_CHW"}
"""Limits that the compiler only remarks on (see contradictions.py): look-up tables on larger tensors may run on the CPU at run time."""
ADVISED = "advice-"
"""How the ids of reasons begin that say what an accepted node had better keep to."""


@dataclass(frozen=True)
class Rule:
    """A statement about a node and the predicate that decides it. `id`: what it is about, for code. `advice`: a node that breaks the
    rule runs on the BPU all the same, with a remark."""

    statement: str
    check: Condition
    id: str = ""
    advice: bool = False


@dataclass(frozen=True)
class Entry:
    """A row of a table with its limits as rules."""

    row: Row
    rules: tuple[Rule, ...]


@dataclass(frozen=True)
class NodeRule:
    """A rule that no table has and that real compilations show: part of the context step, judged on one node.

    `ops`: names of the ops it is about. `source`: what shows the rule. `id`: its name, for code.
    """

    statement: str
    ops: frozenset[str]
    check: Condition
    source: str
    id: str


@dataclass(frozen=True)
class OpRules:
    """All that a march says about one IR op."""

    op: str
    binding: Binding
    onnx: Mapping[str, Entry] = field(default_factory=dict)
    torch: Mapping[str, Entry] = field(default_factory=dict)

    def entries(self, facts: Facts, *, hybrid: bool) -> list[Entry]:
        """The rows that decide: the ONNX table's with `hybrid`, the torch table's without it or where the other has none."""
        if hybrid and self.binding.onnx:
            return [self.onnx[name] for name in self.binding.onnx_names(facts) if name in self.onnx]
        return [self.torch[name] for name in self.binding.torch_names(facts) if name in self.torch]

    def all_entries(self, *, hybrid: bool = True) -> list[Entry]:
        """Every row that may decide, for documentation."""
        return list((self.onnx if hybrid and self.binding.onnx else self.torch).values())


# --- rows to rules -------------------------------------------------------------------------------------------------------


def _wording(limit: Limit) -> str:
    if limit.words:
        return limit.words
    values = limit.choices or (limit.equals if isinstance(limit.equals, tuple) else (limit.equals,))
    return ",".join(map(str, values))


def _text(label: str, numbers: Numbers) -> str:
    return ("x" if label in _PAIRED else ", ").join(map(str, numbers))


def _number_rule(limit: Limit, op: str) -> Rule:
    """A bound on measured numbers."""
    own = f"{op}.{limit.key}"  # where the same words mean other numbers for one op
    label, measured = MEASURES[own if own in MEASURES else limit.key]
    low, high = limit.minimum, limit.maximum
    twice = label in _PAIRED

    def show(number: Any) -> str:
        return f"{number}x{number}" if twice else str(number)

    if limit.choices:
        text = " or ".join(map(show, limit.choices))
        statement, bound = f"{label} {text}", text
    elif limit.equals is not None:
        statement, bound = f"{label} {show(limit.equals)}", show(limit.equals)
    elif low is not None and low > 1:
        statement, bound = f"{label} from {show(low)} to {show(high)}", f"{show(low)} to {show(high)}"
    else:
        statement, bound = f"{label} at most {show(high)}", show(high)

    def allowed(number: Any) -> bool:
        if limit.choices:
            return number in limit.choices
        if limit.equals is not None:
            return bool(number == limit.equals)
        return (low is None or number >= low) and (high is None or number <= high)

    def check(facts: Facts) -> Outcome:
        numbers = measured(facts)
        if numbers is None:
            return UNKNOWN
        wrong = tuple(number for number in numbers if number is not None and not allowed(number))
        if not wrong:
            return UNKNOWN if None in numbers else HOLDS
        return broken(_text(label, numbers if twice else wrong), bound)

    return Rule(statement, check)


def _limit_rule(limit: Limit, op: str) -> Rule:
    """The rule of one limit in the row of `op`; its id is the limit's key."""
    rule = replace(_worded_rule(limit, op), id=limit.key)
    if limit.key not in _ADVICE:
        return rule
    return replace(
        rule,
        statement=f"{rule.statement} (larger ones may run on the CPU at run time)",
        id=f"{ADVISED}{limit.key}",
        advice=True,
    )


def _worded_rule(limit: Limit, op: str) -> Rule:
    words = _wording(limit)
    if limit.key in ("fm_x_weight", "weight_x_fm", "fm_x_fm"):
        what = {"fm_x_weight": "data by weight", "weight_x_fm": "weight by data", "fm_x_fm": "data by data"}[limit.key]
        return Rule(f"{what} of the form {words.replace(',', ', ')}", product_forms(words, limit.key))
    if limit.key == "dims" and not limit.words:
        return Rule(f"over axes among {words}", named_axes(words))
    if (limit.key, words) in CONDITIONS:
        return Rule(*CONDITIONS[limit.key, words])
    return _number_rule(limit, op)


def _entry(row: Row, rows: MarchRows) -> Entry:
    limits = row.limits
    if row.table == "torch" and row.note == "limits: see onnx table":
        onnx = rows.find("onnx", "Conv")
        limits = onnx.limits if onnx is not None else ()
    rules = {
        rule.statement: rule for rule in (_limit_rule(limit, row.op) for limit in limits)
    }  # kernel_h and kernel_w are one statement
    if row.note in NOTES:
        rules[row.note] = Rule(*NOTES[row.note], id="note")
    rules |= {rule.statement: rule for rule in (_limit_rule(limit, row.op) for limit in _limits_of_parts(row, rows))}
    return Entry(row, tuple(rules.values()))


def _limits_of_parts(row: Row, rows: MarchRows) -> tuple[Limit, ...]:
    """Limits of the table that a composed function (SiLU) looks its result up in: those of the ONNX ops that it consists of."""
    part = rows.find("onnx", _LOOKED_UP[row.op]) if row.op in _LOOKED_UP else None
    return tuple(limit for limit in part.limits if limit.key in _ADVICE) if part is not None else ()


_LOOKED_UP = {"torch.nn.SiLU": "Sigmoid"}
"""Rows of functions that are looked up in the table of another row's op."""


def build_rules(march: str, *, assumed_from: str = "") -> Mapping[str, OpRules]:
    """The rules of a march for every op of the IR, by op name; read from the tables when first asked for.

    `assumed_from`: the march whose rows count for one that has no table of its own.
    """
    return _Lazy(MarchRows(march, assumed_from))


class _Lazy(Mapping[str, OpRules]):
    """Rules by op name, built on first access: most programs ask about few ops of one march."""

    def __init__(self, rows: MarchRows) -> None:
        self._rows = rows
        self._built: dict[str, OpRules] = {}

    def __getitem__(self, op: str) -> OpRules:
        if op not in self._built:
            self._built[op] = self._build(op, BINDINGS[op])
        return self._built[op]

    def _build(self, op: str, binding: Binding) -> OpRules:
        def entries(table: Table, names: tuple[str, ...]) -> dict[str, Entry]:
            rows = {name: self._rows.find(table, name) for name in names}
            return {name: _entry(row, self._rows) for name, row in rows.items() if row is not None}

        return OpRules(op, binding, entries("onnx", binding.onnx), entries("torch", binding.torch))

    def __iter__(self) -> Iterator[str]:
        return (definition.name for definition in all_ops() if definition.name in BINDINGS)

    def __len__(self) -> int:
        return sum(1 for _ in iter(self))


# --- rules that hold on every march ----------------------------------------------------------------------------------------


def _real_operands(facts: Facts) -> Outcome:
    # The BPU's tensors are quantized reals; indices of a gather and the condition of a where are the exceptions.
    index = {"gather": 1, "where": 0}.get(facts.node.op.name)
    for position, value in enumerate(facts.node.inputs):
        if value is not None and position != index and not value.type.dtype.is_float and not value.is_parameter:
            return broken(f"{value.name} is {value.type.dtype.value}", "float")
    return HOLDS


def _single_precision(facts: Facts) -> Outcome:
    # What was quantized comes back as float32: steps that the user computes in float64 (`x.double()`) stay in it.
    for value in facts.node.operands:
        if _is_other_float(value) and not value.is_parameter:
            return broken(f"{value.name} is {value.type.dtype.value}", "f32")
    other = next(filter(_is_other_float, facts.node.results), None)
    return HOLDS if other is None else broken(f"the result is {other.type.dtype.value}", "f32")


def _is_other_float(value: Value) -> bool:
    return value.type.dtype.is_float and value.type.dtype is not DType.FLOAT32


_CONSTANTS = ("weight", "bias", "mean", "var")


def _constant_weights(facts: Facts) -> Outcome:
    node = facts.node
    for operand, value in zip(node.op.operands, node.inputs, strict=False):
        if operand.name in _CONSTANTS and value is not None and not value.is_parameter:
            return broken(f"{value.name} is computed")
    return HOLDS


def _uniform_windows(facts: Facts) -> Outcome:
    sizes = facts.node.attributes.get("output_size")
    if sizes is None or tuple(sizes) == (1, 1):
        return HOLDS
    if facts.shape is None:
        return UNKNOWN
    height, width = facts.shape[2:4]
    if height % sizes[0] == 0 and width % sizes[1] == 0:
        return HOLDS
    return broken(f"{height}x{width} to {sizes[0]}x{sizes[1]}")


EVERYWHERE = (
    Rule("operands are real numbers", _real_operands, "real-operands"),
    Rule("numbers are float32", _single_precision, "float32"),
    Rule("weight and bias are constants", _constant_weights, "constant-weights"),
    Rule("the input size is a multiple of the output size, so that all windows are alike", _uniform_windows, "equal-windows"),
)


# --- the verdict -----------------------------------------------------------------------------------------------------------


class Checker:
    """Answers for one march, remembered by everything a rule may look at: a graph of 40,000 nodes has few kinds of nodes.

    `hybrid`: which table decides, see `OpRules.entries`.
    """

    def __init__(self, spec: MarchSpec, *, hybrid: bool = True, hints: bool = True) -> None:
        self.spec = spec
        self.hybrid = hybrid
        self._hints = hints
        self._known: dict[tuple[Any, ...], Support] = {}
        self._able: dict[tuple[Any, ...], str] = {}
        self._others: list[Checker] | None = None
        self._batch: tuple[Graph | None, int] = (None, 1)

    def check(self, node: Node) -> Support:
        """Capability: accepted (perhaps on conditions), or every rule that is broken."""
        key = self._key(node)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._judge(node, Facts(node, four_d=self.spec.four_d))
        return found

    def _key(self, node: Node) -> tuple[Any, ...]:
        """Everything that a rule may look at, in types that hash fast."""
        operands = tuple(map(_operand_key, node.inputs))
        results = tuple((value.type.dtype._value_, value.type.sizes) for value in node.results)
        if node.graph is not self._batch[0]:
            self._batch = (node.graph, graph_batch(node.graph))
        batch = self._batch[1]
        zero = keeps_4d = quotient = shifts = False
        if node.op.has(Trait.ELEMENTWISE) and any(operand is not None and operand[2] for operand in operands):
            zero, quotient = Facts(node).has_zero_constant, divides_by_constant(node)
            shifts = shifted_convolution(node) is not None
        flattened = absorbed_flatten(node.operands[0].producer) if is_constant_product(node) else None
        if self.spec.four_d and (results[0][1] is None or len(results[0][1]) != 4):
            keeps_4d = Facts(node, four_d=True).keeps_4d
        return (
            node.op, tuple(node.attributes.values()), operands, results, batch,
            ends_model(node), keeps_4d, zero, quotient, shifts, flattened, node.request,
        )  # fmt: skip

    def _judge(self, node: Node, facts: Facts) -> Support:
        rules = self.spec.rules[node.op.name]
        if rules.binding.internal and not (rules.binding.torch and not self.hybrid):
            return Support(True)
        if rules.binding.never:
            return Support(False, (self._refusal(Reason(rules.binding.never, id="never"), node),))
        entries = rules.entries(facts, hybrid=self.hybrid)
        if not entries:
            return Support(False, (self._refusal(Reason(self._no_row(node), id="no-row"), node),))
        refused: list[Reason] = []
        conditions: list[Reason] = []
        for entry in entries:
            self._judge_entry(entry, node, facts, refused, conditions)
        if refused:
            return Support(False, tuple(self._refusal(reason, node) for reason in dict.fromkeys(refused)))
        return Support(True, tuple(dict.fromkeys(conditions)))

    def _judge_entry(self, entry: Entry, node: Node, facts: Facts, refused: list[Reason], conditions: list[Reason]) -> None:
        row, asked = entry.row, node.request is not None and node.request.device.value == "bpu"
        assumed = f", assumed from {row.assumed}" if row.assumed else ""
        on = f" on {self.spec.name}"
        if not row.on_bpu:
            refused.append(Reason(f"{_spelling(node, row)} runs on the CPU{on} ({row.table} table{assumed})", id="cpu-row"))
            return
        before = len(refused)
        self._judge_dtype(row, node, refused)
        for rule in (*entry.rules, *EVERYWHERE):
            outcome = rule.check(facts)
            if outcome.state is State.BROKEN:
                said = conditions if rule.advice else refused
                said.append(Reason(f"{rule.statement}{on}{assumed}", outcome.actual, outcome.limit, id=rule.id))
            elif outcome.state is State.UNKNOWN and not rule.advice:
                conditions.append(Reason(rule.statement, id=rule.id, condition=True))
        if row.device == "BPU_OPT_IN" and not asked:
            # Asking alone does not help where a limit is broken too: say both at once.
            first = "then " if len(refused) > before else ""
            hint = f'{first}ask for it with hybrid_dict={{"bpu": {{"op": ["{node.op.name}"]}}}}'
            refused.insert(
                before, Reason(f"{_spelling(node, row)} runs on the BPU{on} only on request", hint=hint, id="on-request")
            )
        if row.device == "BPU_FUSED":
            conditions.append(
                Reason("runs fused into the convolution before it, else as an inserted unit convolution", id="fused-row")
            )

    def _judge_dtype(self, row: Row, node: Node, refused: list[Reason]) -> None:
        wanted = node.request.dtype if node.request is not None and node.request.dtype is not None else DType.INT8
        allowed = self.dtypes(node)
        if wanted in allowed:
            return
        have = " and ".join(sorted(dtype.value for dtype in allowed)) or "none"
        refused.append(Reason(f"activations of {have} on {self.spec.name}", wanted.value, have, id="dtype"))

    def dtypes(self, node: Node, operand: str = "") -> frozenset[DType]:
        """Activation dtypes that the march can give an operand of the node, by its name (the first one by default, and so a result):
        those of either table, within the march's own."""
        rules, facts = self.spec.rules[node.op.name], Facts(node, four_d=self.spec.four_d)
        deciding = rules.entries(facts, hybrid=self.hybrid)
        rows = [entry.row for entry in deciding] + [entry.row for entry in rules.torch.values() if self.hybrid]
        text = " ".join(filter(None, (row.dtypes_of(operand) for row in rows)))  # `int8`, `qint8|qint16`, `any`, or nothing
        if not text or "any" in text:
            return frozenset(self.spec.activation_dtypes)
        return frozenset(dtype for dtype in self.spec.activation_dtypes if dtype.name.lower() in text)

    def _no_row(self, node: Node) -> str:
        table = "torch" if not self.hybrid else "op"
        return f"{node.op.name} is not in {self.spec.name}'s {table} table"

    def runs(self, node: Node) -> bool:
        """True when the node is within the tables and, with `hybrid`, within what compilations show beyond them."""
        return self.check(node).accepted and (not self.hybrid or self.observe(node).accepted)

    def observe(self, node: Node) -> Support:
        """The march's rules about single nodes that no table has: refused with the first that is broken, else accepted,
        perhaps on conditions."""
        rules = [rule for rule in self.spec.node_rules if node.op.name in rule.ops]
        if not rules:
            return Support(True)
        facts = Facts(node, four_d=self.spec.four_d)
        conditions = []
        for rule in rules:
            outcome = rule.check(facts)
            if outcome.state is State.BROKEN:
                reason = Reason(f"{rule.statement} on {self.spec.name}", outcome.actual, outcome.limit, "", "context", rule.id)
                return Support(False, (self._refusal(reason, node),))
            if outcome.state is State.UNKNOWN:
                conditions.append(Reason(rule.statement, step="context", id=rule.id, condition=True))
        return Support(True, tuple(conditions))

    def _refusal(self, reason: Reason, node: Node) -> Reason:
        """`reason` with the hint that other marches run the node."""
        if not self._hints or reason.hint:
            return reason
        if self._others is None:
            from hqc.march.state import all_specs

            others = (spec for spec in all_specs() if spec.name != self.spec.name)
            self._others = [Checker(spec, hybrid=self.hybrid, hints=False) for spec in others]
        key = self._key(node)
        if key not in self._able:
            self._able[key] = able_text([checker.spec.name for checker in self._others if checker.runs(node)])
        return replace(reason, hint=self._able[key])


def _operand_key(value: Value | None) -> tuple[Any, ...] | None:
    if value is None:
        return None
    named = value.name if value.type.dtype is not DType.FLOAT32 else ""  # a reason says which operand it is
    return (value.type.dtype._value_, value.type.sizes, value.array is not None, named)


def able_text(marches: list[str]) -> str:
    """`bayes runs it`, `bayes and bayes-e run it`, or nothing."""
    if not marches:
        return ""
    listed = marches[0] if len(marches) == 1 else f"{', '.join(marches[:-1])} and {marches[-1]}"
    return f"{listed} {'runs' if len(marches) == 1 else 'run'} it"


def _spelling(node: Node, row: Row) -> str:
    """The op as the table writes it, and the IR's name where that differs."""
    name = row.op.rpartition(".")[2]
    return name if name.lower().replace("_", "") == node.op.name.replace("_", "") else f"{node.op.name} ({name})"


def check_node(spec: MarchSpec, node: Node, *, hybrid: bool = True) -> Support:
    """Capability of `spec` for one node; see `Checker.check`."""
    return Checker(spec, hybrid=hybrid).check(node)
