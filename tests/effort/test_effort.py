"""Better quantization after training: what each step promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import hqc
from hqc.errors import InputError
from hqc.quantization import get_default_qconfig
from hqc.quantization.switches import quantizing
from hqc.workflow.channels import channel_classes
from hqc.workflow.deploy import deploy
from hqc.workflow.effort import steps_of
from hqc.workflow.equalize import Equalizer
from hqc.workflow.improve import Tuner, improve
from hqc.workflow.reconstruct import Rows, reconstruct, rows_of


class Spread(nn.Module):
    """Channels of very different ranges between layers; a residual, a cat, pooling, a depthwise and a transposed convolution."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.depth = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up, self.c = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)
        with torch.no_grad():
            factor = 10 ** (torch.rand(8) * 1.6 - 0.8)
            for layer in (self.a, self.b):
                layer.weight *= factor.view(-1, 1, 1, 1)
                layer.bias *= factor
            self.b.weight /= factor.view(1, -1, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.a(x))
        x = x + F.relu(self.b(x))
        x = self.depth(torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1))
        x = F.relu(self.c(F.relu(self.up(F.avg_pool2d(x, 2)))))
        return self.fc(x.mean((2, 3)))


def data(count: int = 6, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 3, 8, 8, generator=generator) for _ in range(count)]


def compiled(march: str = "bayes", **options: object) -> hqc.Compiled:
    model = Spread().eval()
    return hqc.compile(model, data()[0], march=march, calibration_data=data(), **options)


def noise(found: hqc.Compiled) -> float:
    test = torch.cat(data(8, seed=9))
    with torch.no_grad():
        real = found.prepared.preparation.float_model(test).numpy()
    return float(((found.simulate(test) - real) ** 2).sum() / (real**2).sum())


def layers_of(tuner: Tuner, graph: object) -> dict[str, object]:
    names = {name: node.name for node in graph.nodes for name in node.origin}
    return {names[call.node.name]: call.layer for call in tuner.calls.values()}


@pytest.mark.parametrize("march", ["bayes", "bernoulli"])
def test_good_is_better_than_fast_says_what_gained_and_keeps_the_float_function(march):
    fast, good = compiled(march), compiled(march, effort="good")
    assert noise(good) < 0.8 * noise(fast)
    remarks = [remark.message for remark in good.remarks if remark.pass_name == "effort"]
    assert len(remarks) == 2 and all("dB; kept: " in text for text in remarks)
    assert not [remark for remark in fast.remarks if remark.pass_name == "effort"]
    x = data()[0]
    with quantizing(good.prepared, ()), torch.no_grad():
        torch.testing.assert_close(good.prepared(x), good.prepared.preparation.float_model(x), rtol=1e-4, atol=1e-5)
    # Fake quant, simulator and file say the same of the tuned model.
    np.testing.assert_allclose(good.fake_quant(x), good.simulate(x), atol=3e-2 * float(np.abs(good.fake_quant(x)).max()))


def test_tuning_does_not_depend_on_the_order_of_the_data_and_is_exported(tmp_path):
    model = Spread().eval()
    one = hqc.compile(model, data()[0], march="bayes", calibration_data=data(), effort="good")
    two = hqc.compile(model, data()[0], march="bayes", calibration_data=data()[::-1], effort="good")
    x = data(seed=5)[0]
    np.testing.assert_array_equal(one.simulate(x), two.simulate(x))
    report = one.export(tmp_path / "net.onnx", flavour="runnable")
    assert report.executed and not any(each.fails for each in report.comparisons)
    again = hqc.compile(model, data()[0], march="bayes", calibration_data=data()).prepared
    again.load_state_dict(one.prepared.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again(x), one.prepared(x))


def test_steps_can_be_left_out_and_unknown_ones_are_refused():
    assert steps_of("good", ["bias"]) == ("nearest", "equalize", "weights")
    with pytest.raises(InputError, match="effort must be one of fast, good, best"):
        steps_of("better")
    with pytest.raises(InputError, match="did you mean weights"):
        steps_of("good", ["weight"])
    plain = compiled("bernoulli", without=["nearest"])
    assert noise(compiled("bernoulli")) < noise(plain)


