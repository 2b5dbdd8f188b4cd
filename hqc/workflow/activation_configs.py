"""Torch's qconfigs as the data that passes read (`QConfigTable`), and the way back from a key to the qconfig."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx

from hqc.ir import DType, Graph
from hqc.passes.qconfigs import ActivationConfig, QConfigTable
from hqc.quantization.dtypes import IR_DTYPES, dtype_name
from hqc.quantization.factory import Factory
from hqc.quantization.qconfig import QConfig
from hqc.quantization.qconfig_dict import QConfigResolver


@dataclass(frozen=True)
class ActivationConfigs:
    """`table`: for `PassContext.qconfigs`. `qconfigs`: by `ActivationConfig.key`, which observations carry too."""

    table: QConfigTable
    qconfigs: dict[str, QConfig]

    def at(self, fx_node: fx.Node) -> QConfig | None:
        """The qconfig in force at one operation; None when nothing covers it."""
        entry = self.table.member(fx_node.name)
        return None if entry is None else self.qconfigs[entry.key]

    @property
    def without_activation(self) -> frozenset[str]:
        """FX names of operations whose qconfig has no activation entry."""
        entries = self.table.entries.items()
        return frozenset(name for name, entry in entries if entry is not None and entry.activation_dtype is None)


def activation_configs(resolver: QConfigResolver, traced: fx.Graph, graph: Graph) -> ActivationConfigs:
    """The entry in force at each operation of `traced`: a module's own, a function's or method's that of its enclosing module.

    `graph`: the IR that `traced` was lowered to; its locations say which module a function is called in.
    """
    enclosing = {name: node.loc.module for node in graph.nodes for name in node.origin}
    known: list[QConfig] = []
    entries: dict[str, ActivationConfig | None] = {}
    for fx_node in traced.nodes:
        if fx_node.op in ("call_module", "call_function", "call_method"):
            entries[fx_node.name] = _config(resolver, _module_path(fx_node, enclosing), known)
    return ActivationConfigs(QConfigTable(entries), {_key(index): qconfig for index, qconfig in enumerate(known)})


def _module_path(node: fx.Node, enclosing: dict[str, str]) -> str:
    if node.op == "call_module":
        return str(node.target)
    owner = node.args[0] if node.op == "call_method" and node.args else None
    if isinstance(owner, fx.Node) and owner.op == "get_attr":
        return str(owner.target)
    return enclosing.get(node.name, "")


def _key(index: int) -> str:
    return f"qconfig{index}"


def _config(resolver: QConfigResolver, path: str, known: list[QConfig]) -> ActivationConfig | None:
    found = resolver.entry(path)
    if found.qconfig is None:
        return None
    if found.qconfig not in known:
        known.append(found.qconfig)
    activation = found.qconfig.activation
    return ActivationConfig(
        _key(known.index(found.qconfig)),
        found.source,
        found.priority,
        None if activation is None else _dtype(activation),
        DType.INT8 if found.qconfig.weight is None else _dtype(found.qconfig.weight),
        _argument(activation, "ch_axis", -1),
        found.scope,
    )


def _dtype(factory: Any) -> DType:
    return IR_DTYPES[dtype_name(_argument(factory, "dtype", "qint8"))]


def _argument(factory: Any, name: str, default: Any) -> Any:
    """What a factory was given as `name`; one that is not ours is asked through what it makes."""
    if factory is None:
        return default
    if isinstance(factory, Factory):
        return factory.arguments.get(name, default)
    return getattr(factory(), name, default)
