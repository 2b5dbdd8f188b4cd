"""QAT in loops that are not ours: the recipes of docs/qat.md, run as printed where accelerate and Lightning are installed."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hqc.march import set_march
from hqc.quantization import FakeQuantState, convert_fx, fake_quantize_state, prepare_qat_fx
from hqc.quantization.fake_quantize import fake_quants
from hqc.utils.onnx_helper import export_to_onnx

PAGE = Path(__file__).parents[2] / "docs" / "qat.md"
EPOCHS = 3
WORLD = 2


class Net(nn.Module):
    """conv-bn-relu, a selu on the CPU, a residual addition, one number per class."""

    def __init__(self) -> None:
        super().__init__()
        from hqc.nn import DeQuantStub, QuantStub

        self.quant, self.dequant = QuantStub(), DeQuantStub()
        self.conv, self.norm, self.selu = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SELU()
        self.conv2, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.selu(torch.relu(self.norm(self.conv(self.quant(x)))))
        return self.dequant(self.head(self.conv2(x) + x)).flatten(1)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes that differ by where they are bright."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(192) % 3
    images = torch.randn(192, 1, 6, 6, generator=generator) * 0.1
    images[torch.arange(192), 0, labels * 2] += 1
    return images, labels


def recipe(*kinds: str) -> dict[str, Any]:
    """What the blocks of these kinds define, in the order of the page."""
    names: dict[str, Any] = {"__name__": "recipe", "torch": torch, "nn": nn}
    for language, code in re.findall(r"^```([^\n]*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        if language in [f"python {kind}" for kind in kinds]:
            exec(compile(code, f"{PAGE.name}#{language}", "exec"), names)
    return names


def model(steps: int = 40) -> nn.Module:
    """Trained as a float model, which is what QAT begins with."""
    torch.manual_seed(0)
    set_march("bayes")
    net, (images, labels) = Net(), data()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net


def scales(trained: nn.Module) -> dict[str, torch.Tensor]:
    return {name: quant.calculate_qparams()[0].detach().clone() for name, quant in fake_quants(trained)}


def judged(trained: nn.Module, file: Path) -> None:
    """Trained, frozen, saved whole, and ready to convert and export."""
    images, labels = data()
    assert not trained.training and fake_quantize_state(trained) is FakeQuantState.VALIDATION
    with torch.no_grad():
        expected = trained(images)
    assert (expected.argmax(1) == labels).float().mean() > 0.6
    qconfig = {"": recipe("loops")["get_default_qat_qconfig"]()}
    again = prepare_qat_fx(model(steps=0), qconfig, hybrid=True, example_inputs=images[:1], keep_batch_norm=True).eval()
    again.load_state_dict(torch.load(file, weights_only=True))
    assert fake_quantize_state(again) is FakeQuantState.VALIDATION
    with torch.no_grad():
        assert torch.equal(again(images), expected)
        assert (convert_fx(again)(images).argmax(1) == labels).float().mean() > 0.6
    export_to_onnx(again, images[:1], file.with_suffix(".onnx"))


def test_the_schedule_finds_ranges_then_trains_then_freezes() -> None:
    names = recipe("loops")
    qat_model = names["prepared"](model(), data()[0])
    calibrated = scales(qat_model)
    norms = [module for module in qat_model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    names["enter_epoch"](qat_model, 0, 1)
    assert fake_quantize_state(qat_model) is FakeQuantState.QAT and all(norm.training for norm in norms)
    qat_model(data()[0] * 3)
    moved = scales(qat_model)
    assert any(not torch.equal(moved[name], scale) for name, scale in calibrated.items())
    names["enter_epoch"](qat_model, 1, 1)
    assert qat_model.training and not any(norm.training for norm in norms)
    means = [norm.running_mean.clone() for norm in norms]
    qat_model(data()[0] * 9).sum().backward()
    assert all(torch.equal(moved[name], scale) for name, scale in scales(qat_model).items())
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, means, strict=True))
    assert all(parameter.grad is not None for parameter in qat_model.parameters())


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed")
def test_accelerate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trained = recipe("loops", "accelerate")["train_with_accelerate"](model(), *data(), epochs=EPOCHS)
    judged(trained, tmp_path / "accelerated.pt")


def in_process(folder: str) -> None:
    """What `accelerate launch` runs on each rank."""
    import os

    os.chdir(folder)
    torch.set_num_threads(1)
    trained = recipe("loops", "accelerate")["train_with_accelerate"](model(), *data(), epochs=EPOCHS)
    torch.save(scales(trained), f"scales{torch.distributed.get_rank()}.pt")


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="accelerate is not installed")
@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_accelerate_over_two_processes(tmp_path: Path) -> None:
    from accelerate import debug_launcher

    debug_launcher(in_process, (str(tmp_path),), num_processes=WORLD)  # ranks meet in a file
    found = [torch.load(tmp_path / f"scales{rank}.pt", weights_only=True) for rank in range(WORLD)]
    assert found[0].keys() == found[1].keys() and all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert (tmp_path / "accelerated.pt").is_file()


@pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")
def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    quiet = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trained = recipe("loops", "lightning")["train_with_lightning"](model(), *data(), epochs=EPOCHS, **quiet)
    judged(trained, tmp_path / "lightning.pt")
