"""Complex steps as pairs of real ones: Fourier transforms, spectrograms, rotations; what has no real form is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import hqc
from hqc.errors import TraceError
from hqc.frontend.fx import trace
from hqc.march import set_march
from hqc.nn import DeQuantStub, QuantStub
from hqc.quantization import get_default_qat_qconfig, prepare_qat_fx
from hqc.structures import leaves

_T = torch.Tensor
_GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(2, 3, 8, 8, generator=_GENERATOR)
ODD = torch.randn(2, 7, 5, generator=_GENERATOR)
SOUND = torch.randn(2, 400, generator=_GENERATOR)
HANN = torch.hann_window(64)
WEIGHT = torch.randn(8, 5, 2, generator=_GENERATOR)


def real_and_imaginary(spectrum: Any) -> Any:
    return torch.cat([spectrum.real, spectrum.imag], 1)


def fourier_unit(x: _T) -> _T:
    """As in networks that convolve spectra."""
    found = torch.fft.rfftn(x, dim=(-2, -1), norm="ortho")
    stacked = torch.stack((found.real, found.imag), -1).permute(0, 1, 4, 2, 3).contiguous()
    flat = stacked.view((x.shape[0], -1, *stacked.size()[3:])).relu()
    back = flat.view((x.shape[0], -1, 2, *flat.size()[2:])).permute(0, 1, 3, 4, 2).contiguous()
    return torch.fft.irfftn(torch.complex(back[..., 0], back[..., 1]), s=x.shape[-2:], dim=(-2, -1), norm="ortho")


def global_filter(x: _T) -> _T:
    return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(WEIGHT), s=(8, 8), norm="ortho")


def rotary(x: _T) -> _T:
    turns = torch.polar(torch.ones(8, 4), torch.arange(32.0).view(8, 4))
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(3).type_as(x)


def rotary_of_a_length(x: _T) -> _T:
    table = torch.polar(torch.ones(9, 4), torch.arange(36.0).view(9, 4))
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    shape = [size if axis in (2, pairs.ndim - 1) else 1 for axis, size in enumerate(pairs.shape)]
    return torch.view_as_real(pairs * table[: x.shape[2]].view(*shape)).flatten(3).type_as(x)


def arithmetic(x: _T) -> _T:
    z = torch.complex(x, x.flip(-1))
    w = (z * (1 + 2j) - z.conj() / torch.complex(x.abs() + 1, x) + 1) * x
    w = torch.cat([w, -w], 1)[:, 1:4].transpose(1, 2).unsqueeze(0).mean(-1)
    if not w.is_complex() or not isinstance(w, torch.Tensor) or w.dtype != torch.complex64:
        raise TypeError
    return torch.view_as_real(w) + w.abs().unsqueeze(-1)


def mixed_channels(x: _T) -> _T:
    z = torch.fft.fft(x, dim=1)
    weight = torch.complex(torch.ones(3, 4), torch.arange(12.0).view(3, 4))
    return torch.view_as_real(torch.einsum("bchw,cd->bdhw", z, weight)) + torch.view_as_real(z @ z).sum(1, keepdim=True)


def round_trip(sound: _T) -> _T:
    spectrum = torch.stft(sound, 64, 16, window=HANN, return_complex=True)
    return torch.istft(spectrum * 2, 64, 16, window=HANN, length=390)


def filled_spectrum(x: _T) -> _T:
    """A filter that keeps low frequencies, written into a canvas of zeros."""
    found = torch.fft.rfft2(x)
    kept = torch.zeros(2, 3, x.shape[-2], 5, dtype=torch.cfloat)
    kept[:, :, :3, :2] = found[:, :, :3, :2] * (0.5 - 1j)
    kept[:, :, -2:, 2] = 1.0
    same = torch.zeros_like(found)
    same[..., :4] = found[..., :4]
    return torch.fft.irfft2(kept, s=(8, 8)) + torch.fft.irfft2(same)


def beside_real_numbers(x: _T) -> _T:
    """Real tensors and constants that meet complex ones."""
    turns = torch.polar(torch.ones(8), torch.arange(8.0))
    z = x * turns + (x + 1).to(torch.cfloat)
    z = torch.cat([z, x, z.new_zeros(2, 1, 8, 8)], 1)
    z = torch.where(z.real > 0, z, 1j) + z.where(z.imag < 1, torch.tensor(0.5))
    z = z / (2 + 1j) + 1 / (z + (4 + 1j)) + z.reciprocal()
    mixed = x.mean() * (z @ turns.view(8, 1)) - x[..., :1].mean(1, keepdim=True)
    return torch.cat([torch.view_as_real(mixed).flatten(2), torch.fft.irfft(z.abs())[..., :4].flatten(2)], 2)


def padded_bands(x: _T) -> _T:
    """Bands that a network left out are put back as zeros, and the constant one filtered."""
    z = F.pad(torch.fft.rfft(x), (0, 0, 1, 2))
    z = F.pad(z, (1, 0), "constant", 2.0).index_fill(2, torch.tensor(0), 0.5 - 1j)
    z = F.pad(z, (1, 1, 0, 0), mode="replicate").masked_fill(x[:, :, :1, :1] > 0.5, 0.0)
    return torch.view_as_real(z)


class FourierLayer(nn.Module):
    """As in neural operators: a complex weight for each of the low frequencies."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.low = nn.Parameter(torch.randn(3, 4, 3, 3, dtype=torch.cfloat, generator=generator))
        self.high = nn.Parameter(torch.randn(3, 4, 3, 3, dtype=torch.cfloat, generator=generator))
        self.beside = nn.Conv2d(3, 4, 1)

    def forward(self, x: _T) -> _T:
        found = torch.fft.rfft2(x)
        kept = torch.zeros(x.shape[0], 4, x.size(-2), x.size(-1) // 2 + 1, dtype=torch.cfloat, device=x.device)
        kept[:, :, :3, :3] = torch.einsum("bixy,ioxy->boxy", found[:, :, :3, :3], self.low)
        kept[:, :, -3:, :3] = torch.einsum("bixy,ioxy->boxy", found[:, :, -3:, :3], self.high)
        return torch.fft.irfft2(kept, s=(x.size(-2), x.size(-1))) + self.beside(x)


CASES: dict[str, tuple[Callable[[Any], Any], _T]] = {
    "spectrogram": (lambda a: torch.stft(a, 64, 16, window=HANN, return_complex=True).abs(), SOUND),
    "power": (lambda a: torch.stft(a, 64, window=HANN, return_complex=True).abs().pow(2).clamp(min=1e-5).log(), SOUND),
    "method": (lambda a: a.stft(48, 20, 32, return_complex=True).abs(), SOUND),
    "short window": (lambda a: real_and_imaginary(torch.stft(a, 64, 16, 40, torch.hann_window(40), return_complex=True)), SOUND),
    "one signal": (lambda a: torch.view_as_real(torch.stft(a[0], 64, 16, window=HANN, center=False, return_complex=True)), SOUND),
    "two-sided": (lambda a: torch.stft(a, 16, onesided=False, normalized=True, return_complex=True).abs(), SOUND),
    "back": (round_trip, SOUND),
    "rfft": (lambda a: real_and_imaginary(torch.fft.rfft(a, norm="ortho")), SOUND),
    "rfft of a larger size": (lambda x: torch.fft.rfft(x, n=9, dim=1).abs(), ODD),
    "rfft of a smaller size": (lambda x: torch.fft.rfft(x, n=4, dim=-1).abs(), ODD),
    "fft2": (lambda x: torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1)).abs(), ODD),
    "mixing by two transforms": (lambda x: torch.fft.fft(torch.fft.fft(x, dim=-1), dim=-2).real, ODD),
    "inverse": (lambda x: torch.fft.ifftn(torch.fft.fftn(x, dim=(1, 2)), dim=(1, 2), norm="forward").real, ODD),
    "odd inverse": (lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), n=7, dim=1) + torch.fft.irfft2(torch.fft.rfft2(x), s=(7, 5)), ODD),
    "angle": (lambda x: torch.fft.rfft(x).angle(), IMAGES),
    "fourier unit": (fourier_unit, IMAGES),
    "global filter": (global_filter, IMAGES),
    "rotary": (rotary, IMAGES),
    "rotary of a length": (rotary_of_a_length, IMAGES),
    "arithmetic": (arithmetic, IMAGES),
    "mixed channels": (mixed_channels, IMAGES),
    "phases": (lambda x: torch.view_as_real(x.abs() * torch.exp(1j * x)), IMAGES),
    "spectrum of two rows": (lambda x: torch.fft.irfft(x.exp() * (x.cos() + 1j * x.sin()), n=9, dim=1), ODD),
    "filled spectrum": (filled_spectrum, IMAGES),
    "beside real numbers": (beside_real_numbers, IMAGES),
    "padded bands": (padded_bands, IMAGES),
}  # fmt: skip


