"""Grid sampling: training, simulator and file sample at the same fixed-point coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hqc
from hqc import arithmetic, resampling
from hqc.march import March
from hqc.march.state import set_march
from hqc.nn import GridSample, QuantStub
from hqc.quantization import (
    FakeQuantState,
    convert_fx,
    get_default_qat_out_qconfig,
    get_default_qat_qconfig,
    prepare_qat_fx,
    set_fake_quantize,
)
from hqc.quantization.sampling import fixed_positions, sample_in_fixed_point
from hqc.utils.onnx_helper import export_to_onnx

WAYS = [
    (mode, padding, align) for mode in ("bilinear", "nearest") for padding in ("zeros", "border") for align in (False, True)
]
LARGE = (700, 1024)
"""An image whose coordinates have 4 fraction bits: rounding them moves results by several steps."""


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 1024), align=st.booleans(), seed=st.integers(0, 2**31))
def test_training_rounds_coordinates_as_the_arithmetic_does(size: int, align: bool, seed: int) -> None:
    grid = np.random.default_rng(seed).uniform(-1.5, 1.5, 50).astype(np.float32)
    bits = resampling.grid_fraction_bits(size, 1)
    assert bits == min(8, 15 - int(np.ceil(np.log2(size + 1))))
    fixed = resampling.grid_coordinates(grid, size, fraction_bits=bits, align_corners=align)
    found = fixed_positions(torch.from_numpy(grid), size, fraction_bits=bits, align_corners=align)
    np.testing.assert_array_equal(found.numpy() * 2.0**bits, fixed)
    if align and size == 1:
        return  # one pixel is everywhere
    ends = resampling.grid_coordinates([-1e9, 1e9], size, fraction_bits=bits, align_corners=align)
    assert (ends.astype(int) >> bits).tolist() == [-32768 >> bits, 32767 >> bits] and 32767 >> bits >= size  # beside the image


@pytest.mark.parametrize(("mode", "padding", "align"), WAYS)
def test_sampling_at_fixed_points_is_torchs_up_to_the_coordinates(mode: str, padding: str, align: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 9, 7, generator=generator, requires_grad=True)
    bits = resampling.grid_fraction_bits(9, 7)
    pixel = torch.randint(-400, 2600, (2, 5, 6, 2), generator=generator) / (1 << bits)  # float32 holds these coordinates
    size = torch.tensor([7.0, 9.0])
    grid = (2 * pixel / (size - 1) - 1 if align else (2 * pixel + 1) / size - 1).requires_grad_()
    found = sample_in_fixed_point(x, grid, mode, padding, align)
    expected = F.grid_sample(x, grid, mode, padding, align)
    off = (found - expected).detach().abs()
    assert (off < 1e-4).float().mean() > (0.99 if mode == "bilinear" else 0.95)  # halves of nearest go up here, to even there
    weights = torch.rand(found.shape, generator=generator)
    ours, theirs = (torch.autograd.grad((y * weights).sum(), (x, grid), allow_unused=True) for y in (found, expected))
    if mode == "bilinear":
        torch.testing.assert_close(ours[0], theirs[0], atol=1e-3, rtol=1e-3)
        beside = ((ours[1] - theirs[1]).abs() > 1e-2 * theirs[1].abs().max()).float().mean()
        assert beside < 0.05  # at whole pixels the two one-sided slopes differ


class Sampler(nn.Module):
    """A quantized image, sampled: on a grid that is computed, or on a constant one."""

    def __init__(self, way: tuple[str, str, bool], constant: torch.Tensor | None = None) -> None:
        super().__init__()
        self.quant, self.grid_quant = QuantStub(), QuantStub()
        self.sample = GridSample(*way)
        self.register_buffer("constant", constant)
        self.head = nn.Conv2d(2, 2, 1)

    def forward(self, image: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        positions = self.grid_quant(grid) if self.constant is None else self.constant
        return self.head(self.sample(self.quant(image), positions))


def prepared(model: Sampler, inputs: tuple[torch.Tensor, ...], march: March = March.BAYES) -> nn.Module:
    set_march(march)
    qconfig = {"": get_default_qat_qconfig(), "module_name": {"head": get_default_qat_out_qconfig()}}
    qat = prepare_qat_fx(model, qconfig, hybrid=True, example_inputs=inputs)
    qat.eval()
    set_fake_quantize(qat, FakeQuantState.CALIBRATION)
    qat(*inputs)
    set_fake_quantize(qat, FakeQuantState.VALIDATION)
    return qat


def inputs_of(size: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 2, *size, generator=generator), torch.rand(2, 6, 9, 2, generator=generator) * 2.4 - 1.2


CASES = [(way, constant, (12, 10)) for way in WAYS for constant in (False, True)]
CASES += [(way, False, LARGE) for way in WAYS if not way[2]]


@pytest.mark.parametrize(("way", "constant", "size"), CASES, ids=str)
def test_training_simulator_and_file_agree(
    way: tuple[str, str, bool], constant: bool, size: tuple[int, int], tmp_path: Path
) -> None:
    inputs = inputs_of(size)
    model = Sampler(way, inputs[1] if constant else None).eval()
    qat = prepared(model, inputs)
    plan = hqc.explain(model, inputs, march="bayes")
    assert plan.device_of("grid_sample") == "bpu"
    sampled: dict[str, torch.Tensor] = {}
    qat.get_submodule("head").register_forward_pre_hook(lambda module, args: sampled.update(value=args[0]))
    expected = qat(*inputs)
    step = float(qat.quant.activation_post_process.scale)
    bits = resampling.grid_fraction_bits(*size)
    grid = inputs[1].numpy()
    if not constant:
        grid = qat.grid_quant.activation_post_process(inputs[1]).numpy()
        assert qat.grid_quant.activation_post_process.dtype == "qint16"
    integers = arithmetic.quantize(inputs[0].numpy(), step).astype(np.int64)
    wanted = by_hand(integers, grid, way, bits)
    off = np.abs(np.round(sampled["value"].numpy() / step) - wanted)
    assert off.max() <= 1 and (off > 0).mean() < 0.01
    found = convert_fx(qat)(*inputs)
    assert float((found - expected).detach().abs().max()) <= 1.01 * step * float(model.head.weight.detach().abs().sum(1).max())
    export_to_onnx(qat, inputs, str(tmp_path / "net.onnx"))  # verified: the file is run and compared


def by_hand(x: np.ndarray, grid: np.ndarray, way: tuple[str, str, bool], bits: int) -> np.ndarray:
    """The sampling of integers, pixel by pixel, from the formulas of docs/arithmetic.md."""
    mode, padding, align = way
    n, c, h, w = x.shape
    one = 1 << bits
    result = np.zeros((n, c, *grid.shape[1:3]), np.int64)
    for image, i, j in np.ndindex(grid.shape[:3]):
        fixed = []
        for position, size in zip(grid[image, i, j].astype(np.float64), (w, h), strict=True):
            pixel = (position + 1) * (size - 1) / 2 if align else ((position + 1) * size - 1) / 2
            coordinate = int(np.floor(pixel * one + 0.5))
            fixed.append(min(max(coordinate, 0), (size - 1) * one) if padding == "border" else coordinate)
        if mode == "nearest":
            weights = {((fixed[1] + one // 2) // one, (fixed[0] + one // 2) // one): one * one}
        else:
            (column, across), (row, down) = (divmod(each, one) for each in fixed)
            weights = {(row, column): (one - down) * (one - across), (row, column + 1): (one - down) * across}
            weights |= {(row + 1, column): down * (one - across), (row + 1, column + 1): down * across}
        for (row, column), weight in weights.items():
            if 0 <= row < h and 0 <= column < w:
                result[image, :, i, j] += x[image, :, row, column] * weight
    return result // (one * one)


def test_gradients_reach_image_and_grid() -> None:
    image, grid = inputs_of((12, 10))
    qat = prepared(Sampler(("bilinear", "zeros", False)).eval(), (image, grid))
    grid.requires_grad_()
    image.requires_grad_()
    qat(image, grid).sum().backward()
    assert image.grad is not None and float(image.grad.abs().sum()) > 0
    assert grid.grad is not None and float(grid.grad.abs().sum()) > 0


def test_other_marches_sample_on_the_cpu_and_say_why() -> None:
    inputs = inputs_of((12, 10))
    model = Sampler(("bilinear", "zeros", False)).eval()
    for march in ("bernoulli", "bernoulli2"):
        text = str(hqc.explain(model, inputs, march=march))
        assert "GridSample runs on the CPU (onnx table" in text and "bayes and bayes-e run it" in text


@pytest.mark.parametrize("way", [("bicubic", "zeros", False), ("bilinear", "reflection", True)], ids=str)
def test_what_the_bpu_cannot_sample_runs_on_the_cpu(way: tuple[str, str, bool], tmp_path: Path) -> None:
    inputs = inputs_of((12, 10))
    compiled = hqc.compile(Sampler(way).eval(), inputs, march="bayes", calibration_data=[inputs])
    assert compiled.placement.device_of("grid_sample") == "cpu"
    compiled.export(tmp_path / "net.onnx")
