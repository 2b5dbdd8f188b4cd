"""`<model>.yaml`: the configuration with which hb_mapper compiles an exported `horizon` file.

Its first line has a hash of the rest, by which a file that a person changed is told from one that hqc may write again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from hqc.backends.onnx.emit import Emission
from hqc.data.inputs import input_specs
from hqc.data.preprocessing import Preprocessing
from hqc.files import settle
from hqc.ir import Device, DType, Graph, Node, Trait


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


def bpu_nodes(emission: Emission) -> dict[str, Node]:
    """ONNX nodes that run on the BPU because the user asked for it, in file order: hb_mapper must be asked too.

    Its own quantization nodes are no operations that it places.
    """
    named = {node.name for node in emission.model.graph.node if not node.domain}
    return {
        name: node for name, node in emission.owners.items() if name in named and node.device is Device.BPU and _asked(node)
    }


def _asked(node: Node) -> bool:
    return node.request is not None and node.request.device is Device.BPU and not node.op.has(Trait.BOUNDARY)


def configuration(
    graph: Graph, model_file: str, emission: Emission, preprocessing: Mapping[str, Preprocessing] | None = None
) -> str:
    """The YAML text. `model_file`: name of the ONNX file beside it; `emission`: that file, and the node of the graph for each of
    its nodes; `preprocessing`: by input, what is done to pictures before the model."""
    stem = PurePath(model_file).stem
    asked = bpu_nodes(emission)
    wide = [name for name, node in asked.items() if node.request is not None and node.request.dtype is DType.INT16]
    lines = [
        "# The quantization is in the ONNX file: hb_mapper loads it and calibrates nothing.",
        "model_parameters:",
        f"  onnx_model: {_text(model_file)}",
        f"  march: {_text(graph.march or '')}",
        '  working_dir: "hb_mapper_output"',
        f"  output_model_file_prefix: {_text(stem)}",
    ]
    if wide:
        lines.append("  node_info:")
        lines += [f'    {_text(name)}: {{"ON": "BPU", "InputType": "int16", "OutputType": "int16"}}' for name in wide]
    lines += _input_parameters(graph, preprocessing or {})
    lines += ["calibration_parameters:", '  calibration_type: "load"', f"  run_on_cpu: {_join(cpu_nodes(emission.owners))}"]
    if asked:
        lines.append(f"  run_on_bpu: {_join(list(asked))}")
    lines += ["compiler_parameters:", '  compile_mode: "latency"', '  optimize_level: "O3"']
    body = "\n".join(lines) + "\n"
    return _seal(body) + body


def _input_parameters(graph: Graph, preprocessing: Mapping[str, Preprocessing]) -> list[str]:
    """One entry an input in every list; mean and scale only where an input has them."""
    specs = input_specs(graph)
    known = [preprocessing.get(spec.name) for spec in specs]
    layouts = ["NHWC" if each and spec.channel_axis == 2 else "NCHW" for spec, each in zip(specs, known, strict=True)]
    lines = [
        "input_parameters:",
        f"  input_name: {_join([spec.name for spec in specs])}",
        f"  input_shape: {_join(['x'.join(map(str, spec.shape)) for spec in specs])}",
        f"  input_type_rt: {_join(['featuremap' if each is None else each.runtime for each in known])}",
        f"  input_type_train: {_join(['featuremap' if each is None else each.order for each in known])}",
        f"  input_layout_train: {_join(layouts)}",
        f"  norm_type: {_join(['no_preprocess' if each is None else each.norm_type for each in known])}",
    ]
    if any(each is not None and each.pixel_mean for each in known):
        means = ["" if each is None else _per_channel(each, each.pixel_mean) for each in known]
        lines.append(f"  mean_value: {_join(means)}")
    if any(each is not None and each.pixel_scale for each in known):
        scales = ["" if each is None else _per_channel(each, each.pixel_scale) for each in known]
        lines.append(f"  scale_value: {_join(scales)}")
    if any(each is not None and each.video_range for each in known):
        ranges = ["bt601_video" if each is not None and each.video_range else "regular" for each in known]
        lines.append(f"  input_space_and_range: {_join(ranges)}")
    return lines


def _per_channel(preprocessing: Preprocessing, values: Sequence[float]) -> str:
    """hb_mapper separates the channels of one input by spaces."""
    return " ".join(f"{value:.9g}" for value in preprocessing.per_channel(values)) if values else ""


def _seal(body: str) -> str:
    return f"# Written by hqc (sha256:{hashlib.sha256(body.encode()).hexdigest()[:16]} of the lines below).\n"


def may_replace(path: Path) -> bool:
    """True where no file is, or one that hqc wrote and nobody has changed since."""
    settle(path)
    if not path.is_file():
        return True
    try:
        first, _, body = path.read_text(encoding="utf-8").partition("\n")
    except (OSError, UnicodeDecodeError):
        return False
    return f"{first}\n" == _seal(body)
