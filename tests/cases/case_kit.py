"""Whole ways of small programs: post-training quantization with every file, and quantized training with conversion and export."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import hqc
from hqc.march import March, set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
)
from hqc.utils.onnx_helper import export_to_onnx

FLAVOURS = ("horizon", "runnable", "qdq", "integer")


def arrays(structure: Any) -> list[np.ndarray]:
    """The tensors and arrays of an output structure; None and numbers are no tensors."""
    leaves = [leaf for leaf in pytree.tree_leaves(structure) if isinstance(leaf, (Tensor, np.ndarray))]
    return [leaf.detach().numpy() if isinstance(leaf, Tensor) else leaf for leaf in leaves]


def assert_close(got: Any, wanted: Any, cosine: float, far: float) -> None:
    """Same shapes; each output's cosine at least `cosine`, no element further off than `far` of the range."""
    for one, other in zip(arrays(got), arrays(wanted), strict=True):
        assert one.shape == other.shape
        a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
        assert a @ b >= cosine * np.linalg.norm(a) * np.linalg.norm(b)
        assert np.abs(a - b).max() <= far * np.abs(b).max()


def run_file(path: Path, inputs: Sequence[Tensor]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, {name: x.numpy() for name, x in zip(names, inputs, strict=True)})


def batches(inputs: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
    return [tuple(inputs), *(tuple(torch.rand_like(x) * 2 - 1 for x in inputs) for _ in range(3))]


def check_ptq(
    model: nn.Module, inputs: Sequence[Tensor], march: str, flavours: Sequence[str] = FLAVOURS, **arguments: Any
) -> Any:
    """Simulator, fake-quant model and files against the float model, which stays as it was."""
    model = model.eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        wanted = model(*inputs)
    compiled = hqc.compile(model, tuple(inputs), march=march, calibration_data=batches(inputs), **arguments)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    simulated, fake_quantized = compiled.simulate(*inputs), compiled.fake_quant(*inputs)
    assert_close(simulated, wanted, 0.98, 0.2)
    assert_close(fake_quantized, wanted, 0.98, 0.2)
    assert_close(simulated, fake_quantized, 0.99, 0.1)
    with tempfile.TemporaryDirectory() as folder:
        for flavour in flavours:
            path = Path(folder) / f"{flavour}.onnx"
            compiled.export(path, flavour=flavour)
            if flavour == "integer":
                for one, other in zip(run_file(path, inputs), arrays(simulated), strict=True):
                    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())
            elif flavour != "horizon":
                assert_close(run_file(path, inputs), arrays(fake_quantized), 0.99, 0.1)
    return compiled


class Stubbed(nn.Module):
    """`net` between stubs; `None` and numbers in its outputs stay."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.quant, self.dequant = net, QuantStub(), DeQuantStub()

    def forward(self, x: Tensor) -> Any:
        return pytree.tree_map(lambda t: self.dequant(t) if isinstance(t, (Tensor, fx.Proxy)) else t, self.net(self.quant(x)))


def check_qat(model: nn.Module, x: Tensor, march: str, *, shapes: bool = False) -> tuple[nn.Module, nn.Module]:
    """Calibrate, train, convert, export; returns the trained and the converted model."""
    set_march(March(march))
    stubbed = Stubbed(model).eval()
    with torch.no_grad():
        wanted = stubbed(x)
    given: dict[str, Any] = {"example_inputs": (x,)} if shapes else {}
    calibration = prepare_calibration_fx(stubbed, {"": get_default_calib_qconfig()}, hybrid=True, **given).eval()
    with torch.no_grad():
        for batch in batches([x]):
            calibration(*batch)
        assert_close(calibration(x), wanted, 0.999, 0.02)
    qat = prepare_qat_fx(calibration, {"": get_default_qat_qconfig()}, hybrid=True, **given).eval()
    with torch.no_grad():
        assert_close(qat(x), wanted, 0.97, 0.25)
    parameters = [parameter for parameter in qat.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.005)
    for _ in range(4):
        optimizer.zero_grad()
        outputs = [t for t in pytree.tree_leaves(qat(x)) if isinstance(t, Tensor)]
        targets = [t for t in pytree.tree_leaves(wanted) if isinstance(t, Tensor)]
        sum(((one - other) ** 2).mean() for one, other in zip(outputs, targets, strict=True)).backward()  # type: ignore[union-attr]
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in parameters)
        optimizer.step()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)
    with torch.no_grad():
        trained = qat.eval()(x)
    converted = convert_fx(qat)
    result = converted(x)
    assert_close(result, trained, 0.99, 0.1)
    assert_close(trained, wanted, 0.97, 0.25)
    with tempfile.TemporaryDirectory() as folder:
        export_to_onnx(qat, (x,), Path(folder) / "qat.onnx")
        export_to_onnx(converted, (x,), Path(folder) / "integer.onnx")
        for one, other in zip(run_file(Path(folder) / "integer.onnx", [x]), arrays(result), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    return qat, converted
