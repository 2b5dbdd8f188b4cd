"""ONNX files, damaged byte by byte and field by field, read into the IR."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

import onnx

from benchmarks.fuzz.cases import Attempt, kind
from benchmarks.fuzz.material import compiled, mutate_bytes, odd_text
from hqc.backends.onnx.audit import audit
from hqc.frontend.onnx import lower_onnx
from hqc.march import get_spec


@functools.cache
def _corpus() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as name:
        files = []
        for flavour in ("qdq", "runnable", "integer", "horizon"):
            path = Path(name) / f"{flavour}.onnx"
            compiled().export(path, flavour=flavour, verify=False)
            files.append(path.read_bytes())
        return tuple(files)


@kind("onnx-file")
def make(generator: random.Random, folder: Path) -> Attempt:
    """Into the IR, and through the audit of hb_mapper's rules."""
    data = generator.choice(_corpus())
    data = mutate_bytes(generator, data) if generator.random() < 0.4 else _refielded(generator, data)
    path = folder / "net.onnx"
    path.write_bytes(data)

    def attempt() -> object:
        lowered = lower_onnx(path)
        return lowered, audit(onnx.load_model_from_string(data), get_spec("bayes"))

    return attempt


def _refielded(generator: random.Random, data: bytes) -> bytes:
    model = onnx.load_model_from_string(data)
    graph = model.graph
    text = odd_text(generator).encode("utf-8", "replace").decode()
    for _ in range(generator.choice((1, 1, 2, 4))):
        node = generator.choice(graph.node)
        match generator.randrange(14):
            case 0:
                node.op_type = generator.choice(("Conv", "Nonsense", "Loop", "Cast", "Reshape", text))
            case 1 if node.input:
                node.input[generator.randrange(len(node.input))] = generator.choice(
                    ("", text, *[each.output[0] for each in graph.node])
                )
            case 2 if node.output:
                node.output[0] = generator.choice(("", text, graph.node[0].output[0]))
            case 3 if node.attribute:
                _reattributed(generator, generator.choice(node.attribute), text)
            case 4 if graph.initializer:
                del graph.initializer[generator.randrange(len(graph.initializer)) :]
            case 5 if graph.initializer:
                tensor = generator.choice(graph.initializer)
                tensor.dims[:] = [generator.choice((0, 1, -1, 3, 1 << 40, 1 << 62)) for _ in range(generator.randrange(5))]
            case 6 if graph.initializer:
                generator.choice(graph.initializer).data_type = generator.randrange(25)
            case 7 if graph.initializer:
                generator.choice(graph.initializer).raw_data = bytes(generator.randrange(40))
            case 8:
                shape = graph.input[0].type.tensor_type.shape
                for dim in shape.dim:
                    dim.dim_value = generator.choice((0, 1, 3, 6, -1, 1 << 30, 1 << 62))
            case 9:
                graph.input[0].type.tensor_type.elem_type = generator.randrange(25)
            case 10:
                model.opset_import[0].version = generator.choice((0, -1, 1, 6, 11, 13, 21, 99, 1 << 40))
            case 11:
                model.ir_version = generator.choice((0, 3, 99, 1 << 40))
            case 12:
                graph.node.add().CopyFrom(node)
            case 13:
                node.domain = generator.choice(("", "horizon", "com.microsoft", text))
    return model.SerializeToString()


def _reattributed(generator: random.Random, attribute: onnx.AttributeProto, text: str) -> None:
    match generator.randrange(5):
        case 0:
            attribute.name = generator.choice(("axis", "pads", "to", text))
        case 1:
            attribute.i = generator.choice((0, -1, 1 << 40, 99))
        case 2:
            attribute.ints[:] = [generator.choice((0, 1, -1, 7, 1 << 40)) for _ in range(generator.randrange(6))]
        case 3:
            attribute.type = generator.randrange(1, 15)
        case 4:
            attribute.f = generator.choice((float("nan"), float("inf"), 1e30))
