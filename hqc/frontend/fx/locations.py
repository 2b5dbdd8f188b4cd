"""Where things come from in the user's program: source lines while tracing, module paths and types while lowering."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import CodeType, FrameType, TracebackType
from typing import Any, TypeVar

import torch
from torch import fx, nn

from hqc.ir import Location

_F = TypeVar("_F")
SOURCE_META = "hqc_source"
"""Key in `node.meta` of the user's `file.py:line` (empty when only library code called the op)."""
MODULE_META = "hqc_module"
"""Key in `node.meta` of the path of the innermost module that was called ("" for the root)."""
TYPES_META = "hqc_module_types"
"""Key in `node.meta` of the class names along that path, root first."""
ORIGIN_META = "hqc_origin"
"""Key in `node.meta` of an emitted node: the nodes of the user's trace that it stands for, in program order, with their locations."""
NAME_META = "hqc_name"
"""Key in `node.meta` of what the user's file calls the value of a node, where FX cannot spell that (`/conv1/Conv_output_0`)."""
LABEL_META = "hqc_label"
ALSO_META = "hqc_also"
"""Key in `node.meta` of what the user's file calls the operation."""
OUTPUTS_META = "hqc_outputs"
"""Key in the output node's `meta` of the names of what the model returns, where it returns a tuple of named tensors."""
FORM_META = "hqc_form"
"""Key in `node.meta` of an emitted call that is the torch form of an IR node: `(op name, attributes)`; lowering gives that node back."""

_HQC = Path(__file__).parents[2]
_LIBRARY = tuple(
    f"{folder}{os.sep}"
    for folder in (Path(torch.__file__).parent, *(_HQC / room for room in ("frontend", "nn", "quantization", "workflow")))
)


_TRACING = (f"{_HQC / 'frontend'}{os.sep}", f"{Path(torch.__file__).parent / 'fx'}{os.sep}")


def is_user_file(filename: str) -> bool:
    """False for frames of torch, hqc and generated code."""
    return not filename.startswith(("<", *_LIBRARY))


def shown(filename: str, line: int) -> str:
    """A place in the user's code as messages show it."""
    return f"{os.path.basename(filename)}:{line}"


def user_frame(stop: FrameType | None = None) -> FrameType | None:
    """The innermost frame of the user's code, looking no further out than the frame `stop`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not stop:
        if is_user_file(frame.f_code.co_filename):
            return frame
        frame = frame.f_back
    return None


def asking_frame() -> FrameType | None:
    """The frame that asks a traced tensor for its value: the user's, or one of torch's own Python beyond FX."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_TRACING):
        frame = frame.f_back
    return frame


_INTERPRETERS: set[CodeType] = set()


def interpreter(function: _F) -> _F:
    """Decorator: `function` runs one step of user's code that is no Python; its argument `step` has the line, as `source`."""
    _INTERPRETERS.add(function.__code__)  # type: ignore[attr-defined]
    return function


def user_source(stop: FrameType | None = None) -> str:
    """`file.py:line` of that frame, or an empty string."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not stop:
        found = _source_of(frame, frame.f_lineno)
        if found:
            return found
        frame = frame.f_back
    return ""


def _source_of(frame: FrameType, line: int) -> str:
    if frame.f_code in _INTERPRETERS:
        return str(frame.f_locals["step"].source)
    return shown(frame.f_code.co_filename, line) if is_user_file(frame.f_code.co_filename) else ""


def traceback_source(traceback: TracebackType | None, stop: FrameType | None = None) -> str:
    """`file.py:line` of the innermost user frame of a traceback, ignoring those outside the frame `stop`."""
    found, inside = "", stop is None
    while traceback is not None:
        if inside:
            found = _source_of(traceback.tb_frame, traceback.tb_lineno) or found
        inside = inside or traceback.tb_frame is stop
        traceback = traceback.tb_next
    return found


def class_name(cls: type) -> str:
    """`module.qualname`, the spelling of classes in locations."""
    return f"{cls.__module__}.{cls.__qualname__}"


def types_along(path: str, modules: Mapping[str, nn.Module], root_type: str | None = None) -> tuple[str, ...]:
    """Class names of the root and of every module on the dotted `path`, outermost first."""
    names = [root_type or class_name(type(modules[""]))]
    names.extend(class_name(type(modules[prefix])) for prefix in _prefixes(path) if prefix in modules)
    return tuple(names)


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".") if path else []
    for end in range(1, len(parts) + 1):
        yield ".".join(parts[:end])


class Locator:
    """Makes the locations of one lowering: `path` is `module.path:op#k`, k counted per module path and op."""

    def __init__(self, root: nn.Module) -> None:
        self._modules = dict(root.named_modules(remove_duplicate=False))
        self._counts: Counter[tuple[str, str]] = Counter()

    def module_path(self, node: fx.Node) -> str:
        """Path of the innermost module called at this FX node, from the trace or (for a node added later) its target."""
        recorded = node.meta.get(MODULE_META)
        if recorded is not None:
            return str(recorded)
        return str(node.target) if node.op == "call_module" else ""

    def module_types(self, node: fx.Node) -> tuple[str, ...]:
        recorded = node.meta.get(TYPES_META)
        return tuple(recorded) if recorded is not None else types_along(self.module_path(node), self._modules)

    def source(self, node: fx.Node) -> str:
        return str(node.meta.get(SOURCE_META, ""))

    def locate(self, node: fx.Node, op: str) -> Location:
        """The location of the next IR node of kind `op` that comes from this FX node."""
        path = self.module_path(node)
        key = (path, op)
        index = self._counts[key]
        self._counts[key] += 1
        label = str(node.meta.get(LABEL_META, ""))
        also = tuple(node.meta.get(ALSO_META, ()))
        return Location(f"{path}:{op}#{index}", self.source(node), self.module_types(node), label, also)


def value_name(node: fx.Node) -> str:
    """The name of the value that an FX node holds: the user's own, or the FX node's."""
    return str(node.meta.get(NAME_META, node.name))


def describe(node: fx.Node) -> str:
    """The FX node in words for an error: its name and what it does."""
    target: Any = node.target
    if node.op == "call_function":
        target = getattr(target, "__name__", str(target))
    return f"`{node.name}` ({target})"