def test_half_a_step_makes_bernoulli_round_to_nearest():
    """Against real arithmetic on the layer's own integers, the mean error is no longer half a step."""
    model = nn.Conv2d(3, 8, 3, padding=1, bias=False).eval()
    calibration = [torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))]
    means = {}
    for nearest in (True, False):
        qconfig = {"": get_default_qconfig(activation_observer="absolute_min_max")}
        tail = nn.Sequential(model, nn.Sigmoid()).eval()
        found = hqc.compile(
            tail, calibration[0], march="bernoulli", calibration_data=calibration, qconfig_dict=qconfig,
            without=() if nearest else ("nearest",),
        )  # fmt: skip
        kept = found.runner.program(found.runner.arguments((calibration[0],)))[1].run([calibration[0].numpy()], keep=True)
        conv = next(node for node in found.graph.nodes if node.op.name == "conv2d")
        step = float(conv.result.quant.scale)
        weight = found.graph.values[conv.inputs[1].name]
        q = np.rint(weight.array / weight.quant.scale.reshape(-1, 1, 1, 1)) * weight.quant.scale.reshape(-1, 1, 1, 1)
        x = kept[conv.inputs[0].name].astype(np.float32) * float(conv.inputs[0].quant.scale)
        real = F.conv2d(torch.from_numpy(x), torch.from_numpy(q.astype(np.float32)), padding=1).numpy() / step
        inside = np.abs(real) < 126
        means[nearest] = float((kept[conv.result.name].astype(np.float64) - real)[inside].mean())
    assert abs(means[True]) < 0.05 and -0.55 < means[False] < -0.4


# --- channels and equalization ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_scaling_classes_of_channels_by_anything_keeps_the_function(seed):
    prepared = hqc.compile(Spread(seed).eval(), data()[0], march="bayes", calibration_data=data(2)).prepared
    graph = deploy(prepared, integer=False).scaled
    tuner = Tuner(prepared, [(x,) for x in data(2)])
    equalizer = Equalizer(prepared, graph, layers_of(tuner, graph), tuner.batches)
    assert len(equalizer.classes) >= 8 + 8 + 8  # the residual chain with its cat, behind `up`, behind `c`
    rng = np.random.default_rng(seed)
    equalizer._factors = lambda strength: list(2.0 ** rng.uniform(-4, 4, len(equalizer.classes)))
    x = data(1, seed=7)[0]
    with quantizing(prepared, ()), torch.no_grad():
        before = prepared(x)
        equalizer.apply(0.5)
        torch.testing.assert_close(prepared(x), before, rtol=1e-4, atol=1e-5)
        equalizer.restore()
        assert torch.equal(prepared(x), before)


def test_channels_that_something_else_reads_are_left_alone():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = self.a(x)
            return self.c(F.relu6(self.b(F.silu(y)))), y

    prepared = hqc.compile(Net().eval(), data()[0], march="bayes", calibration_data=data(1)).prepared
    graph = deploy(prepared, integer=False).scaled
    tuner = Tuner(prepared, [(data()[0],)])
    assert channel_classes(graph, set(layers_of(tuner, graph))) == []


# --- reconstruction --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: nn.Conv2d(6, 8, 3, stride=2, padding=1, dilation=1, groups=2), lambda: nn.Conv2d(4, 4, 3, padding="same", groups=4),
    lambda: nn.Conv1d(6, 8, 3, padding=2, dilation=2), lambda: nn.Linear(6, 8),
])  # fmt: skip
def test_rows_times_weights_are_the_layer(make):
    torch.manual_seed(0)
    layer = make()
    shape = (2, 5, 6) if isinstance(layer, nn.Linear) else (2, layer.in_channels, *([9, 9][: layer.weight.dim() - 2]))
    x = torch.randn(shape)
    y = layer(x)
    rows = rows_of(layer, x, y, 10**6, torch.Generator())
    weight = layer.weight.reshape(rows.x.shape[0], -1, rows.x.shape[2]).double()
    bias = layer.bias.reshape(rows.x.shape[0], 1, -1).double()
    torch.testing.assert_close(rows.x @ weight.transpose(1, 2) + bias, rows.target, rtol=1e-4, atol=1e-5)


def test_reconstructed_weights_lie_on_their_grid_and_beat_rounding():
    torch.manual_seed(0)
    layer = nn.Linear(32, 16)
    x = torch.randn(4000, 32, dtype=torch.float64) @ torch.randn(32, 32, dtype=torch.float64)  # correlated
    target = x @ layer.weight.detach().double().T + 0.3
    found = reconstruct(layer, layer.weight, Rows(x.unsqueeze(0), target.unsqueeze(0)), power_of_two=True)
    q = found.weight / found.scale.unsqueeze(1)
    assert torch.equal(q, q.round()) and q.abs().max() <= 128
    error = ((x @ found.weight.double().T + found.bias.double() - target) ** 2).mean()
    plain = (layer.weight.detach() / found.scale.unsqueeze(1)).round().clamp(-128, 127) * found.scale.unsqueeze(1)
    assert error < 0.5 * ((x @ plain.double().T + 0.3 - target) ** 2).mean()


def test_improve_of_nothing_is_nothing():
    prepared = hqc.compile(
        nn.Sequential(nn.ReLU()).eval(), torch.rand(1, 3, 4, 4), march="bayes", calibration_data=data(1)
    ).prepared
    assert [each.kept for each in improve(prepared, [(torch.rand(1, 3, 4, 4),)], ["equalize", "weights"])] == [
        "nothing",
        "nothing",
    ]
