"""Recurrent layers of a file are the one operation that they are in torch: the same plan, the same numbers, and a file again."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_harness import run_lowered, session
from torch import Tensor, nn

import hqc
from hqc.frontend.onnx import lower_onnx


class Net(nn.Module):
    """A recurrent layer between a layer per frame and another."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, both: bool, batch_first: bool, moved: bool, states: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv1d(5, 6, 3, padding=1)
        self.inner = kind(6, 4, layers, bidirectional=both, batch_first=batch_first)
        self.fc = nn.Linear(8 if both else 4, 3)
        self.batch_first, self.moved, self.states = batch_first, moved, states

    def forward(self, x: Tensor) -> Any:
        x = torch.relu(self.conv(x))
        x = x.transpose(1, 2) if self.batch_first else x.permute(2, 0, 1)
        out, state = self.inner(x)
        out = self.fc(out)
        out = out.transpose(1, 2) if self.moved else out
        return (out, state[0] if isinstance(state, tuple) else state) if self.states else out


def exported(net: nn.Module, example: Tensor, opset: int) -> onnx.ModelProto:
    file = io.BytesIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (example,), file, opset_version=opset, dynamo=False)
    return onnx.load_from_string(file.getvalue())


def plan(model: Any, example: Any) -> Counter[tuple[str, str, str]]:
    graph = hqc.explain(model, example, march="bayes").graph
    return Counter((node.op.name, str(node.device), str(node.results[0].type)) for node in graph.nodes)


CASES: list[tuple[type[nn.RNNBase], int, bool, bool, bool, bool]] = [
    (nn.LSTM, 1, False, True, False, False), (nn.GRU, 2, True, True, True, False), (nn.RNN, 3, False, True, False, False),
    (nn.LSTM, 2, True, True, False, False), (nn.GRU, 1, True, False, True, False), (nn.LSTM, 1, False, True, True, True),
]  # fmt: skip


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case[0].__name__}-" + "".join("01"[bool(item)] for item in case[1:])
)
def test_layers_are_one_operation(case: Any) -> None:
    net, example = Net(*case).eval(), torch.randn(1, 5, 9, generator=torch.Generator().manual_seed(1))
    proto = exported(net, example, 11 if case[1] == 1 else 17)
    lowered = lower_onnx(proto)
    assert [node.op.name for node in lowered.graph.nodes].count("opaque") == 1
    name = proto.graph.input[0].name
    for got, want in zip(
        run_lowered(lowered, {name: example.numpy()}), session(proto).run(None, {name: example.numpy()}), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    if case[3]:  # without batch_first, the model's own permutes are read as its transposes
        assert plan(proto, None) == plan(net, example)


def test_a_joined_layer_is_simulated_and_written(tmp_path: Any) -> None:
    net, example = Net(nn.GRU, 2, True, True, False, False).eval(), torch.randn(1, 5, 9)
    proto = exported(net, example, 17)
    compiled = hqc.compile(proto, march="bayes", calibration_data=[example])
    wanted = net(example).detach().numpy()
    assert np.abs(np.asarray(compiled.simulate(example)) - wanted).max() <= 0.1 * np.abs(wanted).max()
    compiled.export(tmp_path / "net.onnx")
    written = onnx.load(str(tmp_path / "net.onnx"))
    assert [node.op_type for node in written.graph.node].count("GRU") == 2


def test_a_state_that_another_layer_needs_keeps_them_apart() -> None:
    """An encoder whose state starts the decoder: the second layer reads more than the first one's sequence."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.GRU(4, 4), nn.GRU(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out, state = self.first(x)
            return self.second(out, state)[0]

    net, example = Twice().eval(), torch.randn(5, 1, 4)
    proto = exported(net, example, 13)
    lowered = lower_onnx(proto)
    assert [node.op.name for node in lowered.graph.nodes].count("opaque") == 2
    name = proto.graph.input[0].name
    (got,), (want,) = run_lowered(lowered, {name: example.numpy()}), session(proto).run(None, {name: example.numpy()})
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
