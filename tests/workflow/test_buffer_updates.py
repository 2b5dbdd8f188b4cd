"""Buffers that forward changes go on changing in the prepared model, as they do in the float one, or QAT refuses them."""

from __future__ import annotations

import copy
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hqc
from hqc.errors import InputError
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import convert_fx, get_default_qat_qconfig, prepare_qat_fx
from hqc.utils.onnx_helper import export_to_onnx

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("queue", torch.zeros(4, 4))

    def update(self, y: Tensor) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.quant(x))
        self.update(y)
        return self.dequant(y)


class CountsInPlace(Net):
    def update(self, y: Tensor) -> None:
        self.count.add_(1)


class CountsAugmented(Net):
    def update(self, y: Tensor) -> None:
        self.count += 1


class CountsAnew(Net):
    def update(self, y: Tensor) -> None:
        self.count = self.count + 1


class RunningMean(Net):
    def update(self, y: Tensor) -> None:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(y.mean((0, 2, 3)), alpha=0.1)


class RunningMeanAnew(Net):
    def update(self, y: Tensor) -> None:
        self.mean = 0.9 * self.mean + 0.1 * y.detach().mean((0, 2, 3))


class RunningMeanCopied(Net):
    def update(self, y: Tensor) -> None:
        self.mean.copy_(torch.lerp(self.mean, y.detach().mean((0, 2, 3)), 0.1))


class Queue(Net):
    def update(self, y: Tensor) -> None:
        self.queue[1:] = self.queue[:-1].clone()
        self.queue[0] = y.detach().mean((0, 2, 3))


class PartOfQueue(Net):
    def update(self, y: Tensor) -> None:
        self.queue[1:3].copy_(y.detach().mean((0, 2, 3)))
        self.queue[:, 0].mul_(0.5)


class WeightAverage(Net):
    def update(self, y: Tensor) -> None:
        self.mean.lerp_(self.conv.weight.detach().mean((1, 2, 3)), 0.5)


class CountsWhileTraining(Net):
    def update(self, y: Tensor) -> None:
        if self.training:
            self.count += 1


class AveragesWhileTraining(Net):
    def update(self, y: Tensor) -> None:
        if self.training:
            with torch.no_grad():
                mean = y.mean((0, 2, 3))
                self.mean.mul_(0.9).add_(mean, alpha=0.1)
                self.count = self.count + 1
                self.queue[0] = mean


KINDS = [CountsWhileTraining, AveragesWhileTraining, CountsInPlace, CountsAugmented, CountsAnew, RunningMean, RunningMeanAnew]
KINDS += [RunningMeanCopied, Queue, PartOfQueue, WeightAverage]


def prepared(model: nn.Module, march: str = "bayes", **options: object) -> nn.Module:
    set_march(march)
    return prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, **options)  # type: ignore[arg-type]


def off(model: nn.Module) -> nn.Module:
    from hqc.quantization.fake_quantize import fake_quants

    for _, fake_quant in fake_quants(model):
        fake_quant.disable_fake_quant()
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("given", [True, False])
def test_buffers_change_in_training_as_they_do_in_the_float_model(kind: type[Net], given: bool) -> None:
    model = kind().train()
    emitted = off(prepared(model, **({"example_inputs": (X,)} if given else {}))).train()
    optimizer = torch.optim.SGD(emitted.parameters(), 0.0)
    for scale in (1.0, 0.5, 2.0):
        model(X * scale)
        emitted(X * scale).square().mean().backward()  # the second step would fail if the buffer held the first one's graph
        optimizer.step()
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(emitted.get_buffer(name), buffer, rtol=1e-5, atol=1e-6, msg=f"{kind.__name__}.{name}")
        assert not emitted.get_buffer(name).requires_grad
    assert any(buffer.abs().sum() > 0 for buffer in model.buffers())


@pytest.mark.parametrize("kind", [CountsAnew, RunningMean, Queue])
def test_copies_convert_and_export_with_the_value_of_the_moment(kind: type[Net], tmp_path: Path) -> None:
    emitted = prepared(kind(), example_inputs=(X,)).train()
    for other in (copy.deepcopy(emitted), pickle.loads(pickle.dumps(emitted))):
        other(X)
        assert any(not torch.equal(a, b) for a, b in zip(other.buffers(), kind().buffers(), strict=False))
    emitted(X)
    emitted.eval()
    before = {name: buffer.clone() for name, buffer in emitted.named_buffers()}
    converted = convert_fx(emitted)
    expected = emitted(X).detach()
    step = 2 * float(expected.abs().max()) / 127
    assert np.abs(converted(X).numpy() - expected.numpy()).max() <= step
    export_to_onnx(emitted, (X,), tmp_path / "net.onnx")
    assert set(before) == {name for name, _ in emitted.named_buffers()}


