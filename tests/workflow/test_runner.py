"""One runner: any structure of inputs and outputs, any batch size, a bounded number of programs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import hqc
from hqc.errors import InputError, ShapeError
from hqc.march import March
from hqc.march import state as march_state
from hqc.nn import QuantStub
from hqc.quantization import calibrate, convert_fx, get_default_qat_qconfig, prepare_qat_fx
from hqc.workflow import runner as runner_module
from hqc.workflow.deployment import PROGRAMS_KEPT

X = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


@dataclass
class Found:
    boxes: torch.Tensor
    scores: torch.Tensor
    masks: torch.Tensor | None = None


class Pair(NamedTuple):
    low: torch.Tensor
    high: torch.Tensor


Form = Callable[[torch.Tensor, torch.Tensor], Any]
FORMS: dict[str, Form] = {
    "one": lambda a, b: a,
    "tuple": lambda a, b: (a, b),
    "None": lambda a, b: (a, None),
    "numbers": lambda a, b: [a, 3, 0.5, "name", True],
    "sizes": lambda a, b: (a, a.shape[0], b.size(1)),
    "nested": lambda a, b: {"out": [a, (b, None)], "n": 7},
    "dataclass": lambda a, b: Found(a, scores=b),
    "nested dataclass": lambda a, b: {"found": Found(a, b, None), "rest": [b]},
    "named tuple": lambda a, b: Pair(a, b),
    "operation's own": lambda a, b: a.flatten(1).max(1),
    "twice": lambda a, b: (a, a),
}


class Net(nn.Module):
    def __init__(self, form: Form, stub: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.form = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), form
        self.stub = QuantStub() if stub else nn.Identity()

    def forward(self, x: torch.Tensor) -> Any:
        y = torch.relu(self.a(self.stub(x)))
        return self.form(self.b(y), y.mean((2, 3)))


def same(got: Any, want: Any) -> None:
    """Equal structure, types of containers included (an operation's own tuple may be a plain one), and near numbers."""
    if isinstance(want, torch.Tensor):
        assert tuple(got.shape) == tuple(want.shape)
        far = np.abs(np.asarray(got, np.float64) - want.detach().numpy()).max()
        assert want.dtype == torch.int64 or far < 0.05 * float(want.detach().abs().max()) + 1e-6
    elif hasattr(want, "__dataclass_fields__"):
        assert type(got) is type(want)
        same(vars(got), vars(want))
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            same(got[key], want[key])
    elif isinstance(want, (tuple, list)):
        assert isinstance(got, type(want) if hasattr(want, "_fields") or isinstance(want, list) else tuple)
        assert len(got) == len(want)
        for a, b in zip(got, want, strict=True):
            same(a, b)
    else:
        assert got == want and type(got) is type(want)


@pytest.mark.parametrize("form", FORMS)
def test_outputs_have_the_models_own_structure(form: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(march_state, "_current", March.BAYES)
    model = Net(FORMS[form]).eval()
    compiled = hqc.compile(model, X, march="bayes", calibration_data=[X])
    for batch in (1, 2):
        x = X.repeat(batch, 1, 1, 1)
        want = model(x)
        same(compiled.simulate(x), want)
        same(compiled.fake_quant(x), want)
    compiled.export(tmp_path / "net.onnx")
    prepared = prepare_qat_fx(Net(FORMS[form], stub=True).eval(), {"": get_default_qat_qconfig()}, hybrid=True)
    calibrate(prepared.eval(), [X])
    same(convert_fx(prepared)(X), model(X))


class Inputs(nn.Module):
    """Integers that index, a nested structure, an optional input, and an input without a batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.conv = nn.Embedding(10, 8), nn.Conv2d(3, 8, 1)

    def forward(self, pair: Any, ids: torch.Tensor, anchors: torch.Tensor, scale: float | None = None) -> torch.Tensor:
        y = self.conv(pair["image"]) + self.table(ids)[:, :, None, None]
        return y.flatten(2) * anchors.sum() + pair["rest"][0]


def test_inputs_of_any_structure_and_kind() -> None:
    model = Inputs().eval()

    def inputs(batch: int) -> tuple[Any, ...]:
        return (
            {"image": X.repeat(batch, 1, 1, 1), "rest": [torch.ones(1)]},
            torch.arange(batch) % 10,
            torch.rand(5, 4) * 0 + 0.05,
        )

    compiled = hqc.compile(model, inputs(1), march="bayes", calibration_data=[inputs(1), inputs(3)])
    for batch in (1, 3):
        same(compiled.simulate(*inputs(batch)), model(*inputs(batch)))
    pair, ids, anchors = inputs(1)
    same(
        compiled.simulate({"rest": pair["rest"], "image": pair["image"]}, ids.int(), anchors.double().numpy()),
        model(*inputs(1)),
    )
    same(compiled.simulate({"pair": pair, "ids": ids, "anchors": anchors}), model(*inputs(1)))
    wrong: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        ((pair, ids), InputError, r"takes 3 input\(s\) \(pair, ids, anchors\), got 2"),
        ((pair, ids.float(), anchors), InputError, "input ids takes int64, got float32"),
        (({"image": X}, ids, anchors), InputError, "input pair is a dict with image, rest; it lacks rest"),
        (({**pair, "rest": []}, ids, anchors), InputError, r"input pair\['rest'\] takes 1 entries, got 0"),
        ((pair, "ids", anchors), InputError, "input ids must be a tensor or an array, got str"),
        ((pair, ids, anchors[:, :3]), ShapeError, "only the batch may differ"),
    ]
    for args, kind, sentence in wrong:
        with pytest.raises(kind, match=sentence):
            compiled.simulate(*args)


class Attention(nn.Module):
    """A reshape that names sizes, the batch among them, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(b, n, 8)


def test_another_batch_size_where_a_reshape_names_sizes() -> None:
    model, x = Attention().eval(), torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(2))
    compiled = hqc.compile(model, x[:1], march="bayes", calibration_data=[x])
    same(compiled.simulate(x), model(x))
    rows = [compiled.simulate(x[i : i + 1]) for i in range(4)]
    assert np.abs(np.concatenate(rows) - compiled.simulate(x)).max() < 1e-6


def test_programs_are_kept_up_to_a_limit_and_copies_start_without_them(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = hqc.compile(Net(FORMS["one"]), X, march="bayes", calibration_data=[X])
    made = []
    build = runner_module.bpu.compile
    monkeypatch.setattr(runner_module.bpu, "compile", lambda *args, **kwargs: made.append(1) or build(*args, **kwargs))
    for batch in (1, 2, 1, 3, 2, 4, 5):
        compiled.simulate(X.repeat(batch, 1, 1, 1))
    assert len(made) == 5 and len(compiled.runner._cache) == PROGRAMS_KEPT
    compiled.simulate(X.repeat(5, 1, 1, 1))
    assert len(made) == 5
    compiled.simulate(X)
    assert len(made) == 6
    twin = copy.deepcopy(compiled.runner)
    assert not twin._cache and np.array_equal(twin.run((X,)), compiled.simulate(X))


def test_a_converted_model_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(march_state, "_current", March.BAYES)
    model = nn.Sequential(QuantStub(), nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=X)
    calibrate(prepared, [X])
    converted = convert_fx(prepared)
    want = converted(X)
    assert torch.equal(pickle.loads(pickle.dumps(converted))(X), want)
