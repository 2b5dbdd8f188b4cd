"""Who is observed in training, in which dtype, and who shares a scale: the last decisions before a model is emitted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

from hqc.errors import QConfigError
from hqc.ir import DType, Graph, Node, Observation, Trait, Value
from hqc.march.rules import Checker
from hqc.passes.base import Pass, PassContext, PassResult
from hqc.passes.node_facts import is_quantize, is_real, on_bpu
from hqc.passes.qconfigs import DEFAULT_TABLE, ActivationConfig
from hqc.passes.registry import register_pass
from hqc.passes.scale_groups import shared_scale_groups
from hqc.structures import reached


@register_pass
@dataclass(frozen=True)
class PlaceObservers(Pass):
    """Put an `Observation` on every value that training must observe: results of `quantize` and BPU results that make a scale.

    The dtype is that of the qconfig in force (or of the request), checked against the rows of the march's table for the operation
    that makes the value and those that read it; sampling positions that enter the BPU are int16 unless an entry of their own says
    otherwise. A conv-like result without an observation leaves at high precision (int32): it
    ends a BPU segment, and its qconfig has no activation entry, or the model is only calibrated. Where one operation of the model
    is several nodes, the last one that keeps the scale is observed. With `share`, and always in a model that is only calibrated,
    the observed values that a cat ties to one scale form a group whose scale comes from the union of their ranges.
    """

    name: ClassVar[str] = "place-observers"
    requires: ClassVar[str] = "bounded"
    establishes: ClassVar[str] = "bounded"
    share: bool = field(
        default=False, metadata={"help": "values that a cat ties to one scale are observed as one group (optimize_graph)"}
    )

    def run(self, graph: Graph, context: PassContext) -> PassResult:
        before = {name: value.observation for name, value in graph.values.items()}
        placer = _Placer(graph, context)
        placer.run()
        if self.share or context.calibrated_only:
            placer.form_groups()
        placer.check_dtypes()
        changed = False
        for name, value in graph.values.items():
            new, old = placer.observations.get(value), before[name]
            if new is not None and old is not None:  # the rounding is another pass's decision
                new = replace(new, rounding=old.rounding)
            if old is None or old.policy != "operand":
                changed |= new != old
                value.observation = new
        return PassResult(changed)


def _samples_at(node: Node, index: int) -> bool:
    return node.op.has(Trait.SAMPLES) and index == node.op.operand_index("grid")


class _Placer:
    def __init__(self, graph: Graph, context: PassContext) -> None:
        self.graph, self.context, self.march = graph, context, context.march
        self.qconfigs = context.qconfigs or DEFAULT_TABLE
        self.observations: dict[Value, Observation] = {}
        self.sources: dict[Value, ActivationConfig] = {}

    def run(self) -> None:
        for node in self.graph.nodes:
            if is_quantize(node):
                self.observe_quantize(node)
            elif on_bpu(node) and self.march.makes_scale(node):
                for value in node.results:
                    if is_real(value):
                        self.observe_result(node, value)

    # --- one value ---------------------------------------------------------------------------------------------------

    def observe_quantize(self, node: Node) -> None:
        """A user's stub has a qconfig of its own, a boundary that of what it quantizes; of a graph input, that of its reader."""
        source = node.operands[0].producer
        asked = node if node.origin else source or next(iter(node.users), node)
        config = self.config(asked, "feeds the BPU")
        self.observe(asked, node.result, config, self.dtype_of_positions(node.result, config))

    def dtype_of_positions(self, value: Value, config: ActivationConfig) -> DType | None:
        """int16 for what is read as sampling positions alone, where the march has it and no entry but the global one says otherwise:
        8 bits are not enough to tell pixels apart."""
        wide = DType.INT16 in self.march.activation_dtypes
        return DType.INT16 if wide and config.priority == 0 and self.holds_positions(value) else None

    def holds_positions(self, value: Value) -> bool:
        """True where all that reads `value`, also behind nodes that keep its scale, reads positions in it."""
        for read in reached(value, lambda value: [result for user in self.other_readers(value) for result in user.results]):
            if not read.uses or self.graph.is_output(read):
                return False
            if not all(on_bpu(user) and self.march.keeps_scale(user) for user in self.other_readers(read)):
                return False
            if any(index > 0 for user, index in read.uses if not _samples_at(user, index)):
                return False
        return True

    def other_readers(self, value: Value) -> list[Node]:
        """Those that do not sample at the positions in `value`."""
        return [user for user, index in value.uses if not _samples_at(user, index)]

    def observe_result(self, node: Node, value: Value) -> None:
        ends = not any(on_bpu(user) for user in node.users)
        conv = node.op.has(Trait.CONV_LIKE)
        if conv and ends and self.context.calibrated_only and node.attributes["activation"] in ("none", "relu"):
            return
        config = self.config(node, "runs on the BPU", ends_segment=ends and conv)
        if conv and ends and config.activation_dtype is None:
            if node.attributes["activation"] not in ("none", "relu"):
                raise QConfigError(
                    f"{_called(node)}: {node.attributes['activation']} fused into a layer has no high-precision (int32) output "
                    f"({config.source}); give the layer an activation qconfig, or place it on the CPU with hybrid_dict"
                )
            return
        if conv and config.activation_dtype is None:
            reader = next(user for user in node.users if on_bpu(user))
            raise QConfigError(
                f"{_called(node)} has a qconfig without activation (high-precision int32 output, {config.source}), but {reader.label} "
                "reads its result on the BPU; a high-precision output must end its BPU segment"
            )
        self.observe(node, self.carrier(value), config, node.request.dtype if node.request is not None else None)

    def carrier(self, value: Value) -> Value:
        """`value`, or what the rest of the same operation makes of it at its scale (the sum inside an `add_relu`)."""
        while len(value.users) == 1 and not self.graph.is_output(value):
            (user,), producer = value.users, value.producer
            assert producer is not None
            if not (on_bpu(user) and user.origin and user.origin == producer.origin and self.march.keeps_scale(user)):
                break
            if len(user.results) != 1 or self.march.leaves_grid(user):
                break
            value = user.result
        return value

    def config(self, node: Node, what: str, *, ends_segment: bool = False) -> ActivationConfig:
        config = self.qconfigs.of(node, ends_segment=ends_segment)
        if config is None:
            raise QConfigError(
                f'{_called(node)} {what} and has no qconfig; give one in qconfig_dict (a global one under the key "") or place the '
                "operation on the CPU with hybrid_dict"
            )
        return config

    def observe(self, node: Node, value: Value, config: ActivationConfig, asked: DType | None) -> None:
        if config.activation_dtype is None:
            raise QConfigError(
                f"{_called(node)} needs a fake quant, and its qconfig has no activation entry (high-precision output, {config.source}); "
                "only a convolution or linear layer that ends a BPU segment may go without"
            )
        if config.ch_axis >= 0:
            raise QConfigError(
                f"{_called(node)} asks for scales per channel of its activation ({config.source}, ch_axis={config.ch_axis}); the BPU's "
                "activations have one scale per tensor"
            )
        dtype = asked or config.activation_dtype
        if dtype not in self.march.activation_dtypes:
            known = ", ".join(f"q{dtype.numpy.name}" for dtype in self.march.activation_dtypes)
            raise QConfigError(
                f"{_called(node)} asks for q{dtype.numpy.name} ({config.source}), which {self.march.name} does not have; it has {known}"
            )
        self.observations[value] = Observation(dtype, source=config.source, qconfig=config.key)
        self.sources[value] = config

    # --- groups ------------------------------------------------------------------------------------------------------

    def form_groups(self) -> None:
        for group in shared_scale_groups(self.graph, self.march):
            members = [value for value in group.values if value in self.observations]
            for value in members if len(members) > 1 else ():
                self.observations[value] = replace(self.observations[value], group=members[0].name)

    # --- dtypes ------------------------------------------------------------------------------------------------------

    def check_dtypes(self) -> None:
        """`QConfigError` lists every operation whose row in the march's table lacks a dtype that the qconfigs give it."""
        if len(self.march.activation_dtypes) < 2:
            return
        checker = Checker(self.march, hybrid=self.context.hybrid)
        dtypes = dict(self.given_dtypes())
        wrong = []
        for node in self.graph.nodes:
            if not on_bpu(node):
                continue
            for value, role in _roles(node).items():
                dtype, source = dtypes.get(value, (None, ""))
                if dtype is None:
                    continue
                allowed = checker.dtypes(node, role)
                if dtype not in allowed:
                    have = " and ".join(f"q{each.numpy.name}" for each in sorted(allowed, key=lambda each: each.bits))
                    verb = "makes" if value.producer is node else "reads"
                    wrong.append(
                        f"{node.label} {verb} {value.name} as q{dtype.numpy.name} ({source}), {node.op.name} has {have}"
                    )
                    break
        if wrong:
            more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
            raise QConfigError(
                f"{self.march.name} cannot run what the qconfigs ask for: {'; '.join(wrong[:5])}{more}; give these values another "
                "dtype in qconfig_dict, or place the operations on the CPU with hybrid_dict"
            )

    def given_dtypes(self) -> Iterator[tuple[Value, tuple[DType, str]]]:
        """Every real value on the BPU with the dtype it will have and the entry that asked for it."""
        known: dict[Value, tuple[DType, str]] = {}
        for node in self.graph.nodes:
            for value in node.results:
                seen = self.observations.get(value)
                if seen is not None:
                    known[value] = seen.dtype, seen.source
                elif on_bpu(node) and self.march.keeps_scale(node) and node.inputs[0] in known:
                    known[value] = known[node.inputs[0]]
                if value in known:
                    yield value, known[value]


def _roles(node: Node) -> dict[Value, str]:
    """The values that a node reads as data and makes, by the operand that each is; a result counts as the first operand."""
    roles: dict[Value, str] = {}
    operands = node.op.operands
    for index, value in enumerate(node.inputs):
        if value is not None and not value.is_parameter:
            roles.setdefault(value, operands[min(index, len(operands) - 1)].name)
    first = operands[0].name if operands else ""
    return roles | dict.fromkeys(node.results, first)


def _called(node: Node) -> str:
    """What the user calls a node: all members of a fused one."""
    if len(node.origin) < 2:
        return node.label
    locations = {} if node.graph is None else node.graph.locations
    labels = [(locations[name].label if name in locations else "") or name for name in node.origin]
    return f"{', '.join(labels)} [{node.loc}]"
