"""`<model>.yaml`: the configuration with which hb_mapper compiles an exported `horizon` file.

Its first line has a hash of the rest, by which a file that a person changed is told from one that hqc may write again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from hqc.ir import Device, Graph, Node, Trait


def cpu_nodes(owners: Mapping[str, Node]) -> list[str]:
    """ONNX nodes that must stay on the CPU, in file order.

    hb_mapper would quantize a float convolution behind a fake quantization unless it is listed, so everything that the
    plan puts on the CPU is listed, boundaries aside.
    """
    return [name for name, node in owners.items() if node.device is not Device.BPU and not node.op.has(Trait.BOUNDARY)]


def _text(value: str) -> str:
    """A YAML double-quoted scalar: JSON's form is one."""
    return json.dumps(value, ensure_ascii=False)


def _join(items: Sequence[str]) -> str:
    """hb_mapper's lists are semicolon-separated strings."""
    return _text(";".join(items))


def configuration(graph: Graph, model_file: str, cpu: Sequence[str]) -> str:
    """The YAML text. `model_file`: name of the ONNX file beside it; `cpu`: names of the nodes to keep on the CPU."""
    stem = PurePath(model_file).stem
    count = len(graph.inputs)
    shapes = ["x".join(map(str, value.shape or ())) for value in graph.inputs]
    layouts = ["NCHW"] * count
    lines = [
        "# The quantization is in the ONNX file: hb_mapper loads it and calibrates nothing.",
        "model_parameters:",
        f"  onnx_model: {_text(model_file)}",
        f"  march: {_text(graph.march or '')}",
        '  working_dir: "hb_mapper_output"',
        f"  output_model_file_prefix: {_text(stem)}",
        "input_parameters:",
        f"  input_name: {_join([value.name for value in graph.inputs])}",
        f"  input_shape: {_join(shapes)}",
        f"  input_type_rt: {_join(['featuremap'] * count)}",
        f"  input_type_train: {_join(['featuremap'] * count)}",
        f"  input_layout_train: {_join(layouts)}",
        f"  norm_type: {_join(['no_preprocess'] * count)}",
        "calibration_parameters:",
        '  calibration_type: "load"',
        f"  run_on_cpu: {_join(cpu)}",
        "compiler_parameters:",
        '  compile_mode: "latency"',
        '  optimize_level: "O3"',
    ]
    body = "\n".join(lines) + "\n"
    return _seal(body) + body


def _seal(body: str) -> str:
    return f"# Written by hqc (sha256:{hashlib.sha256(body.encode()).hexdigest()[:16]} of the lines below).\n"


def may_replace(path: Path) -> bool:
    """True where no file is, or one that hqc wrote and nobody has changed since."""
    if not path.is_file():
        return True
    try:
        first, _, body = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    return f"{first}\n" == _seal(body)
