"""The whole way of a network: explain, compile, simulate, four flavours in onnxruntime; calibrate, a QAT step, convert, export."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import hqc
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    convert_fx,
    get_default_calib_qconfig,
    get_default_qat_qconfig,
    prepare_calibration_fx,
    prepare_qat_fx,
)
from hqc.utils.onnx_helper import export_to_onnx

from .registry import ZooEntry

FLAVOURS = ("horizon", "runnable", "qdq", "integer")
MARCHES = ("bernoulli2", "bayes")


class WayError(Exception):
    """What a step gave is wrong: too far from what it stands for."""


@dataclass
class Report:
    """Seconds per step that went well, the step that did not, and what it said."""

    name: str
    march: str
    seconds: dict[str, float] = field(default_factory=dict)
    failed: str = ""
    message: str = ""
    cosine: float = float("nan")  # of simulator and float model, the worst output

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self.failed = name
        yield
        self.seconds[name] = time.perf_counter() - start
        self.failed = ""


class Stubbed(nn.Module):
    """The network with a QuantStub per input of reals and a DeQuantStub behind every output, as a user adds them."""

    def __init__(self, network: nn.Module, reals: tuple[bool, ...]) -> None:
        super().__init__()
        self.network = network
        self.quant = nn.ModuleList(QuantStub() if real else nn.Identity() for real in reals)
        self.dequant = DeQuantStub()

    def forward(self, *inputs: Tensor) -> Any:
        outputs = self.network(*(quant(item) for quant, item in zip(self.quant, inputs)))  # noqa: B905
        return pytree.tree_map(self.dequant, outputs)


class Stubbed1(Stubbed):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]
        return self._leave(self.network(self.quant[0](x)))

    def _leave(self, outputs: Any) -> Any:
        if isinstance(outputs, dict):
            return {key: self.dequant(value) for key, value in outputs.items()}
        return tuple(map(self.dequant, outputs)) if isinstance(outputs, tuple) else self.dequant(outputs)


class Stubbed2(Stubbed1):
    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]
        return self._leave(self.network(self.quant[0](x), self.quant[1](y)))


def walk(entry: ZooEntry, march: str, folder: Path, *, raises: bool = False, device: str = "cpu") -> Report:
    """Take the network the whole way on one march, its parameters and inputs on `device`. `raises`: let the first error pass."""
    report = Report(entry.name, march)
    try:
        _post_training(entry, march, folder, report, device)
        _quantization_aware(entry, march, folder, report, device)
    except Exception as error:
        if raises:
            raise
        report.message = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return report


def _inputs(entry: ZooEntry, seed: int, device: str) -> tuple[Tensor, ...]:
    return tuple(item.to(device) for item in entry.inputs(seed))


def _post_training(entry: ZooEntry, march: str, folder: Path, report: Report, device: str) -> None:
    network, inputs = entry.build().to(device), _inputs(entry, 1, device)
    calibration = [inputs, *(_inputs(entry, seed, device) for seed in (2, 3))]
    with torch.no_grad():
        expected = network(*inputs)
    with report.step("explain"):
        if not hqc.explain(network, inputs, march=march).placement.rows:
            raise WayError("explain shows no operation")
    with report.step("compile"):
        compiled = hqc.compile(network, inputs, march=march, calibration_data=calibration)
    with report.step("simulate"):
        simulated, seen = compiled.simulate(*inputs), compiled.fake_quant(*inputs)
        _close(entry, seen, expected, 0.85, "fake-quantized and float model")
        _close(entry, simulated, seen, entry.likeness, "simulator and fake-quantized model")
        report.cosine = min(_cosines(entry, simulated, expected), default=1.0)
    for flavour in FLAVOURS:
        with report.step(flavour):
            path = folder / f"{flavour}.onnx"
            if not compiled.export(path, flavour=flavour).executed:
                raise WayError("the file was not executed")
            if flavour == "integer":
                for got, wanted in zip(_run(path, inputs), _leaves(simulated), strict=True):
                    if not np.allclose(got, wanted, rtol=1e-4, atol=1e-5 * (1 + np.abs(wanted).max())):
                        raise WayError("the integer file differs from the simulator")


def _quantization_aware(entry: ZooEntry, march: str, folder: Path, report: Report, device: str) -> None:
    network, inputs = entry.build().to(device), _inputs(entry, 1, device)
    with torch.no_grad():
        expected = network(*inputs)
    stubbed = (Stubbed1 if len(inputs) == 1 else Stubbed2)(network, tuple(item.is_floating_point() for item in inputs)).eval()
    set_march(march)
    with report.step("calibrate"):
        calibrated = prepare_calibration_fx(stubbed, {"": get_default_calib_qconfig()}, hybrid=True, example_inputs=inputs)
        calibrated.eval()
        with torch.no_grad():
            for seed in (1, 2):
                outputs = calibrated(*_inputs(entry, seed, device))
            _close(entry, calibrated(*inputs), expected, 0.999, "calibration and float model")
    with report.step("qat"):
        trained = prepare_qat_fx(calibrated, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=inputs)
        trained.train()
        optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1e-4)
        outputs = _leaves(trained(*inputs))
        loss = sum((item.float() ** 2).mean() for item in outputs if item.requires_grad)
        assert isinstance(loss, Tensor), "no output depends on a parameter"
        loss.backward()
        optimizer.step()
        trained.eval()
        with torch.no_grad():
            seen = trained(*inputs)
    with report.step("convert"):
        converted = convert_fx(trained)
        _close(entry, converted(*inputs), seen, min(0.97, entry.likeness), "converted and QAT model")
    with report.step("export"):
        export_to_onnx(trained, inputs, folder / "qat.onnx")
        export_to_onnx(converted, inputs, folder / "converted.onnx")


def _run(path: Path, inputs: tuple[Tensor, ...]) -> list[Any]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {info.name: item.cpu().numpy() for info, item in zip(session.get_inputs(), inputs, strict=True)})


def _leaves(structure: Any) -> list[Any]:
    return [leaf for leaf in pytree.tree_leaves(structure) if leaf is not None]


def _cosines(entry: ZooEntry, got: Any, wanted: Any) -> list[float]:
    """Of outputs of reals that hang on no choice; integers are positions, which may turn over too."""
    found = []
    for position, (one, other) in enumerate(zip(_leaves(got), _leaves(wanted), strict=True)):
        a, b = (np.asarray(item.detach().cpu() if isinstance(item, Tensor) else item) for item in (one, other))
        if a.shape != b.shape:
            raise WayError(f"shape {list(a.shape)} where {list(b.shape)} was expected")
        if a.dtype.kind == "f" and position not in entry.chosen:
            a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
            norms = np.linalg.norm(a) * np.linalg.norm(b)
            found.append(1.0 if norms == 0 and np.array_equal(a, b) else float(a @ b / max(norms, 1e-30)))
    return found


def _close(entry: ZooEntry, got: Any, wanted: Any, least: float, what: str) -> None:
    worst = min(_cosines(entry, got, wanted), default=1.0)
    if not worst >= least:
        raise WayError(f"{what} differ: cosine {worst:.4f}, at least {least} expected")


@contextmanager
def quiet() -> Iterator[None]:
    """hqc's warnings about unequal scales and the like are expected with random weights."""
    logger = logging.getLogger("hqc")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
