"""The networks of benchmarks/models are the published ones: sizes, output shapes, and weights that a name fixes."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from benchmarks.models import MODELS, build

# Trainable and fixed parameters as published (YOLO: 16 fixed weights of the DFL layer only where the head has it).
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v2": 3_504_872,
    "yolov8n_decode": 3_157_200,
    "yolov8n_relu_dfl": 3_157_200,
    "yolov8s": 11_166_560 - 16,
    "yolo11n": 2_624_080 - 16,
}
SMALL = ("simplenet", "cifar_image_classifier", "hrnet_small", "densenet_small")


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks_have_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = MODELS[name].factory()
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(MODELS))
def test_networks_trace_with_plain_fx(name: str) -> None:
    with torch.device("meta"):
        network = MODELS[name].factory().eval()
    assert len(fx.symbolic_trace(network).graph.nodes) > 4


@pytest.mark.parametrize("name", SMALL)
def test_a_name_and_a_seed_fix_the_weights(name: str) -> None:
    (first, x), (second, y), (other, _) = build(name), build(name), build(name, seed=1)
    assert torch.equal(x, y)
    assert torch.equal(first(x), second(x))
    assert not torch.equal(first(x), other(x))


@pytest.mark.parametrize("name", SMALL)
def test_networks_come_in_eval_mode_and_with_live_activations(name: str) -> None:
    before = torch.random.get_rng_state()
    network, example = build(name, batch=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not any(module.training for module in network.modules())
    output = network(example)
    assert output.shape[0] == 3
    assert torch.isfinite(output).all()
    assert output.std() > 1e-4


def test_yolo_heads_give_their_shapes() -> None:
    image = {"image": (64, 64)}
    raw = [tuple(part.shape) for part in build("yolov8n", **image)[0](torch.rand(1, 3, 64, 64))]  # type: ignore[arg-type]
    assert raw == [(1, 64, 8, 8), (1, 80, 8, 8), (1, 64, 4, 4), (1, 80, 4, 4), (1, 64, 2, 2), (1, 80, 2, 2)]
    nhwc = [tuple(part.shape) for part in build("yolo11n", **image)[0](torch.rand(1, 3, 64, 64))]  # type: ignore[arg-type]
    assert nhwc == [(1, 8, 8, 80), (1, 8, 8, 64), (1, 4, 4, 80), (1, 4, 4, 64), (1, 2, 2, 80), (1, 2, 2, 64)]
    joined = build("yolov8n_relu_dfl", **image)[0](torch.rand(1, 3, 64, 64))  # type: ignore[arg-type]
    assert joined.shape == (1, 84, 84)


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(KeyError, match="there is no model 'resnet19'; known: cifar_image_classifier"):
        build("resnet19")
