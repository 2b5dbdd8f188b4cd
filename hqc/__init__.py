"""hqc: an open hybrid quantization compiler for models that run partly on a BPU and partly on the CPU beside it.

Public names load on first use: `import hqc` imports neither torch nor onnx nor onnxruntime.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hqc.analysis.doctor import show_versions
    from hqc.errors import HqcError
    from hqc.march import March, get_march, set_march
    from hqc.workflow.compile import Compiled
    from hqc.workflow.entry import compile
    from hqc.workflow.explain import explain
    from hqc.workflow.explanation import Explanation
    from hqc.workflow.loaded import LoadedModel, load
    from hqc.workflow.lower import lower

__version__ = "0.1.0"

_HOME = {
    "Compiled": "hqc.workflow.compile",
    "Explanation": "hqc.workflow.explanation",
    "HqcError": "hqc.errors",
    "LoadedModel": "hqc.workflow.loaded",
    "March": "hqc.march",
    "compile": "hqc.workflow.entry",
    "explain": "hqc.workflow.explain",
    "get_march": "hqc.march",
    "load": "hqc.workflow.loaded",
    "lower": "hqc.workflow.lower",
    "set_march": "hqc.march",
    "show_versions": "hqc.analysis.doctor",
}
__all__ = [
    "Compiled",
    "Explanation",
    "HqcError",
    "LoadedModel",
    "March",
    "compile",
    "explain",
    "get_march",
    "load",
    "lower",
    "set_march",
    "show_versions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module hqc has no attribute {name}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
