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
    from hqc.workflow.split_shared import split_shared

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
    "split_shared": "hqc.workflow.split_shared",
}
_COLOURS = (
    *("bgr2centered_gray", "bgr2centered_yuv", "bgr2gray", "bgr2rgb", "bgr2yuv", "centered_yuv2bgr", "centered_yuv2rgb"),
    *("rgb2bgr", "rgb2centered_gray", "rgb2centered_yuv", "rgb2gray", "rgb2yuv"),
)
_HOME |= dict.fromkeys(_COLOURS, "hqc.functional")
_PACKAGES = (
    *(
        "analysis",
        "backends",
        "compat",
        "dtype",
        "errors",
        "functional",
        "fx",
        "ir",
        "jit",
        "march",
        "nn",
        "passes",
        "qat_mode",
    ),
    *("qconfig", "qtensor", "quantization", "utils", "workflow"),
)
"""Parts of the package that need no import of their own: `hqc.march.set_march(...)` after `import hqc`."""
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
    "split_shared",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"hqc.{name}")
    if name not in _HOME:
        raise AttributeError(f"module hqc has no attribute {name}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