@pytest.mark.parametrize("kind", [CountsWhileTraining, AveragesWhileTraining])
def test_what_changes_in_training_only_rests_in_eval_mode(kind: type[Net], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        emitted = prepared(kind(), example_inputs=(X,)).eval()
    assert "self.training" not in caplog.text and "changes the buffer" not in caplog.text
    emitted(X)
    assert all(not buffer.any() for name, buffer in emitted.named_buffers() if name in ("count", "mean", "queue"))
    emitted.train()
    emitted(X)
    assert float(emitted.get_buffer("count")) == 1.0


class Elsewhere(Net):
    """What the branch computes is read behind it, or changes no buffer: it is not taken, and told."""

    def update(self, y: Tensor) -> None:
        self.seen = 0
        if self.training:
            self.seen += 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.quant(x))
        self.update(y)
        if self.training:
            y = y * 2
        return self.dequant(y)


def test_other_branches_on_the_mode_follow_eval_and_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        emitted = off(prepared(Elsewhere(), example_inputs=(X,))).train()
    assert caplog.text.count("a branch on self.training; the graph has the eval branch") == 2
    torch.testing.assert_close(emitted(X), Elsewhere().eval()(X), rtol=1e-4, atol=1e-5)


class Scaled(Net):
    """Reads the buffer that it changes."""

    def update(self, y: Tensor) -> None:
        self.count = self.count + 1

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.quant(x))
        self.update(y)
        return self.dequant(y) * (1 + self.count)


def test_what_reads_a_changing_buffer_has_the_value_of_a_first_call_when_deployed() -> None:
    """The state it has then is a constant; what forward makes of it, before it is read, is part of the graph."""
    model = Scaled()
    model.count.fill_(2.0)
    compiled = hqc.compile(model, X, march="bayes", calibration_data=[X])
    with torch.no_grad():
        expected = model.conv(X) * 4
    assert np.abs(compiled.simulate(X) - expected.numpy()).max() < 0.1
    assert float(model.count) == 2.0, "compile left the model as it was"


class Centered(Net):
    """Keeps what it computes of its input in a buffer, and reads it from there: no state at all."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("held", torch.zeros(1, 4, 1, 1))

    def keep(self, mean: Tensor) -> None:
        self.held.copy_(mean)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.quant(x))
        self.keep(y.mean((2, 3), keepdim=True))
        return self.dequant(y - self.held)


class CenteredByAssignment(Centered):
    def keep(self, mean: Tensor) -> None:
        self.held = mean


class CenteredByParts(Centered):
    def keep(self, mean: Tensor) -> None:
        self.held.zero_().add_(mean)
        self.held[:, :2] = mean[:, :2]


@pytest.mark.parametrize("network", [Centered, CenteredByAssignment, CenteredByParts])
def test_a_buffer_that_is_written_and_then_read_is_computed_like_everything_else(network: type[Net], tmp_path: Path) -> None:
    model, x = network().eval(), X[:1]
    emitted = off(prepared(copy.deepcopy(model), example_inputs=(x,)))
    expected = copy.deepcopy(model)(x)
    torch.testing.assert_close(emitted.train()(x), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(emitted.held, emitted.conv(x).mean((2, 3), keepdim=True), rtol=1e-4, atol=1e-5)
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x, x * 0.5])
    assert np.abs(compiled.simulate(x) - expected.detach().numpy()).max() < 0.1
    assert compiled.export(tmp_path / "centered.onnx", flavour="runnable").executed


class Pointer(Net):
    """The place that is written is a number read from a buffer: no graph can follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def update(self, y: Tensor) -> None:
        at = int(self.pointer)
        self.queue[at] = y.detach().mean((0, 2, 3))
        self.pointer.fill_((at + 1) % 4)


def test_a_change_that_no_graph_repeats_is_refused_for_training_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    for inputs in ((X,), None):
        with pytest.raises(InputError, match=r"changes the buffer (queue|pointer) .*test_buffer_updates\.py:\d+"):
            prepared(Pointer(), example_inputs=inputs)
    with pytest.raises(InputError, match="changes the buffer"):
        hqc.explain(Pointer(), X, march="bayes", form="qat")
    with caplog.at_level(logging.WARNING):
        compiled = hqc.compile(Pointer(), X, march="bayes", calibration_data=[X])
    assert "forward changes the buffer" in caplog.text
    assert compiled.simulate(X).shape == (2, 4, 6, 6)


def test_an_update_says_its_line_once_and_costs_nothing_when_deployed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        compiled = hqc.compile(RunningMean(), X, march="bayes", calibration_data=[X])
    assert len([r for r in caplog.records if "forward changes the buffer mean" in r.getMessage()]) == 1
    assert "test_buffer_updates.py:" in caplog.text
    assert [row.op for row in compiled.placement.rows if row.op not in ("quantize", "dequantize")] == ["conv2d"]


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_the_same_with_and_without_example_inputs(kind: type[Net]) -> None:
    with_inputs = prepared(kind(), example_inputs=(X,))
    without = prepared(kind())
    without(X)
    assert list(with_inputs.state_dict()) == list(without.state_dict())
