"""The context step of the support analysis: what a node's neighbours say about where it runs.

Every rule is a function of one node and the current placement that returns the `Reason` to leave the BPU, or None. Rules only
ever take nodes off the BPU, and more nodes on the CPU never make a rule hold its peace, so the order of evaluation does not
matter: a worklist visits a node again whenever a neighbour has left, which is linear in the size of the graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import filterfalse

from hqc.ir import Device, Graph, Node, OpDef, Reason, Support, Trait, Value
from hqc.march.facts import (
    LARGEST_FLATTENED,
    Facts,
    absorbed_flatten,
    is_part_of_product,
    is_scalar,
    kept_4d_source,
    shifted_convolution,
)
from hqc.march.predicates.products import FEATURES
from hqc.march.rules import Checker
from hqc.march.spec import MarchSpec
from hqc.passes.base import PassContext
from hqc.passes.lower_to_integer.acceptance import STANDS_FOR_INFINITY
from hqc.passes.node_facts import is_quantize
from hqc.passes.steps import is_divisible

NHWC = (0, 2, 3, 1)
Rule = Callable[["Placement", Node], "Reason | None"]
Concerns = Callable[[OpDef, MarchSpec], bool]


@dataclass(frozen=True)
class ContextRule:
    """`statement`: the rule in one sentence. `concerns`: whether it can say anything about an op on a march. `through`: whether it looks at
    what is behind an op, too: the readers of readers."""

    statement: str
    concerns: Concerns
    check: Rule
    through: Callable[[OpDef], bool]


RULES: list[ContextRule] = []


def context_rule(concerns: Concerns, *, through: Callable[[OpDef], bool] = lambda op: False) -> Callable[[Rule], Rule]:
    """Register a rule; its docstring is the statement in documentation."""

    def register(rule: Rule) -> Rule:
        RULES.append(ContextRule(" ".join((rule.__doc__ or "").split()), concerns, rule, through))
        return rule

    return register


def _reason(rule: str, actual: str = "", limit: str = "", hint: str = "") -> Reason:
    return Reason(rule, actual, limit, hint, step="context", id="context")


def is_stub(node: Node) -> bool:
    """A QuantStub or DeQuantStub of the user."""
    return node.op.has(Trait.BOUNDARY)


def ends_bpu_run(node: Node) -> bool:
    """True on a partitioned graph when no node on the BPU reads what `node` computes there: it delivers to the CPU or outside."""
    return not any(user.device is Device.BPU for user in node.users)


class Placement:
    """Verdicts so far, in the context of a pipeline run."""

    def __init__(self, graph: Graph, checker: Checker, context: PassContext) -> None:
        self.graph = graph
        self.checker = checker
        self.spec = checker.spec
        self.context = context
        self.support: dict[Node, Support] = {}
        self.outputs = {id(value) for value in graph.outputs}
        self.float_region: dict[Node, str] = {}
        self.beside_infinity: dict[Node, str] = {}
        self._groups: dict[str, list[Node]] = {}
        self._left: dict[str, Node | None] = {}  # of each group the first node that is not on the BPU
        self._rules: dict[OpDef, list[Rule]] = {}
        self._through: dict[OpDef, bool] = {}
        self._done: set[Node] = set()  # nodes that have left the BPU as has all that rules look through them for

    # --- questions -------------------------------------------------------------------------------------------------

    def on_bpu(self, node: Node) -> bool:
        """Accepted so far; a QuantStub counts as BPU, a DeQuantStub as CPU."""
        support = self.support.get(node)
        return support.accepted if support is not None else is_quantize(node)

    def has_bpu_user(self, node: Node) -> bool:
        """True when a node on the BPU reads a result; stubs do not count."""
        for value in node.results:
            for user, _ in value._uses.values():  # in any order: `users` would sort them
                support = self.support.get(user)
                if support is not None and support.accepted:
                    return True
        return False

    def has_computing_user(self, node: Node, *, through_cats: bool) -> bool:
        """True when a node on the BPU that does more than move data reads what becomes of the results there: behind passive ops, and
        with `through_cats` behind cats. Ops that move data never hold each other on the BPU."""
        seen, waiting = {node}, [node]
        while waiting:
            for user in waiting.pop().users:
                support = self.support.get(user)
                if user in seen or support is None or not support.accepted:
                    continue
                cat = user.op.has(Trait.SAME_SCALE)
                if not (cat or user.op.has(Trait.PASSIVE)):
                    return True
                seen.add(user)
                if through_cats or not cat:
                    waiting.append(user)
        return False

    def is_output(self, node: Node) -> bool:
        return any(id(value) in self.outputs for value in node.results)

    def ends_bpu_run(self, node: Node) -> bool:
        return not self.has_bpu_user(node) and (self.is_output(node) or bool(node.users))

    # --- running ---------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Apply all rules until none changes anything."""
        groups: dict[str, list[Node]] = {}
        for node in self.support:
            for name in node.origin:
                groups.setdefault(name, []).append(node)
        self._groups = {
            name: members for name, members in groups.items() if len(members) > 1 and not is_divisible(name, members)
        }
        self._left = {name: next(filterfalse(self.on_bpu, members), None) for name, members in self._groups.items()}
        waiting = deque(self.support)
        queued = set(waiting)
        while waiting:
            node = waiting.popleft()
            queued.discard(node)
            if not self.on_bpu(node) or _is_asked(node):
                continue
            reason = self.reason_to_leave(node)
            if reason is None:
                continue
            self.support[node] = Support(False, (reason,))
            affected = [*self._affected(node)]  # before the node counts as one that has left its operation
            for name in node.origin:
                if name in self._groups:
                    self._left[name] = min(self._left.get(name) or node, node, key=_order)
            for neighbour in (*affected, *self._held_through(node)):
                if neighbour in self.support and neighbour not in queued:
                    waiting.append(neighbour)
                    queued.add(neighbour)

    def _held_through(self, node: Node) -> Iterable[Node]:
        """The nodes in front of `node`, as far as rules about them may ask who is behind what they are read by.

        Where nothing in front of a node is on the BPU any more, nobody asks: such nodes are not looked through again.
        """
        waiting, seen = [node], {node}
        reached: list[Node] = []
        while waiting:
            for producer in waiting.pop().producers:
                if producer in seen or producer in self._done or producer not in self.support:
                    continue
                seen.add(producer)
                reached.append(producer)
                if self._looked_through(producer.op):
                    waiting.append(producer)
        if not any(map(self.on_bpu, reached)):
            self._done |= seen
        return reached

    def _looked_through(self, op: OpDef) -> bool:
        known = self._through.get(op)
        if known is None:
            moves_data = op.has(Trait.PASSIVE) or op.has(Trait.SAME_SCALE)
            known = self._through[op] = moves_data or any(rule.through(op) for rule in RULES)
        return known

    def overridden(self) -> Iterable[tuple[Node, Reason]]:
        """The nodes that only a request keeps on the BPU, with the reasons that they would have to leave it."""
        for node in self.support:
            reason = self.reason_to_leave(node) if _is_asked(node) and self.on_bpu(node) else None
            if reason is not None:
                yield node, reason

    def reason_to_leave(self, node: Node) -> Reason | None:
        rules = self._rules.get(node.op)
        if rules is None:
            rules = self._rules[node.op] = [rule.check for rule in RULES if rule.concerns(node.op, self.spec)]
        for rule in rules:
            reason = rule(self, node)
            if reason is not None:
                return reason
        return None

    def left_part(self, node: Node) -> Node | None:
        """A node on the CPU of the same operation of the model, where that cannot be divided."""
        return next((part for name in node.origin if (part := self._left.get(name)) not in (None, node)), None)

    def _newly_left(self, node: Node) -> list[str]:
        """The operations that `node` is the first to leave: a stack of thousands of tensors has as many nodes, each of which asks."""
        return [name for name in node.origin if name in self._groups and self._left.get(name) is None]

    def _affected(self, node: Node) -> Iterable[Node]:
        yield from node.users
        if node.op.has(Trait.CONV_LIKE):
            yield from _steps_behind(node)
        yield from node.producers
        for name in self._newly_left(node):
            yield from (peer for peer in self._groups[name] if peer is not node)