class Model(nn.Module):
    def __init__(self, step: Callable[[Any], Any]) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: _T) -> Any:
        return self.step(x * 1.0)


@pytest.mark.parametrize("name", CASES)
def test_real_parts_compute_what_complex_numbers_do(name: str) -> None:
    step, x = CASES[name]
    model = Model(step).eval()
    expected = model(x)
    got = trace(model, x)(x)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=1e-3)


@pytest.mark.parametrize(
    "name", ["spectrogram", "back", "angle", "fourier unit", "rotary", "mixed channels", "filled spectrum"]
)
def test_spectra_go_the_whole_way(name: str, tmp_path: Any) -> None:
    step, x = CASES[name]
    model = Model(step).eval()
    compiled = hqc.compile(model, x, march="bayes", calibration_data=[x])
    expected = model(x)
    simulated = torch.as_tensor(next(leaves(compiled.simulate(x))))
    assert (simulated - expected).norm() < 0.1 * expected.norm()
    compiled.export(tmp_path / "model.onnx")  # checked in onnxruntime


def test_complex_weights_are_computed_with_and_trained(tmp_path: Any) -> None:
    model = FourierLayer().eval()
    compiled = hqc.compile(model, IMAGES, march="bayes", calibration_data=[IMAGES])
    expected = model(IMAGES)
    simulated = torch.as_tensor(next(leaves(compiled.simulate(IMAGES))))
    assert (simulated - expected).norm() < 0.05 * expected.norm()
    compiled.export(tmp_path / "model.onnx")  # checked in onnxruntime
    set_march("bayes")
    stubbed = nn.Sequential(QuantStub(), model, DeQuantStub())
    prepared = prepare_qat_fx(stubbed, {"": get_default_qat_qconfig()}, hybrid=True, example_inputs=(IMAGES,))
    prepared(IMAGES).square().mean().backward()
    gradients = {name: each.grad for name, each in prepared.named_parameters()}
    assert gradients.keys() >= {"1.low", "1.high"}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in gradients.values())


def test_gradients_pass_silence() -> None:
    x = torch.zeros(1, 64, requires_grad=True)
    trace(Model(CASES["spectrogram"][0]), x.detach())(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda x: torch.fft.fft(x).sqrt().real,
            r"^test_complex\.py:\d+: sqrt of a complex tensor has no real form that hqc knows",
        ),
        (lambda x: torch.fft.fft(x) ** 3, "a power of 3 of a complex tensor"),
        (lambda x: torch.fft.fft(x), "forward returns a complex tensor"),
        (lambda x: torch.nn.functional.linear(torch.fft.fft(x), torch.ones(8, 8)).real, "linear of a complex tensor"),
    ],
)
def test_steps_without_a_real_form_are_refused_by_name(step: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(TraceError, match=message):
        trace(Model(step), IMAGES)
