"""`hqc.lower`: a model of any front end as a float IR graph."""

from __future__ import annotations

from typing import Any

from hqc.checked import checked
from hqc.errors import InputError
from hqc.ir import Graph
from hqc.workflow.onnx_files import is_onnx, lower_file


@checked
def lower(
    model: Any, example_inputs: Any = None, *, march: str | None = None, name: str | None = None, **options: Any
) -> Graph:
    """The float IR graph of a torch model, an `ExportedProgram`, or an ONNX file (a path or a `ModelProto`).

    `example_inputs`: a tensor, a tuple of positional inputs, or a dict by name, whose shapes are taken; an ONNX file needs them only
    for sizes that it leaves open. `march`, `name`: of the graph. `options`: for torch models those of `hqc.frontend.fx.lower`
    (`leaf_modules`, `concrete_args`).
    Values of an ONNX file keep their names. Raises `HqcError` subclasses with one sentence about the model.
    """
    if not is_onnx(model):
        from hqc.frontend import fx

        return fx.lower(model, example_inputs, march=march, name=name, **options)
    if options:
        raise InputError(f"an ONNX file has no {', '.join(options)}: those are for torch models")
    graph = lower_file(model, example_inputs).graph
    graph.name, graph.march = name or graph.name, march
    return graph
