"""The networks of benchmarks/models through the front end and the IR: sound, round trip, and the same function at any batch."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

import hqc
from benchmarks.models import MODELS, build
from hqc.backends.onnx import emit_segment
from hqc.ir import check, parse
from hqc.ir.sidecar import sidecar_arrays

FIXED_SIZE = {"ufld": (288, 800), "yolov8n_decode": (640, 640), "cifar_image_classifier": (32, 32), "densenet_small": (32, 32)}
BATCHED = ("mobilenet_v2", "hrnet_small", "densenet_small", "cifar_image_classifier", "yolov8n_relu_dfl", "yolo11n")


@pytest.mark.parametrize("name", sorted(MODELS))
def test_lowered_networks_are_sound_and_round_trip(name: str) -> None:
    entry = MODELS[name]
    height, width = FIXED_SIZE.get(name, (64, 64))
    graph = hqc.lower(entry.factory().eval(), torch.zeros(1, entry.input_shape[-3], height, width))
    assert check(graph) == []
    assert all(node.loc.path for node in graph.nodes)
    text = str(graph)
    again = parse(text, parameters=sidecar_arrays(graph))
    assert again == graph
    assert str(again) == text


@pytest.mark.parametrize("name", BATCHED)
def test_with_batch_computes_what_torch_computes_on_a_batch(name: str) -> None:
    network, example = build(name, image=FIXED_SIZE.get(name, (64, 64)))
    graph = hqc.lower(network, example).with_batch(3)
    assert check(graph) == []
    model = emit_segment(list(graph.nodes), graph.inputs, graph.outputs)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    images = torch.rand(3, *example.shape[1:], generator=torch.Generator().manual_seed(1))
    outputs = session.run(None, {graph.inputs[0].name: images.numpy()})
    with torch.no_grad():
        expected = network(images)
    for output, reference in zip(outputs, expected if isinstance(expected, tuple) else (expected,), strict=True):
        assert output.shape == tuple(reference.shape)
        assert np.abs(output - reference.numpy()).max() <= 1e-3 * reference.abs().max()
