"""Cost of one fake-quantized training step of ResNet-18, beside the float step and torch's own FX QAT.

    python -m benchmarks.bench_qat_step [--steps 7] [--batch 8] [--size 64] [--device cuda]

Steps are interleaved, so that all three see the same machine; medians and their ratios to the float step are printed.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.models.resnet import resnet18
from hqc.nn import QuantStub
from hqc.quantization import get_default_qat_qconfig
from hqc.workflow.options import CompileOptions
from hqc.workflow.prepare import prepare


class Stubbed(nn.Module):
    """A network behind a QuantStub, as users write it."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.quant = QuantStub()
        self.body = body

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.body(self.quant(image))


def step_of(model: nn.Module, data: torch.Tensor) -> Callable[[], None]:
    """One optimizer step on fixed data, done when it returns."""
    model.to(data.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    labels = torch.arange(len(data), device=data.device) % 1000

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), labels).backward()
        optimizer.step()
        if data.is_cuda:
            torch.cuda.synchronize()

    return step


def torch_qat(model: nn.Module, example: torch.Tensor) -> nn.Module | None:
    """torch's FX graph mode QAT of the same network; None where this torch no longer has it."""
    try:
        from torch.ao.quantization import get_default_qat_qconfig_mapping
        from torch.ao.quantization.quantize_fx import prepare_qat_fx
    except ImportError:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return prepare_qat_fx(copy.deepcopy(model).train(), get_default_qat_qconfig_mapping("x86"), (example,))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    count = options.steps
    data = torch.rand((options.batch, 3, options.size, options.size), generator=torch.Generator().manual_seed(0))
    network = resnet18()
    ours = prepare(
        Stubbed(copy.deepcopy(network)),
        CompileOptions("bayes", form="qat", qconfig={"": get_default_qat_qconfig()}),
        data,
    )
    peer = torch_qat(network, data)
    data = data.to(options.device)
    steps = {"float32": step_of(copy.deepcopy(network), data), "hqc QAT": step_of(ours, data)}
    if peer is not None:
        steps["torch FX QAT"] = step_of(peer, data)
    times: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(count + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if index:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    base = statistics.median(times["float32"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:13s} {median * 1e3:8.1f} ms/step   {median / base:5.2f}x float32")


if __name__ == "__main__":
    main()