def _steps_behind(layer: Node) -> Iterable[Node]:
    """The chain of nodes of one user each that starts behind a layer, as far as its steps may belong to the layer."""
    users = layer.users
    while len(users) == 1 and shifted_convolution(users[0]) is layer:
        yield users[0]
        users = users[0].users


def _order(node: Node) -> int:
    return node.order


def _is_asked(node: Node) -> bool:
    return node.request is not None and node.request.device.value == "bpu"


# --- rules, in the order in which they give their reason --------------------------------------------------------------------


@context_rule(lambda op, spec: True)
def outside_the_stubs(placement: Placement, node: Node) -> Reason | None:
    """What the user put before a QuantStub or behind a DeQuantStub is float."""
    where = placement.float_region.get(node)
    if where is None:
        return None
    return _reason("operations before a QuantStub or behind a DeQuantStub are float", where)


@context_rule(lambda op, spec: True)
def masks_in_float(placement: Placement, node: Node) -> Reason | None:
    """What computes a mask that is added to scores, or reads masked scores, is float: at a scale that holds the numbers that stand for
    infinity (from 1e4), everything else rounds to zero."""
    number = placement.beside_infinity.get(node)
    if number is None:
        return None
    return _reason(
        "masks that are added, and what is masked, are float: no int8 scale holds both their numbers and the scores",
        number,
        f"{STANDS_FOR_INFINITY:g}",
        "mask with a value near the range of the scores, such as -50",
    )


