"""All kinds of cases; importing this registers them."""

from benchmarks.fuzz.kinds import (
    arguments,
    array_files,
    command_lines,
    commands,
    configurations,
    data_files,
    ir_text,
    models,
    names,
    numeric,
    onnx_files,
    parameter_files,
    surface,
)

__all__ = [
    "arguments",
    "array_files",
    "command_lines",
    "commands",
    "configurations",
    "data_files",
    "ir_text",
    "models",
    "names",
    "numeric",
    "onnx_files",
    "parameter_files",
    "surface",
]
