"""Fake quantization of results that keep their operand's scale but fall between its grid points (section 8 of the arithmetic)."""

from __future__ import annotations

from torch import Tensor, nn

from hqc.quantization.fake_quantize import FakeQuantizeBase
from hqc.quantization.torch_arithmetic import fake_quantize_off_grid


class OffGridFakeQuantize(nn.Module):
    """Puts a bilinear resize's or `bernoulli` average pool's result back on the grid of its operand, as the kernel does.

    `source`: the fake quant of the operand, which this module follows (scale, and whether it quantizes) and does not own.
    `gain`: what the kernel's multiplier makes of an average (window size x g / 512 on `bernoulli`).
    """

    _hqc_leaf = True

    def __init__(self, source: FakeQuantizeBase, gain: float = 1.0) -> None:
        super().__init__()
        self._source = [source]  # in a list: it has its place in the module tree already
        self.gain = gain

    @property
    def source(self) -> FakeQuantizeBase:
        return self._source[0]

    def forward(self, x: Tensor) -> Tensor:
        if not self.source.quantizes:
            return x
        scale = self.source.calculate_qparams()[0].detach()
        return fake_quantize_off_grid(x if self.gain == 1.0 else x * self.gain, scale, self.source.bits)

    def extra_repr(self) -> str:
        text = f"source={self.source.name}"
        return text if self.gain == 1.0 else f"{text}, gain={self.gain:g}"