@context_rule(lambda op, spec: True)
def one_operation_one_device(placement: Placement, node: Node) -> Reason | None:
    """Nodes that one operation of the model became run on one device, unless it can be written as those nodes."""
    part = placement.left_part(node)
    if part is None:
        return None
    return _reason("parts of one operation of the model run on one device", f"{part.name} is on the CPU")


@context_rule(lambda op, spec: any(op.name in rule.ops for rule in spec.node_rules))
def observed_limits(placement: Placement, node: Node) -> Reason | None:
    """Limits that the op tables lack and real compilations show (see the march's rules)."""
    verdict = placement.checker.observe(node)
    return None if verdict.accepted else verdict.reasons[0]


@context_rule(lambda op, spec: spec.four_d)
def four_d_behind_product(placement: Placement, node: Node) -> Reason | None:
    """Tensors of another rank stay 4-D on the BPU only while the product they come from runs there."""
    shape = node.results[0].shape
    if shape is None or len(shape) > 3 or not Facts(node, four_d=True).keeps_4d:
        return None
    value = node.data_operands[0]
    producer = value.producer
    assert producer is not None and kept_4d_source(value) is not None
    if placement.on_bpu(producer):
        return None
    return _reason(
        f"on {placement.spec.name} tensors of rank {value.type.rank} run on the BPU only behind a product there",
        f"{producer.name} is on the CPU",
    )


@context_rule(lambda op, spec: op.name == "slice" and spec.strided_input_slices_on_cpu)
def focus_slices(placement: Placement, node: Node) -> Reason | None:
    """Strided slices of the model's input (Focus) are the CPU's on marches that hold 4-D tensors only."""
    steps = node.attributes["steps"]
    if not steps or max(steps) == 1:
        return None
    source = _source(node.operands[0])
    if source is None or not source.is_input:
        return None
    return _reason(f"strided slices of the model's input run on the CPU on {placement.spec.name}", f"steps {list(steps)}")


def _source(value: Value) -> Value | None:
    """`value` before a QuantStub and other slices."""
    while value.producer is not None:
        producer = value.producer
        if not (is_quantize(producer) or producer.op.name == "slice"):
            return None
        value = producer.operands[0]
    return value


@context_rule(lambda op, spec: op.has(Trait.PASSIVE))
def passive_follows_producer(placement: Placement, node: Node) -> Reason | None:
    """A passive op stays with its producer; one that reads the model's input or a constant goes to the BPU with users that compute,
    on bayes-e also one behind a CPU node."""
    value = node.operands[0]
    producer = value.producer
    if producer is not None:
        follows_user = placement.spec.passive_follows_user and placement.has_computing_user(node, through_cats=False)
        if placement.on_bpu(producer) or follows_user:
            return None
        return _reason("a passive op stays with its producer", f"{producer.name} is on the CPU")
    if placement.has_computing_user(node, through_cats=True):
        return None
    what = "a constant" if value.is_parameter else "the model's input"
    return _reason(f"a passive op that reads {what} runs on the BPU only for a user there", "no user on the BPU computes")


