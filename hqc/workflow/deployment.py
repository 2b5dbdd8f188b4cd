"""What the back ends take of a deployed model. No torch here: models that were saved run without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hqc.ir import Graph
from hqc.passes.base import Remark

PROGRAMS_KEPT = 4
"""Programs a model keeps, one per batch size. They share their parameters, and with the engine `jit` the packed weights too."""


@dataclass
class Deployment:
    """`scaled`: what the ONNX back end takes (fake-quant semantics). `integer`: what the simulator takes. `opaque`: callables
    for operations that only torch can run. `outputs`: what the model returns, with an `OutputRef` for each tensor. `remarks`:
    what the passes had to say."""

    scaled: Graph
    integer: Graph
    opaque: Mapping[str, Callable[..., Any]]
    outputs: Any
    remarks: list[Remark] = field(default_factory=list)
