"""The user's placement wishes: what a `hybrid_dict` says, as a list of `Override`.

    hybrid_dict = {
        "module_name": ["stage1.conv", "re:head\\\\..*"],        # run on the CPU, by module path
        "module_type": [nn.PReLU, "mymodel.blocks.Attention"],  # ... by class, the enclosing modules' classes included
        "node_name": ["add_2"],                                 # ... by the name of a traced node, or of an ONNX node or tensor
        "op": ["softmax"],                                      # ... by op
        "bpu": {"op": ["softmax"], "module_name": [("attn.score", "int16")]},  # ask for the BPU
    }

The first two keys are the reference's; their entries place on the CPU, and so do `node_name`, `op` and everything under
`"cpu"`. Entries under `"bpu"` ask for the BPU for ops that run there only on request; an entry may be a pair with an activation
dtype. A name matches whole dotted components, and everything inside the module it names; `re:` starts a regular expression
that must match the whole name of the module, one of its ancestors, or the node.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hqc.errors import OverrideError
from hqc.ir import Device, DType, Node

Kind = Literal["op", "module_type", "module_name", "node_name"]
KINDS: tuple[Kind, ...] = ("op", "module_type", "module_name", "node_name")
"""From the weakest to the strongest: where several entries match a node, the last kind here wins."""

_DEVICES = {"cpu": Device.CPU, "bpu": Device.BPU}
_DTYPES = {
    "int8": DType.INT8,
    "qint8": DType.INT8,
    "i8": DType.INT8,
    "int16": DType.INT16,
    "qint16": DType.INT16,
    "i16": DType.INT16,
}
_REGEX = "re:"


@dataclass(frozen=True)
class Override:
    """One entry. `value`: a dotted path, a qualified class name, a node name or an op name; `re:...` where `regex` is True.

    `dtype`: the activation dtype asked for with the BPU.
    """

    device: Device
    kind: Kind
    value: str
    dtype: DType | None = None

    @property
    def is_regex(self) -> bool:
        return self.value.startswith(_REGEX)

    @property
    def source(self) -> str:
        """The entry as the user wrote it, for messages."""
        return f"{self.kind} {self.value!r} -> {self.device.value}"

    def depth(self, node: Node) -> int:
        """How near to the node the entry matches: 0 not at all, else more for a nearer ancestor."""
        if self.kind == "module_name":
            return self._module_depth(node.loc.module)
        if self.kind == "module_type":
            types = node.loc.module_type
            return max((level for level, name in enumerate(types, start=1) if self._fits_type(name)), default=0)
        if self.kind == "node_name":
            return int(any(self._fits(name) for name in names_of(node)))
        return int(self._fits(node.op.name))

    def _module_depth(self, path: str) -> int:
        if not path:
            return 0
        parts = path.split(".")
        if not self.is_regex:
            wanted = self.value.split(".")
            return len(wanted) if parts[: len(wanted)] == wanted else 0
        return max((level for level in range(1, len(parts) + 1) if self._fits(".".join(parts[:level]))), default=0)

    def _fits_type(self, name: str) -> bool:
        return self._fits(name) or (not self.is_regex and name.endswith(f".{self.value}"))

    def _fits(self, name: str) -> bool:
        if self.is_regex:
            return _compiled(self.value.removeprefix(_REGEX)).fullmatch(name) is not None
        return name == self.value


def names_of(node: Node) -> tuple[str, ...]:
    """What a node may be called by `node_name`: traced names, values, and what the user's file calls the operations behind it."""
    locations = {} if node.graph is None else node.graph.locations
    parts = (node.loc, *(locations[name] for name in node.origin if name in locations))
    labels = (name for loc in parts for name in (loc.label, *loc.also))
    names = (*node.origin, *(value.name for value in node.results), *labels)
    return tuple(dict.fromkeys(filter(None, names)))


@functools.lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise OverrideError(f"hybrid_dict: {_REGEX}{pattern} is not a regular expression: {error}") from None


def parse_hybrid_dict(hybrid_dict: Mapping[str, Any] | None) -> tuple[Override, ...]:
    """The entries of a `hybrid_dict` in the user's order; `OverrideError` for unknown keys, kinds of values and dtypes."""
    if hybrid_dict is None:
        return ()
    if not isinstance(hybrid_dict, Mapping):
        raise OverrideError(f"hybrid_dict must be a dict such as {{'module_name': [...]}}, got {type(hybrid_dict).__name__}")
    overrides: list[Override] = []
    for key, entries in hybrid_dict.items():
        if key in _DEVICES:
            if not isinstance(entries, Mapping):
                raise OverrideError(f"hybrid_dict[{key!r}] must be a dict such as {{'op': [...]}}, got {entries!r}")
            for kind, inner in entries.items():
                overrides += _parse_kind(kind, inner, _DEVICES[key], f"hybrid_dict[{key!r}]")
        else:
            overrides += _parse_kind(key, entries, Device.CPU, "hybrid_dict")
    return tuple(dict.fromkeys(overrides))


def _parse_kind(kind: Any, entries: Any, device: Device, where: str) -> list[Override]:
    from hqc.near_names import suggest

    if kind not in KINDS:
        known = [*KINDS, *(() if "[" in where else _DEVICES)]
        raise OverrideError(f"{where} has no key {kind!r}; known: {', '.join(known)}{suggest(str(kind), known)}")
    if isinstance(entries, (str, type)) or not isinstance(entries, (Sequence, set, frozenset)):
        raise OverrideError(f"{where}[{kind!r}] must be a list, got {entries!r}")
    ordered = sorted(entries, key=str) if isinstance(entries, (set, frozenset)) else entries
    return [_parse_entry(kind, entry, device, f"{where}[{kind!r}]") for entry in ordered]


def _parse_entry(kind: Kind, entry: Any, device: Device, where: str) -> Override:
    dtype: DType | None = None
    if isinstance(entry, tuple):
        if len(entry) != 2 or device is Device.CPU:
            raise OverrideError(f"{where}: only entries under 'bpu' may be pairs (name, dtype), got {entry!r}")
        entry, wanted = entry
        dtype = wanted if isinstance(wanted, DType) else _DTYPES.get(str(wanted).rpartition(".")[2])
        if dtype not in (DType.INT8, DType.INT16):
            raise OverrideError(f"{where}: the dtype of {entry!r} must be int8 or int16, got {wanted!r}")
    if kind == "module_type" and isinstance(entry, type):
        entry = f"{entry.__module__}.{entry.__qualname__}"
    if not isinstance(entry, str) or not entry:
        raise OverrideError(f"{where}: entries must be names{' or classes' if kind == 'module_type' else ''}, got {entry!r}")
    override = Override(device, kind, entry, dtype)
    if override.is_regex:
        _compiled(entry.removeprefix(_REGEX))
    return override
