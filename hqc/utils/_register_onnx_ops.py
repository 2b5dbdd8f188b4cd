"""Importing this module lets `torch.onnx.export` write hqc's prepared and converted models: as `export_to_onnx` does.

The file has `horizon` nodes in opset 11, and was run and compared before the call returns. Arguments of older torch releases that have
gone (`enable_onnx_checker`, `example_outputs`, `strip_doc_string`, ...) are accepted again. Other models are exported by torch as before.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch

from hqc.errors import ExportError
from hqc.utils.onnx_helper import export_to_onnx
from hqc.workflow.prepared import GraphModuleWithAttr

_original = getattr(torch.onnx.export, "hqc_original", torch.onnx.export)  # a reload finds its own wrapper
_KNOWN = frozenset(inspect.signature(export_to_onnx).parameters)
_POSITIONAL = ("model", "args", "f", "export_params", "verbose", "training", "input_names", "output_names")


@functools.wraps(_original)
def _export(*args: Any, **kwargs: Any) -> Any:
    given = {**dict(zip(_POSITIONAL, args, strict=False)), **kwargs}
    if not isinstance(given.get("model"), GraphModuleWithAttr):
        return _original(*args, **kwargs)
    if given.get("f") is None or given.get("kwargs") or given.get("dynamo"):
        raise ExportError(
            "torch.onnx.export of a model of hqc needs args and a file f, and takes neither kwargs nor dynamo=True"
        )
    given.setdefault("args", ())
    if given.get("verbose") is None:
        given.pop("verbose", None)
    return export_to_onnx(**{name: value for name, value in given.items() if name in _KNOWN})


_export.hqc_original = _original  # type: ignore[attr-defined]
torch.onnx.export = _export
