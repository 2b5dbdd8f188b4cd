"""The user's qconfigs as data: which entry is in force at each operation, how strong it is, and what it asks for.

The workflow fills a `QConfigTable` from torch's `qconfig_dict`; passes read it and never see a fake quant's class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hqc.errors import QConfigError
from hqc.ir import DType, Node


@dataclass(frozen=True)
class ActivationConfig:
    """One qconfig entry as it is in force at one operation.

    `key`: under which the workflow finds the factories; equal keys mean equal qconfigs. `source`: the entry as text,
    `module_name "net.layer1"`. `priority`: rises from global over `module_type` and `module_name` to a module's own `qconfig`.
    `activation_dtype`: None for a high-precision output. `ch_axis`: 0 or more where the activation asks for one scale per channel.
    `scope`: path of the module that the entry was found at.
    """

    key: str
    source: str
    priority: int = 0
    activation_dtype: DType | None = DType.INT8
    weight_dtype: DType = DType.INT8
    ch_axis: int = -1
    scope: str = ""


DEFAULT = ActivationConfig("", "the default")
"""What is in force where a graph comes without qconfigs (IR text, an ONNX file): int8 everywhere."""


@dataclass(frozen=True)
class QConfigTable:
    """Entries by the name of the FX node they are in force at; `default` where the table has no line for a name."""

    entries: Mapping[str, ActivationConfig | None] = field(default_factory=dict)
    default: ActivationConfig | None = None

    def member(self, name: str) -> ActivationConfig | None:
        """The entry in force at one FX node; None when nothing covers it."""
        return self.entries.get(name, self.default)

    def members(self, node: Node) -> dict[str, ActivationConfig]:
        """The entries of the FX nodes that `node` stands for, in program order; those that nothing covers are left out."""
        found = {name: self.member(name) for name in node.origin or (node.name,)}
        return {name: config for name, config in found.items() if config is not None}

    def of(self, node: Node, *, ends_segment: bool = True) -> ActivationConfig | None:
        """The entry that decides about the activation of `node`; None when nothing covers it.

        Of a fused group the entry with the highest priority decides, of equal ones the one found deeper in the module tree. Where
        the group does not end a BPU segment, one without an activation counts only if the last member has none either.
        `QConfigError` names two entries of equal priority that differ.
        """
        members = self.members(node)
        if not ends_segment and members and list(members.values())[-1].activation_dtype is not None:
            members = {name: config for name, config in members.items() if config.activation_dtype is not None}
        chosen: tuple[str, ActivationConfig] | None = None
        for name, config in members.items():
            if chosen is None or _stronger(config, chosen[1]):
                chosen = name, config
        if chosen is None:
            return None
        for name, config in members.items():
            if not _stronger(chosen[1], config) and config.key != chosen[1].key:
                raise QConfigError(
                    f"{node.label} is one operation made of {', '.join(members)}, and their qconfigs are of equal rank and differ: "
                    f"{chosen[1].source} for {chosen[0]}, {config.source} for {name}; give both the same one"
                )
        return chosen[1]

    def of_weight(self, node: Node) -> ActivationConfig | None:
        """The entry that decides about the weight: the convolution's, which is the first member of a group."""
        return next(iter(self.members(node).values()), None)


DEFAULT_TABLE = QConfigTable(default=DEFAULT)


def _stronger(a: ActivationConfig, b: ActivationConfig) -> bool:
    if a.priority != b.priority:
        return a.priority > b.priority
    return a.scope != b.scope and (not b.scope or a.scope.startswith(f"{b.scope}."))