@context_rule(lambda op, spec: op.has(Trait.SAME_SCALE))
def cat_of_bpu_values(placement: Placement, node: Node) -> Reason | None:
    """A cat runs on the BPU only if every operand comes from the BPU, the model's input or a constant; a request overrides this."""
    on_cpu = [producer.name for producer in node.producers if not placement.on_bpu(producer)]
    if not on_cpu:
        return None
    rule = "every operand of a cat comes from the BPU, the model's input or a constant"
    actual = f"{', '.join(on_cpu)} {'is' if len(on_cpu) == 1 else 'are'} on the CPU"
    return _reason(rule, actual, hint=f'or ask for it with hybrid_dict={{"bpu": {{"node_name": ["{node.name}"]}}}}')


@context_rule(lambda op, spec: spec.four_d and op.name == "reshape")
def absorbed_reshape(placement: Placement, node: Node) -> Reason | None:
    """On marches that hold 4-D tensors only, a flatten runs on the BPU only inside the linear layers behind it."""
    on_cpu = [user.name for user in node.users if not placement.on_bpu(user)]
    if is_part_of_product(node) or not on_cpu:
        return None
    return _reason("a flatten runs on the BPU only inside the linear layers behind it", f"{on_cpu[0]} is on the CPU")


@context_rule(lambda op, spec: spec.four_d and op.has(Trait.SUM))
def scalar_behind_layer(placement: Placement, node: Node) -> Reason | None:
    """On marches that hold 4-D tensors only, a sum with a scalar runs on the BPU only as part of the convolution before it."""
    layer = shifted_convolution(node)
    if layer is None or not any(map(is_scalar, node.operands)) or placement.on_bpu(layer):
        return None
    return _reason(
        "a sum with a scalar runs on the BPU only as part of the convolution before it", f"{layer.name} is on the CPU"
    )


@context_rule(lambda op, spec: spec.four_d and op.name == "linear")
def map_of_features(placement: Placement, node: Node) -> Reason | None:
    """A linear layer of more input features than its row admits needs its flatten on the BPU."""
    producer = node.operands[0].producer
    if producer is None or absorbed_flatten(producer) is None or placement.on_bpu(producer):
        return None
    features = node.operands[0].shape
    if features is None or features[-1] <= FEATURES:
        return None
    return _reason("a linear layer of that many features takes a map from the BPU", f"{features[-1]} features", str(FEATURES))


@context_rule(lambda op, spec: spec.passive_needs_consumer and (op.has(Trait.PASSIVE) or op.has(Trait.SAME_SCALE)))
def passive_without_user(placement: Placement, node: Node) -> Reason | None:
    """In a calibrated model, ops that move data have no scale of their own: without a user on the BPU they are float."""
    if not placement.context.calibrated_only or absorbed_reason(placement, node) is not None or placement.has_bpu_user(node):
        return None
    return _reason(f"ops that only move data need a user on the BPU on {placement.spec.name}", "none of the users is there")


@context_rule(lambda op, spec: op.has(Trait.SUM) and spec.passive_needs_consumer)
def sum_between_cpu_nodes(placement: Placement, node: Node) -> Reason | None:
    """In a calibrated model, an add (a convolution with a summand) between a CPU operand and CPU users is float."""
    if not placement.context.calibrated_only:
        return None
    on_cpu = [producer for producer in node.producers if not placement.on_bpu(producer)]
    if not on_cpu or placement.has_bpu_user(node):
        return None
    return _reason(
        f"an add with an operand from the CPU needs a user on the BPU on {placement.spec.name}",
        f"{on_cpu[0].name} is on the CPU",
    )


@context_rule(lambda op, spec: op.has(Trait.ACTIVATION) or (spec.four_d and op.name == "leaky_relu"))
def tail_activation(placement: Placement, node: Node) -> Reason | None:
    """A convolution that ends a BPU run emits int32 where its result carries no fake quant; its activation is float."""
    if placement.has_bpu_user(node):
        return None
    producer = node.operands[0].producer
    if producer is None or not producer.op.has(Trait.CONV_LIKE) or not placement.on_bpu(producer):
        return None
    alone = len(producer.users) == 1 and not placement.is_output(producer)
    if not alone or not placement.context.leaves_high_precision(node):
        return None
    return tail_reason(producer)


