"""Quantized training from one trained network in equal epochs: hqc, hqc with learned scales (LSQ), and torch's FX QAT as a peer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.accuracy.training import loss_of, task_of, train
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import (
    FakeQuantState,
    QConfig,
    get_default_lsq_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)

RATE = 5e-4
Trainer = Callable[[nn.Module, str, int, int], np.ndarray]
"""`(network, task, epochs, seed)` to the outputs of the trained fake-quantized network on the test inputs."""


class Stubbed(nn.Module):
    """A network between the stubs that quantized training asks for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.quant, self.network, self.dequant = QuantStub(), network, DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.dequant(self.network(self.quant(x)))
        return found


def _by_hqc(qconfig: QConfig) -> Trainer:
    def run(network: nn.Module, name: str, epochs: int, seed: int) -> np.ndarray:
        task = task_of(name)
        set_march("bayes")
        model = prepare_qat_fx(
            Stubbed(copy.deepcopy(network)), {"": qconfig}, hybrid=True, example_inputs=(task.calibration[0],)
        )
        set_fake_quantize(model.eval(), FakeQuantState.CALIBRATION)
        outputs_of(model, torch.cat(task.calibration))
        set_fake_quantize(model, FakeQuantState.QAT)
        train(model, name, epochs=epochs, rate=RATE, seed=seed)
        set_fake_quantize(model, FakeQuantState.VALIDATION)
        return outputs_of(model, task.test)

    return run


def by_torch(network: nn.Module, name: str, epochs: int, seed: int) -> np.ndarray:
    """torch's FX QAT with the same grids: symmetric int8, activations per tensor by moving average, weights per channel.

    The back end is the one whose tables have symmetric int8 activations; others leave the network in float without an error.
    """
    from torch.ao.quantization import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        QConfigMapping,
        disable_observer,
    )
    from torch.ao.quantization import QConfig as TorchQConfig
    from torch.ao.quantization.backend_config import get_qnnpack_backend_config
    from torch.ao.quantization.quantize_fx import prepare_qat_fx as prepare

    activation = FakeQuantize.with_args(
        observer=MovingAverageMinMaxObserver, quant_min=-128, quant_max=127, dtype=torch.qint8,
        qscheme=torch.per_tensor_symmetric, eps=2**-12,
    )  # fmt: skip
    weight = FakeQuantize.with_args(
        observer=MovingAveragePerChannelMinMaxObserver, quant_min=-127, quant_max=127, dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric, ch_axis=0, eps=2**-12,
    )  # fmt: skip
    task = task_of(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mapping = QConfigMapping().set_global(TorchQConfig(activation, weight))
        model = prepare(
            copy.deepcopy(network).train(), mapping, (task.calibration[0],), backend_config=get_qnnpack_backend_config()
        )
    model.eval()
    outputs_of(model, torch.cat(task.calibration))  # observers watch in eval mode too
    layers = sum(isinstance(module, (nn.Conv2d, nn.Linear)) for module in network.modules())
    quantized = sum(isinstance(module, FakeQuantize) for module in model.modules())
    if quantized < 2 * layers:
        raise RuntimeError(f"torch quantized {quantized} tensors of a network of {layers} layers")
    train(model, name, epochs=epochs, rate=RATE, seed=seed)
    model.apply(disable_observer)
    return outputs_of(model, task.test)


TRAINERS: dict[str, Trainer] = {
    "torch FX QAT": by_torch,
    "hqc QAT": _by_hqc(get_default_qat_qconfig()),
    "hqc LSQ": _by_hqc(get_default_lsq_qconfig()),
}


def outputs_of(model: nn.Module, inputs: Tensor) -> np.ndarray:
    """On `inputs`, in batches of 64."""
    with torch.no_grad():
        return np.concatenate([model(x).numpy() for x in inputs.split(64)])


def loss(name: str, outputs: np.ndarray) -> float:
    """Of the task, on the test inputs."""
    return float(loss_of(name, torch.from_numpy(outputs), task_of(name).labels))
