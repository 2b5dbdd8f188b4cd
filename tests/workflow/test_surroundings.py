"""What a user's program has switched on around a call changes no result."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

import hqc
from hqc.quantization import calibrate, get_default_qat_qconfig, prepare_qat_fx


@contextlib.contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


AROUND: dict[str, Callable[[], Any]] = {
    "inference mode": torch.inference_mode,
    "meta device": lambda: torch.device("meta"),
    "bfloat16": lambda: _default_dtype(torch.bfloat16),
    "float64": lambda: _default_dtype(torch.float64),
    "anomaly": torch.autograd.detect_anomaly,
}


def model_and_input() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(hqc.nn.QuantStub(), nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), torch.rand(1, 3, 6, 6)


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_compile_prepare_and_explain_do_the_same(around: str) -> None:
    model, x = model_and_input()
    expected = hqc.compile(model, x, march="bayes", calibration_data=[x])
    text = expected.simulate(x).tobytes(), str(hqc.explain(model, x, march="bayes"))
    hqc.set_march("bayes")
    with AROUND[around]():
        compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
        assert (compiled.simulate(x).tobytes(), str(hqc.explain(model, x, march="bayes"))) == text
        prepared = prepare_qat_fx(model, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=x)
        calibrate(prepared, [x])
    prepared.train()
    prepared(x).sum().backward()
    assert all(parameter.grad is not None and parameter.dtype is torch.float32 for parameter in prepared.parameters())
    assert torch.equal(prepared.eval()(x), prepared(x))


def test_an_explanation_and_a_march_travel() -> None:
    model, x = model_and_input()
    explanation = hqc.explain(model, x, march="bayes")
    assert str(pickle.loads(pickle.dumps(explanation))) == str(explanation)
    spec = hqc.march.get_spec("bayes-e")
    assert pickle.loads(pickle.dumps(spec)) is spec