def tail_reason(conv: Node) -> Reason:
    return _reason("the activation of a convolution that ends a BPU run is float", f"{conv.name} emits int32")


@context_rule(lambda op, spec: op.name == "reshape" and spec.final_flatten_on_cpu)
def final_flatten(placement: Placement, node: Node) -> Reason | None:
    """The flatten of `[1,N,1,1]` behind the last convolution is float, after the dequantize, on marches that do so."""
    if not placement.is_output(node) or node.users:
        return None
    value, shape = node.operands[0], node.results[0].shape
    producer = value.producer
    if value.shape is None or shape is None or producer is None or not producer.op.has(Trait.CONV_LIKE):
        return None
    flattens = len(value.shape) == 4 and value.shape[2:] == (1, 1) and shape == value.shape[:2]
    if not flattens or not placement.context.leaves_high_precision(producer):
        return None
    return _reason(f"the final flatten runs on the CPU on {placement.spec.name}", f"{list(value.shape)} to {list(shape)}")


# --- shapes of a graph that the rules and the pass share ---------------------------------------------------------------------


def is_nhwc_head(placement: Placement, node: Node) -> bool:
    """A permute to NHWC of a convolution's result that only the outside reads: the BPU writes that layout anyway."""
    if node.op.name != "transpose" or tuple(node.attributes["perm"]) != NHWC:
        return False
    producer = node.operands[0].producer
    if producer is None or not producer.op.has(Trait.CONV_LIKE):
        return False
    return placement.is_output(node) and all(is_stub(user) for user in node.users)


def absorbed_reason(placement: Placement, node: Node) -> Reason | None:
    """Why a change of layout costs nothing on the BPU, whatever the tables say of the op; None where it does."""
    if is_nhwc_head(placement, node):
        return _reason("a permute to NHWC behind a convolution that ends the model is absorbed into the output's layout")
    if not placement.spec.four_d:
        return None
    if absorbed_flatten(node) is not None:
        return _reason(
            f"a flatten of at most {LARGEST_FLATTENED}x{LARGEST_FLATTENED} is absorbed into the linear layer behind it"
        )
    if is_part_of_product(node):
        return _reason("the change of rank behind a product with a vector belongs to the product")
    return None


def _all_lead(node: Node, leads_to_stub: Mapping[Node, str]) -> bool:
    """True when every user of `node` is a QuantStub or leads to one."""
    for value in node.results:
        for user, _ in value._uses.values():
            if user not in leads_to_stub and not (is_quantize(user) and user.attributes["stub"]):
                return False
    return True


def float_regions(graph: Graph) -> dict[Node, str]:
    """Nodes outside the user's stubs, with the words for it: everything that depends on a DeQuantStub before the next
    QuantStub, and everything between the model's inputs and a QuantStub that nothing else reads."""
    nodes = list(graph.nodes)
    regions: dict[Node, str] = {}
    if not any(is_stub(node) for node in nodes):
        return regions
    outputs = {id(value) for value in graph.outputs}
    for node in nodes:
        if is_stub(node):
            continue
        for value in node.operands:
            producer = value.producer
            if producer is None:
                continue
            behind = producer.op.name == "dequantize" and producer.attributes["stub"]
            if behind or producer in regions:
                regions[node] = f"behind the DeQuantStub {producer.name}" if behind else regions[producer]
                break
    leads_to_stub: dict[Node, str] = {}
    for node in reversed(nodes):
        if is_stub(node) or not _all_lead(node, leads_to_stub) or any(id(value) in outputs for value in node.results):
            continue
        users = node.users
        if users:
            leads_to_stub[node] = users[0].name if is_quantize(users[0]) else leads_to_stub[users[0]]
    from_input: set[Node] = set()
    for node in nodes:
        if node in leads_to_stub and all(producer in from_input for producer in node.producers):
            from_input.add(node)
            regions.setdefault(node, f"before the QuantStub {leads_to_stub[node]}")
    return regions
